//! Senders whose handshakes are refused because they are configured otherwise: said once a minute each, in the log.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tencrypt::{DropReason, Stats};

/// Pause between two lines about one sender and one reason.
const PAUSE: Duration = Duration::from_secs(60);

/// Senders that are remembered, and so lines a [`PAUSE`]: whoever makes up addresses cannot fill a log.
const REMEMBERED: usize = 8;

/// The reasons, and what each says of the sender.
const REASONS: [(DropReason, &str); 3] = [
    (DropReason::Mac1, "has another key than this tenant's, or is of another tenant"),
    (DropReason::Unsupported, "has another suite in its configuration than this pod, or another version"),
    (DropReason::OtherEpoch, "sends under an epoch that the key file of this pod lacks"),
];

/// The senders that were named, and when.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<(usize, IpAddr), Instant>);

/// Counts of the [`REASONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted([u64; REASONS.len()]);

impl Counted {
    /// Reads them.
    #[inline]
    pub(super) fn of(stats: &Stats) -> Self {
        Self(REASONS.map(|(reason, _)| stats.dropped(reason)))
    }
}

impl Refusals {
    /// Says of the sender of a train what it was refused for, unless that was said a moment ago.
    #[inline]
    pub(super) fn note(&mut self, from: SocketAddr, before: Counted, after: Counted, now: Instant) {
        if before != after {
            self.say(from, before, after, now);
        }
    }

    #[cold]
    fn say(&mut self, from: SocketAddr, before: Counted, after: Counted, now: Instant) {
        for (at, (reason, what)) in REASONS.iter().enumerate() {
            if before.0[at] != after.0[at] && self.is_due(at, from.ip(), now) {
                tracing::warn!(reason = reason.as_str(), "refused: {from} {what}");
            }
        }
    }

    /// Returns true, once a [`PAUSE`] for each sender and reason.
    fn is_due(&mut self, reason: usize, sender: IpAddr, now: Instant) -> bool {
        self.0.retain(|_, said| now.saturating_duration_since(*said) < PAUSE);
        let is_due = self.0.len() < REMEMBERED && !self.0.contains_key(&(reason, sender));
        if is_due {
            self.0.insert((reason, sender), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_named_once_a_minute_for_each_reason_and_a_flood_of_addresses_is_bounded() {
        let (start, sender) = (Instant::now(), IpAddr::from([10, 0, 0, 1]));
        let mut refusals = Refusals::default();
        assert!(refusals.is_due(0, sender, start) && !refusals.is_due(0, sender, start));
        assert!(refusals.is_due(1, sender, start));
        assert!(!refusals.is_due(0, sender, start + PAUSE - Duration::from_millis(1)));
        assert!(refusals.is_due(0, sender, start + PAUSE));
        let later = start + 3 * PAUSE;
        let said = (0..200).filter(|last| refusals.is_due(0, IpAddr::from([10, 0, 1, *last]), later));
        assert_eq!(said.count(), REMEMBERED);
        assert_eq!(refusals.0.len(), REMEMBERED);
    }
}
