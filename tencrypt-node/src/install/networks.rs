//! The folder of network configurations, and the plugin's entry in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tencrypt_cni::conflist::{self, ConflistError};

use super::{
    configuration::{self, Configuration},
    derived,
    exchange::{self, Rewritten},
    file::{Fault, Opened, ReadError},
};

/// Most files of a folder that are looked at. A node has a handful.
const MAX_FILES: usize = 1_000;

/// Longest time that a file is believed to be in the middle of being written where it stands, if it makes no sense.
const UNFINISHED: Duration = Duration::from_secs(1);

/// A folder of network configurations, `/etc/cni/net.d` on most nodes, and the entry that is to stand in it: last in the first
/// list that a runtime takes. Of a configuration of one plugin a list is [made](derived), which a runtime takes in its place.
///
/// containerd and CRI-O sort the files by name. CRI-O takes the first that is valid; containerd takes the first, and no network at
/// all while it is invalid. A runtime can be told otherwise: CRI-O by `cni_default_network`, containerd by `max_conf_num`; and
/// CRI-O passes over lists whose programs it does not find. What these may take instead is in [`Checked::others`].
#[derive(Debug)]
pub(crate) struct Networks {
    folder: PathBuf,
    entry: String,
    /// The files in which the entry has stood.
    stood: BTreeSet<OsString>,
    /// The owner's file that was displaced last, by its name.
    displaced: BTreeMap<OsString, Displaced>,
    /// A look was taken at what an earlier agent may have left aside.
    is_tidy: bool,
}

/// A file of the owner's that another has taken the place of.
#[derive(Debug)]
struct Displaced {
    old: Box<Opened>,
    /// The text that stands in its place.
    new: Vec<u8>,
}

/// The findings of a check.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The configuration that a runtime takes.
    pub(crate) found: Found,
    /// Files before it that no runtime takes. CRI-O passes over them, containerd takes no network while there is one.
    pub(crate) invalid: Vec<Fault>,
    /// The configurations behind it that are without the entry, by the names of their files: pods would be in plain if a runtime
    /// took one of them.
    pub(crate) others: Vec<String>,
    /// Files in the folder that is named as the network, whose plugins libcni 1.3 and newer puts behind the entry.
    pub(crate) behind: Vec<String>,
}

/// The configuration that a runtime takes. Files are given by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is none yet.
    Nothing,
    /// The entry stands last in it.
    Stands(String),
    /// The entry was put in. It had not stood there before, as far as this agent knows.
    PutIn(String),
    /// The entry was put in where it had stood before. Pods that were added meanwhile were not told of.
    PutBack(String),
    /// It is one that the entry cannot be put into.
    Unchainable(Fault),
    /// Its owner is writing it, or one before it. It is to be looked at again when he is done, which is an event.
    Busy(String),
}

/// The folder, or a file of it, cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", .path.display())]
pub(crate) struct NetworksError {
    /// The path.
    pub(crate) path: PathBuf,
    /// The reason, in a line.
    pub(crate) reason: String,
}

impl Networks {
    /// The folder of this path, which may be absent, and the entry, the text of a JSON object.
    ///
    /// # Errors
    /// [`ConflistError::NoEntry`].
    pub(crate) fn of(folder: impl Into<PathBuf>, entry: impl Into<String>) -> Result<Self, ConflistError> {
        let (folder, entry) = (folder.into(), entry.into());
        conflist::with_entry(r#"{"name":"a","plugins":[{"type":"a"}]}"#, &entry)?;
        let (stood, displaced) = (BTreeSet::new(), BTreeMap::new());
        Ok(Self { folder, entry, stood, displaced, is_tidy: false })
    }

    /// Reads the folder, and sees to it that the entry stands where it belongs. Where it has stood before it stays, also in lists
    /// that come later now. One caller at a time.
    ///
    /// # Errors
    /// See [`NetworksError`]. Nothing of the owner's is lost.
    pub(crate) fn check(&mut self, now: SystemTime) -> Result<Checked, NetworksError> {
        self.tidy()?;
        let mut checked =
            Checked { found: Found::Nothing, invalid: Vec::new(), others: Vec::new(), behind: Vec::new() };
        let (mut unfinished, mut source) = (None, None);
        let names = self.names()?;
        for name in &names {
            if derived::is_derived(name) && self.forget_derived(name, &names)? {
                continue;
            }
            let looked = self.look(name);
            if checked.found != Found::Nothing {
                // Of a list that was made the source is not taken.
                let is_open = source != Some(name) && matches!(&looked, Ok(Some(file)) if file.is_open());
                checked.others.extend(is_open.then(|| text(name)));
                continue;
            }
            source = derived::source_of(name, &names);
            match looked {
                Ok(None) => {}
                Ok(Some(Looked { configuration: Ok(configuration), .. })) => {
                    checked.found = match unfinished.take().filter(|_| !self.stood.contains(name)) {
                        Some(before) => Found::Busy(before),
                        None => match source {
                            Some(source) => self.renew_derived(name, source)?,
                            None => self.chain(name, &configuration)?,
                        },
                    };
                    checked.behind = self.behind(&configuration);
                }
                Ok(Some(Looked { configuration: Err(reason), written, .. })) => {
                    if written.is_some_and(|written| is_young(written, now)) {
                        unfinished.get_or_insert_with(|| text(name));
                    }
                    checked.invalid.push(Fault::of(name, reason));
                }
                // A runtime reads it nevertheless.
                Err(reason @ ReadError::TooLong(_)) => {
                    checked.found = Found::Unchainable(Fault::of(name, reason));
                }
                Err(reason) => checked.invalid.push(Fault::of(name, reason)),
            }
        }
        if let (Found::Nothing, Some(before)) = (&checked.found, unfinished) {
            checked.found = Found::Busy(before);
        }
        Ok(checked)
    }

    /// Takes the entry out of every list. Returns the names of the files that were changed, and those out of which it cannot be
    /// taken.
    ///
    /// # Errors
    /// See [`NetworksError`].
    pub(crate) fn remove(&mut self) -> Result<(Vec<String>, Vec<Fault>), NetworksError> {
        self.tidy()?;
        let (mut removed, mut faults) = (Vec::new(), Vec::new());
        for name in self.names()? {
            let path = self.path(&name)?;
            if derived::is_derived(&name) && is_chained(&path) {
                fs::remove_file(&path).map_err(|reason| failure(&path, reason))?;
                removed.push(text(&name));
                continue;
            }
            match exchange::rewrite(&path, conflist::LIMIT, without_entry) {
                Ok(Rewritten::Done { .. }) => removed.push(text(&name)),
                Ok(Rewritten::Stands) => {
                    faults.extend(stuck(&path).map(|reason| Fault::of(&name, reason)));
                }
                Ok(Rewritten::Busy) => faults.push(Fault::of(&name, "its owner is writing it")),
                Err(reason) => faults.push(Fault::of(&name, reason)),
            }
        }
        self.stood.clear();
        self.displaced.clear();
        Ok((removed, faults))
    }

    /// The names of the files that a runtime reads, in its order. A folder that is absent has none.
    fn names(&self) -> Result<Vec<OsString>, NetworksError> {
        let failed = |reason: io::Error| failure(&self.folder, reason);
        let files = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files.map_err(failed)?,
        };
        let mut names = Vec::new();
        for file in files {
            let file = file.map_err(failed)?;
            // A link to a folder is none for libcni, and no file either: the reading tells.
            let is_folder = file.file_type().is_ok_and(|kind| kind.is_dir());
            if configuration::is_read(&file.file_name()) && !is_folder {
                names.push(file.file_name());
            }
            if names.len() > MAX_FILES {
                return Err(failure(&self.folder, format_args!("more than {MAX_FILES} files")));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a file. `None`: it has gone meanwhile.
    fn look(&self, name: &OsStr) -> Result<Option<Looked>, ReadError> {
        let read = match Opened::read(&self.folder.join(name), conflist::LIMIT) {
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let mut configuration = Configuration::of(name, &read.bytes);
        if let Ok(list @ Configuration::List { has_plugins: false, .. }) = &configuration
            && self.behind(list).is_empty()
        {
            configuration = Err("`plugins` is missing".to_owned());
        }
        Ok(Some(Looked { configuration, bytes: read.bytes, written: read.metadata.modified().ok() }))
    }

    /// Puts the entry into a file.
    fn chain(&mut self, name: &OsStr, configuration: &Configuration) -> Result<Found, NetworksError> {
        if *configuration == Configuration::Single {
            return self.derive(name);
        }
        let path = self.path(name)?;
        let late = self.late(name);
        let make = |read: &[u8]| match &late {
            Some((instead_of, late)) if read == instead_of => {
                with_entry(late, &self.entry).or_else(|| Some(late.clone())).filter(|text| text != read)
            }
            _ => with_entry(read, &self.entry),
        };
        match exchange::rewrite(&path, conflist::LIMIT, make) {
            Ok(Rewritten::Done { text: new, displaced: old }) => {
                self.displaced.insert(name.to_owned(), Displaced { old, new });
                let is_first = self.stood.insert(name.to_owned());
                Ok(if is_first { Found::PutIn(text(name)) } else { Found::PutBack(text(name)) })
            }
            Ok(Rewritten::Busy) => Ok(Found::Busy(text(name))),
            Ok(Rewritten::Stands) => self.standing(name, &path),
            Err(reason) => Err(failure(&path, reason)),
        }
    }

    /// Makes a list of the file with this name, which has one plugin.
    fn derive(&mut self, source: &OsStr) -> Result<Found, NetworksError> {
        let name = derived::name_of(source);
        let path = self.path(source)?;
        let read = match Opened::read(&path, conflist::LIMIT) {
            Ok(read) => read,
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Found::Busy(text(source)));
            }
            Err(reason) => return Err(failure(&path, reason)),
        };
        let list = match derived::list(&read.bytes, &self.entry) {
            Ok(list) => list,
            Err(reason) => return Ok(Found::Unchainable(Fault::of(source, reason))),
        };
        let path = self.folder.join(&name);
        exchange::create(&path, &read, &list).map_err(|reason| failure(&path, reason))?;
        let is_first = self.stood.insert(name.clone());
        Ok(if is_first { Found::PutIn(text(&name)) } else { Found::PutBack(text(&name)) })
    }

    /// Sees to it that a list is what would be made of its source now. While that makes no sense what was made of it stands.
    fn renew_derived(&mut self, name: &OsStr, source: &OsStr) -> Result<Found, NetworksError> {
        let stood = is_chained(&self.folder.join(name));
        let single = Opened::read(&self.folder.join(source), conflist::LIMIT).ok();
        let single =
            single.filter(|read| Configuration::of(source, &read.bytes) == Ok(Configuration::Single));
        let list = single.and_then(|read| derived::list(&read.bytes, &self.entry).ok());
        let now = Opened::read(&self.folder.join(name), conflist::LIMIT).ok();
        let stands = now.is_some_and(|now| list.is_none_or(|list| list == now.bytes));
        if stands && stood {
            self.stood.insert(name.to_owned());
            return Ok(Found::Stands(text(name)));
        }
        match self.derive(source)? {
            // The entry was in it all the time.
            Found::PutIn(name) | Found::PutBack(name) if stood => Ok(Found::Stands(name)),
            found => Ok(found),
        }
    }

    /// Removes a list whose source has gone: its owner has no network any more. Returns true if it did.
    fn forget_derived(&mut self, name: &OsStr, names: &[OsString]) -> Result<bool, NetworksError> {
        let path = self.folder.join(name);
        if derived::source_of(name, names).is_some() || !is_chained(&path) {
            return Ok(false);
        }
        self.stood.remove(name);
        fs::remove_file(&path).map_err(|reason| failure(&path, reason))?;
        Ok(true)
    }

    /// Judges a file that was left as it is.
    fn standing(&mut self, name: &OsStr, path: &Path) -> Result<Found, NetworksError> {
        let read = match Opened::read(path, conflist::LIMIT) {
            Ok(read) => read,
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Found::Busy(text(name)));
            }
            Err(reason) => return Err(failure(path, reason)),
        };
        let reason = match std::str::from_utf8(&read.bytes) {
            Ok(list) => match conflist::with_entry(list, &self.entry) {
                Ok(None) => {
                    self.stood.insert(name.to_owned());
                    return Ok(Found::Stands(text(name)));
                }
                // It was written between both looks.
                Ok(Some(_)) => return Ok(Found::Busy(text(name))),
                Err(reason) => reason.to_string(),
            },
            Err(_) => "no UTF-8".to_owned(),
        };
        // The same, if it makes no sense to a runtime either.
        match Configuration::of(name, &read.bytes) {
            Ok(_) => Ok(Found::Unchainable(Fault::of(name, reason))),
            Err(_) => Ok(Found::Busy(text(name))),
        }
    }

    /// A text that somebody has written into the displaced file after it was displaced, and the text that stands in its place.
    /// Whoever had the file open before did not see it go; his text is the newest unless another has been put there since.
    fn late(&self, name: &OsStr) -> Option<(Vec<u8>, Vec<u8>)> {
        let displaced = self.displaced.get(name)?;
        let bytes = displaced.old.again(conflist::LIMIT).ok()?;
        let is_whole = matches!(Configuration::of(name, &bytes), Ok(Configuration::List { .. }));
        (is_whole && bytes != displaced.old.bytes).then(|| (displaced.new.clone(), bytes))
    }

    /// Puts right what an agent has left that was killed while it exchanged files. A list aside without the entry, where the entry
    /// stands in the file, was displaced and not yet compared: it goes back, for what stands there was made from the same or from
    /// an older one. Otherwise it is a new one that was not yet put in place.
    fn tidy(&mut self) -> Result<(), NetworksError> {
        if self.is_tidy || !self.folder.is_dir() {
            return Ok(());
        }
        let left = exchange::left_over(&self.folder).map_err(|reason| failure(&self.folder, reason))?;
        for (aside, name) in left {
            let path = self.folder.join(&name);
            let read = |path: &Path| Opened::read(path, conflist::LIMIT).map(|read| read.bytes).ok();
            let is_displaced = match (read(&aside), read(&path)) {
                (Some(aside), Some(now)) => {
                    without_entry(&now).is_some_and(|owners| owners != aside)
                        && without_entry(&aside).is_none()
                        && with_entry(&aside, &self.entry).is_some()
                }
                _ => false,
            };
            let done = if is_displaced { fs::rename(&aside, &path) } else { fs::remove_file(&aside) };
            done.map_err(|reason| failure(&aside, reason))?;
        }
        self.is_tidy = true;
        Ok(())
    }

    /// The files of further plugins that libcni puts behind those of a list.
    fn behind(&self, configuration: &Configuration) -> Vec<String> {
        let Configuration::List { network, is_whole: false, .. } = configuration else { return Vec::new() };
        // Go's `filepath.Join` knows no absolute path at its end.
        let folder = self.folder.join(network.trim_start_matches('/'));
        let files = fs::read_dir(folder).into_iter().flatten().flatten().take(MAX_FILES);
        let is_further = |file: &fs::DirEntry| {
            configuration::is_further(&file.file_name()) && !file.file_type().is_ok_and(|kind| kind.is_dir())
        };
        let mut names: Vec<String> = files.filter(is_further).map(|file| text(&file.file_name())).collect();
        names.sort_unstable();
        names
    }

    /// The path of a file, behind the links that it may be: a link is not to become a file.
    fn path(&self, name: &OsStr) -> Result<PathBuf, NetworksError> {
        let path = self.folder.join(name);
        match fs::canonicalize(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path),
            found => found.map_err(|reason| failure(&path, reason)),
        }
    }
}

/// A file that was read.
struct Looked {
    configuration: Result<Configuration, String>,
    bytes: Vec<u8>,
    written: Option<SystemTime>,
}

impl Looked {
    /// Tells if a runtime takes it, and the entry does not stand in it.
    fn is_open(&self) -> bool {
        self.configuration.is_ok() && without_entry(&self.bytes).is_none()
    }
}

/// Tells if a file was written so short a time ago that more may come. A time to come counts as long ago: the clock was set.
fn is_young(written: SystemTime, now: SystemTime) -> bool {
    now.duration_since(written).is_ok_and(|age| age < UNFINISHED)
}

/// Tells if the entry stands in the file at `path`.
fn is_chained(path: &Path) -> bool {
    Opened::read(path, conflist::LIMIT).is_ok_and(|read| without_entry(&read.bytes).is_some())
}

/// The reason why an entry cannot be taken out of the file at `path`, if there may be one.
fn stuck(path: &Path) -> Option<String> {
    let read = Opened::read(path, conflist::LIMIT).ok()?;
    let list = String::from_utf8_lossy(&read.bytes);
    let reason = conflist::without_entry(&list).err()?.to_string();
    list.contains(tencrypt_cni::plugin::TYPE).then_some(reason)
}

/// The text with the entry; `None`: it stands there, or cannot be put in.
fn with_entry(read: &[u8], entry: &str) -> Option<Vec<u8>> {
    let list = std::str::from_utf8(read).ok()?;
    conflist::with_entry(list, entry).ok()?.map(String::into_bytes)
}

/// The text without the entry; `None`: it does not stand there, or cannot be taken out.
fn without_entry(read: &[u8]) -> Option<Vec<u8>> {
    let list = std::str::from_utf8(read).ok()?;
    conflist::without_entry(list).ok()?.map(String::into_bytes)
}

fn text(name: &OsStr) -> String {
    super::file::line(&name.to_string_lossy())
}

fn failure(path: &Path, reason: impl std::fmt::Display) -> NetworksError {
    NetworksError { path: path.to_owned(), reason: super::file::line(&reason.to_string()) }
}

#[cfg(test)]
mod tests;
