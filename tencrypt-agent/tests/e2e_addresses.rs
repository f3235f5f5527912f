//! Addresses and those who are there, where the network does what honest networks do: a backend that dies, a restart behind
//! connection tracking, a second address, translated sources, a peer that comes late or is slow.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use support::{Cluster, LIMIT, Running};
use tencrypt_lab::{Pod, Ports, Signal, UdpEcho, test, udp_echo};

/// Port of the echo.
const UDP: u16 = 9001;
const TCP: u16 = 9002;
const SECOND: Duration = Duration::from_secs(1);

/// Time until a datagram to an echo is answered, asked anew all the time.
fn echoed_after(from: &Pod, to: IpAddr) -> Duration {
    let begun = Instant::now();
    while !is_echoed(from, to, Duration::from_millis(20)) {
        assert!(begun.elapsed() < LIMIT, "{to} does not answer");
    }
    begun.elapsed()
}

fn is_echoed(from: &Pod, to: IpAddr, wait: Duration) -> bool {
    udp_echo(from.netns(), SocketAddr::new(to, UDP), [100], wait).is_ok_and(|lost| lost.is_empty())
}

/// Kills a pod's program and starts it anew.
fn restart(cluster: &Cluster, pod: &Pod, mut running: Running) -> Running {
    running.program.signal(Signal::Kill).unwrap();
    running.program.wait(LIMIT).unwrap();
    cluster.up(pod, "")
}

#[test]
fn a_service_whose_pod_died_answers_within_six_seconds_of_the_rules_leading_elsewhere() {
    const NAME: &str = "a_service_whose_pod_died_answers_within_six_seconds_of_the_rules_leading_elsewhere";
    test(NAME, || {
        let cluster = Cluster::on_one_node();
        let other = cluster.pod(23);
        let [vip, _] = cluster.service(10);
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let _other = cluster.up(&other, "");
        let echo = UdpEcho::start(&other, UDP).unwrap();
        let echo_b = UdpEcho::start(&cluster.b, UDP).unwrap();
        assert!(is_echoed(&cluster.a, vip, LIMIT) && echo_b.received() > 0);
        cluster.b.set_up(false).unwrap();
        drop(b);
        cluster.nodes[0].end_services().unwrap();
        cluster.nodes[0].service(vip, &[other.v4()], &Ports::All).unwrap();
        let after = echoed_after(&cluster.a, vip);
        assert!(echo.received() > 0);
        assert!(after <= 6 * SECOND, "{after:?}: {}", a.status());
    });
}

#[test]
fn a_socket_on_a_second_address_of_a_pod_gets_its_answers() {
    test("a_socket_on_a_second_address_of_a_pod_gets_its_answers", || {
        let cluster = Cluster::on_one_node();
        let second = IpAddr::from([10, 128, 0, 121]);
        cluster.a.add_address(format!("{second}/14").parse().unwrap()).unwrap();
        let (_a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let socket = cluster.a.netns().run(|| UdpSocket::bind((second, 0))).unwrap();
        socket.set_read_timeout(Some(SECOND)).unwrap();
        let mut buffer = [0; 64];
        for number in 0..3 {
            // The first one waits until the address is proven.
            socket.send_to(&[number], (cluster.b.v4(), UDP)).unwrap();
            let answer = socket.recv(&mut buffer).map(|length| buffer[..length].to_vec());
            assert_eq!(answer.ok(), Some(vec![number]), "{}", b.status());
        }
    });
}

#[test]
fn the_first_packet_to_a_service_is_not_lost() {
    test("the_first_packet_to_a_service_is_not_lost", || {
        let cluster = Cluster::on_one_node();
        let [vip, _] = cluster.service(10);
        let b = cluster.up(&cluster.b, "");
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        // The node translates the source of INIT, so the server asks the client for its address, and the client the server.
        for number in 31..=38 {
            let client = cluster.pod(number);
            let running = cluster.up(&client, "");
            let is_echoed = is_echoed(&client, vip, 2 * SECOND);
            assert!(is_echoed, "{number}: {}\n{}", running.status(), b.status());
        }
    });
}

/// Two pods between which the first node gives the first one's packets its own address as source.
fn behind_other_sources() -> Cluster {
    let cluster = Cluster::on_two_routed_nodes();
    let range = |third: u8| format!("10.128.{third}.0/24").parse().unwrap();
    cluster.nodes[0].masquerade(range(0), range(2)).unwrap();
    cluster
}

#[test]
fn behind_translated_sources_pods_without_certificates_reach_each_other_where_both_are_routed_to() {
    const NAME: &str =
        "behind_translated_sources_pods_without_certificates_reach_each_other_where_both_are_routed_to";
    test(NAME, || {
        let cluster = behind_other_sources();
        let _echoes = (UdpEcho::start(&cluster.a, UDP).unwrap(), UdpEcho::start(&cluster.b, UDP).unwrap());
        for (from, to) in [(&cluster.a, &cluster.b), (&cluster.b, &cluster.a)] {
            assert!(is_echoed(from, to.v4(), LIMIT), "in plain");
        }
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        for (from, to) in [(&cluster.a, &cluster.b), (&cluster.b, &cluster.a)] {
            let after = echoed_after(from, to.v4());
            assert!(after < 2 * SECOND, "{after:?}: {}\n{}", a.status(), b.status());
        }
    });
}

/// `up` in both pods, with certificates of one authority.
fn up_certified(cluster: &Cluster) -> [Running; 2] {
    let file = |name: &str| cluster.directory.join(name).into_os_string().into_string().unwrap();
    let run = |arguments: &[&str]| {
        let finished = cluster.tencrypt(arguments.iter().map(Into::into));
        assert!(finished.status.success(), "{arguments:?}: {finished:?}");
    };
    let (authority, key) = (file("ca"), file("ca.pub"));
    run(&["ca", "init", &authority]);
    [(&cluster.a, "a"), (&cluster.b, "b")].map(|(pod, name)| {
        let certificate = file(&format!("{name}.cert"));
        let identity = format!("[identity]\nca = \"{key}\"\ncertificate = \"{certificate}\"\n");
        let running = cluster.up(pod, &identity);
        let netns = pod.netns().path().into_os_string().into_string().unwrap();
        let (ca, out) = (["--ca", &authority], ["--out", &certificate]);
        let subject = ["--netns", &netns, "--pod", name, "--generation", "1"];
        run(&[&["ca", "issue"][..], &ca, &subject, &out].concat());
        let end = Instant::now() + LIMIT;
        while running.status()["identity"]["certificate"]["pod"] != name {
            assert!(Instant::now() < end, "{}", running.status());
            thread::sleep(Duration::from_millis(20));
        }
        running
    })
}

#[test]
fn an_address_behind_translated_sources_that_is_not_routed_to_needs_a_certificate_and_status_counts_it() {
    const NAME: &str =
        "an_address_behind_translated_sources_that_is_not_routed_to_needs_a_certificate_and_status_counts_it";
    test(NAME, || {
        let cluster = behind_other_sources();
        // b knows no way to a but that of the answers.
        cluster.nodes[1].delete_route("10.128.0.0/24".parse().unwrap()).unwrap();
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        assert!(is_echoed(&cluster.a, cluster.b.v4(), LIMIT), "in plain");
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        for _ in 0..10 {
            assert!(!is_echoed(&cluster.a, cluster.b.v4(), Duration::from_millis(200)), "{}", a.status());
        }
        assert!(b.drops("inner_source") > 0, "{}", b.status());
        for (pod, running) in [(&cluster.a, a), (&cluster.b, b)] {
            assert!(running.stop().status.code().is_some());
            assert!(cluster.down(pod).status.success());
        }
        let [a, b] = up_certified(&cluster);
        let after = echoed_after(&cluster.a, cluster.b.v4());
        assert!(after < 2 * SECOND, "{after:?}: {}\n{}", a.status(), b.status());
    });
}

/// A client of a service on another node, whose address is translated there and back by connection tracking alone.
struct Tracked {
    cluster: Cluster,
    vip: IpAddr,
    _echoes: [UdpEcho; 2],
}

impl Tracked {
    fn new() -> Self {
        let cluster = Cluster::on_two_routed_nodes();
        let vip = IpAddr::from([172, 30, 0, 10]);
        cluster.nodes[0].keep_sources().unwrap();
        cluster.nodes[0].service(vip, &[cluster.b.v4()], &Ports::All).unwrap();
        let echoes = [&cluster.a, &cluster.b].map(|pod| UdpEcho::start(pod, UDP).unwrap());
        Self { cluster, vip, _echoes: echoes }
    }

    fn client_speaks(&self) -> Duration {
        echoed_after(&self.cluster.a, self.vip)
    }

    fn server_speaks(&self) -> Duration {
        echoed_after(&self.cluster.b, self.cluster.a.v4())
    }
}

#[test]
fn a_restarted_server_behind_a_service_is_back_within_a_second_whoever_speaks_first() {
    const NAME: &str = "a_restarted_server_behind_a_service_is_back_within_a_second_whoever_speaks_first";
    test(NAME, || {
        let net = Tracked::new();
        net.client_speaks();
        let (a, mut b) = (net.cluster.up(&net.cluster.a, ""), net.cluster.up(&net.cluster.b, ""));
        net.client_speaks();
        type Order = (&'static str, fn(&Tracked) -> Duration);
        let orders: [Order; 4] = [
            ("the client alone", |net| net.client_speaks()),
            ("the server, then the client", |net| net.server_speaks() + net.client_speaks()),
            ("the client, then the server", |net| net.client_speaks() + net.server_speaks()),
            ("both", |net| {
                thread::scope(|scope| {
                    let server = scope.spawn(|| net.server_speaks());
                    let client = net.client_speaks();
                    client.max(server.join().unwrap())
                })
            }),
        ];
        for (order, speak) in orders {
            // What bounds RESETs and questions has nothing left of the restart before.
            thread::sleep(2 * SECOND);
            b = restart(&net.cluster, &net.cluster.b, b);
            let after = speak(&net);
            assert!(after < SECOND, "{order}: {after:?}: {}", a.status());
        }
    });
}

/// Both ends of a connection from `a` to a service of `b`, over which a byte went each way.
fn connection(cluster: &Cluster, listener: &TcpListener, vip: IpAddr) -> (TcpStream, TcpStream) {
    let client = cluster.a.netns().run(|| TcpStream::connect_timeout(&(vip, TCP).into(), LIMIT)).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
    }
    let mut ends = (client, server);
    pass(&mut ends.0, &mut ends.1).unwrap();
    pass(&mut ends.1, &mut ends.0).unwrap();
    ends
}

/// Sends a byte from one end to the other.
fn pass(from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<()> {
    from.write_all(b"x")?;
    to.read_exact(&mut [0])
}

#[test]
fn a_connection_by_a_service_outlives_its_servers_program_unless_the_server_writes_first() {
    const NAME: &str =
        "a_connection_by_a_service_outlives_its_servers_program_unless_the_server_writes_first";
    test(NAME, || {
        let cluster = Cluster::on_one_node();
        let [vip, _] = cluster.service(10);
        let (_a, mut b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let listener = cluster.b.netns().run(|| TcpListener::bind((cluster.b.v4(), TCP))).unwrap();
        let (mut client, mut server) = connection(&cluster, &listener, vip);
        // An acknowledgement may be 40 ms late (TCP_DELACK_MIN, include/net/tcp.h): without it the server says all again.
        let quiet = || thread::sleep(Duration::from_millis(300));
        quiet();
        b = restart(&cluster, &cluster.b, b);
        pass(&mut client, &mut server).unwrap();
        pass(&mut server, &mut client).unwrap();
        quiet();

        // The translation went with the program: what the server writes comes from its own address, which the client's
        // kernel knows no connection with. Both ends learn that, and may connect anew.
        let _b = restart(&cluster, &cluster.b, b);
        let _ = server.write_all(b"x");
        let ends = server.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(ends, Err(ErrorKind::ConnectionReset));
        let after = pass(&mut client, &mut server).map_err(|error| error.kind());
        assert!(after.is_err(), "{after:?}");
        assert_eq!(client.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
        connection(&cluster, &listener, vip);
    });
}

#[test]
fn a_pod_that_comes_up_while_others_call_it_is_reached_within_a_second() {
    test("a_pod_that_comes_up_while_others_call_it_is_reached_within_a_second", || {
        let cluster = Cluster::on_one_node();
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let a = cluster.up(&cluster.a, "");
        // Long enough for pauses that double to be longer than the bound.
        let begun = Instant::now();
        while begun.elapsed() < 9 * SECOND {
            assert!(!is_echoed(&cluster.a, cluster.b.v4(), Duration::from_millis(200)));
        }
        let _b = cluster.up(&cluster.b, "");
        let after = echoed_after(&cluster.a, cluster.b.v4());
        // A question a second, and its round trip.
        assert!(after < Duration::from_millis(1_500), "{after:?}: {}", a.status());
    });
}

#[test]
fn an_answer_that_comes_late_counts() {
    test("an_answer_that_comes_late_counts", || {
        let cluster = Cluster::on_one_node();
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let (a, mut b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        b.program.signal(Signal::Stop).unwrap();
        assert!(!is_echoed(&cluster.a, cluster.b.v4(), Duration::from_millis(1_700)));
        b.program.signal(Signal::Continue).unwrap();
        let after = echoed_after(&cluster.a, cluster.b.v4());
        assert!(after < SECOND, "{after:?}: {}", a.status());
    });
}
