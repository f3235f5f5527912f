//! The features of the program: the demo, and with it the laboratory, is of this workspace and not of the package.

use std::process::Command;

/// The packages that the program links, by `arguments` of `cargo tree`.
fn linked(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-f", "{p}"])
        .args(arguments)
        .current_dir(tencrypt_checks::root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_released_program_does_not_link_the_laboratory() {
    let released = linked(&["-p", "tencrypt-agent"]);
    assert!(released.contains("tencrypt-tun "), "{released}");
    assert!(!released.contains("tencrypt-lab "), "{released}");
    assert!(linked(&["-p", "tencrypt-agent", "--features", "demo"]).contains("tencrypt-lab "));
}
