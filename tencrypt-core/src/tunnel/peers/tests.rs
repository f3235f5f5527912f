use std::{net::SocketAddr, time::Duration};

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
        let now = start() + Duration::from_secs(second);
        let mut local = self.indices.take(0, IndexUse::HalfOpen, &mut self.rng, now).unwrap();
        let (index, suite) = (local.get(), CipherSuite::ChaCha20Poly1305);
        let keys = DirectionKeys::derive(suite.aead(), &[1; 32], &[2; 32]);
        let remote_index = SessionIndex::from_parts(0, 1 + second as u32).unwrap();
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
        let role = Role::Responder { born: now, mac1: [0; 16], seen_from: None, vip: None };
        let new = NewSession { established, local, endpoint, role };
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
    assert!(!world.peers.end_sessions(key, |session| session.epoch() == 1, &mut world.outbox));
    assert_eq!(world.peers.find(key).unwrap().sending, Some(last));
}

#[test]
fn a_peer_comes_with_its_first_session_and_goes_with_its_last() {
    let mut world = World::new();
    let (key, first) = world.add(2, 0);
    let (_, second) = world.add(2, 1);
    let peer = PeerId::from_bytes([2; 32]);
    assert!(matches!(&world.events()[..], [Event::PeerUp { peer: up, .. }] if *up == peer));
    assert!(!world.peers.end_sessions(key, |session| session.index() == first, &mut world.outbox));
    assert_eq!(world.events(), []);
    assert!(world.peers.end_sessions(key, |session| session.index() == second, &mut world.outbox));
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
    world.peers.end_sessions(gone, |_| true, &mut world.outbox);
    let (next, _) = world.add(3, 1);
    assert_eq!(next.slot, gone.slot);
    assert!(world.peers.find(gone).is_none() && world.peers.find(next).is_some());
    assert!(world.peers.toward(gone, true, start()).is_err());
    world.peers.refuse(gone, &mut world.outbox);
    assert!(world.peers.find(next).is_some());
    world.peers.clear(2, &mut world.outbox);
    let (again, _) = world.add(3, 2);
    assert!(again != next && again.slot == next.slot);
}

#[test]
fn a_peer_that_is_refused_leaves_indices_that_say_so() {
    let mut world = World::new();
    let (key, index) = world.add(2, 0);
    world.peers.refuse(key, &mut world.outbox);
    assert_eq!(world.indices.find(index, start()), Some(IndexUse::Refused));
    assert!(matches!(world.events()[..], [Event::PeerUp { .. }, Event::PeerDown { .. }]));
}

#[test]
fn an_address_belongs_to_one_peer_and_every_change_of_hands_is_told_and_ends_decisions() {
    let mut world = World::new();
    let [(one, _), (other, _)] = [world.add(2, 0), world.add(3, 1)];
    let mut revision = world.peers.revision();
    let mut changed = |world: &World| std::mem::replace(&mut revision, world.peers.revision()) < revision;
    assert!(world.peers.own(one, address(9), &mut world.outbox) && changed(&world));
    assert!(!world.peers.own(one, address(9), &mut world.outbox) && !changed(&world));
    assert!(world.peers.own(other, address(9), &mut world.outbox) && changed(&world));
    assert_eq!(world.peers.owner(address(9)), Some(other));
    assert_eq!(
        (world.peers.find(one).unwrap().owned(), world.peers.find(other).unwrap().owned().len()),
        (&[][..], 1)
    );
    world.peers.disown(other, |address| address.is_ipv4());
    assert!(!changed(&world), "nothing was taken away");
    world.peers.disown(other, |_| false);
    assert!(changed(&world) && world.peers.owner(address(9)).is_none());
    let told: Vec<LaneChange> =
        std::iter::from_fn(|| world.outbox.pop_update()).map(|it| it.change).collect();
    let [two, three] = [2, 3].map(|number| PeerId::from_bytes([number; 32]));
    let at = address(9);
    assert_eq!(
        told,
        [
            LaneChange::Found { address: at, peer: two },
            LaneChange::Lost { address: at, peer: two },
            LaneChange::Found { address: at, peer: three },
        ]
    );
    let ends: [fn(&mut World, PeerKey); 2] = [
        |world, key| world.peers.refuse(key, &mut world.outbox),
        |world, key| {
            world.peers.end_sessions(key, |_| true, &mut world.outbox);
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
