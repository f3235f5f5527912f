//! Every example runs to its end and shows what it promises.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Name, program, and something it prints at the end.
const EXAMPLES: [(&str, &str, &str); 3] = [
    ("dns_classify", env!("CARGO_BIN_EXE_dns_classify"), "192.0.2.25/32 is external"),
    ("own_runtime", env!("CARGO_BIN_EXE_own_runtime"), "here: got \"AND THIS THE SECOND?\""),
    ("veth_pair", env!("CARGO_BIN_EXE_veth_pair"), "with the tunnel:"),
];

/// The names of the programs in a folder.
fn programs(folder: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(folder).expect("the examples").map(|file| file.expect("a file").path());
    files
        .filter(|file| file.is_file())
        .map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect()
}

fn run(name: &str) {
    let (_, program, shown) = EXAMPLES.into_iter().find(|(known, ..)| *known == name).expect("an example");
    let output = Command::new(program).output().expect("the example starts");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{name} ends with {}:\n{text}", output.status);
    assert!(text.contains(shown), "{name} does not say {shown:?}:\n{text}");
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
fn every_example_is_run() {
    let here = programs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin"));
    assert_eq!(here, EXAMPLES.iter().map(|(name, ..)| (*name).to_owned()).collect());
}
