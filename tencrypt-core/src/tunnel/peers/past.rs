//! A lane of a member without sessions.

use std::{net::IpAddr, time::Instant};

use super::peer::Peer;

/// A lane of a member beyond its last session.
#[derive(Debug)]
pub(super) struct Past {
    /// Its own addresses that its records went to.
    pub(super) own: [Option<IpAddr>; 2],
    /// VIPs under which it reached this pod.
    pub(super) served: Vec<IpAddr>,
    pub(super) left: Instant,
}

impl Past {
    pub(super) fn of(peer: &Peer, now: Instant) -> Self {
        let own = [true, false].map(|is_v4| peer.own_endpoint(is_v4).filter(|own| own.is_ipv4() == is_v4));
        Self { own, served: peer.served.clone(), left: now }
    }
}
