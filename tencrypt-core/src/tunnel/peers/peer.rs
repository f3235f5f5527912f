//! One lane of one member of the tenant.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    life::{Life, Turn},
    session::Session,
};
use crate::{
    crypto::PeerId,
    event::PeerInfo,
    record::SessionIndex,
    trust::Certificate,
    tunnel::limits::{KEEPALIVE, MAX_SERVED, SIMULTANEOUS, TRANSLATION_KEPT},
};

/// One lane of one member of the tenant. Its lanes share identity and addresses; each has sessions and a port of its own.
#[derive(Debug)]
pub(in crate::tunnel) struct Peer {
    pub(super) id: PeerId,
    pub(super) lane: u8,
    /// Destination of records, by outer family. IPv4 never travels over IPv6: its packets may be too long for it.
    endpoint_v4: Option<SocketAddr>,
    endpoint_v6: Option<SocketAddr>,
    /// The one that was set last is no address and port of its own: it lasts as long as a translation on the way.
    pub(super) is_translated: bool,
    /// Addresses that it says are its own; worth nothing until proven.
    pub(super) asserted: Box<[IpAddr]>,
    /// VIPs under which it reached this pod.
    pub(super) served: Vec<IpAddr>,
    /// VIP that it was sent to for last.
    pub(super) vip: Option<IpAddr>,
    /// VIPs that it was asked on behalf of, so that it takes packets to them.
    pub(super) told: Vec<IpAddr>,
    /// Its device takes unfinished checksums.
    pub(super) vnet: bool,
    /// Certificate that it presented in its last handshake; with an authority, one that counts.
    pub(super) certificate: Option<Certificate>,
    pub(super) sessions: Vec<Session>,
    /// The session to send on.
    pub(super) sending: Option<SessionIndex>,
    /// The session that the last valid record came on.
    pub(super) heard: Option<SessionIndex>,
    pub(super) life: Life,
    /// Data was received since and nothing was sent.
    pub(super) unacknowledged_since: Option<Instant>,
    /// Time at which its last RESET counted.
    pub(super) reset_at: Option<Instant>,
    /// Packets for it that wait in the outbox.
    pub(super) queued: usize,
    /// Time of the first of its timers that is set.
    pub(super) armed: Option<Instant>,
    /// Time at which a packet was sent to it or came from it last.
    pub(super) active: Instant,
    /// Time at which something was sent to it last.
    pub(super) sent: Instant,
    /// It has to be told of this side's addresses.
    pub(super) is_to_tell: bool,
    pub(super) last_handshake: Instant,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Peer {
    pub(super) fn new(id: PeerId, lane: u8, now: Instant) -> Self {
        Self {
            id,
            lane,
            endpoint_v4: None,
            endpoint_v6: None,
            is_translated: false,
            asserted: Box::default(),
            served: Vec::new(),
            vip: None,
            told: Vec::new(),
            vnet: false,
            certificate: None,
            sessions: Vec::new(),
            sending: None,
            heard: None,
            life: Life::new(),
            unacknowledged_since: None,
            reset_at: None,
            queued: 0,
            armed: None,
            active: now,
            sent: now,
            is_to_tell: false,
            last_handshake: now,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    pub(in crate::tunnel) fn id(&self) -> PeerId {
        self.id
    }

    pub(in crate::tunnel) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Addresses that it says are its own.
    pub(in crate::tunnel) fn asserted(&self) -> &[IpAddr] {
        &self.asserted
    }

    /// Tells if it says that an address is its own.
    pub(in crate::tunnel) fn asserts(&self, address: IpAddr) -> bool {
        self.asserted.contains(&address)
    }

    /// Destination of a packet of this family.
    #[inline]
    pub(in crate::tunnel) fn endpoint(&self, inner_is_v4: bool) -> Option<SocketAddr> {
        if inner_is_v4 { self.endpoint_v4 } else { self.endpoint_v6.or(self.endpoint_v4) }
    }

    /// Destination of control datagrams.
    pub(in crate::tunnel) fn any_endpoint(&self) -> Option<SocketAddr> {
        self.endpoint_v4.or(self.endpoint_v6)
    }

    /// Destinations of records, of both families.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = IpAddr> {
        [self.endpoint_v4, self.endpoint_v6].into_iter().flatten().map(|to| to.ip())
    }

    /// Its own address where its records go, of this family if there is one: what a question about it is sent to.
    pub(in crate::tunnel) fn own_endpoint(&self, is_v4: bool) -> Option<IpAddr> {
        let own = |to: Option<SocketAddr>| Some(to?.ip()).filter(|address| self.asserts(*address));
        let (first, other) =
            if is_v4 { (self.endpoint_v4, self.endpoint_v6) } else { (self.endpoint_v6, self.endpoint_v4) };
        own(first).or_else(|| own(other))
    }

    /// Tells if a translation on the way that its records go to may be over.
    #[inline]
    pub(in crate::tunnel) fn is_way_lost(&self, now: Instant) -> bool {
        self.is_translated && now.saturating_duration_since(self.sent) >= TRANSLATION_KEPT
    }

    /// Time from which on a packet may not go the way of the one that is sent now: its session is over, or nothing was sent
    /// since and a translation on the way may be.
    pub(in crate::tunnel) fn way_ends(&self, now: Instant) -> Option<Instant> {
        let translation = self.is_translated.then(|| now + TRANSLATION_KEPT);
        self.sending(now).map(|session| session.expires()).into_iter().chain(translation).min()
    }

    /// Tells if its records go to this address.
    pub(in crate::tunnel) fn has_endpoint(&self, address: IpAddr) -> bool {
        self.endpoints().any(|to| to == address)
    }

    /// VIP that it was sent to for last.
    pub(in crate::tunnel) fn vip(&self) -> Option<IpAddr> {
        self.vip
    }

    /// Time of its last handshake.
    pub(in crate::tunnel) fn last_handshake(&self) -> Instant {
        self.last_handshake
    }

    /// Tells if it was asked on behalf of this VIP.
    pub(in crate::tunnel) fn is_told(&self, vip: IpAddr) -> bool {
        self.told.contains(&vip)
    }

    /// Takes in what it says of itself: it left where it says that it is no longer.
    pub(super) fn say(&mut self, addresses: Box<[IpAddr]>) {
        let before = std::mem::replace(&mut self.asserted, addresses);
        for gone in before {
            if !self.asserts(gone) {
                self.leave_endpoint(gone);
            }
        }
    }

    /// Forgets the endpoint at `address`, if there is another.
    fn leave_endpoint(&mut self, address: IpAddr) {
        let is_there = |to: Option<SocketAddr>| to.is_some_and(|to| to.ip() == address);
        if is_there(self.endpoint_v4) && self.endpoint_v6.is_some() {
            self.endpoint_v4 = None;
        } else if is_there(self.endpoint_v6) && self.endpoint_v4.is_some() {
            self.endpoint_v6 = None;
        }
    }

    /// Tells if it was asked if it lives and did not answer.
    pub(in crate::tunnel) fn is_dead(&self) -> bool {
        self.life.is_dead()
    }

    /// Tells if it answers, as far as is known.
    pub(in crate::tunnel) fn is_alive(&self) -> bool {
        self.life.is_alive()
    }

    pub(super) fn set_endpoint(&mut self, endpoint: SocketAddr) {
        match endpoint {
            SocketAddr::V4(_) => self.endpoint_v4 = Some(endpoint),
            SocketAddr::V6(_) => self.endpoint_v6 = Some(endpoint),
        }
    }

    /// Notes a VIP under which it reached this pod.
    pub(super) fn serve(&mut self, vip: IpAddr) {
        if !self.served.contains(&vip) && self.served.len() < MAX_SERVED {
            self.served.push(vip);
        }
    }

    /// Tells if it reached this pod under this VIP.
    pub(in crate::tunnel) fn is_served_under(&self, vip: IpAddr) -> bool {
        self.served.contains(&vip)
    }

    pub(super) fn session(&self, local: SessionIndex) -> Option<&Session> {
        self.sessions.iter().find(|session| session.index() == local)
    }

    pub(super) fn session_mut(&mut self, local: SessionIndex) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.index() == local)
    }

    /// The session to send on, if it is still good.
    pub(in crate::tunnel) fn sending(&self, now: Instant) -> Option<&Session> {
        self.session(self.sending?).filter(|session| !session.is_expired(now))
    }

    pub(in crate::tunnel) fn sending_mut(&mut self, now: Instant) -> Option<&mut Session> {
        let local = self.sending?;
        self.session_mut(local).filter(|session| !session.is_expired(now))
    }

    /// A look at it and its `addresses`, if there is a session to send on.
    pub(in crate::tunnel) fn info(&self, addresses: Vec<IpAddr>, now: Instant) -> Option<PeerInfo> {
        let session = self.sending(now)?;
        Some(PeerInfo {
            peer: self.id,
            lane: self.lane,
            endpoint: self.any_endpoint()?,
            addresses: addresses.into(),
            suite: session.suite,
            epoch: session.epoch,
            generation: self.certificate.as_ref().map(Certificate::generation),
            last_handshake: Some(now.saturating_duration_since(self.last_handshake)),
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
        })
    }

    /// Decides which session to send on, after `candidate` became one that may be used.
    ///
    /// A session is used once the peer has proven that it holds the keys; an unproven one only where there is no
    /// other. Of two that came from a simultaneous start both sides take the one whose initiator has the smaller
    /// static key, so that they agree without a word.
    pub(super) fn consider(&mut self, candidate: SessionIndex, own: PeerId, now: Instant) {
        let Some(new) = self.session(candidate) else { return };
        let chosen = match self.sending(now) {
            None => candidate,
            Some(current) if current.index() == candidate => candidate,
            Some(_) if !new.proven => return,
            Some(current) => {
                let apart = new.born.max(current.born) - new.born.min(current.born);
                let simultaneous = apart < SIMULTANEOUS
                    && new.initiated != current.initiated
                    && new.epoch == current.epoch
                    && current.proven;
                let keep_current = if simultaneous {
                    current.initiated == (own < self.id)
                } else {
                    // One that proves late does not displace its successor.
                    current.proven && current.born > new.born
                };
                if keep_current { current.index() } else { candidate }
            }
        };
        self.sending = Some(chosen);
    }

    /// Ends the sessions that are over; of those left it sends on the newest that is proven. True: it has none left.
    pub(super) fn end_sessions(&mut self, over: impl Fn(&Session) -> bool) -> bool {
        self.sessions.retain(|session| !over(session));
        if self.sending.is_some_and(|sending| self.session(sending).is_none()) {
            let next = self.sessions.iter().max_by_key(|session| (session.proven, session.born));
            self.sending = next.map(Session::index);
        }
        self.sessions.is_empty()
    }

    /// Tells if its timer has to be set to this time: it is earlier than the one that it is set to. From here on it is that.
    #[inline]
    pub(super) fn is_earlier(&mut self, at: Instant) -> bool {
        let is_earlier = self.armed.is_none_or(|armed| at < armed);
        if is_earlier {
            self.armed = Some(at);
        }
        is_earlier
    }

    /// Takes what is due of silence and debts: what its life has come to, whether a keepalive is owed, and when to look
    /// again.
    pub(super) fn due(&mut self, now: Instant) -> (Turn, bool, Option<Instant>) {
        let turn = self.life.turn(now);
        let keepalive = self.unacknowledged_since.map(|since| since + KEEPALIVE);
        let owed = keepalive.is_some_and(|at| at <= now);
        let next = self.life.next_turn().into_iter().chain(keepalive.filter(|_| !owed)).min();
        (turn, owed, next)
    }
}
