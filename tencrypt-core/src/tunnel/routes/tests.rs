use std::time::Duration;

use super::*;
use crate::{
    testing::start,
    tunnel::limits::{MAX_SPEAKERS_AN_ADDRESS, REJECT_AFTER},
};

const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

fn member(number: u8) -> PeerId {
    PeerId::from_bytes([number; 32])
}

fn at(second: u64) -> Instant {
    start() + Duration::from_secs(second)
}

/// A member that names the address proves that it received there what was sent at that second.
fn named(number: u8, second: u64) -> Proof {
    Proof { member: member(number), at: at(second), is_named: true }
}

fn unnamed(number: u8, second: u64) -> Proof {
    Proof { is_named: false, ..named(number, second) }
}

struct World {
    routes: Routes,
    dead: Vec<PeerId>,
}

impl World {
    fn new() -> Self {
        Self { routes: Routes::new(1), dead: Vec::new() }
    }

    /// The proof comes at the second after what it proves was sent.
    fn prove(&mut self, address: IpAddr, proof: Proof) -> Change {
        let dead = &self.dead;
        self.routes.prove(address, proof, |it| !dead.contains(&it), proof.at + Duration::from_secs(1))
    }

    /// Number of the member that is sent to, and those of the members that may send from there.
    fn look(&self, address: IpAddr, second: u64) -> (Option<u8>, Vec<u8>) {
        let led_to = self.routes.route(address, at(second)).map(|route| route.member.as_bytes()[0]);
        let speaks = |it: &u8| self.routes.speaks_until(address, member(*it), at(second)).is_some();
        (led_to, (0..=u8::MAX).filter(speaks).collect())
    }
}

#[test]
fn a_pods_address_has_one_owner_the_one_that_proved_it_by_the_latest_question() {
    let mut world = World::new();
    let change = world.prove(POD, named(1, 10));
    assert!(change.moved && change.gained);
    assert_eq!(world.look(POD, 11), (Some(1), vec![1]));
    // Its next owner has the address at once; the answer of the one before, which comes late, is no news.
    let change = world.prove(POD, named(2, 20));
    assert_eq!((change.moved, &change.lost[..]), (true, &[member(1)][..]));
    assert_eq!(world.prove(POD, named(1, 19)), Change::default());
    assert_eq!(world.look(POD, 21), (Some(2), vec![2]));
    // Nor does one that does not name it take it from one that does and lives.
    let change = world.prove(POD, unnamed(3, 30));
    assert!(!change.moved && !change.gained);
    assert_eq!(world.look(POD, 31), (Some(2), vec![2]));
}

#[test]
fn a_services_address_stays_with_a_pod_that_lives_and_all_that_answered_may_speak() {
    let mut world = World::new();
    assert!(world.prove(VIP, unnamed(1, 1)).moved);
    for second in 2..20 {
        let change = world.prove(VIP, unnamed(2, second));
        assert_eq!((change.moved, change.lost.len()), (false, 0));
    }
    assert_eq!(world.look(VIP, 20), (Some(1), vec![1, 2]));
    world.dead.push(member(1));
    assert!(world.prove(VIP, unnamed(2, 20)).moved);
    // The one that died may still speak: flows with it go on if it comes back.
    assert_eq!(world.look(VIP, 21), (Some(2), vec![1, 2]));
    // Not by a question from before.
    world.dead = vec![member(2)];
    assert!(!world.prove(VIP, unnamed(1, 19)).moved);
    assert_eq!(world.look(VIP, 21), (Some(2), vec![1, 2]));
}

#[test]
fn a_backend_that_names_the_address_leads_and_its_fellows_go_on_speaking() {
    let mut world = World::new();
    world.prove(VIP, unnamed(1, 1));
    assert!(world.prove(VIP, named(2, 2)).moved);
    assert_eq!(world.look(VIP, 3), (Some(2), vec![1, 2]));
}

#[test]
fn a_services_address_is_kept_by_use_as_long_as_a_flow_of_nat() {
    let mut world = World::new();
    world.prove(VIP, unnamed(1, 0));
    let idle = SPEAKS_FOR.as_secs();
    assert_eq!(world.look(VIP, idle), (Some(1), vec![1]));
    assert_eq!(world.look(VIP, idle + 1), (None, vec![]));
    world.routes.used(VIP, member(1), at(5_000));
    assert_eq!(world.look(VIP, 5_000 + idle - 1), (Some(1), vec![1]));
    // Use does not bring back what is over, nor make an owner of somebody who is none.
    world.routes.used(VIP, member(1), at(5_000 + idle));
    world.routes.used(VIP, member(2), at(5_000));
    assert_eq!(world.look(VIP, 5_000 + idle), (None, vec![]));
}

#[test]
fn a_named_address_is_kept_by_handshakes_and_ten_minutes_beyond() {
    let mut world = World::new();
    world.prove(POD, named(1, 0));
    world.routes.used(POD, member(1), at(700));
    let kept = (REJECT_AFTER + Duration::from_secs(600)).as_secs();
    assert_eq!(world.look(POD, kept), (Some(1), vec![1]));
    assert_eq!(world.look(POD, kept + 1), (None, vec![]));
    world.routes.renew(member(1), at(700));
    assert_eq!(world.look(POD, 700 + kept - 1), (Some(1), vec![1]));
    assert!(world.prove(POD, unnamed(2, 700 + kept)).moved, "what is over keeps nobody out");
}

#[test]
fn what_a_member_does_not_name_any_more_and_what_facts_deny_is_taken_away() {
    let mut world = World::new();
    for address in [POD, VIP] {
        world.prove(address, unnamed(1, 0));
        world.prove(address, unnamed(2, 1));
    }
    assert_eq!(world.routes.take_from(member(1), |address, _| address == VIP, at(2)), [POD]);
    assert_eq!(world.look(POD, 2), (None, vec![2]));
    assert_eq!(world.routes.prune(VIP, |it| it == member(2)), [member(1)]);
    assert_eq!(
        (world.routes.addresses(member(1)), world.routes.addresses(member(2))),
        (vec![], vec![POD, VIP])
    );
    let before = world.routes.revision();
    world.routes.clear(2);
    assert!(before < world.routes.revision() && world.routes.by_member.is_empty());
}

#[test]
fn every_change_ends_decisions_and_what_changes_nothing_ends_none() {
    let mut world = World::new();
    let mut revision = 0;
    let mut changed = |world: &World| std::mem::replace(&mut revision, world.routes.revision()) < revision;
    world.prove(VIP, unnamed(1, 0));
    assert!(changed(&world));
    world.prove(VIP, unnamed(1, 1));
    world.routes.used(VIP, member(1), at(2));
    world.routes.renew(member(1), at(2));
    assert!(!changed(&world));
    world.prove(VIP, unnamed(2, 3));
    assert!(changed(&world));
    world.prove(VIP, named(2, 4));
    assert!(changed(&world));
    world.routes.prune(VIP, |_| false);
    assert!(changed(&world));
}

#[test]
fn members_at_one_address_are_bounded_and_the_one_that_is_sent_to_stays() {
    let mut world = World::new();
    let most = MAX_SPEAKERS_AN_ADDRESS as u8;
    for number in 1..=most {
        world.prove(VIP, unnamed(number, number.into()));
    }
    let change = world.prove(VIP, unnamed(100, 100));
    assert_eq!(change.lost, [member(2)]);
    let (led_to, speak) = world.look(VIP, 101);
    assert_eq!((led_to, speak.len(), speak.contains(&100)), (Some(1), MAX_SPEAKERS_AN_ADDRESS, true));
}

#[test]
fn all_are_bounded_and_what_would_end_first_makes_room() {
    let mut world = World::new();
    let address = |number: usize| IpAddr::from((0x0a01_0000 + number as u32).to_be_bytes());
    // Half of them of pods, which end sooner than those of services.
    for number in 0..MAX_SPEAKERS {
        world.prove(address(number), Proof { is_named: number % 2 == 0, ..named(1, 0) });
    }
    world.prove(POD, named(2, 1));
    assert!(world.routes.by_member.len() <= MAX_SPEAKERS);
    assert_eq!(world.routes.places.len(), world.routes.by_member.len());
    assert_eq!(world.look(POD, 2), (Some(2), vec![2]));
    assert!((1..MAX_SPEAKERS).step_by(2).all(|number| world.look(address(number), 2).0 == Some(1)));
}

/// Of two answers of one member the earlier question's may come last.
#[test]
fn that_a_member_proved_an_address_lately_is_not_forgotten_for_an_older_proof_of_its_own() {
    let mut world = World::new();
    world.prove(POD, named(1, 20));
    world.prove(POD, named(1, 10));
    world.prove(POD, named(2, 15));
    assert_eq!(world.look(POD, 21), (Some(1), vec![1]));
}
