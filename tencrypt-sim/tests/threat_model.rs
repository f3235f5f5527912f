//! docs/threat-model.md names a test for each promise. They have to be there, under those names.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Beginnings of names, and the crates they mean.
const CRATES: [(&str, &str); 9] = [
    ("agent", "tencrypt-agent"),
    ("benches", "benches"),
    ("cni", "tencrypt-cni"),
    ("core", "tencrypt-core"),
    ("dns", "tencrypt-dns"),
    ("node", "tencrypt-node"),
    ("sim", "tencrypt-sim"),
    ("tun", "tencrypt-tun"),
    ("udp", "tencrypt-udp"),
];

/// The rows of the list of bad input that the protocol answers for.
fn rows() -> impl Iterator<Item = String> {
    let wire = (1..=29).map(|number| format!("W{number:02}"));
    wire.chain((4..=11).filter(|number| *number != 7).map(|number| format!("L{number:02}")))
}

/// The spans in code font.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Tells if a span is a test's name. One that leaves out where the test is counts too, and is not found.
fn is_name(span: &str) -> bool {
    let of_code = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    span.chars().all(of_code) && (span.contains("::") || span.matches('_').count() >= 3)
}

/// The tests of a file.
fn tests_in(source: &str) -> Vec<&str> {
    let mut tests = Vec::new();
    let mut attributes = Vec::new();
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") {
            attributes.push(line);
            continue;
        }
        if line.starts_with("//") {
            continue;
        }
        let name =
            line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
        let is_test =
            |attribute: &&str| attribute.starts_with("#[test") || attribute.starts_with("#[tokio::test");
        if let Some(name) = name
            && attributes.iter().any(is_test)
            && !attributes.iter().any(|attribute| attribute.starts_with("#[ignore"))
        {
            tests.push(name);
        }
        attributes.clear();
    }
    tests
}

/// The sources below a folder that a path of modules means: a file of its name, or all in a folder of its name that makes
/// one test program.
fn files(folder: &Path, modules: &[&str]) -> Vec<PathBuf> {
    let path = modules.iter().fold(folder.to_owned(), |path, module| path.join(module));
    let file = path.with_extension("rs");
    if file.is_file() {
        return vec![file];
    }
    if !path.join("main.rs").is_file() {
        return Vec::new();
    }
    let entries = fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Tells if there is such a test, or a file of tests.
fn exists(root: &Path, name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let Some((_, dir)) = CRATES.iter().find(|(short, _)| parts.first() == Some(short)) else { return false };
    let modules = &parts[1..];
    let tests_of = |modules: &[&str]| -> Vec<String> {
        let files = ["tests", "src"].iter().flat_map(|folder| files(&root.join(dir).join(folder), modules));
        let sources = files.map(|file| fs::read_to_string(file).expect("a source"));
        sources
            .flat_map(|source| tests_in(&source).into_iter().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    match modules {
        [] => false,
        [file] => !tests_of(&[file]).is_empty(),
        [file @ .., test] => tests_of(file).iter().any(|name| name == test) || !tests_of(modules).is_empty(),
    }
}

/// Names in a text that mean no test, and how many there are in all.
fn missing(root: &Path, text: &str) -> (Vec<String>, usize) {
    let names: Vec<&str> = spans(text).filter(|span| is_name(span)).collect();
    let missing = names.iter().filter(|name| !exists(root, name)).map(|name| (*name).to_owned());
    (missing.collect(), names.len())
}

/// Rows that a text does not have, or names no test for.
fn unproven(text: &str) -> Vec<String> {
    let proven = |row: &String| {
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("| {row} |")));
        let line = lines.next().filter(|_| lines.next().is_none());
        line.is_some_and(|line| spans(line).any(|span| is_name(span) && span.contains("::")))
    };
    rows().filter(|row| !proven(row)).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_test_that_the_threat_model_names_is_there_and_every_row_has_one() {
    let text = fs::read_to_string(root().join("docs/threat-model.md")).expect("the threat model");
    let (missing, names) = missing(&root(), &text);
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    assert!(names > 150, "only {names} names were found");
    assert_eq!(unproven(&text), Vec::<String>::new(), "rows without a test");
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    let here = "`sim::threat_model::a_test_that_is_not_there_is_missed`, `sim::threat_model`, `sim::bad_input`, \
        `sim::bad_input::reset_with_any_field_wrong_is_dropped_and_counted`, `core::session::tests`, `rate_limited`, \
        `unknown = \"plain\"`, `core::crypto::tests::wycheproof::x25519`";
    assert_eq!(missing(&root(), here), (Vec::new(), 6));
    let gone = [
        "sim::threat_model::no_such_test",
        "sim::no_such_file",
        "sim::no_such_file::and_test",
        "nowhere::threat_model",
        // What is no test, and a name without its place.
        "sim::threat_model::missing",
        "a_test_that_is_not_there_is_missed",
    ];
    for name in gone {
        let (missing, names) = missing(&root(), &format!("a promise, `{name}`"));
        assert_eq!((missing.len(), names), (1, 1), "{name}");
    }
    assert_eq!(tests_in("#[test]\n#[ignore]\nfn a() {}\n#[test]\nfn b() {}\nfn c() {}"), ["b"]);
    let table =
        "| W01 | x | y | `sim::wire` |\n| W02 | x | y | |\n| W03 | `sim::wire` |\n| W03 | `sim::wire` |";
    assert_eq!(unproven(table)[..2], ["W02", "W03"]);
    assert_eq!(unproven(table).len(), rows().count() - 1);
}
