//! The agent's knowledge of its pods, in the run directory: a file each, for the agent after it.
//!
//! The run directory is gone with the machine's boot, and so are the namespaces. Nothing in the files is secret. A data path that runs
//! is taken over without its file too; the file says who had named the pod, and so who ends it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tencrypt_agent::os::files::{self, Access};
use tencrypt_cni::call::Attachment;
use tencrypt_tun::NetNsId;

/// The folder, in the run directory.
const FOLDER: &str = "pods";

/// The end of the name of a file with a tag that was given up.
const GIVEN_UP: &str = ".given-up";

/// The version of the files.
const VERSION: u32 = 1;

/// Longest file in bytes: a pod with some hundred attachments.
const LIMIT: u64 = 64 << 10;

/// The source of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// A file of the directory of pods.
    Directory,
    /// The CNI plugin.
    Plugin,
    /// It was found running without protection.
    Found,
}

impl Source {
    /// Returns its name, as JSON has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Plugin => "plugin",
            Self::Found => "found",
        }
    }
}

/// A pod, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    /// Its name.
    pub(crate) name: String,
    /// Its tenant.
    pub(crate) tenant: String,
    /// Its source.
    pub(crate) source: Source,
    /// Its interfaces, as the runtime has named them.
    pub(crate) attachments: BTreeSet<Attachment>,
    /// The file of its network namespace, where that is known.
    pub(crate) path: Option<PathBuf>,
}

impl Record {
    /// A pod without interfaces that a runtime has named.
    pub(crate) fn new(name: String, tenant: String, source: Source, path: Option<PathBuf>) -> Self {
        Self { version: VERSION, name, tenant, source, attachments: BTreeSet::new(), path }
    }
}

/// The files.
#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    /// Opens the folder in `run_dir`, and makes it if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn open(run_dir: &Path) -> io::Result<Self> {
        let folder = run_dir.join(FOLDER);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self { folder }),
        }
    }

    /// Reads all of them. The second list has a line for each file that makes no sense.
    pub(crate) fn read(&self) -> (Vec<(NetNsId, Record)>, Vec<String>) {
        let (mut records, mut faults) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') || name.ends_with(GIVEN_UP) {
                continue;
            }
            match id_of(name).ok_or_else(|| "its name is no namespace's id".to_owned()).and_then(|id| {
                let record = read(&path)?;
                Ok((id, record))
            }) {
                Ok(read) => records.push(read),
                Err(reason) => faults.push(format!("{}: {reason}", path.display())),
            }
        }
        records.sort_by_key(|(id, _)| *id);
        (records, faults)
    }

    /// Writes the file of a pod.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn write(&self, id: NetNsId, record: &Record) -> io::Result<()> {
        files::replace(&self.path(id), &serde_json::to_vec(record)?, 0o600)
    }

    /// Removes the file of a pod.
    pub(crate) fn remove(&self, id: NetNsId) {
        // One that stays is found to lead nowhere by the next agent.
        let _ = fs::remove_file(self.path(id));
    }

    /// Notes that data paths of the tenant with this tag do not become ready: the next agent does not try them again.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn give_up(&self, tenant: &str, tag: &str) -> io::Result<()> {
        files::replace(&self.folder.join(format!("{tenant}{GIVEN_UP}")), tag.as_bytes(), 0o600)
    }

    /// The tags that were given up, by tenant.
    pub(crate) fn given_up(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let read = |path: PathBuf| {
            let tenant = path.file_name()?.to_str()?.strip_suffix(GIVEN_UP)?.to_owned();
            let tag = files::read_text(&path, LIMIT, Access::OwnerAlone).ok()?;
            Some((tenant, tag.to_string()))
        };
        entries.filter_map(|entry| read(entry.path())).collect()
    }

    fn path(&self, id: NetNsId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn id_of(name: &str) -> Option<NetNsId> {
    let (device, inode) = name.strip_suffix(".json")?.split_once('-')?;
    Some(NetNsId::new(device.parse().ok()?, inode.parse().ok()?))
}

fn read(path: &Path) -> Result<Record, String> {
    let text = files::read_text(path, LIMIT, Access::OwnerAlone).map_err(|error| error.to_string())?;
    let record: Record = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if record.version == VERSION { Ok(record) } else { Err(format!("is of version {}", record.version)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_makes_no_sense_is_named() {
        let run = std::env::temp_dir().join(format!("tencrypt-node-{}-records", std::process::id()));
        let _ = fs::remove_dir_all(&run);
        fs::create_dir(&run).unwrap();
        let records = Records::open(&run).unwrap();
        let id = NetNsId::new(4, 4_026_532_000);
        let mut record = Record::new(
            "shop/web-0".to_owned(),
            "shop".to_owned(),
            Source::Plugin,
            Some("/run/netns/a".into()),
        );
        let attachment =
            Attachment { network: "pods".into(), container: "0a".into(), interface: "eth0".into() };
        record.attachments.insert(attachment);
        records.write(id, &record).unwrap();
        for (name, content) in [
            ("4-x.json", "{}"),
            ("note", ""),
            ("4-1.json", "{"),
            (
                "4-2.json",
                r#"{"version":2,"name":"a","tenant":"b","source":"found","attachments":[],"path":null}"#,
            ),
        ] {
            files::replace(&run.join(FOLDER).join(name), content.as_bytes(), 0o600).unwrap();
        }
        let (read, faults) = Records::open(&run).unwrap().read();
        assert_eq!(read, [(id, record)]);
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults.iter().all(|fault| fault.lines().count() == 1));
        records.remove(id);
        assert!(records.read().0.is_empty());
        fs::remove_dir_all(&run).unwrap();
    }
}
