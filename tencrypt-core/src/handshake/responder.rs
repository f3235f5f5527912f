//! The side that answers.

use std::{fmt, net::IpAddr};

use super::{Established, HandshakeError, Local, noise::Noise, payload, peer, write_message};
use crate::{
    crypto::{CipherSuite, DEEP, PeerId, Rng, encapsulate, wipe_stack},
    record::{self, Conf, IDENTITY_LEN, Init, SessionIndex},
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
    ) -> Result<(Self, Box<[u8]>), HandshakeError> {
        let accepted = Self::answer(local, init, index, rng);
        wipe_stack::<DEEP>();
        accepted
    }

    #[inline(never)]
    fn answer(
        local: &Local<'_>,
        init: &Init<'_>,
        index: SessionIndex,
        rng: &mut Rng,
    ) -> Result<(Self, Box<[u8]>), HandshakeError> {
        if init.suite != local.suite {
            return Err(HandshakeError::OtherSuite);
        }
        let keys = local.keys.epoch(init.epoch).ok_or(HandshakeError::OtherEpoch)?;
        let mut noise = local.noise(keys, |parameters| Noise::responder(parameters, rng));
        let mut payload = vec![0; local.suite.init_payload_len()];
        noise.read(init.noise, &mut payload)?;
        let (asked, kem) = payload::decode_init(local.suite, &payload)?;
        let encapsulated =
            kem.map(|public| encapsulate(public, rng).ok_or(HandshakeError::Payload)).transpose()?;
        let (ciphertext, shared) = encapsulated.unzip();
        let payload = payload::encode_resp(&local.slot(), ciphertext.as_ref());
        let mut resp = vec![0; local.suite.resp_len()].into_boxed_slice();
        let header = record::resp_header(local.suite, init.epoch, index, init.sender);
        write_message(&mut resp, header, keys, |out| noise.write(&payload, out))?;
        if let Some(shared) = shared {
            noise.mix_into_last_psk(&shared);
        }
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

    /// Takes CONF, and with it the handshake ends, well or not: only a member of the tenant can make one that has a right
    /// mac1 and does not decrypt.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn handle_conf(self, conf: &Conf<'_>) -> Result<Established, HandshakeError> {
        let established = self.establish(conf);
        wipe_stack::<DEEP>();
        established
    }

    #[inline(never)]
    fn establish(mut self, conf: &Conf<'_>) -> Result<Established, HandshakeError> {
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
        let inbound = DirectionKeys::derive(
            self.suite.aead(),
            split.initiator_to_responder.expose(),
            &split.transcript,
        );
        let outbound = DirectionKeys::derive(
            self.suite.aead(),
            split.responder_to_initiator.expose(),
            &split.transcript,
        );
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
