//! Handshakes that were answered and await their CONF.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use crate::{
    crypto::KeyRing,
    handshake::Responder,
    record::SessionIndex,
    tunnel::{
        index::OwnedIndex,
        limits::{COPY_INTERVAL, HALF_OPEN_LIFE, MAX_HALF_OPEN, MAX_HALF_OPEN_PER_SOURCE, REPEAT_INTERVAL},
    },
};

/// One of them.
#[derive(Debug)]
pub(super) struct HalfOpen {
    pub(super) from: SocketAddr,
    pub(super) index: OwnedIndex,
    pub(super) responder: Responder,
    answered: Instant,
    /// Time at which the same INIT from elsewhere was answered last: then CONF proves nothing of `from`.
    pub(super) answered_elsewhere: Option<Instant>,
    mac1: [u8; 16],
    resp: Box<[u8]>,
    /// Time at which its INIT was answered first.
    pub(super) born: Instant,
    number: u64,
    source: Source,
    /// True once it has shown that it receives there.
    shown: bool,
}

/// Origin of an INIT: the address, and the lane of its sender.
pub(super) type Source = (IpAddr, u8);

/// All of them: by their index, by the mac1 of their INIT, and by age. Bounded in all, and per source address and
/// lane.
#[derive(Debug, Default)]
pub(super) struct HalfOpens {
    by_index: BTreeMap<SessionIndex, HalfOpen>,
    by_mac1: BTreeMap<[u8; 16], SessionIndex>,
    by_age: BTreeMap<u64, SessionIndex>,
    per_source: BTreeMap<Source, usize>,
    numbered: u64,
}

impl HalfOpens {
    pub(super) fn find(&self, mac1: &[u8; 16]) -> Option<&HalfOpen> {
        self.by_index.get(self.by_mac1.get(mac1)?)
    }

    /// Tells if there are as many from `source` as may be.
    pub(super) fn is_full(&self, source: Source) -> bool {
        self.per_source.get(&source).is_some_and(|count| *count >= MAX_HALF_OPEN_PER_SOURCE)
    }

    /// Tells if one awaits its CONF from this address.
    pub(super) fn has_from(&self, address: IpAddr) -> bool {
        let mut of_address = self.per_source.range((address, 0)..=(address, u8::MAX));
        of_address.next().is_some()
    }

    /// Adds one, of an INIT from this lane of its sender that has `shown` that it receives at `from`, or not. One has to
    /// go for it if there are too many: the oldest of a source that has its number, otherwise of all.
    pub(super) fn insert(
        &mut self,
        mac1: [u8; 16],
        (from, lane, shown): (SocketAddr, u8, bool),
        index: OwnedIndex,
        responder: Responder,
        resp: Box<[u8]>,
        now: Instant,
    ) {
        let source = (from.ip(), lane);
        let evicted = if self.is_full(source) {
            self.oldest_of(source)
        } else if self.by_index.len() >= MAX_HALF_OPEN {
            self.by_age.first_key_value().map(|(_, index)| *index)
        } else {
            None
        };
        evicted.and_then(|evicted| self.take(evicted));
        self.numbered += 1;
        let number = self.numbered;
        self.by_mac1.insert(mac1, index.get());
        self.by_age.insert(number, index.get());
        *self.per_source.entry(source).or_default() += 1;
        let half_open = HalfOpen {
            from,
            responder,
            answered: now,
            answered_elsewhere: None,
            mac1,
            resp,
            born: now,
            number,
            source,
            shown,
            index,
        };
        self.by_index.insert(half_open.index.get(), half_open);
    }

    /// The oldest of a source: of those that anybody may have sent, if there is one.
    fn oldest_of(&self, source: Source) -> Option<SessionIndex> {
        let mut of_source = self
            .by_age
            .values()
            .filter_map(|index| self.by_index.get(index).map(|half_open| (*index, half_open)))
            .filter(|(_, half_open)| half_open.source == source);
        let first = of_source.next()?;
        let unshown = std::iter::once(first).chain(of_source).find(|(_, half_open)| !half_open.shown);
        Some(unshown.unwrap_or(first).0)
    }

    pub(super) fn take(&mut self, index: SessionIndex) -> Option<HalfOpen> {
        let half_open = self.by_index.remove(&index)?;
        self.by_mac1.remove(&half_open.mac1);
        self.by_age.remove(&half_open.number);
        if let Some(count) = self.per_source.get_mut(&half_open.source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&half_open.source);
            }
        }
        Some(half_open)
    }

    /// The stored RESP, for the INIT with this mac1 that came once more, from `from`. `None`: it was answered a moment ago,
    /// there or, if it has come from elsewhere than first, anywhere else.
    pub(super) fn answer_again(
        &mut self,
        mac1: &[u8; 16],
        from: SocketAddr,
        now: Instant,
    ) -> Option<Box<[u8]>> {
        let half_open = self.by_index.get_mut(self.by_mac1.get(mac1)?)?;
        let is_first = half_open.from == from;
        let (answered, pause) = if is_first {
            (Some(half_open.answered), REPEAT_INTERVAL)
        } else {
            (half_open.answered_elsewhere, COPY_INTERVAL)
        };
        if answered.is_some_and(|at| now.saturating_duration_since(at) < pause) {
            return None;
        }
        if is_first {
            half_open.answered = now;
        } else {
            half_open.answered_elsewhere = Some(now);
        }
        Some(half_open.resp.clone())
    }

    /// Forgets those past their time.
    pub(super) fn end_expired(&mut self, now: Instant) {
        while let Some((_, index)) = self.by_age.first_key_value() {
            let index = *index;
            if self.by_index.get(&index).is_some_and(|half_open| half_open.born + HALF_OPEN_LIFE > now) {
                break;
            }
            if self.take(index).is_none() {
                break;
            }
        }
    }

    /// Forgets those under epochs that are not held.
    pub(super) fn end_revoked(&mut self, keys: &KeyRing) {
        let revoked = self.by_index.iter().filter(|(_, half_open)| !keys.holds(half_open.responder.epoch()));
        let revoked: Vec<SessionIndex> = revoked.map(|(index, _)| *index).collect();
        for index in revoked {
            self.take(index);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let (_, index) = self.by_age.first_key_value()?;
        self.by_index.get(index).map(|half_open| half_open.born + HALF_OPEN_LIFE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CipherSuite, Identity, Seed,
        crypto::Rng,
        handshake::{Initiator, Local},
        record::{self, Message},
        testing::start,
        tunnel::{
            index::{IndexTable, IndexUse},
            tests::pair::{address, ring},
        },
    };

    /// Adds a handshake that somebody begins, who has shown where he is or not. Returns its index.
    fn add(half_open: &mut HalfOpens, number: u8, shown: bool) -> SessionIndex {
        let (keys, own) = (ring(9), [address(1)]);
        let mut rng = Rng::new(Seed::from_bytes([number; 32]));
        let mut local = |number: u8| {
            let identity = Identity::generate(Seed::from_bytes([number; 32]), &own);
            let index = IndexTable::new(1).take(0, IndexUse::HalfOpen, &mut rng, start()).expect("an index");
            (identity, index)
        };
        let ((initiator, theirs), (responder, index)) = (local(100 + number), local(200));
        let suite = CipherSuite::Aes256Gcm;
        let side = |identity| Local::new(&keys, suite, identity, &own, true);
        let (_, init) = Initiator::start(&side(&initiator), theirs.get(), address(0), &mut rng);
        let Ok(Message::Init(parsed)) = record::parse(&init) else { panic!("an INIT") };
        let (responder, resp) =
            Responder::accept(&side(&responder), &parsed, index.get(), &mut rng).expect("it is one");
        let (mac1, from) = (record::mac1(&init).expect("INIT has one"), SocketAddr::new(address(1), 8_362));
        let number = index.get();
        half_open.insert(mac1, (from, 0, shown), index, responder, resp, start());
        number
    }

    #[test]
    fn a_source_has_four_and_whoever_has_shown_that_he_is_there_stays() {
        let mut half_open = HalfOpens::default();
        let shown = add(&mut half_open, 1, true);
        let first = add(&mut half_open, 2, false);
        for number in 3..=9 {
            add(&mut half_open, number, false);
            assert!(half_open.by_index.len() <= MAX_HALF_OPEN_PER_SOURCE);
        }
        assert!(half_open.by_index.contains_key(&shown) && !half_open.by_index.contains_key(&first));
        assert!(half_open.is_full((address(1), 0)) && !half_open.is_full((address(1), 1)));
    }
}
