//! Text from outside (DNS names, configuration, paths) on its way to a terminal.

use std::fmt::{self, Write as _};

/// Prints text with everything escaped that could move the cursor, end the line or reorder what is read: control
/// characters, line and paragraph separators, bidirectional formatting (Unicode TR36 section 2.2, RUSTSEC-2025-0055).
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaper(f), "{}", self.0)
    }
}

struct Escaper<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Escaper<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            if is_harmful(char) {
                write!(self.0, "{}", char.escape_default())?;
            } else {
                self.0.write_char(char)?;
            }
        }
        Ok(())
    }
}

fn is_harmful(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sequences_and_line_ends_are_escaped() {
        assert_eq!(Escaped("a\u{1b}[2Jb\nc\u{9b}d").to_string(), "a\\u{1b}[2Jb\\nc\\u{9b}d");
    }

    #[test]
    fn reordering_is_escaped_and_letters_are_not() {
        assert_eq!(Escaped("\u{202e}größe \"日本\"").to_string(), "\\u{202e}größe \"日本\"");
    }
}
