//! Statements of manifests.

use std::fs;

use toml::{Table, Value};

use crate::cargo;

/// The names of the workspace's packages that may be published, sorted.
pub(crate) fn publishable() -> Vec<String> {
    let text = cargo::run(&cargo::root(), &["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&text).expect("cargo's metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let published = packages.iter().filter(|package| package["publish"].is_null());
    let mut names: Vec<String> =
        published.map(|package| package["name"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

/// The version that all packages have.
pub(crate) fn workspace_version() -> String {
    let text = fs::read_to_string(cargo::root().join("Cargo.toml")).expect("the workspace's manifest");
    let manifest: Table = text.parse().expect("the workspace's manifest is TOML");
    manifest["workspace"]["package"]["version"].as_str().expect("a version").to_owned()
}

/// The packages that a packaged manifest depends on, in any section and under whatever name.
pub(crate) fn dependencies(manifest: &str) -> impl Iterator<Item = String> {
    let manifest: Table = manifest.parse().expect("the manifest is TOML");
    let mut found = Vec::new();
    collect(&manifest, &mut found);
    found.into_iter()
}

fn collect(table: &Table, found: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            for (name, dependency) in inner {
                let package = dependency.get("package").and_then(Value::as_str);
                found.push(package.unwrap_or(name).to_owned());
            }
        } else if key != "package" {
            // `[target.'cfg(..)'.dependencies]`
            collect(inner, found);
        }
    }
}

/// One line for each thing that a packaged manifest lacks.
pub(crate) fn shortcomings(manifest: &str, name: &str) -> Vec<String> {
    let table: Table = manifest.parse().expect("the manifest is TOML");
    let package = table["package"].as_table().expect("a package");
    let mut lacks = Vec::new();
    for key in ["description", "license", "readme", "rust-version", "keywords", "categories", "documentation"]
    {
        if !package.contains_key(key) {
            lacks.push(format!("no `{key}`"));
        }
    }
    let documentation = format!("https://docs.rs/{name}");
    if package.get("documentation").and_then(Value::as_str) != Some(&documentation) {
        lacks.push("its documentation is somewhere else".to_owned());
    }
    if package.get("metadata").and_then(|metadata| metadata.get("docs")).is_none() {
        lacks.push("docs.rs is not told of the features".to_owned());
    }
    if dependencies(manifest).any(|dependency| dependency == "tencrypt-core") {
        lacks.push("`tencrypt-core` is a name of somebody else's".to_owned());
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_dependency_is_known_by_its_package() {
        let manifest = "[package]\nname = \"x\"\n[target.\"cfg(unix)\".dev-dependencies.tencrypt]\npackage = \"tencrypt-core\"\n";
        assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["tencrypt-core"]);
        let lacks = shortcomings(manifest, "x");
        assert!(lacks.contains(&"`tencrypt-core` is a name of somebody else's".to_owned()), "{lacks:?}");
    }
}
