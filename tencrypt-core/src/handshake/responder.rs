//! The side that answers.

use std::{fmt, net::IpAddr};

use super::{Established, HandshakeError, Local, message, noise::Noise, payload, peer};
use crate::{
    crypto::{CipherSuite, PeerId, Rng},
    record::{self, Conf, IDENTITY_LEN, INIT_PAYLOAD_LEN, Init, RESP_LEN, SessionIndex},
    session::{DirectionKeys, Opener, Sealer},
};

/// A handshake that was answered and awaits its CONF.
pub struct Responder {
    noise: Noise,
    suite: CipherSuite,
    epoch: u8,
    index: SessionIndex,
    remote: SessionIndex,
    asked: IpAddr,
    own: PeerId,
}

impl Responder {
    /// Answers an INIT whose mac1 was verified. `index` is this side's index of the session. Returns RESP too, to be
    /// repeated unchanged.
    ///
    /// # Errors
    /// [`HandshakeError`]; nothing is kept.
    pub fn accept(
        local: &Local<'_>,
        init: &Init<'_>,
        index: SessionIndex,
        rng: &mut Rng,
    ) -> Result<(Self, [u8; RESP_LEN]), HandshakeError> {
        if init.suite != local.suite {
            return Err(HandshakeError::OtherSuite);
        }
        let keys = local.keys.epoch(init.epoch).ok_or(HandshakeError::OtherEpoch)?;
        let mut noise = local.noise(keys, |parameters| Noise::responder(parameters, rng));
        let mut payload = [0; INIT_PAYLOAD_LEN];
        noise.read(init.noise, &mut payload)?;
        let asked = payload::decode_asked(&payload)?;
        let header = record::resp_header(local.suite, init.epoch, index, init.sender);
        let resp = message(header, keys, |out| noise.write(&local.slot(), out))?;
        let responder = Self {
            noise,
            suite: local.suite,
            epoch: init.epoch,
            index,
            remote: init.sender,
            asked,
            own: local.identity.peer_id(),
        };
        Ok((responder, resp))
    }

    /// The address that the initiator sent INIT to: this pod's, or a VIP that led here.
    #[must_use]
    pub fn asked(&self) -> IpAddr {
        self.asked
    }

    /// The epoch of its INIT.
    #[must_use]
    pub fn epoch(&self) -> u8 {
        self.epoch
    }

    /// Takes CONF, and with it the handshake ends, well or not: a CONF with a forged payload spoils its state, so a
    /// second one is not tried.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn handle_conf(mut self, conf: &Conf<'_>) -> Result<Established, HandshakeError> {
        if conf.suite != self.suite {
            return Err(HandshakeError::OtherSuite);
        }
        if conf.epoch != self.epoch {
            return Err(HandshakeError::OtherEpoch);
        }
        if conf.receiver != self.index || conf.sender != self.remote {
            return Err(HandshakeError::OtherSession);
        }
        let mut slot = [0; IDENTITY_LEN];
        self.noise.read(conf.noise, &mut slot)?;
        let identity = payload::decode_identity(&slot)?;
        let peer = peer(&self.noise, self.own)?;
        let split = self.noise.split()?;
        let inbound =
            DirectionKeys::derive(self.suite, split.initiator_to_responder.expose(), &split.transcript);
        let outbound =
            DirectionKeys::derive(self.suite, split.responder_to_initiator.expose(), &split.transcript);
        Ok(Established {
            peer,
            identity,
            sealer: Sealer::new(&outbound, self.remote),
            opener: Opener::new(&inbound),
            local_index: self.index,
            remote_index: self.remote,
            epoch: self.epoch,
            suite: self.suite,
        })
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("index", &self.index)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}
