//! The keys in force of a running program: others are taken up if they may take their place.

use std::sync::{Arc, Mutex, PoisonError};

use tencrypt::KeyRing;

use crate::escape::Escaped;

/// The reason why the keys that came last are not in force, as `status` shows it; none if they are.
pub(crate) type KeyFault = Arc<Mutex<Option<String>>>;

/// The keys that were last taken up.
pub(crate) struct KeysInForce {
    /// The source of keys, in messages.
    name: String,
    keys: Arc<KeyRing>,
    fault: KeyFault,
}

impl KeysInForce {
    /// Returns `keys` as those in force. Others come from what messages call `name`; why they are not taken is kept in `fault`.
    pub(crate) fn new(name: String, keys: Arc<KeyRing>, fault: KeyFault) -> Self {
        Self { name, keys, fault }
    }

    /// Returns the epoch that new sessions start under, and those that are accepted.
    pub(crate) fn epochs(&self) -> (u8, Vec<u8>) {
        (self.keys.send_epoch(), self.keys.epochs().collect())
    }

    /// Returns the reason why what came last is not in force.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up what came, or notes why there is nothing to be taken. Returns the keys if they are others than before and may
    /// take their place.
    pub(crate) fn take(&mut self, came: Result<KeyRing, String>) -> Option<Arc<KeyRing>> {
        let admitted = came.and_then(|keys| match self.keys.check_change(&keys) {
            Ok(()) => Ok(keys),
            Err(error) => Err(format!("{}: {error}", self.name)),
        });
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match admitted {
            Ok(keys) => {
                if fault.take().is_some() {
                    tracing::warn!("the {} is in force again", self.name);
                }
                if self.keys.is_same(&keys) {
                    return None;
                }
                self.keys = Arc::new(keys);
                tracing::info!(send = self.keys.send_epoch(), accept = ?self.keys.epochs().collect::<Vec<_>>(), "keys");
                Some(self.keys.clone())
            }
            Err(reason) => {
                if fault.as_ref() != Some(&reason) {
                    tracing::error!("{}; the keys in force stay", Escaped(&reason));
                }
                *fault = Some(reason);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
        path::PathBuf,
    };

    use tencrypt::KeyRing;

    use super::*;
    use crate::{
        config::Files,
        keys::{file as keyfile, followed::FollowedFiles, material::Material},
    };

    /// A key file, and what is in force of it.
    struct KeySource {
        files: FollowedFiles,
        in_force: KeysInForce,
    }

    impl KeySource {
        fn read_change(&mut self) -> Option<Arc<KeyRing>> {
            let due = self.files.due();
            due.into_iter().find_map(|material| self.take(material))
        }

        async fn next(&mut self) -> Arc<KeyRing> {
            loop {
                let material = self.files.next().await;
                if let Some(keys) = self.take(material) {
                    return keys;
                }
            }
        }

        fn take(&mut self, material: Material) -> Option<Arc<KeyRing>> {
            match material {
                Material::Keys(read) => self.in_force.take(read),
                other => panic!("{other:?}"),
            }
        }
    }

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
            let keys_path = self.0.join(name);
            let files =
                Files { keys: keys_path, ca: None, certificate: None, revoked: None, resolv_conf: None };
            let in_force = KeysInForce::new("key file".to_owned(), keys, KeyFault::default());
            KeySource { files: FollowedFiles::new(&files), in_force }
        }

        fn text(&self) -> String {
            fs::read_to_string(self.0.join("k")).unwrap()
        }

        /// The steps of a rotation to epoch 2, with the text of the key file after each.
        fn steps(&self) -> [(String, &'static [u8], u8); 3] {
            let (first, second) = (self.text(), KeyRing::write_epoch(2, &std::array::from_fn(|at| at as u8)));
            let retired = first.lines().filter(|line| !line.starts_with("epoch 1 ")).collect::<Vec<_>>();
            let retired = format!("{}\n{}send 2\n", retired.join("\n"), *second);
            let both = format!("{first}{}", *second);
            [
                (format!("{both}send 1\n"), &[1, 2], 1),
                (format!("{both}send 2\n"), &[1, 2], 2),
                (retired, &[2], 2),
            ]
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
        source.in_force.fault.lock().unwrap().clone()
    }

    #[test]
    fn each_step_of_a_rotation_is_taken_up_once() {
        let place = Place::new("steps");
        let mut source = place.source("k");
        assert!(source.read_change().is_none());
        for (text, epochs, send) in place.steps() {
            place.write("k", &text);
            let keys = source.read_change().expect("other keys");
            assert_eq!((keys.epochs().collect::<Vec<_>>(), keys.send_epoch()), (epochs.to_vec(), send));
            assert!(source.read_change().is_none());
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
            assert!(source.read_change().is_none());
            let said = fault(&source).expect("a reason");
            assert!(said.contains(reason), "{said}");
            assert!(!said.contains(&root[..8]) && said.lines().count() == 1, "{said}");
        }
        place.write("k", &good);
        assert!(source.read_change().is_none() && fault(&source).is_none(), "the file is as it was");
        fs::set_permissions(place.0.join("k"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(
            source.read_change().is_none() && fault(&source).is_some_and(|said| said.contains("chmod 600"))
        );
        fs::remove_file(place.0.join("k")).unwrap();
        assert!(
            source.read_change().is_none()
                && fault(&source).is_some_and(|said| said.contains("does not exist"))
        );
    }

    #[tokio::test]
    async fn other_keys_end_the_wait_and_the_same_ones_do_not() {
        let place = Place::new("wait");
        let mut source = place.source("k");
        place.write("k", &place.text());
        let limit = std::time::Duration::from_secs(1);
        tokio::time::timeout(limit, source.next()).await.expect_err("the same keys");
        let [(added, ..), ..] = place.steps();
        place.write("k", &added);
        let keys = tokio::time::timeout(limit * 10, source.next()).await.expect("other keys");
        assert_eq!(keys.epochs().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_volume_whose_link_is_swapped_is_seen() {
        let place = Place::new("volume");
        let [(added, ..), ..] = place.steps();
        for (directory, text) in [("first", place.text()), ("second", added)] {
            fs::create_dir(place.0.join(directory)).unwrap();
            place.write(&format!("{directory}/tenant.key"), &text);
        }
        symlink("first", place.0.join("..data")).unwrap();
        symlink("..data/tenant.key", place.0.join("tenant.key")).unwrap();
        let mut source = place.source("tenant.key");
        assert!(source.read_change().is_none());
        symlink("second", place.0.join("..data_tmp")).unwrap();
        fs::rename(place.0.join("..data_tmp"), place.0.join("..data")).unwrap();
        assert_eq!(source.read_change().expect("other keys").epochs().collect::<Vec<_>>(), [1, 2]);
    }
}
