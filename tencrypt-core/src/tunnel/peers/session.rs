//! A session as a Tunnel keeps it: keys, times, and the CONF that may still be repeated.

use std::{net::SocketAddr, time::Instant};

use crate::tunnel::{
    index::OwnedIndex,
    limits::{CONF_REPEATS, REJECT_AFTER, REKEY_AFTER_RESPONDER, RETRY_FIRST, RETRY_MOST},
    timer::backoff,
};
use crate::{
    crypto::CipherSuite,
    handshake::{CookieBytes, Established},
    record::{CONF_LEN, DATA_OVERHEAD, SessionIndex},
    session::{Opener, Sealer},
    sink::Transmit,
    stats::DropReason,
};

/// One session, from one handshake. Its index is free, and its keys erased, once it is dropped.
#[derive(Debug)]
pub(in crate::tunnel) struct Session {
    pub(super) local: OwnedIndex,
    pub(in crate::tunnel) sealer: Sealer,
    pub(in crate::tunnel) opener: Opener,
    pub(super) suite: CipherSuite,
    pub(super) epoch: u8,
    /// Time at which INIT was answered, as each side knows it: sessions of one initiator have the same order on both.
    pub(super) born: Instant,
    /// Time at which its keys are to be erased.
    pub(super) expires: Instant,
    /// Time at which it is to be replaced.
    pub(super) rekey_at: Instant,
    /// This side sent INIT.
    pub(super) initiated: bool,
    /// The peer has shown that it holds the keys: by CONF, or by a valid DATA.
    pub(super) proven: bool,
    /// CONF, as long as it may have to be repeated (initiator).
    pub(super) conf: Option<PendingConf>,
    /// mac1 of the CONF that made the session, and when it was last answered (responder).
    pub(super) confirmed_by: Option<([u8; 16], Instant)>,
}

/// A CONF that awaits its answer.
#[derive(Debug)]
pub(in crate::tunnel) struct PendingConf {
    pub(in crate::tunnel) bytes: Box<[u8; CONF_LEN]>,
    pub(in crate::tunnel) to: SocketAddr,
    pub(super) attempt: u32,
    pub(super) repeat_at: Instant,
    /// The cookie that its mac2 is made with, and when that was taken.
    pub(in crate::tunnel) cookie: Option<(CookieBytes, Instant)>,
}

/// A CONF to be sent once more, and where to.
pub(super) type RepeatedConf = (SocketAddr, Box<[u8]>);

impl PendingConf {
    pub(in crate::tunnel) fn new(
        bytes: Box<[u8; CONF_LEN]>,
        to: SocketAddr,
        random: u32,
        now: Instant,
    ) -> Self {
        let repeat_at = now + backoff(0, RETRY_FIRST, RETRY_MOST, random);
        Self { bytes, to, attempt: 0, repeat_at, cookie: None }
    }
}

impl Session {
    pub(super) fn new(established: Established, local: OwnedIndex, initiated: bool, now: Instant) -> Self {
        Self {
            local,
            sealer: established.sealer,
            opener: established.opener,
            suite: established.suite,
            epoch: established.epoch,
            born: now,
            expires: now + REJECT_AFTER,
            rekey_at: now + REKEY_AFTER_RESPONDER,
            initiated,
            proven: !initiated,
            conf: None,
            confirmed_by: None,
        }
    }

    pub(in crate::tunnel) fn index(&self) -> SessionIndex {
        self.local.get()
    }

    pub(in crate::tunnel) fn epoch(&self) -> u8 {
        self.epoch
    }

    /// Tells if this side sent INIT.
    pub(in crate::tunnel) fn is_initiator(&self) -> bool {
        self.initiated
    }

    /// Time from which on nothing is sealed or opened.
    pub(in crate::tunnel) fn expires(&self) -> Instant {
        self.expires
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now >= self.expires
    }

    pub(in crate::tunnel) fn wants_rekey(&self, now: Instant) -> bool {
        now >= self.rekey_at || self.sealer.wants_rekey()
    }

    /// Seals one record into `buf`, for `to`.
    pub(in crate::tunnel) fn seal_one(
        &mut self,
        packet: &[u8],
        flags: u8,
        to: SocketAddr,
        buf: &mut [u8],
    ) -> Result<Transmit, DropReason> {
        let len = packet.len() + DATA_OVERHEAD;
        let room = buf.get_mut(..len).ok_or(DropReason::TooBig)?;
        let counter = self.sealer.counters(1).ok().and_then(|mut counters| counters.take());
        self.sealer.seal(counter.ok_or(DropReason::Limit)?, flags, packet, room);
        Ok(Transmit { to, len, ecn: 0, from_tenant_port: false })
    }

    /// Takes the CONF that is due again, and gives up one that was repeated often enough. Returns when the next of the
    /// session's timers is due.
    pub(super) fn repeat_conf(&mut self, now: Instant, random: u32) -> (Option<RepeatedConf>, Instant) {
        let Some(conf) = &mut self.conf else { return (None, self.expires) };
        let mut repeated = None;
        if conf.repeat_at <= now {
            conf.attempt += 1;
            conf.repeat_at = now + backoff(conf.attempt, RETRY_FIRST, RETRY_MOST, random);
            repeated = Some((conf.to, Box::from(conf.bytes.as_slice())));
        }
        let next = conf.repeat_at.min(self.expires);
        if conf.attempt >= CONF_REPEATS {
            self.conf = None;
            return (repeated, self.expires);
        }
        (repeated, next)
    }
}
