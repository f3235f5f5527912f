//! A tenant of 250 pods on 25 nodes is restarted: pod after pod, and all of it at once. Handshakes are as many as there
//! are sessions to replace, and no node has a storm of them.

use std::{net::IpAddr, time::Duration};

use tencrypt_sim::{PodId, PodOptions, Random, Weather, World};

const NODES: usize = 25;
const PODS: usize = 250;
/// Each pod calls so many others, and is called by as many.
const CALLED: usize = 8;
const PAIRS: u64 = (PODS * CALLED) as u64;
/// Handshakes a second that a node may have.
const STORM: u64 = 200;
const SECOND: Duration = Duration::from_secs(1);

fn address(pod: usize) -> IpAddr {
    IpAddr::from([10, 1, (pod / 200) as u8, (pod % 200) as u8 + 1])
}

struct Cluster {
    world: World,
    pods: Vec<PodId>,
    /// Handshakes counted by programs that have ended.
    ended: Vec<u64>,
    sent: Vec<u64>,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed, Weather::CLEAR);
        let tenant = world.tenant();
        let pods = (0..PODS).map(|pod| world.pod(&tenant, PodOptions::new(&[address(pod)]))).collect();
        let mut cluster = Self { world, pods, ended: vec![0; PODS], sent: Vec::new() };
        cluster.talk();
        cluster.world.run_for(SECOND);
        cluster
    }

    /// Every pod says something to each that it calls: neighbours in a ring, which are on all nodes.
    fn talk(&mut self) {
        for from in 0..PODS {
            for step in 1..=CALLED {
                let number = self.world.send(self.pods[from], address((from + step) % PODS), 64);
                self.sent.push(number);
            }
        }
    }

    fn restart(&mut self, pod: usize) {
        self.ended[pod] += self.world.tunnel_of(self.pods[pod]).stats().handshakes;
        self.world.restart(self.pods[pod]);
    }

    /// Handshakes so far by node; both ends count one.
    fn handshakes(&self) -> [u64; NODES] {
        let mut nodes = [0; NODES];
        for pod in 0..PODS {
            nodes[pod % NODES] += self.ended[pod] + self.world.tunnel_of(self.pods[pod]).stats().handshakes;
        }
        nodes
    }

    /// Everybody that is called is heard.
    fn is_whole(&mut self) -> bool {
        self.sent.clear();
        self.talk();
        self.world.run_for(SECOND);
        self.sent.iter().all(|number| self.world.model().is_delivered(*number))
    }
}

#[test]
fn a_rolling_restart_of_250_pods_is_no_storm_of_handshakes() {
    let mut cluster = Cluster::new(1);
    assert!(cluster.is_whole());
    let begin = cluster.handshakes();
    assert_eq!(begin.iter().sum::<u64>(), 2 * PAIRS);
    let mut order: Vec<usize> = (0..PODS).collect();
    let mut random = Random::new(2);
    for at in (1..PODS).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    let (mut before, mut most) = (begin, 0);
    for second in order.chunks(10) {
        for pods in second.chunks(5) {
            pods.iter().for_each(|pod| cluster.restart(*pod));
            cluster.talk();
            cluster.world.run_for(SECOND / 2);
        }
        let now = cluster.handshakes();
        most = most.max((0..NODES).map(|node| now[node] - before[node]).max().unwrap_or(0));
        before = now;
    }
    assert!((1..STORM).contains(&most), "{most} handshakes a second on one node");
    // It is over as soon as the last one is back.
    assert!((0..3).any(|_| cluster.is_whole()), "somebody is not heard");
    let all = (cluster.handshakes().iter().sum::<u64>() - begin.iter().sum::<u64>()) / 2;
    // Each end of a pair restarts once, some at the same time as the other.
    assert!((PAIRS * 19 / 10..=PAIRS * 21 / 10).contains(&all), "{all} handshakes of {PAIRS} pairs");
    let before = cluster.handshakes();
    for _ in 0..8 {
        assert!(cluster.is_whole());
        cluster.world.run_for(2 * SECOND);
    }
    assert_eq!(cluster.handshakes(), before, "handshakes with those that are gone");
    assert_eq!(cluster.world.model().violations(), []);
}

#[test]
fn a_tenant_that_restarts_at_once_has_one_handshake_a_pair() {
    let mut cluster = Cluster::new(3);
    assert!(cluster.is_whole());
    let begin = cluster.handshakes().iter().sum::<u64>();
    (0..PODS).for_each(|pod| cluster.restart(pod));
    assert!((0..3).any(|_| cluster.is_whole()), "somebody is not heard");
    let all = (cluster.handshakes().iter().sum::<u64>() - begin) / 2;
    assert!((PAIRS..=PAIRS + PAIRS / 10).contains(&all), "{all} handshakes of {PAIRS} pairs");
    assert_eq!(cluster.world.model().violations(), []);
}
