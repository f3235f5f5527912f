//! Cargo, run on this workspace and outside of it, with one target folder for all.

use std::{
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
