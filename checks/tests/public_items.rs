//! The public items of each published library, as a list in `checks/public`: a change of what users see is a change of a file.
//!
//! The lists are made of rustdoc's JSON, which this toolchain gives out as an unstable feature (`RUSTC_BOOTSTRAP=1`), with all
//! features of the library. A toolchain whose JSON has another format cannot be compared, and fails by saying so.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;
use tencrypt_checks::{
    diff, root,
    sources::{self, Package},
};

/// The format of rustdoc's JSON that the crate `public-api`, in the version of this crate's manifest, was seen to read.
const FORMAT: u64 = 57;
/// A toolchain that writes it.
const TOOLCHAIN: &str = "1.95.0";
/// Rewrites the lists instead of comparing them.
const UPDATE: &str = "UPDATE_PUBLIC_ITEMS";

/// Most items of the core that its documentation shows: types, traits, functions and constants at module level. Fields,
/// variants, methods and associated constants are no items.
const MAX_SEEN: usize = 92;
/// Most items of the core that are public and not shown.
const MAX_HIDDEN: usize = 30;
/// The items that are public and not shown, a line each, with the reason behind it.
const HIDDEN: &str = "tencrypt-hidden.txt";

/// Documentation is made in one place: one library after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Packages whose library is no interface: the program promises none.
const PROGRAMS: [&str; 2] = ["tencrypt-agent", "tencrypt-node"];

#[test]
fn the_public_items_are_those_of_the_lists() {
    let packages = sources::packages(root());
    let libraries: Vec<&Package> = packages
        .iter()
        .filter(|package| package.is_published && !PROGRAMS.contains(&&*package.name))
        .collect();
    assert!(libraries.iter().any(|package| package.name == "tencrypt"), "{libraries:?}");
    let folder = root().join("checks/public");
    let mut differences = Vec::new();
    for package in &libraries {
        let path = folder.join(format!("{}.txt", package.name));
        let items = public_items(package, &[]);
        if env::var_os(UPDATE).is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, items).unwrap();
            continue;
        }
        let listed = fs::read_to_string(&path).unwrap_or_default();
        if let Some(difference) = diff::lines(&listed, &items) {
            differences.push(format!("checks/public/{}.txt\n{difference}", package.name));
        }
    }
    assert!(
        differences.is_empty(),
        "the public items have changed (- listed, + in the source):\n{}\nif that is meant: \
         {UPDATE}=1 cargo test -p tencrypt-checks --test public_items",
        differences.join("\n")
    );
    let lists = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for list in lists {
        let is_used =
            list == HIDDEN || libraries.iter().any(|package| format!("{}.txt", package.name) == list);
        assert!(is_used, "checks/public/{list} is of no published library");
    }
}

#[test]
fn the_core_has_few_items_and_each_hidden_one_has_its_reason() {
    let packages = sources::packages(root());
    let core = packages.iter().find(|package| package.name == "tencrypt").expect("the core");
    let seen_list = public_items(core, &[]);
    let whole_list = public_items(core, &["--document-hidden-items"]);
    let seen = module_items(&seen_list);
    let hidden: Vec<&str> = module_items(&whole_list).difference(&seen).copied().collect();
    println!("{} seen, {} hidden", seen.len(), hidden.len());
    let reasons = fs::read_to_string(root().join("checks/public").join(HIDDEN)).unwrap_or_default();
    let rows: Vec<(&str, &str)> = reasons.lines().filter_map(|line| line.split_once(": ")).collect();
    assert_eq!(rows.len(), reasons.lines().count(), "{HIDDEN}: `path: reason` in every line");
    let without: Vec<&str> = rows.iter().filter(|row| row.1.trim().is_empty()).map(|row| row.0).collect();
    assert!(without.is_empty(), "{HIDDEN}: no reason for {without:?}");
    let listed: Vec<&str> = rows.iter().map(|row| row.0).collect();
    assert_eq!(listed, hidden, "left: the lines of checks/public/{HIDDEN}, right: the source");
    assert!(seen.len() <= MAX_SEEN, "{} items are seen, more than {MAX_SEEN}: {seen:#?}", seen.len());
    assert!(hidden.len() <= MAX_HIDDEN, "{} items are hidden, more than {MAX_HIDDEN}", hidden.len());
}

/// The paths of a list's types, traits, functions and constants at module level. Modules and re-exported types of other
/// crates are none of them.
fn module_items(list: &str) -> BTreeSet<&str> {
    const KINDS: [&str; 8] = ["struct", "enum", "union", "trait", "fn", "const", "static", "type"];
    let lines = list
        .lines()
        .map(|line| line.rsplit_once("] ").filter(|_| line.starts_with("#[")).map_or(line, |(_, rest)| rest));
    let declared = lines.filter_map(|line| {
        let words = line.strip_prefix("pub ")?;
        let words = words.strip_prefix("const ").filter(|rest| rest.starts_with("fn ")).unwrap_or(words);
        let (kind, rest) = words.split_once(' ')?;
        let is_path = |character: char| character.is_ascii_alphanumeric() || "_:".contains(character);
        let end = rest.find(|character| !is_path(character)).unwrap_or(rest.len());
        KINDS.contains(&kind).then(|| rest[..end].trim_end_matches(':'))
    });
    declared
        .filter(|path| {
            let (modules, _) = path.rsplit_once("::").unwrap_or_default();
            !modules.split("::").any(|module| module.starts_with(|first: char| first.is_ascii_uppercase()))
        })
        .collect()
}

#[test]
fn items_at_module_level_are_told_from_those_inside_of_them() {
    let list = "pub mod a\npub use a::Other\n#[non_exhaustive] pub struct a::b::One<'x>\npub a::b::One::field: u8\n\
                pub const a::b::One::ALL: [Self; 2]\npub const fn a::b::One::new() -> Self\npub const a::b::TWO: u8\n\
                pub const fn a::three(u8) -> u8\npub trait a::Four\npub type a::Four::Item\npub fn a::five<T>()\n";
    let found: Vec<&str> = module_items(list).into_iter().collect();
    assert_eq!(found, ["a::Four", "a::b::One", "a::b::TWO", "a::five", "a::three"]);
}

/// The list of a library: an item a line, as rustdoc shows them with these flags.
fn public_items(package: &Package, flags: &[&str]) -> String {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let json = document(package, flags);
    check_format(&json, package);
    let api = public_api::Builder::from_rustdoc_json(&json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap_or_else(|error| panic!("{}: {error}", json.display()));
    api.items().map(|item| format!("{item}\n")).collect()
}

/// Makes rustdoc's JSON of a library, in a target folder of its own: flags differ from those of other builds.
fn document(package: &Package, flags: &[&str]) -> PathBuf {
    let target = root().join("target/public-items");
    let output = Command::new(env!("CARGO"))
        .args(["rustdoc", "--locked", "--quiet", "-p", &package.name, "--lib", "--all-features"])
        .args(["--config", "build.rustdocflags=[]", "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"])
        .args(flags)
        .current_dir(root())
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTDOCFLAGS")
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "rustdoc gave no JSON of {}; the lists of public items need the toolchain {TOOLCHAIN} \
         (`cargo +{TOOLCHAIN} test -p tencrypt-checks --test public_items`):\n{}",
        package.name,
        String::from_utf8_lossy(&output.stderr)
    );
    target.join("doc").join(format!("{}.json", package.name.replace('-', "_")))
}

fn check_format(json: &Path, package: &Package) {
    let text = fs::read_to_string(json).unwrap_or_else(|error| panic!("{}: {error}", json.display()));
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let format = document["format_version"].as_u64();
    assert!(
        format == Some(FORMAT),
        "rustdoc's JSON of {} has format {format:?}, the lists of public items are made of format {FORMAT}. Run this with the \
         toolchain {TOOLCHAIN} (`cargo +{TOOLCHAIN} test -p tencrypt-checks --test public_items`), or go over to the new \
         format: set FORMAT and TOOLCHAIN in checks/tests/public_items.rs, and in checks/Cargo.toml the version of \
         public-api that reads it",
        package.name
    );
}
