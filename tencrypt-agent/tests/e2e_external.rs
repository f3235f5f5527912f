//! Destinations that a name leads to and that are not the tenant's: the first packet leaves through the raw socket, the
//! rest around the tunnel, and a dead program's exception ends by itself.

mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use support::{CANARY, Cluster, LIMIT, Running, eventually};
use tencrypt_lab::{
    Asked, DNS_PORT, DnsReply, DnsServer, Pod, Signal, Snapshot, TcpServer, UdpEcho, Zone, dns_over_udp,
    dns_query, test, test_within, throughput, udp_echo,
};

const UDP: u16 = 9001;
const TCP: u16 = 9000;
const NAME: &str = "web.other.svc.k8s.corp";

/// Pods `a` and `b` of the project `shop`, a pod of the project `other` that has a name, and the DNS server.
struct Named {
    cluster: Cluster,
    other: Pod,
    dns: Pod,
    server: DnsServer,
    _echo: UdpEcho,
    _tcp: TcpServer,
}

impl Named {
    /// Answers may be kept for `ttl` seconds.
    fn new(ttl: u32) -> Self {
        let cluster = Cluster::on_one_node();
        let (other, dns) = (cluster.pod(31), cluster.pod(53));
        let zone = Zone::new().ttl(ttl).address(NAME, other.v4()).address(NAME, other.v6());
        let server = DnsServer::start(&dns, zone).unwrap();
        let (echo, tcp) = (UdpEcho::start(&other, UDP).unwrap(), TcpServer::start(&other, TCP).unwrap());
        Self { cluster, other, dns, server, _echo: echo, _tcp: tcp }
    }

    /// Protects `a`, with its DNS captured and its project read from resolv.conf.
    fn up(&self) -> Running {
        self.up_with("")
    }

    /// The same with more configuration.
    fn up_with(&self, more: &str) -> Running {
        let resolv_conf = self.cluster.directory.join("resolv.conf");
        let search = "search shop.svc.k8s.corp svc.k8s.corp k8s.corp";
        fs::write(&resolv_conf, format!("nameserver {}\n{search}\n", self.dns.v4())).unwrap();
        let key = self.cluster.key_file.display();
        let extra = format!(
            "[tenant]\nkey_file = \"{key}\"\n[dns]\nresolv_conf = \"{}\"\n{more}",
            resolv_conf.display()
        );
        self.cluster.up(&self.cluster.a, &extra)
    }

    /// Pod `a` asks for the other project's address of this family.
    fn ask(&self, address: IpAddr) {
        let asked = if address.is_ipv4() { Asked::A } else { Asked::Aaaa };
        let query = dns_query(7, NAME, asked, None);
        let server = SocketAddr::new(self.dns.v4(), DNS_PORT);
        let reply = dns_over_udp(self.cluster.a.netns(), server, &query, LIMIT).unwrap();
        assert_eq!(DnsReply::parse(&reply).unwrap().addresses, [address]);
    }

    fn is_echoed(&self, address: IpAddr, wait: Duration) -> bool {
        let to = SocketAddr::new(address, UDP);
        udp_echo(self.cluster.a.netns(), to, [100], wait).unwrap().is_empty()
    }

    /// Tells if table 8362 leaves this address to the main table.
    fn has_route_around(&self, address: IpAddr) -> bool {
        let (family, bits) = if address.is_ipv4() { ("v4", 32) } else { ("v6", 128) };
        let line = format!("route {family} table 8362 {address}/{bits} throw");
        Snapshot::take(self.cluster.a.netns()).unwrap().lines(&line).count() == 1
    }

    /// Packets that pod `a` has sent into the tunnel's device, by its own count.
    fn sent_to_device(&self) -> u64 {
        let table = self.cluster.a.netns().run(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let line = table.lines().find_map(|line| line.trim().strip_prefix("tenc0:")).unwrap();
        // Eight columns received, of which the second is packets; then as many sent.
        line.split_whitespace().nth(9).unwrap().parse().unwrap()
    }
}

#[test]
fn an_external_destination_is_passed_on_once_and_then_led_around_the_tunnel() {
    test("an_external_destination_is_passed_on_once_and_then_led_around_the_tunnel", || {
        let net = Named::new(60);
        net.cluster.control(&net.cluster.probe(), [net.cluster.b.v4()]);
        let measure = |to| {
            let duration = Duration::from_millis(500);
            throughput(net.cluster.a.netns(), SocketAddr::new(to, TCP), duration).unwrap()
        };
        let plain = net.other.addresses().map(measure);
        let (a, _b) = (net.up(), net.cluster.up(&net.cluster.b, ""));
        for (address, plain) in net.other.addresses().into_iter().zip(plain) {
            assert!(!net.has_route_around(address), "{address}: before anybody asked");
            net.ask(address);
            let (bypassed, device) = (a.packets("bypassed"), net.sent_to_device());
            assert!(net.is_echoed(address, LIMIT), "{address}\n{}", a.log());
            assert!(a.packets("bypassed") > bypassed, "{address}: not by the raw socket");
            assert!(net.sent_to_device() > device, "{address}: not through the device");
            eventually("a route around the tunnel", || net.has_route_around(address));

            let (bypassed, device) = (a.packets("bypassed"), net.sent_to_device());
            let led_around = measure(address);
            assert_eq!(a.packets("bypassed"), bypassed, "{address}: the raw socket");
            // The kernel itself may say a word of its own there, such as a router solicitation.
            assert!(net.sent_to_device() - device < 10, "{address}: through the device");
            assert!(led_around.bytes > 1 << 20, "{address}: {led_around:?}");
            println!(
                "{address}: {:.0} Mbit/s without tencrypt, {:.0} around the tunnel",
                plain.mbit_per_s(),
                led_around.mbit_per_s()
            );
        }
        // The tenant's own traffic is led around nothing.
        let probe = net.cluster.probe();
        net.cluster.say_canary(net.cluster.b.v4());
        probe.assert_only_encrypted();
    });
}

/// An address that a name of another project had, and that is a pod's of the tenant by now, while a socket to it is open.
#[test]
fn an_open_way_around_the_tunnel_ends_when_the_destination_turns_out_to_be_the_tenants() {
    test("an_open_way_around_the_tunnel_ends_when_the_destination_turns_out_to_be_the_tenants", || {
        let net = Named::new(1);
        let probe = net.cluster.probe_also(net.other.addresses());
        let a = net.up();
        let sockets = net.other.addresses().map(|address| {
            net.ask(address);
            let socket = net.cluster.a.netns().run(|| connected(SocketAddr::new(address, UDP)));
            socket.send(CANARY.as_bytes()).unwrap();
            eventually("a route around the tunnel", || net.has_route_around(address));
            (address, socket)
        });
        // The answer's time is over, and the socket keeps the way open: so the kernel says, whatever a lane would do.
        for (address, _) in &sockets {
            let explained = || a.ask(&["explain", "--json", &address.to_string()]);
            eventually("the end of the answer", || explained()["standing"] == "unknown");
            let why = explained();
            assert_eq!((&why["verdict"], &why["around"]), (&"bypass".into(), &true.into()), "{why}");
        }
        assert!(probe.report().canary > 0, "the probe is blind");
        let _other = net.cluster.up(&net.other, "");
        for (address, socket) in &sockets {
            eventually("the end of the way around", || {
                socket.send(b"x").unwrap_or_default();
                !net.has_route_around(*address)
            });
            let why = a.ask(&["explain", "--json", &address.to_string()]);
            assert_eq!((&why["verdict"], &why["around"]), (&"encrypt".into(), &false.into()), "{why}");
        }
        probe.reset();
        sockets.iter().for_each(|(_, socket)| assert!(socket.send(CANARY.as_bytes()).is_ok()));
        eventually("records", || probe.report().tunnel > 0);
        assert!(probe.report().is_clean(), "{}", probe.report());
    });
}

fn connected(to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
    socket.connect(to).unwrap();
    socket
}

#[test]
fn the_way_around_the_tunnel_closes_by_itself_when_the_program_is_dead() {
    test("the_way_around_the_tunnel_closes_by_itself_when_the_program_is_dead", || {
        const TTL: u32 = 3;
        let net = Named::new(TTL);
        let mut a = net.up();
        for address in net.other.addresses() {
            net.ask(address);
            assert!(net.is_echoed(address, LIMIT), "{address}\n{}", a.log());
            eventually("a route around the tunnel", || net.has_route_around(address));
        }
        a.program.signal(Signal::Kill).unwrap();
        a.program.wait(LIMIT).unwrap();
        let killed = Instant::now();
        for address in net.other.addresses() {
            let quick = Duration::from_millis(200);
            eventually("the end of the way around", || !net.is_echoed(address, quick));
        }
        // No renewal came, and the kernel's own timer rounds up.
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(2 * u64::from(TTL) + 2), "{took:?}");
        assert!(net.cluster.down(&net.cluster.a).status.success());
        for address in net.other.addresses() {
            assert!(net.is_echoed(address, LIMIT), "{address}: it was the chains");
        }
    });
}

/// The time from the first datagram to its echo, of destinations that are not the tenant's: those that a name leads to, and
/// those that nobody says anything of and that do not answer, where these are spoken to in plain.
/// `TENCRYPT_TEST_FIRST_PACKETS` of each, 5 without it.
#[test]
fn first_packets_to_external_and_to_silent_destinations_arrive() {
    let limit = Duration::from_secs(180);
    test_within("first_packets_to_external_and_to_silent_destinations_arrive", limit, || {
        let count = std::env::var("TENCRYPT_TEST_FIRST_PACKETS").map_or(5, |count| count.parse().unwrap());
        let net = Named::new(60);
        let pods: Vec<(Pod, String)> = (0..2 * count)
            .map(|number| (net.cluster.pod(100 + number), format!("n{number}.other.svc.k8s.corp")))
            .collect();
        let _echoes: Vec<_> = pods.iter().map(|(pod, _)| UdpEcho::start(pod, UDP).unwrap()).collect();
        let named = pods.iter().fold(Zone::new().ttl(60), |zone, (pod, name)| zone.address(name, pod.v4()));
        net.server.set_zone(named);
        let _a = net.up_with("[policy]\nunknown = \"plain\"\n");
        let (external, silent) = pods.split_at(count.into());
        let first = |pod: &Pod| {
            let sent = Instant::now();
            assert!(net.is_echoed(pod.v4(), LIMIT), "{}", pod.v4());
            sent.elapsed()
        };
        let ask = |name: &str| {
            let query = dns_query(7, name, Asked::A, None);
            dns_over_udp(net.cluster.a.netns(), SocketAddr::new(net.dns.v4(), DNS_PORT), &query, LIMIT)
                .unwrap();
        };
        let external = external.iter().map(|(pod, name)| {
            ask(name);
            first(pod)
        });
        say("external", external.collect());
        say("silent", silent.iter().map(|(pod, _)| first(pod)).collect());
    });
}

/// Prints median, 99th percentile and longest of these times.
fn say(destinations: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
    println!(
        "{destinations}: median {:.1?}, p99 {:.1?}, longest {:.1?} of {}",
        at(50),
        at(99),
        at(100),
        times.len()
    );
}
