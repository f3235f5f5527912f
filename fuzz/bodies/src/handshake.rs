//! Handshakes and tunnels with somebody on the wire who records, repeats, changes and invents.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tencrypt::{
    CipherSuite, Event, Identity, KeyRing, Outbound, Output, RecvMeta, Seed, TunPacket, Tunnel, TunnelConfig,
    internal::{self, Initiator, Local, Message, Responder, Rng},
    offload::VnetHdr,
    packet::IpPacket,
    record::SessionIndex,
    sink::bytes::{DatagramQueue, PacketQueue},
};
use tencrypt_sim::{PodId, PodOptions, Random, Violation, Weather, World};

use crate::input::Input;

/// Steps of one input at most.
const MAX_STEPS: usize = 32;
/// The offset of Noise in a handshake message: behind its header.
const NOISE: usize = 12;
/// mac1 and mac2 at its end.
const MACS: usize = 32;
const PORT: u16 = 8_362;

/// Lets the bytes say how handshake messages are changed on the way, or what a tunnel is fed.
pub fn handshake(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => messages(&mut input),
        1 => alone(&mut input),
        _ => wire(&mut input),
    }
}

/// A changed Noise message is refused at every step; RESP's forgery changes nothing.
fn messages(input: &mut Input<'_>) {
    let keys = keys();
    let suite = CipherSuite::ALL[input.index(CipherSuite::ALL.len())];
    let addresses = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
    let identities = [1, 2].map(|seed| Identity::generate(Seed::from_bytes([seed; 32]), &addresses));
    let mut rng = Rng::new(Seed::from_bytes([input.byte(); 32]));
    let index = |number| SessionIndex::from_u32(number).expect("not zero");
    let [here, there] = [0, 1].map(|at| Local::new(&keys, suite, &identities[at], &addresses[at..=at], true));

    let (mut initiator, init) = Initiator::start(&here, index(11), addresses[1], &mut rng);
    assert_eq!(internal::verify_mac1(&keys, &init), Ok(()));
    let forged = changed(input, &init);
    if forged[..init.len() - MACS] != init[..init.len() - MACS] {
        assert!(internal::verify_mac1(&keys, &forged).is_err());
    }
    if let Ok(Message::Init(message)) = internal::parse(&forged) {
        let accepted = Responder::accept(&there, &message, index(13), &mut rng).is_ok();
        assert!(!accepted || forged[NOISE..init.len() - MACS] == init[NOISE..init.len() - MACS]);
    }
    let Ok(Message::Init(message)) = internal::parse(&init) else { panic!("INIT is one") };
    let (responder, resp) = Responder::accept(&there, &message, index(12), &mut rng).expect("a genuine INIT");
    assert_eq!(responder.asked(), addresses[1]);

    let forged = changed(input, &resp);
    if let Ok(Message::Resp(message)) = internal::parse(&forged)
        && forged[NOISE..resp.len() - MACS] != resp[NOISE..resp.len() - MACS]
    {
        assert!(initiator.handle_resp(&message).is_err(), "a forged RESP");
    }
    let Ok(Message::Resp(message)) = internal::parse(&resp) else { panic!("RESP is one") };
    let confirmed = initiator.handle_resp(&message).expect("a genuine RESP after a forged one");
    assert!(initiator.handle_resp(&message).is_err(), "RESP is taken once");

    let conf = &confirmed.conf;
    let forged = changed(input, conf);
    let genuine = forged[NOISE..conf.len() - MACS] == conf[NOISE..conf.len() - MACS];
    let Ok(Message::Conf(message)) = internal::parse(&forged) else { return };
    match responder.handle_conf(&message) {
        Ok(mut established) => {
            assert!(genuine, "a forged CONF");
            assert_eq!(established.peer, identities[0].peer_id());
            let mut sealer = confirmed.established.sealer;
            let counter = sealer.counters(1).ok().and_then(|mut counters| counters.take());
            let mut bytes = [0; 32 + 5];
            sealer.seal(counter.expect("the first"), 0, b"hello", &mut bytes);
            assert_eq!(established.opener.open(&mut bytes).expect("the same keys").bytes, b"hello");
        }
        Err(_) => assert!(forged[..conf.len() - MACS] != conf[..conf.len() - MACS], "a genuine CONF"),
    }
}

/// `bytes` with some of them changed, its length kept: other lengths end in `parse`, which another target has.
fn changed(input: &mut Input<'_>, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..input.byte() % 4 {
        let (at, change) = (input.index(bytes.len()), input.byte());
        bytes[at] ^= change;
    }
    bytes
}

/// Two pods, a network, and an attacker who may even have the tenant's mac key: nothing comes out that did not go in,
/// nothing twice, nothing is readable; and when the attacker has gone, the pods find each other again.
fn wire(input: &mut Input<'_>) {
    let seed = u64::from(input.byte());
    let mut world = World::new(seed, Weather::CLEAR);
    let tenant = world.tenant();
    // The world draws the tenant's id and root from its seed, in this order; the check below would notice another.
    let mut random = Random::new(seed);
    let id: [u8; 16] = *random.bytes().first_chunk().expect("32 bytes");
    let mac_key = mac_key(&id, &random.bytes());
    let addresses: [IpAddr; 3] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 9]].map(IpAddr::from);
    let pods = [0, 1].map(|at| world.pod(&tenant, PodOptions::new(&addresses[at..=at])));
    world.capture();
    world.send(pods[0], addresses[1], 64);
    let mut seen = world.captured();
    let init = &seen[0].2;
    assert_eq!(internal::mac1(init), Some(mac1(&mac_key, &init[..init.len() - MACS])), "the specified mac1");

    let mut strays = BTreeSet::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        let here = usize::from(what >> 7);
        match what % 8 {
            0 => world.run_for(Duration::from_millis(input.word().into())),
            1 => world.run_for(Duration::from_secs(input.byte().into())),
            2 => {
                world.send(pods[here], addresses[1 - here], 28 + usize::from(input.byte()));
                world.run_for(Duration::from_millis(1));
            }
            3 => drop(strays.insert(world.send(pods[here], addresses[2], 64))),
            4 => {
                let Some((from, _, bytes)) = seen.get(input.index(seen.len())).cloned() else { continue };
                inject(&mut world, pods[here], input, from, bytes);
            }
            5 | 6 => {
                let Some((from, _, bytes)) = seen.get(input.index(seen.len())).cloned() else { continue };
                let mut bytes = changed(input, &bytes);
                if what % 8 == 6 && internal::mac1(&bytes).is_some() {
                    let covered = bytes.len() - MACS;
                    let mac1 = mac1(&mac_key, &bytes[..covered]);
                    bytes[covered..covered + 16].copy_from_slice(&mac1);
                }
                inject(&mut world, pods[here], input, from, bytes);
            }
            _ => {
                let bytes = input.chunk().to_vec();
                inject(&mut world, pods[here], input, SocketAddr::new(addresses[2], PORT), bytes);
            }
        }
        if seen.len() < 64 {
            seen.extend(world.captured());
        }
        assert_sound(&world, &strays);
    }
    assert_find_each_other(&mut world, pods, addresses);
    assert_sound(&world, &strays);
}

/// Packets of each pod arrive at the other one, at the first two of `addresses`, once nobody disturbs them.
fn assert_find_each_other(world: &mut World, pods: [PodId; 2], addresses: [IpAddr; 3]) {
    // 60 s: the longest that a destination is not asked again. 15 s: a dead session is noticed.
    let mut last = [0; 2];
    for _ in 0..10 {
        for here in 0..2 {
            last[here] = world.send(pods[here], addresses[1 - here], 64);
        }
        world.run_for(Duration::from_secs(9));
    }
    assert!(
        last.iter().all(|number| world.model().is_delivered(*number)),
        "the pods did not find each other"
    );
}

/// No violation, but for packets to an address that is nobody's: as with a VIP, it is for the network to say which
/// member of the tenant an INIT to it reaches, and here the attacker is the network.
fn assert_sound(world: &World, strays: &BTreeSet<u64>) {
    for violation in world.model().violations() {
        let stray = matches!(violation, Violation::WrongPod(number, _) if strays.contains(number));
        assert!(stray, "{violation}");
    }
}

fn inject(world: &mut World, to: PodId, input: &mut Input<'_>, from: SocketAddr, bytes: Vec<u8>) {
    let from = match input.byte() % 4 {
        0 => SocketAddr::new(input.address(true), input.word()),
        _ => from,
    };
    world.inject(to, from, bytes);
}

/// A tunnel without peers, fed from both sides: nothing is opened, nothing sealed, nothing protected passes in plain.
fn alone(input: &mut Input<'_>) {
    let mut now = moment();
    let own: [IpAddr; 2] = [[10, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()];
    let protected = ["10.0.0.0/8", "fd00::/16"].map(|range| range.parse::<ipnet::IpNet>().expect("a range"));
    let config = TunnelConfig::new(protected);
    let identity = Identity::generate(Seed::from_bytes([1; 32]), &own);
    let seed = Seed::from_bytes([2; 32]);
    let builder = Tunnel::builder(config, keys(), identity);
    let mut tunnel = builder.build(seed, now).expect("the default suite fits");
    let mut buffer = vec![0; 65_535];
    // Room for what must not be.
    let (mut records, mut packets) = (DatagramQueue::new(1), PacketQueue::new(1));
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        match input.byte() % 4 {
            0 => {
                let v4 = input.flag();
                let from = SocketAddr::new(input.address(v4), input.word());
                let meta = RecvMeta::new(from, input.word()).with_ecn(input.byte());
                let mut train = input.chunk().to_vec();
                let count = match meta.stride {
                    0 => 1,
                    stride => train.len().div_ceil(stride.into()).max(1),
                };
                let inbound = tunnel.handle_datagrams(&meta, &mut train, now, &mut packets);
                assert_eq!(inbound.opened, 0);
                assert_eq!(usize::from(inbound.dropped) + usize::from(inbound.control), count);
            }
            1 => {
                let vnet = VnetHdr::decode(&input.array::<10>()).unwrap_or_default();
                let mut bytes = input.chunk().to_vec();
                if input.flag() && bytes.len() >= 40 {
                    write_source(&mut bytes, own);
                }
                let mut packet = TunPacket::new(vnet, &mut bytes);
                let outbound = tunnel.handle_packet(&mut packet, now, &mut records);
                assert_not_sent(outbound, packet, protected);
            }
            2 => {
                let to = SocketAddr::new(input.address(true), input.word());
                tunnel.handle_unreachable(to, now);
            }
            _ => {
                now += Duration::from_millis(input.word().into());
                tunnel.handle_timeout(now);
            }
        }
        assert_alone(&mut tunnel, protected, &mut buffer, now);
        assert!(records.is_empty() && packets.is_empty(), "a record to nobody or a packet from nobody");
    }
}

/// A packet of the pod was sealed for nobody, and passes in plain only if its destination is not protected.
fn assert_not_sent(outbound: Outbound, mut packet: TunPacket<'_>, protected: [ipnet::IpNet; 2]) {
    match outbound {
        Outbound::Bypass => {
            packet.finish_segments(|bytes| assert!(IpPacket::parse(bytes).is_ok()));
            let passed = IpPacket::parse(packet.bytes()).expect("a packet passes");
            let to = passed.destination();
            assert!(!protected.iter().any(|range| range.contains(&to)), "{to} passed in plain");
        }
        Outbound::Sent { .. } => panic!("sealed for nobody"),
        Outbound::Hairpin | Outbound::Held | Outbound::Dropped(_) => {}
    }
}

/// Drains a tunnel that nobody has answered, and finds nothing but its own questions.
fn assert_alone(tunnel: &mut Tunnel, protected: [ipnet::IpNet; 2], buffer: &mut [u8], now: Instant) {
    loop {
        match tunnel.poll_output(buffer, now) {
            Output::Transmit(transmit) => {
                // Nobody was answered, so INIT is all there is to say, and that a record's session is unknown.
                match internal::parse(&buffer[..transmit.len]) {
                    Ok(Message::Init(_)) => assert_eq!(transmit.to.port(), PORT),
                    Ok(Message::Reset(_)) => {}
                    message => panic!("sent: {message:?}"),
                }
                assert!(protected.iter().any(|range| range.contains(&transmit.to.ip())));
            }
            Output::Event(Event::HandshakeFailed { .. } | Event::External { .. }) => {}
            Output::Timeout(_) => break,
            Output::Released(_) => panic!("unknown destinations are dropped here"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tunnel.peers(now).count(), 0);
}

/// Makes the source one of the pod's own: others are refused at once.
fn write_source(bytes: &mut [u8], own: [IpAddr; 2]) {
    for address in own {
        match (address, bytes[0] >> 4) {
            (IpAddr::V4(v4), 4) => bytes[12..16].copy_from_slice(&v4.octets()),
            (IpAddr::V6(v6), 6) => bytes[8..24].copy_from_slice(&v6.octets()),
            _ => {}
        }
    }
}

fn keys() -> KeyRing {
    let root = std::array::from_fn(|at| at as u8);
    KeyRing::parse(&KeyRing::write_file([7; 16], 1, &root)).expect("the core reads what it writes")
}

/// `HKDF(tenant id, root, "tencrypt v1 mac", 32)` of docs/wire-format.md section 3.2, by RFC 5869.
fn mac_key(tenant: &[u8; 16], root: &[u8; 32]) -> [u8; 32] {
    hmac(&hmac(tenant, &[root]), &[b"tencrypt v1 mac", &[1]])
}

fn mac1(key: &[u8; 32], covered: &[u8]) -> [u8; 16] {
    *hmac(key, &[covered]).first_chunk().expect("32 bytes")
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| hmac.update(part));
    hmac.finalize().into_bytes().into()
}

/// A moment to count from.
pub(crate) fn moment() -> Instant {
    Instant::now()
}
