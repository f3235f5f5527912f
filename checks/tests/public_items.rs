//! The public items of each published library, as a list in `checks/public`: a change of what users see is a change of a file.
//!
//! The lists are made of rustdoc's JSON, which this toolchain gives out as an unstable feature (`RUSTC_BOOTSTRAP=1`), with all
//! features of the library. A toolchain whose JSON has another format cannot be compared, and fails by saying so.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
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

/// Packages whose library is no interface: the program promises none.
const PROGRAMS: [&str; 1] = ["tencrypt-agent"];

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
        let items = public_items(package);
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
        let is_used = libraries.iter().any(|package| format!("{}.txt", package.name) == list);
        assert!(is_used, "checks/public/{list} is of no published library");
    }
}

/// The list of a library: an item a line.
fn public_items(package: &Package) -> String {
    let json = document(package);
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
fn document(package: &Package) -> PathBuf {
    let target = root().join("target/public-items");
    let output = Command::new(env!("CARGO"))
        .args(["rustdoc", "--locked", "--quiet", "-p", &package.name, "--lib", "--all-features"])
        .args(["--config", "build.rustdocflags=[]", "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"])
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
