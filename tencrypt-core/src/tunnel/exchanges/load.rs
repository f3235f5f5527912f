//! Load by the handshakes of others.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use crate::{
    handshake::CookieSecret,
    tunnel::limits::{COOKIE_LIFE, INIT_BURST, INIT_INTERVAL, LOADED_FOR, LOADED_OPERATIONS, MAX_BUCKETS},
};

/// Cost of the handshakes of others at the moment, and what this side does about it.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Secret that cookies are made from, and since when.
    secret: Option<(CookieSecret, Instant)>,
    /// Public-key operations for others, and since when they are counted.
    operations: u32,
    since: Option<Instant>,
    loaded_until: Option<Instant>,
    /// INITs by the source they claim, and by the source they have shown.
    claimed: Buckets,
    shown: Buckets,
}

impl Load {
    /// Counts one more operation.
    pub(super) fn worked(&mut self, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= LOADED_FOR) {
            (self.operations, self.since) = (0, Some(now));
        }
        self.operations += 1;
        if self.operations >= LOADED_OPERATIONS {
            self.overload(now);
        }
    }

    /// Begins to ask newcomers to show their source.
    pub(super) fn overload(&mut self, now: Instant) {
        self.loaded_until = Some(now + LOADED_FOR);
    }

    /// Takes the place of an INIT from `source`, which it has shown or only claims. False: there were too many.
    pub(super) fn take_init(&mut self, source: IpAddr, shown: bool, now: Instant) -> bool {
        if shown { self.shown.take(source, now) } else { self.claimed.take(source, now) }
    }

    /// Puts a new secret in force.
    pub(super) fn set_secret(&mut self, secret: CookieSecret, now: Instant) {
        self.secret = Some((secret, now));
    }

    /// Cookies handed out so far are worth nothing any more. What is counted of others goes on.
    pub(super) fn forget_secret(&mut self) {
        self.secret = None;
    }

    /// Tells if newcomers have to show their source now.
    pub(super) fn is_loaded(&self, now: Instant) -> bool {
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// Returns the secret in force, if there is one.
    pub(super) fn secret(&self, now: Instant) -> Option<&CookieSecret> {
        let (secret, made) = self.secret.as_ref()?;
        (now.saturating_duration_since(*made) < COOKIE_LIFE).then_some(secret)
    }
}

/// Token buckets by source: an IPv4 address, or an IPv6 network of 64 bits. Each holds the time at which it is full
/// again.
#[derive(Debug, Default)]
struct Buckets(BTreeMap<(bool, u128), Instant>);

impl Buckets {
    fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = match source {
            IpAddr::V4(address) => (true, u128::from(address.to_bits())),
            IpAddr::V6(address) => (false, address.to_bits() >> 64),
        };
        let full_at = self.0.get(&source).map_or(now, |at| (*at).max(now));
        if full_at.saturating_duration_since(now) > INIT_INTERVAL * (INIT_BURST - 1) {
            return false;
        }
        if self.0.len() >= MAX_BUCKETS && !self.0.contains_key(&source) {
            self.0.retain(|_, full_at| *full_at > now);
            if self.0.len() >= MAX_BUCKETS {
                return false;
            }
        }
        self.0.insert(source, full_at + INIT_INTERVAL);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::start;

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn a_source_has_five_at_once_and_twenty_a_second() {
        let (mut buckets, start) = (Buckets::default(), start());
        let mut take =
            |source: &str, at: u64| buckets.take(source.parse().unwrap(), start + Duration::from_millis(at));
        let at_once = (0..100).filter(|_| take("10.0.0.1", 0)).count();
        let in_a_second = (0..1_000).filter(|at| take("10.0.0.2", *at)).count();
        assert_eq!((at_once, in_a_second), (5, 4 + 20));
        // One network of 64 bits is one source, its neighbour is another.
        let network = (0..100).filter(|host| take(&format!("fd00::{host:x}"), 0)).count();
        assert_eq!((network, take("fd00:0:0:1::1", 0)), (5, true));
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_make_room() {
        let (mut buckets, start) = (Buckets::default(), start());
        let taken = (0..10_000).filter(|number| buckets.take(v4(*number), start)).count();
        assert_eq!((taken, buckets.0.len()), (MAX_BUCKETS, MAX_BUCKETS));
        assert!(buckets.take(v4(20_000), start + INIT_INTERVAL));
        assert_eq!(buckets.0.len(), 1);
    }

    #[test]
    fn load_is_a_number_of_operations_within_a_second_and_ends_after_one() {
        let (mut load, start) = (Load::default(), start());
        for _ in 0..3 * LOADED_OPERATIONS {
            load.worked(start);
        }
        assert!(load.is_loaded(start) && !load.is_loaded(start + LOADED_FOR));
        let mut slow = Load::default();
        for at in 0..3 * LOADED_OPERATIONS {
            slow.worked(start + 2 * LOADED_FOR * at / LOADED_OPERATIONS);
            assert!(!slow.is_loaded(start));
        }
    }
}
