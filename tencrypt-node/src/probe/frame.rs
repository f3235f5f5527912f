//! The judgement of one frame: a record of the tunnel between two pods, something else between them, or none of their traffic.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use tencrypt::record::Head;

use super::command::Ends;

/// Most lanes of a pod: their ports follow the first one's.
const LANES: u16 = 16;

/// Bytes of the shortest record: header and tag (docs/wire-format.md, section 1.2).
const RECORD: usize = 32;

/// Numbers of protocols in IP headers (<https://www.iana.org/assignments/protocol-numbers>).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

/// Extension headers of IPv6 that another one may follow, with a length of their own (RFC 8200, section 4).
const EXTENSIONS: [u8; 3] = [0, 43, 60];

/// Types of neighbour discovery (RFC 4861, section 4), which has no payload of anybody's.
const NEIGHBOURS: RangeInclusive<u8> = 133..=137;

/// The traffic that is looked for.
#[derive(Debug, Clone)]
pub(super) struct Sought {
    own: Vec<IpAddr>,
    other: Vec<IpAddr>,
    ports: RangeInclusive<u16>,
}

/// A frame's part in that traffic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Of others, or what the network itself needs.
    Other,
    /// A record of the tunnel; true: it leaves the pod here.
    Record(bool),
    /// A handshake of the tunnel.
    Handshake,
    /// Something between the pods that is not the tunnel's.
    Plain(Plain),
}

/// Something that leaves or comes in plain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plain {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    ports: Option<(u16, u16)>,
}

impl Sought {
    /// The traffic between these ends.
    pub(super) fn between(ends: &Ends) -> Self {
        let ports = ends.port..=ends.port.saturating_add(LANES - 1);
        Self { own: ends.own.clone(), other: ends.other.clone(), ports }
    }

    /// Judges a packet, from its IP header on; it may be cut behind its first bytes, of `length` in all.
    pub(super) fn judge(&self, bytes: &[u8], length: usize) -> Seen {
        let Some(packet) = Packet::parse(bytes) else { return Seen::Other };
        let is_between =
            |one: &[IpAddr], other: &[IpAddr]| one.contains(&packet.from) && other.contains(&packet.to);
        let leaves = is_between(&self.own, &self.other);
        if !leaves && !is_between(&self.other, &self.own) || packet.is_neighbours() {
            return Seen::Other;
        }
        // It shows no more than what it is about, and of that the length is not known.
        let about = packet.error_about().map(|quoted| self.judge(quoted, usize::MAX));
        if matches!(about, Some(Seen::Record(_) | Seen::Handshake)) {
            return Seen::Other;
        }
        let is_tunnel = packet.protocol == UDP
            && packet
                .ports()
                .is_some_and(|(from, to)| self.ports.contains(&from) && self.ports.contains(&to));
        let whole = length.saturating_sub(bytes.len() - packet.body.len());
        let message = is_tunnel.then(|| packet.body.get(8..).and_then(Head::read)).flatten();
        match message.map(|head| head.message_type) {
            Some(Head::DATA) if whole >= 8 + RECORD => Seen::Record(leaves),
            Some(Head::INIT | Head::RESP | Head::CONF | Head::COOKIE | Head::RESET) => Seen::Handshake,
            _ => Seen::Plain(packet.plain()),
        }
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            TCP => to.write_str("tcp")?,
            UDP => to.write_str("udp")?,
            ICMP | ICMPV6 => to.write_str("icmp")?,
            FRAGMENT => to.write_str("fragment")?,
            other => write!(to, "protocol {other}")?,
        }
        match self.ports {
            Some((from, port)) => write!(to, " {} port {from} > {} port {port}", self.from, self.to),
            None => write!(to, " {} > {}", self.from, self.to),
        }
    }
}

/// An IP packet, as far as it is looked at.
struct Packet<'b> {
    from: IpAddr,
    to: IpAddr,
    /// Of what `body` begins with; [`FRAGMENT`] for a later fragment, which begins with nothing.
    protocol: u8,
    body: &'b [u8],
}

impl<'b> Packet<'b> {
    fn parse(bytes: &'b [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::v4(bytes),
            6 => Self::v6(bytes),
            _ => None,
        }
    }

    /// RFC 791, section 3.1.
    fn v4(bytes: &'b [u8]) -> Option<Self> {
        let address = |at: usize| Some(IpAddr::from(Ipv4Addr::from(*bytes.get(at..)?.first_chunk()?)));
        let (from, to) = (address(12)?, address(16)?);
        let body = bytes.get(usize::from(bytes[0] & 0xf) * 4..).unwrap_or_default();
        let is_later = u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff != 0;
        Some(Self { from, to, protocol: if is_later { FRAGMENT } else { bytes[9] }, body })
    }

    /// RFC 8200, sections 3 and 4.
    fn v6(bytes: &'b [u8]) -> Option<Self> {
        let address = |at: usize| Some(IpAddr::from(Ipv6Addr::from(*bytes.get(at..)?.first_chunk()?)));
        let (from, to) = (address(8)?, address(24)?);
        let (mut protocol, mut body) = (bytes[6], bytes.get(40..)?);
        loop {
            let length = match (protocol, body) {
                (FRAGMENT, [_, _, high, low, ..]) if u16::from_be_bytes([*high, *low]) >> 3 == 0 => 8,
                (next, [_, length, ..]) if EXTENSIONS.contains(&next) => 8 * (usize::from(*length) + 1),
                _ => break,
            };
            let Some(rest) = body.get(length..) else { break };
            (protocol, body) = (body[0], rest);
        }
        Some(Self { from, to, protocol, body })
    }

    fn is_neighbours(&self) -> bool {
        self.protocol == ICMPV6 && self.body.first().is_some_and(|kind| NEIGHBOURS.contains(kind))
    }

    /// The packet that an error of ICMP is about, as far as that has it (RFC 792; RFC 4443, section 3).
    fn error_about(&self) -> Option<&'b [u8]> {
        match (self.protocol, self.body.first()?) {
            (ICMP, 3..=5 | 11..=12) | (ICMPV6, 1..=4) => self.body.get(8..),
            _ => None,
        }
    }

    fn ports(&self) -> Option<(u16, u16)> {
        let port = |at: usize| Some(u16::from_be_bytes(*self.body.get(at..)?.first_chunk()?));
        if matches!(self.protocol, TCP | UDP) { port(0).zip(port(2)) } else { None }
    }

    fn plain(&self) -> Plain {
        Plain { from: self.from, to: self.to, protocol: self.protocol, ports: self.ports() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
    const V6: [&str; 2] = ["fd00::1", "fd00::2"];

    /// The pods have addresses of both families, whichever is sent from.
    fn sought([own, other]: [&str; 2]) -> Sought {
        let pair = |one: &str, more: &str| vec![one.parse().unwrap(), more.parse().unwrap()];
        let (own_more, other_more) = if own == V4[0] { (V6[0], V6[1]) } else { (V4[0], V4[1]) };
        Sought::between(&Ends {
            netns: String::new(),
            own: pair(own, own_more),
            other: pair(other, other_more),
            port: 8362,
            canary: [0; 16],
        })
    }

    fn packet([from, to]: [&str; 2], protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = match (from.parse().unwrap(), to.parse().unwrap()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut head = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
                head.extend(from.octets());
                head.extend(to.octets());
                head
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut head = vec![0x60, 0, 0, 0, 0, 0, protocol, 255];
                head.extend(from.octets());
                head.extend(to.octets());
                head
            }
            _ => panic!("two families"),
        };
        bytes.extend(body);
        bytes
    }

    fn datagram(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 4], payload].concat()
    }

    fn judge(addresses: [&str; 2], bytes: &[u8]) -> Seen {
        sought(addresses).judge(bytes, bytes.len())
    }

    fn record() -> Vec<u8> {
        [&[Head::DATA, 0, 0, 0][..], &[7; 44]].concat()
    }

    #[test]
    fn records_and_handshakes_of_both_families_are_the_tunnels_and_have_a_direction() {
        for ([a, b], by) in [(V4, V4), (V6, V6), (V4, V6)] {
            let record = datagram(8362, 8365, &record());
            assert_eq!(judge([a, b], &packet(by, UDP, &record)), Seen::Record(true));
            assert_eq!(judge([a, b], &packet([by[1], by[0]], UDP, &record)), Seen::Record(false));
            for kind in [Head::INIT, Head::RESP, Head::CONF, Head::COOKIE, Head::RESET] {
                let message = datagram(8362, 8362, &[kind; 60]);
                assert_eq!(judge([a, b], &packet([a, b], UDP, &message)), Seen::Handshake);
            }
        }
    }

    #[test]
    fn a_record_that_was_cut_is_judged_by_its_own_length() {
        let bytes = packet(V4, UDP, &datagram(8362, 8362, &record()));
        assert_eq!(sought(V4).judge(&bytes[..40], bytes.len()), Seen::Record(true));
        assert!(matches!(sought(V4).judge(&bytes[..40], 40), Seen::Plain(_)));
    }

    #[test]
    fn all_else_between_the_two_is_plain_and_is_called_by_its_name() {
        let said = |addresses, bytes: &[u8]| match judge(addresses, bytes) {
            Seen::Plain(plain) => plain.to_string(),
            other => panic!("{other:?}"),
        };
        let syn = [&40_000u16.to_be_bytes()[..], &80u16.to_be_bytes(), &[0; 16]].concat();
        assert_eq!(said(V4, &packet(V4, TCP, &syn)), "tcp 10.0.0.1 port 40000 > 10.0.0.2 port 80");
        assert_eq!(said(V4, &packet(V4, 1, &[8; 24])), "icmp 10.0.0.1 > 10.0.0.2");
        assert_eq!(said(V6, &packet(V6, ICMPV6, &[128; 24])), "icmp fd00::1 > fd00::2");
        assert_eq!(said(V4, &packet(V4, 132, &[0; 24])), "protocol 132 10.0.0.1 > 10.0.0.2");
        // The port alone makes no record, nor do the bytes alone, nor one of the two ports.
        for (from, to, payload) in [
            (8362, 8362, &b"GET / HTTP/1.1"[..]),
            (8362, 8362, &[4; 8]),
            (53, 8362, &record()),
            (8378, 8362, &record()),
        ] {
            let bytes = packet(V6, UDP, &datagram(from, to, payload));
            assert!(said(V6, &bytes).starts_with("udp fd00::1 port "), "{from} {to}");
        }
        let mut later = packet(V4, UDP, &datagram(8362, 8362, &record()));
        later[7] = 1;
        assert_eq!(said(V4, &later), "fragment 10.0.0.1 > 10.0.0.2");
        let later = packet(V6, FRAGMENT, &[&[UDP, 0, 0, 8, 0, 0, 0, 1][..], &record()].concat());
        assert_eq!(said(V6, &later), "fragment fd00::1 > fd00::2");
        let behind = packet(V6, 60, &[&[TCP, 0, 0, 0, 0, 0, 0, 0][..], &syn].concat());
        assert_eq!(said(V6, &behind), "tcp fd00::1 port 40000 > fd00::2 port 80");
    }

    #[test]
    fn others_traffic_and_what_the_network_needs_are_passed_over() {
        let advertisement = packet(V6, ICMPV6, &[136; 24]);
        assert_eq!(judge(V6, &advertisement), Seen::Other);
        let elsewhere = packet(["10.0.0.1", "10.0.0.3"], TCP, &[0; 20]);
        assert_eq!(judge(V4, &elsewhere), Seen::Other);
        // Errors about the tunnel show what it has shown, others what they are about.
        for (addresses, protocol, kind) in [(V4, 1, 3), (V6, ICMPV6, 1)] {
            let about =
                |quoted: &[u8]| packet(addresses, protocol, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat());
            let quoted = packet(addresses, UDP, &datagram(8362, 8362, &record()));
            assert_eq!(judge(addresses, &about(&quoted[..60])), Seen::Other);
            let quoted = packet(addresses, UDP, &datagram(40_000, 53, &record()));
            assert!(matches!(judge(addresses, &about(&quoted)), Seen::Plain(_)));
        }
        // ARP: its hardware type stands where IP has its version.
        assert_eq!(judge(V4, &[0, 1, 8, 0, 6, 4, 0, 1]), Seen::Other);
        assert_eq!(judge(V4, &[]), Seen::Other);
    }

    #[test]
    fn bytes_that_are_cut_anywhere_are_judged_without_a_panic() {
        let whole = [
            packet(V4, UDP, &datagram(8362, 8362, &record())),
            packet(
                V6,
                60,
                &[&[FRAGMENT, 1][..], &[0; 14], &[UDP, 0, 0, 0], &[0; 4], &datagram(1, 2, &[0; 8])].concat(),
            ),
        ];
        for bytes in &whole {
            for end in 0..bytes.len() {
                let _ = sought(V4).judge(&bytes[..end], bytes.len());
                let _ = sought(V6).judge(&bytes[..end], bytes.len());
            }
        }
    }
}
