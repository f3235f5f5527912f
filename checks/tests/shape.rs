//! The shape of the source: small files and functions, no circle among the files of a crate, doc comments that say and do not
//! ask, references that lead somewhere, nothing silenced.
//!
//! `cargo test -p tencrypt-checks --test shape -- --nocapture` prints the files, arrows and circles of each crate.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tencrypt_checks::{
    Offence,
    arrows::Plan,
    comments, lines, references, root,
    sources::{self, Room},
    syntax, tokens,
};

fn assert_none(offences: impl IntoIterator<Item = Offence>) {
    let offences: Vec<Offence> = offences.into_iter().collect();
    let said: Vec<String> = offences.iter().map(ToString::to_string).collect();
    assert!(offences.is_empty(), "{} offences\n{}", offences.len(), said.join("\n"));
}

/// All files of Rust with their text.
fn rust() -> Vec<(PathBuf, String)> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|end| end == "rs");
    let files: Vec<_> = sources::files(root())
        .into_iter()
        .filter(is_rust)
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).unwrap();
            (path, text)
        })
        .collect();
    assert!(files.len() > 300, "the sources were not found");
    files
}

/// The files of each library and program, by its root file.
fn crates() -> Vec<(PathBuf, Vec<Room>)> {
    let packages = sources::packages(root());
    let roots = packages.iter().flat_map(|package| sources::crate_roots(root(), package));
    let crates: Vec<_> = roots.map(|path| (path.clone(), sources::rooms(root(), &path))).collect();
    assert!(crates.len() > 10, "the crates were not found");
    crates
}

#[test]
fn no_function_is_longer_than_60_lines() {
    let rooms = crates().into_iter().flat_map(|(_, rooms)| rooms).filter(|room| !room.is_test_only);
    assert_none(rooms.flat_map(|room| syntax::long_functions(&room.path, &room.syntax)));
}

#[test]
fn there_is_no_circle_among_the_files_of_a_crate() {
    let mut offences = Vec::new();
    for (path, rooms) in crates() {
        let plan = Plan::of(&rooms);
        println!("{}: {}", path.display(), plan.summary());
        offences.extend(plan.offences());
    }
    assert_none(offences);
}

#[test]
fn no_file_is_longer_than_500_lines_nor_800_with_its_tests() {
    let tests: Vec<PathBuf> = crates()
        .into_iter()
        .flat_map(|(_, rooms)| rooms)
        .filter(|room| room.is_test_only)
        .map(|room| room.path)
        .collect();
    let is_test = |path: &Path| {
        path.components().any(|part| part.as_os_str() == "tests") || tests.iter().any(|test| test == path)
    };
    let too_long = |(path, text): (PathBuf, String)| {
        lines::too_long(&path, &text, &syntax::parse(&path, &text), is_test(&path))
    };
    assert_none(rust().into_iter().filter_map(too_long));
}

#[test]
fn no_doc_comment_begins_with_a_question() {
    assert_none(rust().iter().flat_map(|(path, text)| comments::questions(path, text)));
}

#[test]
fn every_reference_to_a_document_leads_to_one() {
    let read = |path: PathBuf| fs::read_to_string(root().join(&path)).ok().map(|text| (path, text));
    let texts = sources::files(root()).into_iter().filter_map(read);
    assert_none(texts.flat_map(|(path, text)| references::dead(root(), &path, &text)));
}

#[test]
fn unsafe_code_has_its_file_and_nothing_is_silenced_or_left_to_be_written() {
    assert_none(rust().iter().flat_map(|(path, text)| tokens::misplaced(path, text)));
}
