//! A world of honest pods, the services they are behind, the nodes that translate, and liars among them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use tencrypt::{CipherSuite, UnansweredPolicy, crypto::PeerId};
use tencrypt_sim::{LiarHost, PodId, PodOptions, Random, Tenant, Weather, Wired, World};

/// Wireds that liars have seen and may repeat.
const SNIFFED: usize = 64;

/// An honest pod.
pub(crate) struct Pod {
    pub(crate) id: PodId,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) lanes: u8,
    pub(crate) unknown: UnansweredPolicy,
    /// Packets that have left it in plain and were looked at.
    pub(crate) bypassed: usize,
}

/// An address that leads to some of the pods.
pub(crate) struct Service {
    pub(crate) vip: IpAddr,
    pub(crate) backends: Vec<usize>,
}

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) random: Random,
    pub(crate) pods: Vec<Pod>,
    pub(crate) services: Vec<Service>,
    pub(crate) nodes: Vec<IpAddr>,
    /// The pod that is behind a node.
    pub(crate) behind: Option<usize>,
    pub(crate) liars: Vec<LiarHost>,
    /// Every static key that an honest pod ever had.
    pub(crate) keys: BTreeMap<PeerId, usize>,
    pub(crate) sniffed: Vec<Wired>,
    /// Time at which an honest address was last seen to answer a pod.
    pub(crate) answered: BTreeMap<(usize, IpAddr), Instant>,
    /// Addresses that DNS has called external, to a pod.
    pub(crate) called_external: BTreeMap<(usize, IpAddr), Instant>,
    /// Nothing is lost in this world.
    pub(crate) is_clear: bool,
}

pub(crate) fn pod_address(pod: usize) -> IpAddr {
    IpAddr::from([10, 1, 0, pod as u8 + 1])
}

impl Scene {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x11a2);
        let is_clear = random.chance(60);
        let mut world = World::new(seed, weather(is_clear, &mut random));
        let tenant = world.tenant();
        // Hybrid handshakes cost five times as much to simulate and differ in nothing that is looked at here.
        let suite = match random.below(8) {
            0 => CipherSuite::MlKem768Aes256Gcm,
            1..4 => CipherSuite::ChaCha20Poly1305,
            _ => CipherSuite::Aes256Gcm,
        };
        let pods = pods(&mut world, &tenant, suite, &mut random);
        let liars = liars(&mut world, &tenant, suite, &mut random);
        world.capture();
        let mut scene = Self {
            world,
            random,
            pods,
            services: Vec::new(),
            nodes: Vec::new(),
            behind: None,
            liars,
            keys: BTreeMap::new(),
            sniffed: Vec::new(),
            answered: BTreeMap::new(),
            called_external: BTreeMap::new(),
            is_clear,
        };
        scene.translate();
        (0..scene.pods.len()).for_each(|pod| scene.note_key(pod));
        scene
    }

    /// Puts pods behind services, and pods and services behind nodes.
    fn translate(&mut self) {
        for number in 0..self.random.below(3) as u8 {
            let vip = IpAddr::from([10, 9, 0, number + 1]);
            let backends: Vec<usize> = (0..self.pods.len()).filter(|_| self.random.chance(45)).collect();
            if backends.is_empty() || backends.len() == self.pods.len() {
                continue;
            }
            let addresses: Vec<IpAddr> = backends.iter().map(|pod| pod_address(*pod)).collect();
            self.world.service(vip, &addresses);
            if self.random.chance(25) {
                let node = self.node();
                self.world.masquerade(vip, node);
            }
            self.services.push(Service { vip, backends });
        }
        if self.random.chance(25) {
            let pod = self.random.below(self.pods.len() as u64) as usize;
            let node = self.node();
            self.world.put_behind(pod_address(pod), node);
            self.behind = Some(pod);
        }
    }

    fn node(&mut self) -> IpAddr {
        let node = IpAddr::from([10, 8, 0, self.nodes.len() as u8 + 1]);
        self.nodes.push(node);
        node
    }

    fn note_key(&mut self, pod: usize) {
        let key = self.world.tunnel_of(self.pods[pod].id).peer_id();
        self.keys.insert(key, pod);
    }

    /// Ends the program of a pod and starts it anew: it knows nobody, and has another key.
    pub(crate) fn restart(&mut self, pod: usize) {
        self.world.restart(self.pods[pod].id);
        self.note_key(pod);
        self.answered.retain(|(of, _), _| *of != pod);
        self.called_external.retain(|(of, _), _| *of != pod);
    }

    /// The honest pods that an address may belong to; none: it is a node's, a liar's or nobody's.
    pub(crate) fn owners(&self, address: IpAddr) -> Vec<usize> {
        match self.services.iter().find(|service| service.vip == address) {
            Some(service) => service.backends.clone(),
            None => (0..self.pods.len()).filter(|pod| self.pods[*pod].addresses.contains(&address)).collect(),
        }
    }

    /// Every address that an honest pod answers at.
    pub(crate) fn honest_addresses(&self) -> Vec<IpAddr> {
        let own = self.pods.iter().flat_map(|pod| pod.addresses.iter().copied());
        own.chain(self.services.iter().map(|service| service.vip)).collect()
    }

    /// Tells if an address is one that a pod has besides the first of that family.
    pub(crate) fn is_further(&self, address: IpAddr) -> bool {
        address.is_ipv4() && self.pods.iter().any(|pod| pod.addresses[1..].contains(&address))
    }

    /// One of some things.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len() as u64) as usize].clone()
    }

    /// An address that a liar may speak of: an honest one, a node's, or nobody's.
    pub(crate) fn spoken_of(&mut self) -> IpAddr {
        let mut all = self.honest_addresses();
        all.extend(&self.nodes);
        let [high, low] = (self.random.bits() as u16).to_be_bytes();
        all.push(IpAddr::from([10, 66, high, low]));
        self.pick(&all)
    }

    /// Notes what went over the network, and returns it.
    pub(crate) fn sniff(&mut self) -> Vec<Wired> {
        let seen = self.world.captured();
        self.sniffed.extend(seen.iter().cloned());
        let old = self.sniffed.len().saturating_sub(SNIFFED);
        self.sniffed.drain(..old);
        seen
    }
}

fn weather(is_clear: bool, random: &mut Random) -> Weather {
    let most = Duration::from_millis(10);
    let (loss, duplicate) = if is_clear { (0, 0) } else { (random.below(30) as u8, random.below(20) as u8) };
    Weather { loss, duplicate, delay: random.duration(most), jitter: random.duration(most) }
}

fn pods(world: &mut World, tenant: &Tenant, suite: CipherSuite, random: &mut Random) -> Vec<Pod> {
    let count = 3 + random.below(3) as usize;
    (0..count)
        .map(|pod| {
            let last = pod as u8 + 1;
            let mut options = PodOptions::new(&[pod_address(pod)]);
            if random.chance(30) {
                options.addresses.push(IpAddr::from([10, 2, 0, last]));
            }
            if random.chance(40) {
                options.addresses.push(IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, u16::from(last)]));
            }
            options.suite = suite;
            options.lanes = if random.chance(50) { 1 } else { 1 + random.below(4) as u8 };
            if random.chance(30) {
                options.unknown = UnansweredPolicy::Plain;
            }
            let (addresses, lanes, unknown) = (options.addresses.clone(), options.lanes, options.unknown);
            Pod { id: world.pod(tenant, options), addresses, lanes, unknown, bypassed: 0 }
        })
        .collect()
}

fn liars(world: &mut World, tenant: &Tenant, suite: CipherSuite, random: &mut Random) -> Vec<LiarHost> {
    (0..1 + random.below(2) as u8)
        .map(|number| {
            let address = IpAddr::from([10, 7, 0, number + 1]);
            world.stranger(address);
            LiarHost::new(tenant, suite, address, random.bits())
        })
        .collect()
}
