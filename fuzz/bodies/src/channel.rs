//! Messages of the agent of a node to the program of a pod.

use tencrypt_agent::node::reading;

/// Reads the bytes as messages. Whatever they are, nothing is printed that a key file would keep secret, and nothing is taken
/// behind a message that makes no sense.
pub fn channel(data: &[u8]) {
    let protected = ["10.0.0.0/8", "fd00::/16"].map(|range| range.parse().expect("a range"));
    let printed = reading::read(data, &protected);
    assert!(printed.len() <= data.len() / 5 + 1, "more messages than there is room for");
    let text = printed.concat();
    for word in data.split(|byte| !byte.is_ascii_hexdigit()).filter(|word| word.len() == 64) {
        let is_key =
            data.windows(word.len() + 8).any(|line| line.starts_with(b"epoch ") && line.ends_with(word));
        let word = std::str::from_utf8(word).expect("hexadecimal digits");
        assert!(!is_key || !text.contains(word), "a key was printed");
    }
    assert_eq!(reading::read(data, &protected), printed);
}
