//! Addresses that left INIT unanswered: when they are asked again, and until when that they were silent counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use crate::tunnel::limits::{
    ASKED_AGAIN_FIRST, ASKED_AGAIN_LATER, MAX_SILENT, SILENCE_KEPT, SILENT_AT_FIRST,
};

/// Expectation of an address that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum Expectation {
    /// Of the tenant, so it will come up.
    Internal,
    /// May be of the tenant.
    Unknown,
    /// External, says DNS.
    Claimed,
}

/// Addresses that left INIT unanswered, bounded: those that were silent last the longest ago make room.
#[derive(Debug, Default)]
pub(super) struct Silences {
    by_address: BTreeMap<IpAddr, Silence>,
    by_age: BTreeSet<(Instant, IpAddr)>,
}

#[derive(Debug, Clone, Copy)]
struct Silence {
    /// Time at which it was asked first, and has been silent since.
    since: Instant,
    /// Time at which it was given up last.
    noted: Instant,
    /// Time from which it is asked again if packets come.
    again_at: Instant,
}

impl Silences {
    /// Tells if the address was silent when it was asked, not long ago.
    pub(super) fn contains(&self, address: IpAddr, now: Instant) -> bool {
        self.find(address, now).is_some()
    }

    /// Tells if the address may be asked: it was not silent, or long enough.
    pub(super) fn may_ask(&self, address: IpAddr, now: Instant) -> bool {
        self.find(address, now).is_none_or(|silence| silence.again_at <= now)
    }

    /// Tells if somebody who has a reason may have the address asked: it was not, for a while.
    pub(super) fn may_ask_early(&self, address: IpAddr, now: Instant) -> bool {
        let waited = |silence: &Silence| now.saturating_duration_since(silence.noted) >= ASKED_AGAIN_LATER;
        self.find(address, now).is_none_or(waited)
    }

    /// Notes that the address did not answer a question begun at `asked`, whose INIT left last at `last_sent`.
    pub(super) fn note(
        &mut self,
        address: IpAddr,
        expectation: Expectation,
        (asked, last_sent): (Instant, Instant),
        now: Instant,
    ) {
        let since = self.find(address, now).map_or(asked, |silence| silence.since);
        let is_new = now.saturating_duration_since(since) < SILENT_AT_FIRST;
        let again_at = match expectation {
            Expectation::Internal => last_sent + ASKED_AGAIN_FIRST,
            Expectation::Unknown if is_new => last_sent + ASKED_AGAIN_FIRST,
            Expectation::Unknown => last_sent + ASKED_AGAIN_LATER,
            Expectation::Claimed => now + SILENCE_KEPT,
        };
        self.forget(address);
        if self.by_address.len() >= MAX_SILENT
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_address.remove(&oldest);
        }
        self.by_age.insert((now, address));
        self.by_address.insert(address, Silence { since, noted: now, again_at });
    }

    pub(super) fn forget(&mut self, address: IpAddr) {
        if let Some(silence) = self.by_address.remove(&address) {
            self.by_age.remove(&(silence.noted, address));
        }
    }

    fn find(&self, address: IpAddr, now: Instant) -> Option<&Silence> {
        let silence = self.by_address.get(&address)?;
        (now.saturating_duration_since(silence.noted) < SILENCE_KEPT).then_some(silence)
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

    /// Asks `address` as soon as it may be, for this long; each question is open for a second and its INIT leaves last
    /// after 0.6 s. Returns the seconds at which it was asked.
    fn asked(expectation: Expectation, seconds: u64) -> Vec<f64> {
        let (mut silences, mut asked, start) = (Silences::default(), Vec::new(), start());
        let mut ms = 0;
        while ms < seconds * 1_000 {
            let now = start + Duration::from_millis(ms);
            if silences.may_ask(address(1), now) {
                asked.push(ms as f64 / 1_000.0);
                ms += 1_000;
                let last_sent = now + Duration::from_millis(600);
                silences.note(address(1), expectation, (now, last_sent), start + Duration::from_millis(ms));
            } else {
                ms += 100;
            }
        }
        asked
    }

    #[test]
    fn an_unknown_address_is_asked_again_soon_for_half_a_minute_and_then_each_five_seconds_for_ever() {
        let asked = asked(Expectation::Unknown, 600);
        let pauses: Vec<f64> = asked.windows(2).map(|pair| pair[1] - pair[0] - 0.6).collect();
        let at_first = asked.iter().filter(|at| **at < 30.0).count();
        assert!((24..=26).contains(&at_first), "{at_first}");
        for (pause, at) in pauses.iter().zip(&asked) {
            let expected = if *at + 1.0 < 30.0 { 0.6 } else { 5.0 };
            assert!((pause - expected).abs() < 0.01, "{pause} s after {at} s");
        }
    }

    #[test]
    fn an_internal_address_is_asked_again_soon_for_ever_and_a_claimed_one_each_minute() {
        let internal = asked(Expectation::Internal, 600);
        assert!(internal.windows(2).all(|pair| (pair[1] - pair[0] - 1.2).abs() < 0.01), "{internal:?}");
        let claimed = asked(Expectation::Claimed, 600);
        assert!(claimed.windows(2).all(|pair| (pair[1] - pair[0] - 61.0).abs() < 0.01), "{claimed:?}");
    }

    #[test]
    fn silence_is_forgotten_a_minute_after_the_last_question() {
        let (mut silences, start) = (Silences::default(), start());
        silences.note(address(1), Expectation::Unknown, (start, start), start);
        let last = start + SILENCE_KEPT - Duration::from_millis(1);
        assert!(silences.contains(address(1), last) && !silences.contains(address(1), start + SILENCE_KEPT));
        assert!(!silences.may_ask_early(address(1), start + Duration::from_millis(4_999)));
        assert!(silences.may_ask_early(address(1), start + Duration::from_secs(5)));
        silences.forget(address(1));
        assert!(!silences.contains(address(1), last) && silences.by_age.is_empty());
    }

    #[test]
    fn silences_are_bounded_and_the_oldest_makes_room_not_the_smallest_address() {
        let (mut silences, start) = (Silences::default(), start());
        let note = |silences: &mut Silences, number: u32, at: u64| {
            let now = start + Duration::from_millis(at);
            silences.note(address(number), Expectation::Unknown, (now, now), now);
        };
        for number in 0..MAX_SILENT as u32 {
            note(&mut silences, 1_000_000 - number, number.into());
        }
        // The first is noted once more: now the second is the oldest.
        note(&mut silences, 1_000_000, 4_999);
        note(&mut silences, 1, 5_000);
        let now = start + Duration::from_millis(5_000);
        assert!(silences.contains(address(1), now) && silences.contains(address(1_000_000), now));
        assert!(!silences.contains(address(999_999), now) && silences.contains(address(999_998), now));
        assert_eq!((silences.by_address.len(), silences.by_age.len()), (MAX_SILENT, MAX_SILENT));
    }
}
