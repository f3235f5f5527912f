//! The demonstration ends well if everything was observed, and badly, by name, if anything was not.

use std::{
    fs,
    process::{Command, Output},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The observations, in their order.
const OBSERVATIONS: [&str; 7] =
    ["readable", "unreadable", "other-project", "intruder", "bypass", "throughput", "restored"];

/// Measured: 10 s in the debug build with two processors. A busy one is given more.
const LIMIT: Duration = Duration::from_secs(60);

/// One demonstration at a time: each measures and waits.
static ALONE: Mutex<()> = Mutex::new(());

fn demo(arguments: &[&str]) -> Output {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // A place of its own: what others' demonstrations leave behind is not looked at.
    let place = std::env::temp_dir().join(format!("tencrypt-{}", std::process::id()));
    let _ = fs::remove_dir_all(&place);
    fs::create_dir(&place).unwrap();
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_tencrypt"))
        .arg("demo")
        .args(arguments)
        .env_remove("TENCRYPT_LOG")
        .env("TMPDIR", &place)
        .output()
        .unwrap();
    assert!(start.elapsed() < LIMIT, "{arguments:?} took {:?}", start.elapsed());
    let left_behind: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left_behind.is_empty(), "{arguments:?}: {left_behind:?}");
    fs::remove_dir(&place).unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_demonstration_observes_everything_and_says_so() {
    let output = demo(&[]);
    let (said, complaints) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaints}");
    assert_eq!(complaints, "");
    let observed: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("   ok  "))
        .filter_map(|rest| rest.split_whitespace().next())
        .collect();
    assert_eq!(observed, OBSERVATIONS, "{said}");
    assert_eq!(
        said.matches("GET /account").count(),
        1,
        "the request is shown once, as it was in plain: {said}"
    );
    assert!(said.contains("Mbit/s") && said.contains("ping, mean"), "{said}");
}

#[test]
fn for_programs_it_is_one_json_object() {
    let output = demo(&["--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{said}\n{}", text(&output.stderr));
    assert_eq!(said["ok"], true);
    let observed: Vec<&str> = said["observed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|observed| observed["observation"].as_str().unwrap())
        .collect();
    assert_eq!(observed, OBSERVATIONS);
    for number in ["plain_mbit_s", "encrypted_mbit_s", "plain_ping_ms", "encrypted_ping_ms"] {
        assert!(said["measured"][number].as_f64().unwrap() > 0.0, "{number}: {said}");
    }
}

#[test]
fn whatever_is_spoilt_fails_by_its_name_and_nothing_else_does() {
    for (before, spoilt) in OBSERVATIONS.into_iter().enumerate() {
        let output = demo(&["--json", "--break", spoilt]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let complaints = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{spoilt}: {said}\n{complaints}");
        let line = format!("tencrypt: demo: observation `{spoilt}` failed: ");
        assert!(complaints.starts_with(&line) && complaints.lines().count() == 1, "{spoilt}: {complaints}");
        assert_eq!(said["ok"], false);
        assert_eq!(said["observed"].as_array().unwrap().len(), before, "{spoilt}: {said}");
    }
}

#[test]
fn an_observation_that_does_not_exist_is_a_usage_error() {
    let output = demo(&["--break", "everything"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}
