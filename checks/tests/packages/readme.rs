//! The parts of a README.

/// The Rust program of a README.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) source: String,
    /// Compiled only: it wants privileges, or a pod.
    pub(crate) no_run: bool,
    /// Features that it wants of the README's package: those of the first `cargo add PACKAGE --features FEATURES`.
    pub(crate) features: Vec<String>,
}

/// The first block of Rust, which is a whole program.
pub(crate) fn program(readme: &str) -> Option<Program> {
    let mut lines = readme.lines();
    let opening = lines.find_map(|line| line.strip_prefix("```rust"))?;
    let source: String = lines.take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
    let no_run = opening.split(',').any(|attribute| attribute == "no_run");
    let added = readme.split("`cargo add ").nth(1).and_then(|rest| rest.split('`').next());
    let features = added.and_then(|command| command.split_once(" --features ")).map_or("", |(_, list)| list);
    let features = features.split(',').filter(|feature| !feature.is_empty()).map(str::to_owned).collect();
    Some(Program { source, no_run, features })
}

/// Links that lead to files beside the README: in a package, and on a page made of it, there are none.
pub(crate) fn local_links(readme: &str) -> Vec<&str> {
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.starts_with("https://")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_of_rust_is_the_program() {
        let readme = "# x\n```sh\nx\n```\n```rust,no_run\nfn main() {}\n```\n```rust\n```\n";
        let found = Program { source: "fn main() {}\n".into(), no_run: true, features: Vec::new() };
        assert_eq!(program(readme), Some(found));
        let readme = format!("{readme}It wants `cargo add x --features a,b`, or `cargo add x --features c`.");
        assert_eq!(program(&readme).unwrap().features, ["a", "b"]);
        assert_eq!(program("# x\n"), None);
    }

    #[test]
    fn a_link_to_a_file_is_found() {
        let readme = "[a](https://docs.rs/a) and [b](../docs/b.md)";
        assert_eq!(local_links(readme), ["../docs/b.md"]);
    }
}
