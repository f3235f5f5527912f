//! Shares of the table of flows: whose flows they are, how many each has, and who makes room for one more.

use std::collections::{BTreeMap, BTreeSet};

use super::lists::{Links, List};
use crate::crypto::PeerId;

/// Number of lists that an owner's flows are in.
pub(super) const KINDS: usize = 4;

/// The number of the pod's own share, which always exists.
const OWN: u32 = 0;

/// The flows of one owner.
#[derive(Debug)]
struct Share {
    /// The peer that it is; `None`: the pod itself.
    peer: Option<PeerId>,
    /// In the lists, and those that are being added or removed.
    flows: usize,
    /// Its flows by kind, each list ordered by last use.
    lists: [List; KINDS],
}

impl Share {
    fn of(peer: Option<PeerId>) -> Self {
        Self { peer, flows: 0, lists: [List::EMPTY; KINDS] }
    }
}

/// The shares of a table with `capacity` flows.
///
/// A peer has at most half of the table. The pod's own flows, which no peer can make, may take all that is free; half
/// of the table is theirs even if peers want it. Where there is no room for another flow, these give up one: a peer that
/// has its half and wants more, itself; else the pod, if it has or wants more than its half; else the peer with the
/// most flows. So peers that have little keep it, however many want much, and whoever makes new static keys to get more
/// shares only makes each of them smaller.
#[derive(Debug)]
pub(super) struct Shares {
    shares: Vec<Share>,
    free: Vec<u32>,
    numbers: BTreeMap<PeerId, u32>,
    /// The peers by their number of flows.
    peers: BTreeSet<(usize, u32)>,
    links: Links,
    flows: usize,
    capacity: usize,
}

impl Shares {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            shares: vec![Share::of(None)],
            free: Vec::new(),
            numbers: BTreeMap::new(),
            peers: BTreeSet::new(),
            links: Links::default(),
            flows: 0,
            capacity,
        }
    }

    /// The share that has to give up a flow before `owner` gets another one; `None`: there is room.
    pub(super) fn payer(&self, owner: Option<PeerId>) -> Option<u32> {
        let half = self.capacity.div_ceil(2);
        let number = owner.and_then(|peer| self.numbers.get(&peer).copied());
        if let Some(number) = number.filter(|number| self.shares[*number as usize].flows >= half) {
            return Some(number);
        }
        if self.flows < self.capacity {
            return None;
        }
        let own = self.shares[OWN as usize].flows + usize::from(owner.is_none());
        let largest = self.peers.last().filter(|_| own <= half);
        Some(largest.map_or(OWN, |(_, number)| *number))
    }

    /// Counts a new flow of `owner` and returns the number of its share. The flow is in no list yet.
    pub(super) fn add(&mut self, owner: Option<PeerId>) -> u32 {
        let number = owner.map_or(OWN, |peer| self.number_of(peer));
        self.count(number, |flows| flows + 1);
        number
    }

    /// Counts a flow of this share as gone, which is in no list any more. A peer's share ends with its last flow.
    pub(super) fn remove(&mut self, number: u32) {
        self.count(number, |flows| flows - 1);
        let share = &self.shares[number as usize];
        if let Some(peer) = share.peer.filter(|_| share.flows == 0) {
            self.numbers.remove(&peer);
            self.free.push(number);
        }
    }

    /// Appends a flow to a share's list of this kind.
    pub(super) fn append(&mut self, number: u32, kind: usize, slot: u32) {
        self.links.append(&mut self.shares[number as usize].lists[kind], slot);
    }

    /// Takes a flow out of a share's list of this kind.
    pub(super) fn take_out(&mut self, number: u32, kind: usize, slot: u32) {
        self.links.take_out(&mut self.shares[number as usize].lists[kind], slot);
    }

    /// The flows of a share, by kind.
    pub(super) fn lists(&self, number: u32) -> &[List; KINDS] {
        &self.shares[number as usize].lists
    }

    /// The peer that a share is of.
    pub(super) fn owner(&self, number: u32) -> Option<PeerId> {
        self.shares[number as usize].peer
    }

    fn number_of(&mut self, peer: PeerId) -> u32 {
        if let Some(number) = self.numbers.get(&peer) {
            return *number;
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.shares[number as usize] = Share::of(Some(peer));
                number
            }
            None => {
                self.shares.push(Share::of(Some(peer)));
                (self.shares.len() - 1) as u32
            }
        };
        self.numbers.insert(peer, number);
        number
    }

    fn count(&mut self, number: u32, change: impl Fn(usize) -> usize) {
        let share = &mut self.shares[number as usize];
        let before = share.flows;
        share.flows = change(before);
        self.flows = change(self.flows);
        if share.peer.is_some() {
            self.peers.remove(&(before, number));
            if share.flows > 0 {
                self.peers.insert((share.flows, number));
            }
        }
    }

    /// Flows of each owner, the flows in its lists, and that all of it agrees.
    #[cfg(test)]
    pub(super) fn check(&self) -> BTreeMap<Option<PeerId>, [Vec<u32>; KINDS]> {
        let live = self.shares.iter().enumerate().filter(|(at, _)| !self.free.contains(&(*at as u32)));
        let lists = live.map(|(number, share)| {
            let lists = share.lists.map(|list| self.links.places_of(&list));
            assert_eq!(lists.iter().map(Vec::len).sum::<usize>(), share.flows);
            assert_eq!(share.peer.is_some(), self.peers.contains(&(share.flows, number as u32)));
            assert_eq!(
                share.peer.and_then(|peer| self.numbers.get(&peer).copied()),
                share.peer.map(|_| number as u32)
            );
            (share.peer, lists)
        });
        let lists: BTreeMap<_, _> = lists.collect();
        assert_eq!(lists.len(), 1 + self.peers.len());
        assert_eq!(self.numbers.len(), self.peers.len());
        assert_eq!(self.flows, self.shares.iter().map(|share| share.flows).sum::<usize>());
        lists
    }
}
