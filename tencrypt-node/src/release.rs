//! Programs and settings: what a data path is started with.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::{digest::Digest, tenant::Tenant};

/// Longest program in bytes. Statically linked with debugging information it has some 60 million.
const LIMIT: u64 = 1 << 30;

/// A program for data paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The file, as the namespace of process 1 has it where data paths are started there.
    pub(crate) path: PathBuf,
    /// The sum of its content.
    pub(crate) id: Digest,
}

impl Program {
    /// Takes the program in the file at `path`.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let mut content = Vec::new();
        File::open(path)?.take(LIMIT).read_to_end(&mut content)?;
        Ok(Self { path: path.to_owned(), id: Digest::of([&*content]) })
    }
}

/// A program and a tenant's files: all that a data path is started with.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    /// Its program.
    pub(crate) program: Rc<Program>,
    /// Its tenant, as the files were.
    pub(crate) tenant: Rc<Tenant>,
}

impl Release {
    /// The tag that its data paths carry: `TENANT/PROGRAM-SETTINGS`. A later agent knows by it what they were started with.
    pub(crate) fn tag(&self) -> String {
        format!("{}/{}-{}", self.tenant.name(), self.program.id, self.tenant.settings_id)
    }
}

/// The tenant in a tag that an agent has given.
pub(crate) fn tenant_of(tag: &str) -> Option<&str> {
    tag.split_once('/').map(|(tenant, _)| tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_content() {
        let path = std::env::temp_dir().join(format!("tencrypt-node-{}-program", std::process::id()));
        std::fs::write(&path, "one").unwrap();
        let one = Program::read(&path).unwrap();
        assert_eq!(Program::read(&path).unwrap(), one);
        std::fs::write(&path, "two").unwrap();
        assert_ne!(Program::read(&path).unwrap().id, one.id);
        std::fs::remove_file(&path).unwrap();
        assert!(Program::read(&path).is_err());
    }

    #[test]
    fn the_tenant_stands_in_front_of_a_tag() {
        assert_eq!(tenant_of("shop/0a1b-2c3d"), Some("shop"));
        assert_eq!(tenant_of("v1"), None);
    }
}
