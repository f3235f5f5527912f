//! A session as a Tunnel keeps it: keys, times, and the CONF that may still be repeated.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::limits::{REJECT_AFTER, REKEY_AFTER_RESPONDER};
use crate::{
    crypto::CipherSuite,
    handshake::{CookieBytes, Established},
    record::{CONF_LEN, DATA_OVERHEAD, SessionIndex},
    session::{Opener, Sealer},
    sink::Transmit,
    stats::DropReason,
};

/// One session, from one handshake.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) local: SessionIndex,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
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
    pub(super) conf: Option<Conf>,
    /// mac1 of the CONF that made the session, and when it was last answered (responder).
    pub(super) confirmed_by: Option<([u8; 16], Instant)>,
    /// The outer source of the last valid record, to notice a new one without a look-up.
    pub(super) seen_from: Option<IpAddr>,
}

/// A CONF that awaits its answer.
#[derive(Debug)]
pub(super) struct Conf {
    pub(super) bytes: Box<[u8; CONF_LEN]>,
    pub(super) to: SocketAddr,
    pub(super) attempt: u32,
    pub(super) repeat_at: Instant,
    /// The cookie that its mac2 is made with, and when that was taken.
    pub(super) cookie: Option<(CookieBytes, Instant)>,
}

impl Session {
    pub(super) fn new(established: Established, initiated: bool, now: Instant) -> Self {
        Self {
            local: established.local_index,
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
            seen_from: None,
        }
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now >= self.expires
    }

    pub(super) fn wants_rekey(&self, now: Instant) -> bool {
        now >= self.rekey_at || self.sealer.wants_rekey()
    }

    /// Seals one record into `buf`, for `to`.
    pub(super) fn seal_one(
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
}
