//! The example runs to its end and shows what it promises.

use std::process::Command;

#[test]
fn tcp_framing_runs() {
    let output = Command::new(env!("CARGO_BIN_EXE_tcp_framing")).output().expect("the example starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("here: got \"DOES THIS NEED UDP?\""), "{text}");
    assert_eq!(text.matches("a session with").count(), 2, "{text}");
}
