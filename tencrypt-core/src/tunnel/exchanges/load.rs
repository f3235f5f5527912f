//! Load by the handshakes of others.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::bucket::TokenBucket;
use crate::{
    handshake::CookieSecret,
    tunnel::{
        limits::{COOKIE_LIFE, INIT_BURST, INIT_INTERVAL, LOADED_FOR, LOADED_OPERATIONS, MAX_BUCKETS},
        source::Source,
    },
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
    /// Work for sources that INITs only claim, and all work for a source, whether shown or claimed.
    ///
    /// There are two, since one has to be out of the reach of whoever sends with another's address, and they are not added
    /// up, since work for a source that has shown itself counts in both: at 20 a second of it, what only claims that
    /// source gets nothing but COOKIE.
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

    /// Takes the place of a handshake that `source` begins, which it has shown or only claims: of INIT, and of the one
    /// CONF that the answer to it can lead to. False: there were too many.
    pub(super) fn take_init(&mut self, source: IpAddr, shown: bool, now: Instant) -> bool {
        self.take(Source::network(source), shown, now)
    }

    /// Takes the place of a RESP to a question to `asked`, by whoever received it there. False: there were too many.
    pub(super) fn take_resp(&mut self, asked: IpAddr, now: Instant) -> bool {
        self.take(Source::address(asked), true, now)
    }

    fn take(&mut self, source: Source, shown: bool, now: Instant) -> bool {
        if !shown {
            return self.claimed.take(source, now);
        }
        let fits = self.shown.take(source, now);
        if fits {
            self.claimed.owe(source, now);
        }
        fits
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

/// Token buckets by source.
#[derive(Debug, Default)]
struct Buckets(BTreeMap<Source, TokenBucket>);

impl Buckets {
    fn take(&mut self, source: Source, now: Instant) -> bool {
        self.bucket(source, now).is_some_and(|bucket| bucket.take(now))
    }

    /// Counts work that was done anyway.
    fn owe(&mut self, source: Source, now: Instant) {
        if let Some(bucket) = self.bucket(source, now) {
            bucket.owe(now);
        }
    }

    /// The bucket of a source; `None` if there is no room for one more.
    fn bucket(&mut self, source: Source, now: Instant) -> Option<&mut TokenBucket> {
        if self.0.len() >= MAX_BUCKETS && !self.0.contains_key(&source) {
            self.0.retain(|_, bucket| !bucket.is_full(now));
            if self.0.len() >= MAX_BUCKETS {
                return None;
            }
        }
        Some(self.0.entry(source).or_insert(TokenBucket::new(INIT_INTERVAL, INIT_BURST)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::start;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn a_source_has_five_at_once_and_twenty_a_second() {
        let (mut buckets, start) = (Buckets::default(), start());
        let mut take = |source: &str, at: u64| {
            buckets.take(Source::network(source.parse().unwrap()), start + Duration::from_millis(at))
        };
        let at_once = (0..100).filter(|_| take("10.0.0.1", 0)).count();
        let in_a_second = (0..1_000).filter(|at| take("10.0.0.2", *at)).count();
        assert_eq!((at_once, in_a_second), (5, 4 + 20));
        // One network of 64 bits is one source, its neighbour is another.
        let network = (0..100).filter(|host| take(&format!("fd00::{host:x}"), 0)).count();
        assert_eq!((network, take("fd00:0:0:1::1", 0)), (5, true));
    }

    /// Whatever mixture of claims, cookies and answers it sends.
    #[test]
    fn one_source_costs_twenty_handshakes_a_second_in_all_its_roles_together() {
        for mix in 1..8 {
            let (mut load, start) = (Load::default(), start());
            let mut work = 0;
            for at in 0..10_000 {
                let now = start + Duration::from_millis(at);
                // Claims alone at first, so that both bursts count.
                work += u32::from(mix & 1 != 0 && load.take_init(ONE, false, now));
                if at >= 5_000 || mix & 1 == 0 {
                    work += u32::from(mix & 2 != 0 && load.take_init(ONE, true, now));
                    work += u32::from(mix & 4 != 0 && load.take_resp(ONE, now));
                }
            }
            assert!((200..=200 + 2 * INIT_BURST).contains(&work), "{work} in 10 s, mix {mix}");
        }
    }

    #[test]
    fn who_sends_with_anothers_address_takes_nothing_from_one_that_shows_it() {
        let (mut load, start) = (Load::default(), start());
        let (mut spoofed, mut shown) = (0, 0);
        for at in 0..10_000 {
            let now = start + Duration::from_millis(at);
            spoofed +=
                u32::from(load.take_init(ONE, false, now)) + u32::from(load.take_init(ONE, false, now));
            shown += u32::from(load.take_init(ONE, true, now));
        }
        assert_eq!(shown, INIT_BURST + 199);
        assert!(spoofed <= INIT_BURST, "{spoofed} beside those");
    }

    /// Answers are counted by the address that was asked: a node's pods in one network do not take each other's places.
    #[test]
    fn many_that_were_asked_in_one_network_all_answer() {
        let (mut load, start) = (Load::default(), start());
        let pods = (0..100_u128).map(|host| IpAddr::V6((0xfd00 << 112 | host).into()));
        assert!(pods.clone().all(|pod| load.take_resp(pod, start)));
        assert_eq!(pods.filter(|pod| load.take_init(*pod, true, start)).count(), INIT_BURST as usize);
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_make_room() {
        let (mut buckets, start) = (Buckets::default(), start());
        let taken = (0..10_000).filter(|number| buckets.take(Source::V4(*number), start)).count();
        assert_eq!((taken, buckets.0.len()), (MAX_BUCKETS, MAX_BUCKETS));
        assert!(buckets.take(Source::V4(20_000), start + INIT_INTERVAL));
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
