//! Traffic that protection keeps out and keeps in: other tenants, injected records, plaintext from inside, and programs of the
//! pod that choose the device themselves.

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use support::{CANARY, Cluster, LIMIT, Running, eventually};
use tencrypt_lab::{
    Binding, Content, Frame, Keep, Ping, Pod, Signal, Sniffer, TUNNEL_PORT, UdpEcho, Watch, send_bound,
    send_spoofed, test, udp_echo,
};

const UDP: u16 = 9001;

/// Longer than a destination is asked, 1 s (docs/packet-path.md).
const UNHEARD: Duration = Duration::from_millis(1_500);

/// Waits for what happens soon.
/// Packets that the chains of a running tunnel have dropped.
fn stopped(running: &Running, counter: &str) -> u64 {
    let status = running.status();
    status["chains"][counter].as_u64().unwrap_or_else(|| panic!("no chains.{counter} in {status}"))
}

fn is_echoed(from: &Pod, to: IpAddr, wait: Duration) -> bool {
    udp_echo(from.netns(), SocketAddr::new(to, UDP), [100], wait).unwrap().is_empty()
}

#[test]
fn another_tenants_key_meets_silence() {
    test("another_tenants_key_meets_silence", || {
        let cluster = Cluster::on_one_node();
        let friend = cluster.pod(30);
        let other_key = cluster.genkey("other.key");
        let other = format!("[tenant]\nproject = \"other\"\nkey_file = \"{}\"\n", other_key.display());
        let a = cluster.up(&cluster.a, "");
        let b = cluster.up(&cluster.b, &other);
        let _friend = cluster.up(&friend, "");
        let (echo_a, echo_b) =
            (UdpEcho::start(&cluster.a, UDP).unwrap(), UdpEcho::start(&cluster.b, UDP).unwrap());
        let watch = Watch::new([&cluster.a, &cluster.b, &friend], b"");
        let sniffer =
            Sniffer::start(cluster.nodes[0].netns(), watch.keep(Keep { frames: 10_000, bytes: 128 }))
                .unwrap();

        for (from, to, asked, echo) in
            [(&cluster.a, &cluster.b, &b, &echo_b), (&cluster.b, &cluster.a, &a, &echo_a)]
        {
            for address in to.addresses() {
                let refused = asked.drops("mac1");
                sniffer.reset();
                assert!(!is_echoed(from, address, UNHEARD), "{address}");
                assert!(asked.drops("mac1") > refused, "{address}: {}", asked.status());
                let (there, back) = datagrams(&sniffer, from, to);
                assert!(there > 0 && back == 0, "{address}: {there} datagrams there, {back} back");
            }
            assert_eq!(echo.received(), 0);
        }
        for running in [&a, &b] {
            assert_eq!(running.peers().as_array().map(Vec::len), Some(0));
            assert_eq!(running.packets("decrypted"), 0);
        }

        // The sniffer sees answers where the key is the same.
        sniffer.reset();
        assert!(is_echoed(&friend, cluster.a.v4(), LIMIT));
        let (there, back) = datagrams(&sniffer, &friend, &cluster.a);
        assert!(there > 0 && back > 0);
        assert_eq!(a.peers().as_array().map(Vec::len), Some(1));
    });
}

/// Frames from one pod to the other, and back, besides neighbour discovery.
fn datagrams(sniffer: &Sniffer, from: &Pod, to: &Pod) -> (usize, usize) {
    assert!(sniffer.settle(Duration::from_millis(100), LIMIT));
    let report = sniffer.report();
    assert_eq!(report.lost, 0);
    let count = |from: &Pod, to: &Pod| {
        let between = |frame: &Frame| {
            frame.addresses.is_some_and(|(source, destination)| {
                from.addresses().contains(&source) && to.addresses().contains(&destination)
            }) && frame.content != Content::NeighbourDiscovery
        };
        report.kept.iter().filter_map(|bytes| Frame::parse(bytes)).filter(between).count()
    };
    (count(from, to), count(to, from))
}

/// A DATA record on its way over IPv4, as it was on the wire.
struct Recorded {
    /// The ends that the datagram with it bore.
    ends: (SocketAddrV4, SocketAddrV4),
    /// The datagram's content.
    record: Vec<u8>,
}

/// Bytes of a record's header, and of its authentication tag (docs/wire-format.md).
const HEADER: usize = 16;
const TAG: usize = 16;
const DATA: u8 = 4;

impl Recorded {
    /// The only record with content that `say` makes `from` send to `to`.
    fn of(cluster: &Cluster, from: &Pod, to: &Pod, say: impl FnOnce()) -> Self {
        let watch = Watch::new([from, to], b"").keep(Keep { frames: 1_000, bytes: 2_048 });
        let sniffer = Sniffer::start(cluster.nodes[0].netns(), watch).unwrap();
        say();
        assert!(sniffer.settle(Duration::from_millis(100), LIMIT));
        let found = sniffer.report().kept.into_iter().find_map(|bytes| {
            let frame = Frame::parse(&bytes)?;
            let Some((IpAddr::V4(source), IpAddr::V4(destination))) = frame.addresses else { return None };
            let Content::Udp { source: source_port, destination: port } = frame.content else { return None };
            let record = Frame::udp_payload(&bytes)?;
            // Any lane's port.
            let wanted = frame.addresses == Some((from.v4(), to.v4()))
                && (TUNNEL_PORT..TUNNEL_PORT + 16).contains(&port);
            let ends = (SocketAddrV4::new(source, source_port), SocketAddrV4::new(destination, port));
            (wanted && record.first() == Some(&DATA) && record.len() > HEADER + TAG)
                .then(|| Self { ends, record: record.to_vec() })
        });
        found.expect("a record was on the wire")
    }

    /// The receiver's session index.
    fn index(&self) -> &[u8] {
        &self.record[4..8]
    }

    /// Sends it from another pod, changed as told: source and ports stay those of its sender.
    fn inject(&self, from: &Pod, change: impl FnOnce(&mut Vec<u8>)) {
        let mut record = self.record.clone();
        change(&mut record);
        send_spoofed(from.netns(), self.ends.0, self.ends.1, &record).unwrap();
    }
}

#[test]
fn records_injected_by_a_third_pod_are_dropped_and_counted_and_the_session_lives_on() {
    test("records_injected_by_a_third_pod_are_dropped_and_counted_and_the_session_lives_on", || {
        let cluster = Cluster::on_one_node();
        let third = cluster.pod(30);
        let probe = cluster.probe();
        cluster.control(&probe, [cluster.b.v4()]);
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let say = || assert!(is_echoed(&cluster.a, cluster.b.v4(), LIMIT));
        say();
        let first = Recorded::of(&cluster, &cluster.a, &cluster.b, say);
        let heard = echo.received();

        let dropped = |reason: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let before = b.drops(reason);
            first.inject(&third, change);
            eventually(reason, || b.drops(reason) == before + 1);
        };
        dropped("replay", &|_| {});
        // A counter that was never used passes the window; what is not as it was sealed then fails the tag.
        let fresh = |record: &mut Vec<u8>| record[HEADER - 8..][..3].copy_from_slice(&[0xff, 0xff, 0x0f]);
        dropped("auth", &fresh);
        for at in [HEADER, HEADER + TAG] {
            dropped("auth", &|record| {
                fresh(record);
                record[at] ^= 1;
            });
        }
        dropped("auth", &|record| {
            fresh(record);
            record.truncate(record.len() - 1);
        });
        dropped("malformed", &|record| record.truncate(HEADER + TAG - 1));
        dropped("malformed", &|record| record[2] = 1);
        dropped("unsupported", &|record| record[0] = 99);
        dropped("unknown_index", &|record| record[4] ^= 0xff);

        // The window is 8,192 records wide, and each flow is in one lane.
        let needed = if support::lanes() == 1 { 8_192 } else { 4 * 8_192 };
        let encrypted = a.packets("encrypted");
        for _ in 0..100 {
            if a.packets("encrypted") > encrypted + needed {
                break;
            }
            flood(&cluster.a, cluster.b.v4(), 400);
        }
        say();
        dropped("too_old", &|_| {});

        assert!(a.packets("encrypted") > encrypted + 8_192);
        assert_eq!(b.drops("replay"), 1);
        assert_eq!(echo.received(), heard + 1, "only what was said since was heard");
        let last = Recorded::of(&cluster, &cluster.a, &cluster.b, say);
        assert_eq!(last.index(), first.index(), "the session is another one");
        for running in [&a, &b] {
            assert_eq!(running.peers().as_array().map(Vec::len), Some(1));
        }
        cluster.say_canary(cluster.b.v4());
        // What the third pod injected bears the tenant's addresses, but is no leak either: UDP 8362.
        probe.assert_only_encrypted();
    });
}

/// Datagrams to a port where nobody listens, so that no echo is waited for.
fn flood(from: &Pod, to: IpAddr, count: usize) {
    from.netns().run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for number in 0..count {
            // Refused: the kernel passes on that nobody listens.
            let _ = socket.send_to(&number.to_be_bytes(), SocketAddr::new(to, UDP + 1));
            if number % 50 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

/// One way to have a datagram leave by eth0.
#[derive(Debug)]
struct Attempt {
    binding: Binding,
    to: SocketAddr,
}

impl Attempt {
    fn all(cluster: &Cluster) -> Vec<Self> {
        let mut all = Vec::new();
        for address in cluster.b.addresses() {
            all.extend(
                Binding::EVASIONS.iter().map(|&binding| Self { binding, to: SocketAddr::new(address, UDP) }),
            );
        }
        let link_local = cluster.b.link_local().into();
        let groups: [IpAddr; 7] = [
            Ipv4Addr::new(224, 0, 0, 251).into(),
            Ipv4Addr::new(239, 1, 2, 3).into(),
            Ipv4Addr::BROADCAST.into(),
            // Of the pods' subnet, 10.128.0.0/14.
            Ipv4Addr::new(10, 131, 255, 255).into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into(),
            Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0xfb).into(),
            link_local,
        ];
        for address in groups {
            for binding in [Binding::Routes, Binding::Device] {
                all.push(Self { binding, to: SocketAddr::new(address, UDP) });
            }
        }
        all
    }

    fn make(&self, cluster: &Cluster) -> tencrypt_lab::Result<()> {
        send_bound(cluster.a.netns(), self.binding, "eth0", self.to, CANARY.as_bytes())
    }
}

#[test]
fn no_choice_of_device_or_address_makes_the_tenants_data_leave_in_plain() {
    test("no_choice_of_device_or_address_makes_the_tenants_data_leave_in_plain", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        let attempts = Attempt::all(&cluster);
        // Each of them works without tencrypt, and the probe sees it.
        for attempt in &attempts {
            attempt.make(&cluster).unwrap();
            let report = probe.report();
            assert!(report.canary > 0 && report.leaks > 0, "{attempt:?}: the probe is blind: {report}");
            probe.reset();
        }
        let bound_pings = || {
            for to in cluster.b.addresses() {
                let bound =
                    Ping { device: Some("eth0".into()), wait: Duration::from_millis(300), ..Ping::new(to) };
                assert_eq!(bound.run(cluster.a.netns()).unwrap().replies, 0, "{to}");
            }
        };

        let mut a = cluster.up(&cluster.a, "");
        let _b = cluster.up(&cluster.b, "");
        cluster.say_canary(cluster.b.v4());
        let refused = attempts.iter().filter(|attempt| attempt.make(&cluster).is_err()).count();
        assert!(refused > 0, "the chains make the kernel refuse");
        bound_pings();
        probe.assert_only_encrypted();
        // What an ordinary socket was refused, the chains have counted; the two pings besides.
        eventually("the chains' counter", || stopped(&a, "leak") >= refused as u64);

        // The same with the program dead.
        a.program.signal(Signal::Kill).unwrap();
        a.program.wait(LIMIT).unwrap();
        for attempt in &attempts {
            // Refused or swallowed: the probe judges.
            let _ = attempt.make(&cluster);
        }
        bound_pings();
        probe.assert_only_encrypted();
    });
}

#[test]
fn plaintext_from_an_internal_pod_is_dropped_and_counted_and_from_another_project_it_passes() {
    test("plaintext_from_an_internal_pod_is_dropped_and_counted_and_from_another_project_it_passes", || {
        let cluster = Cluster::on_one_node();
        let (internal, external, unknown) = (cluster.pod(31), cluster.pod(32), cluster.pod(33));
        let mut facts = String::new();
        for (pod, class) in [(&internal, "internal"), (&external, "external")] {
            for address in pod.addresses() {
                facts.push_str(&format!("[[fact]]\nprefix = \"{address}\"\nclass = \"{class}\"\n"));
            }
        }
        let echo = UdpEcho::start(&cluster.a, UDP).unwrap();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        for pod in [&internal, &external, &unknown] {
            for to in cluster.a.addresses() {
                assert!(is_echoed(pod, to, LIMIT), "without tencrypt all of them are heard: {to}");
            }
        }
        let _b = cluster.up(&cluster.b, "");

        // An unknown pod counts as internal, unless the policy is to speak in plain where nobody answers.
        for (policy, passes) in [("drop", false), ("plain", true)] {
            let a = cluster.up(&cluster.a, &format!("[policy]\nunknown = \"{policy}\"\n{facts}"));
            for (number, to) in (1..).zip(cluster.a.addresses()) {
                let heard = echo.received();
                assert!(!is_echoed(&internal, to, Duration::from_millis(300)), "{policy} {to}");
                assert_eq!(echo.received(), heard, "{policy} {to}: it was heard");
                eventually("the chains' counter", || stopped(&a, "plain_in") >= number);
                assert!(is_echoed(&external, to, LIMIT), "{policy} {to}");
            }
            let counted = stopped(&a, "plain_in");
            for (number, to) in (1..).zip(cluster.a.addresses()) {
                let wait = if passes { LIMIT } else { Duration::from_millis(300) };
                assert_eq!(is_echoed(&unknown, to, wait), passes, "{policy} {to}\n{}", a.log());
                if !passes {
                    eventually("the chains' counter", || stopped(&a, "plain_in") >= counted + number);
                }
            }
            assert_eq!(a.status()["packets"]["opportunistic"].as_u64().unwrap() > 0, passes);
            for to in cluster.b.addresses() {
                cluster.say_canary(to);
            }
            assert!(cluster.down(&cluster.a).status.success());
        }
        probe.assert_only_encrypted();
    });
}
