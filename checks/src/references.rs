//! References to documents: each has to lead to a file of the repository.

use std::{collections::BTreeSet, path::Path};

use crate::{Offence, comments::comments};

/// Names of documents that readers of the repository do not have.
const ELSEWHERE: [&str; 3] = ["DESIGN", "research/", "shared/"];
/// The ends of the names of files that comments refer to.
const ENDS: [&str; 3] = [".rs", ".md", ".svg"];

/// Finds the references in the file `path` of `root` that lead nowhere: names of documents that are elsewhere, relative links
/// of Markdown, and paths of `.rs`, `.md` and `.svg` files, be they relative to the root, to the package, to its `src`, or to
/// the file's own folder. Of Rust and of scripts the comments are looked at, of Markdown everything.
#[must_use]
pub fn dead(root: &Path, path: &Path, text: &str) -> Vec<Offence> {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    let lines: Vec<(usize, &str)> = match end {
        "rs" => comments(text).collect(),
        "md" => text.lines().enumerate().map(|(at, line)| (at + 1, line)).collect(),
        "toml" => hashed(text).collect(),
        _ if text.starts_with("#!") => hashed(text).collect(),
        _ => return Vec::new(),
    };
    let mut offences = Vec::new();
    for (number, line) in lines {
        let mut add = |text| offences.push(Offence { file: path.to_owned(), line: number, text });
        for name in ELSEWHERE.into_iter().filter(|name| has_word(line, name)) {
            add(format!("refers to `{name}`, which is not in the repository"));
        }
        for target in links(line).chain(paths(line)).collect::<BTreeSet<_>>() {
            if !leads(root, path, target) {
                add(format!("`{target}` is not in the repository"));
            }
        }
    }
    offences
}

fn hashed(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(at, line)| line.find('#').map(|start| (at + 1, &line[start..])))
}

/// Tells if `name` stands in `line` and is not the end of a longer word.
fn has_word(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let follows = line[at + name.len()..].chars().next();
        let inside = |letter: char| letter.is_alphanumeric() || letter == '_';
        !line[..at].ends_with(inside) && (name.ends_with('/') || !follows.is_some_and(inside))
    })
}

/// The targets of Markdown links that are files: no address, no place in the same file, no item of Rust.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', ' ']).next()?;
        let target = target.split('#').next()?;
        let is_file =
            !target.is_empty() && !target.contains(':') && (target.contains('/') || target.contains('.'));
        is_file.then_some(target)
    })
}

/// The words that look like relative paths of files.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let apart = |letter: char| letter.is_whitespace() || "`()[]\"',;|".contains(letter);
    // A path with a colon is one of a URL, or begins with it.
    line.split(apart).filter_map(|word| {
        let word = word.split(':').next()?.trim_end_matches('.');
        let is_path = word.contains('/') && ENDS.iter().any(|end| word.ends_with(end));
        let is_relative = !word.starts_with(['/', '~', '$']) && !word.contains(['*', '<', '{']);
        (is_path && is_relative).then_some(word)
    })
}

fn leads(root: &Path, path: &Path, target: &str) -> bool {
    let folder = path.parent().unwrap_or(path);
    let package = path.ancestors().skip(1).find(|folder| root.join(folder).join("Cargo.toml").is_file());
    let package = package.unwrap_or(Path::new(""));
    [Path::new(""), folder, package, &package.join("src")]
        .iter()
        .any(|base| root.join(base).join(target).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    fn said(path: &str, text: &str) -> Vec<String> {
        dead(root(), Path::new(path), text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_document_that_is_elsewhere_is_found_in_a_comment_and_not_in_code() {
        let text =
            "/// As in DESIGN section 3.\n// research/a, ../shared/b\nconst DESIGN: &str = \"DESIGN\";\n";
        let found = said("checks/src/lib.rs", text);
        assert_eq!(
            found,
            [
                "checks/src/lib.rs:1: refers to `DESIGN`, which is not in the repository",
                "checks/src/lib.rs:2: refers to `research/`, which is not in the repository",
                "checks/src/lib.rs:2: refers to `shared/`, which is not in the repository",
            ]
        );
        assert_eq!(
            said("a.toml", "# DESIGN"),
            ["a.toml:1: refers to `DESIGN`, which is not in the repository"]
        );
        assert_eq!(said("checks/src/lib.rs", "// DESIGNATED, unshared/a"), [""; 0]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_found() {
        let text = "[a](README.md) [b](docs/absent.md#x) [c](https://x/absent.md) [d](#here)\n[e](gone)";
        assert_eq!(said("README.md", text), ["README.md:1: `docs/absent.md` is not in the repository"]);
        assert_eq!(
            said("docs/a.md", "[a](wire-format.md#x) [b](../README.md) [c](x/)"),
            ["docs/a.md:1: `x/` is not in the repository"]
        );
    }

    #[test]
    fn a_path_may_be_relative_to_the_root_the_package_or_the_file() {
        let text = "/// `checks/src/lib.rs`, src/lib.rs, tests/shape.rs: (lib.rs), lines.rs, `docs/*.md`, docs/README.md.\n";
        assert_eq!(
            said("checks/src/lines.rs", text),
            ["checks/src/lines.rs:1: `docs/README.md` is not in the repository"]
        );
        assert_eq!(said("README.md", "see https://x.y/docs/README.md"), [""; 0]);
    }
}
