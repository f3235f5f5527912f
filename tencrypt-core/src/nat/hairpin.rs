//! Handing the pod's DNS queries to the proxy, without a table.

use std::net::IpAddr;

use super::outcome::NatOutcome;
use crate::packet::{Flow, IpPacket, Rewrite, RewriteError};

const DNS: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// IPv6 headers that may hide TCP or UDP in a fragment that is not the first: hop-by-hop, routing, fragment,
/// authentication and destination options.
const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];

/// Turns DNS queries of this pod round, so that they reach the proxy in the same pod, and its answers back again.
///
/// With A the pod's address, N a nameserver, p the application's port and R the proxy's: `A:p > N:53` becomes
/// `N:p > A:R`, and the proxy's answer `A:R > N:p` becomes `N:53 > A:p`. Everything needed stands in the packet. The
/// kernel hears from N in both cases, so a socket connected to N gets its answer and nothing is a martian.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsHairpin {
    /// The nameservers whose port 53 is redirected, UDP and TCP.
    pub nameservers: Vec<IpAddr>,
    /// The port the proxy listens on.
    pub proxy_port: u16,
}

impl DnsHairpin {
    /// Redirects what is for port 53 of `nameservers` to `proxy_port`.
    #[must_use]
    pub const fn new(nameservers: Vec<IpAddr>, proxy_port: u16) -> Self {
        Self { nameservers, proxy_port }
    }

    /// Translates a packet that this pod sends. `partial` as in [`IpPacket::rewrite`].
    ///
    /// ICMP errors that quote a translated packet are translated too. Both directions exchange the addresses in the
    /// same way, so later fragments of UDP and TCP to a nameserver need no table: they are taken for DNS, as a
    /// fragmented packet to a nameserver practically is. A fragment that hides its protocol, or too short a first
    /// one, is untranslatable.
    pub fn translate(&self, packet: &mut IpPacket<&mut [u8]>, partial: bool) -> NatOutcome {
        let nameserver = packet.destination();
        if !self.nameservers.contains(&nameserver) {
            return NatOutcome::Untouched;
        }
        let swap = Rewrite {
            source: Some(nameserver),
            destination: Some(packet.source()),
            source_port: None,
            destination_port: None,
        };
        let rewritten = if packet.is_icmp_error() {
            let Some(quoted) = packet.quoted_flow().and_then(|flow| self.before(flow)) else {
                return NatOutcome::Untouched;
            };
            packet.rewrite_quoted(quoted).and_then(|()| packet.rewrite(swap, partial))
        } else if let Some(flow) = packet.flow() {
            let Some((source_port, destination_port)) = self.ports(flow) else {
                return NatOutcome::Untouched;
            };
            packet.rewrite(Rewrite { source_port, destination_port, ..swap }, partial)
        } else if matches!(packet.protocol(), TCP | UDP) && packet.is_later_fragment() {
            packet.rewrite(swap, partial)
        } else if matches!(packet.protocol(), TCP | UDP) || EXTENSIONS.contains(&packet.protocol()) {
            Err(RewriteError::OutOfReach)
        } else {
            return NatOutcome::Untouched;
        };
        match rewritten {
            Ok(()) => NatOutcome::Rewritten,
            Err(_) => NatOutcome::Refused,
        }
    }

    /// The ports that change, source and destination. The proxy's own port is looked at first: nobody else can send
    /// from it, while an application may well send its queries from port 53.
    fn ports(&self, flow: Flow) -> Option<(Option<u16>, Option<u16>)> {
        match (flow.protocol, flow.source_port, flow.destination_port) {
            (TCP | UDP, port, _) if port == self.proxy_port => Some((Some(DNS), None)),
            (TCP | UDP, _, DNS) => Some((None, Some(self.proxy_port))),
            _ => None,
        }
    }

    /// Returns what a translated packet of the flow `after`, quoted in an ICMP error, was before its translation.
    fn before(&self, after: Flow) -> Option<Rewrite> {
        let (source_port, destination_port) =
            match (after.protocol, after.source_port, after.destination_port) {
                (TCP | UDP, _, port) if port == self.proxy_port => (None, Some(DNS)),
                (TCP | UDP, DNS, _) => (Some(self.proxy_port), None),
                _ => return None,
            };
        let (source, destination) = (Some(after.destination), Some(after.source));
        Some(Rewrite { source, destination, source_port, destination_port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::samples::{Body, Sample, assert_checksums, assert_reassembled, make_unfinished};

    const PROXY: u16 = 40_053;
    /// The pod and a nameserver, of both families.
    const PAIRS: [(&str, &str); 2] = [("10.244.1.7", "10.96.0.10"), ("fd00:1::7", "fd00:96::a")];

    fn hairpin() -> DnsHairpin {
        let nameservers = PAIRS.map(|(_, nameserver)| nameserver.parse().expect("an address")).to_vec();
        DnsHairpin::new(nameservers, PROXY)
    }

    fn translate(bytes: &mut [u8]) -> NatOutcome {
        hairpin().translate(&mut IpPacket::parse(bytes).expect("well-formed"), false)
    }

    fn fragmented(source: &str, destination: &str, ports: (u16, u16)) -> Sample {
        let body = Body::Udp { ports, checksum: true, payload: (0..200).collect() };
        Sample::new(source, destination, body)
    }

    #[test]
    fn a_query_goes_to_the_proxy_and_its_answer_to_the_application() {
        for (pod, nameserver) in PAIRS {
            for make in [Sample::udp, |a: &str, b: &str, ports| Sample::tcp(a, b, ports, 2)] {
                let mut query = make(pod, nameserver, (5000, 53));
                assert_eq!(translate(&mut query), NatOutcome::Rewritten);
                assert_eq!(query, make(nameserver, pod, (5000, PROXY)));
                let mut answer = make(pod, nameserver, (PROXY, 5000));
                assert_eq!(translate(&mut answer), NatOutcome::Rewritten);
                assert_eq!(answer, make(nameserver, pod, (53, 5000)));
            }
        }
    }

    #[test]
    fn an_application_that_asks_from_port_53_gets_its_answer() {
        let (pod, nameserver) = PAIRS[0];
        let mut query = Sample::udp(pod, nameserver, (53, 53));
        assert_eq!(translate(&mut query), NatOutcome::Rewritten);
        assert_eq!(query, Sample::udp(nameserver, pod, (53, PROXY)));
        let mut answer = Sample::udp(pod, nameserver, (PROXY, 53));
        assert_eq!(translate(&mut answer), NatOutcome::Rewritten);
        assert_eq!(answer, Sample::udp(nameserver, pod, (53, 53)));
    }

    #[test]
    fn everything_else_is_left_alone() {
        let (pod, nameserver) = PAIRS[0];
        let packets = [
            Sample::udp(pod, "10.96.0.11", (5000, 53)),
            Sample::udp(pod, nameserver, (5000, 5353)),
            Sample::udp(pod, nameserver, (53, 9153)),
            Sample::echo(pod, nameserver, true, 53),
            Sample::new(pod, nameserver, Body::Opaque { protocol: 132, payload: vec![0, 53, 0, 53] }).build(),
            Sample::unreachable(pod, nameserver, &Sample::udp(nameserver, pod, (9153, 5000)), 28),
        ];
        for packet in packets {
            let mut copy = packet.clone();
            assert_eq!(translate(&mut copy), NatOutcome::Untouched);
            assert_eq!(copy, packet);
        }
    }

    #[test]
    fn an_unfinished_checksum_stays_unfinished_and_right() {
        for (pod, nameserver) in PAIRS {
            let mut query = Sample::udp(pod, nameserver, (5000, 53));
            let (start, offset) = make_unfinished(&mut query);
            let mut packet = IpPacket::parse(&mut query[..]).expect("well-formed");
            assert_eq!(hairpin().translate(&mut packet, true), NatOutcome::Rewritten);
            packet.finish_checksum(start, offset).expect("inside");
            assert_eq!(query, Sample::udp(nameserver, pod, (5000, PROXY)));
        }
    }

    #[test]
    fn fragmented_answers_come_together_again() {
        for (pod, nameserver) in PAIRS {
            let mut pieces = fragmented(pod, nameserver, (PROXY, 5000)).fragments(64);
            // In any order: there is no table.
            pieces.reverse();
            for piece in &mut pieces {
                assert_eq!(translate(piece), NatOutcome::Rewritten);
            }
            pieces.reverse();
            assert_eq!(pieces, fragmented(nameserver, pod, (53, 5000)).fragments(64));
            assert_reassembled(&pieces);
        }
    }

    #[test]
    fn fragments_that_hide_what_they_are_cannot_be_translated() {
        let (pod, nameserver) = PAIRS[0];
        let body = Body::Tcp { ports: (5000, 53), flags: 2, options: vec![], payload: vec![0; 40] };
        let mut tiny = Sample::new(pod, nameserver, body).fragments(8).remove(0);
        assert_eq!(translate(&mut tiny), NatOutcome::Refused);
        let (pod, nameserver) = PAIRS[1];
        let body = Body::Opaque { protocol: 60, payload: vec![0; 40] };
        let mut hidden = Sample::new(pod, nameserver, body).fragments(16).remove(1);
        assert_eq!(translate(&mut hidden), NatOutcome::Refused);
    }

    #[test]
    fn icmp_errors_reach_the_one_who_sent_the_packet() {
        for (pod, nameserver) in PAIRS {
            // The proxy's port is closed: the application must hear of it.
            let mut refused =
                Sample::unreachable(pod, nameserver, &Sample::udp(nameserver, pod, (5000, PROXY)), 200);
            assert_eq!(translate(&mut refused), NatOutcome::Rewritten);
            let query = Sample::udp(pod, nameserver, (5000, 53));
            assert_eq!(refused, Sample::unreachable(nameserver, pod, &query, 200));
            assert_checksums(&refused);
            // The application is gone: the proxy hears of it.
            let mut gone =
                Sample::unreachable(pod, nameserver, &Sample::udp(nameserver, pod, (53, 5000)), 200);
            assert_eq!(translate(&mut gone), NatOutcome::Rewritten);
            let answer = Sample::udp(pod, nameserver, (PROXY, 5000));
            assert_eq!(gone, Sample::unreachable(nameserver, pod, &answer, 200));
        }
    }
}
