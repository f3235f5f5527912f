//! A tenant: a folder of files, which its pods are given the content of.
//!
//! | file | content | must be there |
//! |---|---|---|
//! | `tenant.toml` | its namespaces, limits of each of its pods | yes |
//! | `pod.toml` | the settings of its pods | yes |
//! | `tenant.key` | its keys | yes |
//! | `ca.pub` | the public key of its authority | no |
//! | `revoked` | what the authority has revoked | no |
//! | `resolv.conf` | the nameservers of its pods | no |
//! | `facts.json` | what is of the tenant and what is not | no |
//! | `certificates/` | certificates of its pods | no |
//!
//! The folder is read as a whole: what is wrong in one file leaves all of what was there before in force.

mod enrolled;
mod error;
mod facts;
mod files;
mod held;
mod resolver;
mod twins;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use tencrypt_agent::node::{Kind, Order, OrderError};

pub(crate) use self::{
    enrolled::{Enrolled, Names, PodSettings},
    error::TenantError,
    facts::FactTexts,
    files::{KeyFiles, KeyMarks},
    held::HeldKeys,
    twins::refuse_twins,
};
use self::{files::TenantFile, resolver::Resolver};
use crate::{digest::Digest, launch::Limits};

/// Most tenants of a node.
pub(crate) const MAX: usize = 1_000;

/// A tenant as its folder had it, all of it good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenant {
    name: String,
    keys: Keys,
    /// The namespaces whose pods are of it; `-` stands for pods without one.
    pub(crate) namespaces: BTreeSet<String>,
    /// Limits of each of its pods.
    pub(crate) limits: Limits,
    settings: String,
    authority: Option<Vec<u8>>,
    resolver: Resolver,
    /// The revocation.
    pub(crate) revocation: Option<Vec<u8>>,
    /// The facts.
    pub(crate) facts: FactTexts,
    /// The marks of its key file: the keys themselves are not kept.
    pub(crate) marks: KeyMarks,
    /// The sum of what counts at the start of a program alone.
    pub(crate) settings_id: Digest,
    /// Its certificates by the public keys, in hex, that they are of.
    pub(crate) certificates: BTreeMap<String, Vec<u8>>,
}

/// The place of a tenant's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Keys {
    /// A file, which is read each time: they are kept nowhere.
    File(PathBuf),
    /// Memory: they have come over the network.
    Held(Rc<HeldKeys>),
}

impl Tenant {
    /// Reads the tenant in `folder`, whose name is its own.
    ///
    /// # Errors
    /// The first file that is missing or wrong.
    pub(crate) fn read(folder: &Path, key_files: &mut KeyFiles) -> Result<Self, TenantError> {
        let name = files::name_of(folder)?;
        let path = folder.join("tenant.toml");
        let description = TenantFile::read(&path)?;
        if description.pods_may_opt_out {
            let reason = "pods_may_opt_out: annotations are a cluster's".to_owned();
            return Err(TenantError::Content { path, reason });
        }
        let path = folder.join("pod.toml");
        let settings = files::text(&path)?;
        let config = tencrypt_agent::config::Config::parse_given_in(&settings, &path)
            .map_err(|error| TenantError::Named(error.to_string()))?;
        let key_file = folder.join("tenant.key");
        let marks = key_files.look(&key_file)?;
        let authority = files::authority(&folder.join("ca.pub"))?;
        let revocation = files::revocation(&folder.join("revoked"))?;
        if authority.is_none() && revocation.is_some() {
            let reason = "needs an authority, `ca.pub`".to_owned();
            return Err(TenantError::Content { path: folder.join("revoked"), reason });
        }
        let resolv_conf = files::optional(&folder.join("resolv.conf"), files::LIMIT)?;
        let resolver = resolv_conf.map_or(Resolver::Unknown, Resolver::File);
        let facts = FactTexts::read(&folder.join("facts.json"), &config.network.protected)?;
        let settings_id = Digest::of([
            settings.as_bytes(),
            authority.as_deref().unwrap_or_default(),
            &resolver.sum(),
            format!("{:?}", description.limits).as_bytes(),
        ]);
        Ok(Self {
            name,
            keys: Keys::File(key_file),
            namespaces: description.namespaces,
            limits: description.limits,
            settings: settings.to_string(),
            authority,
            resolver,
            revocation,
            facts,
            marks,
            settings_id,
            certificates: files::certificates(&folder.join("certificates"))?,
        })
    }

    /// The tenant with the settings that this one has, and all else as it is `now`: for a data path that is not replaced yet, or was
    /// given its settings back.
    pub(crate) fn refreshed(&self, now: &Self) -> Self {
        Self {
            settings: self.settings.clone(),
            authority: self.authority.clone(),
            resolver: self.resolver.clone(),
            limits: self.limits,
            settings_id: self.settings_id,
            ..now.clone()
        }
    }

    /// The messages that make of what a program was told of `before` what holds now, certificates apart.
    ///
    /// # Errors
    /// The key file cannot be read, or something is longer than a program takes.
    pub(crate) fn changed_from(&self, before: &Self) -> Result<Vec<Order>, TenantError> {
        let long = |error: OrderError| TenantError::Named(error.to_string());
        let mut orders = Vec::new();
        if before.marks != self.marks {
            orders.push(self.keys()?);
        }
        if let Some(revocation) = self.revocation.as_ref().filter(|_| before.revocation != self.revocation) {
            orders.push(Order::new(Kind::Revocation, revocation).map_err(long)?);
        }
        orders.extend(self.facts.changed_from(&before.facts).map_err(long)?);
        Ok(orders)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The message with its keys; those of a file are read for it, and kept nowhere.
    ///
    /// # Errors
    /// The file cannot be read any more, is no key file any more, or is another tenant's.
    pub(crate) fn keys(&self) -> Result<Order, TenantError> {
        let path = match &self.keys {
            Keys::File(path) => path,
            Keys::Held(keys) => return keys.order().map_err(|error| TenantError::Named(error.to_string())),
        };
        let keys = files::keys(path)?;
        if keys.marks.tenant == self.marks.tenant {
            return Ok(keys.order);
        }
        let reason = "is another tenant's than the one that is in force".to_owned();
        Err(TenantError::Content { path: path.clone(), reason })
    }

    /// The messages, besides the keys, that the program of the pod of this name is given at its start, in their order.
    ///
    /// # Errors
    /// One is longer than a program takes.
    pub(crate) fn start(&self, pod: &str) -> Result<Vec<Order>, OrderError> {
        let mut orders = vec![Order::new(Kind::Config, self.settings.as_bytes())?];
        let resolv_conf = self.resolver.of(pod);
        for (kind, content) in [
            (Kind::Authority, self.authority.as_deref()),
            (Kind::Revocation, self.revocation.as_deref()),
            (Kind::ResolvConf, resolv_conf.as_deref()),
        ] {
            if let Some(content) = content {
                orders.push(Order::new(kind, content)?);
            }
        }
        orders.extend(self.facts.learn()?);
        Ok(orders)
    }

    /// The messages that a program is given when it is adopted, in their order.
    ///
    /// # Errors
    /// One is longer than a program takes.
    pub(crate) fn adoption(&self) -> Result<Vec<Order>, OrderError> {
        let mut orders = Vec::new();
        if let Some(revocation) = &self.revocation {
            orders.push(Order::new(Kind::Revocation, revocation)?);
        }
        orders.extend(self.facts.learn()?);
        Ok(orders)
    }

    /// The certificate of the pod with this public key, in hex.
    ///
    /// # Errors
    /// It is longer than a program takes.
    pub(crate) fn certificate(&self, public_key: &str) -> Result<Option<Order>, OrderError> {
        let file = self.certificates.get(public_key);
        file.map(|file| Order::new(Kind::Certificate, file)).transpose()
    }
}

/// Reads every tenant below `folder`: a folder each, by name. What cannot be read is an error of its own; hidden folders and files are
/// passed over.
pub(crate) fn read_all(
    folder: &Path,
    key_files: &mut KeyFiles,
) -> Result<BTreeMap<String, Result<Tenant, TenantError>>, TenantError> {
    let read = |source: std::io::Error| TenantError::Read { path: folder.to_owned(), source: source.into() };
    let mut tenants = BTreeMap::new();
    let mut folders = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if name.starts_with('.') || !path.is_dir() {
            continue;
        }
        if tenants.len() == MAX {
            let reason = format!("more than {MAX} tenants");
            return Err(TenantError::Content { path: folder.to_owned(), reason });
        }
        let tenant = Tenant::read(&path, key_files);
        folders.insert(path);
        tenants.insert(name, tenant);
    }
    key_files.retain(&folders);
    Ok(tenants)
}
