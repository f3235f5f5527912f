//! A test in a world fails when it should.

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use tencrypt_lab::{NetNs, Ping, Snapshot, cover, inside, test, test_within};

/// Runs `attempt`, which must fail, outside; inside its world it fails as it likes.
fn must_fail(attempt: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(attempt)).expect_err("it must not pass");
    if inside() {
        resume_unwind(payload);
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn a_body_that_panics_fails_its_test() {
    let words = must_fail(|| test("a_body_that_panics_fails_its_test", || panic!("on purpose")));
    assert!(words.contains("failed in its world"), "{words}");
}

#[test]
fn a_name_that_matches_no_test_fails() {
    let words = must_fail(|| test("no_such_test", || {}));
    assert!(words.contains("no test of that name ran"), "{words}");
}

#[test]
fn a_body_that_ends_the_process_with_success_fails_its_test() {
    let name = "a_body_that_ends_the_process_with_success_fails_its_test";
    must_fail(|| test(name, || std::process::exit(0)));
}

#[test]
fn a_body_that_takes_too_long_is_killed() {
    let start = std::time::Instant::now();
    let limit = Duration::from_millis(300);
    let words = must_fail(|| {
        test_within("a_body_that_takes_too_long_is_killed", limit, || {
            std::thread::sleep(Duration::from_secs(60))
        });
    });
    assert!(words.contains("killed"), "{words}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_world_is_not_the_machines_network_and_has_loopback() {
    let devices = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().count();
    let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let outside = namespace();
    test("a_world_is_not_the_machines_network_and_has_loopback", || {
        assert_eq!(devices(), 3, "two lines of head, and lo");
        TcpListener::bind("127.0.0.1:53").expect("privileged ports are free here");
        let netns = NetNs::new().unwrap();
        assert_ne!(netns.run(namespace), namespace());
        assert!(Ping::new("127.0.0.1".parse().unwrap()).run(&netns).unwrap().is_complete());
        assert!(Ping::new("::1".parse().unwrap()).run(&netns).unwrap().is_complete());
        let again = netns.path();
        let reached = std::fs::read_link(&again).unwrap();
        assert_eq!(reached, netns.run(namespace), "the path leads to the namespace");
        assert_eq!(Snapshot::take(&netns).unwrap().lines("device").count(), 1);
    });
    assert_eq!(namespace(), outside);
}

#[test]
fn what_is_put_into_a_covered_directory_is_not_seen_outside() {
    let directory = std::env::temp_dir().join("tencrypt-lab-covered");
    let file = directory.join("left-behind");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("was-there"), "").unwrap();
    test("what_is_put_into_a_covered_directory_is_not_seen_outside", || {
        cover(&directory).unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::write(&file, "").unwrap();
    });
    if inside() {
        return;
    }
    assert!(!file.exists() && directory.join("was-there").exists());
    std::fs::remove_dir_all(&directory).unwrap();
}
