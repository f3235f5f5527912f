//! Hexadecimal text of keys that are no secret.

use std::fmt::Write as _;

/// Spells `bytes` in lower case.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the `N` bytes that `text` spells, in either case; `None` if it is anything else.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_leads_back_to_the_bytes() {
        let bytes: [u8; 256] = std::array::from_fn(|at| at as u8);
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!(from_hex("fFA0"), Some([0xff, 0xa0]));
    }

    #[test]
    fn anything_else_is_no_hex() {
        for text in ["", "ff", "ffa", "ffa00", "fg00", "+f00", " ff0", "\u{ff10}a"] {
            assert_eq!(from_hex::<2>(text), None, "{text:?}");
        }
    }
}
