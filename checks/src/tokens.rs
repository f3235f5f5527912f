//! Words of the language that have their place, or none: `unsafe`, attributes that silence, marks of what is not done.

use std::{path::Path, str::FromStr as _};

use proc_macro2::{Ident, TokenStream, TokenTree};

use crate::Offence;

/// The one file of a crate that may hold `unsafe`.
pub const UNSAFE_FILE: &str = "sys.rs";
const NOT_DONE: [&str; 2] = ["todo", "unimplemented"];

/// Finds `unsafe` in a file of another name than [`UNSAFE_FILE`], `ignore` and `allow` as attributes, and macros that stand for
/// code to be written.
///
/// # Panics
/// `text` is no Rust.
#[must_use]
pub fn misplaced(path: &Path, text: &str) -> Vec<Offence> {
    let tokens = TokenStream::from_str(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut search = Search { path, may_be_unsafe: path.ends_with(UNSAFE_FILE), offences: Vec::new() };
    search.stream(tokens);
    search.offences
}

struct Search<'path> {
    path: &'path Path,
    may_be_unsafe: bool,
    offences: Vec<Offence>,
}

impl Search<'_> {
    fn add(&mut self, at: &Ident, text: String) {
        self.offences.push(Offence { file: self.path.to_owned(), line: at.span().start().line, text });
    }

    fn stream(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    if is_attribute(&tokens[..at]) {
                        self.attribute(group.stream());
                    }
                    self.stream(group.stream());
                }
                TokenTree::Ident(ident) if ident == "unsafe" && !self.may_be_unsafe => {
                    self.add(ident, format!("`unsafe` outside of {UNSAFE_FILE}"));
                }
                TokenTree::Ident(ident) if NOT_DONE.iter().any(|name| ident == name) => {
                    if matches!(tokens.get(at + 1), Some(TokenTree::Punct(mark)) if mark.as_char() == '!') {
                        self.add(ident, format!("`{ident}!`"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Looks at the inside of `#[..]`, and of the `cfg_attr(..)` in it.
    fn attribute(&mut self, stream: TokenStream) {
        let mut is_first = true;
        let mut in_condition = false;
        for token in stream {
            match token {
                TokenTree::Ident(ident) => {
                    if (is_first || in_condition) && (ident == "ignore" || ident == "allow") {
                        self.add(&ident, format!("the attribute `{ident}`"));
                    }
                    in_condition |= is_first && ident == "cfg_attr";
                }
                TokenTree::Group(group) if in_condition => {
                    for token in group.stream() {
                        if let TokenTree::Ident(ident) = token
                            && (ident == "ignore" || ident == "allow")
                        {
                            self.add(&ident, format!("the attribute `{ident}`"));
                        }
                    }
                }
                _ => {}
            }
            is_first = false;
        }
    }
}

/// Tells if the bracket behind `before` is that of an attribute: `#[` or `#![`.
fn is_attribute(before: &[TokenTree]) -> bool {
    let is = |token: Option<&TokenTree>, mark: char| matches!(token, Some(TokenTree::Punct(found)) if found.as_char() == mark);
    match before.len() {
        0 => false,
        1 => is(before.last(), '#'),
        count => is(before.last(), '#') || is(before.last(), '!') && is(before.get(count - 2), '#'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> Vec<String> {
        misplaced(Path::new(path), text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unsafe_has_one_file_and_in_words_it_may_be_anywhere() {
        let code = "fn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(said("src/a.rs", code), ["src/a.rs:2: `unsafe` outside of sys.rs"]);
        assert_eq!(said("src/sys.rs", code), [""; 0]);
        assert_eq!(
            said("src/a.rs", "#![forbid(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe\";"),
            [""; 0]
        );
    }

    #[test]
    fn attributes_that_silence_are_found() {
        assert_eq!(
            said("a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}"),
            ["a.rs:2: the attribute `ignore`"]
        );
        assert_eq!(said("a.rs", "#![allow(dead_code)]"), ["a.rs:1: the attribute `allow`"]);
        assert_eq!(
            said("a.rs", "#[cfg_attr(x, allow(dead_code))]\nfn f() {}"),
            ["a.rs:1: the attribute `allow`"]
        );
        assert_eq!(said("a.rs", "#[expect(dead_code, reason = \"x\")]\nfn allow() { ignore[0] }"), [""; 0]);
    }

    #[test]
    fn marks_of_code_to_be_written_are_found() {
        assert_eq!(said("a.rs", "fn f() {\n todo!()\n}"), ["a.rs:2: `todo!`"]);
        assert_eq!(said("a.rs", "fn f() { g(|| unimplemented!(\"x\")) }"), ["a.rs:1: `unimplemented!`"]);
        assert_eq!(said("a.rs", "fn todo() {}"), [""; 0]);
    }
}
