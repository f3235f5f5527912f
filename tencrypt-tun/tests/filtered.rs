//! Packets of the tunnel that a firewall of the pod's own drops are counted, by kind, wherever it drops.

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage, TableAttribute,
    TableMessage,
};
use support::{
    isolated,
    net::{Net, Wire},
    plan,
    state::{assert_same, nft_batch, nftables, snapshot},
};
use tencrypt::offload::VnetHdr;
use tencrypt_tun::{Capture, Change, Filtered};

const ACCEPT: u32 = 1;
const DROP: u32 = 0;
/// Nameservers, peers and the pod, of each family.
const FAMILIES: [[&str; 3]; 2] =
    [["10.128.9.10", "10.128.7.7", "10.128.1.5"], ["fd00:128:9::10", "fd00:128:7::7", "fd00:128:1::5"]];

fn firewall_table() -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name("firewall".into())] }
}

/// A firewall of somebody else's: one chain without rules.
fn firewall(hook: InetHookNumber, priority: i32, policy: u32) {
    let chain = ChainMessage {
        attributes: vec![
            ChainAttribute::Table("firewall".into()),
            ChainAttribute::Name("in".into()),
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(hook)),
                Hook::Priority(priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(policy),
            ChainAttribute::Type("filter".into()),
        ],
    };
    nft_batch(vec![NfTablesMessage::NewTable(firewall_table()), NfTablesMessage::NewChain(chain)]);
}

/// An IP packet with a UDP header and `length` bytes more; the first fragment of a larger one if so wanted.
fn packet(from: &str, to: &str, length: usize, is_fragment: bool) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let udp =
        [&5300_u16.to_be_bytes()[..], &9999_u16.to_be_bytes(), &(8 + length as u16).to_be_bytes(), &[0; 2]];
    let body = [&udp.concat()[..], &vec![0; length]].concat();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (20 + body.len() as u16).to_be_bytes();
            let flags = if is_fragment { 0x20 } else { 0 };
            let mut header = [&[0x45, 0][..], &total, &[0, 7, flags, 0, 64, 17, 0, 0]].concat();
            header.extend([from.octets(), to.octets()].concat());
            let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
            let sum = words.sum::<u32>();
            let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            [header, body].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let fragment: &[u8] = if is_fragment { &[17, 0, 0, 1, 0, 0, 0, 7] } else { &[] };
            let length = (fragment.len() + body.len()) as u16;
            let next = if is_fragment { 44 } else { 17 };
            let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[next, 64]].concat();
            [&header[..], &from.octets(), &to.octets(), fragment, &body].concat()
        }
        _ => unreachable!("of one family"),
    }
}

fn node_says(wire: &Wire, own: &str, ports: &[u16]) {
    let own: IpAddr = own.parse().unwrap();
    wire.on_node(|_| {
        let any = if own.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("binds");
        for port in ports {
            // As long as the longest INIT.
            socket.send_to(&[1; 1372], SocketAddr::new(own, *port)).expect("sends");
        }
    });
}

/// Sends two datagrams to the tunnel's ports, as a peer does, one packet of a nameserver and three of a peer through the
/// device, in both families; and what does not count: to other ports, fragments, and what is large.
fn let_come(capture: &Capture, wire: &Wire) {
    for [nameserver, peer, own] in FAMILIES {
        node_says(wire, own, &[8361, 8362, 8362, 8363]);
        let packets = [
            packet(nameserver, own, 20, false),
            packet(peer, own, 0, false),
            packet(peer, own, 20, false),
            packet(peer, own, 1200, false),
            packet(peer, own, 1300, false),
            packet(peer, own, 1200, true),
        ];
        for packet in packets {
            capture.device().write(VnetHdr::default(), &packet).expect("writes");
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
}

fn read(capture: &mut Capture) -> [u64; 3] {
    capture.counters().expect("counts");
    let Filtered { datagrams, names, packets, .. } = capture.counters().expect("counts").filtered;
    [datagrams, names, packets]
}

#[test]
fn what_a_firewall_drops_of_the_tunnel_is_counted_wherever_it_drops() {
    isolated("what_a_firewall_drops_of_the_tunnel_is_counted_wherever_it_drops", || {
        let net = Net::new();
        let wire = net.pod();
        let mut plan = plan();
        plan.nameservers = FAMILIES.map(|[nameserver, ..]| nameserver.parse().unwrap()).to_vec();
        let mut capture = Capture::install(plan).expect("installs");
        let alone = nftables().len();
        let_come(&capture, &wire);
        assert_eq!(read(&mut capture), [0; 3]);
        let mut expected = [0; 3];
        for (hook, priority, policy) in [
            (InetHookNumber::LocalIn, 0, ACCEPT),
            (InetHookNumber::LocalIn, 0, DROP),
            (InetHookNumber::LocalIn, 200, DROP),
            (InetHookNumber::PreRouting, -150, DROP),
            (InetHookNumber::PreRouting, -400, DROP),
        ] {
            firewall(hook, priority, policy);
            capture.follow(Change::Chains).expect("follows");
            assert_eq!(read(&mut capture), expected, "what was counted stays");
            let_come(&capture, &wire);
            if policy == DROP {
                expected = [expected[0] + 4, expected[1] + 2, expected[2] + 6];
            }
            assert_eq!(read(&mut capture), expected, "{hook:?} {priority}");
            nft_batch(vec![NfTablesMessage::DeleteTable(firewall_table())]);
            capture.follow(Change::Chains).expect("follows");
            assert_eq!(nftables().len(), alone, "nothing counts where nobody else drops");
            assert_eq!(read(&mut capture), expected);
        }
        assert!(capture.parts().iter().all(|state| state.restored == 0 && state.problem.is_none()));
    });
}

#[test]
fn a_firewall_that_was_there_first_is_seen_and_left_as_it_was() {
    isolated("a_firewall_that_was_there_first_is_seen_and_left_as_it_was", || {
        let net = Net::new();
        let wire = net.pod();
        // It drops what neighbours say as well, so they are found before.
        FAMILIES.iter().for_each(|[.., own]| node_says(&wire, own, &[1]));
        firewall(InetHookNumber::LocalIn, 0, DROP);
        let before = snapshot(&net);
        let mut capture = Capture::install(plan()).expect("installs");
        let_come(&capture, &wire);
        assert_eq!(read(&mut capture), [4, 0, 8]);
        capture.remove().expect("removes");
        assert_same(&snapshot(&net), &before);
        let mut plan = plan();
        plan.enforce = false;
        let mut capture = Capture::install(plan).expect("installs");
        let_come(&capture, &wire);
        assert_eq!(read(&mut capture), [0; 3]);
        capture.follow(Change::Missed).expect("follows");
        assert!(!capture.is_closed());
    });
}
