//! Going over from one set of keys to the next.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Tunnel, limits::CHANGE_SPREAD, peer::PeerKey, timer::Timer};
use crate::{crypto::KeyRing, event::Event, record, stats::DropReason};

impl Tunnel {
    /// Ends at once what is under an epoch that is no longer held; sessions under one that is no longer sent are
    /// replaced soon, each in its own time, while they go on.
    #[inline(never)]
    pub(super) fn change_keys(&mut self, keys: Arc<KeyRing>, now: Instant) {
        let before = std::mem::replace(&mut self.keys, keys);
        if before.epochs().any(|epoch| !self.keys.holds(epoch)) {
            self.revoke(now);
        }
        if before.send_epoch() != self.keys.send_epoch() {
            self.hasten(now);
        }
    }

    fn revoke(&mut self, now: Instant) {
        let keys = self.keys.clone();
        let queued = self.queue.len();
        let held = |bytes: &[u8]| record::covered_by_mac1(bytes).is_some_and(|(epoch, ..)| keys.holds(epoch));
        self.queue.retain(|message| held(&message.bytes));
        self.stats.drop_many(DropReason::OtherEpoch, (queued - self.queue.len()) as u64);
        for index in self.half_open.take_revoked(&keys) {
            self.peers.release_index(index);
        }
        for key in self.peers.keys() {
            if self.peers.erase(key, now, |session| !keys.holds(session.epoch))
                && let Some(peer) = self.peers.remove(key, now)
                && self.peers.lanes(peer.id).next().is_none()
            {
                self.push_event(Event::PeerDown { peer: peer.id });
            }
        }
        // No answer can come to these any more: whatever waits for it is asked anew, with all of its time.
        for destination in self.asks.revoked(&keys) {
            self.relaunch(destination, now);
            if let Some(ask) = self.asks.find_mut(destination) {
                ask.started = now;
            }
            self.arm_ask(destination);
        }
    }

    fn hasten(&mut self, now: Instant) {
        let sent = self.keys.send_epoch();
        for key in self.peers.keys() {
            let random = self.rng.u32();
            let Some(peer) = self.peers.find_mut(key) else { continue };
            for session in peer.sessions.iter_mut().filter(|session| session.epoch != sent) {
                session.rekey_at = session.rekey_at.min(now + spread(session.initiated, random));
            }
        }
    }

    /// Within which time a session that this side has just initiated is to be replaced, if its handshake began under
    /// an epoch that is no longer sent.
    ///
    /// Only the initiator's matter. A peer that starts under another epoch than this side sends is behind, or ahead;
    /// two that answer each other's session by a handshake of their own would never end.
    pub(super) fn replace_soon(&mut self, epoch: u8) -> Option<Duration> {
        (epoch != self.keys.send_epoch()).then(|| spread(true, self.rng.u32()))
    }

    /// Replaces the INIT to a destination by one under the epoch that is sent now.
    pub(super) fn relaunch(&mut self, destination: IpAddr, now: Instant) {
        let Some(to) = self.asks.find(destination).map(|ask| ask.to) else { return };
        let Some(flight) = self.launch(destination, to, now) else { return };
        if let Some(ask) = self.asks.find_mut(destination)
            && let Some(before) = ask.flight.replace(flight)
        {
            self.peers.release_index(before.index);
        }
    }

    /// A handshake by the peer made a session under `epoch` while `destination` was asked. The packets that waited leave
    /// on it. An INIT under the same epoch is not needed any more; one under another epoch goes on, for it leads to the
    /// epoch that this side sends, and its answer may be on the way.
    pub(super) fn answered_by_init(&mut self, destination: IpAddr, key: PeerKey, epoch: u8) {
        let flight = self.asks.find(destination).and_then(|ask| ask.flight.as_ref());
        let held = if flight.is_some_and(|flight| flight.initiator.epoch() != epoch) {
            self.asks.become_rekey(destination)
        } else {
            let Some((ask, held)) = self.asks.finish(destination) else { return };
            self.timers.cancel(Timer::Ask(destination));
            if let Some(flight) = ask.flight {
                self.peers.release_index(flight.index);
            }
            held
        };
        for packet in held {
            self.queue_packet(key, packet);
        }
    }
}

/// Time after a change for which a session goes on before it is replaced: the responder leaves its initiator the
/// chance.
fn spread(initiated: bool, random: u32) -> Duration {
    let drawn = CHANGE_SPREAD.mul_f64(f64::from(random) / f64::from(u32::MAX));
    if initiated { drawn } else { CHANGE_SPREAD + drawn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_responder_leaves_its_initiator_the_chance() {
        assert_eq!((spread(true, 0), spread(true, u32::MAX)), (Duration::ZERO, CHANGE_SPREAD));
        assert_eq!((spread(false, 0), spread(false, u32::MAX)), (CHANGE_SPREAD, 2 * CHANGE_SPREAD));
    }
}
