//! IP packets: parsing, rewriting, translation.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tencrypt::{
    crypto::PeerId,
    internal::combine_ecn,
    nat::{DnsHairpin, Nat, NatError, NatOutcome, PortEndpoints, Service, ServicePort, ServiceProtocol},
    offload::VnetHdr,
    packet::{IpPacket, IpVersion, Rewrite, Transport},
};

use crate::input::Input;

/// Packets that one input may hand to the NAT.
const MAX_PACKETS: usize = 24;

/// Parses the bytes as a packet, rewrites it, translates it in every way there is.
pub fn packet(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => vnet(&mut input),
        1 => rewriting(&mut input),
        2 => there_and_back(&mut input),
        _ => any_order(&mut input),
    }
}

/// A peer, by a number.
fn client(number: u16) -> PeerId {
    PeerId::from_bytes([number as u8; 32])
}

fn vnet(input: &mut Input<'_>) {
    let (inner, outer) = (input.byte(), input.byte());
    if let Some(ecn) = combine_ecn(inner, outer) {
        assert!(ecn <= 3);
    }
    let bytes = input.rest();
    if let Ok(header) = VnetHdr::decode(bytes) {
        assert_eq!(VnetHdr::decode(&header.encode()), Ok(header));
    }
}

fn rewriting(input: &mut Input<'_>) {
    let (partial, ecn) = (input.flag(), input.byte() & 3);
    let (v4, ports, quoted) = (input.flag(), (input.word(), input.word()), input.flag());
    let mut change = Rewrite { source: Some(input.address(v4)), ..Rewrite::default() };
    change.destination = input.flag().then(|| input.address(v4));
    let (source_port, any_ports) = (input.flag(), input.flag());
    let mut bytes = mended(input);
    let before = bytes.clone();
    let Ok(mut packet) = IpPacket::parse(&mut bytes[..]) else { return };
    look(&packet);
    let (layout, old_ports) = (packet.layout(), packet.ports());
    if any_ports || old_ports.is_some() {
        change.source_port = source_port.then_some(ports.0);
        change.destination_port = Some(ports.1);
    }
    let checks = Checks::of(&packet, partial);
    let (source, destination) = (packet.source(), packet.destination());

    packet.set_ecn(ecn);
    assert_eq!(packet.ecn(), ecn);
    assert_eq!(Checks::of(&packet, partial), checks, "after set_ecn");
    let ecn_set = packet.bytes().to_vec();
    if quoted {
        match packet.rewrite_quoted(change) {
            Ok(()) => assert_eq!(Checks::of(&packet, partial), checks, "after rewrite_quoted"),
            Err(_) => assert_eq!(packet.bytes(), ecn_set, "what cannot be rewritten stays"),
        }
        IpPacket::parse(packet.bytes()).expect("a rewritten packet is a packet");
        return;
    }
    if packet.rewrite(change, partial).is_err() {
        assert_eq!(packet.bytes(), ecn_set, "what cannot be rewritten stays");
        return;
    }
    assert_eq!(Checks::of(&packet, partial), checks, "after rewrite");
    let again = IpPacket::parse(packet.bytes()).expect("a rewritten packet is a packet");
    assert_eq!(again.layout(), layout);
    assert_eq!(Some(again.source()), change.source);
    assert_eq!(again.destination(), change.destination.unwrap_or(destination));
    if let Some(old) = old_ports {
        assert_eq!(again.ports(), Some((change.source_port.unwrap_or(old.0), ports.1)));
        assert_eq!(again.bytes()[layout.payload_offset()..], before[layout.payload_offset()..]);
        let back = Rewrite {
            source: Some(source),
            destination: Some(destination),
            source_port: Some(old.0),
            destination_port: Some(old.1),
        };
        packet.rewrite(back, partial).expect("the way back is no other than the way there");
        assert_eq!(Checks::of(&packet, partial), checks, "after the way back");
        assert_eq!(without_checksums(packet.bytes()), without_checksums(&ecn_set));
    }

    finishing(&mut packet, layout.transport_offset() as u16, if input.flag() { 16 } else { 6 });
}

/// A checksum over what begins at `start`, and lies `offset` bytes behind, is finished.
fn finishing(packet: &mut IpPacket<&mut [u8]>, start: u16, offset: u16) {
    let unfinished = packet.bytes().to_vec();
    if packet.finish_checksum(start, offset).is_ok() {
        // What was there as a partial sum is now the complement of everything.
        let at = usize::from(start + offset);
        let total = sum(&unfinished[usize::from(start)..]) + u64::from(word(packet.bytes(), at));
        assert_eq!(total % 0xffff, 0);
    }
}

/// One flow through each translation, and its answer back: it arrives from where the call went.
fn there_and_back(input: &mut Input<'_>) {
    let (way, key) = (input.byte() % 4, u64::from(input.word()));
    let (v4, partial, port, target) = (input.flag(), input.flag(), input.word(), input.word());
    let mut bytes = mended(input);
    let Ok(mut packet) = IpPacket::parse(&mut bytes[..]) else { return };
    let Some(call) = packet.flow() else { return };
    let [other, another] = addresses(v4);
    let taken = [call.source, call.destination];
    if call.source.is_ipv4() != v4
        || call.source == call.destination
        || [other, another].iter().any(|address| taken.contains(address))
        || packet.is_icmp_error()
        || packet.fragment().is_some()
    {
        return;
    }
    let checks = Checks::of(&packet, partial);
    let (mut nat, now) = (Nat::new(key), moment());
    let ports = [ServicePort::new(port, target)];
    let hairpin = DnsHairpin::new(vec![call.destination], port);
    let translated = match way {
        0 => nat.serve(&mut packet, partial, other, client(0), now).is_ok(),
        1 => {
            let endpoints = [other, another];
            let service = Service { endpoints: &endpoints, ports: &ports, ..Service::new(call.destination) };
            let endpoint = nat.balance(&mut packet, partial, &service, now);
            assert!(endpoint.is_err() || endpoint == Ok(packet.destination()));
            endpoint.is_ok()
        }
        2 => {
            let service = Service { ports: &ports, ..Service::new(call.destination) };
            nat.loop_back(&mut packet, partial, &service, call.source, now).is_ok()
        }
        // What comes from the proxy's port is taken for its answer.
        _ if call.source_port == port => false,
        _ => hairpin.translate(&mut packet, partial) == NatOutcome::Rewritten,
    };
    if !translated {
        return;
    }
    assert_eq!(Checks::of(&packet, partial), checks, "after the way there");
    if way >= 2 {
        assert_eq!((packet.source(), packet.destination()), (call.destination, call.source));
    }
    turn_round(&mut bytes, partial);
    let mut packet = IpPacket::parse(&mut bytes[..]).expect("an answer is a packet");
    let checks = Checks::of(&packet, partial);
    let outcome = match way {
        0 => nat.reply(&mut packet, partial, now),
        1 => nat.unbalance(&mut packet, partial, now),
        2 => nat.loop_reply(&mut packet, partial, now),
        _ => hairpin.translate(&mut packet, partial),
    };
    assert_eq!(outcome, NatOutcome::Rewritten, "the answer is known");
    assert_eq!(packet.flow(), Some(call.reverse()), "the answer comes from where the call went");
    assert_eq!(Checks::of(&packet, partial), checks, "after the way back");
}

/// A port of a service, of any protocol, with these endpoints.
fn by_port(port: ServicePort, endpoints: [IpAddr; 2]) -> PortEndpoints {
    let protocols = [ServiceProtocol::Tcp, ServiceProtocol::Udp, ServiceProtocol::Sctp];
    let protocol = protocols[usize::from(port.target / 2 % 3)];
    PortEndpoints::new(protocol, port.port, endpoints.map(|endpoint| SocketAddr::new(endpoint, port.target)))
}

/// Any packets through the translations in any order: whatever comes out is a packet, its checksums no worse.
fn any_order(input: &mut Input<'_>) {
    let (mut nat, mut now) = (Nat::with_capacity(u64::from(input.word()), 8, 4), moment());
    for _ in 0..MAX_PACKETS {
        if input.is_empty() {
            break;
        }
        let (way, v4, partial) = (input.byte() % 9, input.flag(), input.flag());
        now += Duration::from_secs(input.byte().into());
        let ports = [ServicePort::new(input.word(), input.word())];
        let (endpoints, mut bytes) = (addresses(v4), mended(&mut Input::new(input.chunk())));
        let before = bytes.clone();
        let Ok(mut packet) = IpPacket::parse(&mut bytes[..]) else { continue };
        let (checks, layout) = (Checks::of(&packet, partial), packet.layout());
        let (own, vip) = (endpoints[0], packet.destination());
        let by_port = [by_port(ports[0], endpoints)];
        // By the parity of what was read: the inputs that there are keep their meaning.
        let services = if ports[0].target.is_multiple_of(2) { &[][..] } else { &by_port };
        let affinity = ports[0].port.is_multiple_of(2).then_some(Duration::from_secs(100));
        let outcome = match way {
            0 => done(nat.serve(&mut packet, partial, own, client(ports[0].port % 3), now)),
            1 => nat.reply(&mut packet, partial, now),
            2 => {
                let service = Service {
                    endpoints: &endpoints,
                    ports: &ports,
                    services,
                    affinity,
                    exclude: &endpoints[1..],
                    ..Service::new(vip)
                };
                done(nat.balance(&mut packet, partial, &service, now).map(drop))
            }
            3 => nat.unbalance(&mut packet, partial, now),
            4 => {
                let service = Service { ports: &ports, services, affinity, ..Service::new(vip) };
                done(nat.loop_back(&mut packet, partial, &service, own, now))
            }
            5 => nat.loop_reply(&mut packet, partial, now),
            6 => DnsHairpin::new(vec![vip], ports[0].port).translate(&mut packet, partial),
            7 => {
                nat.note_direct(&packet, now);
                NatOutcome::Untouched
            }
            _ => {
                nat.handle_timeout(now);
                assert!(nat.poll_timeout().is_none_or(|due| due >= now));
                NatOutcome::Untouched
            }
        };
        match outcome {
            NatOutcome::Untouched => assert_eq!(packet.bytes(), before),
            NatOutcome::Rewritten => assert_eq!(Checks::of(&packet, partial), checks, "way {way}"),
            NatOutcome::Refused => {}
        }
        assert!(nat.len() <= 8);
        assert_eq!(parsed(&bytes).layout(), layout);
    }
}

fn parsed(bytes: &[u8]) -> IpPacket<&[u8]> {
    IpPacket::parse(bytes).expect("a translated packet is a packet")
}

fn done(outcome: Result<(), NatError>) -> NatOutcome {
    outcome.map_or(NatOutcome::Refused, |()| NatOutcome::Rewritten)
}

/// Calls every accessor.
fn look(packet: &IpPacket<&mut [u8]>) {
    let layout = packet.layout();
    assert!(layout.transport_offset() <= layout.payload_offset());
    assert!(layout.payload_offset() <= packet.bytes().len());
    assert_eq!(packet.source().is_ipv4(), packet.version() == IpVersion::V4);
    assert_eq!(packet.destination().is_ipv4(), packet.version() == IpVersion::V4);
    assert_eq!(packet.tcp_flags().is_some(), packet.transport() == Some(Transport::Tcp));
    assert!(packet.flow().is_none() || packet.transport().is_some());
    assert!(!packet.is_later_fragment() || packet.transport().is_none());
    assert_eq!(packet.is_icmp_error(), packet.quoted_offset().is_some());
    if let Some(flow) = packet.quoted_flow() {
        assert_eq!(flow.reverse().reverse(), flow);
        assert!(packet.quoted_offset().is_some_and(|at| at <= packet.bytes().len()));
    }
    let (header, payload) = (packet.transport_header(), packet.payload());
    assert!(header.end <= payload.start && payload.end <= packet.bytes().len());
    let _ = (packet.protocol(), packet.ttl(), packet.echo_id(), packet.may_be_unfinished());
}

/// Makes a packet its own answer: source and destination exchanged, an echo request a reply.
fn turn_round(bytes: &mut [u8], partial: bool) {
    let mut packet = IpPacket::parse(&mut *bytes).expect("it was one before");
    let ports = packet.ports();
    let change = Rewrite {
        source: Some(packet.destination()),
        destination: Some(packet.source()),
        source_port: ports.map(|ports| ports.1),
        destination_port: ports.map(|ports| ports.0),
    };
    packet.rewrite(change, partial).expect("it was rewritten before");
    let (echo, at) = (packet.echo_id().is_some(), packet.layout().transport_offset());
    if echo {
        bytes[at] = match bytes[at] {
            0 => 8,
            8 => 0,
            other => other ^ 1,
        };
    }
}

/// By how much the checksums of a packet are wrong, which no rewriting may change: whoever damaged a packet, it must
/// not come out of the tunnel whole, and a whole one not damaged.
#[derive(Debug, PartialEq, Eq)]
struct Checks {
    header: Option<u64>,
    /// `None` where there is no checksum, among others UDP's zero.
    transport: Option<u64>,
}

impl Checks {
    fn of(packet: &IpPacket<&mut [u8]>, partial: bool) -> Self {
        let (bytes, at) = (packet.bytes(), packet.layout().transport_offset());
        let header = (packet.version() == IpVersion::V4).then(|| sum(&bytes[..at]) % 0xffff);
        let addresses = octets(packet.source()) + octets(packet.destination());
        let all = |pseudo: u64| Some((pseudo + sum(&bytes[at..])) % 0xffff);
        // Unfinished: the field holds the sum over the pseudo header, to be subtracted from that of the addresses.
        let unfinished = |field: usize| Some((addresses + 0xffff - u64::from(word(bytes, field))) % 0xffff);
        let partial = partial && packet.fragment().is_none();
        let transport = match packet.transport() {
            Some(Transport::Tcp) if partial => unfinished(at + 16),
            Some(Transport::Udp) if partial => unfinished(at + 6),
            Some(Transport::Udp) if word(bytes, at + 6) == 0 => None,
            Some(Transport::Tcp | Transport::Udp | Transport::Icmpv6) => all(addresses),
            // It covers the message alone.
            Some(Transport::Icmp) => all(0),
            _ => packet.layout().checksum_offset().and_then(|_| all(addresses)),
        };
        Self { header, transport }
    }
}

/// The bytes with every checksum that a rewrite may touch set to zero: there are two ways to write zero.
fn without_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Ok(packet) = IpPacket::parse(&bytes[..]) else { return bytes };
    let (version, transport) = (packet.version(), packet.layout().checksum_offset());
    if version == IpVersion::V4 {
        bytes[10..12].fill(0);
    }
    if let Some(at) = transport {
        bytes[at..at + 2].fill(0);
    }
    bytes
}

/// Takes the rest of the input as a packet. With a flag set its length field is made right, or most inputs would end
/// there.
fn mended(input: &mut Input<'_>) -> Vec<u8> {
    let mend = input.flag();
    let mut bytes = input.rest().to_vec();
    bytes.truncate(65_535);
    let len = bytes.len() as u16;
    match bytes.first().map(|first| first >> 4) {
        Some(4) if mend && bytes.len() >= 20 => bytes[2..4].copy_from_slice(&len.to_be_bytes()),
        Some(6) if mend && bytes.len() >= 40 => bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes()),
        _ => {}
    }
    bytes
}

fn addresses(v4: bool) -> [IpAddr; 2] {
    let last = [1, 2];
    if v4 {
        last.map(|last| IpAddr::from([10, 77, 0, last]))
    } else {
        last.map(|last| IpAddr::from([0xfd00, 0x77, 0, 0, 0, 0, 0, u16::from(last)]))
    }
}

fn octets(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    }
}

/// RFC 1071 section 4.1, word by word, carries not folded.
fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A moment to count from.
fn moment() -> Instant {
    Instant::now()
}
