//! A member that has the tenant's key and a program of its own: what it says of others' addresses is not believed, and what
//! it wants for itself has an end.

mod liar;
mod support;

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use liar::{Member, v4};
use support::{CANARY, Cluster, LIMIT};
use tencrypt_lab::{Pod, Signal, TUNNEL_PORT, UdpEcho, send_unreachable, test, test_within, udp_echo};
use tencrypt_sim::{echo_request, udp};

/// Port of the echo.
const UDP: u16 = 9001;
/// Port at which what a liar sends would arrive.
const HEARD: u16 = 9002;
/// Peers that a lane has at most, unless it is told otherwise (docs/operations.md).
const MOST_PEERS: usize = 1_024;

fn is_echoed(from: &Pod, to: IpAddr, wait: Duration) -> bool {
    udp_echo(from.netns(), SocketAddr::new(to, UDP), [100], wait).unwrap().is_empty()
}

/// Time until a datagram to an echo is answered, asked anew all the time.
fn echoed_after(from: &Pod, to: IpAddr) -> Duration {
    let begun = Instant::now();
    while !is_echoed(from, to, Duration::from_millis(20)) {
        assert!(begun.elapsed() < LIMIT, "{to} does not answer");
    }
    begun.elapsed()
}

/// A socket of a pod to which a liar's packets go.
fn ear(pod: &Pod) -> UdpSocket {
    let socket = pod.netns().run(|| UdpSocket::bind((pod.v4(), HEARD))).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// The packets that reached an ear until now.
fn heard(ear: &UdpSocket) -> usize {
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| ear.recv(&mut buffer).ok()).count()
}

/// A liar that claims the address of `b` beside its own, and a packet to `a` in the name of `b`.
fn claimant(cluster: &Cluster, pod: &Pod) -> (Member, Vec<u8>) {
    let (a, b) = (cluster.a.v4(), cluster.b.v4());
    (Member::new(cluster, pod, &[pod.v4(), b]), udp((b, HEARD), (a, HEARD), CANARY.as_bytes()))
}

#[test]
fn a_record_with_a_made_up_source_gives_a_member_nothing_of_another_pod() {
    test("a_record_with_a_made_up_source_gives_a_member_nothing_of_another_pod", || {
        let cluster = Cluster::on_one_node();
        let third = cluster.pod(23);
        let (a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let ear = ear(&cluster.a);
        let (mut member, packet) = claimant(&cluster, &third);
        let session = member.session(cluster.a.v4());
        for _ in 0..5 {
            member.send(session, cluster.b.v4(), cluster.a.v4(), &packet);
            member.hear(Duration::from_millis(50));
        }
        assert!(is_echoed(&cluster.a, cluster.b.v4(), LIMIT), "{}", a.status());
        member.send(session, third.v4(), cluster.a.v4(), &packet);
        member.hear(Duration::from_millis(300));
        assert_eq!(member.packets.len(), 0, "what was for b was sealed to the liar");
        assert_eq!(heard(&ear), 0, "packets in the name of b were believed");
        assert!(a.drops("inner_source") > 0, "{}", a.status());
        // What it says in its own name counts.
        let own = udp((third.v4(), HEARD), (cluster.a.v4(), HEARD), b"own");
        member.send(session, third.v4(), cluster.a.v4(), &own);
        member.hear(Duration::from_millis(300));
        assert_eq!(heard(&ear), 1);
    });
}

#[test]
fn a_conf_with_a_made_up_source_gives_a_member_nothing_of_another_pod() {
    test("a_conf_with_a_made_up_source_gives_a_member_nothing_of_another_pod", || {
        let cluster = Cluster::on_one_node();
        let third = cluster.pod(23);
        let (a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let ear = ear(&cluster.a);
        assert!(is_echoed(&cluster.a, cluster.b.v4(), LIMIT), "b has proven its address");
        let (mut member, packet) = claimant(&cluster, &third);
        let session = member.session_by(cluster.a.v4(), cluster.a.v4(), [third.v4(), cluster.b.v4()]);
        for source in [third.v4(), cluster.b.v4(), third.v4()] {
            member.send(session, source, cluster.a.v4(), &packet);
            member.hear(Duration::from_millis(100));
        }
        assert!(is_echoed(&cluster.a, cluster.b.v4(), LIMIT), "{}", a.status());
        member.hear(Duration::from_millis(300));
        assert_eq!(member.packets.len(), 0, "what was for b was sealed to the liar");
        assert_eq!(heard(&ear), 0, "packets in the name of b were believed");
    });
}

#[test]
fn inits_forged_in_the_name_of_a_pod_do_not_keep_it_away() {
    test("inits_forged_in_the_name_of_a_pod_do_not_keep_it_away", || {
        let cluster = Cluster::on_one_node();
        let third = cluster.pod(23);
        let (a, mut b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let mut member = Member::new(&cluster, &third, &[third.v4()]);
        // As many as one address may send at once.
        let forged: Vec<_> = (0..5).map(|_| member.winning_init(cluster.a.v4())).collect();
        // While b gets no processor, its answer is under way, and the liar has all the time.
        b.program.signal(Signal::Stop).unwrap();
        assert!(!is_echoed(&cluster.a, cluster.b.v4(), Duration::from_millis(50)));
        for init in forged {
            member.send_as(cluster.b.v4(), cluster.a.v4(), &init);
            thread::sleep(Duration::from_millis(5));
        }
        b.program.signal(Signal::Continue).unwrap();
        let after = echoed_after(&cluster.a, cluster.b.v4());
        assert!(after < Duration::from_secs(1), "{after:?}: {}", a.status());
    });
}

#[test]
fn a_member_with_ever_new_keys_is_no_more_than_a_bounded_number_of_peers() {
    test_within("a_member_with_ever_new_keys_is_no_more_than_a_bounded_number_of_peers", LIMIT * 8, || {
        let cluster = Cluster::on_one_node();
        let third = cluster.pod(23);
        let sources: Vec<IpAddr> = (1..=48).map(|last| IpAddr::from([10, 128, 9, last])).collect();
        for source in &sources {
            third.add_address(format!("{source}/14").parse().unwrap()).unwrap();
        }
        let (a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        assert!(is_echoed(&cluster.a, cluster.b.v4(), LIMIT));
        let mut member = Member::new(&cluster, &third, &[]);
        // Slower than what makes a pod ask for cookies, and each source slower than its share.
        for source in sources.iter().cycle().take(MOST_PEERS + 200) {
            member.liar.claim(&[*source]);
            member.liar.change_key();
            member.session_by(cluster.a.v4(), cluster.a.v4(), [*source; 2]);
            thread::sleep(Duration::from_millis(8));
        }
        let begun = Instant::now();
        let peers = a.peers().as_array().map_or(0, Vec::len);
        assert!(peers <= MOST_PEERS * usize::from(support::lanes()), "{peers} peers");
        assert!(peers > 100, "{peers} peers: the liar has not shown what it can");
        assert!(begun.elapsed() < Duration::from_secs(5), "an answer took {:?}", begun.elapsed());
        assert!(is_echoed(&cluster.a, cluster.b.v4(), LIMIT), "the peer of before is served");
    });
}

#[test]
fn a_member_that_pings_a_service_with_every_identifier_leaves_the_flows_of_others_alone() {
    const NAME: &str = "a_member_that_pings_a_service_with_every_identifier_leaves_the_flows_of_others_alone";
    test_within(NAME, LIMIT * 8, || {
        let cluster = Cluster::on_one_node();
        let third = cluster.pod(23);
        let [vip, _] = cluster.service(10);
        let (_a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        echoed_after(&cluster.a, vip);
        let mut member = Member::new(&cluster, &third, &[third.v4()]);
        let session = member.session_by(cluster.b.v4(), vip, [third.v4(); 2]);
        // b may ask the liar for its address.
        member.hear(Duration::from_millis(200));
        // More than its table has places: some are lost, the more the busier the machine is.
        for _ in 0..8 {
            for id in 0..32_768_u16 {
                member.send(session, third.v4(), cluster.b.v4(), &echo_request(v4(third.v4()), v4(vip), id));
                if id % 128 == 0 {
                    member.hear(Duration::from_millis(2));
                }
            }
            if b.packets("decrypted") > 40_000 {
                break;
            }
        }
        assert!(b.packets("decrypted") > 40_000, "{}", b.status());
        let answered = (0..100).filter(|_| is_echoed(&cluster.a, vip, Duration::from_secs(1))).count();
        assert_eq!(answered, 100, "new flows of another client: {}", b.status());
    });
}

#[test]
fn a_forged_unreachable_does_not_make_a_first_packet_leave_in_plain() {
    test("a_forged_unreachable_does_not_make_a_first_packet_leave_in_plain", || {
        let cluster = Cluster::on_one_node();
        let third = cluster.pod(23);
        let probe = cluster.probe();
        cluster.control(&probe, [cluster.b.v4()]);
        let plain = "[policy]\nunknown = \"plain\"\n";
        let (_a, mut b) = (cluster.up(&cluster.a, plain), cluster.up(&cluster.b, ""));
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        probe.reset();
        b.program.signal(Signal::Stop).unwrap();
        let socket = cluster.a.netns().run(|| UdpSocket::bind((cluster.a.v4(), 0))).unwrap();
        socket.send_to(CANARY.as_bytes(), (cluster.b.v4(), UDP)).unwrap();
        let at = |pod: &Pod| SocketAddrV4::new(v4(pod.v4()), TUNNEL_PORT);
        for _ in 0..20 {
            let stranger = [198, 51, 100, 7].into();
            send_unreachable(third.netns(), stranger, (at(&cluster.a), at(&cluster.b))).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        b.program.signal(Signal::Continue).unwrap();
        let is_echoed = is_echoed(&cluster.a, cluster.b.v4(), Duration::from_secs(2));
        let report = probe.report();
        assert!(report.leaks == 0 && report.canary == 0, "{report}");
        assert!(is_echoed);
    });
}
