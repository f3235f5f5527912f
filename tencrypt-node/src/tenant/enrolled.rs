//! Tenants of a cluster: what the cluster's administrator says of each in a file, and what the API says of all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    rc::Rc,
};

use ipnet::IpNet;

use super::{
    FactTexts, HeldKeys, Keys, MAX, Tenant, TenantError,
    files::{self, TenantFile},
    resolver::Resolver,
};
use crate::{digest::Digest, launch::Limits};

/// The end of the name of a tenant's file.
const ENDING: &str = ".toml";

/// Tenants by their names, each with what its file says, or the reason why that cannot be read.
pub(crate) type ByName = BTreeMap<String, Result<Enrolled, TenantError>>;

/// The settings of every pod of the cluster's tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodSettings {
    text: String,
    /// The ranges that are protected.
    pub(crate) protected: Vec<IpNet>,
}

/// A tenant of the cluster, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Enrolled {
    /// The namespaces that it admits.
    pub(crate) admits: BTreeSet<String>,
    /// Its pods may stay out by an annotation of theirs.
    pub(crate) pods_may_opt_out: bool,
    limits: Limits,
}

/// The cluster's nameservers, for all pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// The domain of the cluster's names.
    pub(crate) domain: String,
    /// The nameservers.
    pub(crate) nameservers: Vec<IpAddr>,
}

impl PodSettings {
    /// Reads the settings in the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or what stands there makes no settings.
    pub(crate) fn read(path: &Path) -> Result<Self, TenantError> {
        let text = files::text(path)?;
        let config = tencrypt_agent::config::Config::parse_given_in(&text, path)
            .map_err(|error| TenantError::Named(error.to_string()))?;
        Ok(Self { text: text.to_string(), protected: config.network.protected })
    }
}

impl Enrolled {
    /// Reads every tenant's file in `folder`. What cannot be read is an error of its own; hidden files, as those by which a volume of
    /// Kubernetes is exchanged, and files of other endings are passed over.
    ///
    /// # Errors
    /// The folder cannot be read, or has too many files.
    pub(crate) fn read_all(folder: &Path) -> Result<ByName, TenantError> {
        let read =
            |source: std::io::Error| TenantError::Read { path: folder.to_owned(), source: source.into() };
        let mut tenants = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let Some(file) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
                continue;
            };
            let Some(name) = tenant_of(&file) else { continue };
            if tenants.len() == MAX {
                let reason = format!("more than {MAX} tenants");
                return Err(TenantError::Content { path: folder.to_owned(), reason });
            }
            let wrong = |reason| TenantError::Content { path: path.clone(), reason };
            let tenant = files::text(&path).and_then(|text| Self::parse(name, &text).map_err(wrong));
            tenants.insert(name.to_owned(), tenant);
        }
        Ok(tenants)
    }

    /// Reads the same files where they are texts of a ConfigMap, which errors call `map`.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn read_map(map: &str, files: &BTreeMap<String, String>) -> Result<ByName, TenantError> {
        let named = files.iter().filter_map(|(file, text)| Some((file, tenant_of(file)?, text)));
        let tenants: ByName = named
            .map(|(file, name, text)| {
                let wrong = |reason| TenantError::Named(format!("{map}: {file}: {reason}"));
                (name.to_owned(), Self::parse(name, text).map_err(wrong))
            })
            .collect();
        if tenants.len() > MAX {
            return Err(TenantError::Named(format!("{map}: more than {MAX} tenants")));
        }
        Ok(tenants)
    }

    fn parse(name: &str, text: &str) -> Result<Self, String> {
        files::check_name(name)?;
        let TenantFile { namespaces: admits, pods_may_opt_out, limits } = TenantFile::parse(text)?;
        if admits.contains("-") {
            return Err("namespaces: `-` is no namespace of a cluster".to_owned());
        }
        Ok(Self { admits, pods_may_opt_out, limits })
    }

    /// Makes the tenant with what the API says: the `namespaces` that have its label, its keys, its facts.
    pub(crate) fn tenant(
        &self,
        name: &str,
        namespaces: BTreeSet<String>,
        keys: Rc<HeldKeys>,
        (settings, names): (&PodSettings, &Names),
        facts: FactTexts,
    ) -> Tenant {
        let resolver =
            Resolver::Cluster { domain: names.domain.clone(), nameservers: names.nameservers.clone() };
        let limits = self.limits;
        let settings_id =
            Digest::of([settings.text.as_bytes(), b"", &resolver.sum(), format!("{limits:?}").as_bytes()]);
        Tenant {
            name: name.to_owned(),
            namespaces,
            limits,
            settings: settings.text.clone(),
            authority: None,
            resolver,
            revocation: None,
            facts,
            marks: keys.marks.clone(),
            keys: Keys::Held(keys),
            settings_id,
            certificates: BTreeMap::new(),
        }
    }
}

/// The tenant that a file is of.
fn tenant_of(file: &str) -> Option<&str> {
    file.strip_suffix(ENDING).filter(|name| !name.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_says_which_namespaces_a_tenant_admits() {
        let folder = std::env::temp_dir().join(format!("tencrypt-node-{}-enrolled", std::process::id()));
        fs::create_dir_all(folder.join("..data")).unwrap();
        let files = BTreeMap::from(
            [
                ("shop.toml", "namespaces = [\"shop\", \"shop-db\"]\n[limits]\nmemory_mib = 64\n"),
                ("bank.toml", "namespaces = [\"-\"]\n"),
                ("Bad.toml", "namespaces = []\n"),
                ("cut.toml", "namespaces = [\n"),
                ("README", "not a tenant"),
            ]
            .map(|(name, text)| (name.to_owned(), text.to_owned())),
        );
        for (name, text) in &files {
            fs::write(folder.join(name), text).unwrap();
        }
        let in_folder = Enrolled::read_all(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let in_map = Enrolled::read_map("ConfigMap a/b", &files).unwrap();
        for (read, place) in
            [(in_folder, folder.display().to_string() + "/"), (in_map, "ConfigMap a/b: ".to_owned())]
        {
            let shop = read["shop"].as_ref().unwrap();
            assert_eq!(shop.admits, ["shop", "shop-db"].map(str::to_owned).into());
            for (name, reason) in [
                ("bank", "namespaces: `-` is no namespace"),
                ("Bad", "a tenant's name has"),
                ("cut", "line "),
            ] {
                let said = read[name].as_ref().unwrap_err().to_string();
                assert!(said.starts_with(&format!("{place}{name}.toml: {reason}")), "{said}");
            }
            assert_eq!(read.len(), 4);
        }
        assert!(Enrolled::read_all(&folder).is_err(), "the folder is gone");
    }

    #[test]
    fn a_map_with_more_tenants_than_a_node_has_is_refused() {
        let files =
            |count: usize| (0..count).map(|number| (format!("t{number}.toml"), String::new())).collect();
        assert_eq!(Enrolled::read_map("a", &files(MAX)).unwrap().len(), MAX);
        assert!(Enrolled::read_map("a", &files(MAX + 1)).is_err());
    }
}
