//! The attachments of a runtime's pods to networks, as libcni notes them: `cachedInfo`, containernetworking/cni libcni/api.go.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use serde_json::Value;
use tencrypt_cni::call::{Attachment, LineError, Pod, Request};

use super::file::{Fault, Opened, ReadError};

/// Longest file in bytes. Usual ones have two thousand.
const LIMIT: usize = 1 << 20;

/// Most files of a folder. A node has a few hundred pods, and two attachments for each.
const MAX_FILES: usize = 10_000;

/// The kind of the files, since libcni 0.8. Before, they were results alone.
const KIND: &str = "cniCacheV1";

/// Longest time that an empty file is believed to be about to be written: libcni makes it before (`os.WriteFile`), and both are events.
const UNWRITTEN: Duration = Duration::from_secs(1);

/// The interface that each pod has besides: go-cni attaches it as a network of its own, in whose list no other plugin stands.
const LOOPBACK: &str = "lo";

/// An attachment of a pod to a network. It was made; that it still is, its network namespace tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    /// The attachment, as ADD names it to the agent.
    pub(crate) attachment: Attachment,
    /// The pod, as far as the runtime has said.
    pub(crate) pod: Pod,
    /// The addresses of the pod, as ADD names them.
    pub(crate) addresses: Vec<IpAddr>,
    /// The path of the network namespace, an absolute one. libcni before 1.2 does not note it, and not every plugin puts it into
    /// its result.
    pub(crate) netns: Option<PathBuf>,
}

/// The notes of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// The attachments, in the order of their files' names, without those of loopback interfaces.
    pub(crate) attached: Vec<Attached>,
    /// The files that make no sense.
    pub(crate) faults: Vec<Fault>,
}

/// Reads the notes of a folder. One that is absent has none; a note that was made shortly before `now` and is empty is passed over.
///
/// # Errors
/// The kernel's answer if the folder cannot be read, or more than 10,000 files in it.
pub(crate) fn read(folder: &Path, now: SystemTime) -> io::Result<Notes> {
    let files = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Notes::default()),
        files => files?,
    };
    let mut names = Vec::new();
    for file in files {
        if names.len() == MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
        names.push(file?.file_name());
    }
    names.sort_unstable();
    let mut notes = Notes::default();
    for name in names {
        match Opened::read(&folder.join(&name), LIMIT) {
            Ok(read) if read.bytes.is_empty() && is_young(&read, now) => {}
            Ok(read) => match attached(&read.bytes) {
                Ok(attached) => notes.attached.extend(attached),
                Err(reason) => notes.faults.push(Fault::of(&name, reason)),
            },
            // It was detached meanwhile.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(reason) => notes.faults.push(Fault::of(&name, reason)),
        }
    }
    Ok(notes)
}

/// Tells if a file was written a short time ago. A time to come counts as long ago: the clock was set.
fn is_young(file: &Opened, now: SystemTime) -> bool {
    let age = file.metadata.modified().ok().and_then(|written| now.duration_since(written).ok());
    age.is_some_and(|age| age < UNWRITTEN)
}

/// A note. Keys that are not looked at may hold whatever they hold.
#[derive(Deserialize)]
struct Note {
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "containerId")]
    container: String,
    #[serde(default, rename = "ifName")]
    interface: String,
    #[serde(default, rename = "networkName")]
    network: String,
    /// Since libcni 1.2.
    #[serde(default)]
    netns: Option<String>,
    #[serde(default, rename = "cniArgs")]
    arguments: Option<Vec<(String, String)>>,
    #[serde(default)]
    result: Option<Outcome>,
}

/// A result: of CNI 0.3.0 and later, or of 0.1.0 and 0.2.0.
#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
    #[serde(default)]
    ip4: Option<OldIp>,
    #[serde(default)]
    ip6: Option<OldIp>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    #[serde(default)]
    interface: Option<Value>,
    address: String,
}

#[derive(Deserialize)]
struct OldIp {
    ip: String,
}

/// The attachment of a note; `None`: it is a loopback interface's.
fn attached(bytes: &[u8]) -> Result<Option<Attached>, String> {
    // serde would take an array for the keys in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err("an object is expected".to_owned());
    }
    let note: Note = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if note.kind != KIND {
        return Err(format!("`kind` is not `{KIND}`"));
    }
    if note.interface == LOOPBACK {
        return Ok(None);
    }
    let attachment =
        Attachment { network: note.network, container: note.container, interface: note.interface };
    let pod = pod(note.arguments.unwrap_or_default())?;
    let (addresses, sandbox) = match &note.result {
        Some(result) => (result.addresses(&attachment.interface)?, result.sandbox(&attachment.interface)),
        None => (Vec::new(), None),
    };
    let netns = match note.netns.filter(|netns| !netns.is_empty()) {
        Some(netns) if !netns.starts_with('/') => return Err("`netns` is no absolute path".to_owned()),
        Some(netns) => Some(netns.into()),
        None => sandbox,
    };
    let found = Attached { attachment, pod, addresses, netns };
    found.check().map_err(|error| error.to_string())?;
    Ok(Some(found))
}

impl Attached {
    /// Checks the names as the agent's protocol does.
    fn check(&self) -> Result<(), LineError> {
        let (attachment, pod) = (self.attachment.clone(), self.pod.clone());
        Request::Check { attachment, pod, addresses: self.addresses.clone() }.line().map(drop)
    }
}

/// The pod, by the conventions of Kubernetes' runtimes, as the plugin reads them.
fn pod(arguments: Vec<(String, String)>) -> Result<Pod, String> {
    let mut pod = Pod::default();
    for (key, value) in arguments {
        let field = match &*key {
            "K8S_POD_NAMESPACE" => &mut pod.namespace,
            "K8S_POD_NAME" => &mut pod.name,
            "K8S_POD_UID" => &mut pod.uid,
            _ => continue,
        };
        if field.replace(value).is_some() {
            return Err(format!("`cniArgs`: {key} stands there twice"));
        }
    }
    Ok(pod)
}

impl Outcome {
    /// The addresses of the pod: all but those that the result says are of an interface of the node.
    fn addresses(&self, interface: &str) -> Result<Vec<IpAddr>, String> {
        let mut addresses = Vec::new();
        for ip in self.ips.iter().flatten() {
            if self.is_the_pods(ip, interface)? {
                addresses.push(address(&ip.address)?);
            }
        }
        for ip in [&self.ip4, &self.ip6].into_iter().flatten() {
            addresses.push(address(&ip.ip)?);
        }
        Ok(addresses)
    }

    /// Tells if an address names no interface, or one that is in a sandbox or has the name of the pod's.
    fn is_the_pods(&self, ip: &Ip, name: &str) -> Result<bool, String> {
        let Some(index) = &ip.interface else { return Ok(true) };
        let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
        let interface = index.and_then(|index| self.interfaces.as_ref()?.get(index));
        let interface = interface.ok_or("`result.ips`: no such interface")?;
        Ok(!interface.sandbox.is_empty() || interface.name == name)
    }

    /// The path of the pod's namespace: the sandbox of its interface, else that of another. Some plugins put something else there.
    fn sandbox(&self, name: &str) -> Option<PathBuf> {
        let interfaces = self.interfaces.as_deref().unwrap_or_default();
        let mut known = interfaces.iter().filter(|interface| interface.sandbox.starts_with('/'));
        let own = known.clone().find(|interface| interface.name == name);
        own.or_else(|| known.next()).map(|interface| PathBuf::from(&interface.sandbox))
    }
}

/// An address with its prefix length.
fn address(text: &str) -> Result<IpAddr, String> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (length.parse::<u8>().ok()? <= longest).then_some(address)
    });
    parsed.ok_or_else(|| format!("`result`: `{text}` is no address with a prefix length"))
}

#[cfg(test)]
mod tests;
