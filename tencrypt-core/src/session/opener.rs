//! The receiving half of a session.

use std::fmt;

use super::{
    keys::{DirectionKeys, nonce},
    replay::ReplayWindow,
    traffic_secret::{SALT_LEN, TrafficSecret},
};
use crate::{
    crypto::{Backend, DEEP, NONCE_LEN, OpeningKey, Secret, wipe_stack},
    record::{self, DATA_HEADER_LEN, Message},
    stats::DropReason,
};

/// Forgeries after which a key is given up. RFC 9001 appendix B allows 2^36 for ChaCha20-Poly1305 and 2^52 for AES-GCM;
/// this is below both, and takes an attacker over an hour at a million datagrams a second.
const MAX_FAILED_TAGS: u64 = 1 << 32;

/// Opens the records of one sender under one key. The only way from a record to its packet: limits, replay check,
/// tag, and only then the window is written.
pub struct Opener {
    key: OpeningKey,
    // Boxed: a session moves, its secrets do not.
    iv: Box<Secret<NONCE_LEN>>,
    window: ReplayWindow,
    failed_tags: u64,
    max_failed_tags: u64,
}

/// An authentic packet, in place of the record it came in.
#[expect(clippy::exhaustive_structs, reason = "all that a record holds")]
pub struct Plain<'b> {
    /// The packet. Empty: a keepalive. Nothing is known of it but who sealed it.
    pub bytes: &'b mut [u8],
    /// The record's flags, those that have a meaning only: [`Sealer::CSUM_PARTIAL`](super::Sealer::CSUM_PARTIAL).
    pub flags: u8,
}

impl Opener {
    pub(crate) fn new(keys: &DirectionKeys) -> Self {
        Self {
            key: OpeningKey::new(Backend::fastest(), keys.aead, keys.key.expose()),
            iv: Secret::boxed(|iv| iv.copy_from_slice(keys.iv.expose())),
            window: ReplayWindow::new(),
            failed_tags: 0,
            max_failed_tags: MAX_FAILED_TAGS,
        }
    }

    /// An opener for what the other end's [`Sealer`](super::Sealer) seals, which was made of the same secret and handed out
    /// `salt`.
    ///
    /// One for each salt: its replay window is empty, so a second one would take again what the first has taken. Nobody
    /// but a holder of the secret can make use of a salt, but anybody can repeat an old one; that a session is fresh is
    /// for the caller's key exchange to prove.
    #[must_use]
    pub fn from_secret(secret: TrafficSecret, salt: &[u8; SALT_LEN]) -> Self {
        let opener = Self::salted(secret, salt);
        wipe_stack::<DEEP>();
        opener
    }

    #[inline(never)]
    fn salted(secret: TrafficSecret, salt: &[u8; SALT_LEN]) -> Self {
        Self::new(&secret.into_opening_keys(salt))
    }

    /// Opens a record in place.
    ///
    /// # Errors
    /// Nothing of the packet is left in `record`, and no counter is marked:
    /// - [`DropReason::Malformed`], [`DropReason::Unsupported`]: not a DATA record;
    /// - [`DropReason::Limit`]: the key has met too many forgeries and opens nothing any more;
    /// - [`DropReason::Replay`], [`DropReason::TooOld`]: by the replay window;
    /// - [`DropReason::Auth`]: the tag does not verify.
    #[inline]
    pub fn open<'b>(&mut self, record: &'b mut [u8]) -> Result<Plain<'b>, DropReason> {
        let Message::Data(header) = record::parse(record)? else {
            return Err(DropReason::Unsupported);
        };
        self.open_parsed(header, record)
    }

    /// As [`open`](Self::open), for a record whose header was read already.
    #[inline]
    pub(crate) fn open_parsed<'b>(
        &mut self,
        header: record::Data,
        record: &'b mut [u8],
    ) -> Result<Plain<'b>, DropReason> {
        if self.failed_tags >= self.max_failed_tags {
            return Err(DropReason::Limit);
        }
        self.window.check(header.counter)?;
        let (aad, sealed) = record.split_first_chunk_mut::<DATA_HEADER_LEN>().ok_or(DropReason::Malformed)?;
        match self.key.open_in_place(nonce(&self.iv, header.counter), aad, sealed) {
            Ok(bytes) => {
                self.window.mark(header.counter);
                Ok(Plain { bytes, flags: header.flags })
            }
            Err(_) => {
                self.failed_tags += 1;
                Err(DropReason::Auth)
            }
        }
    }

    /// Lowers the number of forgeries that the key bears.
    #[cfg(test)]
    pub(crate) fn lower_failed_tags(&mut self, max: u64) {
        self.max_failed_tags = max;
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("window", &self.window)
            .field("failed_tags", &self.failed_tags)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Plain<'_> {
    /// Lengths, never content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").field("len", &self.bytes.len()).field("flags", &self.flags).finish()
    }
}
