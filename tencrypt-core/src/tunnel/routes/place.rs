//! One address: its way, and those that may send from it.

use std::time::Instant;

use crate::{crypto::PeerId, tunnel::limits::MAX_SPEAKERS_AN_ADDRESS};

/// The way to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) struct Route {
    /// Member that is sent to.
    pub(in crate::tunnel) member: PeerId,
    /// Time at which the question that it answered was sent first.
    pub(in crate::tunnel) proved: Instant,
    /// It names the address as its own.
    pub(in crate::tunnel) is_named: bool,
}

/// Proof that a member received what was sent to an address.
#[derive(Debug, Clone, Copy)]
pub(in crate::tunnel) struct Proof {
    pub(in crate::tunnel) member: PeerId,
    /// Time at which what it received was sent first: an answer that is late is no newer for that.
    pub(in crate::tunnel) at: Instant,
    /// It names the address as its own, and nothing says that it is a service's.
    pub(in crate::tunnel) is_named: bool,
}

/// Consequence of a proof.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::tunnel) struct Change {
    /// The way leads to the member now, and did not before.
    pub(in crate::tunnel) moved: bool,
    /// The member may send from the address now, and might not before.
    pub(in crate::tunnel) gained: bool,
    /// Members that may not any more.
    pub(in crate::tunnel) lost: Vec<PeerId>,
}

#[derive(Debug, Clone, Copy)]
struct Speaker {
    member: PeerId,
    is_named: bool,
    until: Instant,
}

/// One address.
#[derive(Debug, Default)]
pub(super) struct Place {
    route: Option<Route>,
    speakers: Vec<Speaker>,
}

impl Place {
    pub(super) fn is_empty(&self) -> bool {
        self.speakers.is_empty()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = PeerId> {
        self.speakers.iter().map(|speaker| speaker.member)
    }

    pub(super) fn route(&self, now: Instant) -> Option<Route> {
        self.route.filter(|route| self.speaks_until(route.member, now).is_some())
    }

    pub(super) fn speaks_until(&self, member: PeerId, now: Instant) -> Option<Instant> {
        let speaker = self.speakers.iter().find(|speaker| speaker.member == member)?;
        (speaker.until > now).then_some(speaker.until)
    }

    pub(super) fn used(&mut self, member: PeerId, until: Instant, now: Instant) {
        let speaker = self.speakers.iter_mut().find(|speaker| speaker.member == member);
        if let Some(speaker) = speaker.filter(|speaker| !speaker.is_named && speaker.until > now) {
            speaker.until = until;
        }
    }

    pub(super) fn renew(&mut self, member: PeerId, until: Instant) {
        let speaker = self.speakers.iter_mut().find(|speaker| speaker.member == member);
        if let Some(speaker) = speaker.filter(|speaker| speaker.is_named) {
            speaker.until = speaker.until.max(until);
        }
    }

    pub(super) fn remove(&mut self, member: PeerId) {
        self.speakers.retain(|speaker| speaker.member != member);
        self.route = self.route.filter(|route| route.member != member);
    }

    pub(super) fn prove(
        &mut self,
        proof: Proof,
        until: Instant,
        is_alive: impl Fn(PeerId) -> bool,
        now: Instant,
    ) -> Change {
        let before = self.route(now);
        let mut change = Change::default();
        if before.is_none() {
            self.route = None;
        }
        if before.is_some_and(|route| proof.at < route.proved && route.member != proof.member) {
            return change;
        }
        if proof.is_named {
            // A pod's own address has one owner. A service's may be named by a backend of it, whose fellows go on.
            if !self.is_shared(proof.member, now) {
                let (mine, others) = self.speakers.iter().partition(|it| it.member == proof.member);
                self.speakers = mine;
                change.lost = others.iter().map(|speaker: &Speaker| speaker.member).collect();
            }
            self.lead_to(proof, &mut change);
            self.let_speak(proof, until, &mut change);
            return change;
        }
        match before {
            Some(route) if route.member == proof.member => self.lead_to(proof, &mut change),
            Some(route) if !is_alive(route.member) => self.lead_to(proof, &mut change),
            Some(route) if route.is_named => return change,
            // One that answers keeps what it has: two backends never take turns.
            Some(_) => {}
            None => self.lead_to(proof, &mut change),
        }
        self.let_speak(proof, until, &mut change);
        change
    }

    /// Tells if somebody else answered for the address who does not name it.
    fn is_shared(&self, member: PeerId, now: Instant) -> bool {
        self.speakers.iter().any(|it| it.member != member && !it.is_named && it.until > now)
    }

    fn lead_to(&mut self, proof: Proof, change: &mut Change) {
        let Proof { member, at, is_named } = proof;
        let same = self.route.filter(|route| route.member == member);
        change.moved = same.is_none();
        let proved = same.map_or(at, |route| route.proved.max(at));
        self.route = Some(Route { member, proved, is_named });
    }

    fn let_speak(&mut self, proof: Proof, until: Instant, change: &mut Change) {
        let Proof { member, is_named, .. } = proof;
        if let Some(speaker) = self.speakers.iter_mut().find(|speaker| speaker.member == member) {
            (speaker.is_named, speaker.until) = (is_named, speaker.until.max(until));
            return;
        }
        if self.speakers.len() >= MAX_SPEAKERS_AN_ADDRESS {
            let led_to = self.route.map(|route| route.member);
            let others = (0..self.speakers.len()).filter(|at| Some(self.speakers[*at].member) != led_to);
            if let Some(first) = others.min_by_key(|at| self.speakers[*at].until) {
                change.lost.push(self.speakers.swap_remove(first).member);
            }
        }
        self.speakers.push(Speaker { member, is_named, until });
        change.gained = true;
    }
}
