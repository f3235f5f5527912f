//! The faces of the published libraries, read from the kept lists of their public items: no type of a third-party crate that
//! is not re-exported.

use std::{collections::BTreeSet, fs};

use tencrypt_checks::{faces, root, sources};

/// Libraries whose lists are kept.
const LIBRARIES: [&str; 5] = ["tencrypt", "tencrypt-dns", "tencrypt-lab", "tencrypt-tun", "tencrypt-udp"];

/// Types of third-party crates that a library may name, each with the path that it re-exports it at: a user who needs the
/// type need not guess the crate's version.
const REEXPORTS: [(&str, &str, &str); 6] = [
    ("tencrypt", "ipnet::ipnet::IpNet", "tencrypt::IpNet"),
    ("tencrypt", "zeroize::Zeroizing", "tencrypt::crypto::Zeroizing"),
    ("tencrypt-lab", "ipnet::ipnet::IpNet", "tencrypt_lab::IpNet"),
    ("tencrypt-lab", "ipnet::ipnet::Ipv4Net", "tencrypt_lab::Ipv4Net"),
    ("tencrypt-lab", "ipnet::ipnet::Ipv6Net", "tencrypt_lab::Ipv6Net"),
    ("tencrypt-tun", "ipnet::ipnet::IpNet", "tencrypt_tun::IpNet"),
];

/// The name of a package's library in paths.
fn path_name(package: &str) -> String {
    package.replace('-', "_")
}

fn list(package: &str) -> String {
    let path = root().join("checks/public").join(format!("{package}.txt"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_third_party_type_in_a_face_is_re_exported() {
    let family: Vec<String> =
        sources::packages(root()).iter().map(|package| path_name(&package.name)).collect();
    let mut offences = Vec::new();
    let mut used = BTreeSet::new();
    for package in LIBRARIES {
        let text = list(package);
        for (path, line) in faces::foreign(&text, &family) {
            let row = REEXPORTS.iter().find(|row| (row.0, row.1) == (package, path));
            let is_there = |reexport: &str| text.lines().any(|line| line == format!("pub use {reexport}"));
            match row {
                Some(row) if is_there(row.2) => drop(used.insert(*row)),
                Some(row) => offences.push(format!("{package}: {path} is not re-exported as {}", row.2)),
                None => offences.push(format!("{package} names {path}: {line}")),
            }
        }
    }
    let unused = REEXPORTS.iter().filter(|row| !used.contains(*row));
    offences.extend(unused.map(|row| format!("no item of {} needs {}: the row is stale", row.0, row.1)));
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}
