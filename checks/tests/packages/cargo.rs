//! Cargo, run on this workspace and outside of it, with one target folder for all.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    tencrypt_checks::root().to_owned()
}

/// The folder everything here is built in.
pub(crate) fn target() -> PathBuf {
    root().join("target/packages")
}

/// Removes what cargo keeps of earlier packages of these names and versions. It takes a version of a registry for something
/// that never changes: the sources it unpacked once, and what it built of them, would pass for those of the packages made
/// now.
pub(crate) fn forget_packages(packages: &[String]) {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo"))).expect("a home");
    for registry in entries(&home.join("registry/src")) {
        packages.iter().for_each(|package| remove(&registry.join(package)));
    }
    for profile in ["debug", "release"] {
        for built in entries(&target().join(profile).join(".fingerprint")) {
            let name = built.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("tencrypt") {
                remove(&built);
            }
        }
    }
}

/// The entries of a folder, none if there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn remove(folder: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).expect("what is left of earlier packages can be removed");
    }
}

/// Runs cargo in `folder` and returns its standard output. What it took is written to standard error, past the
/// test's capture.
///
/// # Panics
/// If it fails, with all it has said.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> String {
    let start = Instant::now();
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target())
        .env("CARGO_TERM_COLOR", "never")
        .output()
        .expect("cargo starts");
    let (took, place) = (start.elapsed().as_secs_f32(), folder.file_name().unwrap_or_default().display());
    let line = format!("{took:6.1} s  {place}: cargo {}\n", arguments.join(" "));
    // Written past the capture: a test that takes minutes should say on what. Lost output is no failure.
    let _ = io::stderr().write_all(line.as_bytes());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {} in {}:\n{said}", arguments.join(" "), folder.display());
    String::from_utf8(output.stdout).expect("text")
}
