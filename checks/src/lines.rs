//! The size of files.

use std::path::Path;

use crate::{Offence, syntax::test_lines};

/// Most lines of a file, its tests left out.
pub const LONGEST: usize = 500;
/// Most lines of a file with its tests, and of a file of tests.
pub const LONGEST_WITH_TESTS: usize = 800;

/// Returns the offence of a file that is too long. Of a file that `is_test`, [`LONGEST_WITH_TESTS`] is the only limit.
#[must_use]
pub fn too_long(path: &Path, text: &str, file: &syn::File, is_test: bool) -> Option<Offence> {
    let all = text.lines().count();
    let tests: usize = test_lines(file).into_iter().map(|lines| lines.count()).sum();
    let offence = |text| Some(Offence { file: path.to_owned(), line: all, text });
    if all > LONGEST_WITH_TESTS {
        return offence(format!("{all} lines, more than {LONGEST_WITH_TESTS}"));
    }
    let without = all - tests;
    if !is_test && without > LONGEST {
        return offence(format!("{without} lines without its tests, more than {LONGEST}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::parse;

    fn said(code: usize, tests: usize, is_test: bool) -> Option<String> {
        let mut text = "fn f() {}\n".repeat(code);
        if tests > 0 {
            text += &format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(tests - 3));
        }
        let path = Path::new("a.rs");
        too_long(path, &text, &parse(path, &text), is_test).map(|offence| offence.text)
    }

    #[test]
    fn a_file_has_500_lines_and_800_with_its_tests() {
        assert_eq!(said(500, 300, false), None);
        assert_eq!(said(501, 10, false).as_deref(), Some("501 lines without its tests, more than 500"));
        assert_eq!(said(300, 501, false).as_deref(), Some("801 lines, more than 800"));
    }

    #[test]
    fn a_file_of_tests_has_800() {
        assert_eq!(said(800, 0, true), None);
        assert_eq!(said(801, 0, true).as_deref(), Some("801 lines, more than 800"));
    }
}
