//! Two pods in one program: no sockets, no privileges, no threads.
//!
//! `cargo run -p tencrypt-examples --bin loopback`
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use tencrypt::{Outbound, RecvMeta, TunPacket, Tunnel, offload::VnetHdr};
use tencrypt_examples::{Failure, Inbox, Outbox, demonstration_keys, pod};
use tencrypt_sim::{read_udp, udp};

struct Pod {
    address: IpAddr,
    tunnel: Tunnel,
}

fn main() -> Result<(), Failure> {
    let (keys, now) = (demonstration_keys()?, Instant::now());
    let mut pods = Vec::new();
    for last in [1, 2] {
        let address = IpAddr::from([10, 0, 0, last]);
        pods.push(Pod { address, tunnel: pod(&keys, &[address], now)? });
    }

    // An application in the first pod sends a datagram. Nobody knows the destination yet: it is asked.
    let mut packet = udp((pods[0].address, 5_000), (pods[1].address, 80), b"hello from the first pod");
    let mut outbox = Outbox::default();
    let outcome = pods[0].tunnel.handle_outbound(
        &mut TunPacket::new(VnetHdr::default(), &mut packet),
        now,
        &mut outbox,
    );
    assert_eq!(outcome, Outbound::Held);
    println!("first packet: held while its destination is asked");

    // Everything else is moving datagrams until nobody has anything to say.
    let delivered = settle(&mut pods, outbox.0, now);
    for (at, bytes) in &delivered {
        let (from, _, text) = read_udp(bytes).ok_or("a packet came out broken")?;
        println!("{at} got {:?} from {}:{}", String::from_utf8_lossy(text), from.0, from.1);
    }
    assert_eq!(delivered.len(), 1);

    // Now there is a session: the second packet is one record.
    let mut packet = udp((pods[1].address, 80), (pods[0].address, 5_000), b"and hello back");
    let mut outbox = Outbox::default();
    let outcome = pods[1].tunnel.handle_outbound(
        &mut TunPacket::new(VnetHdr::default(), &mut packet),
        now,
        &mut outbox,
    );
    assert_eq!(outcome, Outbound::Sent { records: 1 });
    let (to, record) = &outbox.0[0];
    println!("second packet: {} bytes became a record of {} for {to}", packet.len(), record.len());
    assert_eq!(settle(&mut pods, outbox.0, now).len(), 1);
    Ok(())
}

/// Carries datagrams between the pods until there are none. Returns what came out, and where.
fn settle(pods: &mut [Pod], first: Vec<(SocketAddr, Vec<u8>)>, now: Instant) -> Vec<(IpAddr, Vec<u8>)> {
    let mut delivered = Vec::new();
    let mut waiting: Vec<(SocketAddr, SocketAddr, Vec<u8>)> = Vec::new();
    let sender = |to: SocketAddr, pods: &[Pod]| {
        pods.iter().find(|pod| pod.address != to.ip()).map(|pod| SocketAddr::new(pod.address, 8_362))
    };
    for (to, bytes) in first {
        waiting.extend(sender(to, pods).map(|from| (from, to, bytes)));
    }
    let mut buffer = vec![0; 65_535];
    for _ in 0..100 {
        for pod in pods.iter_mut() {
            pod.tunnel.handle_timeout(now);
            while let Some(transmit) = pod.tunnel.poll_transmit(&mut buffer, now) {
                let from = SocketAddr::new(pod.address, 8_362);
                waiting.push((from, transmit.to, buffer[..transmit.len].to_vec()));
            }
        }
        if waiting.is_empty() {
            break;
        }
        for (from, to, mut bytes) in waiting.drain(..) {
            let Some(pod) = pods.iter_mut().find(|pod| pod.address == to.ip()) else { continue };
            let mut inbox = Inbox::default();
            let meta = RecvMeta { from, stride: bytes.len() as u16, ecn: 0 };
            pod.tunnel.handle_datagrams(&meta, &mut bytes, now, &mut inbox);
            // What a handshake message made due comes before the next datagram.
            pod.tunnel.handle_timeout(now);
            delivered.extend(inbox.0.into_iter().map(|packet| (pod.address, packet)));
        }
    }
    delivered
}
