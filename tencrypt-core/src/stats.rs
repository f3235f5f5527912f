//! Counters: what happened to packets, by reason.

/// Reason for which a packet or datagram was dropped. It has a counter of its own in [`Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// A datagram or packet whose lengths, types or reserved bits are wrong.
    Malformed,
    /// A well-formed datagram of a version, suite or type this side does not speak.
    Unsupported,
    /// A handshake message whose mac1 does not verify, or a RESET whose tag does not: an outsider, or another tenant.
    Mac1,
    /// DATA for a session index nobody here owns, or a RESET for one that nobody here sends on.
    UnknownIndex,
    /// DATA for a session whose CONF has not arrived yet.
    BeforeConfirm,
    /// A counter seen before.
    Replay,
    /// A counter older than the replay window.
    TooOld,
    /// A tag that does not verify, or a handshake message that does not decrypt.
    Auth,
    /// An authentic record that does not hold a well-formed IP packet.
    InnerMalformed,
    /// An authentic packet whose source does not belong to its sender: it did not prove that it is there, by the outer
    /// address of its handshake or by a certificate ([`RecvMeta::from`](crate::RecvMeta::from)).
    InnerSource,
    /// An authentic packet whose destination is not this pod.
    InnerDestination,
    /// A session past its time limit.
    Expired,
    /// A session past its record limit.
    Limit,
    /// A destination inside the protected ranges that did not answer.
    UnknownDestination,
    /// The oldest held packet made room for a newer one, or no more destinations could be asked that a packet would wait for.
    HeldFull,
    /// A held packet's destination did not answer in time.
    HeldTimeout,
    /// The transport or the TUN device had no room.
    SinkFull,
    /// A packet longer than the path carries.
    TooBig,
    /// A flow to a VIP has no translation: no port or no endpoint is left for it.
    NatFull,
    /// Policy says no: multicast, broadcast, link-local, a fragment that cannot be translated.
    Policy,
    /// A handshake message too many for the queue, its source or the load, maybe answered by COOKIE; or a RESET or COOKIE
    /// too soon after another.
    RateLimited,
    /// A handshake message under a key epoch this side does not hold.
    OtherEpoch,
    /// A peer without a certificate that counts: a handshake message, a record of a session that ended because of it,
    /// or a packet held for the peer. Or a packet to the tenant while this side has none itself.
    Certificate,
    /// A record of this pod's own that came from the device: a route or rule of somebody else's leads the tunnel into itself.
    Loop,
}

impl DropReason {
    /// Every reason, in the order of [`Stats::drops`].
    pub const ALL: &'static [Self] = &[
        Self::Malformed,
        Self::Unsupported,
        Self::Mac1,
        Self::UnknownIndex,
        Self::BeforeConfirm,
        Self::Replay,
        Self::TooOld,
        Self::Auth,
        Self::InnerMalformed,
        Self::InnerSource,
        Self::InnerDestination,
        Self::Expired,
        Self::Limit,
        Self::UnknownDestination,
        Self::HeldFull,
        Self::HeldTimeout,
        Self::SinkFull,
        Self::TooBig,
        Self::NatFull,
        Self::Policy,
        Self::RateLimited,
        Self::OtherEpoch,
        Self::Certificate,
        Self::Loop,
    ];

    /// The reason's name in reports: lower case, words joined by underscores. It does not change.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Mac1 => "mac1",
            Self::UnknownIndex => "unknown_index",
            Self::BeforeConfirm => "before_confirm",
            Self::Replay => "replay",
            Self::TooOld => "too_old",
            Self::Auth => "auth",
            Self::InnerMalformed => "inner_malformed",
            Self::InnerSource => "inner_source",
            Self::InnerDestination => "inner_destination",
            Self::Expired => "expired",
            Self::Limit => "limit",
            Self::UnknownDestination => "unknown_destination",
            Self::HeldFull => "held_full",
            Self::HeldTimeout => "held_timeout",
            Self::SinkFull => "sink_full",
            Self::TooBig => "too_big",
            Self::NatFull => "nat_full",
            Self::Policy => "policy",
            Self::RateLimited => "rate_limited",
            Self::OtherEpoch => "other_epoch",
            Self::Certificate => "certificate",
            Self::Loop => "loop",
        }
    }
}

impl std::error::Error for DropReason {}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Counters of one Tunnel since it was made. All are packets (records), none is ever reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Packets sealed and handed to the transport.
    pub encrypted: u64,
    /// Packets opened and handed to the packet sink.
    pub decrypted: u64,
    /// Packets that leave as they are.
    pub bypassed: u64,
    /// Packets held for a destination that was asked.
    pub held: u64,
    /// Packets bypassed because of `unknown = "plain"`.
    pub opportunistic: u64,
    /// Handshakes completed, both roles.
    pub handshakes: u64,
    /// Reports of the network that nobody listens at a destination; not packets. Anybody can forge one.
    pub unreachable: u64,
    /// Updates for or from other lanes of the pod that found no room; not packets.
    pub lane_updates_lost: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Stats {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            encrypted: 0,
            decrypted: 0,
            bypassed: 0,
            held: 0,
            opportunistic: 0,
            handshakes: 0,
            unreachable: 0,
            lane_updates_lost: 0,
            drops: [0; DropReason::ALL.len()],
        }
    }

    /// Drops by reason, in the order of [`DropReason::ALL`]; those that are zero too.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().copied().zip(self.drops)
    }

    /// Drops for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Drops for all reasons.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    /// Counts `packets` more drops for `reason`, as a caller does who adds up the counters of several Tunnels.
    pub fn drop_many(&mut self, reason: DropReason, packets: u64) {
        self.drops[reason as usize] += packets;
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_indexes_its_own_counter() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
