//! Packets that wait until the address they come from is proven: in, once it is, and out after a while.

use std::{net::IpAddr, time::Instant};

use super::{HeldPacket, TunPacket, Tunnel, peer_key::PeerKey};
use crate::{crypto::PeerId, offload::VnetHdr, stats::DropReason};

impl Tunnel {
    /// Has a packet of a peer wait if the peer asserts the address that it comes from, which is asked. False: it does not
    /// wait.
    pub(super) fn wait(
        &mut self,
        key: PeerKey,
        source: IpAddr,
        (bytes, vnet): (&mut [u8], VnetHdr),
        now: Instant,
    ) -> bool {
        self.is_being_proven(key, source, now)
            && self.waiting.add(key, source, HeldPacket::new(&TunPacket::new(vnet, bytes)), now)
    }

    /// Lets the packets in that waited for this address of a member to be proven.
    pub(super) fn let_in(&mut self, member: PeerId, address: IpAddr, now: Instant) {
        let lanes: Vec<PeerKey> = self.peers.lanes(member).collect();
        let packets = self.waiting.take(&lanes, Some(address));
        self.admit_all(packets, now);
    }

    /// Lets all packets in that waited for a peer, as far as it may send them now.
    pub(super) fn let_all_in(&mut self, key: PeerKey, now: Instant) {
        let packets = self.waiting.take(&[key], None);
        self.admit_all(packets, now);
    }

    fn admit_all(&mut self, packets: Vec<(PeerKey, HeldPacket)>, now: Instant) {
        for (key, mut packet) in packets {
            let admitted = {
                let mut packet = packet.as_packet();
                let partial = packet.vnet().needs_csum;
                match packet.inner_mut() {
                    Ok((mut inner, _)) => self.admit(key, &mut inner, partial, now),
                    Err(_) => Err(DropReason::InnerMalformed),
                }
            };
            self.collect_flow_updates();
            match admitted {
                Ok(()) if self.outbox.opened(packet) => self.stats.decrypted += 1,
                Ok(()) => self.stats.drop(DropReason::SinkFull),
                Err(reason) => self.stats.drop(reason),
            }
        }
    }

    /// Drops what has waited long enough.
    pub(super) fn end_waiting(&mut self, now: Instant) {
        let dropped = self.waiting.end(now);
        self.stats.drop_many(DropReason::InnerSource, dropped);
    }
}
