//! boringtun's tunnels: WireGuard, in user space and in Rust as ours, so the nearest to compare with.

use std::{net::IpAddr, sync::Arc};

use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};

use crate::{
    packets::udp_packet,
    pair::{HERE, THERE},
};

/// Two boringtun tunnels.
pub struct BoringPair {
    here: Tunn,
    there: Tunn,
}

impl BoringPair {
    /// Without a session yet.
    #[must_use]
    pub fn strangers() -> Self {
        let (here, there) = (StaticSecret::from([0x11; 32]), StaticSecret::from([0x22; 32]));
        let tunnel = |own: &StaticSecret, other: &StaticSecret, index| {
            // Its limit of ten handshakes a second is policy, not work: out of the way.
            let limiter = Arc::new(RateLimiter::new(&PublicKey::from(own), u64::MAX));
            Tunn::new(own.clone(), PublicKey::from(other), None, None, index, Some(limiter))
        };
        Self { here: tunnel(&here, &there, 1), there: tunnel(&there, &here, 2) }
    }

    /// With a session, which the first one began.
    ///
    /// # Panics
    /// If the handshake fails.
    #[must_use]
    pub fn connected() -> Self {
        let mut pair = Self::strangers();
        assert_eq!(pair.exchange(), 1, "the packet that began it arrives");
        pair
    }

    /// A first packet of 64 bytes, the handshake it starts, and its arrival. Returns how many packets arrived.
    pub fn exchange(&mut self) -> u64 {
        let packet = udp_packet(IpAddr::V4(HERE), IpAddr::V4(THERE), 64);
        let (mut first, mut second) = ([0; 2_048], [0; 2_048]);
        let TunnResult::WriteToNetwork(init) = self.here.encapsulate(&packet, &mut first) else { return 0 };
        let TunnResult::WriteToNetwork(resp) = self.there.decapsulate(None, init, &mut second) else {
            return 0;
        };
        let TunnResult::WriteToNetwork(keepalive) = self.here.decapsulate(None, resp, &mut first) else {
            return 0;
        };
        // What confirms the session carries nothing.
        if !matches!(self.there.decapsulate(None, keepalive, &mut second), TunnResult::Done) {
            return 0;
        }
        let mut arrived = 0;
        // An empty datagram asks for what was queued behind the handshake.
        while let TunnResult::WriteToNetwork(record) = self.here.decapsulate(None, &[], &mut first) {
            let result = self.there.decapsulate(None, record, &mut second);
            arrived += u64::from(matches!(result, TunnResult::WriteToTunnelV4(..)));
        }
        arrived
    }

    /// One packet becomes a record in `out`, whose length is returned: 0 if it did not.
    #[inline]
    pub fn encapsulate(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        match self.here.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(record) => record.len(),
            _ => 0,
        }
    }

    /// A record of the first tunnel becomes a packet in `out`, whose length is returned: 0 if it did not.
    #[inline]
    pub fn decapsulate(&mut self, record: &[u8], out: &mut [u8]) -> usize {
        match self.there.decapsulate(None, record, out) {
            TunnResult::WriteToTunnelV4(packet, _) => packet.len(),
            _ => 0,
        }
    }
}

impl std::fmt::Debug for BoringPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoringPair(..)")
    }
}
