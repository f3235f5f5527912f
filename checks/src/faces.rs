//! The types that a list of public items names: those of other crates, and those that stand for errors.

use std::collections::{BTreeMap, BTreeSet};

/// Crates of the standard library.
const STANDARD: [&str; 3] = ["alloc", "core", "std"];

/// Paths in `list` that begin at another crate than `family`, each with the first line that has it. The standard library is
/// not counted.
#[must_use]
pub fn foreign<'t>(list: &'t str, family: &[String]) -> BTreeMap<&'t str, &'t str> {
    let mut found = BTreeMap::new();
    for line in list.lines() {
        for path in paths(line) {
            let (krate, _) = path.split_once("::").unwrap_or_default();
            // A parameter or `Self` begins with a capital letter.
            let is_crate = krate.starts_with(|first: char| first.is_ascii_lowercase());
            if is_crate && !STANDARD.contains(&krate) && !family.iter().any(|known| known == krate) {
                found.entry(path).or_insert(line);
            }
        }
    }
    found
}

/// Types of `krate` that functions of `list` return as `Err`, or that traits name as their `Err` or `Error`, as their paths.
#[must_use]
pub fn errors<'t>(list: &'t str, krate: &str) -> BTreeSet<&'t str> {
    let mut found = BTreeSet::new();
    for line in list.lines() {
        if let Some((declared, named)) =
            line.strip_prefix("pub type ").and_then(|rest| rest.split_once(" = "))
            && (declared.ends_with("::Err") || declared.ends_with("::Error"))
        {
            found.extend(paths(named).next());
        }
        for (at, start) in line.match_indices("core::result::Result<") {
            found.extend(second_argument(&line[at + start.len()..]).and_then(|error| paths(error).next()));
        }
    }
    found.retain(|path| path.split_once("::").is_some_and(|(head, _)| head == krate));
    found
}

/// The paths of two segments and more in a line; what follows generic arguments is no path of its own.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == ':';
    let words = line.split(move |character| !is_part(character)).map(|word| word.trim_end_matches(':'));
    words.filter(|word| word.contains("::") && !word.starts_with(':'))
}

/// The second of the generic arguments that `text` begins with, up to their closing bracket.
fn second_argument(text: &str) -> Option<&str> {
    let mut depth = 0_usize;
    let mut start = None;
    for (at, character) in text.char_indices() {
        match character {
            '<' | '(' | '[' => depth += 1,
            // The arrow of a function type closes nothing.
            '>' if text[..at].ends_with('-') => {}
            ',' if depth == 0 => start = Some(at + 1),
            '>' if depth == 0 => return start.map(|start| text[start..at].trim()),
            '>' | ')' | ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
pub struct mine::Held<'a>
pub mine::Held::range: ranges::net::Net
pub fn mine::Held<'a>::bind(u16, impl core::ops::FnMut(&socks::Socket) -> std::io::error::Result<()>) -> core::result::Result<Self, mine::BindError>
pub fn mine::Held<'a>::all<E>(&self, Self::Item) -> core::result::Result<alloc::vec::Vec<(u8, u8)>, E>
pub fn mine::take(core::result::Result<(), kin::Refused>, core::result::Result<(), mine::Refused<'_>>)
pub type mine::Held<'_>::Err = mine::Unknown
pub type mine::Held<'_>::Item = mine::Thing
";

    #[test]
    fn types_of_other_crates_are_found_with_their_line() {
        let found = foreign(LIST, &["mine".to_owned(), "kin".to_owned()]);
        let paths: Vec<&str> = found.keys().copied().collect();
        assert_eq!(paths, ["ranges::net::Net", "socks::Socket"]);
        assert_eq!(found["ranges::net::Net"], "pub mine::Held::range: ranges::net::Net");
    }

    #[test]
    fn errors_of_functions_and_traits_are_found() {
        let found: Vec<&str> = errors(LIST, "mine").into_iter().collect();
        assert_eq!(found, ["mine::BindError", "mine::Refused", "mine::Unknown"]);
    }
}
