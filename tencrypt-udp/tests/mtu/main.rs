//! Refusals of the kernel, in a network namespace whose loopback device has an MTU of 1,500 bytes.

mod sys;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
};

use socket2::{Domain, Protocol, Socket, Type};
use tencrypt::{DatagramSink, Train, TrainSlot};
use tencrypt_udp::{PathErrorKind, UdpTransport};

/// Set in the copy of this program that runs inside.
const INSIDE: &str = "TENCRYPT_UDP_TEST_INSIDE";

/// The longest record: 1,500 less IP and UDP headers of 20 + 8 and 40 + 8 bytes.
const LONGEST: [(IpAddr, u16); 2] =
    [(IpAddr::V4(Ipv4Addr::LOCALHOST), 1_472), (IpAddr::V6(Ipv6Addr::LOCALHOST), 1_452)];

#[test]
fn an_oversized_record_reports_the_mtu_and_the_next_one_passes() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("an_oversized_record_reports_the_mtu_and_the_next_one_passes");
    }
    for (address, longest) in LONGEST {
        let longest = usize::from(longest);
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

#[test]
fn a_train_of_oversized_records_reports_the_mtu_once_and_what_fits_passes() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("a_train_of_oversized_records_reports_the_mtu_once_and_what_fits_passes");
    }
    for (address, longest) in LONGEST {
        let mut here = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
        let mut there = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
        let to = SocketAddr::new(address, there.port());
        let mut buf = vec![0; 65_535];
        for round in 1..=3 {
            commit(&mut here, Train { to, stride: longest + 1, count: 20, last: 100, ecn: 0 });
            commit(&mut here, Train { to, stride: longest + 1, count: 20, last: longest + 1, ecn: 0 });
            // Behind them one that fits: the destination takes trains as before.
            commit(&mut here, Train { to, stride: longest, count: 20, last: longest, ecn: 0 });
            here.flush();
            for _ in 0..2 {
                let error = here.poll_path_error().expect("the kernel refuses to fragment");
                assert_eq!((error.to, error.kind), (to, PathErrorKind::TooBig { mtu: 1_500 }));
            }
            assert!(here.poll_path_error().is_none());
            assert_eq!(there.recv(&mut buf).unwrap().expect("the tail arrives").1, 100);
            let (meta, len) = there.recv(&mut buf).unwrap().expect("the train arrives");
            assert_eq!((meta.stride, len), (longest, 20 * usize::from(longest)));
            assert!(there.recv(&mut buf).unwrap().is_none());
            let stats = here.stats();
            assert_eq!(
                (stats.gso_refused, stats.unsent, stats.sent_records),
                (2 * round, 39 * round, 21 * round)
            );
        }
    }
}

#[test]
fn an_oversized_record_among_others_reports_once_and_stops_none() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("an_oversized_record_among_others_reports_once_and_stops_none");
    }
    for (address, longest) in LONGEST {
        let mut here = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
        let mut there = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
        let to = SocketAddr::new(address, there.port());
        for (ecn, len) in (0..).zip([100, longest + 1, 200, longest]) {
            // Of different marks, they do not become a train.
            commit(&mut here, Train::single(to, len, ecn));
        }
        here.flush();
        let error = here.poll_path_error().expect("the kernel refuses to fragment");
        assert_eq!((error.to, error.kind), (to, PathErrorKind::TooBig { mtu: 1_500 }));
        assert!(here.poll_path_error().is_none());
        let mut buf = [0; 2_000];
        for len in [100, 200, longest] {
            assert_eq!(there.recv(&mut buf).unwrap().expect("a record").1, usize::from(len));
        }
        // The first, which ends at the second; that one; and the two behind it.
        assert_eq!((here.stats().send_calls, here.stats().sent_records, here.stats().unsent), (2, 3, 1));
    }
}

#[test]
fn a_refused_train_goes_record_by_record_and_the_next_one_at_once() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("a_refused_train_goes_record_by_record_and_the_next_one_at_once");
    }
    for (address, longest) in LONGEST {
        // Without checksums the kernel cuts nothing: EINVAL.
        let mut here = UdpTransport::bind(0, sys::without_checksums).unwrap();
        let mut there = UdpTransport::bind(0, sys::without_checksums).unwrap();
        assert!(here.offload().send);
        let to = SocketAddr::new(address, there.port());
        let mut buf = vec![0; 65_535];
        for round in 1..=3 {
            commit(&mut here, Train { to, stride: longest, count: 44, last: 90, ecn: 1 });
            here.flush();
            for index in 0..44 {
                let (meta, len) = there.recv(&mut buf).unwrap().expect("a record");
                assert_eq!((len, meta.ecn), (if index == 43 { 90 } else { usize::from(longest) }, 1));
                assert!(buf[..len].iter().all(|byte| *byte == index));
            }
            assert!(there.recv(&mut buf).unwrap().is_none());
            let stats = here.stats();
            // The first record alone, the others in one call; from then on all in one call.
            assert_eq!(
                (stats.gso_refused, stats.sent_records, stats.send_calls, stats.unsent),
                (1, 44 * round, 1 + round, 0)
            );
        }
        // Remembered until somebody asks for it again.
        here.set_offload(true);
        commit(&mut here, Train { to, stride: longest, count: 44, last: 90, ecn: 0 });
        here.flush();
        assert_eq!(here.stats().gso_refused, 2);
        assert!(here.poll_path_error().is_none());
    }
}

#[test]
fn oversized_records_to_a_destination_that_takes_no_trains_report_once() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("oversized_records_to_a_destination_that_takes_no_trains_report_once");
    }
    for (address, longest) in LONGEST {
        let mut here = UdpTransport::bind(0, sys::without_checksums).unwrap();
        let mut there = UdpTransport::bind(0, sys::without_checksums).unwrap();
        let to = SocketAddr::new(address, there.port());
        commit(&mut here, Train { to, stride: 100, count: 3, last: 100, ecn: 0 });
        commit(&mut here, Train { to, stride: longest + 1, count: 30, last: 50, ecn: 0 });
        here.flush();
        let error = here.poll_path_error().expect("the kernel refuses to fragment");
        assert_eq!((error.to, error.kind), (to, PathErrorKind::TooBig { mtu: 1_500 }));
        assert!(here.poll_path_error().is_none());
        let mut buf = [0; 2_000];
        for len in [100, 100, 100, 50] {
            assert_eq!(there.recv(&mut buf).unwrap().expect("a record").1, len);
        }
        assert_eq!((here.stats().unsent, here.stats().sent_records), (29, 4));
    }
}

#[test]
fn a_train_whose_control_data_is_cut_is_dropped_and_counted() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("a_train_whose_control_data_is_cut_is_dropped_and_counted");
    }
    for (address, longest) in LONGEST {
        let mut here = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
        let mut there = UdpTransport::bind(0, sys::with_much_to_tell).unwrap();
        let to = SocketAddr::new(address, there.port());
        commit(&mut here, Train { to, stride: longest, count: 3, last: longest, ecn: 0 });
        here.flush();
        assert!(there.recv(&mut vec![0; 65_535]).unwrap().is_none());
        assert_eq!((there.stats().truncated, there.stats().received_records), (1, 0));
    }
}

#[test]
fn what_a_router_says_of_one_datagram_holds_up_no_other() {
    if std::env::var_os(INSIDE).is_none() {
        return run_inside("what_a_router_says_of_one_datagram_holds_up_no_other");
    }
    let mut here = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
    let mut there = UdpTransport::bind(0, |_socket| Ok(())).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], there.port()));
    let far = SocketAddr::from(([127, 9, 9, 9], 8_362));
    let mut buf = vec![0; 65_535];
    for records in [1, 2, 44] {
        fragmentation_needed(here.port(), far, 1_280);
        // The kernel hands the report to this call.
        commit(&mut here, Train { to, stride: 1_400, count: records, last: 1_400, ecn: 0 });
        here.flush();
        let (_, len) = there.recv(&mut buf).unwrap().expect("the train arrives whole");
        assert_eq!(len, 1_400 * usize::from(records));
        let error = here.poll_path_error().expect("the report is passed on");
        assert_eq!((error.to, error.kind), (far, PathErrorKind::TooBig { mtu: 1_280 }));
        assert!(here.poll_path_error().is_none());
    }
    assert_eq!((here.stats().unsent, here.stats().gso_refused, here.stats().send_calls), (0, 0, 3));
}

/// As a router that could not pass on a datagram from `port` to `to` (RFC 792, type 3 code 4; the MTU as in RFC 1191
/// section 4).
fn fragmentation_needed(port: u16, to: SocketAddr, mtu: u16) {
    let IpAddr::V4(destination) = to.ip() else { panic!("IPv4 only") };
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    // The IPv4 header of the datagram and the first 8 bytes behind it.
    message.extend([0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    message.extend(Ipv4Addr::LOCALHOST.octets());
    message.extend(destination.octets());
    message.extend(port.to_be_bytes());
    message.extend(to.port().to_be_bytes());
    message.extend([0x05, 0xc8, 0, 0]);
    let sum: u32 = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let router = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    router.send_to(&message, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
}

/// Commits `want` with every record filled with its number.
fn commit(transport: &mut UdpTransport, want: Train) {
    let mut slot = transport.reserve(want).expect("a flushed buffer has room");
    assert_eq!(slot.records(), want.count);
    for (index, record) in slot.buffer().chunks_mut(usize::from(want.stride)).enumerate() {
        record.fill(index as u8);
    }
    slot.commit(want.count, want.total_len());
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
