//! What tells one flow from another.

use std::net::IpAddr;

use super::IpPacket;

/// A flow in one direction. For ICMP echo both ports are the identifier; for protocols without ports they are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a five-tuple")]
pub struct Flow {
    /// IANA protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

impl Flow {
    /// The flow a packet belongs to, `None` for a later fragment, which does not say.
    #[must_use]
    pub fn of<B: AsRef<[u8]>>(packet: &IpPacket<B>) -> Option<Self> {
        packet.transport()?;
        let (source_port, destination_port) = match packet.ports() {
            Some(ports) => ports,
            None => packet.echo_id().map_or((0, 0), |id| (id, id)),
        };
        Some(Self {
            protocol: packet.protocol(),
            source: packet.source(),
            destination: packet.destination(),
            source_port,
            destination_port,
        })
    }

    /// The flow of the answers.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }

    /// 64 bits that spread flows evenly, by a key that outsiders do not know.
    #[must_use]
    pub fn hash_with(&self, key: u64) -> u64 {
        use std::hash::BuildHasher;
        crate::keyed_hash::KeyedState { key }.hash_one(self)
    }
}
