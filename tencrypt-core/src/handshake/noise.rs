//! The Noise handshake. The only file that names `snow`, so that it can be replaced.
//!
//! `snow` computes nothing itself here: the resolver below gives it the same RustCrypto and dalek crates that the rest
//! uses, randomness from an [`Rng`], and a Diffie-Hellman that refuses points of low order.
//!
//! Known of `snow` 0.10: its own state (chaining key, hash, pre-shared key) is not erased on drop; a third message with
//! an intact static key and a forged payload spoils the state it is read into, so after a failed read of that one the
//! handshake is thrown away.

use std::fmt;

use aead::{
    AeadCore, AeadInOut, KeyInit, KeySizeUser,
    consts::{U12, U16, U32},
    inout::InOutBuf,
};
use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;
use sha2::{Digest, Sha256};
use snow::{
    Builder, Error, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use super::HandshakeError;
use crate::{
    crypto::{HASH_LEN, KEY_LEN, NONCE_LEN, Rng, Secret, Seed, X25519_LEN, public_key, shared_secret},
    record::{CipherSuite, TAG_LEN},
};

/// One side of a Noise handshake.
pub(super) struct Noise(Box<HandshakeState>);

/// What both sides need to start the same handshake.
pub(super) struct Parameters<'a> {
    pub(super) suite: CipherSuite,
    /// Used at both places of the pattern.
    pub(super) psk: &'a [u8; KEY_LEN],
    pub(super) prologue: &'a [u8],
    /// This side's static secret.
    pub(super) secret: &'a [u8; X25519_LEN],
    /// Its public key, which need not be computed anew in every handshake.
    pub(super) public: [u8; X25519_LEN],
}

/// What a finished handshake leaves.
pub(super) struct Split {
    pub(super) initiator_to_responder: Zeroizing<[u8; KEY_LEN]>,
    pub(super) responder_to_initiator: Zeroizing<[u8; KEY_LEN]>,
    /// The hash of all that was said.
    pub(super) transcript: [u8; HASH_LEN],
}

impl Noise {
    pub(super) fn initiator(parameters: &Parameters<'_>, rng: &mut Rng) -> Self {
        Self::from_builder(|builder| builder.build_initiator(), parameters, rng)
    }

    pub(super) fn responder(parameters: &Parameters<'_>, rng: &mut Rng) -> Self {
        Self::from_builder(|builder| builder.build_responder(), parameters, rng)
    }

    /// Writes this side's next message, which fills `out`.
    ///
    /// # Errors
    /// [`HandshakeError::LowOrder`] if the peer's key has no secret to share; [`HandshakeError::Spent`] out of turn.
    pub(super) fn write(&mut self, payload: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        let written = self.0.write_message(payload, out).map_err(HandshakeError::from)?;
        debug_assert_eq!(written, out.len(), "message lengths are fixed");
        Ok(())
    }

    /// Reads the peer's next message, whose payload fills `payload`.
    ///
    /// # Errors
    /// [`HandshakeError::Auth`] if it does not decrypt, [`HandshakeError::LowOrder`] as for
    /// [`write`](Self::write), [`HandshakeError::Spent`] out of turn. After a failed first or second message the
    /// genuine one can still be read; after a failed third one nothing can.
    pub(super) fn read(&mut self, message: &[u8], payload: &mut [u8]) -> Result<(), HandshakeError> {
        let read = self.0.read_message(message, payload).map_err(HandshakeError::from)?;
        debug_assert_eq!(read, payload.len(), "message lengths are fixed");
        Ok(())
    }

    /// The peer's static key, once a message with it was read.
    pub(super) fn remote_static(&self) -> Option<[u8; X25519_LEN]> {
        self.0.get_remote_static()?.first_chunk().copied()
    }

    /// Keys and transcript, once the third message was written or read.
    pub(super) fn split(&mut self) -> Result<Split, HandshakeError> {
        if !self.0.is_handshake_finished() {
            return Err(HandshakeError::Spent);
        }
        let transcript = *self.0.get_handshake_hash().first_chunk().ok_or(HandshakeError::Spent)?;
        let (initiator_to_responder, responder_to_initiator) = self.0.dangerously_get_raw_split();
        Ok(Split {
            initiator_to_responder: Zeroizing::new(initiator_to_responder),
            responder_to_initiator: Zeroizing::new(responder_to_initiator),
            transcript,
        })
    }

    fn from_builder(
        build: impl FnOnce(Builder<'_>) -> Result<HandshakeState, Error>,
        parameters: &Parameters<'_>,
        rng: &mut Rng,
    ) -> Self {
        let resolver = Resolver { seed: rng.fork(), public: Some(parameters.public) };
        let state = params(parameters.suite)
            .and_then(|params| {
                Builder::with_resolver(params, Box::new(resolver))
                    .prologue(parameters.prologue)?
                    .psk(0, parameters.psk)?
                    .psk(3, parameters.psk)?
                    .local_private_key(parameters.secret)
            })
            .and_then(build);
        match state {
            Ok(state) => Self(Box::new(state)),
            // No input of anybody's gets here: the pattern is a constant, the keys have their lengths by type.
            Err(error) => unreachable!("the Noise pattern cannot be set up: {error}"),
        }
    }
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noise(..)")
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Dh => Self::LowOrder,
            Error::State(_) => Self::Spent,
            _ => Self::Auth,
        }
    }
}

/// The full name of the protocol, which is the first thing hashed.
const fn protocol_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::Aes256Gcm => "Noise_XXpsk0+psk3_25519_AESGCM_SHA256",
        CipherSuite::ChaCha20Poly1305 => "Noise_XXpsk0+psk3_25519_ChaChaPoly_SHA256",
    }
}

fn params(suite: CipherSuite) -> Result<NoiseParams, Error> {
    protocol_name(suite).parse()
}

struct Resolver {
    seed: Seed,
    /// The public key of the secret that will be set, the static one: ephemeral ones are generated.
    public: Option<[u8; X25519_LEN]>,
}

impl CryptoResolver for Resolver {
    /// Asked once a handshake: twice would give the same randomness twice.
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Randomness(Rng::new(Seed::from_bytes(*self.seed.expose())))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519 { known: self.public, ..X25519::default() })),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(NoiseHash::default())),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => Some(Box::new(AesGcm::default())),
            CipherChoice::ChaChaPoly => Some(Box::new(ChaChaPoly::default())),
            #[expect(unreachable_patterns, reason = "other features of snow add choices")]
            _ => None,
        }
    }
}

struct Randomness(Rng);

impl Random for Randomness {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.0.fill(out);
        Ok(())
    }
}

#[derive(Default)]
struct X25519 {
    secret: Zeroizing<[u8; X25519_LEN]>,
    public: [u8; X25519_LEN],
    /// The public key of the secret that will be set, if it is known.
    known: Option<[u8; X25519_LEN]>,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        X25519_LEN
    }

    fn priv_len(&self) -> usize {
        X25519_LEN
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.public = self.known.unwrap_or_else(|| public_key(&self.secret));
        debug_assert_eq!(self.public, public_key(&self.secret), "the identity's own");
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        rng.try_fill_bytes(&mut *self.secret)?;
        self.public = public_key(&self.secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = public.first_chunk().ok_or(Error::Dh)?;
        let shared: Secret<X25519_LEN> = shared_secret(&self.secret, public).ok_or(Error::Dh)?;
        out.get_mut(..X25519_LEN).ok_or(Error::Dh)?.copy_from_slice(shared.expose());
        Ok(())
    }
}

#[derive(Default)]
struct NoiseHash(Sha256);

impl Hash for NoiseHash {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        HASH_LEN
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..HASH_LEN].copy_from_slice(&self.0.finalize_reset());
    }
}

/// Noise "AESGCM": 32 zero bits, then the counter, big endian (Noise specification, section 12.4).
type AesGcm = NoiseCipher<Aes256Gcm, true>;
/// Noise "ChaChaPoly": 32 zero bits, then the counter, little endian (section 12.3).
type ChaChaPoly = NoiseCipher<ChaCha20Poly1305, false>;

struct NoiseCipher<A, const BIG_ENDIAN: bool>(Option<Box<A>>);

impl<A, const BIG_ENDIAN: bool> Default for NoiseCipher<A, BIG_ENDIAN> {
    fn default() -> Self {
        Self(None)
    }
}

impl<A, const BIG_ENDIAN: bool> NoiseCipher<A, BIG_ENDIAN> {
    fn nonce(counter: u64) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&if BIG_ENDIAN { counter.to_be_bytes() } else { counter.to_le_bytes() });
        nonce
    }
}

impl<A, const BIG_ENDIAN: bool> Cipher for NoiseCipher<A, BIG_ENDIAN>
where
    A: AeadInOut
        + KeyInit
        + AeadCore<NonceSize = U12, TagSize = U16>
        + KeySizeUser<KeySize = U32>
        + Send
        + Sync,
{
    fn name(&self) -> &'static str {
        if BIG_ENDIAN { "AESGCM" } else { "ChaChaPoly" }
    }

    fn set(&mut self, key: &[u8; KEY_LEN]) {
        self.0 = Some(Box::new(A::new(key.into())));
    }

    fn encrypt(&self, counter: u64, aad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plain.len());
        let tag = self.0.as_ref().and_then(|key| {
            let buffer = InOutBuf::new(plain, text).ok()?;
            key.encrypt_inout_detached(&Self::nonce(counter).into(), aad, buffer).ok()
        });
        match tag {
            Some(tag) => rest[..TAG_LEN].copy_from_slice(&tag),
            // snow sets the key first, and handshake messages are some hundred bytes.
            None => unreachable!("a handshake message cannot be encrypted"),
        }
        plain.len() + TAG_LEN
    }

    fn decrypt(&self, counter: u64, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (text, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..text.len()).ok_or(Error::Decrypt)?;
        let buffer = InOutBuf::new(text, out).map_err(|_| Error::Decrypt)?;
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        key.decrypt_inout_detached(&Self::nonce(counter).into(), aad, buffer, tag.into())
            .map_err(|_| Error::Decrypt)?;
        Ok(text.len())
    }
}

#[cfg(test)]
#[path = "noise_spec.rs"]
mod spec;
#[cfg(test)]
#[path = "noise_tests.rs"]
mod tests;
