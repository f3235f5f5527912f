//! A module uses only modules below it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Modules from the bottom up, as in ARCHITECTURE.md.
const LAYERS: [&str; 18] = [
    "text",
    "keyed_hash",
    "stats",
    "packet",
    "offload",
    "record",
    "crypto",
    "trust",
    "session",
    "handshake",
    "lane_update",
    "sink",
    "nat",
    "config",
    "directory",
    "event",
    "tunnel",
    "lib",
];

/// Code of all files below src, without comments and without what is compiled for tests alone.
fn sources(src: &Path) -> BTreeMap<PathBuf, String> {
    let mut texts = BTreeMap::new();
    collect(src, src, &mut texts);
    assert!(texts.len() > 30, "the sources were not found");
    let mut test_only: BTreeSet<PathBuf> = BTreeSet::new();
    let mut code = BTreeMap::new();
    for (file, text) in &texts {
        let production = production(text);
        test_only.extend(production.test_files.iter().map(|declared| declared.module(file)));
        code.insert(file.clone(), production.code);
    }
    code.retain(|file, _| !test_only.iter().any(|module| module_path(file).starts_with(module)));
    code
}

fn collect(src: &Path, folder: &Path, texts: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            collect(src, &path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(src).expect("below src").to_owned();
            texts.insert(relative, fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// The module a file holds, as a path of names: `tunnel` for `tunnel/mod.rs`, `tunnel/timer` for `tunnel/timer.rs`.
fn module_path(file: &Path) -> PathBuf {
    let stem = file.with_extension("");
    match stem.file_name().and_then(|name| name.to_str()) {
        Some("mod" | "lib") => stem.parent().map(Path::to_owned).unwrap_or_default(),
        _ => stem,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Production {
    code: String,
    /// Modules in files of their own that are compiled for tests alone.
    test_files: Vec<TestFile>,
}

#[derive(Debug, PartialEq, Eq)]
enum TestFile {
    /// A module of this name.
    Named(String),
    /// A module in this file (`#[path]`), beside the one that declares it.
    At(String),
}

impl TestFile {
    /// The module's path, declared in `file`.
    fn module(&self, file: &Path) -> PathBuf {
        match self {
            Self::Named(name) => module_path(file).join(name),
            Self::At(path) => file.with_file_name(path).with_extension(""),
        }
    }
}

/// Takes comments, and items that are compiled for tests alone, out of a text. Only modules count as such items: anything
/// else behind `#[cfg(test)]` is looked at like all other code.
fn production(text: &str) -> Production {
    let mut code = String::new();
    let mut test_files = Vec::new();
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//")).peekable();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        let mut path = None;
        while let Some(attribute) = lines.next_if(|next| next.trim_start().starts_with("#[")) {
            path = path.or_else(|| attribute.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]"));
        }
        let Some(name) = lines.peek().and_then(|item| module_name(item)) else { continue };
        let item = lines.next().unwrap_or_default();
        if item.trim_end().ends_with(';') {
            let file =
                path.map_or_else(|| TestFile::Named(name.to_owned()), |path| TestFile::At(path.to_owned()));
            test_files.push(file);
            continue;
        }
        // rustfmt closes a block at the indentation it was opened at.
        let close = format!("{}}}", &item[..item.len() - item.trim_start().len()]);
        for inside in lines.by_ref() {
            if inside == close {
                break;
            }
        }
    }
    Production { code, test_files }
}

/// The name of the module that a line declares.
fn module_name(line: &str) -> Option<&str> {
    let (_, rest) = line
        .trim()
        .split_once("mod ")
        .filter(|(before, _)| before.is_empty() || before.starts_with("pub"))?;
    Some(rest.trim_end_matches([';', '{', ' ']))
}

#[test]
fn lower_modules_do_not_use_higher_ones() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let wrong: Vec<String> = sources.iter().flat_map(|(file, code)| upward(file, code)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Uses of modules above that of the file, each as a line for a reader.
fn upward(file: &Path, code: &str) -> Vec<String> {
    let module = file.iter().next().and_then(|part| part.to_str()).expect("a name").trim_end_matches(".rs");
    let layer_of = |module: &str| LAYERS.iter().position(|name| *name == module);
    let layer = layer_of(module).unwrap_or_else(|| panic!("{module} has no layer"));
    let used = uses(code).into_iter().filter_map(|path| path.into_iter().next());
    used.filter(|used| layer_of(used).is_some_and(|other| other > layer))
        .map(|used| format!("{} uses {used}", file.display()))
        .collect()
}

/// Paths that start at the crate root, each as its segments; a group counts as one path an element.
fn uses(code: &str) -> Vec<Vec<String>> {
    code.match_indices("crate::")
        .filter(|(at, _)| !code[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '$'))
        .flat_map(|(at, found)| paths(&code[at + found.len()..]))
        .collect()
}

/// Paths at the start of a text: one, or those of a group in braces.
fn paths(text: &str) -> Vec<Vec<String>> {
    let Some(group) = text.strip_prefix('{') else { return element(text).into_iter().collect() };
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                found.extend(element(&group[start..at]));
                start = at + 1;
            }
            '}' => {
                found.extend(element(&group[start..at]));
                break;
            }
            _ => {}
        }
    }
    found
}

/// The path at the start of a text, without a group or a list of arguments behind it.
fn element(text: &str) -> Option<Vec<String>> {
    let is_part = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    let path: String = text.trim_start().chars().take_while(|character| is_part(*character)).collect();
    let segments: Vec<String> =
        path.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
    (!segments.is_empty()).then_some(segments)
}

#[test]
fn groups_and_single_paths_are_seen() {
    let code = "use crate::{\n    tunnel::Tunnel,\n    stats::{Stats, DropReason},\n};\nlet x = crate::nat::Nat::new(1);";
    let first: Vec<String> = uses(code).into_iter().map(|path| path[0].clone()).collect();
    assert_eq!(first, ["tunnel", "stats", "nat"]);
}

#[test]
fn an_import_behind_the_declaration_of_tests_is_found() {
    let text =
        "//! Tables.\n#[cfg(test)]\nmod tests;\n\nuse crate::{\n    packet::Flow,\n    tunnel::Tunnel,\n};\n";
    let found = production(text);
    assert_eq!(found.test_files, [TestFile::Named("tests".to_owned())]);
    assert_eq!(found.test_files[0].module(Path::new("nat/mod.rs")), Path::new("nat/tests"));
    assert_eq!(upward(Path::new("nat/mod.rs"), &found.code), ["nat/mod.rs uses tunnel"]);
    // As it is in the lowest modules, and of a single path in the middle of a function.
    let text = "#[cfg(test)]\npub(crate) mod samples;\nfn now() {\n    crate::nat::Nat::new();\n}\n";
    assert_eq!(upward(Path::new("packet/mod.rs"), &production(text).code), ["packet/mod.rs uses nat"]);
}

#[test]
fn blocks_of_tests_are_left_out_and_nothing_else() {
    let text = "use crate::stats::Stats;\n#[cfg(test)]\nmod tests {\n    use crate::tunnel::Tunnel;\n    fn test() {\n    }\n}\n\
                #[cfg(test)]\nuse crate::event::Event;\n// use crate::sink::Sink;\nuse crate::nat::Nat;\n";
    let found = production(text);
    assert_eq!(
        upward(Path::new("packet/ip.rs"), &found.code),
        ["packet/ip.rs uses event", "packet/ip.rs uses nat"]
    );
}

#[test]
fn files_of_tests_are_found_where_their_declaration_says() {
    let text = "#[cfg(test)]\n#[path = \"tests/keyring.rs\"]\nmod tests;\n";
    let found = production(text).test_files;
    assert_eq!(found, [TestFile::At("tests/keyring.rs".to_owned())]);
    assert_eq!(found[0].module(Path::new("crypto/keyring.rs")), Path::new("crypto/tests/keyring"));
}
