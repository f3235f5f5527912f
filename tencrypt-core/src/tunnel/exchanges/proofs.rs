//! Bounds of questions to addresses that peers say are theirs: whoever has the tenant's key can name any.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::bucket::TokenBucket;
use crate::tunnel::limits::{
    MAX_PROOF_SOURCES, PROOF_ADDRESS_INTERVAL, PROOF_BURST, PROOF_EXCEPTED, PROOF_INTERVAL, PROOF_RESERVED,
    PROOF_SOURCE_BURST, PROOF_SOURCE_INTERVAL, PROOF_WITHHELD,
};

/// Budget of such questions: in all, for one address, and for what one source has said.
#[derive(Debug)]
pub(super) struct Proofs {
    all: TokenBucket,
    sources: BTreeMap<IpAddr, Source>,
    /// Addresses asked within the last [`PROOF_ADDRESS_INTERVAL`]. Some may be older.
    asked: BTreeMap<IpAddr, Instant>,
}

/// An address that peers speak from.
#[derive(Debug)]
struct Source {
    bucket: TokenBucket,
    /// Time until which next to nobody is asked because of it, for something it said was not so.
    withheld_until: Option<Instant>,
    /// Time at which somebody was all the same.
    excepted: Option<Instant>,
}

impl Source {
    fn is_idle(&self, now: Instant) -> bool {
        self.bucket.is_full(now) && !self.is_withheld(now)
    }

    /// Takes the place of a question about an address that packets wait for, in spite of all: an honest pod may have one
    /// address that no question gets through to, and others.
    fn take_exception(&mut self, now: Instant) -> bool {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= PROOF_EXCEPTED;
        let fits = self.excepted.is_none_or(is_due);
        if fits {
            self.excepted = Some(now);
        }
        fits
    }

    fn is_withheld(&self, now: Instant) -> bool {
        self.withheld_until.is_some_and(|until| now < until)
    }
}

impl Default for Proofs {
    fn default() -> Self {
        Self {
            all: TokenBucket::new(PROOF_INTERVAL, PROOF_BURST),
            sources: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }
}

impl Proofs {
    /// Takes the place of a question to `address`, which somebody at `source` says is its own. A part of all places is for
    /// addresses that packets wait for. False: none is left.
    pub(super) fn take(&mut self, address: IpAddr, source: IpAddr, waited_for: bool, now: Instant) -> bool {
        self.asked.retain(|_, at| now.saturating_duration_since(*at) < PROOF_ADDRESS_INTERVAL);
        if self.asked.contains_key(&address) {
            return false;
        }
        let reserved = if waited_for { 0 } else { PROOF_RESERVED };
        // Of two budgets none is used up in vain.
        let mut all = self.all;
        let Some(source) = self.source(source, now) else { return false };
        if source.is_withheld(now) && !(waited_for && source.take_exception(now)) {
            return false;
        }
        if !all.take_leaving(reserved, now) || !source.bucket.take(now) {
            return false;
        }
        self.all = all;
        self.asked.insert(address, now);
        true
    }

    /// Notes that what somebody at `source` said was not so: nobody answered there, or somebody else.
    pub(super) fn withhold(&mut self, source: IpAddr, now: Instant) {
        if let Some(source) = self.source(source, now) {
            source.withheld_until = Some(now + PROOF_WITHHELD);
        }
    }

    fn source(&mut self, source: IpAddr, now: Instant) -> Option<&mut Source> {
        if self.sources.len() >= MAX_PROOF_SOURCES && !self.sources.contains_key(&source) {
            self.sources.retain(|_, known| !known.is_idle(now));
            if self.sources.len() >= MAX_PROOF_SOURCES {
                return None;
            }
        }
        let bucket = TokenBucket::new(PROOF_SOURCE_INTERVAL, PROOF_SOURCE_BURST);
        Some(self.sources.entry(source).or_insert(Source { bucket, withheld_until: None, excepted: None }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::start;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    /// A clock that begins now.
    fn clock() -> impl Fn(u64) -> Instant {
        let start = start();
        move |ms| start + Duration::from_millis(ms)
    }

    #[test]
    fn proofs_are_bounded_in_all_by_source_and_by_address_and_those_waited_for_go_first() {
        let ms = clock();
        let mut proofs = Proofs::default();
        // A source has four at once and four a second.
        let at_once = (0..100).filter(|n| proofs.take(address(*n), address(1_000), false, ms(0))).count();
        let later = (0..10_000_u64)
            .filter(|at| proofs.take(address(500 + *at as u32), address(1_000), false, ms(*at)))
            .count();
        assert_eq!((at_once, later), (4, 39));
        // Of all sources together half are kept for those that are waited for.
        let now = 20_000;
        let mut take = |n: u32, waited: bool| proofs.take(address(n), address(1_000 + n), waited, ms(now));
        let unwaited = (0..1_000).filter(|n| take(*n, false)).count();
        let waited = (1_000..2_000).filter(|n| take(*n, true)).count();
        assert_eq!((unwaited, waited), (16, 16));
        let mut all = Proofs::default();
        let in_ten_seconds = (0..10_000_u64)
            .filter(|at| all.take(address(*at as u32), address(*at as u32), true, ms(*at)))
            .count();
        assert_eq!(in_ten_seconds, 32 + 10 * 32 - 1);
        // One address once a second, whoever says so.
        let mut one = Proofs::default();
        let often =
            (0..5_000_u64).filter(|at| one.take(address(1), address(2 + *at as u32), true, ms(*at))).count();
        assert_eq!(often, 5);
    }

    #[test]
    fn a_source_whose_word_was_not_so_waits_a_minute_and_no_other_does() {
        let ms = clock();
        let mut proofs = Proofs::default();
        assert!(proofs.take(address(1), address(10), true, ms(0)));
        proofs.withhold(address(10), ms(1_000));
        assert!(!proofs.take(address(2), address(10), false, ms(60_999)));
        assert!(proofs.take(address(2), address(11), true, ms(60_999)));
        assert!(proofs.take(address(3), address(10), true, ms(61_000)));
    }

    #[test]
    fn an_address_that_packets_wait_for_is_asked_once_a_second_in_spite_of_what_its_source_has_said() {
        let ms = clock();
        let mut proofs = Proofs::default();
        proofs.withhold(address(10), ms(0));
        let asked =
            (0..10_000).filter(|at| proofs.take(address(*at), address(10), true, ms(u64::from(*at)))).count();
        assert_eq!(asked, 10);
    }

    /// A second's questions times the time that a source is remembered are fewer than the sources that have room.
    #[test]
    fn sources_are_bounded_and_honest_ones_find_room_beside_any_number_of_liars() {
        let ms = clock();
        let mut proofs = Proofs::default();
        for at in 0..200_000_u64 {
            let source = address(at as u32);
            if proofs.take(address(at as u32), source, true, ms(at)) {
                proofs.withhold(source, ms(at));
            }
            assert!(proofs.sources.len() <= MAX_PROOF_SOURCES && proofs.asked.len() <= 64);
        }
        assert!(proofs.take(address(1), address(7), true, ms(201_000)));
    }
}
