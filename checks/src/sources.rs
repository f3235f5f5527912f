//! The files of the repository, its packages, and the files that make a program or library.

use std::{
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item};

use crate::syntax::{is_test_only, parse};

/// Folders that hold no text of the repository: what was built, and what fuzzing found.
const LEFT_OUT: [&str; 4] = ["target", "corpus", "corpus-run", "artifacts"];
/// The only folder with a leading dot that does.
const CI: &str = ".ci";

/// A package of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "for the tests of this repository alone")]
pub struct Package {
    /// Its name in its manifest.
    pub name: String,
    /// Its folder, relative to the root.
    pub folder: PathBuf,
    /// It may be published.
    pub is_published: bool,
    /// Its features, without `default`.
    pub features: Vec<String>,
}

/// A file of a crate: one place in its tree of modules.
#[expect(clippy::exhaustive_structs, reason = "for the tests of this repository alone")]
pub struct Room {
    /// The file, relative to the root.
    pub path: PathBuf,
    /// Its module, from the crate's root; empty for the root itself.
    pub module: Vec<String>,
    /// Its text.
    pub text: String,
    /// Its syntax.
    pub syntax: syn::File,
    /// It is compiled for tests alone.
    pub is_test_only: bool,
}

/// The files below `root` in the order of their paths, relative to it.
///
/// # Panics
/// A folder cannot be read.
#[must_use]
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry of the folder").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !LEFT_OUT.contains(&name) && (!name.starts_with('.') || name == CI) {
                walk(root, &path, found);
            }
        } else {
            found.push(path.strip_prefix(root).expect("below the root").to_owned());
        }
    }
}

/// The members of the workspace at `root`, in the order of its manifest.
///
/// # Panics
/// A manifest is missing or is none.
#[must_use]
pub fn packages(root: &Path) -> Vec<Package> {
    let workspace = manifest(root);
    let members = workspace["workspace"]["members"].as_array().expect("members");
    members.iter().map(|member| package(root, member.as_str().expect("a folder").into())).collect()
}

fn manifest(folder: &Path) -> toml::Table {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn package(root: &Path, folder: PathBuf) -> Package {
    let manifest = manifest(&root.join(&folder));
    let package = &manifest["package"];
    let features = manifest.get("features").and_then(toml::Value::as_table);
    Package {
        name: package["name"].as_str().expect("a name").to_owned(),
        folder,
        is_published: package.get("publish").and_then(toml::Value::as_bool).unwrap_or(true),
        features: features
            .into_iter()
            .flat_map(toml::Table::keys)
            .filter(|feature| *feature != "default")
            .cloned()
            .collect(),
    }
}

/// The root files of the library and the programs of `package`, relative to `root`.
#[must_use]
pub fn crate_roots(root: &Path, package: &Package) -> Vec<PathBuf> {
    let source = package.folder.join("src");
    let mut roots = vec![source.join("lib.rs"), source.join("main.rs")];
    let programs = source.join("bin");
    if let Ok(entries) = fs::read_dir(root.join(&programs)) {
        for entry in entries.flatten() {
            let path = programs.join(entry.file_name());
            roots.extend([path.clone(), path.join("main.rs")]);
        }
    }
    roots.retain(|path| path.extension().is_some_and(|end| end == "rs") && root.join(path).is_file());
    roots.sort();
    roots
}

/// The file `crate_root` and all files that its `mod` declarations lead to.
///
/// # Panics
/// A file is missing or is no Rust.
#[must_use]
pub fn rooms(root: &Path, crate_root: &Path) -> Vec<Room> {
    let mut found = Vec::new();
    let folder = crate_root.parent().expect("a file in a folder").to_owned();
    enter(root, crate_root.to_owned(), &folder, Vec::new(), false, &mut found);
    found
}

fn enter(
    root: &Path,
    path: PathBuf,
    folder: &Path,
    module: Vec<String>,
    is_test: bool,
    found: &mut Vec<Room>,
) {
    let text =
        fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let syntax = parse(&path, &text);
    let mut below = Vec::new();
    declared(&syntax.items, folder, &module, is_test, path.parent().expect("a folder"), &mut below);
    found.push(Room { path, module, text, syntax, is_test_only: is_test });
    for Declared { candidates, module, is_test } in below {
        let path = candidates.iter().find(|path| root.join(path).is_file());
        let path = path.unwrap_or_else(|| panic!("none of {candidates:?} is there")).clone();
        let is_folder = path.ends_with("mod.rs");
        let folder =
            if is_folder { path.parent().expect("a folder").to_owned() } else { path.with_extension("") };
        enter(root, path, &folder, module, is_test, found);
    }
}

/// A `mod name;`.
struct Declared {
    candidates: Vec<PathBuf>,
    module: Vec<String>,
    is_test: bool,
}

fn declared(
    items: &[Item],
    folder: &Path,
    module: &[String],
    is_test: bool,
    beside: &Path,
    found: &mut Vec<Declared>,
) {
    for item in items {
        let Item::Mod(declaration) = item else { continue };
        let name = declaration.ident.to_string();
        let module: Vec<String> = module.iter().cloned().chain([name.clone()]).collect();
        let is_test = is_test || is_test_only(&declaration.attrs);
        if let Some((_, items)) = &declaration.content {
            declared(items, &folder.join(&name), &module, is_test, beside, found);
            continue;
        }
        let candidates = match path_attribute(&declaration.attrs) {
            Some(path) => vec![beside.join(path)],
            None => vec![folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")],
        };
        found.push(Declared { candidates, module, is_test });
    }
}

/// The `x` of `#[path = "x"]`.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    let value = &attribute.meta.require_name_value().ok()?.value;
    match value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
        _ => None,
    }
}
