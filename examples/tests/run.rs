//! Every example runs to its end and shows what it promises.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Name, program, and something it prints at the end.
const EXAMPLES: [(&str, &str, &str); 5] = [
    ("loopback", env!("CARGO_BIN_EXE_loopback"), "became a record"),
    ("custom_transport", env!("CARGO_BIN_EXE_custom_transport"), "here: got \"DOES THIS NEED UDP?\""),
    ("dns_classify", env!("CARGO_BIN_EXE_dns_classify"), "192.0.2.25/32 is external"),
    ("own_runtime", env!("CARGO_BIN_EXE_own_runtime"), "here: got \"AND THIS THE SECOND?\""),
    ("veth_pair", env!("CARGO_BIN_EXE_veth_pair"), "with the tunnel:"),
];

fn run(name: &str) {
    let (_, program, shown) = EXAMPLES.into_iter().find(|(known, ..)| *known == name).expect("an example");
    let output = Command::new(program).output().expect("the example starts");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{name} ends with {}:\n{text}", output.status);
    assert!(text.contains(shown), "{name} does not say {shown:?}:\n{text}");
}

#[test]
fn loopback_runs() {
    run("loopback");
}

#[test]
fn custom_transport_runs() {
    run("custom_transport");
}

#[test]
fn dns_classify_runs() {
    run("dns_classify");
}

#[test]
fn own_runtime_runs() {
    run("own_runtime");
}

#[test]
fn veth_pair_runs() {
    run("veth_pair");
}

#[test]
fn every_example_is_run_here_and_explained_in_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(root.join("src/bin")).expect("the examples");
    let files: BTreeSet<String> = files
        .map(|file| file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, EXAMPLES.iter().map(|(name, ..)| (*name).to_owned()).collect());
    let readme = fs::read_to_string(root.join("README.md")).expect("the readme");
    for name in files {
        let line = format!("cargo run -p tencrypt-examples --bin {name}");
        assert!(readme.contains(&line), "the readme does not say: {line}");
    }
}
