//! Packets for tests, built byte by byte, and an oracle for their checksums: etherparse finds the parts and sums them.

use std::net::IpAddr;

use etherparse::{IpSlice, checksum::Sum16BitWords};
use proptest::prelude::*;

/// One whole packet.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// IPv4: options, a multiple of 4 bytes. Ignored for IPv6.
    pub(crate) options: Vec<u8>,
    /// IPv6: protocol number and bytes of each extension header, its first byte still open. Ignored for IPv4.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) body: Body,
    pub(crate) id: u32,
}

/// Content behind the IP header.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Tcp {
        ports: (u16, u16),
        flags: u8,
        options: Vec<u8>,
        payload: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
        checksum: bool,
        payload: Vec<u8>,
    },
    Echo {
        request: bool,
        id: u16,
        payload: Vec<u8>,
    },
    /// An ICMP error: type and the quoted bytes.
    Error {
        kind: u8,
        quoted: Vec<u8>,
    },
    Opaque {
        protocol: u8,
        payload: Vec<u8>,
    },
}

impl Sample {
    pub(crate) fn new(source: &str, destination: &str, body: Body) -> Self {
        let address = |text: &str| text.parse().expect("an address");
        Self {
            source: address(source),
            destination: address(destination),
            options: Vec::new(),
            extensions: Vec::new(),
            body,
            id: 0x1234,
        }
    }

    pub(crate) fn tcp(source: &str, destination: &str, ports: (u16, u16), flags: u8) -> Vec<u8> {
        let body = Body::Tcp { ports, flags, options: Vec::new(), payload: b"tcp payload".to_vec() };
        Self::new(source, destination, body).build()
    }

    pub(crate) fn udp(source: &str, destination: &str, ports: (u16, u16)) -> Vec<u8> {
        let body = Body::Udp { ports, checksum: true, payload: b"udp payload!".to_vec() };
        Self::new(source, destination, body).build()
    }

    pub(crate) fn echo(source: &str, destination: &str, request: bool, id: u16) -> Vec<u8> {
        Self::new(source, destination, Body::Echo { request, id, payload: b"echo".to_vec() }).build()
    }

    /// An ICMP port unreachable that quotes the first `len` bytes of `quoted`.
    pub(crate) fn unreachable(source: &str, destination: &str, quoted: &[u8], len: usize) -> Vec<u8> {
        let kind = if source.contains(':') { 1 } else { 3 };
        let quoted = quoted[..len.min(quoted.len())].to_vec();
        Self::new(source, destination, Body::Error { kind, quoted }).build()
    }

    fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    fn protocol(&self) -> u8 {
        match self.body {
            Body::Tcp { .. } => 6,
            Body::Udp { .. } => 17,
            Body::Echo { .. } | Body::Error { .. } if self.is_v4() => 1,
            Body::Echo { .. } | Body::Error { .. } => 58,
            Body::Opaque { protocol, .. } => protocol,
        }
    }

    /// Transport header and payload, checksum included.
    fn transport(&self) -> Vec<u8> {
        let (mut bytes, checksum_at) = match &self.body {
            Body::Tcp { ports, flags, options, payload } => {
                let mut bytes = Vec::new();
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend([1, 2, 3, 4, 5, 6, 7, 8, (5 + options.len() as u8 / 4) << 4, *flags]);
                bytes.extend([0x20, 0x00, 0, 0, 0, 0]);
                bytes.extend(options);
                bytes.extend(payload);
                (bytes, Some(16))
            }
            Body::Udp { ports, checksum, payload } => {
                let mut bytes = Vec::new();
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend((payload.len() as u16 + 8).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                (bytes, checksum.then_some(6))
            }
            Body::Echo { request, id, payload } => {
                let kind = match (self.is_v4(), request) {
                    (true, true) => 8,
                    (true, false) => 0,
                    (false, true) => 128,
                    (false, false) => 129,
                };
                let mut bytes = vec![kind, 0, 0, 0];
                bytes.extend(id.to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(payload);
                (bytes, Some(2))
            }
            Body::Error { kind, quoted } => {
                let mut bytes = vec![*kind, if self.is_v4() { 3 } else { 4 }, 0, 0, 0, 0, 0, 0];
                bytes.extend(quoted);
                (bytes, Some(2))
            }
            Body::Opaque { protocol: 33 | 136, payload } if payload.len() >= 8 => {
                let mut bytes = payload.clone();
                bytes[6..8].fill(0);
                (bytes, Some(6))
            }
            Body::Opaque { payload, .. } => (payload.clone(), None),
        };
        if let Some(at) = checksum_at {
            let udp = matches!(self.body, Body::Udp { .. });
            let checksum = match transport_sum(self.source, self.destination, self.protocol(), &bytes) {
                0 if udp => 0xFFFF,
                checksum => checksum,
            };
            bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        self.assemble(None, &self.transport())
    }

    /// The packet in pieces of at most `size` bytes of payload, `size` a multiple of 8.
    pub(crate) fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let transport = self.transport();
        let count = transport.len().div_ceil(size);
        let pieces = transport.chunks(size).enumerate();
        pieces.map(|(n, piece)| self.assemble(Some((n * size, n + 1 < count)), piece)).collect()
    }

    fn assemble(&self, fragment: Option<(usize, bool)>, data: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_len = 20 + self.options.len();
                let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
                bytes.extend(((header_len + data.len()) as u16).to_be_bytes());
                bytes.extend((self.id as u16).to_be_bytes());
                let flags = fragment.map_or(0, |(offset, more)| (offset / 8) as u16 | u16::from(more) << 13);
                bytes.extend(flags.to_be_bytes());
                bytes.extend([64, self.protocol(), 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.options);
                let sum = Sum16BitWords::new().add_slice(&bytes).ones_complement();
                bytes[10..12].copy_from_slice(&sum.to_be().to_be_bytes());
                bytes.extend(data);
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut extensions = self.extensions.clone();
                if let Some((offset, more)) = fragment {
                    let mut header = vec![0, 0];
                    header.extend((offset as u16 | u16::from(more)).to_be_bytes());
                    header.extend(self.id.to_be_bytes());
                    extensions.push((44, header));
                }
                let mut behind = Vec::new();
                let next = extensions.iter().map(|(protocol, _)| *protocol).skip(1).chain([self.protocol()]);
                for ((_, header), next) in extensions.iter().zip(next) {
                    behind.push(next);
                    behind.extend(&header[1..]);
                }
                behind.extend(data);
                let mut bytes = vec![0x60, 0, 0, 0];
                bytes.extend((behind.len() as u16).to_be_bytes());
                bytes.extend([extensions.first().map_or(self.protocol(), |first| first.0), 64]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(behind);
                bytes
            }
            _ => panic!("mixed families"),
        }
    }
}

/// Checksum of `bytes` by etherparse, whatever their checksum field holds now included.
fn transport_sum(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let len = match protocol {
        17 => usize::from(u16::from_be_bytes([bytes[4], bytes[5]])),
        _ => bytes.len(),
    };
    let mut sum = Sum16BitWords::new().add_slice(&bytes[..len]);
    match (source, destination) {
        _ if protocol == 1 => {}
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sum = sum.add_4bytes(source.octets()).add_4bytes(destination.octets());
            sum = sum.add_2bytes([0, protocol]).add_2bytes((len as u16).to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            sum = sum.add_16bytes(source.octets()).add_16bytes(destination.octets());
            sum = sum.add_2bytes([0, protocol]).add_4bytes((len as u32).to_be_bytes());
        }
        _ => panic!("mixed families"),
    }
    sum.ones_complement().to_be()
}

/// Panics unless every checksum of the packet is right. Of a fragment only the IPv4 header's can be told.
pub(crate) fn assert_checksums(bytes: &[u8]) {
    assert_reassembled(&[bytes]);
}

/// Panics unless every checksum of the packet is right that these pieces, in order, make up.
pub(crate) fn assert_reassembled(pieces: &[impl AsRef<[u8]>]) {
    let mut whole = Vec::new();
    let mut first = None;
    for piece in pieces {
        let ip = IpSlice::from_slice(piece.as_ref()).expect("etherparse reads it");
        if let IpSlice::Ipv4(v4) = &ip {
            let header = v4.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum(), "IPv4 header");
        }
        let payload = ip.payload();
        let fragmented = pieces.len() == 1 && payload.fragmented;
        first.get_or_insert((ip.source_addr(), ip.destination_addr(), payload.ip_number.0, fragmented));
        whole.extend(payload.payload);
    }
    let (source, destination, protocol, fragmented) = first.expect("a piece");
    let no_checksum = protocol == 17 && whole.get(6..8) == Some(&[0, 0]);
    let covered = matches!(protocol, 1 | 6 | 17 | 58) || matches!(protocol, 33 | 136) && whole.len() >= 8;
    if covered && !fragmented && !no_checksum {
        assert_eq!(transport_sum(source, destination, protocol, &whole), 0, "protocol {protocol}");
    }
}

/// Turns a TCP or UDP packet's checksum into what a device with checksum offload hands out: the pseudo header's sum.
pub(crate) fn make_unfinished(bytes: &mut [u8]) -> (u16, u16) {
    let ip = IpSlice::from_slice(bytes).expect("etherparse reads it");
    let (protocol, len) = (ip.payload().ip_number.0, ip.payload().payload.len());
    let at = if protocol == 6 { 16 } else { 6 };
    let start = bytes.len() - len;
    let mut empty = vec![0; len];
    if protocol == 17 {
        empty[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    }
    let mut sum = !transport_sum(ip.source_addr(), ip.destination_addr(), protocol, &empty);
    if protocol == 17 {
        // The length field is no part of the pseudo header; take it out again.
        let rest = u32::from(sum) + u32::from(!(len as u16));
        sum = ((rest & 0xFFFF) + (rest >> 16)) as u16;
    }
    bytes[start + at..start + at + 2].copy_from_slice(&sum.to_be_bytes());
    (start as u16, at as u16)
}

/// Runs `count` cases from a fixed seed, so that every run of the tests is the same run. `PROPTEST_RNG_SEED` does not
/// apply; change the seed here to look elsewhere.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        cases: count,
        max_global_rejects: 1_000_000,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x7e5c),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..80), 1 => prop::collection::vec(any::<u8>(), 80..3000)]
}

fn any_body() -> impl Strategy<Value = Body> {
    let ports = || any::<(u16, u16)>();
    prop_oneof![
        (ports(), any::<u8>(), 0usize..11, any_payload()).prop_map(|(ports, flags, words, payload)| {
            Body::Tcp { ports, flags, options: vec![1; words * 4], payload }
        }),
        (ports(), any::<bool>(), any_payload()).prop_map(|(ports, checksum, payload)| Body::Udp {
            ports,
            checksum,
            payload
        }),
        (any::<bool>(), any::<u16>(), any_payload()).prop_map(|(request, id, payload)| Body::Echo {
            request,
            id,
            payload
        }),
        (prop::sample::select(vec![33u8, 47, 50, 59, 89, 132, 136, 253, 255]), any_payload())
            .prop_map(|(protocol, payload)| Body::Opaque { protocol, payload }),
    ]
}

/// IPv4 options that are no source route: record route, timestamp, router alert, security, padding.
fn any_options() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        Just(vec![1]),
        Just(vec![7, 7, 4, 0, 0, 0, 0]),
        Just(vec![68, 8, 5, 0, 0, 0, 0, 0]),
        Just(vec![148, 4, 0, 0]),
        Just(vec![130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    prop::collection::vec(one, 0..4).prop_map(|options| {
        let mut bytes = options.concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    })
}

/// Hop-by-hop options, then destination options, a spent routing header, destination options again.
fn any_extensions() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let options =
        || (0u8..4).prop_map(|len| [vec![0, len, 1, 4], vec![0; 4 + usize::from(len) * 8]].concat());
    let routing = (0u8..2).prop_map(|len| {
        let len = len * 2;
        [vec![0, len, 2, 0], vec![0; 4 + usize::from(len) * 8]].concat()
    });
    use prop::option::of;
    (of(options()), of(options()), of(routing)).prop_map(|(hop, destination, routing)| {
        [(0, hop), (60, destination), (43, routing)]
            .into_iter()
            .filter_map(|(protocol, header)| Some((protocol, header?)))
            .collect()
    })
}

/// Random addresses of one family, unicast or not: the packet layer does not care.
pub(crate) fn any_addresses<const N: usize>() -> impl Strategy<Value = [IpAddr; N]> {
    prop_oneof![
        any::<[[u8; 4]; N]>().prop_map(|all| all.map(IpAddr::from)),
        any::<[[u8; 16]; N]>().prop_map(|all| all.map(IpAddr::from)),
    ]
}

/// Any well-formed packet between these addresses.
pub(crate) fn any_sample(source: IpAddr, destination: IpAddr) -> impl Strategy<Value = Sample> {
    (any_body(), any_options(), any_extensions(), any::<u32>()).prop_map(
        move |(body, options, extensions, id)| Sample { source, destination, options, extensions, body, id },
    )
}
