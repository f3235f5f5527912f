//! Names decide: the pod's resolver is the system's, its resolv.conf stays untouched, and what a DNS server in a
//! namespace of its own answers says which traffic is encrypted. With the leak probe on the node.

mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use support::{CANARY, Cluster, HTTP, LIMIT, Probe, Running};
use tencrypt_lab::{
    Asked, DNS_PORT, DnsReply, DnsServer, HttpServer, Ping, Pod, Ports, UdpEcho, Zone, dns_over_tcp,
    dns_over_udp, dns_query, http_get, resolve, test, udp_echo,
};

/// A cluster domain that nobody would assume.
const SEARCH: &str = "search shop.svc.k8s.corp svc.k8s.corp k8s.corp\noptions ndots:5 timeout:2\n";
/// Port at which the pods that are none of the tenant's send datagrams back.
const UDP: u16 = 9001;
/// Outside of the protected ranges, and not a pod's address.
const OUTSIDE: &str = "203.0.113.7";
/// Response code of what is withheld.
const SERVFAIL: u16 = 2;
/// Addresses of the other project besides its first, each the only one of a name: what asks for the name, by which
/// way, alone can make the address known.
const OTHERS: [(&str, &str); 4] = [
    ("udp.other.svc.k8s.corp", "10.128.0.41"),
    ("tcp.other.svc.k8s.corp", "10.128.0.42"),
    ("udp-edns.other.svc.k8s.corp", "10.128.0.43"),
    ("tcp-edns.other.svc.k8s.corp", "10.128.0.44"),
];

/// Pods `a` and `b` of the project `shop`, a pod of the project `other`, one that is nobody's, and one with the DNS
/// server; nothing is encrypted yet.
struct Named {
    cluster: Cluster,
    other: Pod,
    server: DnsServer,
    nameserver: SocketAddr,
    resolv_conf: PathBuf,
    content: String,
    probe: Probe,
    _http: [HttpServer; 2],
    _echo: [UdpEcho; 2],
    _pods: [Pod; 2],
}

/// Place of the pod's nameserver.
#[derive(Clone, Copy)]
enum Nameserver {
    /// Behind an IPv4 service, as in most clusters.
    Service,
    /// At the IPv6 address of its pod.
    PodV6,
}

impl Named {
    fn new(at: Nameserver) -> Self {
        let cluster = Cluster::on_one_node();
        let service = cluster.service(10);
        let (other, partner, dns) = (cluster.pod(31), cluster.pod(32), cluster.pod(53));
        for (_, address) in OTHERS {
            other.add_address(format!("{address}/14").parse().unwrap()).unwrap();
        }
        let node = &cluster.nodes[0];
        node.service(ip(OUTSIDE), &[partner.v4()], &Ports::All).unwrap();
        let nameserver = match at {
            Nameserver::Service => {
                let address = ip("172.30.0.53");
                node.service(address, &[dns.v4()], &Ports::Only(vec![(DNS_PORT, DNS_PORT)])).unwrap();
                address
            }
            Nameserver::PodV6 => dns.v6(),
        };
        let server = DnsServer::start(&dns, zone(&cluster, service, &other, &partner)).unwrap();
        let content = format!("nameserver {nameserver}\n{SEARCH}");
        let resolv_conf = cluster.directory.join("resolv.conf");
        fs::write(&resolv_conf, &content).unwrap();
        let probe = cluster.probe_also(service);
        let http = [&other, &partner].map(|pod| HttpServer::start(pod, HTTP, "hello").unwrap());
        let echo = [&other, &partner].map(|pod| UdpEcho::start(pod, UDP).unwrap());
        let nameserver = SocketAddr::new(nameserver, DNS_PORT);
        Self {
            cluster,
            other,
            server,
            nameserver,
            resolv_conf,
            content,
            probe,
            _http: http,
            _echo: echo,
            _pods: [partner, dns],
        }
    }

    /// The settings of `a`; what is added is of `[dns]`.
    fn settings(&self) -> String {
        let (key_file, resolv_conf) = (self.cluster.key_file.display(), self.resolv_conf.display());
        format!("[tenant]\nkey_file = \"{key_file}\"\n[dns]\nresolv_conf = \"{resolv_conf}\"\n")
    }

    /// Protects both pods: `a` with its DNS captured and its project read from resolv.conf, `b` without.
    fn up(&self) -> [Running; 2] {
        let extra = self.settings();
        let running = [self.cluster.up(&self.cluster.a, &extra), self.cluster.up(&self.cluster.b, "")];
        self.probe.reset();
        running
    }

    /// Answer of the system's resolver in pod `a`.
    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let found = resolve(self.cluster.a.netns(), &self.resolv_conf, name, LIMIT);
        let mut found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        found.sort();
        found
    }

    /// Asks an HTTP server that is none of the tenant's and sends the canary, which must be readable.
    fn assert_plain(&self, to: IpAddr) {
        let asked = http_get(self.cluster.a.netns(), SocketAddr::new(to, HTTP), "x", CANARY, LIMIT);
        assert_eq!(asked.unwrap_or_else(|error| panic!("{to}: {error}")), b"hello", "{to}");
        let report = self.probe.report();
        assert!(report.canary > 0, "{to}: nothing readable: {report}");
        assert_eq!((report.leaks, report.lost, report.tunnel), (0, 0, 0), "{to}: {report}");
        self.probe.reset();
    }

    /// Waits until the tenant's pods have nothing to say any more: keepalives follow data by a second.
    fn await_silence(&self) {
        for _ in 0..20 {
            self.probe.reset();
            std::thread::sleep(Duration::from_millis(1_500));
            if self.probe.report().tunnel == 0 {
                return;
            }
        }
        panic!("the tenant's pods do not fall silent");
    }

    /// Says the canary to pod `b` by this address, which must be encrypted.
    fn assert_encrypted(&self, to: IpAddr) {
        self.cluster.say_canary(to);
        self.probe.assert_only_encrypted();
        self.probe.reset();
    }
}

fn zone(cluster: &Cluster, service: [IpAddr; 2], other: &Pod, partner: &Pod) -> Zone {
    let many = (0..60).fold(Zone::new(), |zone, last| {
        zone.address("many.other.svc.k8s.corp", IpAddr::from([198, 51, 100, last]))
    });
    let others = OTHERS.iter().fold(many, |zone, (name, address)| zone.address(name, ip(address)));
    let pairs = [
        ("web.shop.svc.k8s.corp", service),
        ("b.headless.shop.svc.k8s.corp", cluster.b.addresses()),
        ("web.other.svc.k8s.corp", other.addresses()),
        ("partner.example.org", partner.addresses()),
    ];
    pairs
        .into_iter()
        .fold(others, |zone, (name, [v4, v6])| zone.address(name, v4).address(name, v6))
        .alias("partner.shop.svc.k8s.corp", "partner.example.org")
        .alias("api.shop.svc.k8s.corp", "edge.example.org")
        .address("edge.example.org", ip(OUTSIDE))
        .address("forged.shop.svc.k8s.corp", ip(OUTSIDE))
}

fn names_decide(at: Nameserver) {
    let net = Named::new(at);
    let b = net.cluster.b.addresses();
    // Without tencrypt: the same names, and the probe sees everything.
    assert_eq!(net.resolve("web"), [ip("172.30.0.10"), ip("fd00:30::a")]);
    net.cluster.control(&net.probe, net.resolve("web").into_iter().chain(b));
    net.assert_plain(net.other.v4());

    let [a, _b] = net.up();
    assert_eq!(a.status()["project"], "shop", "read from resolv.conf");

    // What no name has told is asked, does not answer, and is dropped.
    let untold = Ping { wait: Duration::from_millis(1500), ..Ping::new(net.other.v4()) };
    assert_eq!(untold.run(net.cluster.a.netns()).unwrap().replies, 0);
    net.probe.reset();

    for name in ["web", "web.shop", "b.headless.shop.svc.k8s.corp"] {
        let addresses = net.resolve(name);
        assert_eq!(addresses.len(), 2, "{name}: {addresses:?}");
        addresses.into_iter().for_each(|address| net.assert_encrypted(address));
    }
    net.await_silence();
    // Another project, and an ExternalName service of the own one for a host inside of the protected ranges.
    for (name, expected) in [("web.other", 2), ("partner", 2)] {
        let addresses = net.resolve(name);
        assert_eq!(addresses.len(), expected, "{name}: {addresses:?}");
        for address in addresses {
            // The very first datagram and the answer to it, with no second attempt.
            let lost = udp_echo(net.cluster.a.netns(), SocketAddr::new(address, UDP), [100], LIMIT / 10);
            assert_eq!(lost.unwrap(), [0; 0], "{name} {address}: {}", a.status());
            net.assert_plain(address);
        }
    }
    assert!(a.packets("bypassed") > 0, "{}", a.status());
    let mut why = a.ask(&["explain", "--json", &net.other.v4().to_string()]);
    assert!(why["fact"]["expires_s"].take().is_u64() && why["because"].take().is_array(), "{why}");
    let expected = serde_json::json!({
        "version": 1,
        "source": net.cluster.a.v4(), "destination": net.other.v4(), "verdict": "bypass", "reason": null, "peer": null,
        "standing": "claimed", "seen_internal": false, "protected": true, "own_source": true, "around": true,
        "because": null,
        "fact": {
            "prefix": format!("{}/32", net.other.v4()), "class": "external", "source": "dns",
            "name": "web.other.svc.k8s.corp", "owner": null, "expires_s": null,
        },
    });
    assert_eq!(why, expected);
    // And still the own one.
    net.resolve("web").into_iter().for_each(|address| net.assert_encrypted(address));

    assert_eq!(fs::read_to_string(&net.resolv_conf).unwrap(), net.content, "resolv.conf");
    let asked = net.server.exchanges();
    assert!(asked.iter().any(|exchange| exchange.name() == "web.other.svc.k8s.corp"));
}

#[test]
fn names_decide_with_a_nameserver_behind_a_service() {
    test("names_decide_with_a_nameserver_behind_a_service", || names_decide(Nameserver::Service));
}

#[test]
fn names_decide_with_an_ipv6_nameserver() {
    test("names_decide_with_an_ipv6_nameserver", || names_decide(Nameserver::PodV6));
}

/// Names of the tenant's own with an address outside of the cluster, whoever said so: an ExternalName service, and a forged
/// answer.
#[test]
fn an_own_name_that_leads_outside_is_withheld_unless_external_names_says_otherwise() {
    test("an_own_name_that_leads_outside_is_withheld_unless_external_names_says_otherwise", || {
        let net = Named::new(Nameserver::Service);
        let names = ["api.shop.svc.k8s.corp", "forged.shop.svc.k8s.corp"];
        let ask = |name: &str, tcp: bool| {
            let asked = if tcp { dns_over_tcp } else { dns_over_udp };
            let query = dns_query(9, name, Asked::A, None);
            let reply = asked(net.cluster.a.netns(), net.nameserver, &query, LIMIT).unwrap();
            DnsReply::parse(&reply).unwrap()
        };
        let [a, _b] = net.up();
        for (name, tcp) in names.into_iter().flat_map(|name| [(name, false), (name, true)]) {
            let reply = ask(name, tcp);
            assert_eq!((reply.code, reply.addresses.len()), (SERVFAIL, 0), "{name}, TCP {tcp}");
        }
        assert!(resolve(net.cluster.a.netns(), &net.resolv_conf, "api", LIMIT).is_err());
        // What is right passes all the while.
        net.resolve("web").into_iter().for_each(|address| net.assert_encrypted(address));
        std::thread::sleep(Duration::from_secs(2));
        let status = a.status();
        let names_of = &status["names"];
        assert!(names_of["withheld"].as_u64() >= Some(4) && names_of["external"] == 0, "{status}");
        assert_eq!(names_of["foreign_address"], OUTSIDE, "{status}");
        drop(a);
        assert!(net.cluster.down(&net.cluster.a).status.success());

        let a = net.cluster.up(&net.cluster.a, &format!("{}external_names = true\n", net.settings()));
        net.probe.reset();
        for name in names {
            assert_eq!((ask(name, false).code, ask(name, true).addresses), (0, vec![ip(OUTSIDE)]), "{name}");
            net.assert_plain(ip(OUTSIDE));
        }
        std::thread::sleep(Duration::from_secs(2));
        let status = a.status();
        assert_eq!((&status["names"]["withheld"], &status["names"]["external"]), (&0.into(), &4.into()));
        assert_eq!(status["names"]["foreign_name"], names[1], "{status}");
    });
}

#[test]
fn without_a_search_domain_the_settings_say_which_names_are_the_tenants() {
    test("without_a_search_domain_the_settings_say_which_names_are_the_tenants", || {
        let net = Named::new(Nameserver::Service);
        // As a pod of `ip netns` has it: a nameserver and nothing else.
        let resolv_conf = net.cluster.directory.join("plain.conf");
        fs::write(&resolv_conf, format!("nameserver {}\n", net.nameserver.ip())).unwrap();
        let extra = format!(
            "[tenant]\nproject = \"shop\"\ncluster_domain = \"k8s.corp\"\nkey_file = \"{}\"\n\
             [dns]\nresolv_conf = \"{}\"\n",
            net.cluster.key_file.display(),
            resolv_conf.display()
        );
        let running = [net.cluster.up(&net.cluster.a, &extra), net.cluster.up(&net.cluster.b, "")];
        net.probe.reset();
        assert_eq!(running[0].status()["project"], "shop");
        for address in net.resolve("web.shop.svc.k8s.corp") {
            net.assert_encrypted(address);
        }
        net.await_silence();
        for address in net.resolve("web.other.svc.k8s.corp") {
            net.assert_plain(address);
        }
    });
}

#[test]
fn replies_are_the_upstreams_byte_by_byte_over_udp_and_tcp_with_and_without_edns() {
    test("replies_are_the_upstreams_byte_by_byte_over_udp_and_tcp_with_and_without_edns", || {
        for at in [Nameserver::Service, Nameserver::PodV6] {
            let net = Named::new(at);
            let [a, _b] = net.up();
            let from = net.cluster.a.netns();
            let ask = |tcp: bool, query: &[u8]| {
                let asked = if tcp { dns_over_tcp } else { dns_over_udp };
                let reply = asked(from, net.nameserver, query, LIMIT);
                let reply = reply.unwrap_or_else(|error| panic!("TCP {tcp}: {error}\n{}", a.log()));
                let exchanges = net.server.exchanges();
                let last = exchanges.last().unwrap();
                assert_eq!((last.tcp, last.query.as_slice()), (tcp, query), "forwarded as it was asked");
                assert_eq!(last.reply.as_ref(), Some(&reply), "answered as it came");
                DnsReply::parse(&reply).unwrap()
            };
            let ways = [(false, None), (true, None), (false, Some(4096)), (true, Some(1232))];
            for ((tcp, edns), (name, address)) in ways.into_iter().zip(OTHERS) {
                // Letters in both cases: the reply repeats the question as it was.
                let mixed = name.replace("svc", "sVc");
                let reply = ask(tcp, &dns_query(0xbeef, &mixed, Asked::A, edns));
                assert_eq!((reply.code, reply.edns, reply.addresses), (0, edns.is_some(), vec![ip(address)]));
                // This answer alone can have told: the facts stood before it was released.
                net.assert_plain(ip(address));
                let reply = ask(tcp, &dns_query(1, name, Asked::Aaaa, edns));
                assert_eq!((reply.code, reply.addresses.len()), (0, 0), "no address of this type");
                assert_eq!(ask(tcp, &dns_query(2, "nobody.shop.svc.k8s.corp", Asked::A, edns)).code, 3);
                ask(tcp, &dns_query(3, "partner.shop.svc.k8s.corp", Asked::Cname, edns));
            }
            // Too long for a classic datagram: cut, and whole by the other ways.
            let many = |edns| dns_query(4, "many.other.svc.k8s.corp", Asked::A, edns);
            let cut = ask(false, &many(None));
            assert!(cut.truncated && cut.addresses.is_empty(), "{cut:?}");
            for whole in [ask(true, &many(None)), ask(false, &many(Some(4096)))] {
                assert!(!whole.truncated && whole.addresses.len() == 60, "{whole:?}");
            }
            assert_eq!(net.resolve("many.other").len(), 60, "the system's resolver turns to TCP");
            net.resolve("web").into_iter().for_each(|address| net.assert_encrypted(address));
        }
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
