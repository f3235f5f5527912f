//! The transport on loopback.

mod trains;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tencrypt::{DatagramSink, RecvMeta, Train, TrainSlot};
use tencrypt_udp::{BindError, Family, PathError, PathErrorKind, UdpTransport};

const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn transport() -> UdpTransport {
    UdpTransport::bind(0, |_socket| Ok(())).expect("loopback has both families")
}

fn queue(transport: &mut UdpTransport, to: SocketAddr, bytes: &[u8], ecn: u8) {
    let train = Train::single(to, bytes.len() as u16, ecn);
    let mut slot = transport.reserve(train).expect("a flushed buffer has room");
    slot.buffer().copy_from_slice(bytes);
    slot.commit(1, bytes.len());
}

fn receive(transport: &mut UdpTransport, buf: &mut [u8]) -> (RecvMeta, usize) {
    eventually(|| transport.recv(buf).expect("no remote party makes receiving fail"))
}

fn path_error(transport: &mut UdpTransport) -> PathError {
    eventually(|| {
        transport.drain_path_errors();
        transport.poll_path_error()
    })
}

/// An address that refuses datagrams: the socket on it takes them from its own peer only. Held, so that no other test
/// is given the port.
fn refusing(address: IpAddr) -> (UdpSocket, SocketAddr) {
    let holder = UdpSocket::bind((address, 0)).unwrap();
    holder.connect((address, 9)).unwrap();
    let refused = holder.local_addr().unwrap();
    (holder, refused)
}

fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < until, "nothing within 5 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_datagram_arrives_whole_in_both_families() {
    let (mut here, mut there) = (transport(), transport());
    let mut buf = vec![0; 65_535];
    for address in LOOPBACKS {
        queue(&mut here, SocketAddr::new(address, there.port()), b"record", 0);
        here.flush();
        let (meta, len) = receive(&mut there, &mut buf);
        assert_eq!(&buf[..len], b"record");
        assert_eq!(meta, RecvMeta::new(SocketAddr::new(address, here.port()), 6));
        assert!(there.recv(&mut buf).unwrap().is_none());
    }
}

#[test]
fn the_ecn_bits_travel_with_the_datagram() {
    let (mut here, mut there) = (transport(), transport());
    let mut buf = vec![0; 2_000];
    for address in LOOPBACKS {
        for ecn in 0..4 {
            queue(&mut here, SocketAddr::new(address, there.port()), b"x", ecn);
            here.flush();
            assert_eq!(receive(&mut there, &mut buf).0.ecn, ecn, "{address}");
        }
    }
}

#[test]
fn nothing_leaves_before_flush_and_order_is_kept() {
    let (mut here, mut there) = (transport(), transport());
    let to = SocketAddr::new(LOOPBACKS[0], there.port());
    let mut buf = [0; 64];
    queue(&mut here, to, b"first", 0);
    queue(&mut here, to, b"second", 0);
    assert!(there.recv(&mut buf).unwrap().is_none());
    here.send(to, b"third", 0);
    for expected in ["first", "second", "third"] {
        let (_, len) = receive(&mut there, &mut buf);
        assert_eq!(&buf[..len], expected.as_bytes());
    }
}

#[test]
fn a_dropped_slot_sends_nothing() {
    let (mut here, mut there) = (transport(), transport());
    let to = SocketAddr::new(LOOPBACKS[0], there.port());
    let mut slot = here.reserve(Train::single(to, 4, 0)).unwrap();
    slot.buffer().copy_from_slice(b"lost");
    drop(slot);
    queue(&mut here, to, b"kept", 0);
    here.flush();
    let mut buf = [0; 64];
    let (_, len) = receive(&mut there, &mut buf);
    assert_eq!(&buf[..len], b"kept");
    assert!(there.recv(&mut buf).unwrap().is_none());
}

#[test]
fn a_datagram_longer_than_the_receive_buffer_is_dropped_and_counted() {
    let (mut here, mut there) = (transport(), transport());
    let to = SocketAddr::new(LOOPBACKS[1], there.port());
    here.send(to, &[1; 101], 0);
    here.send(to, &[2; 100], 0);
    let mut buf = [0; 100];
    assert_eq!(receive(&mut there, &mut buf).1, 100);
    assert_eq!(buf, [2; 100]);
    assert_eq!(there.stats().truncated, 1);
}

#[test]
fn an_empty_datagram_is_received_as_such() {
    let mut there = transport();
    let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
    plain.send_to(&[], ("127.0.0.1", there.port())).unwrap();
    let (meta, len) = receive(&mut there, &mut [0; 10]);
    assert_eq!((meta.stride, len), (0, 0));
}

#[test]
fn a_datagram_longer_than_any_ip_packet_is_too_big() {
    let (mut here, mut there) = (transport(), transport());
    let to = SocketAddr::new(LOOPBACKS[0], there.port());
    queue(&mut here, to, &[0; 65_535], 0);
    queue(&mut here, to, b"next", 0);
    here.flush();
    let error = here.poll_path_error().expect("the datagram was refused");
    assert_eq!((error.to, error.kind), (to, PathErrorKind::TooBig { mtu: u16::MAX }));
    assert_eq!(here.stats().unsent, 1);
    assert_eq!(receive(&mut there, &mut [0; 64]).1, 4);
}

#[test]
fn a_refused_port_is_reported_and_disturbs_nobody_else() {
    for address in LOOPBACKS {
        let (mut here, mut there) = (transport(), transport());
        let (_holder, refused) = refusing(address);
        let mut buf = [0; 64];
        for round in 0..3 {
            here.send(refused, b"anybody?", 0);
            // The report on the first is handed to this one's system call.
            here.send(SocketAddr::new(address, there.port()), b"hello", 0);
            assert_eq!(receive(&mut there, &mut buf).1, 5, "round {round}");
            let error = path_error(&mut here);
            assert_eq!((error.to, error.kind), (refused, PathErrorKind::Unreachable));
        }
        assert_eq!(here.stats().unsent, 0);
    }
}

#[test]
fn a_pending_refusal_does_not_stop_receiving() {
    let (mut here, mut there) = (transport(), transport());
    let (_holder, refused) = refusing(LOOPBACKS[0]);
    there.send(SocketAddr::new(LOOPBACKS[0], here.port()), b"hello", 0);
    here.send(refused, b"anybody?", 0);
    assert_eq!(receive(&mut here, &mut [0; 64]).1, 5);
    assert_eq!(path_error(&mut here).to, refused);
}

#[test]
fn reports_that_nobody_polls_stay_bounded() {
    let mut here = transport();
    // Longer than any IP packet: refused at once, one report each.
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    for _ in 0..100 {
        here.send(to, &[0; 65_535], 0);
    }
    let mut reports = 0;
    while here.poll_path_error().is_some() {
        reports += 1;
    }
    assert_eq!((reports, here.stats().path_errors_lost), (64, 36));
}

#[test]
fn a_port_that_is_taken_is_refused_by_name() {
    let first = transport();
    let Err(error) = UdpTransport::bind(first.port(), |_socket| Ok(())) else { panic!("bound twice") };
    assert!(matches!(error, BindError::PortTaken { port, family: Family::V4 } if port == first.port()));
    assert_eq!(error.to_string(), format!("UDP port {} is taken (IPv4)", first.port()));
}

#[test]
fn a_port_taken_in_ipv6_alone_is_refused_too() {
    let holder = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    holder.set_only_v6(true).unwrap();
    holder.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
    let port = holder.local_addr().unwrap().as_socket().unwrap().port();
    let Err(error) = UdpTransport::bind(port, |_socket| Ok(())) else { panic!("bound twice") };
    // Another test may hold the IPv4 port by chance; the port is what counts.
    assert!(matches!(error, BindError::PortTaken { port: taken, .. } if taken == port));
}

#[test]
fn a_failing_set_up_keeps_its_reason() {
    let Err(error) = UdpTransport::bind(0, |_socket| Err(io::ErrorKind::PermissionDenied.into())) else {
        panic!("the set-up was not called")
    };
    assert!(matches!(error, BindError::SetUp { family: Family::V4, source }
        if source.kind() == io::ErrorKind::PermissionDenied));
}

#[test]
fn sockets_made_elsewhere_are_taken_and_one_family_is_enough() {
    let v4 = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    v4.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let mut here = UdpTransport::from_sockets(Some(v4.into()), None).unwrap();
    assert!(here.socket(Family::V4).is_some() && here.socket(Family::V6).is_none());
    let mut there = transport();
    here.send(SocketAddr::new(LOOPBACKS[0], there.port()), b"hello", 0);
    assert_eq!(receive(&mut there, &mut [0; 64]).1, 5);
    // The other family has no way out, and says so.
    let to = SocketAddr::new(LOOPBACKS[1], there.port());
    here.send(to, b"hello", 0);
    let error = here.poll_path_error().unwrap();
    assert_eq!((error.to, error.kind), (to, PathErrorKind::NoRoute));
    assert!(here.recv(&mut [0; 64]).unwrap().is_none());
}

#[test]
fn sockets_that_do_not_belong_together_are_refused() {
    let bound = |address: IpAddr| {
        let socket =
            Socket::new(Domain::for_address(SocketAddr::new(address, 0)), Type::DGRAM, None).unwrap();
        socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
        socket.into()
    };
    assert!(matches!(UdpTransport::from_sockets(None, None), Err(BindError::NoFamily)));
    let wrong = UdpTransport::from_sockets(Some(bound(LOOPBACKS[1])), None);
    assert!(matches!(wrong, Err(BindError::Mismatch)));
    let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    assert!(matches!(UdpTransport::from_sockets(Some(unbound.into()), None), Err(BindError::Mismatch)));
}

#[cfg(feature = "tokio")]
mod with_tokio {
    use super::*;
    use tencrypt_udp::{AsyncUdpTransport, BytesMut};

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(5), future).await.expect("something within 5 s")
    }

    #[tokio::test]
    async fn receiving_waits_for_either_family() {
        let mut there = AsyncUdpTransport::new(transport()).unwrap();
        let port = there.transport().port();
        let mut buf = [0; 64];
        for address in [LOOPBACKS[1], LOOPBACKS[0], LOOPBACKS[1]] {
            let mut here = transport();
            let sending = async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                here.send(SocketAddr::new(address, port), b"hello", 0);
                here
            };
            let (received, _here) = soon(async { tokio::join!(there.recv(&mut buf), sending) }).await;
            let (meta, len) = received.unwrap().expect("a datagram");
            assert_eq!((meta.from.ip(), len), (address, 5));
        }
        let none = tokio::time::timeout(Duration::from_millis(50), there.recv(&mut buf)).await;
        assert!(none.is_err(), "nothing was sent any more");
    }

    #[tokio::test]
    async fn a_flood_of_oversized_datagrams_does_not_hide_the_good_one() {
        let mut there = AsyncUdpTransport::new(transport()).unwrap();
        let mut here = transport();
        let to = SocketAddr::new(LOOPBACKS[0], there.transport().port());
        for _ in 0..300 {
            here.send(to, &[0; 200], 0);
        }
        here.send(to, b"good", 0);
        let mut buf = [0; 100];
        let (_, len) = soon(there.recv(&mut buf)).await.unwrap().expect("a datagram");
        assert_eq!((&buf[..len], there.transport().stats().truncated), (&b"good"[..], 300));
    }

    #[tokio::test]
    async fn datagrams_are_received_behind_what_is_there_and_given_out_without_a_copy() {
        let mut there = AsyncUdpTransport::new(transport()).unwrap();
        let mut here = transport();
        let to = SocketAddr::new(LOOPBACKS[0], there.transport().port());
        let mut buf = BytesMut::from(&b"before "[..]);
        for text in [&b"one, "[..], b"two"] {
            here.send(to, text, 0);
            let meta = soon(there.recv_buf(&mut buf)).await.unwrap().expect("a datagram");
            assert_eq!(usize::from(meta.stride), text.len());
        }
        assert_eq!(buf, &b"before one, two"[..]);
        // What is given away and dropped makes room for the next.
        let (mut buf, mut places, mut given) = (BytesMut::new(), Vec::new(), None);
        for _ in 0..10 {
            drop(given.take());
            here.send(to, &[7; 1_400], 0);
            soon(there.recv_buf(&mut buf)).await.unwrap().expect("a datagram");
            let bytes = buf.split().freeze();
            places.push(bytes.as_ptr());
            given = Some(bytes);
        }
        assert_eq!(given.unwrap(), [7; 1_400][..]);
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
        // Dropping a receive that waits leaves the buffer as it was.
        buf.extend_from_slice(b"kept");
        let none = tokio::time::timeout(Duration::from_millis(50), there.recv_buf(&mut buf)).await;
        assert!(none.is_err() && buf == b"kept"[..]);
    }

    #[tokio::test]
    async fn a_path_error_wakes_the_receiver() {
        let (_holder, refused) = refusing(LOOPBACKS[0]);
        let mut here = AsyncUdpTransport::new(transport()).unwrap();
        here.transport().send(refused, b"anybody?", 0);
        assert!(soon(here.recv(&mut [0; 64])).await.unwrap().is_none());
        assert_eq!(here.transport().poll_path_error().unwrap().to, refused);
    }
}
