//! Invariants, looked at after each round.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use tencrypt::{Verdict, record::Head};
use tencrypt_sim::{Violation, Wired, read_udp};

use crate::scene::Scene;

/// An address that answered leaves in plain no sooner than this, whatever is said of it.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Peers of a lane.
pub(crate) const MAX_PEERS: usize = 1_024;
/// Questions a second of a lane to addresses that it has not heard from: of first contacts, and of those who were silent.
/// A burst at once.
const QUESTIONS: usize = 2 * (200 + 64);
/// Of those, the ones that nothing but a member's assertion asks for.
const NEEDLESS: usize = 32 + 64;

/// The questions that each pod has sent within the last second.
#[derive(Default)]
pub(crate) struct Questions {
    sent: BTreeMap<IpAddr, VecDeque<(Instant, bool)>>,
    /// The most in a second, of one lane, of either kind.
    pub(crate) most: (usize, usize),
}

impl Questions {
    pub(crate) fn look(&mut self, scene: &Scene, sent: &[Wired]) -> Vec<String> {
        let now = scene.world.now();
        let honest = scene.honest_addresses();
        for (from, to, bytes) in sent {
            if bytes.first() == Some(&Head::INIT) {
                let is_needless = !honest.contains(&to.ip());
                self.sent.entry(from.ip()).or_default().push_back((now, is_needless));
            }
        }
        let mut too_many = Vec::new();
        for (from, sent) in &mut self.sent {
            while sent
                .front()
                .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= Duration::from_secs(1))
            {
                sent.pop_front();
            }
            let lanes = scene
                .pods
                .iter()
                .find(|pod| pod.addresses.contains(from))
                .map_or(1, |pod| usize::from(pod.lanes));
            let needless = sent.iter().filter(|(_, is_needless)| *is_needless).count();
            self.most = (self.most.0.max(sent.len() / lanes), self.most.1.max(needless / lanes));
            if sent.len() > QUESTIONS * lanes || needless > NEEDLESS * lanes {
                too_many.push(format!(
                    "questions: {} in a second from {from} with {lanes} lanes, {needless} of them needless",
                    sent.len()
                ));
            }
        }
        too_many
    }
}

impl Scene {
    /// Addresses belong to those who have them, at every lane of every honest pod.
    pub(crate) fn taken(&mut self) -> Vec<String> {
        let now = self.world.now();
        let honest = self.honest_addresses();
        let (mut taken, mut answered) = (Vec::new(), Vec::new());
        for (number, pod) in self.pods.iter().enumerate() {
            for (lane, tunnel) in self.world.lanes_of(pod.id).iter().enumerate() {
                let mut peers = 0;
                for peer in tunnel.peers(now) {
                    peers += 1;
                    for address in &peer.addresses {
                        if !self.may_have(&peer.peer, *address) {
                            let who = self
                                .keys
                                .get(&peer.peer)
                                .map_or("a liar".to_owned(), |pod| format!("pod {pod}"));
                            taken.push(format!("taken: {address} is {who}'s for pod {number}, lane {lane}"));
                        }
                    }
                }
                if peers > MAX_PEERS {
                    taken.push(format!("peers: {peers} of pod {number}, lane {lane}"));
                }
                for address in &honest {
                    let own = pod.addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4());
                    let Some(own) = own.filter(|_| !pod.addresses.contains(address)) else { continue };
                    let Verdict::Encrypt(peer) = tunnel.explain(*own, *address, now).verdict else {
                        continue;
                    };
                    if self.may_have(&peer, *address) {
                        answered.push((number, *address));
                    } else {
                        taken.push(format!(
                            "taken: pod {number}, lane {lane} seals for another what goes to {address}"
                        ));
                    }
                }
            }
        }
        self.answered.extend(answered.into_iter().map(|key| (key, now)));
        taken
    }

    /// Tells if the holder of a key may have an address: an honest pod those it has and its services', a liar no one else's.
    fn may_have(&self, key: &tencrypt::crypto::PeerId, address: IpAddr) -> bool {
        match self.keys.get(key) {
            Some(pod) => self.owners(address).contains(pod),
            // Who asks through a node is answered at the node's address, and says that it has it.
            None => self.nodes.contains(&address) || self.liars.iter().any(|liar| liar.address() == address),
        }
    }

    /// Packets that came out and should not have. One to a service whose pod seemed to be dead goes to the next one, too: the
    /// pod may have had it and died of it. At no pod does it come out twice, whatever is lost and whoever restarts.
    pub(crate) fn violations(&self) -> Vec<String> {
        let model = self.world.model();
        let is_left = |violation: &Violation| match violation {
            Violation::Copied(number, _) => {
                let to = model.destination_of(*number);
                self.services.iter().any(|service| Some(service.vip) == to)
            }
            _ => false,
        };
        model.violations().iter().filter(|violation| !is_left(violation)).map(Violation::to_string).collect()
    }

    /// Nothing leaves in plain to those who answered within ten minutes; in a clear world, to nobody who is there, unless
    /// DNS has said so.
    pub(crate) fn plain(&mut self) -> Vec<String> {
        let now = self.world.now();
        let mut plain = Vec::new();
        for number in 0..self.pods.len() {
            let all = self.world.bypassed_of(self.pods[number].id);
            let new: Vec<IpAddr> = all[self.pods[number].bypassed..]
                .iter()
                .filter_map(|packet| Some(read_udp(packet)?.1.0))
                .collect();
            self.pods[number].bypassed = all.len();
            for to in new {
                let key = (number, to);
                let answered = self.answered.get(&key).map(|at| now.saturating_duration_since(*at));
                let is_called = self.called_external.contains_key(&key);
                let policy = self.pods[number].unknown;
                if answered.is_some_and(|ago| ago < REMEMBERED) {
                    plain.push(format!("plain: pod {number} to {to}, which answered {answered:?} ago"));
                } else if self.is_clear && !is_called {
                    plain.push(format!("plain: pod {number} to {to}, which is there ({policy:?})"));
                }
            }
        }
        plain
    }
}
