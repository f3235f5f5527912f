//! Whom a package's Cargo.lock names.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

use crate::is_ours;

fn packages(text: &str) -> Vec<Table> {
    let lock: Table = text.parse().expect("Cargo.lock is TOML");
    let packages = lock.get("package").and_then(Value::as_array).expect("Cargo.lock lists packages");
    packages.iter().map(|package| package.as_table().expect("a package").clone()).collect()
}

fn text<'p>(package: &'p Table, key: &str) -> Option<&'p str> {
    package.get(key).and_then(Value::as_str)
}

/// The names in a lock file.
pub(crate) fn names(lock: &str) -> BTreeSet<String> {
    packages(lock).iter().filter_map(|package| text(package, "name")).map(str::to_owned).collect()
}

/// One line for each package of our name in the lock file of the package `own` that is none of `made`, names with the
/// SHA-256 of what was packaged.
pub(crate) fn strangers(lock: &str, own: &str, made: &BTreeMap<String, String>) -> Vec<String> {
    let mut strangers = Vec::new();
    for package in packages(lock) {
        let name = text(&package, "name").expect("a package has a name");
        if !is_ours(name) {
            continue;
        }
        let checksum = text(&package, "checksum");
        let known = if name == own {
            checksum.is_none()
        } else {
            checksum == made.get(name).map(String::as_str) && checksum.is_some()
        };
        if !known {
            let version = text(&package, "version").unwrap_or("?");
            strangers.push(format!("{name} {version} with checksum {checksum:?} was not made here"));
        }
    }
    strangers
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "[[package]]\nname = \"tencrypt-dns\"\nversion = \"0.1.0\"\n\n\
                       [[package]]\nname = \"libc\"\nversion = \"0.2.1\"\nchecksum = \"00\"\n\n";

    fn made() -> BTreeMap<String, String> {
        [("tencrypt", "aa"), ("tencrypt-dns", "bb")].map(|(name, sum)| (name.into(), sum.into())).into()
    }

    fn with(name: &str, rest: &str) -> Vec<String> {
        let lock = format!("{OWN}[[package]]\nname = \"{name}\"\nversion = \"0.1.1\"\n{rest}\n");
        strangers(&lock, "tencrypt-dns", &made())
    }

    #[test]
    fn the_packages_just_made_are_no_strangers() {
        assert_eq!(with("tencrypt", "checksum = \"aa\""), [""; 0]);
    }

    #[test]
    fn a_lock_that_names_a_stranger_is_refused() {
        let others = [
            ("tencrypt-core", "checksum = \"aa\""), // a name of somebody else's
            ("tencrypt", "checksum = \"cc\""),      // our name, other content
            ("tencrypt", ""),                       // not from the registry at all
            ("tencrypt-sim", ""),                   // ours, and not published
        ];
        for (name, rest) in others {
            let found = with(name, rest);
            assert_eq!(found.len(), 1, "{name} {rest}: {found:?}");
            assert!(found[0].starts_with(&format!("{name} 0.1.1 ")), "{found:?}");
        }
    }
}
