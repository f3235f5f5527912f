//! Tenant keys change while pods talk.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tencrypt::{
    CipherSuite, DropReason, Event, Identity, Seed, UnansweredPolicy,
    crypto::KeyRingError,
    internal::{Initiator, Local, Rng},
    record::SessionIndex,
};
use tencrypt_sim::{PodId, PodOptions, Tenant, Weather, World, seeds};

/// Longest time after which sessions with traffic are under the epoch that is sent: 4 s, and a handshake.
const CHANGED: Duration = Duration::from_secs(5);

fn address(pod: usize) -> IpAddr {
    IpAddr::from([10, 1, 0, pod as u8 + 1])
}

struct Net {
    world: World,
    tenant: Tenant,
    pods: Vec<PodId>,
    numbers: Vec<u64>,
}

impl Net {
    fn new(seed: u64, weather: Weather, count: usize) -> Self {
        let mut world = World::new(seed, weather);
        let tenant = world.tenant();
        let pods =
            (0..count).map(|pod| world.pod(&tenant, PodOptions::new(&[address(pod)]))).collect::<Vec<_>>();
        Self { world, tenant, pods, numbers: Vec::new() }
    }

    /// Every pod talks to every other, 20 times a second.
    fn talk(&mut self, duration: Duration) {
        let pause = Duration::from_millis(50);
        for _ in 0..duration.as_millis() / pause.as_millis() {
            for from in 0..self.pods.len() {
                for to in (0..self.pods.len()).filter(|to| *to != from) {
                    self.numbers.push(self.world.send(self.pods[from], address(to), 100));
                }
            }
            self.world.run_for(pause);
        }
    }

    fn keys(&mut self, pods: std::ops::Range<usize>, accept: &[u8], send: u8) {
        let keys = self.tenant.with(accept, send);
        for pod in pods {
            self.world.change_keys(self.pods[pod], &keys).unwrap();
        }
    }

    /// The epochs of every session that is sent on.
    fn epochs(&self) -> Vec<u8> {
        let now = self.world.now();
        let mut epochs: Vec<u8> = self
            .pods
            .iter()
            .flat_map(|pod| self.world.tunnel_of(*pod).peers(now).map(|peer| peer.epoch).collect::<Vec<_>>())
            .collect();
        epochs.sort_unstable();
        epochs.dedup();
        epochs
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.pods.iter().map(|pod| self.world.tunnel_of(*pod).stats().dropped(reason)).sum()
    }

    fn handshakes(&self) -> u64 {
        self.pods.iter().map(|pod| self.world.tunnel_of(*pod).stats().handshakes).sum()
    }

    /// Everything that was sent has come out once, and nothing was dropped anywhere.
    fn assert_nothing_lost(&mut self) {
        self.world.run_for(Duration::from_millis(500));
        let lost = self.numbers.iter().filter(|number| !self.world.model().is_delivered(**number)).count();
        for pod in &self.pods {
            let stats = self.world.tunnel_of(*pod).stats();
            let drops = stats.drops().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
            assert!(drops.is_empty(), "{drops:?}");
        }
        assert_eq!((lost, self.world.model().violations()), (0, &[][..]));
    }
}

#[test]
fn a_rotation_with_half_the_members_late_at_every_step_loses_nothing() {
    for seed in seeds(20) {
        let mut net = Net::new(seed, Weather::CLEAR, 4);
        net.talk(Duration::from_secs(1));
        for (accept, send) in [(&[1, 2][..], 1), (&[1, 2], 2), (&[2], 2)] {
            net.keys(0..2, accept, send);
            net.talk(CHANGED);
            net.keys(2..4, accept, send);
            net.talk(CHANGED);
        }
        assert_eq!(net.epochs(), [2], "seed {seed}");
        net.assert_nothing_lost();
    }
}

/// Half of the nodes get each file an hour late. Nobody loses a packet, and nobody sends one in plain.
#[test]
fn a_rotation_with_half_the_members_late_by_an_hour_loses_nothing() {
    let mut net = Net::new(1, Weather::CLEAR, 4);
    net.talk(Duration::from_secs(1));
    for (accept, send) in [(&[1, 2][..], 1), (&[1, 2], 2), (&[2], 2)] {
        for half in [0..2, 2..4] {
            net.keys(half, accept, send);
            // Once every 20 s, so that sessions are replaced by age as well, 30 times.
            for _ in 0..180 {
                net.talk(Duration::from_millis(50));
                net.world.run_for(Duration::from_secs(20));
            }
        }
    }
    net.talk(CHANGED);
    assert_eq!(net.epochs(), [2]);
    net.assert_nothing_lost();
    assert!(net.pods.iter().all(|pod| net.world.bypassed_of(*pod).is_empty()));
}

/// A node that was away through a whole rotation comes back with the old file: it reaches nobody, in plain neither, until
/// it has the new one.
#[test]
fn a_node_that_was_away_during_a_rotation_is_closed_until_it_has_the_keys() {
    let mut world = World::new(1, Weather::CLEAR);
    let tenant = world.tenant();
    let pods = [0, 1, 2].map(|number| {
        let mut options = PodOptions::new(&[address(number)]);
        options.unknown = UnansweredPolicy::Plain;
        world.pod(&tenant, options)
    });
    let mut net = Net { world, tenant, pods: pods.to_vec(), numbers: Vec::new() };
    net.talk(Duration::from_secs(1));
    net.world.lose(|from, to, _| [from.ip(), to.ip()].contains(&address(2)));
    for (accept, send) in [(&[1, 2][..], 1), (&[1, 2], 2), (&[2], 2)] {
        net.keys(0..2, accept, send);
        net.talk(CHANGED);
    }
    net.numbers.clear();
    net.world.lose_nothing();
    let reaches = |net: &mut Net, from: usize, to: usize| {
        let number = net.world.send(net.pods[from], address(to), 100);
        net.world.run_for(Duration::from_millis(1_500));
        net.world.model().is_delivered(number)
    };
    for _ in 0..100 {
        assert!(!reaches(&mut net, 2, 0) && !reaches(&mut net, 0, 2));
        assert!(reaches(&mut net, 0, 1) && reaches(&mut net, 1, 0));
    }
    net.keys(2..3, &[2], 2);
    net.world.run_for(Duration::from_secs(5));
    assert!(reaches(&mut net, 2, 0) && reaches(&mut net, 0, 2));
    assert!(net.pods.iter().all(|pod| net.world.bypassed_of(*pod).is_empty()), "in plain");
    assert_eq!(net.world.model().violations(), []);
}

#[test]
fn an_init_is_answered_under_the_epochs_on_either_side_and_dropped_two_away() {
    let mut world = World::new(1, Weather::CLEAR);
    let tenant = world.tenant().with(&[4, 5, 6], 5);
    let pod = world.pod(&tenant, PodOptions::new(&[address(0)]));
    let identity = Identity::generate(Seed::from_bytes([7; 32]), &[]);
    let mut rng = Rng::new(Seed::from_bytes([8; 32]));
    world.capture();
    for (epoch, answered) in [(3, false), (4, true), (5, true), (6, true), (7, false)] {
        let keys = tenant.with(&[epoch], epoch);
        let local = Local::new(keys.keys(), CipherSuite::Aes256Gcm, &identity, &[], true);
        let index = SessionIndex::random(0, &mut rng);
        let (_, init) = Initiator::start(&local, index, address(0), &mut rng);
        let before = *world.tunnel_of(pod).stats();
        world.inject(pod, SocketAddr::new(address(9), 8_362), init.to_vec());
        let said: Vec<u8> = world.captured().iter().map(|(.., bytes)| bytes[0]).collect();
        assert_eq!(said, if answered { &[2][..] } else { &[] }, "epoch {epoch}");
        let mut expected = before;
        expected.drop_many(DropReason::OtherEpoch, u64::from(!answered));
        assert_eq!(*world.tunnel_of(pod).stats(), expected, "epoch {epoch}");
    }
}

#[test]
fn members_that_send_different_epochs_do_not_replace_each_others_sessions_for_ever() {
    for seed in seeds(10) {
        let mut net = Net::new(seed, Weather::CLEAR, 2);
        net.talk(Duration::from_secs(1));
        net.keys(0..2, &[1, 2], 1);
        net.keys(0..1, &[1, 2], 2);
        let before = net.handshakes();
        net.talk(Duration::from_secs(50));
        assert_eq!(net.handshakes() - before, 2, "seed {seed}: one handshake, counted by both");
        assert_eq!(net.epochs(), [2], "seed {seed}");
        net.assert_nothing_lost();
    }
}

#[test]
fn two_that_start_at_once_under_different_epochs_are_heard_at_once() {
    for seed in seeds(20) {
        let mut net = Net::new(seed, Weather::CLEAR, 2);
        // The other one cannot answer what the first one sends.
        net.keys(0..1, &[1, 2], 2);
        let there = net.world.send(net.pods[0], address(1), 100);
        let back = net.world.send(net.pods[1], address(0), 100);
        net.world.run_for(Duration::from_millis(50));
        for number in [there, back] {
            assert!(net.world.model().is_delivered(number), "seed {seed}");
        }
        assert_eq!(net.epochs(), [1], "seed {seed}");
    }
}

#[test]
fn a_second_rotation_in_overlap_and_a_rollback_lose_nothing() {
    for seed in seeds(20) {
        let mut net = Net::new(seed, Weather::CLEAR, 3);
        net.talk(Duration::from_secs(1));
        for (accept, send) in [
            (&[1, 2][..], 1),
            (&[1, 2], 2),
            (&[1, 2, 3], 2),
            (&[1, 2, 3], 3),
            // Back, and on again.
            (&[1, 2, 3], 2),
            (&[1, 2, 3], 3),
            (&[2, 3], 3),
        ] {
            net.keys(0..3, accept, send);
            net.talk(Duration::from_millis(700));
        }
        net.talk(CHANGED);
        assert_eq!(net.epochs(), [3], "seed {seed}");
        net.keys(0..3, &[2, 3], 2);
        net.talk(CHANGED);
        assert_eq!(net.epochs(), [2], "seed {seed}");
        net.keys(0..3, &[2], 2);
        net.talk(Duration::from_secs(1));
        net.assert_nothing_lost();
    }
}

#[test]
fn a_rotation_every_second_loses_nothing_and_numbers_wrap() {
    for seed in seeds(5) {
        let weather = Weather { delay: Duration::from_millis(5), ..Weather::CLEAR };
        let mut net = Net::new(seed, weather, 3);
        net.talk(Duration::from_secs(1));
        net.keys(0..3, &[1, 250], 250);
        net.talk(CHANGED);
        let mut held = vec![1, 250_u8];
        for round in 0..60 {
            let next = 251_u8.wrapping_add(round);
            let mut accept = held.clone();
            accept.push(next);
            if accept.len() > 6 {
                accept.remove(0);
            }
            // Never all at once.
            for pod in 0..3 {
                net.keys(pod..pod + 1, &accept, held[held.len() - 1]);
                net.talk(Duration::from_millis(100));
            }
            for pod in 0..3 {
                net.keys(pod..pod + 1, &accept, next);
                net.talk(Duration::from_millis(200));
            }
            held = accept;
        }
        net.talk(CHANGED);
        assert_eq!(net.epochs(), [54], "seed {seed}");
        net.assert_nothing_lost();
    }
}

#[test]
fn rotations_in_bad_weather_end_under_the_last_epoch() {
    for seed in seeds(200) {
        let weather =
            Weather { loss: 20, duplicate: 10, jitter: Duration::from_millis(20), ..Weather::CLEAR };
        let mut net = Net::new(seed, weather, 3);
        net.talk(Duration::from_secs(1));
        for next in 2..6_u8 {
            for (accept, send) in
                [(&[next - 1, next][..], next - 1), (&[next - 1, next], next), (&[next], next)]
            {
                for pod in 0..3 {
                    net.keys(pod..pod + 1, accept, send);
                    let pause = net.world.random().below(20) * 50;
                    net.talk(Duration::from_millis(pause));
                }
            }
        }
        net.world.weather(Weather::CLEAR);
        net.talk(Duration::from_secs(20));
        net.numbers.clear();
        net.talk(Duration::from_secs(1));
        net.world.run_for(Duration::from_secs(1));
        assert_eq!(net.epochs(), [5], "seed {seed}");
        assert!(net.numbers.iter().all(|number| net.world.model().is_delivered(*number)), "seed {seed}");
        assert_eq!(net.world.model().violations(), [], "seed {seed}");
    }
}

#[test]
fn a_member_that_was_left_behind_gets_silence_and_is_counted() {
    let mut net = Net::new(1, Weather::CLEAR, 2);
    net.talk(Duration::from_secs(1));
    let (late, on) = (net.pods[0], net.pods[1]);
    net.keys(1..2, &[1, 2], 2);
    net.talk(CHANGED);
    assert_eq!(net.epochs(), [1], "the late member cannot answer under an epoch that it does not hold");
    assert!(net.world.tunnel_of(late).stats().dropped(DropReason::OtherEpoch) > 0);
    assert!(net.numbers.iter().all(|number| net.world.model().is_delivered(*number)), "and goes on");

    net.keys(1..2, &[2], 2);
    assert_eq!(net.world.tunnel_of(on).peers(net.world.now()).count(), 0, "its session ends at once");
    assert!(net.world.events_of(on).iter().any(|event| matches!(event, Event::PeerDown { .. })));
    net.numbers.clear();
    net.world.capture();
    net.talk(Duration::from_secs(200));
    assert!(net.numbers.iter().all(|number| !net.world.model().is_delivered(*number)));
    assert!(net.world.tunnel_of(on).stats().dropped(DropReason::Expired) > 0, "records under the old key");
    assert!(net.world.tunnel_of(on).stats().dropped(DropReason::OtherEpoch) > 0, "its handshakes");
    // The one that went on sends INITs of its own and nothing else: not an answer to any of the late one's.
    let answers = net.world.captured().into_iter().filter(|(from, ..)| from.ip() == address(1));
    assert!(answers.map(|(.., bytes)| bytes[0]).all(|kind| kind == 1));
    assert!(net.world.bypassed_of(late).is_empty() && net.world.bypassed_of(on).is_empty());

    net.keys(0..1, &[2], 2);
    net.talk(Duration::from_secs(10));
    net.numbers.clear();
    net.talk(Duration::from_secs(1));
    net.world.run_for(Duration::from_secs(1));
    assert!(net.numbers.iter().all(|number| net.world.model().is_delivered(*number)));
    assert_eq!(net.world.model().violations(), []);
}

#[test]
fn packets_that_wait_for_an_answer_survive_the_end_of_its_epoch() {
    let mut net = Net::new(1, Weather { loss: 100, ..Weather::CLEAR }, 2);
    let waiting = net.world.send(net.pods[0], address(1), 100);
    net.world.run_for(Duration::from_millis(300));
    net.world.weather(Weather::CLEAR);
    net.keys(0..2, &[2], 2);
    net.world.run_for(Duration::from_millis(100));
    assert!(net.world.model().is_delivered(waiting));
    assert_eq!(net.epochs(), [2]);
    assert_eq!(net.dropped(DropReason::OtherEpoch), 0, "what was under way was lost before");
}

#[test]
fn idle_peers_stay_silent_through_a_rotation() {
    let mut net = Net::new(1, Weather::CLEAR, 2);
    net.talk(Duration::from_secs(1));
    net.world.run_for(Duration::from_secs(30));
    net.world.capture();
    net.keys(0..2, &[1, 2], 1);
    net.keys(0..2, &[1, 2], 2);
    net.keys(0..2, &[2], 2);
    net.world.run_for(Duration::from_secs(30));
    assert_eq!(net.world.captured().len(), 0);
    net.talk(Duration::from_secs(1));
    net.assert_nothing_lost();
}

#[test]
fn keys_of_another_tenant_and_other_bytes_for_an_epoch_are_refused_and_change_nothing() {
    let mut net = Net::new(1, Weather::CLEAR, 2);
    let other = net.world.tenant();
    assert_eq!(net.world.change_keys(net.pods[0], &other), Err(KeyRingError::OtherTenant));
    net.talk(Duration::from_secs(1));
    assert_eq!(net.epochs(), [1]);
    net.assert_nothing_lost();
}
