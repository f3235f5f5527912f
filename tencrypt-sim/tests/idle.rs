//! Connections to a service that nobody says anything on for two hours: they go on, whoever speaks first, with the pod that
//! they were with.
//!
//! `TENCRYPT_TEST_IDLE` says how many seeds each case has (3); `TENCRYPT_SIM_SEED` replays one.

use std::{net::IpAddr, time::Duration};

use tencrypt_sim::{Endpoint, PodId, PodOptions, Weather, World, seeds};

const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;
/// Handshakes and the packet behind them: 1 s, whoever has to be asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// The NAT of the server keeps an established connection for 7,440 s.
const TWO_HOURS: Duration = Duration::from_secs(7_200);
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1));
const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 8, 0, 1));
/// Connections: more than there are pairs of lanes and pods behind the service.
const CONNECTIONS: u16 = 16;

/// Translation on the way.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The service's alone.
    Service,
    /// The pods behind it see a node in place of the client.
    Masquerade,
    /// Everybody that the client asks sees a node.
    BehindNode,
}

/// Those who speak first after the silence.
#[derive(Debug, Clone, Copy)]
enum First {
    Client,
    Server,
    /// Both at the same moment.
    Both,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    backends: u8,
    lanes: [u8; 2],
    way: Way,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        [1, 3].into_iter().flat_map(|backends| {
            [[1, 1], [1, 4], [4, 1], [2, 2]].into_iter().flat_map(move |lanes| {
                let ways = [Way::Service, Way::Masquerade, Way::BehindNode];
                ways.into_iter().map(move |way| Self { backends, lanes, way })
            })
        })
    }
}

/// An established connection of the client to the service: its port, and the pod behind the service.
struct Connection {
    port: u16,
    pod: PodId,
    own: IpAddr,
}

struct Scene {
    world: World,
    client: PodId,
    connections: Vec<Connection>,
    case: Case,
    seed: u64,
}

impl Scene {
    /// Makes the connections, one after the other.
    fn new(seed: u64, case: Case) -> Self {
        // A packet that overtakes the CONF of its session is lost, so none does.
        let weather = Weather { delay: Duration::from_millis(2), ..Weather::CLEAR };
        let mut world = World::new(seed, weather);
        let tenant = world.tenant();
        let mut options = PodOptions::new(&[CLIENT]);
        options.lanes = case.lanes[0];
        let client = world.pod(&tenant, options);
        let pods: Vec<IpAddr> = (0..case.backends).map(|pod| IpAddr::from([10, 1, 0, 2 + pod])).collect();
        for pod in &pods {
            let mut options = PodOptions::new(&[*pod]);
            options.lanes = case.lanes[1];
            world.pod(&tenant, options);
        }
        world.service(VIP, &pods);
        match case.way {
            Way::Service => {}
            Way::Masquerade => world.masquerade(VIP, NODE),
            Way::BehindNode => world.put_behind(CLIENT, NODE),
        }
        let mut scene = Self { world, client, connections: Vec::new(), case, seed };
        (0..CONNECTIONS).for_each(|number| scene.connect(40_000 + number));
        scene
    }

    fn connect(&mut self, port: u16) {
        let syn = self.world.send_segment(self.client, (CLIENT, port), (VIP, 80), SYN, 40);
        self.world.run_for(PATIENCE);
        let (pod, source, own) = self.world.model().came_out(syn).expect("the service answers");
        assert_eq!(source, CLIENT);
        self.connections.push(Connection { port, pod, own });
        let last = self.connections.len() - 1;
        self.speak(last, First::Server, SYN | ACK);
        self.speak(last, First::Client, ACK);
        self.speak(last, First::Server, PSH | ACK);
    }

    fn send(&mut self, connection: usize, first: First, flags: u8) -> u64 {
        let Connection { port, pod, own } = self.connections[connection];
        let (client, service): (Endpoint, Endpoint) = ((CLIENT, port), (VIP, 80));
        match first {
            First::Client => self.world.send_segment(self.client, client, service, flags, 40),
            First::Server => self.world.send_segment(pod, (own, 80), client, flags, 40),
            First::Both => unreachable!("one of both"),
        }
    }

    /// Has a segment sent on a connection, and sees to it that it comes out at its other end in time.
    fn speak(&mut self, connection: usize, first: First, flags: u8) {
        let sent: Vec<(First, u64)> = match first {
            First::Both => {
                [First::Client, First::Server].map(|end| (end, self.send(connection, end, flags))).to_vec()
            }
            one => vec![(one, self.send(connection, one, flags))],
        };
        self.world.run_for(PATIENCE);
        let Connection { port, pod, own } = self.connections[connection];
        for (end, number) in sent {
            let expected = match end {
                First::Client => (pod, CLIENT, own),
                _ => (self.client, VIP, CLIENT),
            };
            let came = self.world.model().came_out(number);
            assert_eq!(
                came,
                Some(expected),
                "{:?}, port {port}, {end:?} of {first:?}, seed {}",
                self.case,
                self.seed
            );
        }
    }

    /// Nobody says anything for this long. Then every connection goes on.
    fn rest(&mut self, silence: Duration, first: First) {
        self.world.run_for(silence);
        let both = match first {
            First::Both => [First::Both, First::Both],
            First::Client => [First::Client, First::Server],
            First::Server => [First::Server, First::Client],
        };
        for connection in 0..self.connections.len() {
            both.into_iter().for_each(|end| self.speak(connection, end, PSH | ACK));
        }
        assert_eq!(self.world.model().violations(), [], "{:?}", self.case);
    }
}

const FIRST: [First; 3] = [First::Client, First::Server, First::Both];

/// Each case with these silences before whoever speaks first does.
fn go_on(silences: &[Duration]) {
    let count = std::env::var("TENCRYPT_TEST_IDLE")
        .ok()
        .map_or(3, |count| count.replace('_', "").parse().expect("TENCRYPT_TEST_IDLE is a number"));
    for seed in seeds(count) {
        for case in Case::all() {
            for first in FIRST {
                let mut scene = Scene::new(seed, case);
                silences.iter().for_each(|silence| scene.rest(*silence, first));
            }
        }
    }
}

#[test]
fn after_two_hours_of_silence_a_connection_goes_on_whoever_speaks_first() {
    go_on(&[TWO_HOURS, TWO_HOURS]);
}

#[test]
fn with_a_session_that_is_to_be_replaced_a_connection_goes_on_whoever_speaks_first() {
    go_on(&[Duration::from_secs(125), Duration::from_secs(150), Duration::from_secs(170)]);
}

#[test]
fn after_the_end_of_a_session_a_connection_goes_on_whoever_speaks_first() {
    go_on(&[Duration::from_secs(190), Duration::from_secs(300)]);
}
