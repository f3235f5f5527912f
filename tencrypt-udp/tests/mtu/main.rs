//! What happens at the MTU, in a network namespace whose loopback device has one of 1,500 bytes.

mod sys;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
};

use tencrypt_udp::{PathErrorKind, UdpTransport};

/// Set in the copy of this program that runs inside.
const INSIDE: &str = "TENCRYPT_UDP_TEST_INSIDE";

#[test]
fn an_oversized_record_reports_the_mtu_and_the_next_one_passes() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("an_oversized_record_reports_the_mtu_and_the_next_one_passes");
    }
    // 1,500 less IP and UDP headers: 20 + 8 and 40 + 8 bytes.
    for (address, longest) in
        [(IpAddr::V4(Ipv4Addr::LOCALHOST), 1_472), (IpAddr::V6(Ipv6Addr::LOCALHOST), 1_452)]
    {
        let mut here = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
        let mut there = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
        let to = SocketAddr::new(address, there.port());
        let mut buf = [0; 2_000];
        for _ in 0..3 {
            here.send(to, &vec![1; longest + 1], 0);
            let error = here.poll_path_error().expect("the kernel refuses to fragment");
            assert_eq!((error.to, error.kind), (to, PathErrorKind::TooBig { mtu: 1_500 }));
            assert!(here.poll_path_error().is_none());
            here.send(to, &vec![2; longest], 0);
            // Loopback delivers during the call.
            let (_, len) = there.recv(&mut buf).unwrap().expect("what fits arrives");
            assert_eq!((len, buf[0]), (longest, 2));
            assert!(there.recv(&mut buf).unwrap().is_none());
        }
        assert_eq!(here.stats().unsent, 3);
    }
}

#[test]
fn a_destination_without_a_route_is_reported_and_never_fatal() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("a_destination_without_a_route_is_reported_and_never_fatal");
    }
    let mut here = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
    for to in [SocketAddr::from(([192, 0, 2, 1], 8362)), "[2001:db8::1]:8362".parse().unwrap()] {
        here.send(to, b"anybody?", 0);
        let error = here.poll_path_error().expect("there is no route");
        assert_eq!((error.to, error.kind), (to, PathErrorKind::NoRoute));
    }
    here.send(SocketAddr::from(([127, 0, 0, 1], here.port())), b"self", 0);
    assert_eq!(here.recv(&mut [0; 64]).unwrap().expect("a datagram").1, 4);
}

fn run_inside(test: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    sys::in_new_namespace(&mut child);
    let output = child.output().expect("a network namespace can be made here");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
