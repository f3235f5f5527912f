//! The one output: its order, its end, and datagrams that do not fit.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::pair::{ADDRESSES, Pair, address, ring};
use crate::{
    CipherSuite, DropReason, Event, Identity, RecvMeta, Seed, TunnelConfig,
    config::UnansweredPolicy,
    offload::{GsoType, VnetHdr},
    packet::samples::{Body, Sample},
    record::{DATA_OVERHEAD, Head},
    sink::bytes::{DatagramQueue, PacketQueue},
    testing::start,
    tunnel::{BuildError, HeldPacket, LaneId, Outbound, Output, TunPacket, Tunnel},
};

fn config() -> TunnelConfig {
    TunnelConfig::new(["10.0.0.0/8".parse().unwrap()])
}

fn build(config: TunnelConfig) -> Result<Tunnel, BuildError> {
    let identity = Identity::generate(Seed::from_bytes([1; 32]), &[address(0)]);
    Tunnel::builder(config, ring(9), identity).build(Seed::from_bytes([2; 32]), start())
}

/// Gives `tunnel` a packet for `destination` that nothing can be sealed for.
fn offer(tunnel: &mut Tunnel, destination: &str, now: Instant) -> Outbound {
    let mut packet = Sample::udp(ADDRESSES[0], destination, (1, 2));
    tunnel.handle_packet(
        &mut TunPacket::new(VnetHdr::default(), &mut packet),
        now,
        &mut DatagramQueue::new(0),
    )
}

/// Everything there is, the timeout at its end.
fn drain(tunnel: &mut Tunnel, now: Instant) -> Vec<Output> {
    let mut outputs = Vec::new();
    loop {
        let output = tunnel.poll_output(&mut [0; 2_048], now);
        let is_last = matches!(output, Output::Timeout(_));
        outputs.push(output);
        if is_last {
            return outputs;
        }
    }
}

#[test]
fn a_tunnel_without_work_says_so_and_names_no_time() {
    let mut tunnel = build(config()).unwrap();
    assert!(matches!(tunnel.poll_output(&mut [], start()), Output::Timeout(None)));
    assert!(matches!(tunnel.poll_output(&mut [], start()), Output::Timeout(None)), "as often as it is asked");
    assert_eq!(tunnel.next_timeout(), None);
}

#[test]
fn a_handshake_message_that_came_in_is_due_at_once() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    let _ = offer(&mut pair.tunnels[0], ADDRESSES[1], pair.now);
    let mut init = vec![0; 2_048];
    let Output::Transmit(sent) = pair.tunnels[0].poll_output(&mut init, pair.now) else { panic!("INIT") };
    let meta = RecvMeta::new(SocketAddr::new(address(0), 8_362), sent.len as u16);
    let inbound =
        pair.tunnels[1].handle_datagrams(&meta, &mut init[..sent.len], pair.now, &mut PacketQueue::new(1));
    assert_eq!((inbound.control, inbound.datagrams(), inbound.records, inbound.proven), (1, 1, 0, 0));
    let outputs = drain(&mut pair.tunnels[1], pair.now);
    assert!(matches!(outputs[..], [Output::Timeout(Some(due))] if due <= pair.now), "{outputs:?}");
    pair.tunnels[1].handle_timeout(pair.now);
    let outputs = drain(&mut pair.tunnels[1], pair.now);
    assert!(matches!(outputs[..], [Output::Transmit(_), Output::Timeout(Some(_))]), "RESP: {outputs:?}");
}

#[test]
fn a_record_is_told_from_a_handshake_message_and_named_by_its_session() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.send(0);
    pair.connected = false;
    pair.send(0);
    let mut record = pair.sent[0].last().unwrap().clone();
    let index = Head::read(&record).map(|head| u32::from_le_bytes(head.index));
    let meta = RecvMeta::new(SocketAddr::new(address(0), 8_362), record.len() as u16);
    let mut again = record.clone();
    let inbound = pair.tunnels[1].handle_datagrams(&meta, &mut record, pair.now, &mut PacketQueue::new(1));
    assert_eq!((inbound.opened, inbound.records, inbound.proven), (1, 1, 1));
    assert_eq!(inbound.session.map(|session| session.as_u32()), index);
    let inbound = pair.tunnels[1].handle_datagrams(&meta, &mut again, pair.now, &mut PacketQueue::new(1));
    assert_eq!((inbound.dropped, inbound.records, inbound.proven, inbound.session), (1, 1, 0, None));
}

/// The event that made the packet free comes first: the owner knows of it before the packet leaves.
#[test]
fn outputs_come_in_the_order_in_which_they_came_about() {
    let mut plain = config();
    plain.unknown = UnansweredPolicy::Plain;
    let mut tunnel = build(plain).unwrap();
    let mut now = start();
    assert_eq!(offer(&mut tunnel, "10.0.0.7", now), Outbound::Held);
    for _ in 0..100 {
        let outputs = drain(&mut tunnel, now);
        if let [Output::Event(Event::HandshakeFailed { .. }), Output::Released(packet), ..] = &outputs[..] {
            assert!(!packet.is_empty());
            return;
        }
        let is_init = |output: &Output| matches!(output, Output::Transmit(_) | Output::Timeout(_));
        assert!(outputs.iter().all(is_init), "{outputs:?}");
        let Some(Output::Timeout(Some(due))) = outputs.last() else { panic!("{outputs:?}") };
        now = now.max(*due);
        tunnel.handle_timeout(now);
    }
    panic!("the destination is never given up");
}

/// Nobody polls for as long as the destination is asked: nothing is lost that fits, and the order stays.
#[test]
fn who_polls_late_gets_everything_in_order() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.send(0);
    assert_eq!(pair.delivered, [0, 1]);
    let to: IpAddr = "10.0.0.9".parse().unwrap();
    for _ in 0..3 {
        assert_eq!(offer(&mut pair.tunnels[0], "10.0.0.9", pair.now), Outbound::Held);
    }
    for ms in [200, 500, 1_000, 1_500] {
        pair.tunnels[0].handle_timeout(pair.now + Duration::from_millis(ms));
    }
    let outputs = drain(&mut pair.tunnels[0], pair.now + Duration::from_millis(1_500));
    let (inits, rest): (Vec<_>, Vec<_>) = outputs
        .iter()
        .partition(|output| matches!(output, Output::Transmit(transmit) if transmit.to.ip() == to));
    assert!(inits.len() >= 2, "{outputs:?}");
    assert!(
        matches!(rest[..], [Output::Event(Event::HandshakeFailed { .. }), Output::Timeout(_)]),
        "{rest:?}"
    );
    assert_eq!(pair.tunnels[0].stats().dropped(DropReason::HeldTimeout), 3);
}

#[test]
fn a_suite_that_does_not_fit_the_transport_is_refused_with_the_way_out() {
    for (max_datagram, suite, fits) in [
        (1_371, CipherSuite::MlKem768Aes256Gcm, false),
        (1_372, CipherSuite::MlKem768Aes256Gcm, true),
        (283, CipherSuite::ChaCha20Poly1305, false),
        (284, CipherSuite::ChaCha20Poly1305, true),
    ] {
        let mut config = config();
        (config.max_datagram, config.suite) = (max_datagram, suite);
        let built = build(config);
        assert_eq!(built.is_ok(), fits, "{suite} in {max_datagram} bytes");
        if let Err(error) = built {
            let text = error.to_string();
            assert!(text.contains(&max_datagram.to_string()) && text.contains("284"), "{text}");
        }
    }
}

/// Without and with a session, alone and behind others that wait.
#[test]
fn a_packet_longer_than_the_inner_mtu_is_counted_as_too_big_and_one_as_long_passes() {
    let max_datagram = 1_200;
    let mut pair = Pair::with_config(|config| {
        (config.max_datagram, config.suite) = (max_datagram, CipherSuite::Aes256Gcm);
    });
    let mtu = usize::from(TunnelConfig { max_datagram, ..config() }.inner_mtu());
    assert_eq!(mtu + DATA_OVERHEAD, 1_200);
    for turn in 0..2_u64 {
        for len in [mtu + 1, mtu] {
            let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![7; len - 28] };
            let packet = Sample::new(ADDRESSES[0], ADDRESSES[1], body).build();
            assert_eq!(packet.len(), len);
            let outcome = pair.offer_packet(0, packet);
            let too_big = turn == 1 && len > mtu;
            assert_eq!(outcome == Outbound::Dropped(DropReason::TooBig), too_big, "{outcome:?}");
        }
        assert_eq!(pair.tunnels[0].stats().dropped(DropReason::TooBig), turn + 1);
        assert_eq!(pair.delivered[1], turn as usize + 1);
        assert!(pair.sent[0].iter().all(|datagram| datagram.len() <= max_datagram.into()));
    }
}

#[test]
fn a_datagram_that_does_not_fit_the_buffer_is_counted_and_the_next_one_comes() {
    let mut tunnel = build(config()).unwrap();
    assert_eq!(offer(&mut tunnel, "10.0.0.7", start()), Outbound::Held);
    let output = tunnel.poll_output(&mut [0; 1_371], start());
    assert!(matches!(output, Output::Timeout(Some(_))), "{output:?}");
    assert_eq!(tunnel.stats().dropped(DropReason::TooBig), 1);
}

#[test]
fn a_tunnel_may_move_to_its_thread() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&build(config()).unwrap());
}

/// A packet that is cut is used up: its bytes are not what its header says any more.
#[test]
fn a_super_packet_is_handed_out_once() {
    let body = Body::Tcp { ports: (1, 2), flags: 0x10, options: Vec::new(), payload: vec![7; 3_000] };
    let mut bytes = Sample::new(ADDRESSES[0], ADDRESSES[1], body).build();
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::TcpV4,
        hdr_len: 40,
        gso_size: 1_000,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    let mut packet = TunPacket::new(vnet, &mut bytes);
    let mut segments = 0;
    packet.finish_segments(|_| segments += 1);
    assert_eq!(segments, 3);
    packet.finish_segments(|segment| panic!("{} bytes of a packet that is gone", segment.len()));
}

/// Whatever an old identity had found is no finding of the new one.
#[test]
fn a_new_identity_tells_nothing_that_the_old_one_found() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    let now = pair.now;
    let mut sibling = pair.tunnels[0].sibling(LaneId::new(1).unwrap(), Seed::from_bytes([9; 32]), now);
    pair.connected = false;
    pair.send(0);
    let init = pair.sent[0].pop().unwrap();
    pair.receive(1, init);
    let mut resp = pair.sent[1].pop().unwrap();
    let meta = RecvMeta::new(SocketAddr::new(address(1), 8_362), resp.len() as u16);
    let _ = pair.tunnels[0].handle_datagrams(&meta, &mut resp, now, &mut PacketQueue::new(0));
    pair.tunnels[0].handle_timeout(now);
    let identity = Identity::generate(Seed::from_bytes([8; 32]), &[address(0)]);
    pair.tunnels[0].forget_sessions(identity, now);
    let outputs = drain(&mut pair.tunnels[0], now);
    assert!(!outputs.iter().any(|output| matches!(output, Output::LaneUpdate(_))), "{outputs:?}");
    assert!(outputs.iter().any(|output| matches!(output, Output::Event(Event::PeerDown { .. }))));
    assert!(matches!(drain(&mut sibling, now)[..], [Output::Timeout(None)]));
}

#[test]
fn a_packet_whose_peer_is_gone_meanwhile_counts_as_held_in_vain() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.send(0);
    let now = pair.now;
    let packet = HeldPacket::new(&TunPacket::new(
        VnetHdr::default(),
        &mut Sample::udp(ADDRESSES[0], ADDRESSES[1], (1, 2)),
    ));
    let key = pair.tunnels[0].peers.keys()[0];
    pair.tunnels[0].queue_packet(key, packet);
    let tunnel = &mut pair.tunnels[0];
    tunnel.peers.end_sessions(key, |_| true, start(), &mut tunnel.outbox);
    assert!(drain(tunnel, now).iter().all(|output| !matches!(output, Output::Transmit(_))));
    assert_eq!(tunnel.stats().dropped(DropReason::HeldTimeout), 1);
}
