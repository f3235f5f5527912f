//! Under load: who has not shown that it receives where it sends from gets a COOKIE in place of public-key work.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    Tunnel,
    inbound::Queued,
    limits::{
        COOKIE_LIFE, INIT_BURST, INIT_INTERVAL, LOADED_FOR, LOADED_OPERATIONS, LOADED_QUEUE, MAX_BUCKETS,
        MAX_QUEUED, REPEAT_INTERVAL,
    },
    peer::IndexUse,
};
use crate::{
    handshake::{self, CookieBytes, CookieSecret},
    record::{self, Message, SessionIndex},
    stats::DropReason,
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
    /// One more operation.
    pub(super) fn worked(&mut self, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= LOADED_FOR) {
            (self.operations, self.since) = (0, Some(now));
        }
        self.operations += 1;
        if self.operations >= LOADED_OPERATIONS {
            self.loaded_until = Some(now + LOADED_FOR);
        }
    }

    /// Cookies handed out so far are worth nothing any more. What is counted of others goes on.
    pub(super) fn forget_secret(&mut self) {
        self.secret = None;
    }

    fn is_loaded(&self, now: Instant) -> bool {
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// The secret in force, if there is one.
    fn secret(&self, now: Instant) -> Option<&CookieSecret> {
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

impl Tunnel {
    /// Queues a handshake message that is worth its work, or answers it at once.
    pub(super) fn take_handshake(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        handshake::verify_mac1(&self.keys, bytes)?;
        if self.queue.len() >= LOADED_QUEUE {
            self.load.loaded_until = Some(now + LOADED_FOR);
        }
        match message {
            Message::Init(init) => {
                let mac1 = record::mac1(bytes).ok_or(DropReason::Malformed)?;
                if let Some(answered) = self.answer_known(&mac1, from, now) {
                    return answered;
                }
                if !self.is_own_init(init.sender, &mac1) && !self.lacks_certificate() {
                    self.judge_init(from, (bytes, init.sender), now)?;
                }
            }
            Message::Conf(conf)
                if self.peers.index(conf.receiver) == Some(IndexUse::HalfOpen)
                    && self.load.is_loaded(now)
                    && !self.shows_source(from, bytes, now) =>
            {
                return self.hand_out_cookie(from, (bytes, conf.sender), now);
            }
            _ => {}
        }
        if self.queue.len() >= MAX_QUEUED {
            return Err(DropReason::RateLimited);
        }
        self.queue.push_back(Queued { from, bytes: bytes.into() });
        Ok(())
    }

    /// Decides if an INIT that is not known yet is worth public-key work. A source that has sent too many is asked to
    /// show that it is not somebody else who claims its address.
    fn judge_init(
        &mut self,
        from: SocketAddr,
        init: (&[u8], SessionIndex),
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.shows_source(from, init.0, now) {
            let fits = self.load.shown.take(from.ip(), now);
            return if fits { Ok(()) } else { Err(DropReason::RateLimited) };
        }
        if self.load.is_loaded(now) || !self.load.claimed.take(from.ip(), now) {
            return self.hand_out_cookie(from, init, now);
        }
        Ok(())
    }

    pub(super) fn shows_source(&self, from: SocketAddr, bytes: &[u8], now: Instant) -> bool {
        self.load.secret(now).is_some_and(|secret| handshake::has_mac2(bytes, &secret.cookie(from)))
    }

    /// Answers a message by a COOKIE; the message is dropped.
    pub(super) fn hand_out_cookie(
        &mut self,
        from: SocketAddr,
        message: (&[u8], SessionIndex),
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.load.secret(now).is_none() {
            self.load.secret = Some((CookieSecret::new(&mut self.rng), now));
        }
        let cookie = self.load.secret(now).map(|secret| secret.cookie(from));
        let written = cookie.and_then(|cookie| {
            handshake::write_cookie(&self.keys, self.config.suite, message, &cookie, &mut self.rng)
        });
        if let Some(bytes) = written {
            if record::init_lane(message.0).is_some() {
                self.answer(from, bytes);
            } else {
                self.send(from, bytes);
            }
        }
        Err(DropReason::RateLimited)
    }

    /// Takes the cookie for an INIT or a CONF in flight, and repeats that with it.
    pub(super) fn handle_cookie(
        &mut self,
        cookie: &record::Cookie<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let suite = self.config.suite;
        match self.peers.index(cookie.receiver) {
            Some(IndexUse::Ask(destination)) => {
                let ask = self.asks.find_mut(destination).ok_or(DropReason::UnknownIndex)?;
                let flight = ask.flight.as_mut().ok_or(DropReason::UnknownIndex)?;
                let read = || handshake::read_cookie(&self.keys, suite, &flight.init, cookie);
                flight.cookie = Some(renew(flight.cookie, now, read)?);
                if let Some((cookie, _)) = &flight.cookie {
                    handshake::set_mac2(&mut flight.init, cookie);
                }
                let (to, init) = (ask.to, flight.init.clone());
                self.send(to, init);
            }
            Some(IndexUse::Session(key)) => {
                let peer = self.peers.find_mut(key).ok_or(DropReason::UnknownIndex)?;
                let session = peer.session_mut(cookie.receiver).ok_or(DropReason::UnknownIndex)?;
                let conf = session.conf.as_mut().ok_or(DropReason::UnknownIndex)?;
                let read = || handshake::read_cookie(&self.keys, suite, conf.bytes.as_slice(), cookie);
                conf.cookie = Some(renew(conf.cookie, now, read)?);
                if let Some((cookie, _)) = &conf.cookie {
                    handshake::set_mac2(conf.bytes.as_mut_slice(), cookie);
                }
                let (to, bytes) = (conf.to, *conf.bytes);
                self.send(to, bytes);
            }
            _ => return Err(DropReason::UnknownIndex),
        }
        Ok(())
    }

    /// Handles an INIT that was answered before. From elsewhere it is a copy that somebody else sends: no answer.
    pub(super) fn answer_known(
        &mut self,
        mac1: &[u8; 16],
        from: SocketAddr,
        now: Instant,
    ) -> Option<Result<(), DropReason>> {
        let known = self.half_open.find(mac1)?;
        if known.from != from || now.saturating_duration_since(known.answered) < REPEAT_INTERVAL {
            return Some(Err(DropReason::Replay));
        }
        let (to, resp) = self.half_open.answer_again(mac1, now)?;
        self.answer(to, resp);
        Some(Ok(()))
    }

    /// Tells if this is an INIT in flight of our own.
    pub(super) fn is_own_init(&self, sender: SessionIndex, mac1: &[u8; 16]) -> bool {
        let Some(IndexUse::Ask(destination)) = self.peers.index(sender) else { return false };
        let flight = self.asks.find(destination).and_then(|ask| ask.flight.as_ref());
        flight.is_some_and(|flight| record::mac1(&flight.init).as_ref() == Some(mac1))
    }
}

/// A cookie in place of the one `before`, not too soon after it: each costs a repetition.
fn renew(
    before: Option<(CookieBytes, Instant)>,
    now: Instant,
    read: impl FnOnce() -> Result<CookieBytes, DropReason>,
) -> Result<(CookieBytes, Instant), DropReason> {
    let wait = |(_, taken): (CookieBytes, Instant)| -> Duration { now.saturating_duration_since(taken) };
    if before.is_some_and(|before| wait(before) < REPEAT_INTERVAL) {
        return Err(DropReason::RateLimited);
    }
    Ok((read()?, now))
}

#[cfg(test)]
mod tests {
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
