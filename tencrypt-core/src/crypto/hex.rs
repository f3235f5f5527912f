//! Hexadecimal text of fixed length, without branches on the digits: it carries keys.

use zeroize::Zeroizing;

/// Reasons for which text is not `N` bytes in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HexError {
    /// Not 2 x `N` characters.
    Length,
    /// A character that is no hexadecimal digit.
    Digit,
}

/// The `N` bytes that `text` spells, in either case.
pub(crate) fn decode<const N: usize>(text: &str) -> Result<Zeroizing<[u8; N]>, HexError> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return Err(HexError::Length);
    }
    let mut out = Zeroizing::new([0; N]);
    let mut wrong = 0;
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (high, high_wrong) = digit(pair[0]);
        let (low, low_wrong) = digit(pair[1]);
        *byte = high << 4 | low;
        wrong |= high_wrong | low_wrong;
    }
    if wrong == 0 { Ok(out) } else { Err(HexError::Digit) }
}

/// Appends `bytes` to `out` in lower case. `out` must have the capacity, so that no copy of a key is left behind.
pub(crate) fn encode(bytes: &[u8], out: &mut String) {
    debug_assert!(out.capacity() - out.len() >= 2 * bytes.len(), "a reallocation would leave a copy");
    for byte in bytes {
        for digit in [byte >> 4, byte & 0xf] {
            // 'a' - 10 is 39 above '0'.
            out.push(char::from(b'0' + digit + 39 * u8::from(digit > 9)));
        }
    }
}

/// `bytes` in lower case.
#[cfg(test)]
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    encode(bytes, &mut text);
    text
}

/// The value of a digit, and whether it is none.
fn digit(character: u8) -> (u8, u8) {
    let decimal = character.wrapping_sub(b'0');
    let letter = (character | 0x20).wrapping_sub(b'a');
    let (is_decimal, is_letter) = (u8::from(decimal < 10), u8::from(letter < 6));
    // A mask of all ones or all zeros from 1 or 0.
    let value = decimal & is_decimal.wrapping_neg() | letter.wrapping_add(10) & is_letter.wrapping_neg();
    (value, 1 ^ (is_decimal | is_letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back_in_either_case() {
        for byte in 0..=u8::MAX {
            let mut text = String::with_capacity(2);
            encode(&[byte], &mut text);
            assert_eq!(text, format!("{byte:02x}"));
            assert_eq!(decode::<1>(&text).map(|out| out[0]), Ok(byte));
            assert_eq!(decode::<1>(&text.to_uppercase()).map(|out| out[0]), Ok(byte));
        }
    }

    #[test]
    fn only_hexadecimal_digits_are_digits() {
        for character in (0..=0x7f_u8).map(char::from) {
            let outcome = decode::<1>(&format!("0{character}"));
            assert_eq!(outcome.is_ok(), character.is_ascii_hexdigit(), "{character:?}");
        }
    }

    #[test]
    fn lengths_are_exact() {
        assert_eq!(decode::<2>("001"), Err(HexError::Length));
        assert_eq!(decode::<2>("00112"), Err(HexError::Length));
        assert_eq!(decode::<2>("001é"), Err(HexError::Length));
        assert_eq!(decode::<2>("00é"), Err(HexError::Digit));
    }
}
