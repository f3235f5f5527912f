use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::*;
use crate::{
    CipherSuite,
    crypto::{Rng, Seed},
    handshake::PeerIdentity,
    record::SessionIndex,
    session::{DirectionKeys, Opener, Sealer},
    testing::start,
    tunnel::{
        index::{IndexTable, IndexUse},
        limits::PEERS_OF_A_SOURCE,
        outbox::Entry,
        outcome::LaneId,
    },
};

/// Peers, the indices of their sessions, and what is told of them.
struct World {
    peers: Peers,
    indices: IndexTable,
    outbox: Outbox,
    rng: Rng,
}

impl World {
    fn new() -> Self {
        let mut outbox = Outbox::new(LaneId::ZERO);
        outbox.start_lane_updates();
        let rng = Rng::new(Seed::from_bytes([1; 32]));
        Self { peers: Peers::new(1), indices: IndexTable::new(1), outbox, rng }
    }

    /// A session that the peer with this number asked for, from its lane 0; under the epoch `second`.
    fn add(&mut self, number: u8, second: u64) -> (PeerKey, SessionIndex) {
        self.add_lane((number, 0), second)
    }

    /// The same from this lane of the peer.
    fn add_lane(&mut self, (number, lane): (u8, u8), second: u64) -> (PeerKey, SessionIndex) {
        let now = start() + Duration::from_secs(second);
        let mut local = self.indices.take(0, IndexUse::HalfOpen, &mut self.rng, now).unwrap();
        let (index, suite) = (local.get(), CipherSuite::ChaCha20Poly1305);
        let keys = DirectionKeys::derive(suite.aead(), &[1; 32], &[2; 32]);
        let remote_index = SessionIndex::from_parts(lane, 1 + second as u32).unwrap();
        let established = Established {
            peer: PeerId::from_bytes([number; 32]),
            identity: PeerIdentity { vnet: true, addresses: vec![], certificate: None },
            sealer: Sealer::new(&keys, index),
            opener: Opener::new(&keys),
            local_index: index,
            remote_index,
            epoch: second as u8,
            suite,
        };
        let key = self.peers.slot_for(&established, now);
        self.indices.bind_session(&mut local, key);
        let endpoint = SocketAddr::from(([10, 0, 0, number], 8_362));
        let role = Role::Responder { born: now, mac1: [0; 16], vip: None };
        let new = NewSession { established, local, endpoint, is_translated: false, role };
        self.peers.install(key, new, PeerId::from_bytes([0; 32]), now, &mut self.outbox);
        (key, index)
    }

    fn events(&mut self) -> Vec<Event> {
        let entries = std::iter::from_fn(|| self.outbox.pop());
        entries.filter_map(|entry| if let Entry::Event(event) = entry { Some(event) } else { None }).collect()
    }

    fn sessions(&self, key: PeerKey) -> Vec<SessionIndex> {
        self.peers.find(key).unwrap().sessions.iter().map(Session::index).collect()
    }
}

/// Another lane of the same pod has a way of its own, which may not be lost.
#[test]
fn a_lane_that_the_way_to_may_be_lost_is_sent_to_where_there_is_no_other() {
    let mut world = World::new();
    let (first, _) = world.add(2, 0);
    let (second, _) = world.add_lane((2, 1), 1);
    let peer = PeerId::from_bytes([2; 32]);
    let at = |seconds| start() + Duration::from_secs(seconds);
    world.peers.find_mut(first).unwrap().is_translated = true;
    assert_eq!(world.peers.pick(peer, true, at(24)), Some(first));
    assert_eq!(world.peers.pick(peer, true, at(25)), Some(second));
    world.peers.find_mut(second).unwrap().is_translated = true;
    assert_eq!(world.peers.pick(peer, true, at(26)), None);
    assert_eq!(world.peers.pick_any(peer, true, at(26)), Some(first));
    world.peers.note_sent(second, 100, at(26));
    assert_eq!(world.peers.pick(peer, true, at(50)), Some(second));
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

#[test]
fn a_session_that_either_side_sends_on_does_not_make_room() {
    let mut world = World::new();
    let (key, _) = world.add(2, 0);
    for second in 1..4 {
        world.add(2, second);
    }
    let first = world.sessions(key);
    assert_eq!(first.len(), MAX_SESSIONS);
    let peer = world.peers.find_mut(key).unwrap();
    (peer.heard, peer.sending) = (Some(first[0]), Some(first[1]));
    let (key, last) = world.add(2, 4);
    let left = world.sessions(key);
    assert_eq!(first.iter().map(|index| left.contains(index)).collect::<Vec<_>>(), [true, true, false, true]);
    assert!(left.contains(&last));
    assert_eq!(world.indices.find(first[2], start()), Some(IndexUse::Erased));
    // The session that is sent on ends: the newest that is left takes its place.
    world.peers.find_mut(key).unwrap().sending = Some(first[1]);
    assert!(!world.peers.end_sessions(key, |session| session.epoch() == 1, start(), &mut world.outbox));
    assert_eq!(world.peers.find(key).unwrap().sending, Some(last));
}

#[test]
fn a_peer_comes_with_its_first_session_and_goes_with_its_last() {
    let mut world = World::new();
    let (key, first) = world.add(2, 0);
    let (_, second) = world.add(2, 1);
    let peer = PeerId::from_bytes([2; 32]);
    assert!(matches!(&world.events()[..], [Event::PeerUp { peer: up, .. }] if *up == peer));
    assert!(!world.peers.end_sessions(key, |session| session.index() == first, start(), &mut world.outbox));
    assert_eq!(world.events(), []);
    assert!(world.peers.end_sessions(key, |session| session.index() == second, start(), &mut world.outbox));
    assert_eq!(world.events(), [Event::PeerDown { peer }]);
    assert!(world.peers.find(key).is_none() && world.peers.next_due().is_none());
    for index in [first, second] {
        assert_eq!(world.indices.find(index, start()), Some(IndexUse::Erased));
    }
}

/// Whatever still names a peer that is gone does not reach the one that has its place now.
#[test]
fn the_key_of_a_peer_that_is_gone_finds_nobody() {
    let mut world = World::new();
    let (gone, _) = world.add(2, 0);
    world.peers.end_sessions(gone, |_| true, start(), &mut world.outbox);
    let (next, _) = world.add(3, 1);
    assert_eq!(next.slot, gone.slot);
    assert!(world.peers.find(gone).is_none() && world.peers.find(next).is_some());
    assert!(world.peers.toward(gone, true, start()).is_err());
    world.peers.refuse(gone, start(), &mut world.outbox);
    assert!(world.peers.find(next).is_some());
    world.peers.clear(2, &mut world.outbox);
    let (again, _) = world.add(3, 2);
    assert!(again != next && again.slot == next.slot);
}

#[test]
fn a_peer_that_is_refused_leaves_indices_that_say_so() {
    let mut world = World::new();
    let (key, index) = world.add(2, 0);
    world.peers.refuse(key, start(), &mut world.outbox);
    assert_eq!(world.indices.find(index, start()), Some(IndexUse::Refused));
    assert!(matches!(world.events()[..], [Event::PeerUp { .. }, Event::PeerDown { .. }]));
}

#[test]
fn a_session_and_the_end_of_one_end_decisions() {
    let mut world = World::new();
    let mut revision = world.peers.revision();
    let mut changed = |world: &World| std::mem::replace(&mut revision, world.peers.revision()) < revision;
    let ends: [fn(&mut World, PeerKey); 2] = [
        |world, key| world.peers.refuse(key, start(), &mut world.outbox),
        |world, key| {
            world.peers.end_sessions(key, |_| true, start(), &mut world.outbox);
        },
    ];
    for end in ends {
        let (key, _) = world.add(4, 2);
        assert!(changed(&world), "a session");
        end(&mut world, key);
        assert!(changed(&world), "the end of a peer");
    }
    world.peers.clear(3, &mut world.outbox);
    assert!(changed(&world), "the end of all");
}

#[test]
fn a_doubt_the_end_of_it_and_a_death_end_decisions() {
    let mut world = World::new();
    let (key, _) = world.add(2, 0);
    let mut revision = world.peers.revision();
    let mut changed = |world: &World| std::mem::replace(&mut revision, world.peers.revision()) < revision;
    world.peers.suspect(key, start());
    assert!(changed(&world));
    world.peers.suspect(key, start());
    assert!(!changed(&world), "it was in doubt already");
    assert_eq!(world.peers.bury(PeerId::from_bytes([2; 32])), [key]);
    assert!(changed(&world) && world.peers.find(key).unwrap().is_dead());
    assert!(!world.peers.is_alive(PeerId::from_bytes([2; 32]), start()));
    world.add(2, 1);
    assert!(changed(&world) && world.peers.is_alive(PeerId::from_bytes([2; 32]), start()));
}

#[test]
fn what_a_member_without_sessions_was_served_under_and_where_it_was_stays() {
    let mut world = World::new();
    let (key, _) = world.add(2, 0);
    let [member, own, vip] = [address(2), address(2), address(200)];
    assert_eq!(member, own);
    let peer = world.peers.find_mut(key).unwrap();
    peer.say([own].into());
    peer.serve(vip);
    let id = PeerId::from_bytes([2; 32]);
    world.peers.end_sessions(key, |_| true, start(), &mut world.outbox);
    assert_eq!((world.peers.any_lane(id), world.peers.last_address(id, true)), (None, Some(own)));
    let (key, _) = world.add(2, 1);
    assert!(world.peers.find(key).unwrap().is_served_under(vip));
}

#[test]
fn peers_are_bounded_in_all_and_of_one_source_and_those_of_use_stay() {
    let mut world = World::new();
    let most = 16;
    let add = |world: &mut World, number: u8, source: u8| {
        let lane = (PeerId::from_bytes([number; 32]), 0);
        let (peers, outbox) = (&mut world.peers, &mut world.outbox);
        peers.make_room_for(lane, address(source), most, start(), outbox);
        let (key, _) = world.add(number, number.into());
        world.peers.find_mut(key).unwrap().set_endpoint(SocketAddr::from((address(source), 8_362)));
        key
    };
    let honest: Vec<PeerKey> = (1..=8).map(|number| add(&mut world, number, number)).collect();
    for key in &honest {
        world.peers.note_sent(*key, 100, start());
    }
    for number in 50..100 {
        add(&mut world, number, 200);
    }
    let of_source = world.peers.at_endpoint(address(200)).count();
    assert_eq!(
        (of_source, world.peers.keys().len()),
        (most / PEERS_OF_A_SOURCE, 8 + most / PEERS_OF_A_SOURCE)
    );
    for number in 100..200 {
        add(&mut world, number, number);
    }
    assert_eq!(world.peers.keys().len(), most);
    assert!(honest.iter().all(|key| world.peers.find(*key).is_some()));
}

/// One who has an address of an IPv6 network has all of them.
#[test]
fn addresses_of_one_ipv6_network_are_one_source() {
    let mut world = World::new();
    let most = 16;
    for number in 1..=40 {
        let source = IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, u16::from(number)]);
        let (peers, outbox) = (&mut world.peers, &mut world.outbox);
        peers.make_room_for((PeerId::from_bytes([number; 32]), 0), source, most, start(), outbox);
        let (key, _) = world.add(number, number.into());
        world.peers.find_mut(key).unwrap().set_endpoint(SocketAddr::new(source, 8_362));
    }
    assert_eq!(world.peers.keys().len(), most / PEERS_OF_A_SOURCE);
}

#[test]
fn an_endpoint_goes_with_its_address_where_there_is_another_one() {
    let mut world = World::new();
    let (key, _) = world.add(2, 0);
    let (v4, v6) = (address(2), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]));
    let peer = world.peers.find_mut(key).unwrap();
    peer.set_endpoint(SocketAddr::new(v6, 8_362));
    peer.say([v4, v6].into());
    assert!(peer.has_endpoint(v4) && peer.has_endpoint(v6));
    peer.say([v6].into());
    assert!(!peer.has_endpoint(v4) && peer.has_endpoint(v6), "it is not there any more");
    peer.say([].into());
    assert!(peer.has_endpoint(v6), "the only one that there is");
}
