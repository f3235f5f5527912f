//! Peers, their sessions, and which addresses belong to whom.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    limits::{
        MAX_LANE_UPDATES, MAX_OWNED, MAX_SERVED, MAX_SESSIONS, MAX_TOMBSTONES, SIMULTANEOUS, TOMBSTONE,
    },
    live::Session,
};
use crate::{
    directory::PeerId, keyed_hash::KeyedState, lane_update::LaneChange, record::SessionIndex,
    trust::Certificate,
};

/// A slot in [`Peers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerKey(u32);

/// Use of a session index on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexUse {
    /// A destination that was asked: a RESP is awaited.
    Ask(IpAddr),
    /// A half-open handshake: a CONF is awaited.
    HalfOpen,
    /// A session of this peer.
    Session(PeerKey),
    /// A session whose keys were erased.
    Erased,
    /// A session that ended because the peer's certificate does not count.
    Refused,
}

/// One lane of one member of the tenant. Its lanes share identity and addresses; each has sessions and a port of its own.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) lane: u8,
    /// Destination of records, by outer family. IPv4 never travels over IPv6: its packets may be too long for it.
    endpoint_v4: Option<SocketAddr>,
    endpoint_v6: Option<SocketAddr>,
    /// Addresses that it says are its own; worth nothing until proven.
    pub(super) asserted: Box<[IpAddr]>,
    /// Addresses that it has proven to own.
    pub(super) owned: Vec<IpAddr>,
    /// VIPs under which it reached this pod.
    pub(super) served: Vec<IpAddr>,
    /// Its device takes unfinished checksums.
    pub(super) vnet: bool,
    /// Certificate that it presented in its last handshake; with an authority, one that counts.
    pub(super) certificate: Option<Certificate>,
    pub(super) sessions: Vec<Session>,
    /// The session to send on.
    sending: Option<SessionIndex>,
    /// The session that the last valid record came on.
    pub(super) heard: Option<SessionIndex>,
    /// Data was sent since and nothing came back.
    pub(super) unanswered_since: Option<Instant>,
    /// Data was received since and nothing was sent.
    pub(super) unacknowledged_since: Option<Instant>,
    /// Time at which its last RESET counted.
    pub(super) reset_at: Option<Instant>,
    /// Packets for it that wait in the outbox.
    pub(super) queued: usize,
    pub(super) last_handshake: Instant,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Peer {
    fn new(id: PeerId, lane: u8, now: Instant) -> Self {
        Self {
            id,
            lane,
            endpoint_v4: None,
            endpoint_v6: None,
            asserted: Box::default(),
            owned: Vec::new(),
            served: Vec::new(),
            vnet: false,
            certificate: None,
            sessions: Vec::new(),
            sending: None,
            heard: None,
            unanswered_since: None,
            unacknowledged_since: None,
            reset_at: None,
            queued: 0,
            last_handshake: now,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    /// Destination of a packet of this family.
    pub(super) fn endpoint(&self, inner_is_v4: bool) -> Option<SocketAddr> {
        if inner_is_v4 { self.endpoint_v4 } else { self.endpoint_v6.or(self.endpoint_v4) }
    }

    /// Destination of control datagrams.
    pub(super) fn any_endpoint(&self) -> Option<SocketAddr> {
        self.endpoint_v4.or(self.endpoint_v6)
    }

    /// Tells if there was a handshake over the family of `address`.
    fn was_reached_over(&self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.endpoint_v4.is_some() } else { self.endpoint_v6.is_some() }
    }

    pub(super) fn set_endpoint(&mut self, endpoint: SocketAddr) {
        match endpoint {
            SocketAddr::V4(_) => self.endpoint_v4 = Some(endpoint),
            SocketAddr::V6(_) => self.endpoint_v6 = Some(endpoint),
        }
    }

    pub(super) fn serve(&mut self, vip: IpAddr) {
        if !self.served.contains(&vip) && self.served.len() < MAX_SERVED {
            self.served.push(vip);
        }
    }

    pub(super) fn session(&self, local: SessionIndex) -> Option<&Session> {
        self.sessions.iter().find(|session| session.local == local)
    }

    pub(super) fn session_mut(&mut self, local: SessionIndex) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.local == local)
    }

    /// The session to send on, if it is still good.
    pub(super) fn sending(&self, now: Instant) -> Option<&Session> {
        self.session(self.sending?).filter(|session| !session.is_expired(now))
    }

    pub(super) fn sending_mut(&mut self, now: Instant) -> Option<&mut Session> {
        let local = self.sending?;
        self.session_mut(local).filter(|session| !session.is_expired(now))
    }

    /// Decides which session to send on, after `candidate` became one that may be used.
    ///
    /// A session is used once the peer has proven that it holds the keys; an unproven one only where there is no
    /// other. Of two that came from a simultaneous start both sides take the one whose initiator has the smaller
    /// static key, so that they agree without a word.
    pub(super) fn consider(&mut self, candidate: SessionIndex, own: PeerId, now: Instant) {
        let Some(new) = self.session(candidate) else { return };
        let chosen = match self.sending(now) {
            None => candidate,
            Some(current) if current.local == candidate => candidate,
            Some(_) if !new.proven => return,
            Some(current) => {
                let apart = new.born.max(current.born) - new.born.min(current.born);
                let simultaneous = apart < SIMULTANEOUS
                    && new.initiated != current.initiated
                    && new.epoch == current.epoch
                    && current.proven;
                let keep_current = if simultaneous {
                    current.initiated == (own < self.id)
                } else {
                    // One that proves late does not displace its successor.
                    current.proven && current.born > new.born
                };
                if keep_current { current.local } else { candidate }
            }
        };
        self.sending = Some(chosen);
    }
}

/// All peers, the sessions by index, and the owners by address.
#[derive(Debug)]
pub(super) struct Peers {
    slots: Vec<Option<Peer>>,
    free: Vec<u32>,
    by_id: BTreeMap<(PeerId, u8), PeerKey>,
    indices: HashMap<SessionIndex, IndexUse, KeyedState>,
    owners: HashMap<IpAddr, PeerKey, KeyedState>,
    tombstones: VecDeque<(Instant, SessionIndex)>,
    /// True if there are other lanes of this pod, which have to be told of changes.
    tells: bool,
    updates: VecDeque<LaneChange>,
    /// Updates that found no room.
    lost_updates: u64,
    /// Keys were erased since this was asked last.
    erased: bool,
}

impl Peers {
    pub(super) fn new(hash_key: u64, tells: bool) -> Self {
        let state = KeyedState { key: hash_key };
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            indices: HashMap::with_hasher(state),
            owners: HashMap::with_hasher(state),
            tombstones: VecDeque::new(),
            tells,
            updates: VecDeque::new(),
            lost_updates: 0,
            erased: false,
        }
    }

    /// None, instead of these.
    pub(super) fn renewed(&self, hash_key: u64) -> Self {
        Self::new(hash_key, self.tells)
    }

    /// From now on other lanes are told who was found where.
    pub(super) fn start_updates(&mut self) {
        self.tells = true;
    }

    pub(super) fn poll_update(&mut self) -> Option<LaneChange> {
        self.updates.pop_front()
    }

    /// Updates that found no room since this was asked last.
    pub(super) fn take_lost_updates(&mut self) -> u64 {
        std::mem::take(&mut self.lost_updates)
    }

    /// Tells if keys were erased since this was asked last.
    pub(super) fn take_erased(&mut self) -> bool {
        std::mem::take(&mut self.erased)
    }

    /// Tells anew what is behind this peer's addresses: with each handshake.
    pub(super) fn tell_owned(&mut self, key: PeerKey) {
        let Some(peer) = self.find(key).filter(|_| self.tells) else { return };
        let (peer, owned) = (peer.id, peer.owned.clone());
        owned.into_iter().for_each(|address| self.tell(LaneChange::Found { address, peer }));
    }

    fn tell(&mut self, change: LaneChange) {
        if !self.tells {
            return;
        }
        if self.updates.len() < MAX_LANE_UPDATES {
            self.updates.push_back(change);
        } else {
            self.lost_updates += 1;
        }
    }

    /// Every peer there is.
    pub(super) fn keys(&self) -> Vec<PeerKey> {
        let taken = (0..).zip(&self.slots).filter(|(_, slot)| slot.is_some());
        taken.map(|(slot, _)| PeerKey(slot)).collect()
    }

    pub(super) fn find(&self, key: PeerKey) -> Option<&Peer> {
        self.slots.get(key.0 as usize)?.as_ref()
    }

    pub(super) fn find_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.slots.get_mut(key.0 as usize)?.as_mut()
    }

    /// The lane of this member to send to: the first with a session.
    pub(super) fn by_id(&self, id: PeerId, now: Instant) -> Option<PeerKey> {
        let is_ready = |key: &PeerKey| self.find(*key).is_some_and(|peer| peer.sending(now).is_some());
        self.lanes(id).find(is_ready).or_else(|| self.lanes(id).next())
    }

    /// The lanes of this member that there are sessions with.
    pub(super) fn lanes(&self, id: PeerId) -> impl Iterator<Item = PeerKey> {
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

    /// The address at which to ask for `peer`: one that it still owns, where its records go if possible. Not an address
    /// that has moved to another peer since: an answer from there proves nothing about this one.
    pub(super) fn where_to_ask(&self, peer: &Peer) -> Option<IpAddr> {
        let endpoints = [peer.endpoint_v4, peer.endpoint_v6].into_iter().flatten().map(|to| to.ip());
        let mut owned = endpoints.filter(|to| peer.owned.contains(to)).chain(peer.owned.iter().copied());
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

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    /// Takes from a peer the addresses that are not `kept`.
    pub(super) fn disown(&mut self, key: PeerKey, kept: impl Fn(IpAddr) -> bool) {
        let Some(peer) = self.find_mut(key) else { return };
        let lost: Vec<IpAddr> = peer.owned.iter().copied().filter(|address| !kept(*address)).collect();
        peer.owned.retain(|address| !lost.contains(address));
        for address in lost {
            self.owners.remove(&address);
        }
    }

    pub(super) fn owner(&self, address: IpAddr) -> Option<PeerKey> {
        self.owners.get(&address).copied()
    }

    pub(super) fn index(&self, index: SessionIndex) -> Option<IndexUse> {
        self.indices.get(&index).copied()
    }

    pub(super) fn has_index(&self, index: SessionIndex) -> bool {
        self.indices.contains_key(&index)
    }

    pub(super) fn bind_index(&mut self, index: SessionIndex, to: IndexUse) {
        self.indices.insert(index, to);
    }

    pub(super) fn release_index(&mut self, index: SessionIndex) {
        self.indices.remove(&index);
    }

    /// The slot of this lane of the peer with this identity, made if there is none.
    pub(super) fn admit(&mut self, id: PeerId, lane: u8, now: Instant) -> PeerKey {
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

    /// Adds a session. The oldest makes room, of those that neither side sends on: records of others would be lost, and
    /// four are made within seconds where keys are changed that often.
    pub(super) fn add_session(&mut self, key: PeerKey, session: Session, now: Instant) {
        let local = session.local;
        let Some(peer) = self.find_mut(key) else { return };
        peer.last_handshake = now;
        let mut evicted = None;
        if peer.sessions.len() >= MAX_SESSIONS {
            let in_use = [peer.sending, peer.heard];
            let oldest = (0..peer.sessions.len())
                .filter(|at| !in_use.contains(&Some(peer.sessions[*at].local)))
                .min_by_key(|at| peer.sessions[*at].born);
            if let Some(at) = oldest {
                evicted = Some(peer.sessions.swap_remove(at).local);
            }
        }
        peer.sessions.push(session);
        if let Some(index) = evicted {
            self.erase_index(index, now);
        }
        self.bind_index(local, IndexUse::Session(key));
    }

    /// Erases the keys of sessions past their time. Returns whether the peer has none left.
    pub(super) fn erase_expired(&mut self, key: PeerKey, now: Instant) -> bool {
        self.erase(key, now, |session| session.is_expired(now))
    }

    /// Erases the keys of sessions that are over, and of those left sends on the newest that is proven. Returns whether
    /// the peer has none left.
    pub(super) fn erase(&mut self, key: PeerKey, now: Instant, over: impl Fn(&Session) -> bool) -> bool {
        let Some(peer) = self.find_mut(key) else { return false };
        let mut erased = [None; MAX_SESSIONS];
        let mut slots = erased.iter_mut();
        peer.sessions.retain(|session| {
            let over = over(session);
            if over && let Some(slot) = slots.next() {
                *slot = Some(session.local);
            }
            !over
        });
        if peer.sending.is_some_and(|sending| peer.session(sending).is_none()) {
            let next = peer.sessions.iter().max_by_key(|session| (session.proven, session.born));
            peer.sending = next.map(|session| session.local);
        }
        let none_left = peer.sessions.is_empty();
        for index in erased.into_iter().flatten() {
            self.erase_index(index, now);
        }
        none_left
    }

    /// Makes `address` belong to `key`. Whoever owned it before does so no longer.
    pub(super) fn own(&mut self, key: PeerKey, address: IpAddr) -> bool {
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
            let before = before.id;
            self.tell(LaneChange::Lost { address, peer: before });
        }
        self.tell(LaneChange::Found { address, peer: id });
        self.owners.insert(address, key);
        true
    }

    /// Forgets a lane of a peer with all that belongs to it. Addresses that the peer says it has go to another lane of
    /// it that was reached over their family; a VIP does not, since the others were not asked under it.
    pub(super) fn remove(&mut self, key: PeerKey, now: Instant) -> Option<Peer> {
        let peer = self.slots.get_mut(key.0 as usize)?.take()?;
        self.free.push(key.0);
        self.by_id.remove(&(peer.id, peer.lane));
        for address in &peer.owned {
            self.owners.remove(address);
            self.tell(LaneChange::Lost { address: *address, peer: peer.id });
            let reached =
                |heir: &PeerKey| self.find(*heir).is_some_and(|heir| heir.was_reached_over(*address));
            let heir = self.lanes(peer.id).find(reached);
            if let Some(heir) = heir.filter(|_| peer.asserted.contains(address)) {
                self.own(heir, *address);
            }
        }
        for session in &peer.sessions {
            self.erase_index(session.local, now);
        }
        Some(peer)
    }

    fn erase_index(&mut self, index: SessionIndex, now: Instant) {
        self.erased = true;
        self.bind_index(index, IndexUse::Erased);
        self.tombstones.push_back((now + TOMBSTONE, index));
        while let Some((until, index)) = self.tombstones.front().copied() {
            if until > now && self.tombstones.len() <= MAX_TOMBSTONES {
                break;
            }
            self.tombstones.pop_front();
            self.release_index(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        CipherSuite,
        crypto::{Rng, Seed},
        handshake::{Established, PeerIdentity},
        session::{DirectionKeys, Opener, Sealer},
        testing::start,
    };

    #[test]
    fn a_session_that_either_side_sends_on_does_not_make_room() {
        let (mut peers, mut rng) = (Peers::new(1, false), Rng::new(Seed::from_bytes([1; 32])));
        let id = PeerId::from_bytes([2; 32]);
        let key = peers.admit(id, 0, start());
        let mut add = |peers: &mut Peers, second: u64| {
            let (index, suite) = (SessionIndex::random(0, &mut rng), CipherSuite::ChaCha20Poly1305);
            let keys = DirectionKeys::derive(suite.aead(), &[1; 32], &[2; 32]);
            let established = Established {
                peer: id,
                identity: PeerIdentity { vnet: true, addresses: vec![], certificate: None },
                sealer: Sealer::new(&keys, index),
                opener: Opener::new(&keys),
                local_index: index,
                remote_index: index,
                epoch: second as u8,
                suite,
            };
            let now = start() + Duration::from_secs(second);
            peers.add_session(key, Session::new(established, false, now), now);
            index
        };
        let first: Vec<SessionIndex> = (0..4).map(|second| add(&mut peers, second)).collect();
        let peer = peers.find_mut(key).unwrap();
        (peer.heard, peer.sending) = (Some(first[0]), Some(first[1]));
        let last = add(&mut peers, 4);
        let left = first.iter().map(|index| peers.find(key).unwrap().session(*index).is_some());
        assert_eq!(left.collect::<Vec<_>>(), [true, true, false, true]);
        assert!(peers.find(key).unwrap().session(last).is_some());
        assert_eq!(peers.index(first[2]), Some(IndexUse::Erased));
        // What is sent on ends: the newest that is left takes its place.
        assert!(!peers.erase(key, start(), |session| session.epoch == 1));
        assert_eq!(peers.find(key).unwrap().sending, Some(last));
    }
}
