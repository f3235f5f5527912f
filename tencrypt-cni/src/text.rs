//! Text from outside on its way into a message of one line.

use std::fmt::Write as _;

/// Longest reason of somebody else's in a message, in characters.
pub(crate) const REASON: usize = 400;

/// Longest message, in characters. An event of Kubernetes has room for 1,024 (`NoteLengthLimit`, pkg/apis/core/validation).
pub(crate) const MESSAGE: usize = 900;

/// The text as a part of one line, cut to `longest` characters, with everything escaped that could move a cursor, end the line or
/// reorder what is read: control characters, separators of lines, bidirectional formatting (Unicode TR36 section 2.2).
pub(crate) fn one_line(text: &str, longest: usize) -> String {
    let mut line = String::new();
    for letter in text.chars().take(longest) {
        if is_harmful(letter) {
            // Writing to a string does not fail.
            let _ = write!(line, "{}", letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    if text.chars().nth(longest).is_some() {
        line.push_str("..");
    }
    line
}

fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_one_short_line() {
        assert_eq!(one_line("a\nb\u{1b}[2J\u{202e}größe", REASON), "a\\nb\\u{1b}[2J\\u{202e}größe");
        assert_eq!(one_line(&"ä".repeat(400), REASON), "ä".repeat(400));
        assert_eq!(one_line(&"ä".repeat(401), REASON), "ä".repeat(400) + "..");
    }
}
