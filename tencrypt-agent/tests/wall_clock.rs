//! No code of protocol or data path knows the wall clock: whatever happens to that has no effect. Time is monotonic
//! (`Instant`), or the boot clock's; certificates and revocation have no dates.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The crates that the program is made of, and what of them is not looked at.
const SOURCES: [(&str, &[&str]); 5] = [
    ("tencrypt-core/src", &[]),
    ("tencrypt-udp/src", &[]),
    ("tencrypt-tun/src", &[]),
    ("tencrypt-dns/src", &[]),
    (
        "tencrypt-agent/src",
        &[
            // The list of system calls that are not refused.
            "os/hardening/syscalls.rs",
        ],
    ),
];

/// Words that lead to the wall clock, or to a time that was taken from it.
const WALL_CLOCK: [&str; 10] = [
    "SystemTime",
    "UNIX_EPOCH",
    "CLOCK_REALTIME",
    "CLOCK_TAI",
    "Realtime",
    "gettimeofday",
    "libc::time(",
    ".modified()",
    ".accessed()",
    ".created()",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Lines of `text` that name the wall clock, comments left out.
fn mentions(text: &str) -> Vec<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.filter(|line| WALL_CLOCK.iter().any(|name| line.contains(name))).collect()
}

#[test]
fn nothing_reads_the_wall_clock() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut wrong = Vec::new();
    for (directory, exceptions) in SOURCES {
        let directory = workspace.join(directory);
        let mut files = Vec::new();
        sources(&directory, &mut files);
        assert!(files.len() > 5, "the sources of {} were not found", directory.display());
        for file in files {
            let name = file.strip_prefix(&directory).expect("below src");
            let text = fs::read_to_string(&file).expect("a source file");
            let found = mentions(&text);
            if exceptions.iter().any(|exception| name == Path::new(exception)) {
                assert!(!found.is_empty(), "{} is no exception any more", file.display());
                continue;
            }
            wrong.extend(found.into_iter().map(|line| format!("{}: {}", file.display(), line.trim())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_code_and_not_comments() {
    let code = "// SystemTime is not for this\nlet now = SystemTime::now();\n    /// CLOCK_REALTIME\n\
                clock_gettime(ClockId::Realtime);\nlet at = Instant::now();\nmetadata.modified()?;";
    assert_eq!(mentions(code).len(), 3);
}
