//! A member that lies: it has the tenant's key and a program of its own.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use tencrypt::{
    CipherSuite, Identity, KeyRing, Seed,
    crypto::PeerId,
    internal::{Established, Initiator, Local, Message, Responder, Rng, parse, write_reset},
    record::SessionIndex,
    session::{Opener, Sealer},
};

use crate::random::Random;

/// Handshakes of either role that wait for an answer, and sessions, at most; the oldest indices go first.
const MOST: usize = 4_096;

/// A member of a tenant that does handshakes as everybody does and says in them, and in records, what it likes.
///
/// It makes and reads messages, nothing else: by which way and from which source they travel is for who has it.
/// Whatever it is given it answers as the protocol wants, unless told otherwise; COOKIE it does not understand.
pub struct Liar {
    keys: Arc<KeyRing>,
    suite: CipherSuite,
    identity: Identity,
    claims: Vec<IpAddr>,
    random: Random,
    rng: Rng,
    asked: BTreeMap<SessionIndex, Initiator>,
    answered: BTreeMap<SessionIndex, Responder>,
    sessions: BTreeMap<SessionIndex, (Sealer, Opener, SessionIndex)>,
}

/// Meaning of a datagram to a [`Liar`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests act on each")]
pub enum Heard {
    /// RESP: the session stands once `conf` is sent.
    Answer {
        /// The liar's index of the session.
        session: SessionIndex,
        /// The peer.
        peer: PeerId,
        /// CONF, for who wants the session.
        conf: Vec<u8>,
    },
    /// INIT, and what answers it.
    Question {
        /// RESP, for who wants to be found.
        resp: Vec<u8>,
    },
    /// CONF: a session stands.
    Confirmed {
        /// The liar's index of the session.
        session: SessionIndex,
        /// The peer.
        peer: PeerId,
    },
    /// A record of one of its sessions. A keepalive has no bytes.
    Packet {
        /// The liar's index of the session.
        session: SessionIndex,
        /// The packet.
        packet: Vec<u8>,
    },
    /// RESET, COOKIE, and what it cannot read.
    Other,
}

impl Liar {
    /// A member with the tenant's keys and a static key of its own, which claims these addresses, as many as fit: the
    /// first 7. All its choices follow from `seed`.
    #[must_use]
    pub fn new(keys: Arc<KeyRing>, suite: CipherSuite, claims: &[IpAddr], seed: u64) -> Self {
        let mut random = Random::new(seed);
        let identity = Identity::generate(Seed::from_bytes(random.bytes()), claims);
        let rng = Rng::new(Seed::from_bytes(random.bytes()));
        Self {
            keys,
            suite,
            identity,
            claims: claims.to_vec(),
            random,
            rng,
            asked: BTreeMap::new(),
            answered: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }

    /// Its static key.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// Claims other addresses from the next handshake on.
    pub fn claim(&mut self, claims: &[IpAddr]) {
        self.claims = claims.to_vec();
    }

    /// Takes another static key. Sessions under the one before stay.
    pub fn change_key(&mut self) {
        self.identity = Identity::generate(Seed::from_bytes(self.random.bytes()), &self.claims);
    }

    /// INIT that asks for `address`. Sent from somebody else's address it is forged in his name.
    pub fn ask(&mut self, address: IpAddr) -> Vec<u8> {
        let index = SessionIndex::random(0, &mut self.rng);
        let local = Local::new(&self.keys, self.suite, &self.identity, &self.claims, true);
        let (initiator, init) = Initiator::start(&local, index, address, &mut self.rng);
        keep(&mut self.asked, index, initiator);
        init.into_vec()
    }

    /// Takes a datagram that came to it.
    pub fn hear(&mut self, datagram: &[u8]) -> Heard {
        self.read(datagram).unwrap_or(Heard::Other)
    }

    /// A record of a session of its own, with any packet.
    ///
    /// # Panics
    /// Without such a session.
    pub fn seal(&mut self, session: SessionIndex, packet: &[u8]) -> Vec<u8> {
        self.seal_flagged(session, 0, packet)
    }

    /// The same, with the word that the packet's checksum is unfinished.
    ///
    /// # Panics
    /// Without such a session.
    pub fn seal_unfinished(&mut self, session: SessionIndex, packet: &[u8]) -> Vec<u8> {
        self.seal_flagged(session, Sealer::CSUM_PARTIAL, packet)
    }

    fn seal_flagged(&mut self, session: SessionIndex, flags: u8, packet: &[u8]) -> Vec<u8> {
        let (sealer, ..) = self.sessions.get_mut(&session).expect("a session of the liar's");
        let counter = sealer.counters(1).ok().and_then(|mut counters| counters.take());
        let mut record = vec![0; packet.len() + Sealer::OVERHEAD];
        sealer.seal(counter.expect("a test seals less than a key may"), flags, packet, &mut record);
        record
    }

    /// The peer's index of a session, which its records bear.
    #[must_use]
    pub fn index_at_peer(&self, session: SessionIndex) -> Option<SessionIndex> {
        self.sessions.get(&session).map(|(.., remote)| *remote)
    }

    /// RESET that disclaims any index.
    pub fn disclaim(&mut self, index: SessionIndex) -> Vec<u8> {
        write_reset(&self.keys, index, self.random.bits()).to_vec()
    }

    fn read(&mut self, datagram: &[u8]) -> Option<Heard> {
        match parse(datagram).ok()? {
            Message::Init(init) => {
                let index = SessionIndex::random(0, &mut self.rng);
                let local = Local::new(&self.keys, self.suite, &self.identity, &self.claims, true);
                let (responder, resp) = Responder::accept(&local, &init, index, &mut self.rng).ok()?;
                keep(&mut self.answered, index, responder);
                Some(Heard::Question { resp: resp.into_vec() })
            }
            Message::Resp(resp) => {
                let confirmed = self.asked.get_mut(&resp.receiver)?.handle_resp(&resp).ok()?;
                self.asked.remove(&resp.receiver);
                let (session, peer) = self.establish(confirmed.established);
                Some(Heard::Answer { session, peer, conf: confirmed.conf.to_vec() })
            }
            Message::Conf(conf) => {
                let established = self.answered.remove(&conf.receiver)?.handle_conf(&conf).ok()?;
                let (session, peer) = self.establish(established);
                Some(Heard::Confirmed { session, peer })
            }
            Message::Data(data) => {
                let (_, opener, _) = self.sessions.get_mut(&data.index)?;
                let packet = opener.open(&mut datagram.to_vec()).ok()?.bytes.to_vec();
                Some(Heard::Packet { session: data.index, packet })
            }
            Message::Cookie(_) | Message::Reset(_) => None,
        }
    }

    fn establish(&mut self, established: Established) -> (SessionIndex, PeerId) {
        let Established { peer, sealer, opener, local_index, remote_index, .. } = established;
        keep(&mut self.sessions, local_index, (sealer, opener, remote_index));
        (local_index, peer)
    }
}

impl fmt::Debug for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Liar")
            .field("peer", &self.peer_id())
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}

/// Adds an entry to a table of bounded size; indices are random, so any other one goes.
fn keep<T>(table: &mut BTreeMap<SessionIndex, T>, index: SessionIndex, entry: T) {
    if table.len() >= MOST {
        table.pop_first();
    }
    table.insert(index, entry);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::Tenant;

    #[test]
    fn two_liars_of_a_tenant_have_a_session_and_a_stranger_has_none() {
        let [tenant, other] = [2, 3].map(|first| Tenant::new([1; 16], Random::new(first).bytes()));
        for suite in CipherSuite::ALL {
            let liar = |tenant: &Tenant, seed| Liar::new(tenant.keys.clone(), *suite, &[], seed);
            let (mut a, mut b, mut stranger) = (liar(&tenant, 1), liar(&tenant, 2), liar(&other, 3));
            let init = a.ask([10, 0, 0, 2].into());
            assert_eq!(stranger.hear(&init), Heard::Other);
            let Heard::Question { resp } = b.hear(&init) else { panic!("INIT is answered") };
            let Heard::Answer { session, peer, conf } = a.hear(&resp) else { panic!("RESP is read") };
            assert_eq!(peer, b.peer_id());
            let Heard::Confirmed { session: theirs, peer } = b.hear(&conf) else { panic!("CONF is read") };
            assert_eq!(peer, a.peer_id());
            let record = a.seal(session, b"any bytes");
            assert_eq!(stranger.hear(&record), Heard::Other);
            let packet = b"any bytes".to_vec();
            assert_eq!(b.hear(&record), Heard::Packet { session: theirs, packet });
            assert_eq!(b.hear(&record), Heard::Other, "a replay");
        }
    }
}
