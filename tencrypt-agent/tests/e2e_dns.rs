//! DNS with `up` is never stricter than without: nameservers of the link, answers that are not the common form, addresses
//! that come and go, few open files. With the leak probe on the node.

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::{Cluster, LIMIT, Probe, Running};
use tencrypt_lab::{
    Asked, DNS_PORT, DnsReply, IpNet, NetNs, dns_over_tcp, dns_over_udp, dns_query, resolve, test,
};

const SEARCH: &str = "search shop.svc.k8s.corp svc.k8s.corp k8s.corp\noptions ndots:5 timeout:2\n";
/// A name of the tenant's own; its address is that of pod `b`.
const OWN: &str = "web.shop.svc.k8s.corp";
const ZONE: &str = "shop.svc.k8s.corp";
const AXFR: u16 = 252;
const TXT: u16 = 16;
const FORMERR: u8 = 1;
/// A port of a nameserver that has nothing to do with DNS.
const OTHER_PORT: u16 = 9_253;

/// A network whose nameserver is on the node, at an address of the test's choice.
struct Net {
    cluster: Cluster,
    nameserver: SocketAddr,
    resolv_conf: PathBuf,
    probe: Probe,
}

impl Net {
    /// The node has each of `addresses`, and answers queries there; the first is the pod's nameserver.
    fn new(addresses: &[&str]) -> Self {
        let cluster = Cluster::on_one_node();
        let node = &cluster.nodes[0];
        let b = cluster.b.v4();
        for address in addresses {
            let address = ip(address);
            node.add_address(address.into()).unwrap();
            serve(node.netns(), SocketAddr::new(address, DNS_PORT), b);
            let other = node.netns().run(|| UdpSocket::bind((address, OTHER_PORT))).unwrap();
            thread::spawn(move || answer_all(&other, |bytes| Some(bytes.to_vec())));
        }
        let nameserver = SocketAddr::new(ip(addresses[0]), DNS_PORT);
        let resolv_conf = cluster.directory.join("resolv.conf");
        let lines: String = addresses.iter().map(|address| format!("nameserver {address}\n")).collect();
        fs::write(&resolv_conf, lines + SEARCH).unwrap();
        let probe = cluster.probe();
        Self { cluster, nameserver, resolv_conf, probe }
    }

    /// Protects both pods, `a` with its DNS captured. `extra` is further TOML.
    fn up(&self, extra: &str) -> [Running; 2] {
        let (key_file, resolv_conf) = (self.cluster.key_file.display(), self.resolv_conf.display());
        let dns =
            format!("[tenant]\nkey_file = \"{key_file}\"\n[dns]\nresolv_conf = \"{resolv_conf}\"\n{extra}");
        let running = [self.cluster.up(&self.cluster.a, &dns), self.cluster.up(&self.cluster.b, "")];
        self.probe.reset();
        running
    }

    fn a(&self) -> &NetNs {
        self.cluster.a.netns()
    }

    /// Has the system's resolver look the tenant's own name up and says the canary to its address, which is encrypted.
    fn assert_own_name_is_encrypted(&self, name: &str) {
        let found = resolve(self.a(), &self.resolv_conf, name, LIMIT).unwrap();
        assert_eq!(found, [self.cluster.b.v4()], "{name}");
        // The queries themselves are plain, and to the probe what goes to the link is meant for everybody there.
        assert_eq!(self.probe.report().canary, 0);
        self.probe.reset();
        self.cluster.say_canary(found[0]);
        self.probe.assert_only_encrypted();
        self.probe.reset();
    }
}

/// Answers by UDP and TCP at `at`, until the test ends.
fn serve(netns: &NetNs, at: SocketAddr, own: IpAddr) {
    let (udp, tcp) = netns.run(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap()));
    thread::spawn(move || answer_all(&udp, |query| answers(query, own).into_iter().next()));
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            thread::spawn(move || serve_stream(stream, own));
        }
    });
}

fn answer_all(socket: &UdpSocket, answer: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        if let Some(answer) = answer(&buffer[..length]) {
            // A client that has gone is no error of the server's.
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn serve_stream(mut stream: TcpStream, own: IpAddr) -> Option<()> {
    loop {
        let query = read_message(&mut stream)?;
        for answer in answers(&query, own) {
            stream.write_all(&framed(&answer)).ok()?;
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// The reply to a query, as a server gives it that is not the most careful one: its question in lower case; FORMERR and
/// nothing else to a name that begins with `f`; 4,000 bytes for TXT; 200 messages for AXFR.
fn answers(query: &[u8], own: IpAddr) -> Vec<Vec<u8>> {
    let Some(name) = query[12..].iter().position(|byte| *byte == 0) else { return Vec::new() };
    let end = 12 + name + 5;
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let question = query[12..end - 4].to_ascii_lowercase();
    if question[1] == b'f' {
        return vec![[&query[..2], &[0x81, 0x80 | FORMERR, 0, 0, 0, 0, 0, 0, 0, 0]].concat()];
    }
    let reply = |records: &[Vec<u8>]| {
        let counts = [&[0, 1][..], &(records.len() as u16).to_be_bytes(), &[0; 4]].concat();
        [&query[..2], &[0x85, 0x80], &counts, &question, &query[end - 4..end], &records.concat()].concat()
    };
    let record = |kind: u16, data: &[u8]| {
        let head = [&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 5]].concat();
        [&head[..], &(data.len() as u16).to_be_bytes(), data].concat()
    };
    let IpAddr::V4(own) = own else { return Vec::new() };
    match kind {
        1 => vec![reply(&[record(1, &own.octets())])],
        TXT => vec![reply(&vec![record(TXT, &[&[249][..], &[b'x'; 249]].concat()); 16])],
        AXFR => vec![reply(&vec![record(TXT, &[0; 1_000]); 50]); 200],
        _ => vec![reply(&[])],
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut query = dns_query(7, name, Asked::A, None);
    let at = query.len() - 4;
    query[at..at + 2].copy_from_slice(&kind.to_be_bytes());
    query
}

/// Asks once from an address of the pod and waits for half a second.
fn is_answered(netns: &NetNs, from: SocketAddr, server: SocketAddr) -> bool {
    let Ok(socket) = netns.run(|| UdpSocket::bind(from)) else { return false };
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send_to(&query(OWN, 1), server).is_ok() && socket.recv(&mut [0; 512]).is_ok()
}

fn within(limit: Duration, mut what: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if what() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn names(running: &Running) -> Value {
    running.status()["names"].clone()
}

#[test]
fn nameservers_of_the_link_are_nameservers_like_others() {
    test("nameservers_of_the_link_are_nameservers_like_others", || {
        let addresses = ["169.254.20.10", "169.254.169.253", "fd00:ec2::253"];
        let net = Net::new(&addresses);
        net.cluster.control(&net.probe, [net.cluster.b.v4()]);
        let [a, _b] = net.up("");
        for address in addresses {
            let server = SocketAddr::new(ip(address), DNS_PORT);
            for ask in [dns_over_udp, dns_over_tcp] {
                let reply = ask(net.a(), server, &query(OWN, 1), LIMIT).unwrap();
                assert_eq!(DnsReply::parse(&reply).unwrap().addresses, [net.cluster.b.v4()], "{address}");
            }
            // Another port of the same address, in plain as without.
            let other = SocketAddr::new(ip(address), OTHER_PORT);
            assert_eq!(dns_over_udp(net.a(), other, b"echo", LIMIT).unwrap(), b"echo", "{address}");
        }
        net.probe.reset();
        net.assert_own_name_is_encrypted("web");
        // Counted each second.
        let counted = || names(&a)["answered"].as_u64() >= Some(6);
        assert!(within(Duration::from_secs(3), counted), "{}", a.status());
    });
}

#[test]
fn answers_that_libc_takes_are_passed_on() {
    test("answers_that_libc_takes_are_passed_on", || {
        let net = Net::new(&["169.254.20.10"]);
        net.cluster.control(&net.probe, [net.cluster.b.v4()]);
        let [a, _b] = net.up("");
        for name in ["Web.Shop.svc.k8s.corp", "WEB", "web.SHOP"] {
            let begun = Instant::now();
            net.assert_own_name_is_encrypted(name);
            assert!(begun.elapsed() < Duration::from_secs(5), "{name}: {:?}", begun.elapsed());
        }
        // An error without its question comes at once.
        for ask in [dns_over_udp, dns_over_tcp] {
            let begun = Instant::now();
            let reply = ask(net.a(), net.nameserver, &query("f.shop.svc.k8s.corp", 1), LIMIT).unwrap();
            assert_eq!((reply.len(), reply[3] & 0x0f), (12, FORMERR));
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        }
        // A zone of 10 MB in 200 messages, and another query on the same connection.
        let mut stream = net.a().run(|| TcpStream::connect(net.nameserver)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&framed(&query(ZONE, AXFR))).unwrap();
        for number in 0..200 {
            let part = read_message(&mut stream).unwrap_or_else(|| panic!("message {number}"));
            assert!(part == answers(&query(ZONE, AXFR), net.cluster.b.v4())[0], "message {number}");
        }
        stream.write_all(&framed(&query(OWN, 1))).unwrap();
        assert!(read_message(&mut stream).is_some(), "{}", a.status());
    });
}

/// The chains are another matter: without them the proxy's part shows.
#[test]
fn an_answer_above_the_mtu_passes_whole_by_udp() {
    test("an_answer_above_the_mtu_passes_whole_by_udp", || {
        let net = Net::new(&["169.254.20.10", "fd00:ec2::253"]);
        net.cluster.control(&net.probe, [net.cluster.b.v4()]);
        let _running = net.up("[policy]\nenforce = false\n");
        for address in ["169.254.20.10", "fd00:ec2::253"] {
            let server = SocketAddr::new(ip(address), DNS_PORT);
            let reply = dns_over_udp(net.a(), server, &query(OWN, TXT), LIMIT).unwrap();
            assert!(
                reply == answers(&query(OWN, TXT), net.cluster.b.v4())[0] && reply.len() > 4_000,
                "{address}"
            );
        }
        net.probe.reset();
        net.assert_own_name_is_encrypted("web");
    });
}

#[test]
fn names_are_answered_all_the_while_addresses_come_and_go() {
    test("names_are_answered_all_the_while_addresses_come_and_go", || {
        let net = Net::new(&["10.128.0.53"]);
        net.cluster.control(&net.probe, [net.cluster.b.v4()]);
        let [a, _b] = net.up("");
        let pod = &net.cluster.a;
        let (stop, server) = (AtomicBool::new(false), net.nameserver);
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let (mut asked, mut missed) = (0, 0);
                // Also if what follows fails.
                let end = Instant::now() + 2 * LIMIT;
                while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                    asked += 1;
                    missed += usize::from(!is_answered(pod.netns(), SocketAddr::new(pod.v4(), 0), server));
                }
                (asked, missed)
            });
            for _ in 0..3 {
                for added in ["10.128.0.121/14", "fd00:128::121/64"] {
                    pod.add_address(added.parse().unwrap()).unwrap();
                }
                let from = SocketAddr::new(ip("10.128.0.121"), 0);
                let answered = || is_answered(pod.netns(), from, server);
                assert!(within(Duration::from_secs(3), answered), "{}\n{}", a.status(), a.log());
                assert!(names(&a)["listening"].to_string().contains("10.128.0.121"), "{}", a.status());
                for removed in ["10.128.0.121/14", "fd00:128::121/64"] {
                    pod.delete_address(removed.parse().unwrap()).unwrap();
                }
                let gone = || !names(&a)["listening"].to_string().contains("121");
                assert!(within(Duration::from_secs(3), gone), "{}", a.status());
            }
            stop.store(true, Ordering::Relaxed);
            let (asked, missed) = asking.join().unwrap();
            assert!(asked > 100 && missed == 0, "{missed} of {asked} had no answer\n{}", a.log());
        });
        net.probe.reset();
        net.assert_own_name_is_encrypted("web");
    });
}

/// The proxy's port, from the kernel's list of UDP sockets.
fn proxy_port(netns: &NetNs, address: IpAddr) -> u16 {
    let IpAddr::V4(v4) = address else { panic!("of IPv4") };
    let wanted = format!("{:08X}", u32::from_ne_bytes(v4.octets()));
    let list = netns.run(|| fs::read_to_string("/proc/thread-self/net/udp")).unwrap();
    let local = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let found = list
        .lines()
        .filter_map(local)
        .find_map(|at| at.strip_prefix(&format!("{wanted}:")).map(str::to_owned));
    u16::from_str_radix(&found.unwrap_or_else(|| panic!("{address} in\n{list}")), 16).unwrap()
}

#[test]
fn names_are_answered_at_addresses_that_come_after_the_start() {
    test("names_are_answered_at_addresses_that_come_after_the_start", || {
        let net = Net::new(&["10.128.0.53"]);
        net.cluster.control(&net.probe, [net.cluster.b.v4()]);
        let pod = &net.cluster.a;
        let own: [IpNet; 2] = pod
            .addresses()
            .map(|address| format!("{address}/{}", if address.is_ipv4() { 14 } else { 64 }).parse().unwrap());
        own.iter().for_each(|net| pod.delete_address(*net).unwrap());
        let [a, _b] = net.up("");
        for address in own {
            pod.add_address(address).unwrap();
            let listens = || names(&a)["listening"].to_string().contains(&address.addr().to_string());
            assert!(within(Duration::from_secs(3), listens), "{address}: {}\n{}", a.status(), a.log());
        }
        let answered = || is_answered(pod.netns(), SocketAddr::new(pod.v4(), 0), net.nameserver);
        assert!(within(Duration::from_secs(3), answered), "{}\n{}", a.status(), a.log());
        net.probe.reset();
        net.assert_own_name_is_encrypted("web");
    });
}

#[test]
fn a_port_that_is_taken_at_a_new_address_is_told_and_tried_again() {
    test("a_port_that_is_taken_at_a_new_address_is_told_and_tried_again", || {
        let net = Net::new(&["10.128.0.53"]);
        net.cluster.control(&net.probe, [net.cluster.b.v4()]);
        let [a, _b] = net.up("");
        let (pod, server) = (&net.cluster.a, net.nameserver);
        let port = proxy_port(pod.netns(), pod.v4());
        let taken = SocketAddr::new(ip("10.128.0.121"), port);
        let holder = pod.netns().run(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.set_freebind_v4(true).unwrap();
            socket.bind(&taken.into()).unwrap();
            socket
        });
        pod.add_address("10.128.0.121/14".parse().unwrap()).unwrap();
        let told =
            || names(&a)["problem"].as_str().is_some_and(|problem| problem.contains(&taken.ip().to_string()));
        assert!(within(Duration::from_secs(4), told), "{}", a.status());
        let from = |address| SocketAddr::new(address, 0);
        assert!(is_answered(pod.netns(), from(pod.v4()), server), "the others go on: {}", a.log());
        assert!(!is_answered(pod.netns(), from(taken.ip()), server));
        drop(holder);
        let answered = || is_answered(pod.netns(), from(taken.ip()), server);
        assert!(within(Duration::from_secs(4), answered), "{}\n{}", a.status(), a.log());
        assert!(within(Duration::from_secs(4), || names(&a)["problem"].is_null()), "{}", a.status());
        net.probe.reset();
        net.assert_own_name_is_encrypted("web");
    });
}

#[test]
fn clients_without_end_leave_the_proxy_files_to_ask_with() {
    test("clients_without_end_leave_the_proxy_files_to_ask_with", || {
        let net = Net::new(&["10.128.0.53"]);
        net.cluster.control(&net.probe, [net.cluster.b.v4()]);
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(70), ..before }).unwrap();
        let running = net.up("");
        setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before }).unwrap();
        let connect = || net.a().run(|| TcpStream::connect_timeout(&net.nameserver, Duration::from_secs(2)));
        let clients: Vec<_> = (0..300).map(|_| connect()).collect();
        for _ in 0..10 {
            let reply = dns_over_udp(net.a(), net.nameserver, &query(OWN, 1), Duration::from_secs(2));
            assert!(reply.is_ok(), "{reply:?}: {}", running[0].log());
        }
        // Another address takes two files more.
        net.cluster.a.add_address("10.128.0.121/14".parse().unwrap()).unwrap();
        let from = SocketAddr::new(ip("10.128.0.121"), 0);
        let answered = || is_answered(net.a(), from, net.nameserver);
        assert!(within(Duration::from_secs(4), answered), "{}", running[0].log());
        drop(clients);
        net.probe.reset();
        net.assert_own_name_is_encrypted("web");
    });
}

/// Number and link-local address of an interface.
fn link_local(netns: &NetNs, interface: &str) -> (u32, Ipv6Addr) {
    let list = netns.run(|| fs::read_to_string("/proc/thread-self/net/if_inet6")).unwrap();
    let fields = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields[5] == interface && fields[0].starts_with("fe80"));
    let found = found.unwrap_or_else(|| panic!("{interface} in\n{list}"));
    let bits = u128::from_str_radix(found[0], 16).unwrap();
    (u32::from_str_radix(found[1], 16).unwrap(), Ipv6Addr::from_bits(bits))
}

#[test]
fn a_nameserver_of_the_link_in_ipv6_is_asked_as_without_and_named() {
    test("a_nameserver_of_the_link_in_ipv6_is_asked_as_without_and_named", || {
        let net = Net::new(&["169.254.20.10"]);
        net.cluster.control(&net.probe, [net.cluster.b.v4()]);
        let node = net.cluster.nodes[0].netns();
        let (bridge, address) = link_local(node, "br0");
        let (eth0, _) = link_local(net.a(), "eth0");
        let at = |scope| SocketAddr::V6(SocketAddrV6::new(address, DNS_PORT, 0, scope));
        serve(node, at(bridge), net.cluster.b.v4());
        let content = fs::read_to_string(&net.resolv_conf).unwrap();
        fs::write(&net.resolv_conf, format!("nameserver {address}%eth0\n{content}")).unwrap();
        let [a, _b] = net.up("");
        for ask in [dns_over_udp, dns_over_tcp] {
            let reply = ask(net.a(), at(eth0), &query(OWN, 1), LIMIT / 6);
            let reply = reply.unwrap_or_else(|error| panic!("{error}: {}", a.status()));
            assert_eq!(DnsReply::parse(&reply).unwrap().addresses, [net.cluster.b.v4()]);
        }
        assert_eq!(names(&a)["unseen"], serde_json::json!([address]), "{}", a.status());
        net.probe.reset();
        net.assert_own_name_is_encrypted("web");
    });
}
