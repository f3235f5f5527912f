//! Pods in which others translate addresses, filter, and set routes: sidecars and firewalls. With the leak probe on the node.

mod support;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::{CANARY, Cluster, LIMIT};
use tencrypt_lab::{
    Asked, DNS_PORT, DnsReply, DnsServer, HttpServer, IpNet, Pod, SIDECAR_MARK, Side, Zone, dns_over_tcp,
    dns_over_udp, dns_query, http_get, test,
};
use tencrypt_tun::NetNs;

/// Port at which applications are called, and the one of the sidecar that gets it instead.
const APPLICATION: u16 = 8081;
const SIDECAR: u16 = 15_006;
/// Port to which a sidecar has what its pod sends redirected. Nobody listens there.
const NOBODY: u16 = 15_001;
/// Port to which one has it redirected that passes it on.
const RELAY: u16 = 15_002;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Fetches the page at a port of an address from pod `a`, with the canary in question and answer.
fn fetch(cluster: &Cluster, to: IpAddr, port: u16) -> Option<String> {
    let page = http_get(cluster.a.netns(), SocketAddr::new(to, port), "shop", CANARY, LIMIT).ok()?;
    Some(String::from_utf8_lossy(&page).into_owned())
}

#[test]
fn a_sidecar_gets_what_comes_in_through_the_tunnel() {
    test("a_sidecar_gets_what_comes_in_through_the_tunnel", || {
        let cluster = Cluster::on_one_node();
        let service = cluster.service(10);
        let probe = cluster.probe_also(service);
        cluster.b.redirect(Side::In, TCP, Some(APPLICATION), SIDECAR).unwrap();
        let _sidecar = HttpServer::start(&cluster.b, SIDECAR, format!("by the sidecar {CANARY}")).unwrap();
        let all: Vec<IpAddr> = cluster.b.addresses().into_iter().chain(service).collect();
        cluster.control(&probe, all.clone());
        let by_sidecar = |to: IpAddr| {
            let page = fetch(&cluster, to, APPLICATION);
            assert!(page.as_ref().is_some_and(|page| page.contains("by the sidecar")), "{to}: {page:?}");
        };
        all.iter().copied().for_each(by_sidecar);
        let running = [&cluster.a, &cluster.b].map(|pod| cluster.up(pod, ""));
        probe.reset();
        for to in &all {
            by_sidecar(*to);
            // What is not redirected goes where it went before.
            cluster.say_canary(*to);
        }
        // A further address of the server's: by the same sidecar, and from then on.
        let further: IpNet = "10.128.0.99/14".parse().unwrap();
        cluster.b.add_address(further).unwrap();
        by_sidecar(further.addr());
        all.iter().copied().for_each(by_sidecar);
        probe.assert_only_encrypted();
        for one in &running {
            assert_eq!((one.drops("policy"), one.drops("inner_destination")), (0, 0), "{}", one.status());
        }
    });
}

#[test]
fn redirects_of_all_that_a_pod_sends_and_gets_do_not_catch_the_program() {
    test("redirects_of_all_that_a_pod_sends_and_gets_do_not_catch_the_program", || {
        let cluster = Cluster::on_one_node();
        let service = cluster.service(10);
        let probe = cluster.probe_also(service);
        let all: Vec<IpAddr> = cluster.b.addresses().into_iter().chain(service).collect();
        cluster.control(&probe, all.clone());
        // One that begins calls, and one that is called; and a firewall that has to know its connections.
        cluster.a.redirect(Side::Out, UDP, None, NOBODY).unwrap();
        cluster.a.firewall().unwrap();
        cluster.b.redirect(Side::In, UDP, None, NOBODY).unwrap();
        let running = [&cluster.a, &cluster.b].map(|pod| cluster.up(pod, ""));
        probe.reset();
        for to in all {
            cluster.say_canary(to);
        }
        probe.assert_only_encrypted();
        for one in running {
            let stopped = one.stop();
            assert!(stopped.status.success(), "{stopped:?}");
        }
        for pod in [&cluster.a, &cluster.b] {
            let down = cluster.down(pod);
            assert!(down.status.success(), "{down:?}");
        }
    });
}

#[test]
fn redirects_that_come_while_the_program_runs_do_not_catch_it() {
    test("redirects_that_come_while_the_program_runs_do_not_catch_it", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let [a, b] = [&cluster.a, &cluster.b].map(|pod| cluster.up(pod, ""));
        probe.reset();
        cluster.b.addresses().into_iter().for_each(|to| cluster.say_canary(to));
        cluster.a.redirect(Side::Out, UDP, None, NOBODY).unwrap();
        cluster.b.redirect(Side::In, UDP, None, NOBODY).unwrap();
        cluster.b.addresses().into_iter().for_each(|to| cluster.say_canary(to));
        // New handshakes as well as sessions of before.
        b.stop();
        let _b = cluster.up(&cluster.b, "");
        cluster.b.addresses().into_iter().for_each(|to| cluster.say_canary(to));
        a.stop();
        let _a = cluster.up(&cluster.a, "");
        cluster.b.addresses().into_iter().for_each(|to| cluster.say_canary(to));
        probe.assert_only_encrypted();
    });
}

#[test]
fn a_gateway_without_a_device_leads_nothing_into_the_tunnel_that_is_its_own() {
    test("a_gateway_without_a_device_leads_nothing_into_the_tunnel_that_is_its_own", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        for address in ["10.128.0.254/14", "fd00:128::254/64"] {
            cluster.nodes[0].add_address(address.parse().unwrap()).unwrap();
        }
        for extra in ["", "[policy]\nenforce = false\n"] {
            let running = [&cluster.a, &cluster.b].map(|pod| cluster.up(pod, extra));
            probe.reset();
            cluster.b.addresses().into_iter().for_each(|to| cluster.say_canary(to));
            for gateway in ["10.128.0.254", "fd00:128::254"] {
                cluster.a.replace_gateway(gateway.parse().unwrap()).unwrap();
            }
            let before = running[0].packets("encrypted");
            cluster.b.addresses().into_iter().for_each(|to| cluster.say_canary(to));
            // Two calls, and not every record in a record, and that in a record.
            let sealed = running[0].packets("encrypted") - before;
            assert!(sealed < 60, "{sealed} packets for two calls");
            probe.assert_only_encrypted();
            let status = running[0].status();
            assert_eq!((&status["drops"]["loop"], &status["chains"]["looped"]), (&0.into(), &0.into()));
            for (one, pod) in running.into_iter().zip([&cluster.a, &cluster.b]) {
                one.stop();
                assert!(cluster.down(pod).status.success());
            }
        }
    });
}

#[test]
fn an_answer_of_dns_that_comes_in_pieces_reaches_the_application() {
    const COUNT: u8 = 120;
    test("an_answer_of_dns_that_comes_in_pieces_reaches_the_application", || {
        for is_tracked in [false, true] {
            let cluster = Cluster::on_one_node();
            let dns = cluster.pod(53);
            let zone = (0..COUNT).fold(Zone::new(), |zone, last| {
                zone.address("many.other.svc.k8s.corp", IpAddr::from([198, 51, 100, last]))
            });
            let _server = DnsServer::start(&dns, zone).unwrap();
            if is_tracked {
                // Connection tracking puts pieces together before any chain sees them.
                cluster.a.redirect(Side::In, TCP, Some(APPLICATION), SIDECAR).unwrap();
            }
            for nameserver in dns.addresses() {
                let resolv_conf = cluster.directory.join("resolv.conf");
                fs::write(&resolv_conf, format!("nameserver {nameserver}\nsearch shop.svc.k8s.corp\n"))
                    .unwrap();
                let ask = || {
                    let query = dns_query(7, "many.other.svc.k8s.corp", Asked::A, Some(4096));
                    let server = SocketAddr::new(nameserver, DNS_PORT);
                    let answer = dns_over_udp(cluster.a.netns(), server, &query, LIMIT).unwrap();
                    assert!(answer.len() > 1_500, "{:?} fits one packet", DnsReply::parse(&answer));
                    DnsReply::parse(&answer).unwrap().addresses.len()
                };
                assert_eq!(ask(), usize::from(COUNT), "without the program");
                let extra = format!(
                    "[tenant]\nkey_file = \"{}\"\n[dns]\nresolv_conf = \"{}\"\n",
                    cluster.key_file.display(),
                    resolv_conf.display()
                );
                let running = cluster.up(&cluster.a, &extra);
                assert_eq!(ask(), usize::from(COUNT), "{nameserver}: {}", running.status());
                assert_eq!(running.status()["chains"]["plain_in"], 0);
                running.stop();
                assert!(cluster.down(&cluster.a).status.success());
            }
        }
    });
}

/// Passes one message of DNS each way for each connection, as a sidecar does that knows where it was to go: by a socket that is
/// not redirected again. Counts them.
fn relay(pod: &Pod, at: SocketAddr, server: SocketAddr, relayed: Arc<AtomicUsize>) {
    let listener = pod.netns().run(|| TcpListener::bind(at)).unwrap();
    let netns = pod.netns().path();
    thread::spawn(move || {
        let netns = NetNs::open(netns.to_str().unwrap()).unwrap();
        for mut client in listener.incoming().flatten() {
            relayed.fetch_add(1, Ordering::Relaxed);
            let connected = netns.run(move || -> io::Result<TcpStream> {
                let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
                socket.set_mark(SIDECAR_MARK)?;
                socket.connect_timeout(&server.into(), LIMIT)?;
                Ok(socket.into())
            });
            let mut upstream = connected.unwrap().unwrap();
            let pass = |from: &mut TcpStream, to: &mut TcpStream| -> io::Result<()> {
                let mut length = [0; 2];
                from.read_exact(&mut length)?;
                let mut message = vec![0; u16::from_be_bytes(length).into()];
                from.read_exact(&mut message)?;
                to.write_all(&[&length[..], &message].concat())
            };
            let passed = pass(&mut client, &mut upstream).and_then(|()| pass(&mut upstream, &mut client));
            passed.unwrap();
        }
    });
}

/// The program asks the server by a socket of its own, which the redirect would send to the sidecar, which would ask the program.
#[test]
fn a_query_by_tcp_that_a_sidecar_passes_on_is_asked_once() {
    test("a_query_by_tcp_that_a_sidecar_passes_on_is_asked_once", || {
        let cluster = Cluster::on_one_node();
        let dns = cluster.pod(53);
        let (name, address) = ("one.other.svc.k8s.corp", IpAddr::from([198, 51, 100, 1]));
        let _server = DnsServer::start(&dns, Zone::new().address(name, address)).unwrap();
        cluster.a.redirect(Side::Out, TCP, None, RELAY).unwrap();
        for nameserver in dns.addresses() {
            let resolv_conf = cluster.directory.join("resolv.conf");
            fs::write(&resolv_conf, format!("nameserver {nameserver}\nsearch shop.svc.k8s.corp\n")).unwrap();
            let server = SocketAddr::new(nameserver, DNS_PORT);
            let local: IpAddr =
                if nameserver.is_ipv4() { [127, 0, 0, 1].into() } else { Ipv6Addr::LOCALHOST.into() };
            let relayed = Arc::new(AtomicUsize::new(0));
            relay(&cluster.a, SocketAddr::new(local, RELAY), server, Arc::clone(&relayed));
            let ask = || {
                let reply =
                    dns_over_tcp(cluster.a.netns(), server, &dns_query(7, name, Asked::A, None), LIMIT);
                DnsReply::parse(&reply.unwrap()).unwrap().addresses
            };
            assert_eq!(ask(), [address], "without the program");
            let key = cluster.key_file.display();
            let resolv_conf = resolv_conf.display();
            let extra = format!("[tenant]\nkey_file = \"{key}\"\n[dns]\nresolv_conf = \"{resolv_conf}\"\n");
            let running = cluster.up(&cluster.a, &extra);
            assert_eq!(ask(), [address], "{nameserver}: {}", running.status());
            assert_eq!(relayed.load(Ordering::Relaxed), 2, "once without, once with");
            // By the program, which counts once a second.
            let end = Instant::now() + LIMIT;
            while running.status()["names"]["answered"] != 1 {
                assert!(Instant::now() < end, "{}", running.status());
                thread::sleep(Duration::from_millis(50));
            }
            let files = fs::read_dir(format!("/proc/{}/fd", running.program.id())).unwrap().count();
            assert!(files < 100, "{files} files");
            running.stop();
            assert!(cluster.down(&cluster.a).status.success());
        }
    });
}
