//! Records to and from peers, and what their silence means.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    Peers,
    outcome::{PeerDue, Received, Toward},
    session::{PendingConf, Session},
};
use crate::{
    crypto::PeerId,
    record::{Data, SessionIndex},
    stats::DropReason,
    tunnel::{
        limits::{DEAD_PEER, KEEPALIVE, REPEAT_INTERVAL, RESET_TAKEN},
        outbox::Outbox,
        peer_key::PeerKey,
    },
};

impl Peers {
    /// Finds the session of a record, if it is the one that was looked up last.
    #[inline]
    pub(in crate::tunnel) fn last_session(&self, index: SessionIndex) -> Option<(PeerKey, usize)> {
        let (key, at) = self.last?;
        (self.find(key)?.sessions.get(at)?.index() == index).then_some((key, at))
    }

    /// Finds the place of a session of the peer at `key`.
    pub(in crate::tunnel) fn place_of(
        &mut self,
        key: PeerKey,
        index: SessionIndex,
    ) -> Option<(PeerKey, usize)> {
        let at = self.find(key)?.sessions.iter().position(|session| session.index() == index)?;
        self.last = Some((key, at));
        self.last
    }

    /// Opens a record that came from `from`, on the session at this place; `own` is this side's identity.
    pub(in crate::tunnel) fn open<'b>(
        &mut self,
        (key, at): (PeerKey, usize),
        header: Data,
        record: &'b mut [u8],
        from: IpAddr,
        own: PeerId,
        now: Instant,
    ) -> Result<Received<'b>, DropReason> {
        let peer = self.find_mut(key).ok_or(DropReason::UnknownIndex)?;
        let session = peer.sessions.get_mut(at).ok_or(DropReason::UnknownIndex)?;
        if session.is_expired(now) {
            return Err(DropReason::Expired);
        }
        let index = header.index;
        let plain = session.opener.open_parsed(header, record)?;
        let is_first = !std::mem::replace(&mut session.proven, true);
        if is_first {
            session.conf = None;
        }
        let from_new_source = session.seen_from.replace(from) != Some(from);
        peer.unanswered_since = None;
        peer.heard = Some(index);
        peer.rx_bytes += plain.bytes.len() as u64;
        if is_first {
            peer.consider(index, own, now);
        }
        Ok(Received { key, bytes: plain.bytes, flags: plain.flags, from_new_source })
    }

    /// Sees to it that a peer hears something within [`KEEPALIVE`] of the packet it sent.
    #[inline]
    pub(in crate::tunnel) fn owe_acknowledgement(&mut self, key: PeerKey, now: Instant) {
        if let Some(peer) = self.find_mut(key)
            && peer.unacknowledged_since.is_none()
        {
            peer.unacknowledged_since = Some(now);
            self.timers.arm(key, now + KEEPALIVE);
        }
    }

    /// Finds the way to a peer for a packet of this family.
    #[inline]
    pub(in crate::tunnel) fn toward(
        &mut self,
        key: PeerKey,
        inner_is_v4: bool,
        now: Instant,
    ) -> Result<Toward<'_>, DropReason> {
        let peer = self.find_mut(key).ok_or(DropReason::UnknownDestination)?;
        let to = peer.endpoint(inner_is_v4).ok_or(DropReason::UnknownDestination)?;
        let finish = !peer.vnet;
        let session = peer.sending_mut(now).ok_or(DropReason::Expired)?;
        Ok(Toward { session, to, finish })
    }

    /// Notes that packets of `bytes` bytes in all were sealed for a peer.
    #[inline]
    pub(in crate::tunnel) fn note_sent(&mut self, key: PeerKey, bytes: usize, now: Instant) {
        let Some(peer) = self.find_mut(key) else { return };
        peer.tx_bytes += bytes as u64;
        peer.unacknowledged_since = None;
        if peer.unanswered_since.is_none() {
            peer.unanswered_since = Some(now);
            self.timers.arm(key, now + DEAD_PEER);
        }
    }

    /// Finds the session for a keepalive, and where that goes to.
    pub(in crate::tunnel) fn toward_session(
        &mut self,
        key: PeerKey,
        index: SessionIndex,
        now: Instant,
    ) -> Option<(&mut Session, SocketAddr)> {
        let peer = self.find_mut(key)?;
        let to = peer.any_endpoint()?;
        Some((peer.session_mut(index).filter(|session| !session.is_expired(now))?, to))
    }

    /// Notes that a peer was sent a keepalive.
    pub(in crate::tunnel) fn note_keepalive(&mut self, key: PeerKey) {
        if let Some(peer) = self.find_mut(key) {
            peer.unacknowledged_since = None;
        }
    }

    /// Notes that a packet for the peer waits in the outbox.
    pub(in crate::tunnel) fn note_queued(&mut self, key: PeerKey) {
        if let Some(peer) = self.find_mut(key) {
            peer.queued += 1;
        }
    }

    /// Notes that one waits no longer.
    pub(in crate::tunnel) fn note_unqueued(&mut self, key: PeerKey) {
        if let Some(peer) = self.find_mut(key) {
            peer.queued = peer.queued.saturating_sub(1);
        }
    }

    /// The CONF that a session still repeats.
    pub(in crate::tunnel) fn pending_conf(
        &mut self,
        key: PeerKey,
        index: SessionIndex,
    ) -> Option<&mut PendingConf> {
        self.find_mut(key)?.session_mut(index)?.conf.as_mut()
    }

    /// Takes a CONF that came again, because the initiator did not see our answer. It gets another one.
    pub(in crate::tunnel) fn repeat_answer(
        &mut self,
        key: PeerKey,
        index: SessionIndex,
        mac1: [u8; 16],
        now: Instant,
    ) -> Result<(), DropReason> {
        let peer = self.find_mut(key).ok_or(DropReason::UnknownIndex)?;
        let session = peer.session_mut(index).ok_or(DropReason::UnknownIndex)?;
        match &mut session.confirmed_by {
            Some((known, answered)) if *known == mac1 => {
                if now.saturating_duration_since(*answered) < REPEAT_INTERVAL / 2 {
                    return Err(DropReason::RateLimited);
                }
                *answered = now;
                Ok(())
            }
            _ => Err(DropReason::Replay),
        }
    }

    /// Makes sessions be replaced the sooner: at the time that `rekey_at` says, if it says one.
    pub(in crate::tunnel) fn hasten(&mut self, key: PeerKey, rekey_at: impl Fn(&Session) -> Option<Instant>) {
        let Some(peer) = self.find_mut(key) else { return };
        for session in &mut peer.sessions {
            if let Some(at) = rekey_at(session) {
                session.rekey_at = session.rekey_at.min(at);
            }
        }
    }

    /// Takes a RESET of this peer.
    ///
    /// # Errors
    /// [`DropReason::RateLimited`]: too soon after another.
    pub(in crate::tunnel) fn note_reset(&mut self, key: PeerKey, now: Instant) -> Result<(), DropReason> {
        let peer = self.find_mut(key).ok_or(DropReason::UnknownIndex)?;
        if peer.reset_at.is_some_and(|at| now.saturating_duration_since(at) < RESET_TAKEN) {
            return Err(DropReason::RateLimited);
        }
        peer.reset_at = Some(now);
        Ok(())
    }

    /// Returns when [`take_due`](Self::take_due) has something.
    pub(in crate::tunnel) fn next_due(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next peer with something due.
    pub(in crate::tunnel) fn take_due(&mut self, now: Instant) -> Option<PeerKey> {
        self.timers.take_due(now)
    }

    /// Does what is due of a peer: ends sessions, repeats CONF, sends a keepalive.
    pub(in crate::tunnel) fn handle_due(
        &mut self,
        key: PeerKey,
        random: u32,
        now: Instant,
        outbox: &mut Outbox,
    ) -> PeerDue {
        let ends = self.find(key).is_some_and(|peer| peer.sessions.iter().any(|it| it.is_expired(now)));
        if ends && self.end_sessions(key, |session| session.is_expired(now), outbox) {
            return PeerDue::Nothing;
        }
        let Some(peer) = self.find_mut(key) else { return PeerDue::Nothing };
        let mut next = None::<Instant>;
        for session in &mut peer.sessions {
            let (repeated, due) = session.repeat_conf(now, random);
            next = Some(next.map_or(due, |set| set.min(due)));
            if let Some((to, bytes)) = repeated {
                outbox.datagram(to, bytes, false);
            }
        }
        let (silent, owed, due) = peer.due(now);
        if let Some(session) = peer.sending(now).filter(|_| owed) {
            outbox.empty(key, session.index());
        }
        if let Some(at) = next.into_iter().chain(due).min() {
            self.timers.arm(key, at);
        }
        if silent { PeerDue::Silent } else { PeerDue::Nothing }
    }
}
