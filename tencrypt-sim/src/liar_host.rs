//! A liar at an address of the network.

use std::net::{IpAddr, SocketAddr};

use tencrypt::{CipherSuite, TunnelConfig, record::SessionIndex};

use crate::{
    liar::{Heard, Liar},
    random::Random,
    tenant::Tenant,
};

const PORT: u16 = TunnelConfig::DEFAULT_PORT;
/// Sessions that it goes on with.
const KEPT: usize = 32;

/// A datagram with its ends, `(from, to, bytes)`.
pub type Wired = (SocketAddr, SocketAddr, Vec<u8>);

/// A [`Liar`] that has an address, and sends from whatever address it likes. What it cannot do is receive what goes to
/// others.
#[derive(Debug)]
pub struct LiarHost {
    address: IpAddr,
    liar: Liar,
    /// Sessions, and where the other ends are.
    sessions: Vec<(SocketAddr, SessionIndex)>,
}

impl LiarHost {
    /// A member of a tenant at this address.
    #[must_use]
    pub fn new(tenant: &Tenant, suite: CipherSuite, address: IpAddr, seed: u64) -> Self {
        let liar = Liar::new(tenant.keys.clone(), suite, &[address], seed);
        Self { address, liar, sessions: Vec::new() }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Goes on with another static key, as a member does that restarts. Its sessions stay.
    pub fn change_key(&mut self) {
        self.liar.change_key();
    }

    /// Tells if somebody has made a session with it.
    #[must_use]
    pub fn has_session(&self) -> bool {
        !self.sessions.is_empty()
    }

    /// INIT to a pod that says it was sent to `asked`, and has `claims` for CONF.
    pub fn ask(&mut self, from: IpAddr, to: IpAddr, asked: IpAddr, claims: &[IpAddr]) -> Wired {
        self.liar.claim(claims);
        (SocketAddr::new(from, PORT), SocketAddr::new(to, PORT), self.liar.ask(asked))
    }

    /// Takes what came to its own address. Answers as a member does, but for what it claims, and for where CONF comes from.
    pub fn receive(
        &mut self,
        (from, to, bytes): Wired,
        claims: &[IpAddr],
        conf_from: IpAddr,
    ) -> Option<Wired> {
        self.liar.claim(claims);
        match self.liar.hear(&bytes) {
            Heard::Question { resp } => Some((to, from, resp)),
            Heard::Answer { session, conf, .. } => {
                let lane = self.liar.index_at_peer(session).map_or(0, |index| u16::from(index.lane()));
                let end = SocketAddr::new(from.ip(), PORT + lane);
                self.keep(end, session);
                Some((SocketAddr::new(conf_from, PORT), end, conf))
            }
            Heard::Confirmed { session, .. } => {
                self.keep(from, session);
                None
            }
            Heard::Packet { .. } | Heard::Other => None,
        }
    }

    /// A record with this packet, in one of its sessions; `is_unfinished` says that its checksum is.
    pub fn seal(
        &mut self,
        from: IpAddr,
        is_unfinished: bool,
        packet: &[u8],
        random: &mut Random,
    ) -> Option<Wired> {
        let chosen = random.below(self.sessions.len() as u64) as usize;
        let (end, session) = *self.sessions.get(chosen)?;
        let record = if is_unfinished {
            self.liar.seal_unfinished(session, packet)
        } else {
            self.liar.seal(session, packet)
        };
        Some((SocketAddr::new(from, PORT), end, record))
    }

    /// "I do not know this index", in the name of whoever is at `from`.
    pub fn disclaim(&mut self, from: SocketAddr, to: SocketAddr, index: SessionIndex) -> Wired {
        (from, to, self.liar.disclaim(index))
    }

    /// Keeps the newest.
    fn keep(&mut self, end: SocketAddr, session: SessionIndex) {
        if self.sessions.len() == KEPT {
            self.sessions.remove(0);
        }
        self.sessions.push((end, session));
    }
}
