//! The packages, as `cargo publish` would send them.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::PathBuf};

use sha2::{Digest as _, Sha256};

use crate::{PUBLISHED, cargo, manifest};

/// A package as it was made, and unpacked again by cargo, which has built it from there.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// SHA-256 of the archive, in hexadecimal: what the registry's index would say of it.
    pub(crate) checksum: String,
    pub(crate) folder: PathBuf,
}

impl Package {
    /// The text of a file in it.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn read(&self, file: &str) -> String {
        let path = self.folder.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// Makes all packages at once, so that they resolve each other, and has cargo build each alone.
pub(crate) fn packages() -> Vec<Package> {
    let folder = cargo::target().join("package");
    // What an earlier run has left could pass for what this one makes.
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("earlier packages can be removed");
    }
    cargo::forget_packages(&PUBLISHED.map(|name| format!("{name}-{}", manifest::workspace_version())));
    let mut arguments = vec!["package"];
    for name in PUBLISHED {
        arguments.extend(["-p", name]);
    }
    if env::var_os("TENCRYPT_PACKAGES_ALLOW_DIRTY").is_some() {
        arguments.push("--allow-dirty");
    }
    cargo::run(&cargo::root(), &arguments);

    let version = manifest::workspace_version();
    let package = |name: &str| {
        let archive = fs::read(folder.join(format!("{name}-{version}.crate"))).expect("the archive");
        Package {
            name: name.to_owned(),
            version: version.clone(),
            checksum: hexadecimal(&Sha256::digest(archive)),
            folder: folder.join(format!("{name}-{version}")),
        }
    };
    PUBLISHED.map(package).into()
}

/// The checksum of each package by its name.
pub(crate) fn checksums(packages: &[Package]) -> BTreeMap<String, String> {
    packages.iter().map(|package| (package.name.clone(), package.checksum.clone())).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
