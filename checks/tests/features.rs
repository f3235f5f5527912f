//! The manifests: the demo, and with it the laboratory, is of this workspace and not of the program's package; options of
//! `cargo bench` reach the benchmarks alone.

use std::{collections::BTreeSet, fs, process::Command};

use tencrypt_checks::{root, sources};

/// The packages that the program links, by `arguments` of `cargo tree`.
fn linked(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-f", "{p}"])
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_released_program_does_not_link_the_laboratory() {
    let released = linked(&["-p", "tencrypt-agent"]);
    assert!(released.contains("tencrypt-tun "), "{released}");
    assert!(!released.contains("tencrypt-lab "), "{released}");
    assert!(linked(&["-p", "tencrypt-agent", "--features", "demo"]).contains("tencrypt-lab "));
}

#[test]
fn the_cni_plugin_links_no_runtime_and_few_crates() {
    let linked = linked(&["-p", "tencrypt-cni"]);
    let crates: BTreeSet<&str> = linked.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("serde_json"), "{linked}");
    assert!(!crates.contains("tokio") && !crates.contains("clap"), "{linked}");
    // With those of the procedural macros, which are not in the program.
    assert!(crates.len() <= 20, "{} crates: {linked}", crates.len());
}

#[test]
fn cargo_bench_runs_the_benchmarks_alone() {
    for package in sources::packages(root()) {
        let text = fs::read_to_string(root().join(&package.folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let is_none =
            |target: &toml::Value| target.get("bench").and_then(toml::Value::as_bool) == Some(false);
        let programs: Vec<&toml::Value> =
            manifest.get("bin").and_then(toml::Value::as_array).into_iter().flatten().collect();
        let named: BTreeSet<&str> = programs.iter().filter_map(|program| program["name"].as_str()).collect();
        let roots = sources::crate_roots(root(), &package);
        // A program of another name has its path in the manifest.
        for path in roots.iter().filter(|path| !path.ends_with("lib.rs")) {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let is_named = named.contains(stem)
                || text.contains(&*path.strip_prefix(&package.folder).unwrap().to_string_lossy());
            assert!(is_named, "{} has no [[bin]] with `bench = false`", path.display());
        }
        assert!(programs.into_iter().all(is_none), "a program of {} lacks `bench = false`", package.name);
        if roots.iter().any(|path| path.ends_with("lib.rs")) {
            assert!(
                manifest.get("lib").is_some_and(is_none),
                "the library of {} lacks `bench = false`",
                package.name
            );
        }
    }
}
