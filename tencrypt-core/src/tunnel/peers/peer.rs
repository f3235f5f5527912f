//! One lane of one member of the tenant.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::session::Session;
use crate::{
    crypto::PeerId,
    event::PeerInfo,
    record::SessionIndex,
    trust::Certificate,
    tunnel::limits::{DEAD_PEER, KEEPALIVE, MAX_SERVED, SIMULTANEOUS},
};

/// One lane of one member of the tenant. Its lanes share identity and addresses; each has sessions and a port of its own.
#[derive(Debug)]
pub(in crate::tunnel) struct Peer {
    pub(super) id: PeerId,
    pub(super) lane: u8,
    /// Destination of records, by outer family. IPv4 never travels over IPv6: its packets may be too long for it.
    endpoint_v4: Option<SocketAddr>,
    endpoint_v6: Option<SocketAddr>,
    /// Addresses that it says are its own; worth nothing until proven.
    pub(super) asserted: Box<[IpAddr]>,
    /// Addresses that it has proven to own.
    pub(super) owned: Vec<IpAddr>,
    /// VIPs under which it reached this pod.
    served: Vec<IpAddr>,
    /// Its device takes unfinished checksums.
    pub(super) vnet: bool,
    /// Certificate that it presented in its last handshake; with an authority, one that counts.
    pub(super) certificate: Option<Certificate>,
    pub(super) sessions: Vec<Session>,
    /// The session to send on.
    pub(super) sending: Option<SessionIndex>,
    /// The session that the last valid record came on.
    pub(super) heard: Option<SessionIndex>,
    /// Data was sent since and nothing came back.
    pub(super) unanswered_since: Option<Instant>,
    /// Data was received since and nothing was sent.
    pub(super) unacknowledged_since: Option<Instant>,
    /// Time at which its last RESET counted.
    pub(super) reset_at: Option<Instant>,
    /// Packets for it that wait in the outbox.
    pub(super) queued: usize,
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
            asserted: Box::default(),
            owned: Vec::new(),
            served: Vec::new(),
            vnet: false,
            certificate: None,
            sessions: Vec::new(),
            sending: None,
            heard: None,
            unanswered_since: None,
            unacknowledged_since: None,
            reset_at: None,
            queued: 0,
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

    pub(in crate::tunnel) fn owned(&self) -> &[IpAddr] {
        &self.owned
    }

    /// Tells if it says that an address is its own.
    pub(in crate::tunnel) fn asserts(&self, address: IpAddr) -> bool {
        self.asserted.contains(&address)
    }

    /// Tells if packets for it wait in the outbox, which nothing may overtake.
    pub(in crate::tunnel) fn is_waited_for(&self) -> bool {
        self.queued > 0
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

    /// Tells if there was a handshake over the family of `address`.
    pub(super) fn was_reached_over(&self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.endpoint_v4.is_some() } else { self.endpoint_v6.is_some() }
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

    /// A look at it, if there is a session to send on.
    pub(in crate::tunnel) fn info(&self, now: Instant) -> Option<PeerInfo> {
        let session = self.sending(now)?;
        Some(PeerInfo {
            peer: self.id,
            lane: self.lane,
            endpoint: self.any_endpoint()?,
            addresses: self.owned.clone().into(),
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

    /// Takes what is due of silence and debts: whether it left data unanswered too long, whether a keepalive is owed, and
    /// when to look again.
    pub(super) fn due(&mut self, now: Instant) -> (bool, bool, Option<Instant>) {
        let after = |since: Option<Instant>, time: Duration| since.map(|since| since + time);
        let (dead, keepalive) =
            (after(self.unanswered_since, DEAD_PEER), after(self.unacknowledged_since, KEEPALIVE));
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (silent, owed) = (is_due(dead), is_due(keepalive));
        if silent {
            // Data that gets no answer starts the count anew once it is asked about.
            self.unanswered_since = None;
        }
        let next = dead.filter(|_| !silent).into_iter().chain(keepalive.filter(|_| !owed)).min();
        (silent, owed, next)
    }
}
