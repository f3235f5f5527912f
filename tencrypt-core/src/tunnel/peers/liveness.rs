//! Records to and from peers, and what their silence means.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    Peers,
    life::Turn,
    outcome::{PeerDue, Received, Toward},
    session::{PendingConf, Session},
};
use crate::{
    crypto::PeerId,
    record::{Data, SessionIndex},
    stats::DropReason,
    tunnel::{
        limits::{DEAD_AFTER, KEEPALIVE, MAX_SERVED, REPEAT_INTERVAL, RESET_TAKEN},
        outbox::Outbox,
        packet::HeldPacket,
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

    /// Opens a record on the session at this place; `own` tells this side's identity.
    #[inline]
    pub(in crate::tunnel) fn open<'b>(
        &mut self,
        (key, at): (PeerKey, usize),
        header: Data,
        record: &'b mut [u8],
        own: impl FnOnce() -> PeerId,
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
        let revived = peer.life.heard(is_first);
        peer.active = now;
        peer.heard = Some(index);
        peer.rx_bytes += plain.bytes.len() as u64;
        if is_first {
            peer.consider(index, own(), now);
        }
        let received = Received { key, bytes: plain.bytes, flags: plain.flags };
        self.revision += u64::from(revived);
        Ok(received)
    }

    /// Sees to it that a peer hears something within [`KEEPALIVE`] of the packet it sent.
    #[inline]
    pub(in crate::tunnel) fn owe_acknowledgement(&mut self, key: PeerKey, now: Instant) {
        if let Some(peer) = self.find_mut(key)
            && peer.unacknowledged_since.is_none()
        {
            peer.unacknowledged_since = Some(now);
            let at = now + KEEPALIVE;
            if peer.is_earlier(at) {
                self.timers.arm(key, at);
            }
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
        let (finish, is_waited_for) = (!peer.vnet, peer.queued > 0);
        let session = peer.sending_mut(now).ok_or(DropReason::Expired)?;
        Ok(Toward { session, to, finish, is_waited_for })
    }

    /// Notes that packets of `bytes` bytes in all were sealed for a peer.
    #[inline]
    pub(in crate::tunnel) fn note_sent(&mut self, key: PeerKey, bytes: usize, now: Instant) {
        let Some(peer) = self.find_mut(key) else { return };
        peer.tx_bytes += bytes as u64;
        peer.unacknowledged_since = None;
        peer.active = now;
        let is_lost = peer.is_way_lost(now);
        peer.sent = now;
        if let Some(at) = peer.life.sent(now) {
            let at = if is_lost { peer.life.doubt(now) } else { at };
            if peer.is_earlier(at) {
                self.timers.arm(key, at);
            }
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
    pub(in crate::tunnel) fn note_keepalive(&mut self, key: PeerKey, now: Instant) {
        if let Some(peer) = self.find_mut(key) {
            (peer.unacknowledged_since, peer.sent) = (None, now);
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
        self.suspect(key, now);
        Ok(())
    }

    /// Has a peer asked if it lives, for a sign from outside that anybody may have given.
    pub(in crate::tunnel) fn suspect(&mut self, key: PeerKey, now: Instant) {
        if self.find_mut(key).is_some_and(|peer| peer.life.suspect(now)) {
            self.revision += 1;
            self.arm(key, now + DEAD_AFTER);
        }
    }

    /// Declares a member dead: somebody else is at its own address. Returns the lanes that were not yet.
    pub(in crate::tunnel) fn bury(&mut self, member: PeerId) -> Vec<PeerKey> {
        let mut buried: Vec<PeerKey> = self.lanes(member).collect();
        buried.retain(|key| self.find_mut(*key).is_some_and(|peer| peer.life.bury()));
        self.revision += u64::from(!buried.is_empty());
        buried
    }

    /// Notes that packets to this VIP go to the peer: a question about it is asked on behalf of that.
    pub(in crate::tunnel) fn note_vip(&mut self, key: PeerKey, vip: IpAddr) {
        if let Some(peer) = self.find_mut(key) {
            peer.vip = Some(vip);
        }
    }

    /// Notes that the peer was asked on behalf of this VIP.
    pub(in crate::tunnel) fn note_told(&mut self, key: PeerKey, vip: IpAddr) {
        if let Some(peer) = self.find_mut(key).filter(|peer| !peer.is_told(vip)) {
            if peer.told.len() >= MAX_SERVED {
                peer.told.remove(0);
            }
            peer.told.push(vip);
        }
    }

    /// Keeps a copy of a packet for a service behind a peer that is asked if it lives.
    pub(in crate::tunnel) fn keep_copy(&mut self, key: PeerKey, service: IpAddr, packet: HeldPacket) {
        if let Some(peer) = self.find_mut(key) {
            peer.life.keep(service, packet);
        }
    }

    /// Services that there are copies of packets to, for a peer that has died.
    pub(in crate::tunnel) fn copied_to(&self, key: PeerKey) -> Vec<IpAddr> {
        self.find(key).map(|peer| peer.life.copied_to()).unwrap_or_default()
    }

    /// Takes the copies of packets to `service` whose peers have died, to be sent to the peer at `to`. That one gets none that
    /// it may have had: of its own, or of the one that it is the successor of, at an address of the same pod.
    pub(in crate::tunnel) fn take_copies(&mut self, service: IpAddr, to: PeerKey) -> Vec<HeldPacket> {
        let Some((id, addresses)) = self.find(to).map(|peer| (peer.id, peer.asserted.clone())) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        for (_, peer) in self.slots.iter_mut().flatten().filter(|(_, peer)| peer.is_dead()) {
            let copies = peer.life.take_copies(service);
            if peer.id != id && !addresses.iter().any(|address| peer.asserts(*address)) {
                taken.extend(copies);
            }
        }
        taken
    }

    /// Drops the copies of packets to a service that nobody answers for.
    pub(in crate::tunnel) fn drop_copies(&mut self, service: IpAddr) {
        for (_, peer) in self.slots.iter_mut().flatten().filter(|(_, peer)| peer.is_dead()) {
            peer.life.take_copies(service);
        }
    }

    /// Has all peers told of this side's addresses, each at its time within `spread`.
    pub(in crate::tunnel) fn tell_all(&mut self, mut spread: impl FnMut() -> Duration, now: Instant) {
        self.addresses_since = Some(now);
        self.keys().into_iter().for_each(|key| self.tell(key, spread(), now));
    }

    /// Has a peer told after `spread` whose handshake began before this side had its addresses.
    pub(in crate::tunnel) fn tell_late(
        &mut self,
        key: PeerKey,
        begun: Instant,
        spread: impl FnOnce() -> Duration,
        now: Instant,
    ) {
        if self.addresses_since.is_some_and(|since| begun < since) {
            self.tell(key, spread(), now);
        }
    }

    fn tell(&mut self, key: PeerKey, spread: Duration, now: Instant) {
        if let Some(peer) = self.find_mut(key) {
            peer.is_to_tell = true;
        }
        self.arm(key, now + spread);
    }

    /// Takes note that a peer is being told. False: it was, or need not be.
    pub(in crate::tunnel) fn take_to_tell(&mut self, key: PeerKey) -> bool {
        self.find_mut(key).is_some_and(|peer| std::mem::take(&mut peer.is_to_tell))
    }

    /// Returns when [`take_due`](Self::take_due) has something.
    pub(in crate::tunnel) fn next_due(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next peer with something due.
    pub(in crate::tunnel) fn take_due(&mut self, now: Instant) -> Option<PeerKey> {
        let key = self.timers.take_due(now)?;
        if let Some(peer) = self.find_mut(key) {
            peer.armed = None;
        }
        Some(key)
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
        if ends && self.end_sessions(key, |session| session.is_expired(now), now, outbox) {
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
        let (turn, owed, due) = peer.due(now);
        if let Some(session) = peer.sending(now).filter(|_| owed) {
            outbox.empty(key, session.index());
        }
        if let Some(at) = next.into_iter().chain(due).min() {
            self.arm(key, at);
        }
        self.revision += u64::from(turn != Turn::Stays);
        match turn {
            Turn::Stays => PeerDue::Nothing,
            Turn::Suspect => PeerDue::Suspect,
            Turn::Dies => PeerDue::Dead,
        }
    }
}
