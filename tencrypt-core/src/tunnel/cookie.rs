//! Under load: who has not shown that it receives where it sends from gets a COOKIE in place of public-key work.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Tunnel,
    half_open::Queued,
    limits::{LOADED_QUEUE, MAX_QUEUED, REPEAT_INTERVAL},
    peer::IndexUse,
};
use crate::{
    handshake::{self, CookieBytes, CookieSecret},
    record::{self, Message, SessionIndex},
    stats::DropReason,
};

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
            self.load.overload(now);
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
            let fits = self.load.take_init(from.ip(), true, now);
            return if fits { Ok(()) } else { Err(DropReason::RateLimited) };
        }
        if self.load.is_loaded(now) || !self.load.take_init(from.ip(), false, now) {
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
            self.load.set_secret(CookieSecret::new(&mut self.rng), now);
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
