//! Peers: their sessions, their liveness, and which addresses belong to whom.

mod peer;
mod session;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

pub(super) use self::{
    peer::Peer,
    session::{PendingConf, Session},
};
use super::{
    index::OwnedIndex,
    limits::{
        DEAD_PEER, KEEPALIVE, MAX_OWNED, MAX_SESSIONS, REJECT_AFTER, REPEAT_INTERVAL, RESET_TAKEN,
    },
    outbox::Outbox,
    timer::Timers,
};
use crate::{
    crypto::PeerId,
    event::Event,
    handshake::Established,
    keyed_hash::KeyedState,
    lane_update::LaneChange,
    record::{Data, SessionIndex},
    stats::DropReason,
};

/// A slot in [`Peers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerKey(u32);

/// All peers, and the owners by address. What becomes of them is told by the [`Outbox`]: that a peer came or went, and to
/// other lanes who was found where.
#[derive(Debug)]
pub(super) struct Peers {
    slots: Vec<Option<Peer>>,
    free: Vec<u32>,
    by_id: BTreeMap<(PeerId, u8), PeerKey>,
    owners: HashMap<IpAddr, PeerKey, KeyedState>,
    timers: Timers<PeerKey>,
    /// The session that was looked up last: its peer, and its place there.
    last: Option<(PeerKey, usize)>,
    /// Grows with each change that a decision of the data path may depend on.
    revision: u64,
}

/// A session that a handshake has led to.
pub(super) struct NewSession {
    pub(super) established: Established,
    pub(super) local: OwnedIndex,
    pub(super) endpoint: SocketAddr,
    pub(super) role: Role,
}

/// This side's part in the handshake of a session.
pub(super) enum Role {
    /// It sent INIT, repeats CONF, and replaces the session at that time.
    Initiator { conf: PendingConf, rekey_at: Instant },
    /// It answered INIT at that time; mac1 of the CONF, the source if the peer names it, and the VIP that was asked for.
    Responder { born: Instant, mac1: [u8; 16], seen_from: Option<IpAddr>, vip: Option<IpAddr> },
}

/// An authentic record.
pub(super) struct Received<'b> {
    pub(super) key: PeerKey,
    pub(super) bytes: &'b mut [u8],
    pub(super) flags: u8,
    /// It came from another address than the one before.
    pub(super) from_new_source: bool,
}

/// Way to a peer for one packet: the session to send on, and where to.
pub(super) struct Toward<'p> {
    pub(super) session: &'p mut Session,
    pub(super) to: SocketAddr,
    /// The other side's device takes no unfinished checksums.
    pub(super) finish: bool,
}

/// What is due of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerDue {
    /// It is gone, or needs nothing.
    Nothing,
    /// It left data unanswered too long.
    Silent,
}

impl Peers {
    pub(super) fn new(hash_key: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            owners: HashMap::with_hasher(KeyedState { key: hash_key }),
            timers: Timers::default(),
            last: None,
            revision: 0,
        }
    }

    /// Forgets every peer.
    pub(super) fn clear(&mut self, hash_key: u64, outbox: &mut Outbox) {
        let mut gone: Vec<PeerId> = self.iter().map(|peer| peer.id).collect();
        gone.sort_unstable();
        gone.dedup();
        *self = Self { revision: self.revision + 1, ..Self::new(hash_key) };
        gone.into_iter().for_each(|peer| outbox.event(Event::PeerDown { peer }));
    }

    /// Grows with each change that a decision of the data path may depend on.
    #[inline]
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Every peer there is.
    pub(super) fn keys(&self) -> Vec<PeerKey> {
        let taken = (0..).zip(&self.slots).filter(|(_, slot)| slot.is_some());
        taken.map(|(slot, _)| PeerKey(slot)).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    #[inline]
    pub(super) fn find(&self, key: PeerKey) -> Option<&Peer> {
        self.slots.get(key.0 as usize)?.as_ref()
    }

    #[inline]
    fn find_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.slots.get_mut(key.0 as usize)?.as_mut()
    }

    /// The lane of this member to send to: the first with a session.
    pub(super) fn by_id(&self, id: PeerId, now: Instant) -> Option<PeerKey> {
        let is_ready = |key: &PeerKey| self.find(*key).is_some_and(|peer| peer.sending(now).is_some());
        self.lanes(id).find(is_ready).or_else(|| self.lanes(id).next())
    }

    /// The lanes of this member that there are sessions with.
    fn lanes(&self, id: PeerId) -> impl Iterator<Item = PeerKey> {
        self.by_id.range((id, 0)..=(id, u8::MAX)).map(|(_, key)| *key)
    }

    /// Tells if these are lanes of one member.
    pub(super) fn are_one_pod(&self, one: PeerKey, other: PeerKey) -> bool {
        one == other
            || matches!((self.find(one), self.find(other)), (Some(one), Some(other)) if one.id == other.id)
    }

    /// Tells if another lane of the same member holds `address` and can be sent to.
    pub(super) fn has_other_lane_for(&self, key: PeerKey, address: IpAddr, now: Instant) -> bool {
        self.owner(address).is_some_and(|owner| {
            owner != key
                && self.are_one_pod(owner, key)
                && self.find(owner).is_some_and(|owner| owner.sending(now).is_some())
        })
    }

    /// The address at which to ask for a peer: one that it still owns, where its records go if possible. Not an address
    /// that has moved to another peer since: an answer from there proves nothing about this one.
    pub(super) fn where_to_ask(&self, key: PeerKey) -> Option<IpAddr> {
        let peer = self.find(key)?;
        let mut owned =
            peer.endpoints().filter(|to| peer.owned.contains(to)).chain(peer.owned.iter().copied());
        owned.next().or_else(|| Some(peer.any_endpoint()?.ip()))
    }

    /// Addresses that lanes of the same member behind lane `last` own, of the families that it was reached over at
    /// `key` too: there both sides know each other's addresses.
    pub(super) fn held_by_later_lanes(&self, key: PeerKey, last: u8) -> Vec<IpAddr> {
        let Some(peer) = self.find(key) else { return Vec::new() };
        let others = self.lanes(peer.id).filter(|other| *other != key).filter_map(|other| self.find(other));
        let later = others.filter(|other| other.lane > last).flat_map(|other| other.owned.iter().copied());
        later.filter(|address| peer.was_reached_over(*address)).collect()
    }

    pub(super) fn owner(&self, address: IpAddr) -> Option<PeerKey> {
        self.owners.get(&address).copied()
    }

    /// Makes `address` belong to `key`. Whoever owned it before does so no longer. False: it did already, or there is no
    /// room.
    pub(super) fn own(&mut self, key: PeerKey, address: IpAddr, outbox: &mut Outbox) -> bool {
        let before = self.owners.get(&address).copied();
        if before == Some(key) {
            return false;
        }
        let Some(peer) = self.find_mut(key) else { return false };
        if peer.owned.len() >= MAX_OWNED {
            return false;
        }
        peer.owned.push(address);
        let id = peer.id;
        if let Some(before) = before.and_then(|before| self.find_mut(before)) {
            before.owned.retain(|owned| *owned != address);
            outbox.lane_change(LaneChange::Lost { address, peer: before.id });
        }
        outbox.lane_change(LaneChange::Found { address, peer: id });
        self.owners.insert(address, key);
        self.revision += 1;
        true
    }

    /// Takes from a peer the addresses that are not `kept`.
    pub(super) fn disown(&mut self, key: PeerKey, kept: impl Fn(IpAddr) -> bool) {
        let Some(peer) = self.find_mut(key) else { return };
        let lost: Vec<IpAddr> = peer.owned.iter().copied().filter(|address| !kept(*address)).collect();
        peer.owned.retain(|address| !lost.contains(address));
        for address in &lost {
            self.owners.remove(address);
        }
        self.revision += u64::from(!lost.is_empty());
    }

    /// Tells other lanes anew what is behind this peer's addresses: with each handshake.
    pub(super) fn tell_owned(&self, key: PeerKey, outbox: &mut Outbox) {
        let Some(peer) = self.find(key) else { return };
        for address in &peer.owned {
            outbox.lane_change(LaneChange::Found { address: *address, peer: peer.id });
        }
    }

    /// The slot of this lane of the peer with this identity, made if there is none.
    fn admit(&mut self, id: PeerId, lane: u8, now: Instant) -> PeerKey {
        if let Some(key) = self.by_id.get(&(id, lane)) {
            return *key;
        }
        let peer = Some(Peer::new(id, lane, now));
        let key = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = peer;
                PeerKey(slot)
            }
            None => {
                self.slots.push(peer);
                PeerKey((self.slots.len() - 1) as u32)
            }
        };
        self.by_id.insert((id, lane), key);
        key
    }

    /// Prepares the slot that a session will be in: its index is bound to it.
    pub(super) fn slot_for(&mut self, established: &Established, now: Instant) -> PeerKey {
        self.admit(established.peer, established.remote_index.lane(), now)
    }

    /// Adds a session to the peer at `key`, from [`slot_for`](Self::slot_for); `own` is this side's identity.
    pub(super) fn install(
        &mut self,
        key: PeerKey,
        new: NewSession,
        own: PeerId,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let NewSession { established, local, endpoint, role } = new;
        let id = established.peer;
        let is_first_lane = self.lanes(id).count() == 1;
        let Some(peer) = self.find_mut(key) else { return };
        let is_new = is_first_lane && peer.sessions.is_empty();
        let index = local.get();
        peer.set_endpoint(endpoint);
        peer.asserted = established.identity.addresses.clone().into();
        peer.vnet = established.identity.vnet;
        peer.certificate.clone_from(&established.identity.certificate);
        peer.unanswered_since = None;
        let is_initiator = matches!(role, Role::Initiator { .. });
        let mut session = Session::new(established, local, is_initiator, now);
        let mut due = now + REJECT_AFTER;
        match role {
            Role::Initiator { conf, rekey_at } => {
                due = due.min(conf.repeat_at);
                session.rekey_at = rekey_at;
                session.conf = Some(conf);
            }
            Role::Responder { born, mac1, seen_from, vip } => {
                session.confirmed_by = Some((mac1, now));
                // Not when CONF came: a late one is no newer for that.
                session.born = born;
                session.seen_from = seen_from;
                vip.into_iter().for_each(|vip| peer.serve(vip));
            }
        }
        add_session(peer, session, now);
        peer.consider(index, own, now);
        if is_new {
            outbox.event(Event::PeerUp { peer: id, endpoint, addresses: peer.asserted.clone() });
        }
        self.timers.arm(key, due);
        self.revision += 1;
    }

    /// Ends the sessions of a peer that are over. One that has none left is forgotten.
    pub(super) fn end_sessions(
        &mut self,
        key: PeerKey,
        over: impl Fn(&Session) -> bool,
        outbox: &mut Outbox,
    ) -> bool {
        let none_left = self.find_mut(key).is_some_and(|peer| peer.end_sessions(over));
        self.revision += 1;
        if none_left {
            self.remove(key, outbox);
        }
        none_left
    }

    /// Ends all that there is with a peer that is no member.
    pub(super) fn refuse(&mut self, key: PeerKey, outbox: &mut Outbox) {
        if let Some(peer) = self.find_mut(key) {
            peer.sessions.iter_mut().for_each(|session| session.local.refuse());
            self.remove(key, outbox);
        }
    }

    /// Forgets a lane of a peer with all that belongs to it. Addresses that the peer says it has go to another lane of
    /// it that was reached over their family; a VIP does not, since the others were not asked under it.
    fn remove(&mut self, key: PeerKey, outbox: &mut Outbox) {
        let Some(peer) = self.slots.get_mut(key.0 as usize).and_then(Option::take) else { return };
        self.free.push(key.0);
        self.by_id.remove(&(peer.id, peer.lane));
        self.timers.cancel(key);
        self.revision += 1;
        for address in &peer.owned {
            self.owners.remove(address);
            outbox.lane_change(LaneChange::Lost { address: *address, peer: peer.id });
            let reached =
                |heir: &PeerKey| self.find(*heir).is_some_and(|heir| heir.was_reached_over(*address));
            let heir = self.lanes(peer.id).find(reached);
            if let Some(heir) = heir.filter(|_| peer.asserted.contains(address)) {
                self.own(heir, *address, outbox);
            }
        }
        if self.lanes(peer.id).next().is_none() {
            outbox.event(Event::PeerDown { peer: peer.id });
        }
    }

    /// Finds the session of a record, if it is the one that was looked up last.
    #[inline]
    pub(super) fn last_session(&self, index: SessionIndex) -> Option<(PeerKey, usize)> {
        let (key, at) = self.last?;
        (self.find(key)?.sessions.get(at)?.index() == index).then_some((key, at))
    }

    /// Finds the place of a session of the peer at `key`.
    pub(super) fn place_of(&mut self, key: PeerKey, index: SessionIndex) -> Option<(PeerKey, usize)> {
        let at = self.find(key)?.sessions.iter().position(|session| session.index() == index)?;
        self.last = Some((key, at));
        self.last
    }

    /// Opens a record that came from `from`, on the session at this place; `own` is this side's identity.
    pub(super) fn open<'b>(
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
    pub(super) fn owe_acknowledgement(&mut self, key: PeerKey, now: Instant) {
        if let Some(peer) = self.find_mut(key)
            && peer.unacknowledged_since.is_none()
        {
            peer.unacknowledged_since = Some(now);
            self.timers.arm(key, now + KEEPALIVE);
        }
    }

    /// Finds the way to a peer for a packet of this family.
    #[inline]
    pub(super) fn toward(
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
    pub(super) fn note_sent(&mut self, key: PeerKey, bytes: usize, now: Instant) {
        let Some(peer) = self.find_mut(key) else { return };
        peer.tx_bytes += bytes as u64;
        peer.unacknowledged_since = None;
        if peer.unanswered_since.is_none() {
            peer.unanswered_since = Some(now);
            self.timers.arm(key, now + DEAD_PEER);
        }
    }

    /// Finds the session for a keepalive, and where that goes to.
    pub(super) fn toward_session(
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
    pub(super) fn note_keepalive(&mut self, key: PeerKey) {
        if let Some(peer) = self.find_mut(key) {
            peer.unacknowledged_since = None;
        }
    }

    /// Notes that a packet for the peer waits in the outbox.
    pub(super) fn note_queued(&mut self, key: PeerKey) {
        if let Some(peer) = self.find_mut(key) {
            peer.queued += 1;
        }
    }

    /// Notes that one waits no longer.
    pub(super) fn note_unqueued(&mut self, key: PeerKey) {
        if let Some(peer) = self.find_mut(key) {
            peer.queued = peer.queued.saturating_sub(1);
        }
    }

    /// The CONF that a session still repeats.
    pub(super) fn pending_conf(&mut self, key: PeerKey, index: SessionIndex) -> Option<&mut PendingConf> {
        self.find_mut(key)?.session_mut(index)?.conf.as_mut()
    }

    /// Takes a CONF that came again, because the initiator did not see our answer. It gets another one.
    pub(super) fn repeat_answer(
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
    pub(super) fn hasten(&mut self, key: PeerKey, rekey_at: impl Fn(&Session) -> Option<Instant>) {
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
    pub(super) fn note_reset(&mut self, key: PeerKey, now: Instant) -> Result<(), DropReason> {
        let peer = self.find_mut(key).ok_or(DropReason::UnknownIndex)?;
        if peer.reset_at.is_some_and(|at| now.saturating_duration_since(at) < RESET_TAKEN) {
            return Err(DropReason::RateLimited);
        }
        peer.reset_at = Some(now);
        Ok(())
    }

    /// `key` proved to be at `address`: others that were there and were reset are gone, and lose all of their addresses,
    /// which are asked for again; services would stay with them until their sessions end.
    pub(super) fn succeed(&mut self, key: PeerKey, address: IpAddr) {
        if self.owner(address) != Some(key) {
            return;
        }
        let was_here = |peer: &Peer| peer.any_endpoint().is_some_and(|endpoint| endpoint.ip() == address);
        let mut gone = self.keys();
        gone.retain(|other| {
            let reset = self.find(*other).is_some_and(|peer| peer.reset_at.is_some() && was_here(peer));
            reset && !self.are_one_pod(*other, key)
        });
        gone.into_iter().for_each(|key| self.disown(key, |_| false));
    }

    /// Tells if somebody else has proven to be at the address that records to this peer go to, and can be sent to.
    pub(super) fn has_heir(&self, key: PeerKey, endpoint: IpAddr, now: Instant) -> bool {
        let heir = self.owner(endpoint).filter(|heir| !self.are_one_pod(*heir, key));
        heir.and_then(|heir| self.find(heir)).and_then(|heir| heir.sending(now)).is_some()
    }

    /// Returns when [`take_due`](Self::take_due) has something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next peer with something due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<PeerKey> {
        self.timers.take_due(now)
    }

    /// Does what is due of a peer: ends sessions, repeats CONF, sends a keepalive.
    pub(super) fn handle_due(
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

/// Adds a session. The oldest makes room, of those that neither side sends on: records of others would be lost, and
/// four are made within seconds where keys are changed that often.
fn add_session(peer: &mut Peer, session: Session, now: Instant) {
    peer.last_handshake = now;
    if peer.sessions.len() >= MAX_SESSIONS {
        let in_use = [peer.sending, peer.heard];
        let oldest = (0..peer.sessions.len())
            .filter(|at| !in_use.contains(&Some(peer.sessions[*at].index())))
            .min_by_key(|at| peer.sessions[*at].born);
        if let Some(at) = oldest {
            peer.sessions.swap_remove(at);
        }
    }
    peer.sessions.push(session);
}

#[cfg(test)]
mod tests;

/// A key for tests of what refers to peers.
#[cfg(test)]
pub(super) fn a_peer() -> PeerKey {
    PeerKey(7)
}
