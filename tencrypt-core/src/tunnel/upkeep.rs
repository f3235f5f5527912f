//! Work that time brings: handshake messages that wait, repeats, keepalives, ends.

use std::{collections::VecDeque, net::IpAddr, time::Instant};

use super::{
    HeldPacket, Tunnel,
    exchanges::{Due, End, Ended, Expectation, Purpose},
    limits::MAX_ASKED,
    peer_key::PeerKey,
    peers::PeerDue,
};
use crate::{directory::Standing, event::Event, stats::DropReason};

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
                Some(Due::GivenUp) => self.exchanges.given_up_due(now),
                Some(Due::HalfOpen) => self.exchanges.half_open_due(now),
                None => break,
            }
        }
        for _ in 0..MAX_ASKED {
            let Some(key) = self.peers.take_due(now) else { break };
            self.peer_due(key, now);
        }
        self.end_waiting(now);
        if self.nat.poll_timeout().is_some_and(|at| at <= now) {
            self.nat.handle_timeout(now);
            self.collect_flow_updates();
        }
    }

    /// Repeats INIT, lets go what waited long enough, or gives up.
    fn attempt_due(&mut self, destination: IpAddr, now: Instant) {
        if self.exchanges.is_release_due(destination, now) {
            self.release_due(destination, now);
        }
        let route = self.routes.route(destination, now);
        let has_session = route.is_some_and(|route| self.peers.is_alive(route.member, now));
        let (exchanges, mut cx) = self.exchanging(now);
        if exchanges.attempt_due(destination, has_session, &mut cx) {
            self.gave_up(destination, now);
        }
    }

    /// Lets go what has waited long enough for a destination that there is another way to.
    fn release_due(&mut self, destination: IpAddr, now: Instant) {
        if self.standing(destination, now) == Standing::Claimed {
            let held = self.exchanges.take_held(destination);
            self.let_go(destination, held, now);
        } else if let Some(key) = self.last_way(destination, now) {
            let held = self.exchanges.take_held(destination);
            held.into_iter().for_each(|packet| self.queue_packet(key, packet));
        }
    }

    /// A peer's timers: repeated CONF, keepalive, dead peer, end of sessions.
    fn peer_due(&mut self, key: PeerKey, now: Instant) {
        let random = self.rng.u32();
        match self.peers.handle_due(key, random, now, &mut self.outbox) {
            PeerDue::Nothing => {}
            PeerDue::Suspect => {
                if let Some(asked) = self.ask_for_life(key, now) {
                    self.exchanges.ask_again(asked, now);
                }
            }
            PeerDue::Dead => self.died(key, now),
        }
        if self.peers.take_to_tell(key) {
            self.tell_peer(key, now);
        }
    }

    /// No answer: what is held is judged by policy.
    pub(super) fn gave_up(&mut self, destination: IpAddr, now: Instant) {
        let expectation = match self.standing(destination, now) {
            Standing::Internal => Expectation::Internal,
            Standing::Claimed => Expectation::Claimed,
            Standing::External | Standing::Exempt | Standing::Unknown => Expectation::Unknown,
        };
        let (end, was_silent) = (End::Unanswered(expectation), self.exchanges.is_silent(destination, now));
        let Some(Ended { to, named, purpose, held }) = self.exchanges.end(destination, end, now) else {
            return;
        };
        self.end_telling(named, now);
        if purpose == Purpose::Proof {
            return;
        }
        self.policy.lost_own_vip(destination);
        self.peers.drop_copies(destination);
        if purpose > Purpose::Background && !was_silent {
            self.outbox.event(Event::HandshakeFailed { to });
        }
        self.let_go(destination, held, now);
    }

    /// Judges packets that waited for a destination in vain: they leave in plain where policy says so, or are dropped.
    fn let_go(&mut self, destination: IpAddr, held: VecDeque<HeldPacket>, now: Instant) {
        if held.is_empty() {
            return;
        }
        let finding = self.policy.classify(destination, now);
        let opportunistic = self.policy.may_go_plain(&finding);
        let plain = match finding.standing {
            Standing::External | Standing::Exempt => true,
            Standing::Claimed => !self.membership.lacks_certificate(),
            Standing::Internal | Standing::Unknown => opportunistic,
        };
        if plain {
            // The owner opens the way for the answers first.
            self.announce_external(destination, now);
        }
        for packet in held {
            if !plain {
                self.stats.drop(DropReason::HeldTimeout);
            } else if self.outbox.release(packet) {
                self.stats.opportunistic += u64::from(opportunistic);
                self.stats.bypassed += 1;
            } else {
                self.stats.drop(DropReason::HeldFull);
            }
        }
    }

    fn standing(&self, destination: IpAddr, now: Instant) -> Standing {
        self.policy.classify(destination, now).standing
    }
}
