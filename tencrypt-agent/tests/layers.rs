//! A module of the program uses only modules below it, tests included; so there is no circle among them.

use std::{fs, path::Path};

/// Top-level modules of the program from the bottom up.
const LAYERS: [&str; 15] = [
    "escape",
    "hex",
    "layout",
    "report",
    "failure",
    "logging",
    "os",
    "config",
    "keys",
    "node",
    "lane",
    "control",
    "supervisor",
    "demo",
    "commands",
];

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| *layer == module);
    found.unwrap_or_else(|| panic!("`{module}` is in no layer: give it one here"))
}

/// Calls `look` with the text of every source file, its top-level module and its name.
fn each_source(folder: &Path, module: Option<&str>, look: &mut dyn FnMut(&str, &str, &str)) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("UTF-8");
        match module {
            None if ["lib", "main"].contains(&stem) => {}
            _ if path.is_dir() => each_source(&path, module.or(Some(stem)), look),
            _ => {
                let text = fs::read_to_string(&path).expect("a source file");
                look(&text, module.unwrap_or(stem), &path.display().to_string());
            }
        }
    }
}

/// The top-level modules that a text names behind `crate::`, alone or in braces.
fn used(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code: String = lines.flat_map(|line| line.chars().filter(|char| !char.is_whitespace())).collect();
    let mut modules = Vec::new();
    for behind in code.split("crate::").skip(1) {
        let Some(list) = behind.strip_prefix('{') else {
            modules.push(first_word(behind));
            continue;
        };
        let (mut depth, mut begins) = (0_usize, true);
        for (at, char) in list.char_indices() {
            if begins {
                modules.push(first_word(&list[at..]));
            }
            begins = depth == 0 && char == ',';
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    // Behind the last comma there is none.
    modules.retain(|module| !module.is_empty());
    modules
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|char| char.is_ascii_alphanumeric() || *char == '_').collect()
}

#[test]
fn every_way_to_name_a_module_is_read() {
    let text = "use crate::{\n    os::{files, sys}, // crate::no\n    report::Peers,\n};\nuse crate::keys;\n";
    assert_eq!(used(&format!("{text}let x = crate::lane::Lane::new();")), ["os", "report", "keys", "lane"]);
}

#[test]
fn every_module_uses_only_modules_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    each_source(&src, None, &mut |text, module, file| {
        files += 1;
        for used in used(text).iter().filter(|used| *used != module) {
            assert!(layer(used) < layer(module), "{file} uses `{used}`, which is not below `{module}`");
        }
    });
    assert!(files > 40, "the sources were not found");
}
