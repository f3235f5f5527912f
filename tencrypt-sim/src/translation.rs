//! Address translation on the way, as a node does it: a connection tracker, services of several pods, pods and services
//! behind a node's address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::random::Random;

/// Life of a tracked flow that nothing passes (Linux `nf_conntrack_udp_timeout_stream`).
const TRACKED: Duration = Duration::from_secs(120);
/// Ports that flows are given where theirs is taken.
const FIRST_PORT: u16 = 20_000;

/// A flow as both of its ends see it.
#[derive(Debug, Clone, Copy)]
struct Flow {
    client: SocketAddr,
    asked: SocketAddr,
    /// The client, as the other end sees it.
    outside: SocketAddr,
    /// The end that was asked.
    reached: SocketAddr,
    used: Instant,
}

/// Rules of a network, and the flows that they were applied to.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    services: BTreeMap<IpAddr, Vec<IpAddr>>,
    /// Services whose backends see a node in place of the client.
    masqueraded: BTreeMap<IpAddr, IpAddr>,
    /// Pods whose datagrams leave with a node's address.
    behind: BTreeMap<IpAddr, IpAddr>,
    flows: Vec<Flow>,
    given: u16,
}

impl Translation {
    /// Leads an address to these pods, each flow to one of them.
    pub(crate) fn service(&mut self, vip: IpAddr, backends: &[IpAddr]) {
        self.services.insert(vip, backends.to_vec());
    }

    /// Has the backends of a service see this node.
    pub(crate) fn masquerade(&mut self, vip: IpAddr, node: IpAddr) {
        self.masqueraded.insert(vip, node);
    }

    /// Has everybody see this node in place of a pod that asks.
    pub(crate) fn put_behind(&mut self, pod: IpAddr, node: IpAddr) {
        self.behind.insert(pod, node);
    }

    /// The pods that an address leads to; none: it is no service's.
    pub(crate) fn backends(&self, address: IpAddr) -> &[IpAddr] {
        self.services.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The ends of a datagram as they arrive. `None`: no rule applies.
    pub(crate) fn apply(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
        random: &mut Random,
    ) -> Option<(SocketAddr, SocketAddr)> {
        self.flows.retain(|flow| now.saturating_duration_since(flow.used) < TRACKED);
        let answered = |flow: &&mut Flow| (flow.reached, flow.outside) == (from, to);
        if let Some(flow) = self.flows.iter_mut().find(answered) {
            flow.used = now;
            return Some((flow.asked, flow.client));
        }
        let backends = self.services.get(&to.ip()).map_or(&[][..], Vec::as_slice);
        let asks = |flow: &&mut Flow| {
            let stands = backends.is_empty() || backends.contains(&flow.reached.ip());
            (flow.client, flow.asked) == (from, to) && stands
        };
        if let Some(flow) = self.flows.iter_mut().find(asks) {
            flow.used = now;
            return Some((flow.outside, flow.reached));
        }
        let node = self.masqueraded.get(&to.ip()).or_else(|| self.behind.get(&from.ip())).copied();
        let reached = match backends {
            [] if node.is_none() && !self.is_tracked(from, to) => return None,
            [] => to,
            several => SocketAddr::new(several[random.below(several.len() as u64) as usize], to.port()),
        };
        let flow =
            Flow { client: from, asked: to, outside: self.outside(from, reached, node), reached, used: now };
        self.flows.push(flow);
        Some((flow.outside, flow.reached))
    }

    /// Tells if a flow that no rule changes is noticed all the same: the answers of a pod behind a node leave as they are, and
    /// who has asked a service looks the same to its backend as one who asks that one itself.
    fn is_tracked(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.behind.contains_key(&to.ip())
            || self.flows.iter().any(|flow| (flow.outside, flow.reached) == (from, to))
    }

    /// The source that a new flow is given: its own, unless a node stands for it or another flow has these ends already.
    fn outside(&mut self, from: SocketAddr, reached: SocketAddr, node: Option<IpAddr>) -> SocketAddr {
        let taken: BTreeSet<SocketAddr> =
            self.flows.iter().filter(|flow| flow.reached == reached).map(|flow| flow.outside).collect();
        let wanted = SocketAddr::new(node.unwrap_or(from.ip()), from.port());
        if node.is_none() && !taken.contains(&wanted) {
            return wanted;
        }
        self.given = self.given.wrapping_add(1) % 10_000;
        SocketAddr::new(wanted.ip(), FIRST_PORT + self.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::from([10, 0, 0, last]), port)
    }

    #[test]
    fn a_flow_to_a_service_stays_with_its_backend_and_is_answered_as_the_service() {
        let (mut translation, mut random, now) = (Translation::default(), Random::new(1), Instant::now());
        let backends = [at(1, 0).ip(), at(2, 0).ip()];
        translation.service(at(9, 0).ip(), &backends);
        let mut reached = BTreeSet::new();
        for port in 1..50 {
            let (from, to) = translation.apply(at(5, port), at(9, 80), now, &mut random).expect("a service");
            assert_eq!(translation.apply(at(5, port), at(9, 80), now, &mut random), Some((from, to)));
            assert_eq!(translation.apply(to, from, now, &mut random), Some((at(9, 80), at(5, port))));
            reached.insert(to.ip());
        }
        assert_eq!(reached.len(), 2);
        assert_eq!(translation.apply(at(6, 1), at(1, 80), now, &mut random), None);
        // Who asks the backend itself, too, is told apart from who asked the service.
        let (from, to) = translation.apply(at(5, 60), at(9, 80), now, &mut random).expect("a service");
        let (direct, same) = translation.apply(from, to, now, &mut random).expect("it clashes");
        assert!(same == to && direct.ip() == from.ip() && direct != from);
        assert_eq!(translation.apply(to, direct, now, &mut random), Some((to, from)));
    }

    #[test]
    fn who_asks_from_behind_a_node_is_seen_as_it_and_answered() {
        let (mut translation, mut random, now) = (Translation::default(), Random::new(1), Instant::now());
        translation.put_behind(at(5, 0).ip(), at(200, 0).ip());
        let (from, to) = translation.apply(at(5, 1), at(6, 80), now, &mut random).expect("it is translated");
        assert_eq!((from.ip(), to), (at(200, 0).ip(), at(6, 80)));
        assert_eq!(translation.apply(to, from, now, &mut random), Some((at(6, 80), at(5, 1))));
        let asked = translation.apply(at(6, 1), at(5, 80), now, &mut random);
        assert_eq!(asked, Some((at(6, 1), at(5, 80))), "it is reached as it is");
        let answer = translation.apply(at(5, 80), at(6, 1), now, &mut random);
        assert_eq!(answer, Some((at(5, 80), at(6, 1))), "and its answer leaves as it is");
        let later = now + TRACKED;
        assert_eq!(translation.apply(to, from, later, &mut random), None, "the flow is forgotten");
    }
}
