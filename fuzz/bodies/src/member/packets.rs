//! Packets that say which they are, alone or several in one.

use std::net::IpAddr;

use tencrypt::offload::{GsoType, VnetHdr};
use tencrypt_sim::udp;

/// Bytes of a UDP header, and the place of its checksum.
const UDP_HEADER: usize = 8;
const UDP_CHECKSUM: usize = 6;

/// A packet of an application, or several of one flow in one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing {
    pub(super) source: IpAddr,
    pub(super) to: IpAddr,
    pub(super) port: u16,
    /// Payload bytes of every segment but the last, at least 8.
    pub(super) segment: usize,
    pub(super) segments: u16,
    /// Payload bytes of the last one, of which it takes what it may.
    pub(super) last: usize,
    /// The checksum of a lone packet is left to the device.
    pub(super) is_unfinished: bool,
}

impl Outgoing {
    pub(super) fn single(source: IpAddr, to: IpAddr, port: u16, len: usize) -> Self {
        Self { source, to, port, segment: len, segments: 1, last: len, is_unfinished: false }
    }

    /// The payloads, of which the first is number `first`.
    pub(super) fn payloads(&self, first: u64) -> Vec<Vec<u8>> {
        (0..self.segments)
            .map(|at| {
                let is_last = at + 1 == self.segments;
                let len = if is_last { self.last.clamp(8, self.segment) } else { self.segment };
                let number = first + u64::from(at);
                let mut payload = number.to_be_bytes().to_vec();
                payload.extend((8..len).map(|byte| (byte as u64 ^ number) as u8));
                payload
            })
            .collect()
    }

    /// The packet as the device gives it out.
    pub(super) fn build(&self, payloads: &[Vec<u8>]) -> (VnetHdr, Vec<u8>) {
        let mut bytes = udp((self.source, 1_000 + self.port), (self.to, 7), &payloads.concat());
        if self.segments == 1 && !self.is_unfinished {
            return (VnetHdr::default(), bytes);
        }
        let start = if self.source.is_ipv4() { 20 } else { 40 };
        let sum = pseudo_header(self.source, self.to, bytes.len() - start);
        bytes[start + UDP_CHECKSUM..start + UDP_HEADER].copy_from_slice(&sum.to_be_bytes());
        let mut vnet = VnetHdr {
            needs_csum: true,
            csum_start: start as u16,
            csum_offset: UDP_CHECKSUM as u16,
            hdr_len: (start + UDP_HEADER) as u16,
            ..VnetHdr::default()
        };
        if self.segments > 1 {
            vnet.gso_type = GsoType::UdpL4;
            vnet.gso_size = self.segment as u16;
        }
        (vnet, bytes)
    }
}

/// The sum that an unfinished UDP checksum begins with (RFC 768, RFC 8200 section 8.1).
fn pseudo_header(source: IpAddr, to: IpAddr, len: usize) -> u16 {
    let octets = |address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let addresses = [octets(source), octets(to)].concat();
    let words = addresses.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(word[1]));
    let mut sum: u64 = words.sum::<u64>() + 17 + len as u64;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
