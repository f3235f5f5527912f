//! Super-packets that show whether the kernel takes super-packets.
//!
//! Two segments of one byte: smaller than their headers, which is what kernels with commit e269d79c7d35 refuse
//! (include/linux/virtio_net.h). They are for a device that is down and drops them. Were it up, the IPv4 checksum, which
//! is wrong, would end them in `ip_rcv`.

use tencrypt::offload::{GsoType, VnetHdr};

const IPV4: usize = 20;
const SEGMENTS: usize = 2;

/// Two segments of TCP.
pub(crate) fn tcp() -> (VnetHdr, Vec<u8>) {
    let mut super_packet = of(GsoType::TcpV4, libc::IPPROTO_TCP as u8, 20, 16);
    // The data offset: five words.
    super_packet.1[IPV4 + 12] = 5 << 4;
    super_packet
}

/// Two datagrams of UDP.
pub(crate) fn udp() -> (VnetHdr, Vec<u8>) {
    let mut super_packet = of(GsoType::UdpL4, libc::IPPROTO_UDP as u8, 8, 6);
    super_packet.1[IPV4 + 5] = (8 + SEGMENTS) as u8;
    super_packet
}

fn of(gso_type: GsoType, protocol: u8, header: usize, csum_offset: u16) -> (VnetHdr, Vec<u8>) {
    let mut packet = vec![0; IPV4 + header + SEGMENTS];
    packet[0] = 0x45;
    packet[3] = packet.len() as u8;
    packet[8] = 1;
    packet[9] = protocol;
    // TEST-NET-1, the addresses of examples (RFC 5737).
    packet[12..16].copy_from_slice(&[192, 0, 2, 1]);
    packet[16..20].copy_from_slice(&[192, 0, 2, 2]);
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type,
        hdr_len: (IPV4 + header) as u16,
        gso_size: 1,
        csum_start: IPV4 as u16,
        csum_offset,
        ..VnetHdr::default()
    };
    (vnet, packet)
}
