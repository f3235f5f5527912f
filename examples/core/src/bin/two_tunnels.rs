//! Two pods in memory: the first sends the second a packet. `cargo run -p tencrypt-example-core --bin two_tunnels`
use std::{error::Error, fs::File, io::Read, net::IpAddr, net::SocketAddr, sync::Arc, time::Instant};

use tencrypt::offload::VnetHdr;
use tencrypt::sink::bytes::{DatagramQueue, PacketQueue};
use tencrypt::{Identity, KeyRing, Outbound, Output, Seed, SinkFull, TunPacket, Tunnel, TunnelConfig};

fn seed() -> std::io::Result<Seed> {
    Seed::try_filled(|bytes| File::open("/dev/urandom")?.read_exact(bytes))
}

/// Takes all that a tunnel has to say, in its order, and does what is due. After every input.
fn drain(tunnel: &mut Tunnel, now: Instant, wire: &mut DatagramQueue) -> Result<(), SinkFull> {
    let mut buffer = [0; 65_535];
    loop {
        match tunnel.poll_output(&mut buffer, now) {
            Output::Transmit(transmit) => wire.push(&transmit, &buffer)?,
            Output::Event(event) => println!("{event:?}"),
            Output::Timeout(Some(due)) if due <= now => tunnel.handle_timeout(now),
            Output::Timeout(_) => return Ok(()),
            // For the network as it is, for the pod's other lanes, and from a peer's second address: none of them is there
            // with this configuration.
            Output::Released(_) | Output::LaneUpdate(_) | Output::Opened(_) => {}
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (now, mut root) = (Instant::now(), [0; 32]);
    File::open("/dev/urandom")?.read_exact(&mut root)?;
    let keys = Arc::new(KeyRing::new([7; 16], [(1, &root)], 1)?); // a tenant of this program alone
    let addresses = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
    let pod = |address| -> Result<Tunnel, Box<dyn Error>> {
        let config = TunnelConfig::new(["10.0.0.0/8".parse()?]);
        let identity = Identity::generate(seed()?, &[address]);
        Ok(Tunnel::builder(config, keys.clone(), identity).build(seed()?, now)?)
    };
    let mut pods = [pod(addresses[0])?, pod(addresses[1])?];
    let (mut wire, mut inbox) = (DatagramQueue::new(64), PacketQueue::new(64));

    // IPv4 from 10.0.0.1 to 10.0.0.2 of protocol 253 (RFC 3692), as a TUN device would give it.
    let sent = *b"\x45\0\0\x19\0\0\x40\0\x40\xfd\x25\xe6\x0a\0\0\x01\x0a\0\0\x02hello";
    let mut bytes = sent;
    let mut packet = TunPacket::new(VnetHdr::default(), &mut bytes);
    assert_eq!(pods[0].handle_packet(&mut packet, now, &mut wire), Outbound::Held); // until its destination answers
    drain(&mut pods[0], now, &mut wire)?;
    while let Some(mut train) = wire.pop() {
        println!("{} bytes to {}", train.bytes.len(), train.to);
        let there = usize::from(train.to.ip() == addresses[1]);
        // The sender by its pod's address, as a network shows it: so its packets are known to be its own.
        let from = SocketAddr::new(addresses[1 - there], train.to.port());
        pods[there].handle_datagrams(&train.received_from(from), &mut train.bytes, now, &mut inbox);
        drain(&mut pods[there], now, &mut wire)?;
    }
    assert_eq!(inbox.pop().ok_or("nothing arrived")?.bytes, sent[..]);
    Ok(())
}
