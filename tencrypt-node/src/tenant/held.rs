//! Keys that are in no file: held in memory that is hidden from others, for data paths that start while nobody can be asked.

use std::fmt;

use tencrypt::KeyRing;
use tencrypt_agent::{
    node::{Order, OrderError},
    os::secret_memory::SecretBytes,
};

use super::files::KeyMarks;

/// The text of a key file, good.
pub(crate) struct HeldKeys {
    text: SecretBytes,
    len: usize,
    /// Its marks.
    pub(crate) marks: KeyMarks,
    /// The epoch that is sent.
    pub(crate) send: u8,
    /// The epochs that are accepted.
    pub(crate) accept: Vec<u8>,
}

/// The reason why keys do not take the place of others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeysError {
    /// They make no key file.
    #[error("is no key file: {0}")]
    Malformed(String),
    /// They are no text.
    #[error("is no text")]
    NotText,
    /// A running member may not go over to them.
    #[error("is not taken in the place of the keys in force: {0}")]
    Other(tencrypt::crypto::KeyRingError),
    /// They are older.
    #[error("is older than the keys in force: {0}")]
    Older(Older),
}

/// The sign that keys are older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Older {
    /// The newest epoch is not in them.
    #[error("it lacks epoch {0}")]
    Lacks(u8),
    /// One is in them that was retired.
    #[error("it has epoch {0}, which was retired")]
    Retired(u8),
}

impl HeldKeys {
    /// Takes the first `len` bytes of a key file's text.
    ///
    /// # Errors
    /// [`KeysError::Malformed`] or [`KeysError::NotText`].
    pub(crate) fn new(text: SecretBytes, len: usize) -> Result<Self, KeysError> {
        let ring = ring(&text, len)?;
        let content = text.get(..len).unwrap_or_default();
        Ok(Self {
            marks: KeyMarks::of(content, &ring),
            send: ring.send_epoch(),
            accept: ring.epochs().collect(),
            text,
            len,
        })
    }

    /// The message with the keys.
    ///
    /// # Errors
    /// They are longer than a program takes.
    pub(crate) fn order(&self) -> Result<Order, OrderError> {
        Order::keys(&self.text, self.len)
    }

    /// Checks that these may take the place of the `held` ones: of the same tenant, with the same bytes for an epoch that both have,
    /// and not older. To send the epoch before again is no sign of age: that is how a rotation is called off.
    ///
    /// # Errors
    /// [`KeysError::Other`] or [`KeysError::Older`].
    pub(crate) fn check_follows(&self, held: &Self) -> Result<(), KeysError> {
        let (before, next) = (ring(&held.text, held.len)?, ring(&self.text, self.len)?);
        before.check_change(&next).map_err(KeysError::Other)?;
        let newest = before.vacant_epoch().wrapping_sub(1);
        if !next.holds(newest) {
            return Err(KeysError::Older(Older::Lacks(newest)));
        }
        let oldest = before.oldest_epoch().unwrap_or(before.send_epoch());
        // Numbers go round (RFC 1982, section 3.2).
        let is_retired = |epoch: &u8| (1..=127).contains(&oldest.wrapping_sub(*epoch));
        let retired = next.epochs().find(is_retired);
        retired.map_or(Ok(()), |epoch| Err(KeysError::Older(Older::Retired(epoch))))
    }
}

impl PartialEq for HeldKeys {
    fn eq(&self, other: &Self) -> bool {
        self.marks == other.marks
    }
}

impl Eq for HeldKeys {}

impl fmt::Debug for HeldKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldKeys")
            .field("send", &self.send)
            .field("accept", &self.accept)
            .finish_non_exhaustive()
    }
}

fn ring(text: &SecretBytes, len: usize) -> Result<KeyRing, KeysError> {
    let content = text.get(..len).unwrap_or_default();
    let text = std::str::from_utf8(content).map_err(|_| KeysError::NotText)?;
    KeyRing::parse(text).map_err(|error| KeysError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf";
    const SECOND: &str = "c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf";

    fn keys(epochs: &[(u8, &str)], send: u8) -> HeldKeys {
        let lines: String = epochs.iter().map(|(number, root)| format!("epoch {number} {root}\n")).collect();
        let file = format!("tencrypt-key-v1\ntenant 000102030405060708090a0b0c0d0e0f\n{lines}send {send}\n");
        held(&file).unwrap()
    }

    fn held(file: &str) -> Result<HeldKeys, KeysError> {
        let mut text = SecretBytes::new(file.len() + 100);
        text[..file.len()].copy_from_slice(file.as_bytes());
        HeldKeys::new(text, file.len())
    }

    #[test]
    fn a_rotation_goes_forward_step_by_step_and_may_be_called_off_before_its_last() {
        let steps = [
            keys(&[(1, FIRST)], 1),
            keys(&[(1, FIRST), (2, SECOND)], 1),
            keys(&[(1, FIRST), (2, SECOND)], 2),
            keys(&[(2, SECOND)], 2),
        ];
        for pair in steps.windows(2) {
            assert_eq!(pair[1].check_follows(&pair[0]), Ok(()));
            assert_eq!(pair[0].check_follows(&pair[0]), Ok(()));
        }
        assert_eq!(steps[1].check_follows(&steps[2]), Ok(()), "called off");
        assert_eq!(steps[3].check_follows(&steps[1]), Ok(()), "a step was not seen");
    }

    #[test]
    fn older_keys_are_told_by_what_they_lack_and_by_what_was_retired() {
        let (first, both) = (keys(&[(1, FIRST)], 1), keys(&[(1, FIRST), (2, SECOND)], 1));
        let second = keys(&[(2, SECOND)], 2);
        assert_eq!(first.check_follows(&both), Err(KeysError::Older(Older::Lacks(2))));
        assert_eq!(both.check_follows(&second), Err(KeysError::Older(Older::Retired(1))));
        let (last, around) = (keys(&[(255, FIRST)], 255), keys(&[(255, FIRST), (0, SECOND)], 255));
        assert_eq!(around.check_follows(&last), Ok(()), "0 comes after 255");
        assert_eq!(last.check_follows(&around), Err(KeysError::Older(Older::Lacks(0))));
    }

    #[test]
    fn other_bytes_for_an_epoch_and_another_tenant_are_refused() {
        let one = keys(&[(1, FIRST)], 1);
        assert!(matches!(keys(&[(1, SECOND)], 1).check_follows(&one), Err(KeysError::Other(_))));
        let file = format!("tencrypt-key-v1\ntenant ff0102030405060708090a0b0c0d0e0f\nepoch 1 {FIRST}\n");
        assert!(matches!(held(&file).unwrap().check_follows(&one), Err(KeysError::Other(_))));
    }

    #[test]
    fn what_is_no_key_file_is_not_held_and_what_is_held_is_not_printed() {
        assert!(matches!(held(""), Err(KeysError::Malformed(_))));
        let cut =
            format!("tencrypt-key-v1\ntenant 000102030405060708090a0b0c0d0e0f\nepoch 1 {}\n", &FIRST[..60]);
        assert!(held(&cut).is_err());
        let printed = format!("{:?}", keys(&[(1, FIRST)], 1));
        assert!(!printed.contains("a0a1") && printed.contains("send: 1"), "{printed}");
    }
}
