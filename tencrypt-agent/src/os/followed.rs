//! Files that may change while the program runs, and the moments at which they are to be read again.
//!
//! One rule for all of them. A file is read again when its stamp is another one, and for a while after it was first
//! seen with that one: a second write in place within one tick of the file's clock leaves the stamp as it was. The stamp
//! is taken before the file is read, so that a change while it is read shows afterwards. Links are followed, so that a Kubernetes volume, whose `..data`
//! link is exchanged, shows too. [`Changes`] says when to look: at any event in the directories of the files, and by
//! the clock.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::statfs;
use tokio::net::unix::pipe::Receiver;

use crate::os::{
    clock::{Clock, SECOND},
    files::{self, Stamp},
    sys,
};

/// Interval at which files are looked at whose changes give no event, such as those behind a link to another directory, and
/// on a network file system. Documentation promises that a revocation or a new key takes effect within a second, the work of
/// the lanes included.
const UNTOLD: Duration = Duration::from_millis(250);

/// Interval for the others: an event may be missed all the same where a directory is exchanged for another one.
const TOLD: Duration = SECOND;

/// File systems on which other machines' changes give no event: magic numbers of statfs(2), by include/uapi/linux/magic.h and
/// the file systems' own headers.
const REMOTE: [u32; 9] = [
    0x6969,      // NFS
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB2
    0x517B,      // SMB
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x00C3_6400, // Ceph
    0x5346_414F, // AFS
    0x0BD0_0BD0, // Lustre
];

/// Pause after an event, so that a busy directory costs little: at most a hundred looks a second.
const PAUSE: Duration = Duration::from_millis(10);

/// Time for which a file is read again with the same stamp. The clocks of files are as coarse as a tick of the kernel, on
/// some file systems as a second or two.
const UNSETTLED: Duration = Duration::from_secs(3);

/// A file that may change.
#[derive(Debug)]
pub struct FollowedFile {
    path: PathBuf,
    read: Read,
}

/// State of the file when it was last found to be due.
#[derive(Debug, Clone, Copy)]
enum Read {
    /// It is due, whatever its stamp.
    Never,
    /// It was due with this stamp, if it was there, for the first time at `since`. Settled: no other write can have left
    /// it the same stamp after it was due last.
    At { stamp: Option<Stamp>, since: Instant, settled: bool },
}

impl FollowedFile {
    /// Follows the file at `path`, which has not been read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: Read::Never }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells if the file is to be read, now: it may be another one than at the last call that returned true.
    fn is_due(&mut self) -> bool {
        self.is_due_at(Stamp::of(&self.path), Instant::now())
    }

    /// The path, if the file [is due](Self::is_due).
    pub fn path_if_due(&mut self) -> Option<&Path> {
        self.is_due().then_some(&*self.path)
    }

    fn is_due_at(&mut self, stamp: Option<Stamp>, now: Instant) -> bool {
        let since = match self.read {
            Read::At { stamp: before, settled: true, .. } if before == stamp => return false,
            Read::At { stamp: before, since, .. } if before == stamp => since,
            Read::At { .. } | Read::Never => now,
        };
        let settled = stamp.is_none() || now.saturating_duration_since(since) > UNSETTLED;
        self.read = Read::At { stamp, since, settled };
        true
    }
}

/// Events in the directories of followed files, and the clock.
#[derive(Debug)]
pub struct Changes {
    events: Option<Receiver>,
    /// None: there is nothing to look at.
    clock: Option<Clock>,
    pause: Option<Instant>,
}

impl Changes {
    /// Watches the directories of the files at `paths`. One that cannot be watched is left to the clock. Must be called
    /// within a tokio runtime.
    pub fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let paths: Vec<&Path> = paths.into_iter().collect();
        let interval = if paths.iter().all(|path| is_told(path)) { TOLD } else { UNTOLD };
        let clock = (!paths.is_empty()).then(|| Clock::each(interval));
        // As with a pipe: read what there is, or wait.
        let events = watch(&paths).and_then(Receiver::from_file_unchecked);
        let events = events.inspect_err(|error| tracing::debug!(%error, "watching directories")).ok();
        Self { events, clock, pause: None }
    }

    /// Waits until the files are to be looked at: at once when it is called for the first time. May be cancelled.
    pub async fn next(&mut self) {
        if self.pause.is_none() {
            tokio::select! {
                () = tick(self.clock.as_mut()) => return,
                () = event(self.events.as_ref()) => self.pause = Some(Instant::now() + PAUSE),
            }
        }
        // Kept in `self`: an event is not lost if this is cancelled during the pause.
        if let Some(end) = self.pause {
            tokio::time::sleep_until(end.into()).await;
            self.pause = None;
        }
    }
}

/// Tells if changes of the file give events in the directory of its path: that is where it is, or below, as in a volume of
/// Kubernetes, whose link `..data` is exchanged.
fn is_told(path: &Path) -> bool {
    let Ok(directory) = files::directory(path).canonicalize() else { return false };
    let is_remote = |magic: u32| REMOTE.contains(&magic);
    if statfs(&directory).is_ok_and(|found| is_remote(found.f_type as u32)) {
        return false;
    }
    // What is not there yet will come into the directory.
    path.canonicalize().map_or_else(|_| !path.is_symlink(), |file| file.starts_with(&directory))
}

/// Waits for the clock, for ever if there is none.
async fn tick(clock: Option<&mut Clock>) {
    match clock {
        Some(clock) => clock.tick().await,
        None => std::future::pending().await,
    }
}

fn watch(paths: &[&Path]) -> std::io::Result<File> {
    let events = sys::directory_events()?;
    for path in paths {
        if let Err(error) = sys::watch_directory(&events, files::directory(path)) {
            tracing::debug!(%error, "watching a directory");
        }
    }
    Ok(events)
}

/// Waits for something to happen in a directory, for ever if none can be watched.
async fn event(events: Option<&Receiver>) {
    let Some(events) = events else { return std::future::pending().await };
    // The content of an event does not matter: every file is looked at.
    let mut ignored = [0; 4096];
    match events.readable().await {
        Ok(()) => while events.try_read(&mut ignored).is_ok_and(|read| read > 0) {},
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// A directory of the test's own, removed at its end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tencrypt-followed-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_due_with_the_same_stamp_until_no_other_write_can_have_left_it() {
        let place = Place::new("unsettled");
        let path = place.write("f", "a");
        let (stamp, first) = (Stamp::of(&path), Instant::now());
        let mut file = FollowedFile::new(path);
        // A write within one tick: nothing tells it from the write before but that it may have been.
        for age in [Duration::ZERO, Duration::from_secs(1), UNSETTLED] {
            assert!(file.is_due_at(stamp, first + age), "{age:?}");
        }
        let settled = first + UNSETTLED + Duration::from_secs(1);
        assert!(file.is_due_at(stamp, settled), "the last read was within that time");
        assert!(!file.is_due_at(stamp, settled));
        assert!(!file.is_due_at(stamp, settled + UNSETTLED));
        let other = Stamp::of(&place.write("g", "b"));
        for age in [Duration::ZERO, UNSETTLED] {
            assert!(file.is_due_at(other, settled + age), "another stamp, {age:?}");
        }
    }

    /// Tells if the file is due, and lets it settle.
    fn is_due(file: &mut FollowedFile) -> bool {
        let (stamp, now) = (Stamp::of(file.path()), Instant::now());
        let due = file.is_due_at(stamp, now);
        let _ = file.is_due_at(stamp, now + UNSETTLED * 2);
        assert!(!file.is_due_at(stamp, now + UNSETTLED * 2), "settled");
        due
    }

    #[test]
    fn a_file_that_comes_goes_or_is_exchanged_is_due() {
        let place = Place::new("exchanged");
        let mut file = FollowedFile::new(place.0.join("f"));
        assert!(is_due(&mut file), "never read");
        assert!(!is_due(&mut file), "absent as before");
        place.write("f", "a");
        assert!(is_due(&mut file), "it is there");
        assert!(!is_due(&mut file), "the same");
        place.write("g", "b");
        fs::rename(place.0.join("g"), place.0.join("f")).unwrap();
        assert!(is_due(&mut file), "another one has its name");
        place.write("f", "longer");
        assert!(is_due(&mut file), "another size");
        fs::remove_file(place.0.join("f")).unwrap();
        assert!(is_due(&mut file), "it is gone");
        assert!(!is_due(&mut file), "as before");
    }

    #[test]
    fn a_link_on_the_way_that_leads_elsewhere_makes_the_file_due() {
        let place = Place::new("link");
        for directory in ["first", "second"] {
            fs::create_dir(place.0.join(directory)).unwrap();
            place.write(&format!("{directory}/f"), "the same");
        }
        symlink("first", place.0.join("..data")).unwrap();
        symlink("..data/f", place.0.join("f")).unwrap();
        let mut file = FollowedFile::new(place.0.join("f"));
        assert!(is_due(&mut file));
        symlink("second", place.0.join("..data_tmp")).unwrap();
        fs::rename(place.0.join("..data_tmp"), place.0.join("..data")).unwrap();
        assert!(is_due(&mut file));
    }

    #[test]
    fn a_file_is_told_of_where_it_is_in_the_directory_of_its_path_or_below() {
        let (place, elsewhere) = (Place::new("told"), Place::new("elsewhere"));
        let file = place.write("f", "a");
        assert!(is_told(&file));
        assert!(is_told(&place.0.join("not-yet-there")));
        fs::create_dir(place.0.join("..2026")).unwrap();
        place.write("..2026/g", "b");
        symlink("..2026", place.0.join("..data")).unwrap();
        symlink("..data/g", place.0.join("g")).unwrap();
        assert!(is_told(&place.0.join("g")), "a volume of Kubernetes");
        symlink(elsewhere.write("h", "c"), place.0.join("h")).unwrap();
        assert!(!is_told(&place.0.join("h")), "a link to another directory");
        symlink("nowhere/else", place.0.join("i")).unwrap();
        assert!(!is_told(&place.0.join("i")), "a link to what may come anywhere");
        assert!(!is_told(Path::new("/no/such/directory/f")));
    }

    #[tokio::test]
    async fn nothing_to_look_at_wakes_nobody() {
        let mut changes = Changes::of([]);
        let waited = tokio::time::timeout(Duration::from_millis(50), changes.next()).await;
        assert!(waited.is_err());
    }

    #[tokio::test]
    async fn an_event_in_any_of_the_directories_ends_the_wait_and_survives_a_cancelled_one() {
        let (one, other) = (Place::new("one"), Place::new("other"));
        let paths = [one.0.join("f"), other.0.join("g"), PathBuf::from("/no/such/directory/h")];
        let mut changes = Changes::of(paths.iter().map(PathBuf::as_path));
        // The clock is not to be what ends it.
        changes.clock = Some(Clock::each(Duration::from_secs(3600)));
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, changes.next()).await.expect("at once");
        for place in [&one, &other] {
            place.write("new", "x");
            tokio::time::timeout(limit, changes.next()).await.expect("an event");
        }
        one.write("again", "x");
        let cancelled = tokio::time::timeout(PAUSE / 10, changes.next()).await;
        if cancelled.is_err() {
            tokio::time::timeout(limit, changes.next()).await.expect("the event that was cut off");
        }
    }
}
