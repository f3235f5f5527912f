//! Every example runs to its end and shows what it promises.

use std::{fs, path::Path, process::Command};

fn run(program: &str, shown: &str) {
    let output = Command::new(program).output().expect("the example starts");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} ends with {}:\n{text}", output.status);
    assert!(text.contains(shown), "{program} does not say {shown:?}:\n{text}");
}

#[test]
fn three_pods_runs() {
    run(env!("CARGO_BIN_EXE_three_pods"), "3600 packets arrived");
}

#[test]
fn two_lanes_runs() {
    run(env!("CARGO_BIN_EXE_two_lanes"), "INIT for lane 1 came to the tenant's port, and is handed over");
}

#[test]
fn two_tunnels_runs() {
    run(env!("CARGO_BIN_EXE_two_tunnels"), "bytes to 10.0.0.2:8362");
}

/// The library's README shows the smallest one, as it is; and it stays small.
#[test]
fn two_tunnels_is_what_the_readme_of_the_library_shows() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = fs::read_to_string(here.join("src/bin/two_tunnels.rs")).expect("the example");
    assert!(program.lines().count() < 60, "{} lines", program.lines().count());
    let (_, code) = program.split_once('\n').expect("a line that says what it is");
    let readme = fs::read_to_string(here.join("../../tencrypt-core/README.md")).expect("the README");
    assert!(readme.contains(code), "the README shows another program");
}
