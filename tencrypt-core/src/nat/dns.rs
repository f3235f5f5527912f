//! The stateless port-53 hairpin: the pod's DNS queries reach a proxy in the pod, whatever nameserver they were for.

use std::net::IpAddr;

use crate::packet::{IpPacket, Rewrite, Transport};

/// DNS, RFC 1035 section 4.2.
const PORT: u16 = 53;

/// Sends the pod's queries to the proxy and the proxy's answers back, over UDP and TCP.
///
/// With A the pod, N a nameserver, p the application's port and R the proxy's:
///
/// ```text
/// A:p > N:53   becomes   N:p  > A:R    the proxy sees the nameserver that was meant as the client's address
/// A:R > N:p    becomes   N:53 > A:p    the application sees the nameserver it asked
/// ```
///
/// Nothing is remembered, so nothing runs full, expires or is lost in a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the caller builds it")]
pub struct DnsHairpin {
    /// The nameservers whose port 53 is redirected.
    pub nameservers: Vec<IpAddr>,
    /// The port the proxy listens on, at the pod's own addresses.
    pub proxy_port: u16,
}

/// What [`DnsHairpin::translate`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers act on every case")]
pub enum DnsOutcome {
    /// Rewritten; the packet goes back to the device.
    Translated,
    /// To or from a nameserver, but a fragment or with a routing header: its port cannot be told or not be changed.
    Untranslatable,
    /// None of its business, untouched.
    NotDns,
}

impl DnsHairpin {
    /// Rewrites a packet from the pod if it is a query or the proxy's answer.
    pub fn translate(&self, packet: &mut IpPacket<&mut [u8]>, partial: bool) -> DnsOutcome {
        let (own, nameserver) = (packet.source(), packet.destination());
        if !self.nameservers.contains(&nameserver) {
            return DnsOutcome::NotDns;
        }
        let (query, answer) = match (packet.transport(), packet.ports()) {
            (Some(Transport::Tcp | Transport::Udp), Some((source, destination))) => {
                (destination == PORT, source == self.proxy_port)
            }
            // A later fragment does not say whether it is DNS.
            (None, _) => return DnsOutcome::Untranslatable,
            _ => return DnsOutcome::NotDns,
        };
        if !query && !answer {
            return DnsOutcome::NotDns;
        }
        if packet.fragment().is_some() {
            return DnsOutcome::Untranslatable;
        }
        let change = Rewrite {
            source: Some(nameserver),
            destination: Some(own),
            source_port: (!query).then_some(PORT),
            destination_port: query.then_some(self.proxy_port),
        };
        match packet.rewrite(change, partial) {
            Ok(()) => DnsOutcome::Translated,
            Err(_) => DnsOutcome::Untranslatable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::{checksums_hold, tcp, udp};

    const POD: &str = "10.128.1.21";
    const NAMESERVER: &str = "172.30.0.10";

    fn hairpin() -> DnsHairpin {
        DnsHairpin {
            nameservers: vec![NAMESERVER.parse().unwrap(), "fd00:30::a".parse().unwrap()],
            proxy_port: 40_053,
        }
    }

    fn endpoints(packet: &IpPacket<&mut [u8]>) -> (String, String) {
        let (source, destination) = packet.ports().unwrap();
        (format!("{} {source}", packet.source()), format!("{} {destination}", packet.destination()))
    }

    #[test]
    fn queries_reach_the_proxy_and_answers_the_application_over_udp_and_tcp_in_both_families() {
        for (pod, nameserver) in [(POD, NAMESERVER), ("fd00:128::21", "fd00:30::a")] {
            for make in [udp as fn(&str, u16, &str, u16, &[u8]) -> Vec<u8>, tcp] {
                let mut query = make(pod, 5555, nameserver, 53, b"what is");
                let mut packet = IpPacket::parse(&mut query[..]).unwrap();
                assert_eq!(hairpin().translate(&mut packet, false), DnsOutcome::Translated);
                assert_eq!(endpoints(&packet), (format!("{nameserver} 5555"), format!("{pod} 40053")));
                assert!(checksums_hold(packet.bytes()));

                let mut answer = make(pod, 40_053, nameserver, 5555, b"it is");
                let mut packet = IpPacket::parse(&mut answer[..]).unwrap();
                assert_eq!(hairpin().translate(&mut packet, false), DnsOutcome::Translated);
                assert_eq!(endpoints(&packet), (format!("{nameserver} 53"), format!("{pod} 5555")));
                assert!(checksums_hold(packet.bytes()));
            }
        }
    }

    #[test]
    fn other_ports_and_other_hosts_are_left_alone() {
        for (to, port) in [(NAMESERVER, 443), ("172.30.0.11", 53)] {
            let mut bytes = udp(POD, 5555, to, port, b"x");
            let before = bytes.clone();
            let mut packet = IpPacket::parse(&mut bytes[..]).unwrap();
            assert_eq!(hairpin().translate(&mut packet, false), DnsOutcome::NotDns);
            assert_eq!(bytes, before);
        }
    }

    #[test]
    fn a_fragment_to_a_nameserver_is_reported_as_untranslatable() {
        let mut bytes = udp(POD, 5555, NAMESERVER, 53, &[0; 64]);
        bytes[6] = 0x20;
        let mut packet = IpPacket::parse(&mut bytes[..]).unwrap();
        assert_eq!(hairpin().translate(&mut packet, false), DnsOutcome::Untranslatable);
    }
}
