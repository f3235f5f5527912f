//! Folders whose changes wake whoever waits for them: inotify(7).

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::PathBuf, time::Duration};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tencrypt_agent::os::watch_readable;
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep_until},
};

/// Most reads of waiting events at a time. The kernel keeps at most 16,384 of them (`inotify_max_queued_events`), each with 16 to
/// 272 bytes, so this empties its queue; who writes without an end does not keep the reader here.
const MAX_READS: usize = 2_048;

/// Most bytes of a read.
const BUFFER: usize = 4_096;

/// Some folders, watched for what is made, written and closed, renamed, deleted or given other attributes in them.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    events: AsyncFd<OwnedFd>,
    folders: Vec<Folder>,
    /// The longest time between two looks.
    interval: Duration,
    /// The time of the next look without an event; none before the first.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    watch: Result<i32, Errno>,
}

impl FolderWatch {
    /// Makes a watch of these folders, which may be absent and may come and go. `interval` is the longest time between two looks,
    /// and the longest time until a folder that was absent, or has been exchanged for another one, is watched.
    ///
    /// # Errors
    /// The kernel's answer; it allows a user a limited number of these (`max_user_instances`).
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub(crate) fn of(
        paths: impl IntoIterator<Item = impl Into<PathBuf>>,
        interval: Duration,
    ) -> io::Result<Self> {
        let events = watch_readable(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)?;
        let unwatched = |path: PathBuf| Folder { path, watch: Err(Errno::NOENT) };
        let folders = paths.into_iter().map(|path| unwatched(path.into())).collect();
        Ok(Self { events, folders, interval, due: None })
    }

    /// Returns when something in one of the folders may have changed: at once the first time, then at an event, and after the
    /// interval at the latest. A change that comes after it has returned makes the next call return. Cancel safe.
    pub(crate) async fn next(&mut self) {
        if let Some(due) = self.due {
            tokio::select! {
                biased;
                () = Self::event(&self.events) => {}
                () = sleep_until(due) => {}
            }
        }
        // No await from here on: what was drained is answered for.
        self.renew();
        self.due = Some(Instant::now() + self.interval);
    }

    /// The folders that were not watched when [`next`](Self::next) returned, with the kernel's reason: the interval alone wakes for
    /// them.
    #[cfg(test)]
    fn unwatched(&self) -> impl Iterator<Item = (&PathBuf, io::Error)> {
        self.folders.iter().filter_map(|folder| Some((&folder.path, folder.watch.err()?.into())))
    }

    /// Waits for events, and takes all that there are.
    async fn event(events: &AsyncFd<OwnedFd>) {
        loop {
            let Ok(mut ready) = events.readable().await else {
                // The runtime ends. The interval is left.
                return std::future::pending().await;
            };
            match drained(events.get_ref()) {
                Drained::Nothing => ready.clear_ready(),
                Drained::All => return ready.clear_ready(),
                Drained::Some => return,
            }
        }
    }

    /// Watches what stands at the paths now. Of a folder that is watched the kernel gives the number that it has already, of one
    /// that has taken its place another.
    fn renew(&mut self) {
        let mask = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let mut gone = Vec::new();
        for folder in &mut self.folders {
            let before = folder.watch;
            folder.watch = inotify::add_watch(self.events.get_ref(), &folder.path, mask);
            gone.extend(before.ok().filter(|_| before != folder.watch));
        }
        for watch in gone {
            // Two paths may lead to one folder. One that was deleted has taken its watch with it.
            if self.folders.iter().all(|folder| folder.watch != Ok(watch)) {
                let _ = inotify::remove_watch(self.events.get_ref(), watch);
            }
        }
    }
}

/// The outcome of a reading of the waiting events.
enum Drained {
    Nothing,
    /// Some, and no more wait.
    All,
    /// Some, and more may wait.
    Some,
}

fn drained(events: &OwnedFd) -> Drained {
    let mut buffer = [MaybeUninit::<u8>::uninit(); BUFFER];
    let mut found = Drained::Nothing;
    for _ in 0..MAX_READS {
        match rustix::io::read(events, &mut buffer) {
            Ok(_) => found = Drained::Some,
            Err(Errno::INTR) => {}
            Err(_) if matches!(found, Drained::Some) => return Drained::All,
            Err(_) => return Drained::Nothing,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        future::Future,
        os::unix::fs::PermissionsExt as _,
        path::Path,
        sync::atomic::{AtomicU32, Ordering},
    };

    use tokio::time::timeout;

    use super::*;

    /// Longer than any wake-up takes, and much shorter than the interval.
    const SOON: Duration = Duration::from_secs(5);
    const QUIET: Duration = Duration::from_millis(30);
    const NEVER: Duration = Duration::from_secs(3_600);

    type Change<'c> = Box<dyn Fn() + 'c>;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path =
                std::env::temp_dir().join(format!("tencrypt-node-watch-{}-{number}", std::process::id()));
            fs::create_dir_all(path.join("watched")).unwrap();
            fs::create_dir_all(path.join("other")).unwrap();
            Self(path)
        }

        fn watched(&self) -> PathBuf {
            self.0.join("watched")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    async fn assert_wakes(watch: &mut FolderWatch, why: &str) {
        assert!(timeout(SOON, watch.next()).await.is_ok(), "no wake-up: {why}");
        while timeout(QUIET, watch.next()).await.is_ok() {}
    }

    async fn assert_sleeps(watch: &mut FolderWatch, why: &str) {
        assert!(timeout(QUIET, watch.next()).await.is_err(), "a wake-up: {why}");
    }

    #[test]
    fn each_change_wakes_and_reading_does_not() {
        run(async {
            let folder = Folder::new();
            let (watched, other) = (folder.watched(), folder.0.join("other"));
            let mut watch = FolderWatch::of([&watched, &other], NEVER).unwrap();
            assert_wakes(&mut watch, "the first time").await;
            assert_sleeps(&mut watch, "nothing has changed").await;
            let (file, moved) = (watched.join("a"), folder.0.join("b"));
            let changes: [(&str, Change<'_>); 9] = [
                ("created", Box::new(|| fs::write(&file, "1").unwrap())),
                ("written", Box::new(|| fs::write(&file, "22").unwrap())),
                (
                    "its mode",
                    Box::new(|| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap()),
                ),
                ("moved out", Box::new(|| fs::rename(&file, &moved).unwrap())),
                ("moved in", Box::new(|| fs::rename(&moved, &file).unwrap())),
                ("renamed", Box::new(|| fs::rename(&file, watched.join("c")).unwrap())),
                ("deleted", Box::new(|| fs::remove_file(watched.join("c")).unwrap())),
                ("a folder", Box::new(|| fs::create_dir(watched.join("d")).unwrap())),
                ("in the other folder", Box::new(|| fs::write(other.join("e"), "").unwrap())),
            ];
            for (why, change) in changes {
                change();
                assert_wakes(&mut watch, why).await;
            }
            fs::read(other.join("e")).unwrap();
            fs::read_dir(&watched).unwrap().count();
            assert_sleeps(&mut watch, "it was only read").await;
            assert_eq!(watch.unwatched().count(), 0);
        });
    }

    #[test]
    fn a_change_is_not_lost_to_a_call_that_is_given_up() {
        run(async {
            let folder = Folder::new();
            let mut watch = FolderWatch::of([folder.watched()], NEVER).unwrap();
            watch.next().await;
            for _ in 0..50 {
                assert_sleeps(&mut watch, "nothing has changed").await;
                {
                    let mut next = std::pin::pin!(watch.next());
                    tokio::select! {
                        biased;
                        () = &mut next => panic!("nothing has changed"),
                        () = std::future::ready(()) => {}
                    }
                    fs::write(folder.watched().join("a"), "").unwrap();
                }
                assert_wakes(&mut watch, "written").await;
            }
        });
    }

    #[test]
    fn many_changes_are_one_wake_up() {
        run(async {
            let folder = Folder::new();
            let mut watch = FolderWatch::of([folder.watched()], NEVER).unwrap();
            watch.next().await;
            for number in 0..5_000 {
                fs::write(folder.watched().join("a"), number.to_string()).unwrap();
            }
            assert!(timeout(SOON, watch.next()).await.is_ok());
            assert_sleeps(&mut watch, "all were taken").await;
        });
    }

    #[test]
    fn the_interval_wakes_by_itself_and_finds_folders_that_come() {
        run(async {
            let folder = Folder::new();
            let absent = folder.0.join("absent");
            let interval = Duration::from_millis(100);
            let mut watch = FolderWatch::of([&absent], interval).unwrap();
            watch.next().await;
            let (path, reason) = watch.unwatched().next().unwrap();
            assert_eq!((path.as_path(), reason.kind()), (&*absent, io::ErrorKind::NotFound));
            fs::create_dir(&absent).unwrap();
            // Calls that are given up do not put it off.
            for _ in 0..4 {
                let _ = timeout(QUIET, watch.next()).await;
            }
            assert_eq!(watch.unwatched().count(), 0, "it is watched now");
            let start = Instant::now();
            watch.next().await;
            assert!(start.elapsed() < SOON, "the interval wakes");
        });
    }

    async fn assert_follows(watch: &mut FolderWatch, watched: &Path, why: &str) {
        assert_wakes(watch, why).await;
        fs::write(watched.join("a"), "").unwrap();
        assert_wakes(watch, why).await;
    }

    #[test]
    fn a_folder_that_takes_the_place_of_another_is_watched_in_its_stead() {
        run(async {
            let folder = Folder::new();
            let (watched, other) = (folder.watched(), folder.0.join("other"));
            let mut watch = FolderWatch::of([&watched], Duration::from_millis(500)).unwrap();
            watch.next().await;
            fs::rename(&watched, folder.0.join("old")).unwrap();
            fs::rename(&other, &watched).unwrap();
            assert_follows(&mut watch, &watched, "exchanged").await;
            fs::write(folder.0.join("old").join("b"), "").unwrap();
            watch.interval = NEVER;
            watch.next().await;
            fs::write(folder.0.join("old").join("b"), "").unwrap();
            assert_sleeps(&mut watch, "it is not that folder any more").await;
            fs::remove_dir_all(&watched).unwrap();
            fs::create_dir(&watched).unwrap();
            assert_follows(&mut watch, &watched, "made anew").await;
        });
    }
}
