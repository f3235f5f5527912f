//! `rotate`: the epochs of a key file, edited so that nobody ever reads half of it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tencrypt::KeyRing;
use zeroize::Zeroizing;

use crate::{
    failure::{Exit, Failure},
    keys::file::{self as keyfile, KeyFileError},
    os::files::{self, Access, MakeError, ReadError},
};

/// Time that a rotation waits for another one of the same file.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// Pause between attempts to lock the file meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// One step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// One more epoch, with a fresh key, that is accepted and not sent.
    Add,
    /// Another epoch is sent: this one, else the next.
    Activate(Option<u8>),
    /// An epoch goes: this one, else the oldest.
    Retire(Option<u8>),
}

/// A step that is not taken: the file stays as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// It is no key file that can be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// There are as many epochs as there may be.
    #[error("{} epochs are as many as a key file holds; retire one first", KeyRing::MAX_EPOCHS)]
    Full,
    /// No epoch of this number.
    #[error("epoch {0} is not in the file")]
    Unknown(u8),
    /// There is nothing to go to.
    #[error("no epoch comes after {0}, which is sent; add one first")]
    NoNext(u8),
    /// It is sent already.
    #[error("epoch {0} is sent already")]
    Sent(u8),
    /// It is in use.
    #[error("epoch {0} is the one that is sent; activate another first")]
    InUse(u8),
    /// There is nothing to let go of.
    #[error("no epoch comes before {0}, which is sent")]
    NoOldest(u8),
    /// Another rotation does not come to its end.
    #[error("another rotation of {} does not end", .0.display())]
    Locked(PathBuf),
}

impl From<RotateError> for Failure {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::File(error) => error.into(),
            RotateError::Locked(_) => Self::new(Exit::Runtime, error),
            _ => Self::new(Exit::Usage, error),
        }
    }
}

/// Takes one step of a rotation of the key file at `path`. Returns a line about it.
///
/// The new text stands in a file of its own, synced, with the mode and owner of the old one, before it takes that one's
/// name: whoever reads finds the old text or the new. Of two at the same time the second edits what the first has
/// written. Where `path` is a link, the file that it leads to is edited.
///
/// # Errors
/// [`RotateError`]; the file is as it was.
pub(crate) fn rotate(path: &Path, step: Step) -> Result<String, RotateError> {
    let unreadable = |error| KeyFileError::unreadable(path, error);
    let unwritable = |source| KeyFileError::Make(MakeError::Write { path: path.to_owned(), source });
    let target = fs::canonicalize(path).map_err(ReadError::from).map_err(unreadable)?;
    let mut file = lock(path, &target)?;
    let metadata = file.metadata().map_err(unwritable)?;
    Access::OwnerAlone.check(&metadata).map_err(unreadable)?;
    let (text, ring) = read(path, &mut file, metadata.len())?;
    let (edited, done) = edit(&text, &ring, step)?;
    let after =
        KeyRing::parse(&edited).map_err(|source| KeyFileError::Content { path: path.to_owned(), source })?;
    replace(&target, edited.as_bytes(), &metadata).map_err(unwritable)?;
    let accepted = after.epochs().map(|epoch| epoch.to_string()).collect::<Vec<_>>().join(", ");
    Ok(format!("{done}; sends {}, accepts {accepted}\n", after.send_epoch()))
}

/// The file at `target`, which stays this process's to edit until it is closed.
fn lock(path: &Path, target: &Path) -> Result<File, RotateError> {
    let failed = |error: io::Error| KeyFileError::unreadable(path, error);
    let end = Instant::now() + LOCK_LIMIT;
    loop {
        let file = files::open_regular(target).map_err(|error| KeyFileError::unreadable(path, error))?;
        match file.try_lock() {
            Ok(()) => {
                // Another rotation may have put a new file in the place of the one that was opened.
                let (own, there) = (file.metadata().map_err(failed)?, fs::metadata(target).map_err(failed)?);
                if (own.dev(), own.ino()) == (there.dev(), there.ino()) {
                    return Ok(file);
                }
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error).into()),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY),
        }
        if Instant::now() >= end {
            return Err(RotateError::Locked(path.to_owned()));
        }
    }
}

fn read(path: &Path, file: &mut File, len: u64) -> Result<(Zeroizing<String>, KeyRing), RotateError> {
    if len > keyfile::MAX_FILE_LEN {
        let limit = keyfile::MAX_FILE_LEN;
        return Err(KeyFileError::unreadable(path, ReadError::TooLong { limit }).into());
    }
    // Room for all of it at once: nothing of a secret is left where it was outgrown.
    let mut text = Zeroizing::new(String::with_capacity(keyfile::MAX_FILE_LEN as usize + 1));
    file.take(keyfile::MAX_FILE_LEN).read_to_string(&mut text).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => KeyFileError::unreadable(path, ReadError::NotText),
        _ => KeyFileError::unreadable(path, error),
    })?;
    let ring =
        KeyRing::parse(&text).map_err(|source| KeyFileError::Content { path: path.to_owned(), source })?;
    Ok((text, ring))
}

/// The text after a step, and what was done. Comments and the order of lines stay.
fn edit(text: &str, ring: &KeyRing, step: Step) -> Result<(Zeroizing<String>, String), RotateError> {
    let sent = ring.send_epoch();
    let known = |epoch: u8| if ring.holds(epoch) { Ok(epoch) } else { Err(RotateError::Unknown(epoch)) };
    let (removed, added, send, done) = match step {
        Step::Add => {
            if ring.epochs().count() >= KeyRing::MAX_EPOCHS {
                return Err(RotateError::Full);
            }
            let mut root = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *root).map_err(|_| KeyFileError::Make(MakeError::Random))?;
            let epoch = ring.vacant_epoch();
            (None, Some(KeyRing::write_epoch(epoch, &root)), sent, format!("added epoch {epoch}"))
        }
        Step::Activate(epoch) => {
            let epoch = epoch.map_or_else(|| ring.next_epoch().ok_or(RotateError::NoNext(sent)), known)?;
            if epoch == sent {
                return Err(RotateError::Sent(epoch));
            }
            (None, None, epoch, format!("activated epoch {epoch}"))
        }
        Step::Retire(epoch) => {
            let epoch =
                epoch.map_or_else(|| ring.oldest_epoch().ok_or(RotateError::NoOldest(sent)), known)?;
            if epoch == sent {
                return Err(RotateError::InUse(epoch));
            }
            (Some(epoch), None, sent, format!("retired epoch {epoch}"))
        }
    };
    let mut edited = Zeroizing::new(String::with_capacity(text.len() + 256));
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let goes = match words.next() {
            Some("send") => true,
            Some("epoch") => removed.is_some() && words.next().and_then(|word| word.parse().ok()) == removed,
            _ => false,
        };
        if !goes {
            edited.push_str(line);
            edited.push('\n');
        }
    }
    if let Some(line) = &added {
        edited.push_str(line);
    }
    edited.push_str(&format!("send {send}\n"));
    Ok((edited, done))
}

/// Puts a file with this content in the place of the one at `target`, with the mode and owner of that.
fn replace(target: &Path, content: &[u8], metadata: &fs::Metadata) -> io::Result<()> {
    const SUFFIX: &str = "new";
    // Whose it was is dead: the lock is ours.
    match fs::remove_file(files::hidden(target, SUFFIX)?) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let as_before = |file: &File| {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))
    };
    files::write_whole(target, SUFFIX, 0o600, content, as_before, |hidden| fs::rename(hidden, target))
}

#[cfg(test)]
mod tests {
    use tencrypt::KeyRing;

    use super::*;

    fn after(text: &str, step: Step) -> Result<(String, String), RotateError> {
        edit(text, &KeyRing::parse(text).unwrap(), step).map(|(text, done)| (text.to_string(), done))
    }

    #[test]
    fn comments_and_order_survive_and_numbers_wrap() {
        let root = std::array::from_fn(|at| at as u8);
        let text = format!("# of the shop\n{}# last line", *KeyRing::write_file([7; 16], 255, &root));
        let (text, done) = after(&text, Step::Add).unwrap();
        assert_eq!(done, "added epoch 0");
        let (text, done) = after(&text, Step::Activate(None)).unwrap();
        assert_eq!(done, "activated epoch 0");
        let ring = KeyRing::parse(&text).unwrap();
        assert_eq!((ring.epochs().collect::<Vec<_>>(), ring.send_epoch()), (vec![255, 0], 0));
        let (text, done) = after(&text, Step::Retire(None)).unwrap();
        assert_eq!(done, "retired epoch 255");
        assert!(
            text.starts_with("# of the shop\ntencrypt-key-v1\n") && text.contains("# last line\n"),
            "{text}"
        );
        assert!(KeyRing::parse(&text).is_ok());
    }

    #[test]
    fn steps_that_make_no_sense_are_refused() {
        let text = KeyRing::write_file([7; 16], 3, &std::array::from_fn(|at| at as u8)).to_string();
        let refused = |text: &str, step| after(text, step).unwrap_err().to_string();
        assert!(refused(&text, Step::Activate(None)).starts_with("no epoch comes after 3"));
        assert!(refused(&text, Step::Activate(Some(3))).starts_with("epoch 3 is sent already"));
        assert!(refused(&text, Step::Activate(Some(4))).starts_with("epoch 4 is not in the file"));
        assert!(refused(&text, Step::Retire(None)).starts_with("no epoch comes before 3"));
        assert!(refused(&text, Step::Retire(Some(3))).starts_with("epoch 3 is the one that is sent"));
        assert!(refused(&text, Step::Retire(Some(9))).starts_with("epoch 9 is not in the file"));
        let full = (1..KeyRing::MAX_EPOCHS).fold(text, |text, _| after(&text, Step::Add).unwrap().0);
        assert!(refused(&full, Step::Add).starts_with("8 epochs are as many"));
    }
}
