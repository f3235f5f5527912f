//! Packets between honest pods, and that they arrive.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::scene::Scene;

/// Streams at one time.
const MOST: usize = 10;
/// A session is there this long after the first packet that wants one, whatever liars do, where nothing is lost. Handshake
/// and packet take three times the network's delay more.
const PATIENCE: Duration = Duration::from_millis(1_000 + 3 * 20);
/// The same after a restart, where nobody lies: the first packet has a RESET for answer, the member is found to be another,
/// and so is who is behind its service: three exchanges, and a packet of the next round.
const PATIENCE_RESTARTED: Duration = Duration::from_millis(1_000 + 4 * 40);
/// The same among liars: a silent peer is dead after 5 s at most. Most are back with the RESET of their first packet, but its
/// bounds are for liars to use up: one RESET a second counts, genuine or not.
const PATIENCE_AMONG_LIARS: Duration = Duration::from_millis(6_000);

/// Packets of one flow, one a round.
pub(crate) struct Stream {
    from: usize,
    source: (IpAddr, u16),
    to: (IpAddr, u16),
    /// It answers another stream, in the name that was asked.
    is_answer: bool,
    /// Packets that have not come out, since the last one that has.
    waiting: Vec<(u64, Instant)>,
    arrived: u64,
}

/// All that is being said.
#[derive(Default)]
pub(crate) struct Traffic {
    streams: Vec<Stream>,
    ports: u16,
    lies: bool,
    /// Time at which a pod was restarted last.
    restarted: BTreeMap<usize, Instant>,
    /// Longest time for which nothing came out of a stream: at any time, and after a restart.
    pub(crate) longest: [Duration; 2],
    /// Packets that came out, in all.
    pub(crate) arrived: u64,
}

impl Traffic {
    /// Nothing is said yet; somebody lies, or nobody.
    pub(crate) fn new(lies: bool) -> Self {
        Self { lies, ..Self::default() }
    }

    /// Sends a packet of each stream, and may begin another one.
    pub(crate) fn speak(&mut self, scene: &mut Scene) {
        if self.streams.len() < MOST && scene.random.chance(40) {
            self.begin(scene);
        }
        for stream in &mut self.streams {
            let now = scene.world.now();
            let id = scene.pods[stream.from].id;
            let number = scene.world.send_flow(id, stream.source, stream.to, 40);
            stream.waiting.push((number, now));
        }
        if self.streams.len() > 2 && scene.random.chance(15) {
            let ended = scene.random.below(self.streams.len() as u64) as usize;
            self.streams.remove(ended);
        }
    }

    fn begin(&mut self, scene: &mut Scene) {
        let from = scene.random.below(scene.pods.len() as u64) as usize;
        let (own, all) = (scene.pods[from].addresses.clone(), scene.honest_addresses());
        let (source, to) = (scene.pick(&own), scene.pick(&all));
        // A pod answers from its first address: no node leads that back to a pod behind it which asked another one.
        let is_behind = |pod: &usize| scene.behind == Some(*pod);
        let asks_further = is_behind(&from) && scene.is_further(to);
        if asks_further || (scene.is_further(source) && scene.owners(to).iter().any(is_behind)) {
            return;
        }
        // Whoever is behind a service may be led to itself.
        if source.is_ipv4() != to.is_ipv4() || scene.owners(to).contains(&from) {
            return;
        }
        self.ports = self.ports.wrapping_add(1) % 10_000;
        self.push(from, (source, 40_000 + self.ports), (to, 7), false);
    }

    fn push(&mut self, from: usize, source: (IpAddr, u16), to: (IpAddr, u16), is_answer: bool) {
        self.streams.push(Stream { from, source, to, is_answer, waiting: Vec::new(), arrived: 0 });
    }

    /// Looks at what has come out since the last time. Returns what should have and has not.
    pub(crate) fn look(&mut self, scene: &mut Scene) -> Vec<String> {
        let (mut denied, mut answers) = (Vec::new(), Vec::new());
        let now = scene.world.now();
        for stream in &mut self.streams {
            let Some((_, begun)) = stream.waiting.first().copied() else { continue };
            let came_at = |(number, _): &(u64, Instant)| scene.world.model().delivered_at(*number);
            let first = stream.waiting.iter().filter_map(came_at).min();
            let waited = first.unwrap_or(now).saturating_duration_since(begun);
            let ends = [stream.from].into_iter().chain(scene.owners(stream.to.0));
            let restarted = ends.filter_map(|pod| self.restarted.get(&pod)).max();
            let is_restarted = restarted.is_some_and(|at| begun < *at + PATIENCE_AMONG_LIARS);
            let patience = match is_restarted {
                false => PATIENCE,
                true if self.lies => PATIENCE_AMONG_LIARS,
                true => PATIENCE_RESTARTED,
            };
            if scene.is_clear {
                let longest = &mut self.longest[usize::from(is_restarted)];
                *longest = waited.max(*longest);
            }
            if scene.is_clear && waited > patience {
                denied.push(format!(
                    "denied: pod {} at {} does not reach {} for {waited:?} (answer: {}, restarted: {is_restarted})",
                    stream.from, stream.source.0, stream.to.0, stream.is_answer
                ));
                stream.waiting.clear();
            }
            if let Some(last) = stream.waiting.iter().rposition(|packet| came_at(packet).is_some()) {
                let (number, _) = stream.waiting[last];
                stream.waiting.drain(..=last);
                stream.arrived += 1;
                self.arrived += 1;
                scene.answered.insert((stream.from, stream.to.0), now);
                if !stream.is_answer && stream.arrived == 1 && scene.random.chance(50) {
                    answers.extend(scene.world.model().came_out(number).map(|came| (came, stream.source.1)));
                }
            }
        }
        for ((id, source, destination), port) in answers {
            let pod = scene.pods.iter().position(|pod| pod.id == id).expect("an honest pod");
            if self.streams.len() < 2 * MOST {
                self.push(pod, (destination, 7), (source, port), true);
            }
        }
        denied
    }

    /// A pod is there anew: what it was asked before has no answer any more, and it is found again.
    pub(crate) fn restarted(&mut self, scene: &Scene, pod: usize) {
        let meets = |stream: &Stream| stream.from == pod || scene.owners(stream.to.0).contains(&pod);
        self.streams.retain(|stream| !(stream.is_answer && meets(stream)));
        self.streams.iter_mut().filter(|stream| meets(stream)).for_each(|stream| stream.waiting.clear());
        self.restarted.insert(pod, scene.world.now());
    }

    /// Nobody has said anything for long.
    pub(crate) fn rested(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.waiting.clear());
    }
}
