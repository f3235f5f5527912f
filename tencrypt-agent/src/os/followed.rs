//! Files that may change while the program runs, and the moments at which they are to be read again.
//!
//! One rule for all of them. A file is read again when its [`Stamp`] is another one, and as long as it is young: a write
//! in place within one tick of the file's clock leaves the stamp as it was. The stamp is taken before the file is read,
//! so that a change while it is read shows afterwards. Links are followed, so that a Kubernetes volume, whose `..data`
//! link is exchanged, shows too. [`Changes`] says when to look: at any event in the directories of the files, and by
//! the clock.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::{
    net::unix::pipe::Receiver,
    time::{Instant, Interval, MissedTickBehavior},
};

use crate::os::{
    files::{self, Stamp},
    sys,
};

/// Interval at which files are looked at without an event: a link that leads to another directory and a network file
/// system give none. Documentation promises that a revocation or a new key takes effect within a second, the work of the
/// lanes included.
const INTERVAL: Duration = Duration::from_millis(250);

/// Pause after an event, so that a busy directory costs little: at most a hundred looks a second.
const PAUSE: Duration = Duration::from_millis(10);

/// Age up to which a file is young. The times of files are as coarse as a tick of the kernel, on some file systems a
/// second or two.
const YOUNG: Duration = Duration::from_secs(3);

/// A file that may change.
#[derive(Debug)]
pub(crate) struct FollowedFile {
    path: PathBuf,
    read: Read,
}

/// State of the file when it was last found to be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// It is due, whatever its stamp.
    Never,
    /// It was due with this stamp, if it was there, and was young or not.
    At { stamp: Option<Stamp>, young: bool },
}

impl FollowedFile {
    /// Follows the file at `path`, which has not been read yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, read: Read::Never }
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells if the file is to be read, now: it may be another one than at the last call that returned true.
    pub(crate) fn is_due(&mut self) -> bool {
        self.is_due_at(Stamp::of(&self.path), SystemTime::now())
    }

    /// The path, if the file [is due](Self::is_due).
    pub(crate) fn path_if_due(&mut self) -> Option<&Path> {
        self.is_due().then_some(&*self.path)
    }

    /// Makes the file due at the next call of [`is_due`](Self::is_due), whether it has changed or not.
    pub(crate) fn read_again(&mut self) {
        self.read = Read::Never;
    }

    fn is_due_at(&mut self, stamp: Option<Stamp>, now: SystemTime) -> bool {
        let due = match self.read {
            Read::Never => true,
            Read::At { stamp: before, young } => young || stamp != before,
        };
        if due {
            self.read = Read::At { stamp, young: stamp.is_some_and(|stamp| is_young(&stamp, now)) };
        }
        due
    }
}

/// Tells if the file may have changed again since without another stamp.
fn is_young(stamp: &Stamp, now: SystemTime) -> bool {
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(stamp.changed.0.max(0).unsigned_abs());
    // A clock that was put back makes every file young: it is read at every look until the clock has caught up.
    now.duration_since(changed).is_ok_and(|age| age <= YOUNG) || now < changed
}

/// Events in the directories of followed files, and the clock.
#[derive(Debug)]
pub(crate) struct Changes {
    events: Option<Receiver>,
    clock: Interval,
    pause: Option<Instant>,
}

impl Changes {
    /// Watches the directories of the files at `paths`. One that cannot be watched is left to the clock. Must be called
    /// within a tokio runtime.
    pub(crate) fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let mut clock = tokio::time::interval(INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // As with a pipe: read what there is, or wait.
        let events = watch(paths).and_then(Receiver::from_file_unchecked);
        let events = events.inspect_err(|error| tracing::debug!(%error, "watching directories")).ok();
        Self { events, clock, pause: None }
    }

    /// Waits until the files are to be looked at: at once when it is called for the first time. May be cancelled.
    pub(crate) async fn next(&mut self) {
        if self.pause.is_none() {
            tokio::select! {
                _ = self.clock.tick() => return,
                () = event(self.events.as_ref()) => self.pause = Some(Instant::now() + PAUSE),
            }
        }
        // Kept in `self`: an event is not lost if this is cancelled during the pause.
        if let Some(end) = self.pause {
            tokio::time::sleep_until(end).await;
            self.pause = None;
        }
    }
}

fn watch<'p>(paths: impl IntoIterator<Item = &'p Path>) -> std::io::Result<File> {
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
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, symlink},
    };

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

    fn changed_at(path: &Path) -> SystemTime {
        let seconds = fs::metadata(path).unwrap().ctime().unsigned_abs();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_young_file_is_due_although_its_stamp_is_the_same_until_it_is_old() {
        let place = Place::new("young");
        let path = place.write("f", "a");
        let (stamp, changed) = (Stamp::of(&path), changed_at(&path));
        let mut file = FollowedFile::new(path);
        // A write within one tick: nothing tells it from the write before but that it may have been.
        for age in [Duration::ZERO, Duration::from_secs(1), YOUNG] {
            assert!(file.is_due_at(stamp, changed + age), "{age:?}");
        }
        let old = changed + YOUNG + Duration::from_secs(1);
        assert!(file.is_due_at(stamp, old), "it was young at the last look");
        assert!(!file.is_due_at(stamp, old));
        assert!(!file.is_due_at(stamp, old + YOUNG));
    }

    #[test]
    fn a_file_that_seems_to_be_of_the_future_is_due_until_the_clock_has_caught_up() {
        let place = Place::new("future");
        let path = place.write("f", "a");
        let (stamp, changed) = (Stamp::of(&path), changed_at(&path));
        let mut file = FollowedFile::new(path);
        let past = changed - Duration::from_secs(3600);
        assert!((0..3).all(|_| file.is_due_at(stamp, past)));
    }

    #[test]
    fn a_file_that_comes_goes_or_is_exchanged_is_due_once() {
        let place = Place::new("exchanged");
        let path = place.0.join("f");
        let mut file = FollowedFile::new(path.clone());
        let later = SystemTime::now() + YOUNG * 10;
        let due = |file: &mut FollowedFile| {
            let due = file.is_due_at(Stamp::of(&path), later);
            assert!(!due || !file.is_due_at(Stamp::of(&path), later), "once");
            due
        };
        assert!(due(&mut file), "never read");
        assert!(!due(&mut file), "absent as before");
        place.write("f", "a");
        assert!(due(&mut file), "it is there");
        place.write("g", "b");
        fs::rename(place.0.join("g"), place.0.join("f")).unwrap();
        assert!(due(&mut file), "another one has its name");
        place.write("f", "longer");
        assert!(due(&mut file), "another size");
        fs::remove_file(place.0.join("f")).unwrap();
        assert!(due(&mut file), "it is gone");
        file.read_again();
        assert!(due(&mut file), "asked for");
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
        let later = SystemTime::now() + YOUNG * 10;
        assert!(file.is_due_at(Stamp::of(file.path()), later));
        symlink("second", place.0.join("..data_tmp")).unwrap();
        fs::rename(place.0.join("..data_tmp"), place.0.join("..data")).unwrap();
        assert!(file.is_due_at(Stamp::of(file.path()), later));
    }

    #[tokio::test]
    async fn an_event_in_any_of_the_directories_ends_the_wait_and_survives_a_cancelled_one() {
        let (one, other) = (Place::new("one"), Place::new("other"));
        let paths = [one.0.join("f"), other.0.join("g"), PathBuf::from("/no/such/directory/h")];
        let mut changes = Changes::of(paths.iter().map(PathBuf::as_path));
        // The clock is not to be what ends it.
        changes.clock = tokio::time::interval(Duration::from_secs(3600));
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
