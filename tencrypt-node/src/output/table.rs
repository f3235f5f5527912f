//! Cells of a table.

use tencrypt_agent::escape::Escaped;

/// The mark where a text was cut.
const CUT: &str = "...";

/// Cuts a text to `most` characters, escaped as a table shows it, with a mark where it goes on.
pub(super) fn cut(text: &str, most: usize) -> String {
    let shown = Escaped(text).to_string();
    if shown.chars().count() <= most {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut width = CUT.len();
    for char in text.chars() {
        width += Escaped(char).to_string().chars().count();
        if width > most {
            break;
        }
        kept.push(char);
    }
    kept + CUT
}

/// Writes the parts one after the other, or a dash where there are none.
pub(super) fn joined(parts: impl IntoIterator<Item: ToString>, between: &str) -> String {
    let parts: Vec<String> = parts.into_iter().map(|part| part.to_string()).collect();
    if parts.is_empty() {
        return "-".to_owned();
    }
    parts.join(between)
}
