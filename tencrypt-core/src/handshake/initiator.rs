//! The side that asks.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{Established, HandshakeError, Local, message, noise::Noise, payload, peer};
use crate::{
    crypto::{CipherSuite, EpochKeys, PeerId, Rng},
    record::{self, CONF_LEN, IDENTITY_LEN, INIT_LEN, Resp, SessionIndex},
    session::{DirectionKeys, Opener, Sealer},
};

/// A handshake that awaits its RESP.
pub struct Initiator {
    noise: Noise,
    keys: Arc<EpochKeys>,
    suite: CipherSuite,
    index: SessionIndex,
    own: PeerId,
    slot: [u8; IDENTITY_LEN],
}

/// What a valid RESP makes: the session, and the CONF that tells the peer of it.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "the owner takes it apart")]
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
    pub fn start(
        local: &Local<'_>,
        index: SessionIndex,
        asked: IpAddr,
        rng: &mut Rng,
    ) -> (Self, [u8; INIT_LEN]) {
        let keys = Arc::clone(local.keys.sent());
        let mut noise = local.noise(&keys, |parameters| Noise::initiator(parameters, rng));
        let header = record::init_header(local.suite, keys.number(), index);
        let init = message(header, &keys, |out| noise.write(&payload::encode_asked(asked), out));
        let Ok(init) = init else { unreachable!("the first message is written before anything is read") };
        let own = local.identity.peer_id();
        (Self { noise, keys, suite: local.suite, index, own, slot: local.slot() }, init)
    }

    /// The epoch it is under.
    #[must_use]
    pub fn epoch(&self) -> u8 {
        self.keys.number()
    }

    /// Takes a RESP.
    ///
    /// # Errors
    /// [`HandshakeError`]. A forged RESP ([`Auth`](HandshakeError::Auth), [`LowOrder`](HandshakeError::LowOrder), a
    /// wrong header) changes nothing: the genuine one is still taken. One that a member of the tenant made for this
    /// very INIT and that says something it may not ends the handshake.
    pub fn handle_resp(&mut self, resp: &Resp<'_>) -> Result<Confirmed, HandshakeError> {
        if resp.suite != self.suite {
            return Err(HandshakeError::OtherSuite);
        }
        if resp.epoch != self.keys.number() {
            return Err(HandshakeError::OtherEpoch);
        }
        if resp.receiver != self.index {
            return Err(HandshakeError::OtherSession);
        }
        let mut slot = [0; IDENTITY_LEN];
        self.noise.read(resp.noise, &mut slot)?;
        let identity = payload::decode_identity(&slot)?;
        let peer = peer(&self.noise, self.own)?;
        let header = record::conf_header(self.suite, self.keys.number(), self.index, resp.sender);
        let conf = message(header, &self.keys, |out| self.noise.write(&self.slot, out))?;
        let split = self.noise.split()?;
        let outbound =
            DirectionKeys::derive(self.suite, split.initiator_to_responder.expose(), &split.transcript);
        let inbound =
            DirectionKeys::derive(self.suite, split.responder_to_initiator.expose(), &split.transcript);
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
