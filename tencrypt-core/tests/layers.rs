//! A module uses only modules below it.

use std::{fs, path::Path};

/// From the bottom up. `docs` of the order: ARCHITECTURE.md.
const LAYERS: [&str; 17] = [
    "keyed_hash",
    "stats",
    "packet",
    "offload",
    "record",
    "crypto",
    "trust",
    "session",
    "handshake",
    "news",
    "sink",
    "nat",
    "config",
    "directory",
    "event",
    "tunnel",
    "lib",
];

/// Where a lower module may name a type of a higher one.
const EXCEPTIONS: [(&str, &str); 1] = [
    // CipherSuite and SessionIndex are on the wire; drawing an index takes randomness.
    ("record", "crypto"),
];

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn lower_modules_do_not_use_higher_ones() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 30, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).expect("below src");
        let module =
            relative.iter().next().and_then(|part| part.to_str()).expect("a name").trim_end_matches(".rs");
        let layer =
            LAYERS.iter().position(|name| *name == module).unwrap_or_else(|| panic!("{module} has no layer"));
        let text = fs::read_to_string(&file).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for used in used_modules(code) {
            let Some(other) = LAYERS.iter().position(|name| *name == used) else { continue };
            if other > layer && !EXCEPTIONS.contains(&(module, &used)) {
                wrong.push(format!("{} uses {used}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first segment of every path that starts at the crate root, comments left out.
fn used_modules(code: &str) -> Vec<String> {
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::new(),
        |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        },
    );
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    _ if depth == 0 => name.push(character),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(
                rest.chars()
                    .take_while(|character| character.is_alphanumeric() || *character == '_')
                    .collect(),
            );
        }
    }
    found
        .into_iter()
        .map(|name| name.trim().split("::").next().unwrap_or_default().trim().to_owned())
        .collect()
}

#[test]
fn the_check_sees_groups_and_single_paths() {
    let code = "use crate::{\n    tunnel::Tunnel,\n    stats::{Stats, DropReason},\n};\nlet x = crate::nat::Nat::new(1);";
    assert_eq!(used_modules(code), ["tunnel", "stats", "", "nat"]);
}
