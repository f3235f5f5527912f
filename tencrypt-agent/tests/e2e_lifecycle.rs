//! The end of protection: by `down`, by a signal, by a kill. Whatever it is, nothing of the tenant leaves in plain, and
//! after `down` the namespace is as it was.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use support::{CANARY, Cluster, HTTP, LIMIT, Running};
use tencrypt_lab::{Finished, Ping, Pod, Signal, Snapshot, test};

/// `tencrypt --help`: nothing runs in that namespace.
const NOT_RUNNING: i32 = 3;

/// Protected ranges of each family in [`support::PROTECTED`].
const RANGES: usize = 2;

const RP_FILTER: &str = "ipv4/conf/eth0/rp_filter";

fn assert_as_it_was(pod: &Pod, before: &Snapshot) {
    let changes = before.difference(&Snapshot::take(pod.netns()).unwrap());
    assert!(changes.is_empty(), "the namespace is not as it was:\n{}", changes.join("\n"));
}

fn assert_done(finished: &Finished) {
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(finished.stderr, "");
}

#[test]
fn down_ends_a_running_tunnel_and_leaves_the_namespace_as_it_was() {
    test("down_ends_a_running_tunnel_and_leaves_the_namespace_as_it_was", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let before = [&cluster.a, &cluster.b].map(|pod| Snapshot::take(pod.netns()).unwrap());
        let mut running = [cluster.up(&cluster.a, ""), cluster.up(&cluster.b, "")];
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        probe.assert_only_encrypted();
        let installed = Snapshot::take(cluster.a.netns()).unwrap();
        assert!(!before[0].difference(&installed).is_empty(), "a snapshot sees what up does");

        for pod in [&cluster.a, &cluster.b] {
            assert_done(&cluster.down(pod));
        }
        for up in &mut running {
            assert_done(&up.program.wait(LIMIT).unwrap());
        }
        assert_as_it_was(&cluster.a, &before[0]);
        assert_as_it_was(&cluster.b, &before[1]);
        assert_eq!(cluster.down(&cluster.a).status.code(), Some(NOT_RUNNING), "there is nothing left to end");

        // As it was: readable again.
        cluster.control(&probe, cluster.b.addresses());
    });
}

#[test]
fn a_program_that_was_told_to_end_leaves_the_namespace_closed_until_down() {
    test("a_program_that_was_told_to_end_leaves_the_namespace_closed_until_down", || {
        closed_until_down(Signal::Term);
    });
}

#[test]
fn a_program_that_was_killed_leaves_the_namespace_closed_until_down() {
    test("a_program_that_was_killed_leaves_the_namespace_closed_until_down", || {
        closed_until_down(Signal::Kill);
    });
}

#[test]
fn a_name_that_comes_to_mean_another_namespace_while_up_starts_changes_nothing() {
    test("a_name_that_comes_to_mean_another_namespace_while_up_starts_changes_nothing", || {
        let cluster = Cluster::on_one_node();
        let name = cluster.directory.join("shop-a");
        let before = [&cluster.a, &cluster.b].map(|pod| Snapshot::take(pod.netns()).unwrap());
        // It is held still as soon as it has opened the namespace, long before it changes anything there.
        let mut running = (0..20)
            .find_map(|_| {
                point(&name, &cluster.a);
                let mut running = cluster.start_named(&cluster.a, &name, "[dns]\ncapture = false\n");
                while !has_open(&running, &cluster.a) {
                    assert!(running.program.is_running(), "{}", running.log());
                }
                running.program.signal(Signal::Stop).unwrap();
                let untouched = before[0].difference(&Snapshot::take(cluster.a.netns()).unwrap()).is_empty();
                if !untouched {
                    running.program.signal(Signal::Continue).unwrap();
                    running.program.wait_ready(LIMIT).unwrap();
                    assert_done(&cluster.down(&cluster.a));
                }
                untouched.then_some(running)
            })
            .expect("it is caught in time once");
        point(&name, &cluster.b);
        running.program.signal(Signal::Continue).unwrap();
        running.program.wait_ready(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", running.log()));

        // Device, rules and lock are where the name led when it was opened, and nothing is where it leads now.
        let [a, b] = [&cluster.a, &cluster.b].map(|pod| Snapshot::take(pod.netns()).unwrap());
        assert!(!before[0].difference(&a).is_empty());
        assert!(before[1].difference(&b).is_empty());
        assert_eq!(running.status_by(&name).status.code(), Some(NOT_RUNNING));
        assert!(running.status_by(&cluster.a.netns().path()).status.success());
        assert_done(&cluster.down(&cluster.a));
        assert_as_it_was(&cluster.a, &before[0]);
    });
}

/// Has this name lead to the pod's namespace.
fn point(name: &Path, pod: &Pod) {
    let _ = fs::remove_file(name);
    symlink(pod.netns().path(), name).unwrap();
}

/// Returns true if the program has the pod's namespace among its descriptors.
fn has_open(running: &Running, pod: &Pod) -> bool {
    let namespace = format!("net:[{}]", fs::metadata(pod.netns().path()).unwrap().ino());
    let descriptors = fs::read_dir(format!("/proc/{}/fd", running.program.id())).into_iter().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| target.as_os_str() == namespace.as_str())
}

fn closed_until_down(signal: Signal) {
    let cluster = Cluster::on_one_node();
    let probe = cluster.probe();
    cluster.control(&probe, cluster.b.addresses());
    let before = Snapshot::take(cluster.a.netns()).unwrap();
    let mut a = cluster.up(&cluster.a, "");
    let b = cluster.up(&cluster.b, "");
    for to in cluster.b.addresses() {
        cluster.say_canary(to);
    }
    // On its way while the program ends.
    let connection = cluster
        .a
        .netns()
        .run(|| TcpStream::connect_timeout(&SocketAddr::new(cluster.b.v4(), HTTP), LIMIT))
        .unwrap();
    a.program.signal(signal).unwrap();
    let finished = a.program.wait(LIMIT).unwrap();
    match signal {
        Signal::Kill => assert_eq!(finished.status.code(), None, "{finished:?}"),
        _ => assert_done(&finished),
    }

    assert_closed(&cluster);
    say_on(&connection);
    for (to, from) in cluster.b.addresses().into_iter().zip(cluster.a.addresses()) {
        assert_refused_by_the_kernel(&cluster.a, to);
        // The other pod still sends; no answer to its datagrams may leave in plain either.
        let unheard = quick_ping(from).run(cluster.b.netns()).unwrap();
        assert_eq!(unheard.replies, 0, "{unheard:?}");
    }
    probe.assert_only_encrypted();

    assert_done(&cluster.down(&cluster.a));
    assert_as_it_was(&cluster.a, &before);
    assert_eq!(cluster.down(&cluster.a).status.code(), Some(NOT_RUNNING));
    assert_done(&cluster.down(&cluster.b));
    let left: Vec<_> = fs::read_dir(cluster.directory.join("run")).unwrap().collect();
    assert!(left.is_empty(), "left in the run directory: {left:?}");
    drop((b, connection));
    probe.reset();
    cluster.control(&probe, cluster.b.addresses());
}

/// Device gone, everything else in place: protected destinations are unreachable, the chains stand.
fn assert_closed(cluster: &Cluster) {
    let closed = Snapshot::take(cluster.a.netns()).unwrap();
    assert_eq!(closed.lines("device tenc0").count(), 0, "{closed}");
    assert_eq!(closed.lines("nftables inet tencrypt ").count(), 1, "{closed}");
    for family in ["v4", "v6"] {
        assert_eq!(closed.lines(&format!("rule {family} preference 8362 ")).count(), 1, "{closed}");
        let start = format!("route {family} table 8362 ");
        let unreachable = |line: &&str| line.contains(" unreachable");
        assert_eq!(closed.lines(&start).filter(unreachable).count(), RANGES, "{closed}");
        // What is not unreachable are the exceptions for the node.
        assert!(closed.lines(&start).all(|line| unreachable(&line) || line.contains(" throw")), "{closed}");
    }
}

fn quick_ping(to: IpAddr) -> Ping {
    Ping { count: 2, wait: Duration::from_millis(300), ..Ping::new(to) }
}

/// Ordinary sockets get an error at once, not silence.
fn assert_refused_by_the_kernel(pod: &Pod, to: IpAddr) {
    let unreachable = |kind| matches!(kind, ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable);
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let udp = pod
        .netns()
        .run(|| UdpSocket::bind(any).unwrap().send_to(CANARY.as_bytes(), SocketAddr::new(to, HTTP)))
        .unwrap_err();
    assert!(unreachable(udp.kind()), "{to}: {udp:?}");
    let tcp = pod.netns().run(|| TcpStream::connect_timeout(&SocketAddr::new(to, HTTP), LIMIT)).unwrap_err();
    assert!(unreachable(tcp.kind()), "{to}: {tcp:?}");
    let ping = quick_ping(to).run(pod.netns()).unwrap();
    assert_eq!((ping.refused, ping.replies), (2, 0), "{to}: {ping:?}");
}

/// Says the canary on a connection that was made through the tunnel; it may fail, but not be readable.
fn say_on(mut connection: &TcpStream) {
    use std::io::Write as _;
    for _ in 0..3 {
        let _ = connection.write(CANARY.as_bytes());
        // Longer than the first retransmission takes, 200 ms (RFC 6298 has 1 s; Linux: TCP_RTO_MIN).
        std::thread::sleep(Duration::from_millis(150));
    }
}

#[test]
fn up_takes_over_what_a_killed_program_left() {
    test("up_takes_over_what_a_killed_program_left", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        cluster.a.netns().set_sysctl(RP_FILTER, "1").unwrap();
        let before = Snapshot::take(cluster.a.netns()).unwrap();
        let _b = cluster.up(&cluster.b, "");
        for _ in 0..2 {
            let mut killed = cluster.up(&cluster.a, "");
            cluster.say_canary(cluster.b.v4());
            killed.program.signal(Signal::Kill).unwrap();
            killed.program.wait(LIMIT).unwrap();
        }
        let last = cluster.up(&cluster.a, "");
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        assert!(last.packets("encrypted") > 0);
        probe.assert_only_encrypted();
        assert_done(&cluster.down(&cluster.a));
        assert_as_it_was(&cluster.a, &before);
    });
}

#[test]
fn strict_reverse_path_filtering_does_not_stop_the_tunnel_and_is_put_back() {
    test("strict_reverse_path_filtering_does_not_stop_the_tunnel_and_is_put_back", || {
        // The larger of both values counts (Documentation/networking/ip-sysctl.rst, rp_filter).
        for strict in [RP_FILTER, "ipv4/conf/all/rp_filter"] {
            let cluster = Cluster::on_one_node();
            let probe = cluster.probe();
            cluster.a.netns().set_sysctl(strict, "1").unwrap();
            cluster.control(&probe, cluster.b.addresses());
            let before = Snapshot::take(cluster.a.netns()).unwrap();
            let _a = cluster.up(&cluster.a, "");
            let _b = cluster.up(&cluster.b, "");
            assert_eq!(cluster.a.netns().sysctl(RP_FILTER).unwrap(), "2");
            for to in cluster.b.addresses() {
                cluster.say_canary(to);
                assert!(Ping::new(to).run(cluster.a.netns()).unwrap().is_complete(), "{strict}: {to}");
            }
            for to in cluster.a.addresses() {
                assert!(Ping::new(to).run(cluster.b.netns()).unwrap().is_complete(), "{strict}: {to}");
            }
            probe.assert_only_encrypted();

            // It would stop the tunnel, were it left in place: so the program goes on being right about it.
            cluster.a.netns().set_sysctl(RP_FILTER, "1").unwrap();
            let end = Instant::now() + Duration::from_secs(1);
            while cluster.a.netns().sysctl(RP_FILTER).unwrap() != "2" {
                assert!(Instant::now() < end, "{strict}: it stays strict");
            }
            assert!(Ping::new(cluster.b.v4()).run(cluster.a.netns()).unwrap().is_complete());

            assert_done(&cluster.down(&cluster.a));
            assert_as_it_was(&cluster.a, &before);
        }
    });
}
