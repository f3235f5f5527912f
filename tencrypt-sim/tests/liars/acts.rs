//! The liars' part.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tencrypt::{
    TunnelConfig,
    directory::{Class, Fact, FactChange, FactSource},
    record::{Head, SessionIndex},
};
use tencrypt_sim::{Wired, udp};

use crate::scene::{Scene, pod_address};

const PORT: u16 = TunnelConfig::DEFAULT_PORT;

/// Lies in the time of a round: as many as a program sends without being noticed for its load alone.
const MOST: u64 = 6;

impl Scene {
    /// Has each liar answer what has come to it, and do what it likes.
    pub(crate) fn lie(&mut self) {
        for liar in 0..self.liars.len() {
            for datagram in self.world.received(self.liars[liar].address()) {
                let asserted = self.asserted(liar);
                let conf_from = self.source(liar);
                if let Some(answer) = self.liars[liar].receive(datagram, &asserted, conf_from) {
                    self.send(answer);
                }
            }
            for _ in 0..self.random.below(MOST) {
                self.act(liar);
            }
        }
    }

    /// Ends questions of this moment: an INIT "from" whoever is asked comes before its answer can.
    pub(crate) fn end_questions(&mut self, sent: &[Wired]) {
        for (from, to, bytes) in sent {
            let is_init = bytes.first() == Some(&Head::INIT);
            if !is_init || self.owners(to.ip()).is_empty() || !self.random.chance(40) {
                continue;
            }
            let liar = self.random.below(self.liars.len() as u64) as usize;
            for _ in 0..1 + self.random.below(4) {
                let forged = self.liars[liar].ask(to.ip(), from.ip(), from.ip(), &[to.ip()]);
                self.send(forged);
            }
        }
    }

    fn act(&mut self, liar: usize) {
        match self.random.below(16) {
            0..4 => {
                // It asks as itself, and says that it is others, too.
                let (to, asserted, own) = (self.honest(), self.asserted(liar), self.liars[liar].address());
                let asked = if self.random.chance(70) { to } else { self.spoken_of() };
                let init = self.liars[liar].ask(own, to, asked, &asserted);
                self.send(init);
            }
            4..7 => {
                let (to, from, asked) = (self.honest(), self.spoken_of(), self.spoken_of());
                let asserted = self.asserted(liar);
                let init = self.liars[liar].ask(from, to, asked, &asserted);
                self.send(init);
            }
            7..11 if self.liars[liar].has_session() => self.speak_as_another(liar),
            11 => self.reset(liar),
            12 | 13 => self.repeat(),
            14 => {
                let (pod, to) = (self.random.below(self.pods.len() as u64) as usize, self.honest());
                let to = SocketAddr::new(to, PORT);
                self.world.command(self.pods[pod].id, |tunnel, now| tunnel.handle_unreachable(to, now));
            }
            15 if self.random.chance(30) => self.call_external(),
            15 if self.random.chance(30) => self.liars[liar].change_key(),
            _ => {}
        }
    }

    /// A packet in a session of the liar's, with an inner source that is not its own.
    fn speak_as_another(&mut self, liar: usize) {
        let (source, destination) = (self.spoken_of(), self.honest());
        // A node's address is one that it may have: see `may_have`.
        if source.is_ipv4() != destination.is_ipv4() || self.nodes.contains(&source) {
            return;
        }
        let packet = udp((source, 40_000), (destination, 7), b"in another's name");
        let from = self.source(liar);
        if let Some(record) = self.liars[liar].seal(from, false, &packet, &mut self.random) {
            self.send(record);
        }
    }

    /// A RESET for a session that two honest pods have, in the name of one of them.
    fn reset(&mut self, liar: usize) {
        let is_data = |datagram: &&Wired| datagram.2.first() == Some(&Head::DATA);
        let data: Vec<Wired> = self.sniffed.iter().filter(is_data).cloned().collect();
        if data.is_empty() {
            return;
        }
        let (from, to, bytes) = self.pick(&data);
        let index =
            bytes[4..].first_chunk().and_then(|index| SessionIndex::from_u32(u32::from_le_bytes(*index)));
        let Some(index) = index else { return };
        let reset = self.liars[liar].disclaim(to, from, index);
        self.send(reset);
    }

    /// A datagram once more, to whomever, from wherever. An INIT only to where it went before: who leads the question for
    /// one pod to another is on the path, and takes part in what the network says of addresses.
    fn repeat(&mut self) {
        if self.sniffed.is_empty() {
            return;
        }
        let sniffed = self.sniffed.clone();
        let (mut from, mut to, bytes) = self.pick(&sniffed);
        if self.random.chance(50) {
            from.set_ip(self.spoken_of());
        }
        if bytes.first() != Some(&Head::INIT) && self.random.chance(40) {
            to.set_ip(self.honest());
        }
        self.send((from, to, bytes));
    }

    /// A forged answer of a foreign name: the address of a pod is external.
    fn call_external(&mut self) {
        let (pod, address) = (self.random.below(self.pods.len() as u64) as usize, self.honest());
        let expires = self.world.now() + Duration::from_secs(5 + self.random.below(60));
        let fact =
            Fact::new(address, Class::External, FactSource::Dns("elsewhere.example.".into()), Some(expires));
        self.called_external.insert((pod, address), expires);
        let learn = [FactChange::Learn(fact)];
        self.world.command(self.pods[pod].id, |tunnel, now| tunnel.apply_facts(&learn, now));
    }

    /// Addresses that a liar says it has: its own, and others'.
    fn asserted(&mut self, liar: usize) -> Vec<IpAddr> {
        let mut asserted = vec![self.liars[liar].address()];
        for _ in 0..self.random.below(7) {
            let other = self.spoken_of();
            if !asserted.contains(&other) {
                asserted.push(other);
            }
        }
        if self.random.chance(20) {
            asserted.remove(0);
        }
        asserted
    }

    /// The source of a liar's datagram.
    fn source(&mut self, liar: usize) -> IpAddr {
        if self.random.chance(60) { self.liars[liar].address() } else { self.spoken_of() }
    }

    fn honest(&mut self) -> IpAddr {
        let all = self.honest_addresses();
        if self.random.chance(50) {
            return pod_address(self.random.below(self.pods.len() as u64) as usize);
        }
        self.pick(&all)
    }

    fn send(&mut self, (from, to, bytes): Wired) {
        if from.is_ipv4() == to.is_ipv4() {
            self.world.forge(from, to, bytes);
        }
    }
}
