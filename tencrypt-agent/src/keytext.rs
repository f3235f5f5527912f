//! The text of a key file, as DESIGN section 8 has it. The core reads it into keys; here it is written, and checked
//! line by line so that a bad file is named before anything is touched.

use zeroize::Zeroizing;

/// First line of every key file.
const MAGIC: &str = "tencrypt-key-v1";

/// What is wrong with a key file. Never quotes the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
#[non_exhaustive]
pub struct KeyTextError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: KeyTextReason,
}

/// What is wrong with a line of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyTextReason {
    /// The file does not begin as it should.
    #[error("expected `tencrypt-key-v1`: not a tencrypt key file")]
    Magic,
    /// No tenant follows.
    #[error("expected `tenant` and 32 hexadecimal digits")]
    Tenant,
    /// A line that is no epoch.
    #[error("expected `epoch`, a number from 0 to 255 and 64 hexadecimal digits")]
    Epoch,
    /// Two keys for one epoch.
    #[error("this epoch is there already")]
    Repeated,
    /// No key at all.
    #[error("no epoch, the file is too short")]
    Empty,
}

/// The text of a key file with one epoch.
#[must_use]
pub fn render(tenant: &[u8; 16], epoch: u8, root: &[u8; 32]) -> Zeroizing<String> {
    // 15 + 1, 7 + 32 + 1, 6 + 3 + 1 + 64 + 1: written without growing, so that no copy of the key stays behind.
    let mut text = Zeroizing::new(String::with_capacity(160));
    let number = epoch.to_string();
    for part in [MAGIC, "\ntenant "] {
        text.push_str(part);
    }
    push_hex(&mut text, tenant);
    for part in ["\nepoch ", &number, " "] {
        text.push_str(part);
    }
    push_hex(&mut text, root);
    text.push('\n');
    text
}

/// Checks the text of a key file.
///
/// # Errors
/// The first line that is wrong.
pub fn check(text: &str) -> Result<(), KeyTextError> {
    let mut lines = (1..).zip(text.lines());
    let fail = |line, reason| Err(KeyTextError { line, reason });
    if lines.next().is_none_or(|(_, content)| content != MAGIC) {
        return fail(1, KeyTextReason::Magic);
    }
    let tenant = lines.next().and_then(|(_, content)| content.strip_prefix("tenant "));
    if !tenant.is_some_and(|hex| is_hex(hex, 16)) {
        return fail(2, KeyTextReason::Tenant);
    }
    let mut seen = [false; 256];
    for (line, content) in lines {
        let epoch = content.strip_prefix("epoch ").and_then(|rest| rest.split_once(' '));
        let Some((epoch, _)) = epoch.filter(|(_, hex)| is_hex(hex, 32)) else {
            return fail(line, KeyTextReason::Epoch);
        };
        // Digits as they are printed: neither `+1` nor `01`.
        let number = epoch.parse::<u8>().ok().filter(|number| number.to_string() == epoch);
        let Some(number) = number else { return fail(line, KeyTextReason::Epoch) };
        if std::mem::replace(&mut seen[usize::from(number)], true) {
            return fail(line, KeyTextReason::Repeated);
        }
    }
    if seen.contains(&true) { Ok(()) } else { fail(2, KeyTextReason::Empty) }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
}

fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_exactly_the_format_and_passes_the_check() {
        let text = render(&[0xab; 16], 7, &[0x01; 32]);
        let expected = format!("tencrypt-key-v1\ntenant {}\nepoch 7 {}\n", "ab".repeat(16), "01".repeat(32));
        assert_eq!(*text, expected);
        assert!(text.len() <= 160);
        assert_eq!(check(&text), Ok(()));
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let tenant = format!("tenant {}", "0".repeat(32));
        let epoch = |number: &str, digits: usize| format!("epoch {number} {}", "f".repeat(digits));
        let cases = [
            (String::new(), 1, KeyTextReason::Magic),
            ("tencrypt-key-v2\n".into(), 1, KeyTextReason::Magic),
            ("tencrypt-key-v1\n".into(), 2, KeyTextReason::Tenant),
            (format!("tencrypt-key-v1\n{}\n", &tenant[..30]), 2, KeyTextReason::Tenant),
            (format!("tencrypt-key-v1\n{tenant}0\n"), 2, KeyTextReason::Tenant),
            (format!("tencrypt-key-v1\n{tenant}\n"), 2, KeyTextReason::Empty),
            (format!("tencrypt-key-v1\n{tenant}\n{}\n", epoch("1", 63)), 3, KeyTextReason::Epoch),
            (format!("tencrypt-key-v1\n{tenant}\n{}\n", epoch("1", 65)), 3, KeyTextReason::Epoch),
            (format!("tencrypt-key-v1\n{tenant}\n{}\n", epoch("256", 64)), 3, KeyTextReason::Epoch),
            (
                format!("tencrypt-key-v1\n{tenant}\n{}\n{}\n", epoch("1", 64), epoch("1", 64)),
                4,
                KeyTextReason::Repeated,
            ),
            (format!("tencrypt-key-v1\n{tenant}\n{}\n\n", epoch("1", 64)), 4, KeyTextReason::Epoch),
        ];
        for (text, line, reason) in cases {
            assert_eq!(check(&text), Err(KeyTextError { line, reason }), "{text}");
        }
    }
}
