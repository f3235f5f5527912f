//! Comments as text, and the first word of doc comments.

use std::path::Path;

use crate::Offence;

/// Words that begin a question, or a clause that stands for a noun. A doc comment begins with a verb or a noun.
const QUESTIONS: [&str; 8] = ["What", "Whether", "How", "Where", "Why", "Who", "When", "Which"];

/// The comments of Rust source, each line with its number; marks included.
pub fn comments(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, &line[start(line)?..])))
}

/// The start of the comment in a line: the first `//` that is neither of a URL nor in a string.
fn start(line: &str) -> Option<usize> {
    let is_quoted = |at: usize| !line[..at].replace("\\\"", "").matches('"').count().is_multiple_of(2);
    line.match_indices("//").map(|(at, _)| at).find(|&at| !line[..at].ends_with(':') && !is_quoted(at))
}

/// The doc comments that begin with one of the words of a question.
#[must_use]
pub fn questions(path: &Path, text: &str) -> Vec<Offence> {
    let mut offences = Vec::new();
    let mut before = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let mark =
            ["///", "//!"].into_iter().find(|mark| line.starts_with(mark) && !line.starts_with("////"));
        if let Some(mark) = mark
            && before != Some(mark)
        {
            let said = line[mark.len()..].trim();
            let word = said.split(|letter: char| !letter.is_alphabetic()).next().unwrap_or_default();
            if QUESTIONS.contains(&word) {
                let text = format!("a doc comment begins with `{word}`: {said}");
                offences.push(Offence { file: path.to_owned(), line: at + 1, text });
            }
        }
        before = mark;
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_what_stands_behind_the_marks_outside_of_strings() {
        let text = "// a\nlet x = 1; // b\nlet y = \"// c\"; /// d\nlet z = \"http://e\";\n//! see http://f";
        let found: Vec<_> = comments(text).collect();
        assert_eq!(found, [(1, "// a"), (2, "// b"), (3, "/// d"), (5, "//! see http://f")]);
    }

    #[test]
    fn a_doc_comment_that_begins_with_a_question_is_found() {
        let text = "//! How it works.\n\n/// Returns it.\n/// What follows is no beginning.\nfn f() {}\n    /// Whether it is.\n";
        let found: Vec<_> = questions(Path::new("a.rs"), text).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a.rs:1: a doc comment begins with `How`: How it works.",
                "a.rs:6: a doc comment begins with `Whether`: Whether it is."
            ]
        );
        assert_eq!(questions(Path::new("a.rs"), "/// Whatever comes.\n// Why: so.\n/// The way."), []);
    }
}
