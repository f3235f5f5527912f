//! Queue of a device that the kernel puts a packet into.

mod support;

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    num::NonZeroU8,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use support::{isolated, net::Net, plan_with, player_without, role};
use tencrypt::offload::{GsoType, VnetHdr};
use tencrypt_tun::{Capture, DeviceError, DeviceOffload, RawSockets, Received, TunDevice, TunOptions, steer};

const QUEUES: u8 = 3;

/// `linux/capability.h`
const CAP_SYS_ADMIN: libc::c_ulong = 21;
const CAP_BPF: libc::c_ulong = 39;

fn create(queues: u8) -> Result<Vec<TunDevice>, DeviceError> {
    let options = TunOptions::new("tun0".parse().unwrap()).with_offload(DeviceOffload::ALL);
    TunDevice::create_queues(options, NonZeroU8::new(queues).unwrap())
}

/// A device that 10.128.0.0/16 and fd00:128::/32 lead to; nothing where the test's caller is an ordinary user, whom the
/// kernel refuses.
fn steered() -> Option<(Net, Vec<TunDevice>)> {
    let devices = match create(QUEUES) {
        Err(DeviceError::SteeringRefused(error)) if in_user_namespace() => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            return None;
        }
        devices => devices.expect("creates"),
    };
    assert_eq!(devices.len(), usize::from(QUEUES));
    let net = Net::new();
    net.up("tun0");
    net.address("tun0", "10.128.1.5/16");
    net.quick_address("tun0", "fd00:128:1::5/32");
    Some((net, devices))
}

fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("/proc");
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The queue in which the packet with these last bytes waits, its header and itself.
fn find(devices: &[TunDevice], last: &[u8]) -> (usize, VnetHdr, Vec<u8>) {
    let mut buf = vec![0; 65_536 + VnetHdr::LEN];
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        for (queue, device) in devices.iter().enumerate() {
            if let Received::Packet { vnet, len } = device.read(&mut buf).expect("reads") {
                let packet = &buf[VnetHdr::LEN..VnetHdr::LEN + len];
                if packet.ends_with(last) {
                    return (queue, vnet, packet.to_vec());
                }
            }
        }
    }
    panic!("the packet never came");
}

/// A packet's upper part: what the protocol is, its ports where it has them.
#[derive(Debug, Clone, Copy)]
enum Upper {
    Tcp(u16, u16),
    Udp(u16, u16),
    Icmp,
}

impl Upper {
    fn reversed(self) -> Self {
        match self {
            Self::Tcp(from, to) => Self::Tcp(to, from),
            Self::Udp(from, to) => Self::Udp(to, from),
            Self::Icmp => self,
        }
    }

    fn bytes(self) -> (u8, Vec<u8>) {
        let (protocol, from, to, length) = match self {
            Self::Tcp(from, to) => (6, from, to, 20),
            Self::Udp(from, to) => (17, from, to, 8),
            Self::Icmp => (1, 0x0800, 0, 8),
        };
        let mut bytes = vec![0; length];
        bytes[..2].copy_from_slice(&from.to_be_bytes());
        bytes[2..4].copy_from_slice(&to.to_be_bytes());
        (protocol, bytes)
    }
}

fn v4(hosts: (u16, u16), upper: Upper, fragment: u16, options: usize) -> Vec<u8> {
    let (protocol, bytes) = upper.bytes();
    let header = 20 + 4 * options;
    // No operation (RFC 791 section 3.1).
    let mut packet = vec![1; header];
    packet[..20].fill(0);
    packet[0] = 0x40 | (header / 4) as u8;
    packet[2..4].copy_from_slice(&((header + bytes.len() + 8) as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    for (at, host) in [(12, hosts.0), (16, hosts.1)] {
        packet[at..at + 2].copy_from_slice(&[10, 128]);
        packet[at + 2..at + 4].copy_from_slice(&host.to_be_bytes());
    }
    packet.extend(bytes);
    packet
}

fn v6(hosts: (u16, u16), upper: Upper, fragmented: bool) -> Vec<u8> {
    let (protocol, bytes) = upper.bytes();
    let protocol = if protocol == 1 { 58 } else { protocol };
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[6] = protocol;
    packet[7] = 64;
    for (at, host) in [(8, hosts.0), (24, hosts.1)] {
        let address = Ipv6Addr::new(0xfd00, 0x128, host / 5, host, 0, host * 3, 9, host);
        packet[at..at + 16].copy_from_slice(&address.octets());
    }
    if fragmented {
        // First of several (RFC 8200 section 4.5).
        packet[6] = 44;
        packet.extend([protocol, 0, 0, 1, 0, 0, 0, 7]);
    }
    packet.extend(bytes);
    let length = (packet.len() - 40 + 8) as u16;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

#[test]
fn the_kernel_chooses_as_we_do_and_alike_for_both_directions() {
    isolated("the_kernel_chooses_as_we_do_and_alike_for_both_directions", || {
        let Some((_net, devices)) = steered() else { return };
        let raw = RawSockets::open().expect("raw sockets");
        let mut waited = [0_u32; QUEUES as usize];
        let mut tag = 0_u64;
        let mut queue_of = |mut packet: Vec<u8>| {
            tag += 1;
            packet.extend(tag.to_be_bytes());
            raw.send(&packet).expect("sends");
            let (queue, _, sent) = find(&devices, &tag.to_be_bytes());
            assert_eq!(queue, steer(&packet) as usize % devices.len(), "{packet:02x?}");
            assert_eq!(steer(&sent), steer(&packet), "{sent:02x?}");
            waited[queue] += 1;
            queue
        };
        for flow in 0..60_u16 {
            let (port, hosts) = (32_768 + flow * 7, (700 + flow * 13, 1900 + flow % 11));
            let back = (hosts.1, hosts.0);
            for upper in [Upper::Tcp(port, 443), Upper::Udp(port, 53), Upper::Icmp] {
                let reply = upper.reversed();
                assert_eq!(queue_of(v4(hosts, upper, 0x4000, 0)), queue_of(v4(back, reply, 0, 0)));
                assert_eq!(queue_of(v4(hosts, upper, 0, 3)), queue_of(v4(back, reply, 0, 10)));
                assert_eq!(queue_of(v6(hosts, upper, false)), queue_of(v6(back, reply, false)));
                // First, last; other ports, or what is there instead.
                let fragments = [v4(hosts, upper, 0x2000, 0), v4(hosts, Upper::Udp(flow, 9), 0x00b9, 0)];
                let [first, last] = fragments.map(&mut queue_of);
                assert_eq!(first, last);
                assert_eq!(queue_of(v6(hosts, upper, true)), queue_of(v6(back, reply, true)));
            }
        }
        let total: u32 = waited.iter().sum();
        assert_eq!(total, 60 * 3 * 10);
        // Without ports where they belong: the first queue, whatever the addresses.
        for host in 700..720_u16 {
            let packet = &v4((1900, host), Upper::Tcp(0, 0), 0, 0)[..20];
            raw.send(packet).expect("sends");
            let to = &packet[16..20];
            assert_eq!((find(&devices, to).0, steer(packet)), (0, 0));
        }
        assert!(waited.iter().all(|queue| queue * 5 > total), "{waited:?}");
    });
}

#[test]
fn a_super_packet_waits_where_its_flow_does() {
    isolated("a_super_packet_waits_where_its_flow_does", || {
        let Some((_net, devices)) = steered() else { return };
        // Every queue has the device's header and offloads, and takes packets.
        assert!(devices.iter().all(|queue| queue.offloads() == devices[0].offloads()));
        assert!(devices.iter().all(|queue| queue.gso_writes() && queue.gso_udp_writes()));
        let mut used = vec![false; devices.len()];
        for port in 9000..9060 {
            let to: SocketAddr = format!("10.128.7.7:{port}").parse().unwrap();
            let socket = UdpSocket::bind("10.128.1.5:0").expect("binds");
            socket.send_to(b"single", to).expect("sends");
            let (queue, _, _) = find(&devices, b"single");
            support::sys::set_option(
                &Socket::from(socket.try_clone().expect("clones")),
                libc::IPPROTO_UDP,
                103,
                &1000_i32.to_ne_bytes(),
            );
            let mut train = vec![0; 40_000];
            train.extend(b"train");
            socket.send_to(&train, to).expect("sends");
            if devices[0].offloads().udp {
                let (same, vnet, packet) = find(&devices, b"train");
                assert_eq!((same, vnet.gso_type), (queue, GsoType::UdpL4));
                assert_eq!(steer(&packet) as usize % devices.len(), queue);
            }
            used[queue] = true;
        }
        assert_eq!(used, [true; QUEUES as usize]);
    });
}

#[test]
fn every_queue_delivers_and_the_last_one_ends_the_device() {
    isolated("every_queue_delivers_and_the_last_one_ends_the_device", || {
        let Some((net, mut devices)) = steered() else { return };
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("raw socket");
        raw.set_read_timeout(Some(Duration::from_secs(2))).expect("time-out");
        let raw = UdpSocket::from(std::os::fd::OwnedFd::from(raw));
        for (number, device) in devices.iter().enumerate() {
            let mut packet = v4((0x0707, 0x0105), Upper::Icmp, 0, 0);
            packet.extend((number as u64).to_be_bytes());
            // An echo reply that nobody asked for.
            packet[20] = 0;
            let sum = packet[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            let sum = sum.sum::<u32>();
            packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
            device.write(VnetHdr::default(), &packet).expect("writes");
            let mut buf = [0; 100];
            let length = raw.recv(&mut buf).expect("delivered");
            assert_eq!(buf[..length], packet);
        }
        while let Some(device) = devices.pop() {
            assert!(net.link("tun0").is_some());
            drop(device);
        }
        assert!(net.link("tun0").is_none());
    });
}

#[test]
fn a_capture_has_a_queue_a_lane() {
    isolated("a_capture_has_a_queue_a_lane", || {
        if in_user_namespace() {
            return;
        }
        let net = Net::new();
        let _wire = net.pod();
        let mut plan = plan_with(DeviceOffload::ALL);
        plan.queues = NonZeroU8::new(QUEUES).unwrap();
        let capture = Capture::install(plan);
        let capture = capture.expect("installs");
        assert_eq!(capture.queues().len(), usize::from(QUEUES));
        let to: SocketAddr = "10.128.7.7:9000".parse().unwrap();
        UdpSocket::bind("10.128.1.5:0").expect("binds").send_to(b"captured", to).expect("sends");
        let mut buf = [0; 2048];
        let expected = |packet: &[u8]| steer(packet) as usize % capture.queues().len();
        support::eventually("the packet in its queue", || {
            capture.queues().iter().enumerate().any(|(queue, device)| {
                let read = device.read(&mut buf).expect("reads");
                let Received::Packet { len, .. } = read else { return false };
                let packet = &buf[VnetHdr::LEN..VnetHdr::LEN + len];
                packet.ends_with(b"captured") && expected(packet) == queue
            })
        });
        capture.remove().expect("removes");
        assert!(net.link("tenc0").is_none());
    });
}

#[test]
fn without_the_right_to_steer_there_is_one_queue() {
    const TEST: &str = "without_the_right_to_steer_there_is_one_queue";
    isolated(TEST, || {
        if role() == "main" {
            let output = player_without(&[CAP_SYS_ADMIN, CAP_BPF], TEST, "powerless");
            let shown =
                [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
            assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
            return;
        }
        let restricted = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").expect("/proc");
        match create(QUEUES) {
            Err(DeviceError::SteeringRefused(error)) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
            other => assert_eq!((restricted.trim(), other.expect("creates").len()), ("0", 3)),
        }
        // Nothing is left of it.
        assert_eq!(create(1).expect("creates").len(), 1);
    });
}
