//! The packages that are published stand alone: each resolves the others to nothing but the packages made with it, has
//! what the registry and a reader need, and the program in its README compiles and runs outside of this workspace.
//!
//! `cargo test -p tencrypt-checks --features packages --test packages`
//!
//! The tree must be committed; `TENCRYPT_PACKAGES_ALLOW_DIRTY=1` lets it be otherwise. Everything is built in
//! `target/packages`. `CARGO_NET_OFFLINE=true` keeps it from the network once the workspace's dependencies are there.

mod cargo;
mod lock;
mod made;
mod manifest;
mod outside;
mod readme;

use std::{fs, path::Path, sync::LazyLock};

use crate::{made::Package, outside::Outside};

/// The packages that are published, in no order; everything else says `publish = false`.
const PUBLISHED: [&str; 8] = [
    "tencrypt",
    "tencrypt-agent",
    "tencrypt-cni",
    "tencrypt-dns",
    "tencrypt-lab",
    "tencrypt-node",
    "tencrypt-tun",
    "tencrypt-udp",
];

/// The packages, made and verified once for all tests.
static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(made::packages);

#[test]
fn the_published_packages_are_these() {
    assert_eq!(manifest::publishable(), PUBLISHED);
}

#[test]
fn each_package_resolves_the_others_to_the_packages_just_made() {
    let made = made::checksums(&PACKAGES);
    for package in PACKAGES.iter() {
        let text = package.read("Cargo.lock");
        assert_eq!(lock::strangers(&text, &package.name, &made), [""; 0], "{}", package.name);
        // Who depends on one of ours has it in the lock; an empty lock would pass the line above.
        let locked = lock::names(&text);
        for ours in manifest::dependencies(&package.read("Cargo.toml")).filter(|name| is_ours(name)) {
            assert!(locked.contains(&ours), "{}: {ours} is not locked", package.name);
            assert!(made.contains_key(&ours), "{}: {ours} is not published by us", package.name);
        }
    }
}

#[test]
fn each_package_has_what_the_registry_and_a_reader_need() {
    for package in PACKAGES.iter() {
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let original = fs::read_to_string(cargo::root().join(licence)).expect("the licence");
            assert_eq!(package.read(licence), original, "{}: {licence}", package.name);
        }
        assert!(!package.folder.join("tests/vectors").exists(), "{}: test vectors", package.name);
        assert_eq!(
            manifest::shortcomings(&package.read("Cargo.toml"), &package.name),
            [""; 0],
            "{}",
            package.name
        );
        assert_eq!(readme::local_links(&package.read("README.md")), [""; 0], "{}: README.md", package.name);
    }
}

#[test]
fn the_program_in_each_readme_works_outside_of_this_workspace() {
    let outside = Outside::new(&PACKAGES);
    let mut programs = 0;
    for package in PACKAGES.iter() {
        if let Some(program) = readme::program(&package.read("README.md")) {
            outside.run_program(&package.name, &program);
            programs += 1;
        }
    }
    assert_eq!(programs, PUBLISHED.len() - 2, "all but the two programs have one");
}

#[test]
fn the_program_builds_from_its_package_and_makes_a_key() {
    let outside = Outside::new(&PACKAGES);
    let agent = PACKAGES.iter().find(|package| package.name == "tencrypt-agent").expect("the program");
    let program = outside.build_bin(agent, "tencrypt");
    let version = outside.output(&program, &["--version"]);
    assert_eq!(version.trim(), format!("tencrypt {}", agent.version));
    let key = outside.folder().join("shop.key");
    outside.output(&program, &["genkey", &key.to_string_lossy()]);
    assert!(fs::read_to_string(key).expect("the key file").starts_with("tencrypt-key-v1\n"));
}

/// Says whether a name is one of this project's, or pretends to be.
fn is_ours(name: &str) -> bool {
    name == "tencrypt" || name.starts_with("tencrypt-")
}

/// Copies a folder and what is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder of the package") {
        let entry = entry.expect("a file of the package");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).expect("a copy");
        }
    }
}
