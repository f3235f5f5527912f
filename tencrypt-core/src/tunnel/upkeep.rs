//! Work that time brings: handshake messages that wait, repeats, keepalives, ends.

use std::{net::IpAddr, time::Instant};

use super::{
    Tunnel,
    exchanges::{Due, End, Ended, Purpose},
    limits::MAX_ASKED,
    peer_key::PeerKey,
    peers::PeerDue,
};
use crate::{event::Event, stats::DropReason};

impl Tunnel {
    /// Handshake messages that wait, then timers.
    #[inline(never)]
    pub(super) fn do_due(&mut self, now: Instant) {
        self.now = now;
        self.work_off(now);
        // One turn over the timers that are due now: what a timer arms comes later.
        for _ in 0..MAX_ASKED {
            match self.exchanges.take_due(now) {
                Some(Due::Attempt(destination)) => self.attempt_due(destination, now),
                Some(Due::HalfOpen) => self.exchanges.half_open_due(now),
                None => break,
            }
        }
        for _ in 0..MAX_ASKED {
            let Some(key) = self.peers.take_due(now) else { break };
            self.peer_due(key, now);
        }
        if self.nat.poll_timeout().is_some_and(|at| at <= now) {
            self.nat.handle_timeout(now);
            self.collect_flow_updates();
        }
    }

    /// Repeats INIT, or gives up.
    fn attempt_due(&mut self, destination: IpAddr, now: Instant) {
        let owner = self.peers.owner(destination).and_then(|key| self.peers.find(key));
        let has_session = owner.and_then(|peer| peer.sending(now)).is_some();
        let (exchanges, mut cx) = self.exchanging(now);
        if exchanges.attempt_due(destination, has_session, &mut cx) {
            self.gave_up(destination, now);
        }
    }

    /// A peer's timers: repeated CONF, keepalive, dead peer, end of sessions.
    fn peer_due(&mut self, key: PeerKey, now: Instant) {
        let random = self.rng.u32();
        if self.peers.handle_due(key, random, now, &mut self.outbox) == PeerDue::Silent {
            let endpoint = self.peers.find(key).and_then(|peer| peer.any_endpoint());
            if endpoint.is_some_and(|endpoint| self.peers.has_heir(key, endpoint.ip(), now)) {
                // It will not answer any more, and who would has a session.
                self.peers.disown(key, |_| false);
            } else {
                self.rekey(key, now);
            }
        }
    }

    /// No answer: what is held is judged by policy.
    pub(super) fn gave_up(&mut self, destination: IpAddr, now: Instant) {
        let Some(Ended { to, purpose, held, .. }) = self.exchanges.end(destination, End::Unanswered, now)
        else {
            return;
        };
        self.policy.lost_own_vip(destination);
        let plain = self.policy.may_go_plain(&self.policy.classify(destination, now));
        if purpose != Purpose::Background {
            self.outbox.event(Event::HandshakeFailed { to });
        }
        for packet in held {
            if !plain {
                self.stats.drop(DropReason::HeldTimeout);
            } else if self.outbox.release(packet) {
                self.stats.opportunistic += 1;
                self.stats.bypassed += 1;
            } else {
                self.stats.drop(DropReason::HeldFull);
            }
        }
    }
}
