//! Packets to destinations that have just turned out external, until the chains let their answers in.
//!
//! A packet that left earlier could be answered before that, and the chains would drop the answer.

use std::{collections::BTreeMap, net::IpAddr};

use tencrypt::packet::IpPacket;

/// Bytes that wait in all; what comes after them leaves at once, and its answer may be lost. A super-packet and some.
const BYTES: usize = 1 << 20;
/// Destinations that are opened at one time; for further ones the same holds.
const DESTINATIONS: usize = 256;

/// The packets, by destination.
#[derive(Debug, Default)]
pub(crate) struct AwaitingBypass {
    waiting: BTreeMap<IpAddr, Vec<Box<[u8]>>>,
    bytes: usize,
}

impl AwaitingBypass {
    /// The control plane has been asked to open the way to a destination and back.
    pub(crate) fn begin(&mut self, destination: IpAddr) {
        if self.waiting.len() < DESTINATIONS {
            self.waiting.entry(destination).or_default();
        }
    }

    /// Keeps a packet whose destination is being opened; false: it may leave at once.
    #[must_use]
    pub(crate) fn keep(&mut self, packet: &[u8]) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let Ok(parsed) = IpPacket::parse(packet) else { return false };
        let Some(waiting) = self.waiting.get_mut(&parsed.destination()) else { return false };
        if self.bytes + packet.len() > BYTES {
            return false;
        }
        self.bytes += packet.len();
        waiting.push(packet.into());
        true
    }

    /// The way is open, or never will be: what waited for it, oldest first.
    pub(crate) fn end(&mut self, destination: IpAddr) -> Vec<Box<[u8]>> {
        let packets = self.waiting.remove(&destination).unwrap_or_default();
        self.bytes -= packets.iter().map(|packet| packet.len()).sum::<usize>();
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet of `len` bytes to 10.0.0.`last`, of a protocol that nothing looks into.
    fn packet(last: u8, len: u16) -> Vec<u8> {
        let mut bytes = vec![0; len.into()];
        bytes[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253]);
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, last]);
        bytes
    }

    fn to(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn packets_wait_for_their_own_destination_in_order() {
        let mut awaiting = AwaitingBypass::default();
        assert!(!awaiting.keep(&packet(2, 20)), "nothing is being opened");
        awaiting.begin(to(2));
        assert!(awaiting.keep(&packet(2, 20)) && awaiting.keep(&packet(2, 21)));
        assert!(!awaiting.keep(&packet(3, 20)), "another destination");
        assert!(!awaiting.keep(b"no packet"));
        let ended = awaiting.end(to(2));
        assert_eq!(ended.iter().map(|packet| packet.len()).collect::<Vec<_>>(), [20, 21]);
        assert!(!awaiting.keep(&packet(2, 20)) && awaiting.end(to(2)).is_empty(), "it is open");
    }

    #[test]
    fn what_waits_is_bounded_and_its_room_comes_back() {
        let mut awaiting = AwaitingBypass::default();
        awaiting.begin(to(2));
        let kept = (0..100).filter(|_| awaiting.keep(&packet(2, 60_000))).count();
        assert_eq!(kept, BYTES / 60_000);
        assert_eq!(awaiting.end(to(2)).len(), kept);
        (0..=u8::MAX).for_each(|last| awaiting.begin(to(last)));
        awaiting.begin([10, 0, 1, 0].into());
        assert!(awaiting.keep(&packet(2, 60_000)) && awaiting.waiting.len() == DESTINATIONS);
    }
}
