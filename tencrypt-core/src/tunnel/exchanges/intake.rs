//! Handshake messages on their way in: which are worth public-key work. Under load, who has not shown that it receives
//! where it sends from gets a COOKIE in place of it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    Exchanges,
    context::{Context, Queued},
    cookie::repeat_with_cookie,
};
use crate::{
    handshake::{self, CookieSecret},
    record::{self, Message, SessionIndex},
    stats::DropReason,
    tunnel::{
        index::IndexUse,
        limits::{LOADED_QUEUE, MAX_QUEUED},
    },
};

impl Exchanges {
    /// Queues a handshake message that is worth its work, or answers it at once.
    ///
    /// # Errors
    /// It is dropped; a COOKIE may be on its way.
    pub(in crate::tunnel) fn enqueue(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        handshake::verify_mac1(cx.membership.keys(), bytes)?;
        if self.queue.len() >= LOADED_QUEUE {
            self.load.overload(cx.now);
        }
        match message {
            Message::Init(init) => {
                let mac1 = record::mac1(bytes).ok_or(DropReason::Malformed)?;
                if let Some(answered) = self.answer_known(&mac1, from, cx) {
                    return answered;
                }
                if self.own_init(init.sender, &mac1, cx.now).is_none() && !cx.membership.lacks_certificate() {
                    self.judge_init(from, (bytes, init.sender), cx)?;
                }
            }
            Message::Resp(resp) => {
                // Only who received INIT knows the index.
                if let Some(IndexUse::Attempt(asked)) = self.indices.find(resp.receiver, cx.now)
                    && !self.load.take_resp(asked, cx.now)
                {
                    return Err(DropReason::RateLimited);
                }
            }
            Message::Conf(conf)
                if self.indices.find(conf.receiver, cx.now) == Some(IndexUse::HalfOpen)
                    && self.load.is_loaded(cx.now)
                    && !self.shows_source(from, bytes, cx.now) =>
            {
                self.hand_out_cookie(from, (bytes, conf.sender), cx);
                return Err(DropReason::RateLimited);
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
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        if self.shows_source(from, init.0, cx.now) {
            let fits = self.load.take_init(from.ip(), true, cx.now);
            return if fits { Ok(()) } else { Err(DropReason::RateLimited) };
        }
        if self.load.is_loaded(cx.now) || !self.load.take_init(from.ip(), false, cx.now) {
            self.hand_out_cookie(from, init, cx);
            return Err(DropReason::RateLimited);
        }
        Ok(())
    }

    pub(super) fn shows_source(&self, from: SocketAddr, bytes: &[u8], now: Instant) -> bool {
        self.load.secret(now).is_some_and(|secret| handshake::has_mac2(bytes, &secret.cookie(from)))
    }

    /// Answers a message that is dropped by a COOKIE.
    pub(super) fn hand_out_cookie(
        &mut self,
        from: SocketAddr,
        message: (&[u8], SessionIndex),
        cx: &mut Context<'_>,
    ) {
        if self.load.secret(cx.now).is_none() {
            self.load.set_secret(CookieSecret::new(cx.rng), cx.now);
        }
        let Some(cookie) = self.load.secret(cx.now).map(|secret| secret.cookie(from)) else { return };
        let suite = cx.policy.config().suite;
        if let Some(bytes) = handshake::write_cookie(cx.membership.keys(), suite, message, &cookie, cx.rng) {
            // As the answer to INIT would.
            let from_tenant_port = record::SessionIndex::lane_of_init(message.0).is_some();
            cx.outbox.datagram(from, bytes, from_tenant_port);
        }
    }

    /// Takes the cookie for an INIT in flight, and repeats that with it.
    pub(in crate::tunnel) fn take_cookie(
        &mut self,
        destination: IpAddr,
        cookie: &record::Cookie<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let attempt = self.attempts.find_mut(destination).ok_or(DropReason::UnknownIndex)?;
        let initiation = attempt.initiation.as_mut().ok_or(DropReason::UnknownIndex)?;
        let (keys, suite) = (cx.membership.keys(), cx.policy.config().suite);
        repeat_with_cookie(&mut initiation.init, &mut initiation.cookie, cookie, (keys, suite, cx.now))?;
        cx.outbox.datagram(attempt.to, initiation.init.clone(), false);
        Ok(())
    }

    /// Handles an INIT that was answered before. From elsewhere it may be a copy, and as well the first one was: the same
    /// answer goes there too, and whoever confirms it proves no address by that.
    pub(super) fn answer_known(
        &mut self,
        mac1: &[u8; 16],
        from: SocketAddr,
        cx: &mut Context<'_>,
    ) -> Option<Result<(), DropReason>> {
        self.half_open.find(mac1)?;
        let Some(resp) = self.half_open.answer_again(mac1, from, cx.now) else {
            return Some(Err(DropReason::Replay));
        };
        cx.outbox.datagram(from, resp, true);
        Some(Ok(()))
    }

    /// The destination of an INIT in flight of our own, if this is one.
    pub(super) fn own_init(&mut self, sender: SessionIndex, mac1: &[u8; 16], now: Instant) -> Option<IpAddr> {
        let Some(IndexUse::Attempt(destination)) = self.indices.find(sender, now) else { return None };
        let initiation = self.attempts.find(destination)?.initiation.as_ref()?;
        (record::mac1(&initiation.init).as_ref() == Some(mac1)).then_some(destination)
    }
}
