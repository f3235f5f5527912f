//! The files of a tenant's folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tencrypt::{
    KeyRing,
    trust::{AuthorityKey, CertificateFile, Revocation},
};
use tencrypt_agent::{
    config,
    hex::to_hex,
    keys::file as keyfile,
    node::Order,
    os::{
        files::{self, Access, ReadError},
        followed::FollowedFile,
    },
};
use zeroize::Zeroizing;

use super::error::TenantError;
use crate::{
    digest::Digest,
    launch::Limits,
    settings::{check_namespace, located},
};

/// Longest file in bytes: longer ones no program takes.
pub(super) const LIMIT: u64 = 1 << 20;

/// Most certificates of a tenant.
const MAX_CERTIFICATES: usize = 10_000;

/// Least memory of a data path in bytes: four times what one takes at rest, and what a burst of handshakes needs.
const LEAST_MEMORY: u64 = 8 << 20;

/// `tenant.toml`.
pub(super) struct TenantFile {
    pub(super) namespaces: BTreeSet<String>,
    /// Pods may stay out by an annotation of theirs.
    pub(super) pods_may_opt_out: bool,
    pub(super) limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    /// To be there: a file that was emptied is not to take every namespace off the list.
    namespaces: BTreeSet<String>,
    #[serde(default)]
    pods_may_opt_out: bool,
    #[serde(default)]
    limits: LimitsText,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsText {
    memory_mib: Option<u32>,
    cpu_millis: Option<u32>,
}

impl TenantFile {
    pub(super) fn read(path: &Path) -> Result<Self, TenantError> {
        Self::parse(&text(path)?).map_err(|reason| TenantError::Content { path: path.to_owned(), reason })
    }

    /// Reads what stands in the file. An error is line or field and the reason.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let read: Text = toml::from_str(text).map_err(|error| located(text, &error))?;
        for namespace in &read.namespaces {
            check_namespace(namespace).map_err(|reason| format!("namespaces: {namespace:?} is {reason}"))?;
        }
        let memory = read.limits.memory_mib.map(|mib| u64::from(mib) << 20);
        if memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
            return Err(format!("limits.memory_mib: is less than {}", LEAST_MEMORY >> 20));
        }
        if read.limits.cpu_millis.is_some_and(|millis| millis < 10) {
            return Err("limits.cpu_millis: is less than 10".to_owned());
        }
        let limits = Limits { memory, cpu: read.limits.cpu_millis, pids: None };
        Ok(Self { namespaces: read.namespaces, pods_may_opt_out: read.pods_may_opt_out, limits })
    }
}

/// The name of a tenant's folder, which may be a namespace's.
pub(super) fn name_of(folder: &Path) -> Result<String, TenantError> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match check_name(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(reason) => Err(TenantError::Content { path: folder.to_owned(), reason }),
    }
}

/// Checks the name of a tenant. An error is the reason.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    match check_namespace(name) {
        Ok(()) if name != "-" => Ok(()),
        _ => Err("a tenant's name has 1 to 63 letters, digits and `-`, as a namespace's".to_owned()),
    }
}

/// Reads a file of text.
pub(super) fn text(path: &Path) -> Result<Zeroizing<String>, TenantError> {
    files::read_text(path, config::MAX_FILE_LEN, Access::Anyone)
        .map_err(|source| TenantError::Read { path: path.to_owned(), source })
}

/// Reads a file of at most `limit` bytes that need not be there.
pub(super) fn optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TenantError> {
    match files::read_regular(path, limit, Access::Anyone) {
        Ok(content) => Ok(Some(content)),
        Err(ReadError::Absent) => Ok(None),
        Err(source) => Err(TenantError::Read { path: path.to_owned(), source }),
    }
}

/// The marks by which keys are known that are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyMarks {
    /// The sum of their file.
    pub(crate) digest: Digest,
    /// The tenant's id, in hex: the same as long as it is the same tenant.
    pub(crate) tenant: String,
    /// The fingerprints of the epochs.
    epochs: BTreeSet<[u8; 4]>,
}

impl KeyMarks {
    /// The marks of a key file with this content, which makes this ring.
    pub(super) fn of(content: &[u8], ring: &KeyRing) -> Self {
        Self {
            digest: Digest::of([content]),
            tenant: to_hex(ring.tenant_id()),
            epochs: ring.epochs().filter_map(|epoch| ring.fingerprint(epoch)).collect(),
        }
    }

    /// Tells if both have an epoch's key: the pods of the one could read those of the other.
    pub(super) fn has_key_of(&self, other: &Self) -> bool {
        self.tenant == other.tenant && !self.epochs.is_disjoint(&other.epochs)
    }
}

/// A key file.
pub(super) struct Keys {
    /// The message with it.
    pub(super) order: Order,
    /// Its marks.
    pub(super) marks: KeyMarks,
}

/// Reads the key file.
pub(super) fn keys(path: &Path) -> Result<Keys, TenantError> {
    let unreadable = |source| TenantError::Read { path: path.to_owned(), source };
    let wrong = |reason: String| TenantError::Content { path: path.to_owned(), reason };
    let (bytes, len) = files::read_secret(path, keyfile::MAX_FILE_LEN).map_err(unreadable)?;
    let content = bytes.get(..len).unwrap_or_default();
    let text = std::str::from_utf8(content).map_err(|_| unreadable(ReadError::NotText))?;
    let ring = KeyRing::parse(text).map_err(|error| wrong(error.to_string()))?;
    let order = Order::keys(&bytes, len).map_err(|error| wrong(error.to_string()))?;
    Ok(Keys { order, marks: KeyMarks::of(content, &ring) })
}

/// The key files that were read, by their paths. One that has not changed is not read again: the memory that it is read into costs
/// every processor its address translations (`set_direct_map_invalid_noflush`, mm/secretmem.c), 58 % of the agent's time at rest
/// with 30 tenants.
#[derive(Debug, Default)]
pub(crate) struct KeyFiles(BTreeMap<PathBuf, KeyFile>);

#[derive(Debug)]
struct KeyFile {
    file: FollowedFile,
    /// Its marks, if it was good.
    read: Option<KeyMarks>,
}

impl KeyFiles {
    /// Returns the marks of a key file.
    pub(super) fn look(&mut self, path: &Path) -> Result<KeyMarks, TenantError> {
        let known = self
            .0
            .entry(path.to_owned())
            .or_insert_with(|| KeyFile { file: FollowedFile::new(path.to_owned()), read: None });
        let is_due = known.file.path_if_due().is_some();
        if let Some(read) = known.read.as_ref().filter(|_| !is_due) {
            return Ok(read.clone());
        }
        known.read = None;
        Ok(known.read.insert(keys(path)?.marks).clone())
    }

    /// Forgets those that are not below one of these folders any more.
    pub(super) fn retain(&mut self, folders: &BTreeSet<PathBuf>) {
        self.0.retain(|path, _| path.parent().is_some_and(|folder| folders.contains(folder)));
    }
}

/// Reads the authority's public key.
pub(super) fn authority(path: &Path) -> Result<Option<Vec<u8>>, TenantError> {
    checked(path, |text| AuthorityKey::parse(text).map(|_| ()).map_err(|error| error.to_string()))
}

/// Reads the revocation.
pub(super) fn revocation(path: &Path) -> Result<Option<Vec<u8>>, TenantError> {
    checked(path, |text| Revocation::parse(text).map(|_| ()).map_err(|error| error.to_string()))
}

/// Reads the certificates in `folder`, by the keys that they are of. Of two for one key the one of the later generation counts.
pub(super) fn certificates(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, TenantError> {
    let unreadable =
        |source: std::io::Error| TenantError::Read { path: folder.to_owned(), source: source.into() };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut found: BTreeMap<String, (u32, Vec<u8>)> = BTreeMap::new();
    for (count, entry) in entries.enumerate() {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden {
            continue;
        }
        if count == MAX_CERTIFICATES {
            let reason = format!("more than {MAX_CERTIFICATES} certificates");
            return Err(TenantError::Content { path: folder.to_owned(), reason });
        }
        let Some(bytes) = optional(&path, LIMIT)? else { continue };
        let certificate = CertificateFile::parse(&bytes)
            .map_err(|error| TenantError::Content { path: path.clone(), reason: error.to_string() })?;
        let key = to_hex(certificate.subject.as_bytes());
        let generation = certificate.certificate.generation();
        if found.get(&key).is_none_or(|(before, _)| *before < generation) {
            found.insert(key, (generation, bytes));
        }
    }
    Ok(found.into_iter().map(|(key, (_, bytes))| (key, bytes)).collect())
}

fn checked(
    path: &Path,
    check: impl FnOnce(&str) -> Result<(), String>,
) -> Result<Option<Vec<u8>>, TenantError> {
    let Some(content) = optional(path, LIMIT)? else { return Ok(None) };
    let text = std::str::from_utf8(&content)
        .map_err(|_| TenantError::Read { path: path.to_owned(), source: ReadError::NotText })?;
    check(text).map_err(|reason| TenantError::Content { path: path.to_owned(), reason })?;
    Ok(Some(content))
}
