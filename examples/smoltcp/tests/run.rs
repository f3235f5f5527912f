//! The example runs to its end and shows what it promises. That it joins a pod where the program runs is shown by
//! tencrypt-agent/tests/e2e_embedded.rs.

use std::process::Command;

#[test]
fn a_page_is_fetched_twice_without_privileges() {
    let output = Command::new(env!("CARGO_BIN_EXE_fetch")).output().expect("the example starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.matches("fetched 29000 bytes").count(), 2, "{text}");
}
