//! Peers: their sessions, and whether they live.

mod life;
mod liveness;
mod members;
mod outcome;
mod past;
mod peer;
mod room;
mod session;

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use self::past::Past;
pub(super) use self::{
    outcome::{NewSession, PeerDue, Received, Role, Toward},
    peer::Peer,
    session::{PendingConf, Session},
};
use super::{
    limits::{MAX_SESSIONS, REJECT_AFTER},
    outbox::Outbox,
    peer_key::PeerKey,
    timer::Timers,
};
use crate::{crypto::PeerId, event::Event, handshake::Established, keyed_hash::KeyedState};

/// All peers. What becomes of them is told by the [`Outbox`]: that a peer came or went.
#[derive(Debug)]
pub(super) struct Peers {
    slots: Vec<Option<(u32, Peer)>>,
    free: Vec<u32>,
    /// Grows with each peer, and goes on when all are forgotten.
    generation: u32,
    by_id: BTreeMap<(PeerId, u8), PeerKey>,
    /// The lane of each member to send to.
    preferred: HashMap<PeerId, PeerKey, KeyedState>,
    /// Lanes of members beyond their last session.
    past: BTreeMap<(PeerId, u8), Past>,
    timers: Timers<PeerKey>,
    /// This side has its addresses since then: a handshake that began before says others.
    addresses_since: Option<Instant>,
    /// The session that was looked up last: its peer, and its place there.
    last: Option<(PeerKey, usize)>,
    /// Grows with each change that a decision of the data path may depend on.
    revision: u64,
}

impl Peers {
    pub(super) fn new(hash_key: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            generation: 0,
            by_id: BTreeMap::new(),
            preferred: HashMap::with_hasher(KeyedState { key: hash_key }),
            past: BTreeMap::new(),
            timers: Timers::default(),
            addresses_since: None,
            last: None,
            revision: 0,
        }
    }

    /// Forgets every peer.
    pub(super) fn clear(&mut self, hash_key: u64, outbox: &mut Outbox) {
        let mut gone: Vec<PeerId> = self.iter().map(|peer| peer.id).collect();
        gone.sort_unstable();
        gone.dedup();
        let (revision, generation) = (self.revision + 1, self.generation);
        *self = Self { revision, generation, ..Self::new(hash_key) };
        gone.into_iter().for_each(|peer| outbox.event(Event::PeerDown { peer }));
    }

    /// Grows with each change that a decision of the data path may depend on.
    #[inline]
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Every peer there is.
    pub(super) fn keys(&self) -> Vec<PeerKey> {
        let taken = (0..).zip(&self.slots).filter_map(|(slot, taken)| Some((slot, taken.as_ref()?.0)));
        taken.map(|(slot, generation)| PeerKey { slot, generation }).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten().map(|(_, peer)| peer)
    }

    #[inline]
    pub(super) fn find(&self, key: PeerKey) -> Option<&Peer> {
        let (generation, peer) = self.slots.get(key.slot as usize)?.as_ref()?;
        (*generation == key.generation).then_some(peer)
    }

    #[inline]
    fn find_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        let (generation, peer) = self.slots.get_mut(key.slot as usize)?.as_mut()?;
        (*generation == key.generation).then_some(peer)
    }

    /// The slot of this lane of the peer with this identity, made if there is none.
    fn admit(&mut self, id: PeerId, lane: u8, now: Instant) -> PeerKey {
        if let Some(key) = self.by_id.get(&(id, lane)) {
            return *key;
        }
        self.generation = self.generation.wrapping_add(1);
        let mut peer = Peer::new(id, lane, now);
        if let Some(past) = self.past.remove(&(id, lane)) {
            peer.served = past.served;
        }
        let taken = Some((self.generation, peer));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = taken;
                slot
            }
            None => {
                self.slots.push(taken);
                (self.slots.len() - 1) as u32
            }
        };
        let key = PeerKey { slot, generation: self.generation };
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
        let NewSession { established, local, endpoint, is_translated, role } = new;
        let id = established.peer;
        let is_first_lane = self.lanes(id).count() == 1;
        let Some(peer) = self.find_mut(key) else { return };
        let is_new = is_first_lane && peer.sessions.is_empty();
        let index = local.get();
        let born = if let Role::Responder { born, .. } = role { born } else { now };
        peer.set_endpoint(endpoint);
        (peer.is_translated, peer.sent) = (is_translated, now);
        if peer.sessions.iter().all(|session| session.born <= born) {
            peer.say(established.identity.addresses.clone().into());
        }
        peer.vnet = established.identity.vnet;
        peer.certificate.clone_from(&established.identity.certificate);
        peer.life.shook_hands();
        peer.active = now;
        let is_initiator = matches!(role, Role::Initiator { .. });
        let mut session = Session::new(established, local, is_initiator, now);
        let mut due = now + REJECT_AFTER;
        match role {
            Role::Initiator { conf, rekey_at } => {
                due = due.min(conf.repeat_at);
                session.rekey_at = rekey_at;
                session.conf = Some(conf);
            }
            Role::Responder { born, mac1, vip } => {
                session.confirmed_by = Some((mac1, now));
                // Not when CONF came: a late one is no newer for that.
                session.born = born;
                vip.into_iter().for_each(|vip| peer.serve(vip));
            }
        }
        add_session(peer, session, now);
        peer.consider(index, own, now);
        if is_new {
            outbox.event(Event::PeerUp { peer: id, endpoint, addresses: peer.asserted.clone() });
        }
        self.prefer(key, is_initiator);
        self.arm(key, due);
        self.revision += 1;
    }

    /// Sets the timer of a peer. The one set already is looked at first without a search.
    #[inline]
    fn arm(&mut self, key: PeerKey, at: Instant) {
        let Some(peer) = self.find_mut(key) else { return };
        if peer.is_earlier(at) {
            self.timers.arm(key, at);
        }
    }

    /// Ends the sessions of a peer that are over. One that has none left is forgotten.
    pub(super) fn end_sessions(
        &mut self,
        key: PeerKey,
        over: impl Fn(&Session) -> bool,
        now: Instant,
        outbox: &mut Outbox,
    ) -> bool {
        let none_left = self.find_mut(key).is_some_and(|peer| peer.end_sessions(over));
        self.revision += 1;
        if none_left {
            self.remove(key, now, outbox);
        }
        none_left
    }

    /// Ends all that there is with a peer that is no member.
    pub(super) fn refuse(&mut self, key: PeerKey, now: Instant, outbox: &mut Outbox) {
        if let Some(peer) = self.find_mut(key) {
            peer.sessions.iter_mut().for_each(|session| session.local.refuse());
            self.remove(key, now, outbox);
        }
    }

    /// Forgets a lane of a peer but for what outlives sessions.
    fn remove(&mut self, key: PeerKey, now: Instant, outbox: &mut Outbox) {
        if self.find(key).is_none() {
            return;
        }
        let Some((_, peer)) = self.slots.get_mut(key.slot as usize).and_then(Option::take) else { return };
        self.free.push(key.slot);
        self.by_id.remove(&(peer.id, peer.lane));
        self.timers.cancel(key);
        self.revision += 1;
        self.remember(&peer, now);
        if self.lanes(peer.id).next().is_none() {
            outbox.event(Event::PeerDown { peer: peer.id });
        }
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
