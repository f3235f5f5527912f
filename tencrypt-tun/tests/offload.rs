//! Packets that are not finished: super-packets and partial checksums, out of the device and into it.

mod support;

use std::{
    io::{IoSlice, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use netlink_packet_route::link::LinkAttribute;
use support::{another_namespace, eventually, isolated, net::Net, plan, plan_with};
use tencrypt::offload::{GsoType, VnetHdr};
use tencrypt_tun::{
    Calls, Capture, Change, Delivered, DeviceOffload, NetNs, Received, TunDevice, TunOptions,
};

/// Socket option: the size of the datagrams a send is cut to (include/uapi/linux/udp.h).
const UDP_SEGMENT: i32 = 103;

const NEAR: [&str; 2] = ["10.128.1.5", "fd00:128:1::5"];
const FAR: [&str; 2] = ["10.128.7.7", "fd00:128:7::7"];

/// A pod and, in another namespace, a device with the addresses of a peer.
struct Ends {
    near: Capture,
    far: TunDevice,
    there: NetNs,
    buf: Vec<u8>,
    seen: Vec<(VnetHdr, usize)>,
}

impl Ends {
    fn new(offload: DeviceOffload) -> Self {
        let near = Capture::install(plan_with(offload)).expect("installs");
        let there = another_namespace();
        let far = there.run(|| {
            let far = TunDevice::create(TunOptions::new("tun0".parse().unwrap()).with_offload(offload))
                .expect("creates");
            let net = Net::new();
            net.up("tun0");
            net.address("tun0", "10.128.7.7/16");
            net.quick_address("tun0", "fd00:128:7::7/32");
            far
        });
        Self { near, far: far.expect("runs"), there, buf: vec![0; 65_536 + VnetHdr::LEN], seen: Vec::new() }
    }

    /// Carries packets both ways until the work is done; what leaves the pod is noted.
    fn carry<T>(&mut self, work: &JoinHandle<T>) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !work.is_finished() {
            assert!(Instant::now() < deadline, "the work never ended");
            let near = self.near.device();
            let sent = pass(near, &self.far, &mut self.buf);
            let idle = sent.is_none() && pass(&self.far, near, &mut self.buf).is_none();
            self.seen.extend(sent);
            if idle {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }
}

/// Carries one packet exactly as it is.
fn pass(from: &TunDevice, to: &TunDevice, buf: &mut [u8]) -> Option<(VnetHdr, usize)> {
    let Received::Packet { vnet, len } = from.read(buf).expect("reads") else { return None };
    let (header, packet) = buf[..VnetHdr::LEN + len].split_at(VnetHdr::LEN);
    let written = to.write_parts(&[IoSlice::new(header), IoSlice::new(packet)]).expect("writes");
    assert_eq!(written, Delivered::Done, "{vnet:?}");
    Some((vnet, len))
}

/// Segments of a super-packet with headers of `headers` bytes.
fn segments((vnet, len): (VnetHdr, usize), headers: usize) -> usize {
    (len - headers).div_ceil(usize::from(vnet.gso_size))
}

/// The next packet to this address within two seconds.
fn next_to(device: &TunDevice, to: IpAddr, buf: &mut [u8]) -> (VnetHdr, usize) {
    let mut found = None;
    eventually("a packet to the peer", || match device.read(buf).expect("reads") {
        Received::Packet { vnet, len } => {
            let packet = &buf[VnetHdr::LEN..];
            let matches = match to {
                IpAddr::V4(v4) => packet[0] >> 4 == 4 && packet[16..20] == v4.octets(),
                IpAddr::V6(v6) => packet[0] >> 4 == 6 && packet[24..40] == v6.octets(),
            };
            found = matches.then_some((vnet, len));
            matches
        }
        _ => false,
    });
    found.expect("found")
}

/// A socket whose sends are cut to datagrams of `size` bytes.
fn segmenting(from: &str, size: i32) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(from.parse().unwrap(), 0)).expect("binds");
    support::sys::set_option(
        &socket2::Socket::from(socket.try_clone().expect("clones")),
        libc::IPPROTO_UDP,
        UDP_SEGMENT,
        &size.to_ne_bytes(),
    );
    socket
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8).collect()
}

/// Sends four megabytes through the ends by TCP.
fn tcp_bulk(ends: &mut Ends, to: &str) {
    let to = SocketAddr::new(to.parse().unwrap(), 9000);
    let listener = ends.there.run(|| TcpListener::bind(to).expect("listens")).expect("runs");
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepts");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("reads");
        got
    });
    let sent = pattern(4 << 20);
    let content = sent.clone();
    let writer = std::thread::spawn(move || {
        TcpStream::connect(to).expect("connects").write_all(&content).expect("writes");
    });
    ends.carry(&reader);
    writer.join().expect("writes");
    assert!(reader.join().expect("reads") == sent, "{to}: not what was sent");
}

#[test]
fn tcp_leaves_and_arrives_in_super_packets() {
    isolated("tcp_leaves_and_arrives_in_super_packets", || {
        let net = Net::new();
        let _wire = net.pod();
        let mut ends = Ends::new(DeviceOffload::ALL);
        let offloads = ends.near.device().offloads();
        assert!(offloads.checksum && offloads.tcp && ends.near.device().gso_writes(), "{offloads:?}");
        for (to, kind, header) in [(FAR[0], GsoType::TcpV4, 20), (FAR[1], GsoType::TcpV6, 40)] {
            ends.seen.clear();
            let before = ends.near.device().calls().reads;
            tcp_bulk(&mut ends, to);
            let large: Vec<_> = ends.seen.iter().filter(|(vnet, _)| vnet.gso_type == kind).collect();
            // Four megabytes in packets of the MTU would be 3,000 reads.
            let reads = ends.near.device().calls().reads - before;
            println!("{to}: {reads} reads");
            assert!(reads < 1000, "{to}: {reads} reads");
            for (vnet, len) in large {
                assert!(vnet.needs_csum && !vnet.ecn, "{vnet:?}");
                assert_eq!((vnet.csum_start, vnet.csum_offset), (header, 16));
                // The TCP header with timestamps.
                let count = segments((*vnet, *len), usize::from(header) + 32);
                assert!((2..=44).contains(&count), "{count} segments");
            }
        }
    });
}

#[test]
fn without_offload_packets_are_single_and_finished() {
    isolated("without_offload_packets_are_single_and_finished", || {
        let net = Net::new();
        let _wire = net.pod();
        let mut ends = Ends::new(DeviceOffload::NONE);
        let device = ends.near.device();
        assert_eq!(device.offloads(), DeviceOffload::NONE);
        assert!(!device.gso_writes() && !device.gso_udp_writes());
        tcp_bulk(&mut ends, FAR[0]);
        assert!(ends.seen.len() > 2900, "{}", ends.seen.len());
        assert!(ends.seen.iter().all(|(vnet, len)| *vnet == VnetHdr::default() && *len <= 1440));
    });
}

#[test]
fn udp_trains_cost_one_read_and_one_write() {
    isolated("udp_trains_cost_one_read_and_one_write", || {
        let net = Net::new();
        let _wire = net.pod();
        let capture = Capture::install(plan_with(DeviceOffload::ALL)).expect("installs");
        let device = capture.device();
        if !device.offloads().udp {
            println!("the kernel has no UDP super-packets for TUN devices");
            return;
        }
        assert!(device.gso_udp_writes());
        let mut buf = vec![0; 65_536 + VnetHdr::LEN];
        for (from, to, header) in [(NEAR[0], FAR[0], 20_u16), (NEAR[1], FAR[1], 40)] {
            let to = SocketAddr::new(to.parse().unwrap(), 9000);
            let socket = segmenting(from, 1300);
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("time-out");
            let content = pattern(44 * 1300);
            let before = device.calls();
            assert_eq!(socket.send_to(&content, to).expect("sends"), content.len());
            let (vnet, len) = next_to(device, to.ip(), &mut buf);
            let Calls { reads, writes, .. } = device.calls();
            assert_eq!((reads - before.reads, writes), (1, before.writes));
            let headers = usize::from(header) + 8;
            assert_eq!((vnet.gso_type, vnet.gso_size, vnet.needs_csum), (GsoType::UdpL4, 1300, true));
            assert_eq!((vnet.csum_start, vnet.csum_offset), (header, 6));
            assert_eq!(segments((vnet, len), headers), 44);
            assert!(buf[VnetHdr::LEN + headers..][..len - headers] == content);

            // The answer: the same packet turned round, in a slice a datagram.
            let mut packet = buf[VnetHdr::LEN..VnetHdr::LEN + len].to_vec();
            turn_round(&mut packet);
            let encoded = vnet.encode();
            let (first, rest) = packet.split_at(headers + 1300);
            let mut slices = vec![IoSlice::new(&encoded), IoSlice::new(first)];
            slices.extend(rest.chunks(1300).map(IoSlice::new));
            assert_eq!(slices.len(), 1 + 44);
            assert_eq!(device.write_parts(&slices).expect("writes"), Delivered::Done);
            assert_eq!(device.calls().writes, before.writes + 1);
            let mut datagram = [0; 2000];
            for expected in content.chunks(1300) {
                let (length, from) = socket.recv_from(&mut datagram).expect("delivered");
                assert!(&datagram[..length] == expected && from == to);
            }
        }
    });
}

/// Swaps addresses and ports. Sums stay: they are of both.
fn turn_round(packet: &mut [u8]) {
    let (start, size, ports) = if packet[0] >> 4 == 4 { (12, 4, 20) } else { (8, 16, 40) };
    let (source, destination) = packet[start..start + 2 * size].split_at_mut(size);
    source.swap_with_slice(destination);
    packet.swap(ports, ports + 2);
    packet.swap(ports + 1, ports + 3);
}

#[test]
fn super_packets_are_limited_to_what_one_send_carries() {
    isolated("super_packets_are_limited_to_what_one_send_carries", || {
        let net = Net::new();
        let _wire = net.pod();
        let limit = |net: &Net| {
            let link = net.link("tenc0").expect("link exists");
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::GsoMaxSegs(segments) => Some(*segments),
                _ => None,
            })
        };
        let plain = Capture::install(plan()).expect("installs");
        assert_eq!(limit(&net), Some(65_535), "the kernel's default");
        plain.remove().expect("removes");

        let mut capture = Capture::install(plan_with(DeviceOffload::ALL)).expect("installs");
        assert_eq!(limit(&net), Some(44));
        let to = SocketAddr::new(FAR[0].parse().unwrap(), 9000);
        let mut buf = vec![0; 65_536 + VnetHdr::LEN];
        if capture.device().offloads().udp {
            for (count, reads) in [(44, 1), (45, 45)] {
                let before = capture.device().calls().reads;
                segmenting(NEAR[0], 1000).send_to(&pattern(count * 1000), to).expect("sends");
                for _ in 0..reads {
                    let (vnet, _) = next_to(capture.device(), to.ip(), &mut buf);
                    assert_eq!(vnet.gso_type == GsoType::UdpL4, reads == 1);
                }
                assert_eq!(capture.device().calls().reads, before + reads);
            }
        }
        net.mtu("eth0", 9000);
        capture.follow(Change::Missed).expect("follows");
        assert_eq!((net.link_mtu("tenc0"), limit(&net)), (8940, Some(7)));
    });
}

#[test]
fn headers_that_lie_are_refused() {
    isolated("headers_that_lie_are_refused", || {
        let net = Net::new();
        let create = || {
            TunDevice::create(TunOptions::new("tun0".parse().unwrap()).with_offload(DeviceOffload::ALL))
                .expect("creates")
        };
        let device = create();
        let mut packet = vec![0; 20 + 20 + 100];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[32] = 5 << 4;
        let honest = VnetHdr {
            needs_csum: true,
            gso_type: GsoType::TcpV4,
            hdr_len: 40,
            gso_size: 10,
            csum_start: 20,
            csum_offset: 16,
            ..VnetHdr::default()
        };
        // What the probe of the kernel rests on: a device that is down still looks at the header first.
        assert_eq!(device.write(honest, &packet).expect("writes"), Delivered::Down);
        assert!(device.gso_writes() && device.gso_udp_writes());
        assert_eq!(
            device.write(VnetHdr { gso_size: 0, ..honest }, &packet).expect("writes"),
            Delivered::Refused
        );
        assert!(!device.gso_writes() && device.gso_udp_writes());
        drop(device);

        let device = create();
        net.up("tun0");
        // Nothing of a super-packet: no reason to stop making them.
        assert_eq!(device.write_parts(&[]).expect("writes"), Delivered::Refused);
        assert_eq!(device.write_parts(&[IoSlice::new(&[])]).expect("writes"), Delivered::Refused);
        assert_eq!(device.write_parts(&[IoSlice::new(&[0; 9])]).expect("writes"), Delivered::Refused);
        let single = VnetHdr { gso_type: GsoType::None, gso_size: 0, ..honest };
        for lie in [VnetHdr { csum_start: 139, ..single }, VnetHdr { hdr_len: 141, ..single }] {
            assert_eq!(device.write(lie, &packet).expect("writes"), Delivered::Refused, "{lie:?}");
        }
        assert_eq!(device.write(single, &[]).expect("writes"), Delivered::Refused);
        assert!(device.gso_writes() && device.gso_udp_writes());
        let datagrams = VnetHdr { gso_type: GsoType::UdpL4, csum_offset: 6, ..honest };
        for lie in [
            VnetHdr { gso_size: 0, ..datagrams },
            VnetHdr { csum_start: u16::MAX, ..datagrams },
            VnetHdr { needs_csum: false, ..datagrams },
        ] {
            assert_eq!(device.write(lie, &packet).expect("writes"), Delivered::Refused, "{lie:?}");
        }
        assert!(device.gso_writes() && !device.gso_udp_writes());
        assert_eq!(device.calls().writes, 0);
        assert_eq!(device.write(honest, &packet).expect("writes"), Delivered::Done);
        assert_eq!(device.calls().writes, 1);
        let lie = VnetHdr { csum_start: 130, ..honest };
        assert_eq!(device.write(lie, &packet).expect("writes"), Delivered::Refused);
        assert!(!device.gso_writes());
    });
}
