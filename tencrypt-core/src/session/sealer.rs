//! The sending half of a session.

use std::fmt;

use super::{
    keys::{DirectionKeys, nonce},
    traffic_secret::{SALT_LEN, TrafficSecret},
};
use crate::{
    crypto::{Backend, DEEP, NONCE_LEN, Rng, SealingKey, Secret, Seed, wipe_stack},
    record::{self, DATA_HEADER_LEN, DATA_OVERHEAD, SessionIndex},
    stats::DropReason,
};

/// Records that may be sealed under one key, by the longest record among them in bytes, header and tag included.
///
/// RFC 9001 appendix B.1.1 for AES-GCM: 2^35 blocks keep an attacker's advantage below 2^-57, which is 2^28 packets of
/// 2^11 bytes or 2^23 of 2^16. ChaCha20-Poly1305 has no bound that matters; it keeps the same ones, so that there is
/// one behaviour to test, and they cost it a handshake per 2^28 records.
const LIMITS: [Limit; 3] = [
    Limit { record: 2_048, records: 1 << 28 },
    Limit { record: 9_216, records: 1 << 25 },
    Limit { record: usize::MAX, records: 1 << 23 },
];

#[derive(Debug, Clone, Copy)]
struct Limit {
    /// Longest record in bytes.
    record: usize,
    records: u64,
}

/// Seals packets for one receiver under one key. Not `Clone`: every counter is used once, by this one.
pub struct Sealer {
    key: SealingKey,
    // Boxed: a session moves, its secrets do not.
    iv: Box<Secret<NONCE_LEN>>,
    receiver: SessionIndex,
    next: u64,
    limits: [Limit; 3],
    /// Entry of `limits` that holds: the one for the longest record so far.
    class: usize,
}

impl Sealer {
    /// Bytes a record is longer than its packet: header and tag.
    pub const OVERHEAD: usize = DATA_OVERHEAD;
    /// Flag of a record: the packet's TCP or UDP checksum is unfinished.
    pub const CSUM_PARTIAL: u8 = record::FLAG_CSUM_PARTIAL;

    pub(crate) fn new(keys: &DirectionKeys, receiver: SessionIndex) -> Self {
        Self {
            key: SealingKey::new(Backend::fastest(), keys.aead, keys.key.expose()),
            iv: Secret::boxed(|iv| iv.copy_from_slice(keys.iv.expose())),
            receiver,
            next: 0,
            limits: LIMITS,
            class: 0,
        }
    }

    /// A sealer for the receiver that calls the session `receiver`, under a secret of the caller's own, and the salt that
    /// the [`Opener`](super::Opener) at the other end is made with. The salt is drawn from `seed`; it is no secret.
    ///
    /// The limits are those of a session of the tunnel: [`counters`](Self::counters) refuses what exceeds them, and
    /// [`wants_rekey`](Self::wants_rekey) tells in time. A new sealer of the same secret, with a fresh seed, has a new
    /// key and limits of its own. Who learns the secret later reads all that was sealed under it: forward secrecy is for
    /// the caller's key exchange to give.
    #[must_use]
    pub fn from_secret(secret: TrafficSecret, receiver: SessionIndex, seed: Seed) -> (Self, [u8; SALT_LEN]) {
        let mut salt = [0; SALT_LEN];
        Rng::new(seed).fill(&mut salt);
        let sealer = Self::salted(secret, &salt, receiver);
        wipe_stack::<DEEP>();
        (sealer, salt)
    }

    #[inline(never)]
    fn salted(secret: TrafficSecret, salt: &[u8; SALT_LEN], receiver: SessionIndex) -> Self {
        Self::new(&secret.into_sealing_keys(salt), receiver)
    }

    /// Takes the next `n` counters, all or none. What is not spent is burnt: no counter is given out twice.
    ///
    /// The limit is that of the longest record sealed so far. Counters taken before the first longer record was sealed
    /// stay good, so a key may exceed its limit by the rest of one train: at most 2^16 records of 2^12 blocks, 2^28 on
    /// top of the 2^35 that the limits allow.
    ///
    /// # Errors
    /// [`DropReason::Limit`] if fewer are left under this key.
    pub fn counters(&mut self, n: u16) -> Result<Counters, DropReason> {
        let most = self.limits[self.class].records;
        let end = self.next.checked_add(u64::from(n)).filter(|end| *end <= most).ok_or(DropReason::Limit)?;
        let next = std::mem::replace(&mut self.next, end);
        Ok(Counters { next, end, owner: self.owner() })
    }

    /// Tells if half of the records were sealed: time for a new session.
    #[must_use]
    pub fn wants_rekey(&self) -> bool {
        self.next >= self.limits[self.class].records / 2
    }

    /// Seals `packet` into `out` as one record: header, ciphertext, tag. Of `flags` only
    /// [`CSUM_PARTIAL`](Self::CSUM_PARTIAL) counts.
    ///
    /// # Panics
    /// If `out` is not [`OVERHEAD`](Self::OVERHEAD) bytes longer than `packet`, or if `counter` is another Sealer's: going on
    /// would use a nonce twice.
    #[expect(clippy::needless_pass_by_value, reason = "a counter is spent")]
    #[inline]
    pub fn seal(&mut self, counter: Counter, flags: u8, packet: &[u8], out: &mut [u8]) {
        // Not `assert_eq`, which would print what it compares.
        assert!(counter.owner == self.owner(), "a counter of another Sealer");
        assert_eq!(out.len(), packet.len() + DATA_OVERHEAD, "a record is 32 bytes longer than its packet");
        while out.len() > self.limits[self.class].record {
            self.class += 1;
        }
        let header = record::data_header(flags, self.receiver, counter.value);
        let (head, sealed) = out.split_at_mut(DATA_HEADER_LEN);
        head.copy_from_slice(&header);
        self.key.seal_into(nonce(&self.iv, counter.value), &header, packet, sealed);
    }

    /// Mark that ties a counter to this Sealer: bytes of its IV, which no other key has.
    fn owner(&self) -> u64 {
        let [_, _, _, _, owner @ ..] = *self.iv.expose();
        u64::from_le_bytes(owner)
    }

    /// The receiver's index of the session.
    pub(crate) fn receiver(&self) -> SessionIndex {
        self.receiver
    }

    /// Lowers the limits, in records: for records up to 2,048 bytes, up to 9,216 and longer ones.
    #[cfg(test)]
    pub(crate) fn lower_limits(&mut self, records: [u64; 3]) {
        for (limit, records) in self.limits.iter_mut().zip(records) {
            limit.records = records;
        }
    }

    /// Goes on at a later counter, burning those before.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, counter: u64) {
        self.next = self.next.max(counter);
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("receiver", &self.receiver)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Counters taken from a [`Sealer`], spent one by one. What is left when this is dropped is burnt.
pub struct Counters {
    next: u64,
    end: u64,
    owner: u64,
}

impl Counters {
    /// The next one; `None`: all are spent.
    pub fn take(&mut self) -> Option<Counter> {
        if self.next == self.end {
            return None;
        }
        let value = self.next;
        self.next += 1;
        Some(Counter { value, owner: self.owner })
    }

    /// Number of counters that are left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.end - self.next
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").field("next", &self.next).field("end", &self.end).finish_non_exhaustive()
    }
}

/// One counter of one [`Sealer`]: good for one record. Neither `Clone` nor made anywhere else.
pub struct Counter {
    value: u64,
    owner: u64,
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counter").field(&self.value).finish()
    }
}
