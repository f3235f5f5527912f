//! Pods, a network, and a clock that jumps to whatever comes next.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tencrypt::{
    Event, Identity, LaneId, LaneUpdate, Outbound, Output, RecvMeta, Seed, TunPacket, Tunnel, TunnelConfig,
    crypto::KeyRingError, directory::Directory, offload::VnetHdr, record::SessionIndex,
    sink::bytes::DatagramQueue,
};

use crate::{
    liar_host::Wired,
    model::Model,
    network::{Datagram, Network, Weather},
    packets::{Endpoint, read, tcp, udp},
    pod::{PodId, PodOptions},
    random::Random,
    tenant::Tenant,
    transport::{Inbox, ROOM},
};

/// Every payload carries this, so that plaintext on the wire is noticed.
const CANARY: &[u8] = b"canary-in-the-tunnel";

struct Pod {
    tenant: Tenant,
    options: PodOptions,
    /// Its lanes.
    tunnels: Vec<Tunnel>,
    events: Vec<Event>,
    bypassed: Vec<Vec<u8>>,
}

/// Everything.
pub struct World {
    now: Instant,
    random: Random,
    network: Network,
    pods: Vec<Pod>,
    homes: BTreeMap<IpAddr, PodId>,
    model: Model,
    numbered: u64,
    /// Datagrams as they left, for tests that tamper or replay.
    captured: Option<Vec<Wired>>,
    /// Lanes are not told of each other.
    deaf: bool,
    /// Datagrams that the network loses, whatever the weather.
    lost: Option<Lost>,
    /// Addresses with a program of the test's own, and what has come there.
    strangers: BTreeMap<IpAddr, Vec<Wired>>,
}

/// Tells if a datagram from here to there is lost.
type Lost = Box<dyn Fn(SocketAddr, SocketAddr, &[u8]) -> bool>;

impl World {
    /// An empty world in this weather.
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self {
            // An Instant has no other constructor; nothing depends on which one it is.
            now: Instant::now(),
            random: Random::new(seed),
            network: Network::new(weather),
            pods: Vec::new(),
            homes: BTreeMap::new(),
            model: Model::default(),
            numbered: 0,
            captured: None,
            deaf: false,
            lost: None,
            strangers: BTreeMap::new(),
        }
    }

    /// A tenant with a key of its own.
    pub fn tenant(&mut self) -> Tenant {
        let id: [u8; 32] = self.random.bytes();
        let mut tenant = [0; 16];
        tenant.copy_from_slice(&id[..16]);
        Tenant::new(tenant, self.random.bytes())
    }

    /// Adds a pod.
    pub fn pod(&mut self, tenant: &Tenant, options: PodOptions) -> PodId {
        let id = PodId(self.pods.len());
        for address in &options.addresses {
            self.homes.insert(*address, id);
        }
        let tunnels = self.tunnels(tenant, &options);
        self.pods.push(Pod {
            tenant: tenant.clone(),
            options,
            tunnels,
            events: Vec::new(),
            bypassed: Vec::new(),
        });
        id
    }

    /// Makes the network lead `vip` to `backend`.
    pub fn vip(&mut self, vip: IpAddr, backend: IpAddr) {
        self.network.vips.insert(vip, backend);
    }

    /// Makes the network lead each flow to `vip` to one of several pods, which answer as `vip`.
    pub fn service(&mut self, vip: IpAddr, backends: &[IpAddr]) {
        self.network.translation.service(vip, backends);
    }

    /// The same service, whose backends see `node` in place of who asks.
    pub fn masquerade(&mut self, vip: IpAddr, node: IpAddr) {
        self.network.translation.masquerade(vip, node);
    }

    /// Puts a pod behind `node`, whose address its datagrams have from then on where it asks. It is reached as before.
    pub fn put_behind(&mut self, pod: IpAddr, node: IpAddr) {
        self.network.translation.put_behind(pod, node);
    }

    /// Gives an address to a program of the test's own.
    pub fn stranger(&mut self, address: IpAddr) {
        self.strangers.entry(address).or_default();
    }

    /// Returns the datagrams that have come to an address of [`stranger`](Self::stranger) since the last time, `(from, to, bytes)`.
    pub fn received(&mut self, address: IpAddr) -> Vec<Wired> {
        self.strangers.get_mut(&address).map(std::mem::take).unwrap_or_default()
    }

    /// Sends a datagram over the network, from whatever address it says.
    pub fn forge(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let (datagram, now) = (Datagram { from, to, bytes }, self.now);
        if self.strangers.contains_key(&from.ip()) {
            self.network.send(datagram, now, &mut self.random);
        } else {
            self.network.stray(datagram, now, &mut self.random);
        }
    }

    /// Ends a pod's program and starts it anew: new identity, no sessions.
    pub fn restart(&mut self, id: PodId) {
        let (tenant, options) = (self.pods[id.0].tenant.clone(), self.pods[id.0].options.clone());
        self.pods[id.0].tunnels = self.tunnels(&tenant, &options);
    }

    /// The same with another number of lanes.
    pub fn restart_with(&mut self, id: PodId, lanes: u8) {
        self.pods[id.0].options.lanes = lanes;
        self.restart(id);
    }

    /// Has a running pod start over, as its program does when it finds that its machine was cloned or stood still: a new
    /// identity, the same for all lanes, and no sessions. `seed` is what the operating system gives it then.
    pub fn renew(&mut self, id: PodId, seed: u64) {
        let (now, mut fresh) = (self.now, Random::new(seed));
        let addresses = self.pods[id.0].options.addresses.clone();
        let identity = Identity::generate(Seed::from_bytes(fresh.bytes()), &addresses);
        for tunnel in &mut self.pods[id.0].tunnels {
            tunnel.reseed(Seed::from_bytes(fresh.bytes()));
            tunnel.forget_sessions(identity.for_another_lane(), now);
        }
        (0..self.pods[id.0].tunnels.len()).for_each(|lane| self.drain((id, lane)));
    }

    /// Sets the clock of everybody, forwards or back, without anything being done in between. What was under way is
    /// delivered when its time comes.
    pub fn set_clock(&mut self, now: Instant) {
        self.now = now;
    }

    /// From now on what lanes of a pod tell each other is lost, or no longer.
    pub fn lose_lane_updates(&mut self, lost: bool) {
        self.deaf = lost;
    }

    /// Gives a running pod other keys.
    ///
    /// # Errors
    /// [`KeyRingError`], from the pod; its keys stay.
    pub fn change_keys(&mut self, id: PodId, tenant: &Tenant) -> Result<(), KeyRingError> {
        let now = self.now;
        for tunnel in &mut self.pods[id.0].tunnels {
            tunnel.set_keys(tenant.keys.clone(), now)?;
        }
        self.pods[id.0].tenant = tenant.clone();
        (0..self.pods[id.0].tunnels.len()).for_each(|lane| self.drain((id, lane)));
        Ok(())
    }

    /// Changes the weather.
    pub fn weather(&mut self, weather: Weather) {
        self.network.weather = weather;
    }

    /// From now on loses the datagrams for which `lost(from, to, bytes)` is true, whatever the weather.
    pub fn lose(&mut self, lost: impl Fn(SocketAddr, SocketAddr, &[u8]) -> bool + 'static) {
        self.lost = Some(Box::new(lost));
    }

    /// Loses what the weather loses, and no more.
    pub fn lose_nothing(&mut self) {
        self.lost = None;
    }

    /// Lets a pod's application send one packet of `payload` bytes (at least 28). Returns the packet's number.
    ///
    /// # Panics
    /// If the pod has no address of the destination's family.
    pub fn send(&mut self, from: PodId, to: IpAddr, payload: usize) -> u64 {
        let own = self.pods[from.0].options.addresses.iter().find(|own| own.is_ipv4() == to.is_ipv4());
        let source = *own.expect("the pod has an address of that family");
        self.send_from(from, source, to, payload)
    }

    /// The same with any source address.
    pub fn send_from(&mut self, from: PodId, source: IpAddr, to: IpAddr, payload: usize) -> u64 {
        self.send_flow(from, (source, 40_000), (to, 7), payload)
    }

    /// The same between any two ports: the kernel sends each flow through one lane.
    pub fn send_flow(&mut self, from: PodId, source: Endpoint, to: Endpoint, payload: usize) -> u64 {
        self.send_packet(from, to.0, payload, |content| udp(source, to, content))
    }

    /// The same as a TCP segment with these flags.
    pub fn send_segment(
        &mut self,
        from: PodId,
        source: Endpoint,
        to: Endpoint,
        flags: u8,
        payload: usize,
    ) -> u64 {
        self.send_packet(from, to.0, payload, |content| tcp(source, to, flags, content))
    }

    fn send_packet(
        &mut self,
        from: PodId,
        to: IpAddr,
        payload: usize,
        packet: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> u64 {
        self.numbered += 1;
        let number = self.numbered;
        let mut content = number.to_be_bytes().to_vec();
        content.extend(CANARY);
        while content.len() < payload {
            content.push(self.random.bits() as u8);
        }
        let mut packet = packet(&content);
        let homes = match self.network.backends(to) {
            [] => self.homes.get(&to).copied().into_iter().collect(),
            backends => backends.iter().filter_map(|backend| self.homes.get(backend).copied()).collect(),
        };
        self.model.send(number, from, homes, to, packet.clone());
        self.outbound(from, &mut packet);
        number
    }

    /// Runs until `duration` has passed.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.next_moment().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.step();
        }
        self.now = end;
    }

    /// The model, with its verdicts.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A pod's tunnel, to look at; of several lanes the first.
    #[must_use]
    pub fn tunnel_of(&self, id: PodId) -> &Tunnel {
        &self.pods[id.0].tunnels[0]
    }

    /// The tunnels of all lanes of a pod.
    #[must_use]
    pub fn lanes_of(&self, id: PodId) -> &[Tunnel] {
        &self.pods[id.0].tunnels
    }

    /// The lane whose queue the pod's kernel puts packets of this flow in.
    #[must_use]
    pub fn lane_of(&self, id: PodId, source: Endpoint, destination: Endpoint) -> usize {
        // Any function of both ends does that is the same for both directions; the kernel's is tencrypt-tun's.
        let end = |(address, port): Endpoint| {
            let octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            octets.into_iter().map(usize::from).sum::<usize>() + usize::from(port)
        };
        (end(source) + end(destination)) % self.pods[id.0].tunnels.len()
    }

    /// Commands the first lane of a pod's program, as its control plane does.
    pub fn command<T>(&mut self, id: PodId, command: impl FnOnce(&mut Tunnel, Instant) -> T) -> T {
        let now = self.now;
        let outcome = command(&mut self.pods[id.0].tunnels[0], now);
        self.drain((id, 0));
        outcome
    }

    /// Events that a pod's tunnel has told.
    #[must_use]
    pub fn events_of(&self, id: PodId) -> &[Event] {
        &self.pods[id.0].events
    }

    /// Packets that left a pod as they were.
    #[must_use]
    pub fn bypassed_of(&self, id: PodId) -> &[Vec<u8>] {
        &self.pods[id.0].bypassed
    }

    /// The time in the world.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The world's randomness, for choices of a test.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// From now on keeps a copy of every datagram that leaves a pod.
    pub fn capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// The copies, `(from, to, bytes)`, oldest first; capturing goes on.
    pub fn captured(&mut self) -> Vec<Wired> {
        self.captured.replace(Vec::new()).unwrap_or_default()
    }

    /// Hands a datagram to a pod, as an attacker on the bridge can; of several lanes to the first.
    pub fn inject(&mut self, to: PodId, from: SocketAddr, bytes: Vec<u8>) {
        self.inject_at(to, 0, from, bytes);
    }

    /// The same for any lane.
    pub fn inject_at(&mut self, to: PodId, lane: usize, from: SocketAddr, mut bytes: Vec<u8>) {
        self.inbound((to, lane), from, &mut bytes);
    }

    fn tunnels(&mut self, tenant: &Tenant, options: &PodOptions) -> Vec<Tunnel> {
        let mut tunnels = vec![self.first_tunnel(tenant, options)];
        for lane in 1..options.lanes {
            let lane = LaneId::new(lane).expect("a pod has at most 16 lanes");
            let seed = Seed::from_bytes(self.random.bytes());
            let sibling = tunnels[0].sibling(lane, seed, self.now);
            tunnels.push(sibling);
        }
        tunnels
    }

    fn first_tunnel(&mut self, tenant: &Tenant, options: &PodOptions) -> Tunnel {
        let protected = ["10.0.0.0/8", "fd00::/16"].map(|range| range.parse().expect("a range"));
        let mut config = TunnelConfig::new(protected);
        config.unknown = options.unknown;
        config.suite = options.suite;
        let identity = Identity::generate(Seed::from_bytes(self.random.bytes()), &options.addresses);
        let directory = Directory::new(options.facts.clone(), self.random.bits());
        let builder = Tunnel::builder(config, tenant.keys.clone(), identity).directory(directory);
        let tunnel = builder.build(Seed::from_bytes(self.random.bytes()), self.now);
        tunnel.expect("any suite fits a transport without limit")
    }

    fn next_moment(&self) -> Option<Instant> {
        let tunnels = self.pods.iter().flat_map(|pod| &pod.tunnels);
        let timers = tunnels.filter_map(Tunnel::next_timeout);
        timers.chain(self.network.next()).min()
    }

    fn step(&mut self) {
        for at in 0..self.pods.len() {
            for lane in 0..self.pods[at].tunnels.len() {
                self.tend((PodId(at), lane));
            }
        }
        while let Some(mut datagram) = self.network.take_due(self.now) {
            if let Some(received) = self.strangers.get_mut(&datagram.to.ip()) {
                received.push((datagram.from, datagram.to, datagram.bytes));
                continue;
            }
            let Some(home) = self.homes.get(&datagram.to.ip()).copied() else { continue };
            let Some(port) = datagram.to.port().checked_sub(TunnelConfig::DEFAULT_PORT) else { continue };
            let lanes = self.pods[home.0].tunnels.len();
            let mut lane = usize::from(port);
            if lane == 0 {
                // Only an INIT is handed to another lane.
                lane =
                    SessionIndex::lane_of_init(&datagram.bytes).map_or(0, |lane| usize::from(lane) % lanes);
            }
            if lane < lanes {
                self.inbound((home, lane), datagram.from, &mut datagram.bytes);
            }
        }
    }

    /// Has a lane do what is due.
    fn tend(&mut self, (id, lane): (PodId, usize)) {
        let now = self.now;
        let tunnel = &mut self.pods[id.0].tunnels[lane];
        if tunnel.next_timeout().is_some_and(|due| due <= now) {
            tunnel.handle_timeout(now);
            self.drain((id, lane));
        }
    }

    fn outbound(&mut self, id: PodId, packet: &mut [u8]) {
        let mut outbox = DatagramQueue::new(ROOM);
        let now = self.now;
        let lane = read(packet).map_or(0, |(from, to, _)| self.lane_of(id, from, to));
        let pod = &mut self.pods[id.0];
        let outcome = pod.tunnels[lane].handle_packet(
            &mut TunPacket::new(VnetHdr::default(), packet),
            now,
            &mut outbox,
        );
        if outcome == Outbound::Bypass {
            pod.bypassed.push(packet.to_vec());
        }
        self.drain_behind((id, lane), outbox);
    }

    fn inbound(&mut self, (id, lane): (PodId, usize), from: SocketAddr, bytes: &mut [u8]) {
        let now = self.now;
        let mut delivered = Inbox::new(ROOM);
        let meta = RecvMeta::new(from, bytes.len() as u16);
        // The outcome is in the tunnel's counters; the model looks at what came out.
        let _ = self.pods[id.0].tunnels[lane].handle_datagrams(&meta, bytes, now, &mut delivered);
        let own = self.pods[id.0].options.addresses.clone();
        self.bring((id, lane), &delivered.updates);
        for packet in delivered.packets.drain() {
            let leads = |vip, pod| self.network.backends(vip).contains(&pod);
            self.model.deliver((id, now), &own, leads, &packet.bytes);
        }
        self.drain((id, lane));
        // The contract: what is due is done before the next input, so that a CONF counts before the DATA behind it.
        self.tend((id, lane));
    }

    /// Brings a lane's updates to the others.
    fn bring(&mut self, (id, lane): (PodId, usize), update: &[LaneUpdate]) {
        if self.deaf {
            return;
        }
        let others = self.pods[id.0].tunnels.iter_mut().enumerate().filter(|(other, _)| *other != lane);
        for (_, other) in others {
            update.iter().for_each(|update| other.handle_lane_update(update, self.now));
        }
    }

    /// Takes everything that a lane has to say.
    fn drain(&mut self, at: (PodId, usize)) {
        self.drain_behind(at, DatagramQueue::new(ROOM));
    }

    /// The same after an input whose records are in the transport already. They leave at last, and first.
    fn drain_behind(&mut self, (id, lane): (PodId, usize), mut datagrams: DatagramQueue) {
        let mut buffer = vec![0; 65_535];
        loop {
            let Pod { tunnels, bypassed, events, .. } = &mut self.pods[id.0];
            match tunnels[lane].poll_output(&mut buffer, self.now) {
                Output::LaneUpdate(update) => self.bring((id, lane), &[update]),
                Output::Transmit(transmit) => datagrams.push(&transmit, &buffer).expect("there is room"),
                Output::Released(mut held) => {
                    held.as_packet().finish_segments(|packet| bypassed.push(packet.to_vec()));
                }
                Output::Opened(mut held) => {
                    let Pod { options, .. } = &self.pods[id.0];
                    let packet = held.as_packet();
                    let leads = |vip, pod| self.network.backends(vip).contains(&pod);
                    self.model.deliver((id, self.now), &options.addresses, leads, packet.bytes());
                }
                Output::Event(event) => events.push(event),
                Output::Timeout(_) => break,
            }
        }
        for train in datagrams.drain() {
            let port = if train.from_tenant_port { 0 } else { lane };
            for record in train.records() {
                self.transmit((id, port), train.to, record.to_vec());
            }
        }
    }

    fn transmit(&mut self, (from, lane): (PodId, usize), to: SocketAddr, bytes: Vec<u8>) {
        self.model.on_wire(&bytes, CANARY);
        let own = self.pods[from.0].options.addresses.iter().find(|own| own.is_ipv4() == to.is_ipv4());
        let Some(own) = own else { return };
        let from = SocketAddr::new(*own, TunnelConfig::DEFAULT_PORT + lane as u16);
        if let Some(captured) = &mut self.captured {
            captured.push((from, to, bytes.clone()));
        }
        if self.lost.as_ref().is_some_and(|lost| lost(from, to, &bytes)) {
            return;
        }
        self.network.send(Datagram { from, to, bytes }, self.now, &mut self.random);
    }
}
