//! Tenants of a cluster: what the cluster's administrator says of each in a file, and what the API says of all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
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
    pub(crate) fn read_all(
        folder: &Path,
    ) -> Result<BTreeMap<String, Result<Self, TenantError>>, TenantError> {
        let read =
            |source: std::io::Error| TenantError::Read { path: folder.to_owned(), source: source.into() };
        let mut tenants = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
                continue;
            };
            let Some(name) = name.strip_suffix(ENDING).filter(|name| !name.starts_with('.')) else {
                continue;
            };
            if tenants.len() == MAX {
                let reason = format!("more than {MAX} tenants");
                return Err(TenantError::Content { path: folder.to_owned(), reason });
            }
            tenants.insert(name.to_owned(), Self::read(name, &path));
        }
        Ok(tenants)
    }

    fn read(name: &str, path: &Path) -> Result<Self, TenantError> {
        files::name_of(Path::new(name))?;
        let TenantFile { namespaces: admits, pods_may_opt_out, limits } = TenantFile::read(path)?;
        if admits.contains("-") {
            let reason = "namespaces: `-` is no namespace of a cluster".to_owned();
            return Err(TenantError::Content { path: PathBuf::from(path), reason });
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
            id: keys.tenant.clone(),
            keys_id: keys.digest,
            keys: Keys::Held(keys),
            settings_id,
            certificates: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_says_which_namespaces_a_tenant_admits() {
        let folder = std::env::temp_dir().join(format!("tencrypt-node-{}-enrolled", std::process::id()));
        fs::create_dir_all(folder.join("..data")).unwrap();
        for (name, text) in [
            ("shop.toml", "namespaces = [\"shop\", \"shop-db\"]\n[limits]\nmemory_mib = 64\n"),
            ("bank.toml", "namespaces = [\"-\"]\n"),
            ("Bad.toml", "namespaces = []\n"),
            ("cut.toml", "namespaces = [\n"),
            ("README", "not a tenant"),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let read = Enrolled::read_all(&folder).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let shop = read["shop"].as_ref().unwrap();
        assert_eq!(shop.admits, ["shop", "shop-db"].map(str::to_owned).into());
        for (name, reason) in
            [("bank", "`-` is no namespace"), ("Bad", "a tenant's name has"), ("cut", "line ")]
        {
            let said = read[name].as_ref().unwrap_err().to_string();
            assert!(said.contains(reason), "{name}: {said}");
        }
        assert_eq!(read.len(), 4);
        assert!(Enrolled::read_all(&folder).is_err(), "the folder is gone");
    }
}
