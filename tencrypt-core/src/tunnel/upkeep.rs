//! Timers of peers and of half-open handshakes.

use std::{net::SocketAddr, time::Instant};

use super::{
    Tunnel,
    limits::{CONF_REPEATS, DEAD_PEER, KEEPALIVE, MAX_ASKED, RETRY_FIRST, RETRY_MOST},
    live::Session,
    peer::PeerKey,
    timer::{Timer, backoff},
};
use crate::event::Event;

impl Tunnel {
    /// Handshake messages that wait, then timers.
    #[inline(never)]
    pub(super) fn do_due(&mut self, now: Instant) {
        self.now = now;
        self.recent.forget();
        self.work_off(now);
        // One turn over the timers that are due now: what a timer arms comes later.
        for _ in 0..MAX_ASKED {
            match self.timers.take_due(now) {
                Some(Timer::Ask(destination)) => self.ask_due(destination, now),
                Some(Timer::Peer(key)) => self.peer_due(key, now),
                Some(Timer::HalfOpen) => self.half_open_due(now),
                Some(Timer::Nat) => self.nat.handle_timeout(now),
                None => break,
            }
        }
        let at = self.nat.poll_timeout();
        if let Some(at) = at {
            self.timers.arm(Timer::Nat, at);
        }
    }

    /// A peer's timers: repeated CONF, keepalive, dead peer, end of sessions.
    pub(super) fn peer_due(&mut self, key: PeerKey, now: Instant) {
        if self.peers.erase_expired(key, now) {
            if let Some(peer) = self.peers.remove(key, now)
                && self.peers.lanes(peer.id).next().is_none()
            {
                self.push_event(Event::PeerDown { peer: peer.id });
            }
            return;
        }
        let random = self.rng.u32();
        let Some(peer) = self.peers.find_mut(key) else { return };
        let (repeats, mut next) = repeat_confs(&mut peer.sessions, now, random);
        let mut sooner = |at: Instant| next = Some(next.map_or(at, |set: Instant| set.min(at)));
        let keepalive = peer.unacknowledged_since.map(|since| since + KEEPALIVE);
        let dead = peer.unanswered_since.map(|since| since + DEAD_PEER);
        let silent = dead.is_some_and(|at| at <= now);
        if silent {
            // Data that gets no answer starts the count anew once it is asked about.
            peer.unanswered_since = None;
        } else if let Some(at) = dead {
            sooner(at);
        }
        let owed = keepalive.is_some_and(|at| at <= now);
        if let (false, Some(at)) = (owed, keepalive) {
            sooner(at);
        }
        let local = peer.sending(now).map(|session| session.local);
        for (to, bytes) in repeats {
            self.send(to, bytes);
        }
        if owed && let Some(local) = local {
            self.send_empty(key, local);
        }
        if silent {
            let endpoint = self.peers.find(key).and_then(|peer| peer.any_endpoint());
            if endpoint.is_some_and(|endpoint| self.has_heir(key, endpoint.ip(), now)) {
                // It will not answer any more, and who would has a session.
                self.disinherit(key);
            } else {
                self.rekey(key, now);
            }
        }
        if let Some(at) = next {
            self.timers.arm(Timer::Peer(key), at);
        }
    }

    /// Forgets half-open handshakes past their time.
    pub(super) fn half_open_due(&mut self, now: Instant) {
        while let Some(index) = self.half_open.take_expired(now) {
            self.peers.release_index(index);
        }
        if let Some(at) = self.half_open.next_expiry() {
            self.timers.arm(Timer::HalfOpen, at);
        }
    }
}

/// Messages to send once more, and when the next is due.
type Repeats = (Vec<(SocketAddr, Vec<u8>)>, Option<Instant>);

/// Takes each CONF that is due again, gives up those that were repeated often enough, and finds when the next of the
/// sessions' timers is due.
fn repeat_confs(sessions: &mut [Session], now: Instant, random: u32) -> Repeats {
    let mut next = None::<Instant>;
    let mut sooner = |at: Instant| next = Some(next.map_or(at, |set: Instant| set.min(at)));
    let mut repeats = Vec::new();
    for session in sessions {
        sooner(session.expires);
        if let Some(conf) = &mut session.conf {
            if conf.repeat_at <= now {
                conf.attempt += 1;
                conf.repeat_at = now + backoff(conf.attempt, RETRY_FIRST, RETRY_MOST, random);
                repeats.push((conf.to, conf.bytes.to_vec()));
            }
            if conf.attempt >= CONF_REPEATS {
                session.conf = None;
            } else {
                sooner(conf.repeat_at);
            }
        }
    }
    (repeats, next)
}
