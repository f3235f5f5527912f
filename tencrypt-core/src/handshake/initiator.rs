//! The side that asks.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{Established, HandshakeError, Local, noise::Noise, payload, peer, write_message};
use crate::{
    crypto::{CipherSuite, DEEP, EpochKeys, KemSecret, PeerId, Rng, wipe_stack},
    record::{self, CONF_LEN, IDENTITY_LEN, Resp, SessionIndex},
    session::{DirectionKeys, Opener, Sealer},
};

/// A handshake that awaits its RESP.
pub struct Initiator {
    noise: Noise,
    /// In a hybrid suite.
    kem: Option<KemSecret>,
    keys: Arc<EpochKeys>,
    suite: CipherSuite,
    index: SessionIndex,
    own: PeerId,
    slot: [u8; IDENTITY_LEN],
}

/// Result of a valid RESP: the session, and the CONF that tells the peer of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Confirmed {
    /// The session. The peer has proven its static key and membership.
    pub established: Established,
    /// To be sent before anything is sealed, and repeated unchanged until the peer answers.
    pub conf: [u8; CONF_LEN],
}

impl Initiator {
    /// Starts a handshake under the epoch that is sent. `index` is this side's index of the session, `asked` the address that
    /// INIT goes to. Returns INIT too, to be repeated unchanged.
    #[must_use]
    pub fn start(local: &Local<'_>, index: SessionIndex, asked: IpAddr, rng: &mut Rng) -> (Self, Box<[u8]>) {
        let started = Self::begin(local, index, asked, rng);
        wipe_stack::<DEEP>();
        started
    }

    /// The epoch it is under.
    #[must_use]
    pub fn epoch(&self) -> u8 {
        self.keys.number()
    }

    /// Tells if a RESP was read, well or not: no other one will be.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.noise.remote_static().is_some()
    }

    /// Takes a RESP.
    ///
    /// # Errors
    /// [`HandshakeError`]. A forged RESP ([`Auth`](HandshakeError::Auth), [`LowOrder`](HandshakeError::LowOrder), a
    /// wrong header) changes nothing: the genuine one is still taken. One that a member of the tenant made for this
    /// very INIT and that says something it may not ends the handshake.
    pub fn handle_resp(&mut self, resp: &Resp<'_>) -> Result<Confirmed, HandshakeError> {
        let confirmed = self.confirm(resp);
        wipe_stack::<DEEP>();
        confirmed
    }

    #[inline(never)]
    fn begin(local: &Local<'_>, index: SessionIndex, asked: IpAddr, rng: &mut Rng) -> (Self, Box<[u8]>) {
        let (suite, keys) = (local.suite, Arc::clone(local.keys.sent()));
        let kem = suite.is_hybrid().then(|| KemSecret::generate(rng));
        if kem.is_some() {
            // What is made next on that part of the stack has bytes that it does not use, and moves to the heap with them.
            wipe_stack::<DEEP>();
        }
        let mut noise = local.noise(&keys, |parameters| Noise::initiator(parameters, rng));
        let payload = payload::encode_init(suite, asked, kem.as_ref().map(KemSecret::public).as_ref());
        let mut init = vec![0; suite.init_len()].into_boxed_slice();
        let header = record::init_header(suite, keys.number(), index);
        let written = write_message(&mut init, header, &keys, |out| noise.write(&payload, out));
        let Ok(()) = written else { unreachable!("the first message is written before anything is read") };
        let own = local.identity.peer_id();
        (Self { noise, kem, keys, suite, index, own, slot: local.slot() }, init)
    }

    #[inline(never)]
    fn confirm(&mut self, resp: &Resp<'_>) -> Result<Confirmed, HandshakeError> {
        if resp.suite != self.suite {
            return Err(HandshakeError::OtherSuite);
        }
        if resp.epoch != self.keys.number() {
            return Err(HandshakeError::OtherEpoch);
        }
        if resp.receiver != self.index {
            return Err(HandshakeError::OtherSession);
        }
        let mut payload = vec![0; self.suite.resp_payload_len()];
        self.noise.read(resp.noise, &mut payload)?;
        let (identity, ciphertext) = payload::decode_resp(&payload)?;
        let peer = peer(&self.noise, self.own)?;
        if let Some((kem, ciphertext)) = self.kem.take().zip(ciphertext) {
            self.noise.mix_into_last_psk(&kem.decapsulate(ciphertext));
        }
        let header = record::conf_header(self.suite, self.keys.number(), self.index, resp.sender);
        let mut conf = [0; CONF_LEN];
        write_message(&mut conf, header, &self.keys, |out| self.noise.write(&self.slot, out))?;
        let split = self.noise.split()?;
        let outbound = DirectionKeys::derive(
            self.suite.aead(),
            split.initiator_to_responder.expose(),
            &split.transcript,
        );
        let inbound = DirectionKeys::derive(
            self.suite.aead(),
            split.responder_to_initiator.expose(),
            &split.transcript,
        );
        let established = Established {
            peer,
            identity,
            sealer: Sealer::new(&outbound, resp.sender),
            opener: Opener::new(&inbound),
            local_index: self.index,
            remote_index: resp.sender,
            epoch: self.keys.number(),
            suite: self.suite,
        };
        Ok(Confirmed { established, conf })
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").field("index", &self.index).finish_non_exhaustive()
    }
}
