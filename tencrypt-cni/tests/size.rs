//! The program as a node gets it: static, small, and built by the profile `plugin` of this workspace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Most bytes of it.
const MOST: usize = 2_000_000;

/// `PT_INTERP` (include/uapi/linux/elf.h): the program needs a dynamic linker.
const PT_INTERP: u32 = 3;

/// The triple that this toolchain builds for by itself.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().expect("rustc starts");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host").to_owned()
}

/// Builds the program, in a folder of its own, where the next run finds it.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (target, host) = (root.join("target/plugin-static"), host());
    let output = Command::new(env!("CARGO"))
        .args([
            "build",
            "--locked",
            "--offline",
            "-p",
            "tencrypt-cni",
            "--bin",
            "tencrypt-cni",
            "--profile",
            "plugin",
        ])
        .args(["--target", &host, "--target-dir"])
        .arg(&target)
        .current_dir(&root)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join(host).join("plugin/tencrypt-cni")
}

/// The types of the program headers of a 64-bit ELF file in this machine's byte order.
fn program_headers(file: &[u8]) -> Vec<u32> {
    let number = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        let from = if cfg!(target_endian = "little") { 0 } else { 8 - len };
        bytes[from..from + len].copy_from_slice(&file[at..at + len]);
        usize::try_from(u64::from_ne_bytes(bytes)).expect("an offset")
    };
    assert_eq!(file[..5], *b"\x7fELF\x02", "a 64-bit ELF file");
    // e_phoff, e_phentsize, e_phnum of Elf64_Ehdr.
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(|at| u32::try_from(number(start + at * size, 4)).expect("a type")).collect()
}

#[test]
fn the_program_is_static_and_small_and_runs() {
    let program = build();
    let file = fs::read(&program).expect("the program");
    println!("{} bytes", file.len());
    assert!(file.len() < MOST, "{} bytes", file.len());
    assert!(!program_headers(&file).contains(&PT_INTERP), "it needs a dynamic linker");
    // The test sees one where there is one.
    let own = fs::read("/proc/self/exe").expect("this program");
    assert_eq!(program_headers(&own).contains(&PT_INTERP), !cfg!(target_feature = "crt-static"));
    let output =
        Command::new(&program).env_clear().env("CNI_COMMAND", "VERSION").output().expect("it starts");
    assert!(output.status.success() && output.stdout.starts_with(b"{\"cniVersion\""), "{output:?}");
}
