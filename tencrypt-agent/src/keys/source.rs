//! The key file of a running program: looked at when its directory changes and by the clock, taken up if it may be.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tencrypt::KeyRing;
use tokio::{net::unix::pipe::Receiver, time::MissedTickBehavior};

use crate::{
    keys::file as keyfile,
    lane::channel::{Command, Lanes},
    os::files::Stamp,
    os::sys,
};

/// How often the file is looked at without a sign of a change: links that lead elsewhere, network file systems.
const TICK: Duration = Duration::from_millis(500);
/// Pause after a sign, so that a busy directory costs little.
const PAUSE: Duration = Duration::from_millis(10);
/// A file changed this recently is read again although it looks the same: times of files are as coarse as a tick of the
/// kernel, on some file systems a second.
const YOUNG: Duration = Duration::from_secs(3);

/// Why the key file is not in force, as `status` shows it; `None`: it is.
pub(crate) type KeyFault = Arc<Mutex<Option<String>>>;

/// A key file, and the keys that were last taken from it.
pub(crate) struct KeySource {
    path: PathBuf,
    keys: Arc<KeyRing>,
    fault: KeyFault,
    seen: Option<Stamp>,
    young: bool,
}

/// Whether it may have changed again since without another stamp.
fn is_young(stamp: &Stamp) -> bool {
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(stamp.changed.0.max(0).unsigned_abs());
    // A clock that was put back makes every file young: it is read twice a second then.
    SystemTime::now().duration_since(changed).is_ok_and(|age| age <= YOUNG) || SystemTime::now() < changed
}

impl KeySource {
    /// The file at `path`, of which `keys` are in force.
    pub(crate) fn new(path: PathBuf, keys: Arc<KeyRing>, fault: KeyFault) -> Self {
        Self { path, keys, fault, seen: None, young: false }
    }

    /// Hands the lanes new keys as they come, until it is cancelled.
    pub(crate) async fn follow(mut self, lanes: Lanes) {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // As with a pipe: read what there is, or wait.
        let watch =
            sys::watch_directory(directory.unwrap_or(Path::new("."))).and_then(Receiver::from_file_unchecked);
        let watch = watch.inspect_err(|error| tracing::debug!(%error, "watching the key file")).ok();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = sign(watch.as_ref()) => tokio::time::sleep(PAUSE).await,
            }
            if let Some(keys) = self.look()
                && lanes.send_all(|| Command::Keys(keys.clone())).await.is_err()
            {
                return;
            }
        }
    }

    /// Looks at the file. Returns its keys if they are others than before and may take their place.
    fn look(&mut self) -> Option<Arc<KeyRing>> {
        let stamp = Stamp::of(&self.path);
        if stamp.is_some() && stamp == self.seen && !self.young {
            return None;
        }
        self.seen = stamp;
        self.young = stamp.as_ref().is_some_and(is_young);
        let read = keyfile::read(&self.path).map_err(|error| error.to_string());
        let admitted = read.and_then(|keys| match self.keys.check_change(&keys) {
            Ok(()) => Ok(keys),
            Err(error) => Err(format!("key file {}: {error}", self.path.display())),
        });
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match admitted {
            Ok(keys) => {
                *fault = None;
                if self.keys.is_same(&keys) {
                    return None;
                }
                self.keys = Arc::new(keys);
                tracing::info!(send = self.keys.send_epoch(), accept = ?self.keys.epochs().collect::<Vec<_>>(), "keys");
                Some(self.keys.clone())
            }
            Err(reason) => {
                if fault.as_ref() != Some(&reason) {
                    tracing::error!("{}; the keys in force stay", crate::os::escape::Escaped(&reason));
                }
                *fault = Some(reason);
                None
            }
        }
    }
}

/// Waits for something to happen in the directory, for ever if that cannot be watched.
async fn sign(watch: Option<&Receiver>) {
    let Some(watch) = watch else { return std::future::pending().await };
    // What happened does not matter: the file is looked at.
    let mut events = [0; 4096];
    match watch.readable().await {
        Ok(()) => while watch.try_read(&mut events).is_ok_and(|read| read > 0) {},
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::commands::rotate::{Step, rotate};

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tencrypt-keys-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            keyfile::generate(&path.join("k"), 1).unwrap();
            Self(path)
        }

        fn source(&self, name: &str) -> KeySource {
            let keys = Arc::new(keyfile::read(&self.0.join(name)).unwrap());
            KeySource::new(self.0.join(name), keys, KeyFault::default())
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.join(name), text).unwrap();
            fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn fault(source: &KeySource) -> Option<String> {
        source.fault.lock().unwrap().clone()
    }

    #[test]
    fn each_step_of_a_rotation_is_taken_up_once() {
        let place = Place::new("steps");
        let mut source = place.source("k");
        assert!(source.look().is_none());
        for (step, epochs, send) in
            [(Step::Add, &[1, 2][..], 1), (Step::Activate(None), &[1, 2], 2), (Step::Retire(None), &[2], 2)]
        {
            rotate(&place.0.join("k"), step).unwrap();
            let keys = source.look().expect("other keys");
            assert_eq!((keys.epochs().collect::<Vec<_>>(), keys.send_epoch()), (epochs.to_vec(), send));
            assert!(source.look().is_none());
        }
        assert_eq!(fault(&source), None);
    }

    #[test]
    fn what_may_not_take_the_keys_place_leaves_them_in_force_and_is_said() {
        let place = Place::new("refused");
        let mut source = place.source("k");
        let good = fs::read_to_string(place.0.join("k")).unwrap();
        let root = good.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
        let other_root: String = root.chars().rev().collect();
        let tenant = good.lines().nth(1).unwrap().to_owned();
        for (text, reason) in [
            (good.replace(&root, &other_root), "epoch 1 has another key than the one in use"),
            (
                good.replace(&tenant, "tenant 000102030405060708090a0b0c0d0e0f"),
                "the tenant id is another one",
            ),
            (good[..good.len() - 9].to_owned(), "line 3: the root key has the wrong length"),
            (String::new(), "line 1: expected `tencrypt-key-v1`"),
        ] {
            place.write("k", &text);
            assert!(source.look().is_none());
            let said = fault(&source).expect("a reason");
            assert!(said.contains(reason), "{said}");
            assert!(!said.contains(&root[..8]) && said.lines().count() == 1, "{said}");
        }
        place.write("k", &good);
        assert!(source.look().is_none() && fault(&source).is_none(), "the file is as it was");
        fs::set_permissions(place.0.join("k"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(source.look().is_none() && fault(&source).is_some_and(|said| said.contains("chmod 600")));
        fs::remove_file(place.0.join("k")).unwrap();
        assert!(
            source.look().is_none() && fault(&source).is_some_and(|said| said.contains("does not exist"))
        );
    }

    #[test]
    fn a_volume_whose_link_is_swapped_is_seen() {
        let place = Place::new("volume");
        for (directory, epochs) in [("first", 1), ("second", 2)] {
            fs::create_dir(place.0.join(directory)).unwrap();
            if epochs == 2 {
                rotate(&place.0.join("k"), Step::Add).unwrap();
            }
            fs::copy(place.0.join("k"), place.0.join(directory).join("tenant.key")).unwrap();
        }
        symlink("first", place.0.join("..data")).unwrap();
        symlink("..data/tenant.key", place.0.join("tenant.key")).unwrap();
        let mut source = place.source("tenant.key");
        assert!(source.look().is_none());
        symlink("second", place.0.join("..data_tmp")).unwrap();
        fs::rename(place.0.join("..data_tmp"), place.0.join("..data")).unwrap();
        assert_eq!(source.look().expect("other keys").epochs().collect::<Vec<_>>(), [1, 2]);
    }
}
