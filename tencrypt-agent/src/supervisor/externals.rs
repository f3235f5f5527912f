//! Destinations that lead around the tunnel: for how long, and what ends it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// The time that the kernel lets a destination pass without hearing from us again: a dead agent leaves it open as long.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// The interval at which leases are renewed.
pub(crate) const LEASE_RENEWAL: Duration = Duration::from_secs(10);

/// The destinations.
#[derive(Debug, Default)]
pub(crate) struct Externals {
    until: BTreeMap<IpAddr, Option<Instant>>,
}

/// A step that is due for one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// The kernel is to be told that it passes for this long.
    Renew(IpAddr, Duration),
    /// It is over.
    End(IpAddr),
}

impl Externals {
    /// Lets a destination pass until then; `None`: for good. Returns the lease for the kernel.
    pub(crate) fn allow(&mut self, destination: IpAddr, until: Option<Instant>, now: Instant) -> Duration {
        self.until.insert(destination, until);
        lease(until, now)
    }

    /// Forgets a destination, which passes no longer, if it is one of them.
    pub(crate) fn deny(&mut self, destination: IpAddr) {
        self.until.remove(&destination);
    }

    /// Returns the steps that are due now. A destination whose time is over stays while a socket to it exists: its connection would
    /// otherwise stall in the middle.
    pub(crate) fn due(&mut self, now: Instant, in_use: &BTreeSet<IpAddr>) -> Vec<Due> {
        let mut due = Vec::new();
        self.until.retain(|destination, until| {
            let over = until.is_some_and(|until| until <= now);
            if over && !in_use.contains(destination) {
                due.push(Due::End(*destination));
                return false;
            }
            due.push(Due::Renew(*destination, if over { LEASE } else { lease(*until, now) }));
            true
        });
        due
    }

    /// Returns true if there are none.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }
}

fn lease(until: Option<Instant>, now: Instant) -> Duration {
    until.map_or(LEASE, |until| until.saturating_duration_since(now).clamp(Duration::from_secs(1), LEASE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_renewed_until_its_time_is_over_and_its_last_socket_gone() {
        let now = Instant::now();
        let address = IpAddr::from([10, 0, 0, 9]);
        let (unused, used) = (BTreeSet::new(), BTreeSet::from([address]));
        let mut externals = Externals::default();
        assert_eq!(externals.allow(address, Some(now + LEASE * 2), now), LEASE);
        assert_eq!(externals.due(now + LEASE, &unused), [Due::Renew(address, LEASE)]);
        let later = now + LEASE * 2 - Duration::from_secs(5);
        assert_eq!(externals.due(later, &unused), [Due::Renew(address, Duration::from_secs(5))]);
        assert_eq!(externals.due(now + LEASE * 3, &used), [Due::Renew(address, LEASE)]);
        assert_eq!(externals.due(now + LEASE * 3, &unused), [Due::End(address)]);
        assert!(externals.is_empty());
    }

    #[test]
    fn a_destination_without_end_is_renewed_for_good() {
        let now = Instant::now();
        let mut externals = Externals::default();
        externals.allow(IpAddr::from([10, 0, 0, 9]), None, now);
        let due = externals.due(now + LEASE * 1_000, &BTreeSet::new());
        assert_eq!(due, [Due::Renew(IpAddr::from([10, 0, 0, 9]), LEASE)]);
    }
}
