//! Tests of what becomes of flows where there is no room for all of them.

use std::time::{Duration, Instant};

use super::{
    table::Table,
    tests::{ACK, FIN, SYN, V4, balance, ip, nat, peer, reply, serve_to, view},
    *,
};
use crate::{packet::samples::Sample, testing::start};

/// A service's clients and their flows, TCP or, without a port, ICMP echo.
#[derive(Debug)]
struct Busy {
    nat: Nat,
    now: Instant,
}

/// Progress of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Opening,
    Open,
    Closing,
}

impl Busy {
    fn with_room(flows: usize) -> Self {
        Self { nat: Nat::with_capacity(7, flows, 4), now: start() }
    }

    /// The client of this number: a peer, and its address.
    fn client(number: u16) -> String {
        let [high, low] = number.to_be_bytes();
        format!("10.245.{high}.{low}")
    }

    /// A connection from this client's port.
    fn connect(&mut self, client: u16, port: u16, progress: Progress) {
        self.now += Duration::from_millis(1);
        let (from, own) = (Self::client(client), V4.own);
        let say = |nat: &mut Nat, flags| {
            let mut packet = Sample::tcp(&from, V4.vip, (port, 80), flags);
            assert_eq!(serve_to(nat, &mut packet, own, peer(client), self.now), Ok(()));
        };
        say(&mut self.nat, SYN);
        if progress != Progress::Opening {
            let mut answer = Sample::tcp(own, &from, (80, port), 0x12);
            assert_eq!(reply(&mut self.nat, &mut answer, self.now), NatOutcome::Rewritten);
            say(&mut self.nat, ACK);
        }
        if progress == Progress::Closing {
            say(&mut self.nat, FIN);
        }
    }

    /// An echo request with this identifier, and its reply.
    fn ping(&mut self, client: u16, id: u16, answered: bool) {
        self.now += Duration::from_millis(1);
        let from = Self::client(client);
        let mut request = Sample::echo(&from, V4.vip, true, id);
        assert_eq!(serve_to(&mut self.nat, &mut request, V4.own, peer(client), self.now), Ok(()));
        if answered {
            let mut answer = Sample::echo(V4.own, &from, false, id);
            assert_eq!(reply(&mut self.nat, &mut answer, self.now), NatOutcome::Rewritten);
        }
    }

    /// A datagram of the pod's own to a service.
    fn call(&mut self, port: u16) {
        self.now += Duration::from_millis(1);
        let endpoints = [ip(V4.other)];
        let service = Service { endpoints: &endpoints, ..Service::new(ip("10.96.0.99")) };
        let mut packet = Sample::udp(V4.own, "10.96.0.99", (port, 80));
        assert_eq!(balance(&mut self.nat, &mut packet, &service, self.now), Ok(ip(V4.other)));
    }

    /// Tells if a connection's answers are still translated.
    fn knows(&mut self, client: u16, port: u16) -> bool {
        let mut answer = Sample::tcp(V4.own, &Self::client(client), (80, port), ACK);
        reply(&mut self.nat, &mut answer, self.now) == NatOutcome::Rewritten
    }

    fn knows_ping(&mut self, client: u16, id: u16) -> bool {
        let mut answer = Sample::echo(V4.own, &Self::client(client), false, id);
        reply(&mut self.nat, &mut answer, self.now) == NatOutcome::Rewritten
    }

    fn knows_call(&mut self, port: u16) -> bool {
        let mut answer = Sample::udp(V4.other, V4.own, (80, port));
        self.nat.unbalance(&mut view(&mut answer), false, self.now) == NatOutcome::Rewritten
    }
}

#[test]
fn of_one_peers_flows_the_unconfirmed_are_pushed_out_first_then_datagrams_then_connections_each_by_age() {
    use Progress::{Closing, Open, Opening};
    let order = [3, 4, 6, 2, 1, 5];
    for pushed_out in 0..=order.len() {
        // Half of the table is this peer's.
        let mut busy = Busy::with_room(12);
        busy.connect(1, 1, Open);
        busy.ping(1, 2, true);
        busy.connect(1, 3, Closing);
        busy.ping(1, 4, false);
        busy.connect(1, 5, Open);
        busy.connect(1, 6, Opening);
        for new in 0..pushed_out {
            busy.connect(1, 7 + new as u16, Open);
            assert_eq!(busy.nat.len(), 6);
        }
        for (at, number) in order.into_iter().enumerate() {
            let is_ping = [2, 4].contains(&number);
            let known = if is_ping { busy.knows_ping(1, number) } else { busy.knows(1, number) };
            assert_eq!(known, at >= pushed_out, "{number} after {pushed_out}");
        }
    }
}

#[test]
fn a_peer_with_as_many_echo_identifiers_as_there_are_leaves_the_new_flows_of_others_alone() {
    let mut busy = Busy { nat: nat(), now: start() };
    for id in 0..=u16::MAX / 2 {
        busy.ping(1, id, true);
    }
    assert_eq!(busy.nat.len(), MAX_FLOWS / 2, "32,768 identifiers, half of the table");
    let mut again = 0;
    for port in 1..=100 {
        busy.connect(2, port, Progress::Open);
        (0..400).for_each(|_| {
            busy.ping(1, again, true);
            again = (again + 1) % (u16::MAX / 2);
        });
    }
    assert_eq!((1..=100).filter(|port| busy.knows(2, *port)).count(), 100);
}

#[test]
fn in_a_full_table_the_peer_with_most_makes_room_however_many_peers_there_are() {
    let mut busy = Busy::with_room(300);
    // 100 peers of one liar, that all are answered, and one that has little.
    for round in 0..10 {
        for client in 10..110 {
            busy.ping(client, round, true);
        }
    }
    assert_eq!(busy.nat.len(), 300);
    busy.connect(1, 1, Progress::Open);
    busy.connect(1, 2, Progress::Opening);
    for round in 10..20 {
        for client in 10..110 {
            busy.ping(client, round, true);
        }
    }
    assert!((1..=2).all(|port| busy.knows(1, port)), "two is less than some of the others have");
    assert_eq!(busy.nat.len(), 300);
}

#[test]
fn half_of_the_table_is_for_the_pods_own_flows_and_more_while_nobody_wants_it() {
    let mut busy = Busy::with_room(8);
    (1..=8).for_each(|port| busy.call(port));
    assert!((1..=8).all(|port| busy.knows_call(port)), "nobody else is there");
    (1..=20).for_each(|id| busy.ping(1 + id % 3, id, true));
    let left: Vec<u16> = (1..=8).filter(|port| busy.knows_call(*port)).collect();
    assert_eq!(left, [5, 6, 7, 8], "peers push out what is beyond half, the oldest first");
    for port in 11..=14 {
        busy.call(port);
        assert!(busy.knows_call(port));
    }
    assert!((11..=14).all(|port| busy.knows_call(port)));
    assert_eq!(busy.nat.len(), 8);
}

#[test]
fn new_flows_have_an_eighth_of_a_full_share_to_be_answered_in() {
    let mut busy = Busy::with_room(32);
    (1..=16).for_each(|port| busy.connect(1, port, Progress::Open));
    (21..=23).for_each(|port| busy.connect(1, port, Progress::Opening));
    let known = |busy: &mut Busy, ports: std::ops::RangeInclusive<u16>| -> Vec<u16> {
        ports.filter(|port| busy.knows(1, *port)).collect()
    };
    assert_eq!(known(&mut busy, 1..=3), [], "the first three of the connections made room");
    assert_eq!(known(&mut busy, 21..=23), [21, 22, 23]);
    (24..=100).for_each(|port| busy.connect(1, port, Progress::Opening));
    assert_eq!(known(&mut busy, 4..=16), (4..=16).collect::<Vec<_>>(), "and then the new ones themselves");
    assert_eq!(known(&mut busy, 21..=100), [98, 99, 100]);
}

#[test]
fn a_flow_counts_for_the_same_peer_in_every_lane() {
    let mut first = Nat::with_capacity(7, 8, 4);
    let mut second = first.sibling();
    second.flows = Table::new(8);
    let now = start();
    for port in 1..=9 {
        let mut packet = Sample::udp("10.245.0.1", V4.vip, (port, 80));
        assert_eq!(serve_to(&mut first, &mut packet, V4.own, peer(1), now), Ok(()));
        while let Some(update) = first.poll_update() {
            second.learn(&update, now);
        }
    }
    assert_eq!((first.len(), second.len()), (4, 4));
    for port in 1..=9 {
        let mut answer = Sample::udp(V4.own, "10.245.0.1", (80, port));
        let outcome = reply(&mut second, &mut answer, now);
        assert_eq!(outcome == NatOutcome::Rewritten, port > 5, "{port}");
    }
}
