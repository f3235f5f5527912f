//! The system's resolver and raw queries against the laboratory's DNS server.

mod common;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::Network;
use tencrypt_lab::{
    Asked, DNS_PORT, DnsReply, DnsServer, Error, Node, Ports, Zone, cover, dns_over_tcp, dns_over_udp,
    dns_query, resolve, test,
};

const LIMIT: Duration = Duration::from_secs(20);
const WEB: &str = "web.shop.svc.cluster.local";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn zone() -> Zone {
    let many =
        (0..60).fold(Zone::new(), |zone, last| zone.address("many.example", IpAddr::from([192, 0, 2, last])));
    many.address(WEB, ip("172.30.0.10"))
        .address(WEB, ip("fd00:30::10"))
        .alias("api.shop.svc.cluster.local", "edge.example.org")
        .address("edge.example.org", ip("203.0.113.7"))
        .alias("loop.example", "loop.example")
        .pointer(ip("10.128.0.21"), "a.shop.pod.cluster.local")
}

fn resolv_conf(name: &str, nameserver: IpAddr) -> PathBuf {
    let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
    let options =
        "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5 timeout:1\n";
    fs::write(&path, format!("nameserver {nameserver}\n{options}")).unwrap();
    path
}

#[test]
fn the_systems_resolver_asks_the_servers_of_the_pods_resolv_conf() {
    test("the_systems_resolver_asks_the_servers_of_the_pods_resolv_conf", || {
        let net = Network::new();
        let server = DnsServer::start(&net.b, zone()).unwrap();
        let machines = fs::read("/etc/resolv.conf").ok();
        for nameserver in net.b.addresses() {
            let file = resolv_conf("resolv", nameserver);
            let ask = |name: &str| resolve(net.a.netns(), &file, name, LIMIT);
            let mut found = ask("web").unwrap();
            found.sort();
            assert_eq!(found, [ip("172.30.0.10"), ip("fd00:30::10")], "by the search list");
            assert_eq!(ask("api.shop.svc.cluster.local").unwrap(), [ip("203.0.113.7")], "by the alias");
            let error = ask("nothing.example").unwrap_err();
            assert!(matches!(error, Error::Resolver(_)), "{error}");
            fs::remove_file(file).unwrap();
        }
        assert_eq!(fs::read("/etc/resolv.conf").ok(), machines, "nothing was mounted here");
        let exchanges = server.exchanges();
        assert!(exchanges.iter().any(|exchange| exchange.name() == WEB && exchange.from.ip() == net.a.v4()));
        assert!(exchanges.iter().any(|exchange| exchange.name() == WEB && exchange.from.ip() == net.a.v6()));
    });
}

#[test]
fn a_server_that_is_silent_and_one_behind_a_service() {
    test("a_server_that_is_silent_and_one_behind_a_service", || {
        let net = Network::new();
        let server = DnsServer::start(&net.far, zone()).unwrap();
        let service = ip("172.30.0.53");
        net.nodes[0].service(service, &[net.far.v4()], &Ports::Only(vec![(DNS_PORT, DNS_PORT)])).unwrap();
        let file = resolv_conf("service", service);
        assert_eq!(resolve(net.a.netns(), &file, WEB, LIMIT).unwrap().len(), 2);
        server.set_silent(true);
        let query = dns_query(5, WEB, Asked::A, None);
        let wait = Duration::from_millis(100);
        let silence =
            dns_over_udp(net.a.netns(), SocketAddr::new(service, DNS_PORT), &query, wait).unwrap_err();
        assert!(matches!(silence, Error::Timeout { .. }), "{silence}");
        assert_eq!(server.exchanges().last().unwrap().reply, None);
        server.set_silent(false);
        server.set_zone(Zone::new());
        assert!(matches!(resolve(net.a.netns(), &file, WEB, LIMIT), Err(Error::Resolver(_))));
        fs::remove_file(file).unwrap();
    });
}

#[test]
fn replies_are_recorded_as_they_arrive_over_udp_and_tcp_with_and_without_edns() {
    test("replies_are_recorded_as_they_arrive_over_udp_and_tcp_with_and_without_edns", || {
        let net = Network::new();
        let server = DnsServer::start(&net.b, zone()).unwrap();
        for address in net.b.addresses() {
            let to = SocketAddr::new(address, DNS_PORT);
            for edns in [None, Some(4096)] {
                for (asked, name) in [(Asked::A, "WEB.shop.svc.Cluster.local"), (Asked::Aaaa, WEB)] {
                    let query = dns_query(0x1234, name, asked, edns);
                    let by_udp = dns_over_udp(net.a.netns(), to, &query, LIMIT).unwrap();
                    let by_tcp = dns_over_tcp(net.a.netns(), to, &query, LIMIT).unwrap();
                    let exchanges = server.exchanges();
                    let [udp, tcp] = exchanges.last_chunk().unwrap();
                    assert_eq!((udp.tcp, &udp.query, udp.reply.as_ref()), (false, &query, Some(&by_udp)));
                    assert_eq!((tcp.tcp, &tcp.query, tcp.reply.as_ref()), (true, &query, Some(&by_tcp)));
                    let reply = DnsReply::parse(&by_udp).unwrap();
                    assert_eq!((reply.id, reply.code, reply.edns), (0x1234, 0, edns.is_some()));
                    let wanted = if asked == Asked::A { "172.30.0.10" } else { "fd00:30::10" };
                    assert_eq!(reply.addresses, [ip(wanted)]);
                }
            }
        }
    });
}

#[test]
fn large_answers_are_cut_over_udp_and_whole_over_tcp_or_with_edns() {
    test("large_answers_are_cut_over_udp_and_whole_over_tcp_or_with_edns", || {
        let net = Network::new();
        let _server = DnsServer::start(&net.b, zone()).unwrap();
        let to = SocketAddr::new(net.b.v4(), DNS_PORT);
        let plain = dns_query(1, "many.example", Asked::A, None);
        let cut = DnsReply::parse(&dns_over_udp(net.a.netns(), to, &plain, LIMIT).unwrap()).unwrap();
        assert!(cut.truncated && cut.addresses.is_empty());
        let whole = DnsReply::parse(&dns_over_tcp(net.a.netns(), to, &plain, LIMIT).unwrap()).unwrap();
        assert!(!whole.truncated && whole.addresses.len() == 60);
        let edns = dns_query(1, "many.example", Asked::A, Some(4096));
        let whole = DnsReply::parse(&dns_over_udp(net.a.netns(), to, &edns, LIMIT).unwrap()).unwrap();
        assert!(!whole.truncated && whole.addresses.len() == 60);
        let file = resolv_conf("large", net.b.v4());
        assert_eq!(resolve(net.a.netns(), &file, "many.example", LIMIT).unwrap().len(), 60);
        fs::remove_file(file).unwrap();
    });
}

#[test]
fn names_without_records_of_the_type_exist_and_unknown_names_do_not() {
    test("names_without_records_of_the_type_exist_and_unknown_names_do_not", || {
        let net = Network::new();
        let _server = DnsServer::start(&net.b, zone()).unwrap();
        let to = SocketAddr::new(net.b.v4(), DNS_PORT);
        let ask = |name: &str, asked| {
            let reply = dns_over_udp(net.a.netns(), to, &dns_query(9, name, asked, None), LIMIT).unwrap();
            let reply = DnsReply::parse(&reply).unwrap();
            (reply.code, reply.addresses.len())
        };
        assert_eq!(ask("edge.example.org", Asked::Aaaa), (0, 0));
        assert_eq!(ask("nobody.example.org", Asked::A), (3, 0));
        assert_eq!(ask("loop.example", Asked::A), (0, 0), "an endless alias ends");
        assert_eq!(ask("21.0.128.10.in-addr.arpa", Asked::Ptr), (0, 0));
        assert_eq!(ask("22.0.128.10.in-addr.arpa", Asked::Ptr), (3, 0));
        assert_eq!(ask("api.shop.svc.cluster.local", Asked::A), (0, 1));
    });
}

/// Replaces `/etc`, for this world alone, by one in memory with those of its files that this user may read.
fn copy_etc() {
    let files: Vec<_> = fs::read_dir("/etc")
        .unwrap()
        .flatten()
        .filter(|entry| fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file() && meta.len() < 1 << 20))
        .filter_map(|entry| Some((entry.path(), fs::read(entry.path()).ok()?)))
        .collect();
    cover(Path::new("/etc")).unwrap();
    files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
}

#[test]
fn a_missing_or_linked_resolv_conf_of_the_machine_does_not_matter() {
    test("a_missing_or_linked_resolv_conf_of_the_machine_does_not_matter", || {
        let node = Node::new("10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()).unwrap();
        let pod = node.pod("10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap(), 1500).unwrap();
        let address = "10.0.0.9".parse().unwrap();
        let _server = DnsServer::start(&pod, Zone::new().address("web.example", address)).unwrap();
        // The world's files, which the child sees too, are changed as another machine's may be.
        copy_etc();
        let (file, target) = (Path::new("/etc/of-the-pod"), Path::new("/etc/resolv.conf"));
        fs::write(file, "nameserver 10.0.0.2\n").unwrap();
        let ask = || resolve(pod.netns(), file, "web.example", Duration::from_secs(20)).unwrap();

        // Absent where the machine has none.
        let _ = fs::remove_file(target);
        assert_eq!(ask(), [address], "missing");
        std::os::unix::fs::symlink("/etc/nowhere", target).unwrap();
        assert_eq!(ask(), [address], "a link to nowhere");
        fs::write("/etc/nowhere", "nameserver 10.0.0.77\n").unwrap();
        assert_eq!(ask(), [address], "a link to a file");
        let _ = fs::remove_file("/etc/nsswitch.conf");
        assert_eq!(ask(), [address], "no nsswitch.conf");
    });
}
