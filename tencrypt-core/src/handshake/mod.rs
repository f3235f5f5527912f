//! The handshake: Noise messages in and out, identities, and what a session starts from.
//!
//! `Noise_XXpsk0+psk3_25519_{AESGCM,ChaChaPoly}_SHA256`: three messages, each side's static key encrypted, the tenant's
//! key mixed in at the beginning, so that an answer to INIT proves membership, and at the end. In a hybrid suite INIT holds
//! an ML-KEM-768 key and RESP a ciphertext for it, whose secret goes into the tenant's key at the end.
//! docs/wire-format.md has the bytes.
//!
//! No clock and no table is here: repeats, half-open handshakes and their bounds are the
//! [`Tunnel`](crate::Tunnel)'s. Call [`verify_mac1`] on a datagram before any of the other functions: it costs one
//! HMAC, they cost Diffie-Hellman.

mod cookie;
mod error;
mod initiator;
mod noise;
mod payload;
mod reset;
mod responder;

use std::net::IpAddr;

pub(crate) use cookie::{CookieBytes, CookieSecret, has_mac2, read_cookie, set_mac2, write_cookie};
pub use error::HandshakeError;
pub use initiator::{Confirmed, Initiator};
use noise::{Noise, Parameters};
pub use payload::PeerIdentity;
pub(crate) use reset::verify_reset;
pub use reset::write_reset;
pub use responder::Responder;

use crate::{
    crypto::{CipherSuite, EpochKeys, Identity, KeyRing, PeerId, TENANT_LEN},
    record::{self, HANDSHAKE_HEADER_LEN, MAC_LEN, SessionIndex, VERSION},
    session::{Opener, Sealer},
    stats::DropReason,
    trust::Certificate,
};

/// Checks mac1 of a handshake datagram, in constant time: whether a member of the tenant made it, or somebody
/// repeated it.
///
/// # Errors
/// [`DropReason::Malformed`]: no handshake datagram; [`DropReason::OtherEpoch`]: of an epoch whose keys are not
/// here; [`DropReason::Mac1`]: an outsider's.
pub fn verify_mac1(keys: &KeyRing, datagram: &[u8]) -> Result<(), DropReason> {
    let (epoch, covered, mac1) = record::covered_by_mac1(datagram).ok_or(DropReason::Malformed)?;
    let keys = keys.epoch(epoch).ok_or(DropReason::OtherEpoch)?;
    if keys.verify_mac1(covered, mac1) { Ok(()) } else { Err(DropReason::Mac1) }
}

/// This side of a handshake: what it has and what it says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    keys: &'a KeyRing,
    suite: CipherSuite,
    identity: &'a Identity,
    addresses: &'a [IpAddr],
    vnet: bool,
    certificate: Option<&'a Certificate>,
}

impl<'a> Local<'a> {
    /// A side with these keys, suite and identity. The peer is told the first 7 of `addresses` that a
    /// pod may have, and whether the device takes unfinished checksums.
    #[must_use]
    pub fn new(
        keys: &'a KeyRing,
        suite: CipherSuite,
        identity: &'a Identity,
        addresses: &'a [IpAddr],
        vnet: bool,
    ) -> Self {
        Self { keys, suite, identity, addresses, vnet, certificate: None }
    }

    /// The same side, which presents a certificate in place of its addresses.
    #[must_use]
    pub fn presenting(self, certificate: Option<&'a Certificate>) -> Self {
        Self { certificate, ..self }
    }

    fn slot(&self) -> [u8; record::IDENTITY_LEN] {
        match self.certificate {
            Some(certificate) => certificate.encode(self.vnet),
            None => payload::encode_identity(self.vnet, self.addresses),
        }
    }

    /// Calls `start` with what Noise needs to begin under the keys of an epoch.
    fn noise(&self, keys: &EpochKeys, start: impl FnOnce(&Parameters<'_>) -> Noise) -> Noise {
        let prologue = prologue(self.suite, keys.number(), self.keys.tenant_id());
        start(&Parameters {
            aead: self.suite.aead(),
            psk: keys.psk(),
            prologue: &prologue,
            secret: self.identity.secret(),
            public: *self.identity.peer_id().as_bytes(),
        })
    }
}

/// Result of a completed handshake.
#[derive(Debug)]
#[non_exhaustive]
pub struct Established {
    /// The peer, proven to hold this key.
    pub peer: PeerId,
    /// Statements of the peer about itself.
    pub identity: PeerIdentity,
    /// Seals for the peer.
    pub sealer: Sealer,
    /// Opens what the peer sealed.
    pub opener: Opener,
    /// This side's index of the session.
    pub local_index: SessionIndex,
    /// The peer's index of it.
    pub remote_index: SessionIndex,
    /// The epoch of the tenant key it was made under.
    pub epoch: u8,
    /// The session's suite.
    pub suite: CipherSuite,
}

/// Bytes that both sides hash before the first message: version, suite, epoch, tenant id.
fn prologue(suite: CipherSuite, epoch: u8, tenant: &[u8; TENANT_LEN]) -> [u8; 3 + TENANT_LEN] {
    let mut prologue = [0; 3 + TENANT_LEN];
    prologue[..3].copy_from_slice(&[VERSION, suite.wire_byte(), epoch]);
    prologue[3..].copy_from_slice(tenant);
    prologue
}

/// Fills `bytes` with a message: header, what `write` makes of the Noise part, mac1, and a mac2 of zeros.
fn write_message(
    bytes: &mut [u8],
    header: [u8; HANDSHAKE_HEADER_LEN],
    keys: &EpochKeys,
    write: impl FnOnce(&mut [u8]) -> Result<(), HandshakeError>,
) -> Result<(), HandshakeError> {
    let (covered, macs) = bytes.split_at_mut(bytes.len() - 2 * MAC_LEN);
    let (head, noise) = covered.split_at_mut(HANDSHAKE_HEADER_LEN);
    head.copy_from_slice(&header);
    write(noise)?;
    macs[..MAC_LEN].copy_from_slice(&keys.mac1(covered));
    macs[MAC_LEN..].fill(0);
    Ok(())
}

/// The peer behind a finished Noise handshake.
fn peer(noise: &Noise, own: PeerId) -> Result<PeerId, HandshakeError> {
    let peer = PeerId::from_bytes(noise.remote_static().ok_or(HandshakeError::Spent)?);
    if peer == own { Err(HandshakeError::OwnKey) } else { Ok(peer) }
}

#[cfg(test)]
mod tests;
