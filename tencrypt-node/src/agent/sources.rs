//! The sources of pods besides the plugin: what runs already, the directory of files, and what was found without protection.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;
use tencrypt_agent::{
    escape::Escaped,
    hex::to_hex,
    os::files::{self, Access},
};
use tencrypt_cni::{
    call::{Attachment, Pod},
    netns::NetnsError,
};
use tencrypt_tun::{NetNs, NetNsId};

use super::{Agent, Entry, enrolment::Place};
use crate::{
    install::attached::{self, Attached},
    records::{Record, Source},
    release,
    settings::located,
};

/// Longest file of a pod in bytes.
const LIMIT: u64 = 64 << 10;

/// Most files of pods.
const MOST: usize = 10_000;

/// Folders in which runtimes bind namespaces by name.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// A pod's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodFile {
    tenant: String,
    netns: PathBuf,
}

/// A pod's file, read.
enum Named {
    /// Its namespace is this one, which is kept.
    At(NetNsId),
    /// Its namespace is gone.
    Gone(String),
    /// Something is wrong.
    Wrong(String),
}

/// The reason why a namespace cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// There is none any more.
    #[error("{0}")]
    Gone(String),
    /// It cannot be opened, or must not be a pod's.
    #[error("{0}")]
    Wrong(String),
}

/// The reason why a pod in the runtime's notes is not protected.
enum NotProtected {
    /// It is to be, and cannot be.
    Unclear(String),
    /// It is no pod, or not any more.
    Stale(String),
}

impl Agent {
    /// Takes over the data paths that run, and starts those again that died without an agent.
    pub(super) async fn adopt_all(&mut self) {
        let (records, faults) = self.records.read();
        self.note("records", (!faults.is_empty()).then(|| faults.join("; ")));
        let mut records: BTreeMap<NetNsId, Record> = records.into_iter().collect();
        for (id, socket) in self.run_dir.sockets() {
            match self.place.adopt(&socket).await {
                Ok((running, pod)) => {
                    let Some(tenant) = release::tenant_of(&running.tag) else {
                        tracing::warn!(%id, "a data path of another agent's kind is left alone");
                        continue;
                    };
                    let namespace = running.process.netns(id.device(), id.inode());
                    let namespace = namespace.map_err(|error| error.to_string()).and_then(|descriptor| {
                        NetNs::from_fd(descriptor, &pod.name).map_err(|error| error.to_string())
                    });
                    match namespace {
                        Ok(namespace) => {
                            let name = pod.name.clone();
                            let found = records.remove(&id).filter(|record| record.tenant == tenant);
                            let record = found.unwrap_or_else(|| {
                                Record::new(name, tenant.to_owned(), Source::Found, path_of(id))
                            });
                            self.counts.adopted += 1;
                            self.keep(namespace, record, Some(running));
                        }
                        Err(error) => self.note(&format!("pod {id}"), Some(format!("pod {id}: {error}"))),
                    }
                }
                // A program that reads files, or one that has gone.
                Err(error) => {
                    tracing::info!(%id, "not taken over: {}", Escaped(&error.to_string()));
                    self.run_dir.tidy(id);
                }
            }
        }
        for (id, record) in records {
            // Its file says whose it is now: the number of a namespace is given again as soon as that is gone.
            if record.source == Source::Directory {
                self.records.remove(id);
                continue;
            }
            match record.path.as_deref().and_then(|path| open(path).ok()).filter(|found| found.id() == id) {
                Some(namespace) => self.keep(namespace, record, None),
                None => self.records.remove(id),
            }
        }
    }

    /// Reads the directory of pods. A file that is wrong leaves its pod as it is; one that is gone ends it.
    pub(super) fn read_pods(&mut self) {
        let mut faults = Vec::new();
        let mut named: BTreeMap<String, Named> = BTreeMap::new();
        let paths = match listed(&self.settings.pods) {
            Ok(paths) => paths,
            // Nothing is concluded from a folder that cannot be read as a whole.
            Err(reason) => {
                return self.note("pods", Some(format!("{}: {reason}", self.settings.pods.display())));
            }
        };
        for path in paths {
            let Some(name) = name_of(&path) else { continue };
            let found = self.read_pod(&name, &path);
            if let Named::Wrong(reason) | Named::Gone(reason) = &found {
                faults.push(format!("{}: {reason}", path.display()));
            }
            named.insert(name, found);
        }
        self.note("pods", (!faults.is_empty()).then(|| faults.join("; ")));
        let is_gone = |record: &Record, id: NetNsId| match (record.source, named.get(&record.name)) {
            (Source::Directory, Some(Named::At(found))) => *found != id,
            (Source::Directory, Some(Named::Gone(_)) | None) => true,
            // A file that is wrong is no reason to end its pod.
            (Source::Directory, Some(Named::Wrong(_))) => false,
            // The namespace of a runtime that does not say when a pod ends.
            (Source::Plugin | Source::Found, _) => {
                record.path.as_deref().is_some_and(|path| leads_away(path, id))
            }
        };
        let gone: Vec<NetNsId> =
            self.pods.iter().filter(|(id, entry)| is_gone(&entry.record, **id)).map(|(id, _)| *id).collect();
        for id in gone {
            self.end(id);
        }
    }

    fn read_pod(&mut self, name: &str, path: &Path) -> Named {
        let read = files::read_text(path, LIMIT, Access::Anyone).map_err(|error| error.to_string());
        let file = read.and_then(|text| toml::from_str(&text).map_err(|error| located(&text, &error)));
        let file: PodFile = match file {
            Ok(file) => file,
            Err(reason) => return Named::Wrong(reason),
        };
        let namespace = match open(&file.netns) {
            Ok(namespace) => namespace,
            Err(OpenError::Gone(reason)) => return Named::Gone(format!("netns: {reason}")),
            Err(OpenError::Wrong(reason)) => return Named::Wrong(format!("netns: {reason}")),
        };
        let id = namespace.id();
        match self.pods.get_mut(&id) {
            // Another tenant's now: the data path ends, and another one is started then.
            Some(entry) if entry.record.name == name && entry.record.tenant != file.tenant => {
                self.end(id);
                Named::Wrong(format!("tenant: the pod is being given to {}", file.tenant))
            }
            Some(entry) if entry.record.name == name => {
                if entry.record.source != Source::Directory {
                    // Its record was lost while no agent ran.
                    (entry.record.source, entry.record.path) = (Source::Directory, Some(file.netns));
                    let _ = self.records.write(id, &entry.record);
                }
                Named::At(id)
            }
            Some(Entry { record, .. }) => {
                Named::Wrong(format!("netns: it is pod {} of tenant {}", record.name, record.tenant))
            }
            None if self.shared.tenant(&file.tenant).is_none() => {
                let name = &file.tenant;
                Named::Wrong(format!("tenant: there is none whose name is {name:?} and whose files are good"))
            }
            None => {
                let record = Record::new(name.to_owned(), file.tenant, Source::Directory, Some(file.netns));
                self.keep(namespace, record, None);
                Named::At(id)
            }
        }
    }

    /// Sees to it that the plugin stands in the network configuration.
    pub(super) fn check_networks(&mut self) {
        let Some(plugin) = &mut self.plugin else { return };
        let (problem, was_put_back) = plugin.check();
        self.note("network configuration", problem);
        if was_put_back {
            tracing::error!("the plugin was put back: pods may have been started without it");
            self.counts.put_back += 1;
            self.find_unprotected();
        }
    }

    /// Looks for pods of enrolled namespaces that the plugin was not asked about, and protects them.
    pub(super) fn find_unprotected(&mut self) {
        let Some(plugin) = &self.settings.plugin else { return };
        let notes = match attached::read(&plugin.results, SystemTime::now()) {
            Ok(notes) => notes,
            Err(error) => {
                let fault = format!("{}: {error}", plugin.results.display());
                return self.note("results", Some(fault));
            }
        };
        let faults: Vec<String> =
            notes.faults.iter().map(|fault| format!("{}: {}", fault.name, fault.reason)).collect();
        self.note("results", (!faults.is_empty()).then(|| faults.join("; ")));
        self.detached.keep_noted(notes.attached.iter().map(|found| &found.attachment));
        let mut unclear = Vec::new();
        for found in notes.attached {
            let name = pod_name(&found.pod, &found.attachment);
            match self.protect_found(found) {
                Ok(()) => {}
                Err(NotProtected::Unclear(reason)) => unclear.push(format!("{name}: {reason}")),
                Err(NotProtected::Stale(reason)) => {
                    tracing::debug!(pod = name, "in the runtime's notes: {}", Escaped(&reason));
                }
            }
        }
        self.note("unprotected", (!unclear.is_empty()).then(|| unclear.join("; ")));
    }

    fn protect_found(&mut self, found: Attached) -> Result<(), NotProtected> {
        let stale = |reason: &str| Err(NotProtected::Stale(reason.to_owned()));
        if self.detached.contains(&found.attachment) {
            return stale("it is being deleted");
        }
        let Some(path) = found.netns else { return stale("no namespace is named") };
        // What a process has there is another one's as soon as the process is.
        if path.starts_with("/proc") {
            return stale("its namespace is named by a process");
        }
        let namespace = open(&path).map_err(|error| NotProtected::Stale(error.to_string()))?;
        // A note outlives its pod where nobody deletes it, and a name may be another namespace's by then.
        if !found.addresses.iter().all(|address| has_address(&namespace, *address)) {
            return stale("its addresses are not in the namespace");
        }
        let tenant = match self.place_of(&found.pod) {
            Place::Of(tenant) => tenant,
            Place::Unclear(reason) => return Err(NotProtected::Unclear(reason)),
            Place::Open | Place::Unknown => return Ok(()),
        };
        if let Some(entry) = self.pods.get_mut(&namespace.id()) {
            let is_its = entry.record.tenant == tenant && entry.record.source != Source::Directory;
            if is_its && entry.record.attachments.insert(found.attachment) {
                let _ = self.records.write(namespace.id(), &entry.record);
            }
            return Ok(());
        }
        let name = pod_name(&found.pod, &found.attachment);
        tracing::error!(pod = name, "it was started without protection, and gets it now");
        self.counts.found_unprotected += 1;
        self.strays.found.insert(name.clone());
        let mut record = Record::new(name, tenant, Source::Found, Some(path));
        record.attachments.insert(found.attachment);
        self.keep(namespace, record, None);
        Ok(())
    }
}

/// The name of a pod's file without its ending; none for other files.
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
    let is_name = |byte: u8| byte.is_ascii_graphic();
    (!name.is_empty() && !name.starts_with('.') && name.len() <= 255 && name.bytes().all(is_name))
        .then(|| name.to_owned())
}

/// Opens a pod's namespace, which is not the node's own.
pub(super) fn open(path: &Path) -> Result<NetNs, OpenError> {
    let about = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let descriptor = tencrypt_cni::netns::open(path).map_err(|error| match &error {
        NetnsError::Open(source) if source.kind() != ErrorKind::NotFound => OpenError::Wrong(about(&error)),
        // The file of a namespace that was deleted stays for a moment as an ordinary one.
        _ => OpenError::Gone(about(&error)),
    })?;
    let namespace = NetNs::from_fd(descriptor, &path.display().to_string());
    let namespace = namespace.map_err(|error| OpenError::Wrong(error.to_string()))?;
    if namespace.is_host() { Err(OpenError::Wrong(about(&"is the node's own"))) } else { Ok(namespace) }
}

/// Lists a folder's files, all of them.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let paths: Result<Vec<PathBuf>, _> = entries.take(MOST + 1).map(|entry| Ok(entry?.path())).collect();
    let paths = paths.map_err(|error: std::io::Error| error.to_string())?;
    if paths.len() > MOST { Err(format!("more than {MOST} files")) } else { Ok(paths) }
}

/// Tells if the namespace has the address: by the kernel's tables, which have each local one (`fib_trie_seq_show`,
/// net/ipv4/fib_trie.c; `if6_seq_show`, net/ipv6/addrconf.c).
pub(super) fn has_address(namespace: &NetNs, address: IpAddr) -> bool {
    let read = |file: &'static str| {
        let read = namespace.run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")));
        read.ok().and_then(Result::ok).unwrap_or_default()
    };
    match address {
        IpAddr::V4(address) => has_v4(&read("fib_trie"), address),
        IpAddr::V6(address) => has_v6(&read("if_inet6"), address),
    }
}

fn has_v4(table: &str, address: Ipv4Addr) -> bool {
    let leaf = format!("|-- {address}");
    let lines: Vec<&str> = table.lines().map(str::trim).collect();
    lines.windows(2).any(|pair| pair[0] == leaf && pair[1].ends_with("host LOCAL"))
}

fn has_v6(table: &str, address: Ipv6Addr) -> bool {
    let digits = to_hex(&address.octets());
    table.lines().any(|line| line.starts_with(&digits))
}

/// The name of a pod for people.
pub(super) fn pod_name(pod: &Pod, attachment: &Attachment) -> String {
    let name = pod.name.as_deref().unwrap_or(&attachment.container);
    match &pod.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn leads_to(path: &Path, id: NetNsId) -> bool {
    fs::metadata(path).is_ok_and(|found| NetNsId::new(found.dev(), found.ino()) == id)
}

/// Tells if the file is gone or another namespace's. One that cannot be looked at is neither.
fn leads_away(path: &Path, id: NetNsId) -> bool {
    match fs::metadata(path) {
        Ok(found) => NetNsId::new(found.dev(), found.ino()) != id,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// The file to which a runtime has bound the namespace.
pub(super) fn path_of(id: NetNsId) -> Option<PathBuf> {
    let entries = NAMED.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    entries.map(|entry| entry.path()).find(|path| leads_to(path, id))
}
