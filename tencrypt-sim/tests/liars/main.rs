//! Random schedules of honest pods and of members that lie. Some pods have several addresses, some are behind services of
//! several pods, some behind nodes that translate; they restart, and rest. Liars hold the tenant's key, send from whatever
//! address they like, say that they have any, repeat what they have seen, answer questions of others by questions, forge
//! RESETs, ICMP and DNS answers. What they cannot do is receive what goes to others.
//!
//! Whatever they do, no address is taken, nothing leaves in plain to who answered within ten minutes, questions and tables
//! keep to their bounds; and where the network loses nothing, no honest pod is denied another: their session is there
//! within a second of the first packet.
//!
//! `TENCRYPT_TEST_LIARS` says how many schedules (300); `TENCRYPT_SIM_SEED` replays one.

mod acts;
mod checks;
mod crowd;
mod scene;
mod traffic;

use std::time::Duration;

use tencrypt_sim::seeds;

use crate::{checks::Questions, scene::Scene, traffic::Traffic};

/// Rounds of a schedule.
const ROUNDS: usize = 60;
/// Longest time of a round.
const ROUND: Duration = Duration::from_millis(180);

/// Outcome of a schedule.
#[derive(Debug, Default)]
struct Outcome {
    arrived: u64,
    most: (usize, usize),
    longest: [Duration; 2],
    faults: Vec<String>,
}

/// Runs a schedule, up to its first fault; without lies if nobody is to lie.
fn schedule(seed: u64, lies: bool) -> Outcome {
    let mut scene = Scene::new(seed);
    let (mut traffic, mut questions) = (Traffic::new(lies), Questions::default());
    let mut faults = Vec::new();
    for _ in 0..ROUNDS {
        if scene.random.chance(4) {
            let pod = scene.random.below(scene.pods.len() as u64) as usize;
            scene.restart(pod);
            traffic.restarted(&scene, pod);
        }
        if scene.random.chance(3) {
            // Sessions end in the meantime, and what the network knows of flows.
            let rest = Duration::from_secs(100 + scene.random.below(400));
            scene.world.run_for(rest);
            scene.sniff();
            traffic.rested();
        }
        traffic.speak(&mut scene);
        let sent = scene.sniff();
        if lies {
            scene.end_questions(&sent);
            scene.lie();
        }
        let round = scene.random.duration(ROUND);
        scene.world.run_for(round);
        let late = scene.sniff();
        faults.extend(questions.look(&scene, &[sent, late].concat()));
        // What left is judged by what was known before.
        faults.extend(scene.plain());
        faults.extend(traffic.look(&mut scene));
        faults.extend(scene.taken());
        faults.extend(scene.violations());
        if !faults.is_empty() {
            break;
        }
    }
    Outcome { arrived: traffic.arrived, most: questions.most, longest: traffic.longest, faults }
}

/// A share of all the schedules.
fn share(of: u64, part: u64) -> impl Iterator<Item = u64> {
    let all = std::env::var("TENCRYPT_TEST_LIARS")
        .ok()
        .map_or(300, |count| count.replace('_', "").parse().expect("TENCRYPT_TEST_LIARS is a number"));
    seeds(all).filter(move |seed| seed % of == part)
}

/// Runs a part of the schedules.
fn hold(part: u64, lies: bool) {
    let (mut arrived, mut most, mut longest, mut count, mut failed) =
        (0, (0, 0), [Duration::ZERO; 2], 0, Vec::new());
    for seed in share(PARTS, part) {
        let outcome = schedule(seed, lies);
        count += 1;
        arrived += outcome.arrived;
        most = (most.0.max(outcome.most.0), most.1.max(outcome.most.1));
        longest = [0, 1].map(|at| longest[at].max(outcome.longest[at]));
        if let Some(fault) = outcome.faults.first() {
            failed.push(format!("seed {seed}: {fault}"));
        }
    }
    println!(
        "{count} schedules: {arrived} packets arrived, at most {most:?} questions a second of a lane; nothing came out for \
         {:?} at most, {:?} after a restart",
        longest[0], longest[1]
    );
    assert!(failed.is_empty(), "{} of {count} schedules:\n{}", failed.len(), failed.join("\n"));
    assert!(arrived >= 20 * count, "{count} schedules, {arrived} packets arrived: nothing was tried");
}

/// Tests that run beside each other.
const PARTS: u64 = 4;

#[test]
fn no_liar_takes_an_address_or_denies_one_in_the_first_part_of_the_schedules() {
    hold(0, true);
}

#[test]
fn no_liar_takes_an_address_or_denies_one_in_the_second_part_of_the_schedules() {
    hold(1, true);
}

#[test]
fn no_liar_takes_an_address_or_denies_one_in_the_third_part_of_the_schedules() {
    hold(2, true);
}

#[test]
fn no_liar_takes_an_address_or_denies_one_in_the_last_part_of_the_schedules() {
    hold(3, true);
}

/// The same schedules where nobody lies: what is found in them is no lie's doing.
#[test]
fn where_nobody_lies_no_pod_is_denied_another() {
    (0..PARTS).for_each(|part| hold(part, false));
}
