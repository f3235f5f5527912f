//! `tencrypt rotate` from outside: one line each, whole files only, no step lost.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use tencrypt_agent::keys::file as keyfile;

/// A directory of the test's own with a key file of epoch 1, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tencrypt-rotate-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        let place = Self(path);
        assert!(place.tencrypt(&["genkey", "tenant.key"]).status.success());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tencrypt"));
        command.args(arguments).current_dir(&self.0).env_remove("TENCRYPT_LOG").stdin(Stdio::null());
        command
    }

    fn tencrypt(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Output of a step.
    fn rotate(&self, arguments: &[&str]) -> String {
        let output = self.tencrypt(&[&["rotate"], arguments].concat());
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn assert_refused(&self, arguments: &[&str], code: i32, reason: &str) {
        let before = fs::read(self.path("tenant.key")).ok();
        let output = self.tencrypt(&[&["rotate"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            said.starts_with("tencrypt: ") && said.lines().count() == 1 && said.contains(reason),
            "{said:?}"
        );
        assert!(output.stdout.is_empty());
        assert_eq!(fs::read(self.path("tenant.key")).ok(), before);
    }

    /// The epochs and the one that is sent.
    fn epochs(&self) -> (Vec<u8>, u8) {
        let keys = keyfile::read(&self.path("tenant.key")).unwrap();
        (keys.epochs().collect(), keys.send_epoch())
    }

    fn listing(&self) -> Vec<String> {
        let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_rotation_is_three_steps_of_one_line_each() {
    let place = Place::new("steps");
    assert_eq!(place.rotate(&["add", "tenant.key"]), "added epoch 2; sends 1, accepts 1, 2\n");
    assert_eq!(place.rotate(&["activate", "tenant.key"]), "activated epoch 2; sends 2, accepts 1, 2\n");
    assert_eq!(place.rotate(&["retire", "tenant.key"]), "retired epoch 1; sends 2, accepts 2\n");
    assert_eq!(place.rotate(&["add", "tenant.key"]), "added epoch 3; sends 2, accepts 2, 3\n");
    let line = "activated epoch 3; sends 3, accepts 2, 3\n";
    assert_eq!(place.rotate(&["activate", "tenant.key", "--epoch", "3"]), line);
    // Back.
    let line = "activated epoch 2; sends 2, accepts 2, 3\n";
    assert_eq!(place.rotate(&["activate", "tenant.key", "--epoch", "2"]), line);
    let line = "retired epoch 3; sends 2, accepts 2\n";
    assert_eq!(place.rotate(&["retire", "tenant.key", "--epoch", "3"]), line);
    assert_eq!(place.listing(), ["tenant.key"], "no temporary file stays");
}

#[test]
fn what_makes_no_sense_is_refused_and_the_file_stays() {
    let place = Place::new("refused");
    place.assert_refused(&["activate", "tenant.key"], 2, "no epoch comes after 1");
    place.assert_refused(&["activate", "tenant.key", "--epoch", "1"], 2, "epoch 1 is sent already");
    place.assert_refused(&["activate", "tenant.key", "--epoch", "7"], 2, "epoch 7 is not in the file");
    place.assert_refused(&["retire", "tenant.key"], 2, "no epoch comes before 1");
    place.assert_refused(&["retire", "tenant.key", "--epoch", "1"], 2, "activate another first");
    place.assert_refused(&["retire", "tenant.key", "--epoch", "256"], 2, "--epoch");
    for _ in 1..8 {
        place.rotate(&["add", "tenant.key"]);
    }
    place.assert_refused(&["add", "tenant.key"], 2, "as many as a key file holds");
    place.assert_refused(&["add", "absent.key"], 2, "key file absent.key: does not exist");
    place.assert_refused(&["add", "."], 2, "is not a regular file");
    fs::set_permissions(place.path("tenant.key"), fs::Permissions::from_mode(0o644)).unwrap();
    place.assert_refused(&["add", "tenant.key"], 2, "chmod 600");
    fs::set_permissions(place.path("tenant.key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(place.path("tenant.key"), "tencrypt-key-v1\n").unwrap();
    place.assert_refused(&["add", "tenant.key"], 2, "line 1: no `tenant` line");
    assert_eq!(place.listing(), ["tenant.key"]);
}

#[test]
fn mode_owner_and_links_stay_as_they_are() {
    let place = Place::new("mode");
    fs::set_permissions(place.path("tenant.key"), fs::Permissions::from_mode(0o400)).unwrap();
    let before = fs::metadata(place.path("tenant.key")).unwrap();
    symlink("tenant.key", place.path("link")).unwrap();
    place.rotate(&["add", "link"]);
    let after = fs::metadata(place.path("tenant.key")).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_ne!(after.ino(), before.ino(), "another file took the name");
    assert_eq!(fs::read_link(place.path("link")).unwrap(), PathBuf::from("tenant.key"));
    assert_eq!(place.epochs(), (vec![1, 2], 1));
}

#[test]
fn rotations_at_the_same_time_lose_no_step() {
    let place = Place::new("concurrent");
    thread::scope(|scope| {
        for _ in 0..7 {
            scope.spawn(|| place.rotate(&["add", "tenant.key"]));
        }
    });
    assert_eq!(place.epochs(), ((1..=8).collect(), 1));
    let outcomes: Vec<bool> = thread::scope(|scope| {
        let retire = |_| scope.spawn(|| place.tencrypt(&["rotate", "retire", "tenant.key", "--epoch", "5"]));
        let all: Vec<_> = (0..4).map(retire).collect();
        all.into_iter().map(|one| one.join().unwrap().status.success()).collect()
    });
    assert_eq!(outcomes.iter().filter(|done| **done).count(), 1, "only one finds epoch 5");
    assert_eq!(place.epochs().0.len(), 7);
}

#[test]
fn a_rotation_that_is_killed_leaves_a_whole_file_and_nothing_that_stays_in_the_way() {
    let place = Place::new("killed");
    for round in 0..60_u64 {
        let full = place.epochs().0.len() == 8;
        let last = place.epochs().0.last().unwrap().to_string();
        let arguments: &[&str] = if full {
            &["rotate", "retire", "tenant.key", "--epoch", &last]
        } else {
            &["rotate", "add", "tenant.key"]
        };
        let mut child = place.command(arguments).stdout(Stdio::null()).spawn().unwrap();
        // A run takes some 3 ms: the kill falls before, between and behind its calls.
        thread::sleep(Duration::from_micros(round % 30 * 150));
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(place.epochs().1, 1, "readable, and whole");
    }
    // Of whatever a dead one left, nothing hinders the next, and nothing of it stays.
    if place.epochs().0.len() == 8 {
        let last = place.epochs().0[7].to_string();
        place.rotate(&["retire", "tenant.key", "--epoch", &last]);
    } else {
        place.rotate(&["add", "tenant.key"]);
    }
    assert_eq!(place.listing(), ["tenant.key"]);
}
