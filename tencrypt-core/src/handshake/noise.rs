//! The Noise handshake: one pattern of the Noise Protocol Framework, revision 34, whose section numbers the comments
//! give.
//!
//! ```text
//! XXpsk0+psk3:
//!   -> psk, e
//!   <- e, ee, s, es
//!   -> s, se, psk
//! ```
//!
//! All that is secret lives in one allocation and is erased with it. A message that does not decrypt changes nothing:
//! it is read into a spare state, which takes the other's place at the end.

use std::fmt;

use zeroize::Zeroizing;

use super::HandshakeError;
use crate::{
    crypto::{
        Backend, HASH_LEN, KEY_LEN, NONCE_LEN, OpeningKey, Rng, SealingKey, Secret, X25519_LEN, hkdf_sha256,
        public_key, sha256, shared_secret,
    },
    record::{Aead, TAG_LEN},
};

/// One side of a Noise handshake.
pub(super) struct Noise(Box<State>);

/// Inputs that both sides need to start the same handshake.
pub(super) struct Parameters<'a> {
    pub(super) aead: Aead,
    /// Used at both places of the pattern.
    pub(super) psk: &'a [u8; KEY_LEN],
    pub(super) prologue: &'a [u8],
    /// This side's static secret.
    pub(super) secret: &'a [u8; X25519_LEN],
    /// Its public key, which need not be computed anew in every handshake.
    pub(super) public: [u8; X25519_LEN],
}

/// Result of a finished handshake.
pub(super) struct Split {
    pub(super) initiator_to_responder: Secret<KEY_LEN>,
    pub(super) responder_to_initiator: Secret<KEY_LEN>,
    /// The hash of all that was said.
    pub(super) transcript: [u8; HASH_LEN],
}

impl Noise {
    pub(super) fn initiator(parameters: &Parameters<'_>, rng: &mut Rng) -> Self {
        Self::new(parameters, Role::Initiator, |ephemeral| rng.fill(ephemeral))
    }

    pub(super) fn responder(parameters: &Parameters<'_>, rng: &mut Rng) -> Self {
        Self::new(parameters, Role::Responder, |ephemeral| rng.fill(ephemeral))
    }

    /// Writes this side's next message, which fills `out`.
    ///
    /// # Errors
    /// [`HandshakeError::LowOrder`] if the peer's key has no secret to share, which ends the handshake;
    /// [`HandshakeError::Spent`] out of turn.
    ///
    /// # Panics
    /// If `out` is not as long as the message.
    pub(super) fn write(&mut self, payload: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        let state = &mut *self.0;
        let written = match (state.role, state.turn) {
            (Role::Initiator, Turn::First) => state.write_first(payload, out),
            (Role::Responder, Turn::Second) => state.write_second(payload, out),
            (Role::Initiator, Turn::Third) => state.write_third(payload, out),
            _ => return Err(HandshakeError::Spent),
        };
        state.turn = if written.is_ok() { state.turn.next() } else { Turn::Failed };
        written
    }

    /// Reads the peer's next message, whose payload fills `payload`.
    ///
    /// # Errors
    /// [`HandshakeError::Auth`] if it does not decrypt, [`HandshakeError::LowOrder`] as for
    /// [`write`](Self::write), [`HandshakeError::Spent`] out of turn. The genuine message can still be read then.
    pub(super) fn read(&mut self, message: &[u8], payload: &mut [u8]) -> Result<(), HandshakeError> {
        let state = &mut *self.0;
        state.spare.copy_from(&state.symmetric);
        match (state.role, state.turn) {
            (Role::Responder, Turn::First) => state.read_first(message, payload)?,
            (Role::Initiator, Turn::Second) => state.read_second(message, payload)?,
            (Role::Responder, Turn::Third) => state.read_third(message, payload)?,
            _ => return Err(HandshakeError::Spent),
        }
        std::mem::swap(&mut state.symmetric, &mut state.spare);
        state.turn = state.turn.next();
        Ok(())
    }

    /// Makes the "psk" of the third message depend on a secret from elsewhere too, and on all that was said so far. Both
    /// sides do so between the second message and the third.
    pub(super) fn mix_into_last_psk(&mut self, shared: &Secret<32>) {
        let State { last_psk, symmetric, .. } = &mut *self.0;
        let mut psk = Zeroizing::new([0; KEY_LEN]);
        hkdf_sha256(last_psk.expose(), shared.expose(), &[b"tencrypt v1 hybrid", &symmetric.hash], &mut *psk);
        last_psk.set(&psk);
    }

    /// The peer's static key, once a message with it was read.
    pub(super) fn remote_static(&self) -> Option<[u8; X25519_LEN]> {
        self.0.remote_static
    }

    /// Keys and transcript, once the third message was written or read.
    pub(super) fn split(&self) -> Result<Split, HandshakeError> {
        if self.0.turn != Turn::Done {
            return Err(HandshakeError::Spent);
        }
        Ok(self.0.symmetric.split())
    }

    fn new(
        parameters: &Parameters<'_>,
        role: Role,
        fill_ephemeral: impl FnOnce(&mut [u8; X25519_LEN]),
    ) -> Self {
        let mut symmetric = Symmetric::new(parameters.aead, parameters.prologue);
        // The first message begins with "psk", which waits for nothing.
        symmetric.mix_key_and_hash(parameters.psk);
        Self(Box::new(State {
            role,
            turn: Turn::First,
            spare: Symmetric::new(parameters.aead, &[]),
            symmetric,
            last_psk: Secret::filled(|psk| *psk = *parameters.psk),
            secret: Secret::filled(|secret| *secret = *parameters.secret),
            public: parameters.public,
            ephemeral: Secret::filled(fill_ephemeral),
            remote_ephemeral: [0; X25519_LEN],
            remote_static: None,
        }))
    }
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Noise(..)")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Initiator,
    Responder,
}

/// The message that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
    Third,
    Done,
    Failed,
}

impl Turn {
    fn next(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::Third,
            Self::Third => Self::Done,
            Self::Done | Self::Failed => Self::Failed,
        }
    }
}

/// "HandshakeState" (section 5.3).
struct State {
    role: Role,
    turn: Turn,
    symmetric: Symmetric,
    /// State that the peer's next message is read into.
    spare: Symmetric,
    /// For the "psk" of the third message.
    last_psk: Secret<KEY_LEN>,
    secret: Secret<X25519_LEN>,
    public: [u8; X25519_LEN],
    ephemeral: Secret<X25519_LEN>,
    remote_ephemeral: [u8; X25519_LEN],
    remote_static: Option<[u8; X25519_LEN]>,
}

impl State {
    /// `-> psk, e`
    fn write_first(&mut self, payload: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        let (ephemeral, sealed) = out.split_at_mut(X25519_LEN);
        ephemeral.copy_from_slice(&public_key(self.ephemeral.expose()));
        self.symmetric.mix_ephemeral(ephemeral);
        self.symmetric.encrypt_and_hash(payload, sealed);
        Ok(())
    }

    fn read_first(&mut self, message: &[u8], payload: &mut [u8]) -> Result<(), HandshakeError> {
        let (ephemeral, sealed) = message.split_first_chunk().ok_or(HandshakeError::Auth)?;
        self.spare.mix_ephemeral(ephemeral);
        self.spare.decrypt_and_hash(sealed, payload)?;
        self.remote_ephemeral = *ephemeral;
        Ok(())
    }

    /// `<- e, ee, s, es`
    fn write_second(&mut self, payload: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        let (ephemeral, rest) = out.split_at_mut(X25519_LEN);
        ephemeral.copy_from_slice(&public_key(self.ephemeral.expose()));
        self.symmetric.mix_ephemeral(ephemeral);
        self.symmetric.mix_dh(&self.ephemeral, &self.remote_ephemeral)?;
        let (public, sealed) = rest.split_at_mut(X25519_LEN + TAG_LEN);
        self.symmetric.encrypt_and_hash(&self.public, public);
        self.symmetric.mix_dh(&self.secret, &self.remote_ephemeral)?;
        self.symmetric.encrypt_and_hash(payload, sealed);
        Ok(())
    }

    fn read_second(&mut self, message: &[u8], payload: &mut [u8]) -> Result<(), HandshakeError> {
        let (ephemeral, rest) = message.split_first_chunk().ok_or(HandshakeError::Auth)?;
        self.spare.mix_ephemeral(ephemeral);
        self.spare.mix_dh(&self.ephemeral, ephemeral)?;
        let (public, sealed) = rest.split_at_checked(X25519_LEN + TAG_LEN).ok_or(HandshakeError::Auth)?;
        let mut remote = [0; X25519_LEN];
        self.spare.decrypt_and_hash(public, &mut remote)?;
        self.spare.mix_dh(&self.ephemeral, &remote)?;
        self.spare.decrypt_and_hash(sealed, payload)?;
        (self.remote_ephemeral, self.remote_static) = (*ephemeral, Some(remote));
        Ok(())
    }

    /// `-> s, se, psk`
    fn write_third(&mut self, payload: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        let (public, sealed) = out.split_at_mut(X25519_LEN + TAG_LEN);
        self.symmetric.encrypt_and_hash(&self.public, public);
        self.symmetric.mix_dh(&self.secret, &self.remote_ephemeral)?;
        self.symmetric.mix_key_and_hash(self.last_psk.expose());
        self.symmetric.encrypt_and_hash(payload, sealed);
        Ok(())
    }

    fn read_third(&mut self, message: &[u8], payload: &mut [u8]) -> Result<(), HandshakeError> {
        let (public, sealed) = message.split_at_checked(X25519_LEN + TAG_LEN).ok_or(HandshakeError::Auth)?;
        let mut remote = [0; X25519_LEN];
        self.spare.decrypt_and_hash(public, &mut remote)?;
        self.spare.mix_dh(&self.ephemeral, &remote)?;
        self.spare.mix_key_and_hash(self.last_psk.expose());
        self.spare.decrypt_and_hash(sealed, payload)?;
        self.remote_static = Some(remote);
        Ok(())
    }
}

/// "SymmetricState" with its "CipherState" (sections 5.1 and 5.2). There is always a key: "psk" comes first.
struct Symmetric {
    aead: Aead,
    chaining_key: Secret<HASH_LEN>,
    key: Secret<KEY_LEN>,
    hash: [u8; HASH_LEN],
    counter: u64,
}

impl Symmetric {
    fn new(aead: Aead, prologue: &[u8]) -> Self {
        // The name is longer than a hash, so it is hashed.
        let name = sha256(&[protocol_name(aead).as_bytes()]);
        Self {
            aead,
            chaining_key: Secret::filled(|key| *key = name),
            key: Secret::filled(|_| {}),
            hash: sha256(&[&name, prologue]),
            counter: 0,
        }
    }

    fn copy_from(&mut self, other: &Self) {
        self.chaining_key.set(other.chaining_key.expose());
        self.key.set(other.key.expose());
        (self.hash, self.counter) = (other.hash, other.counter);
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = sha256(&[&self.hash, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        self.expand(input, |[chaining_key, key]: &[[u8; HASH_LEN]; 2], state| {
            state.chaining_key.set(chaining_key);
            state.key.set(key);
        });
    }

    /// Section 9.1.
    fn mix_key_and_hash(&mut self, input: &[u8]) {
        self.expand(input, |[chaining_key, hashed, key]: &[[u8; HASH_LEN]; 3], state| {
            state.chaining_key.set(chaining_key);
            state.mix_hash(hashed);
            state.key.set(key);
        });
    }

    /// "e", which is mixed into the key too where there are pre-shared keys (section 9.2).
    fn mix_ephemeral(&mut self, public: &[u8]) {
        self.mix_hash(public);
        self.mix_key(public);
    }

    fn mix_dh(
        &mut self,
        secret: &Secret<X25519_LEN>,
        public: &[u8; X25519_LEN],
    ) -> Result<(), HandshakeError> {
        let shared = shared_secret(secret.expose(), public).ok_or(HandshakeError::LowOrder)?;
        self.mix_key(shared.expose());
        Ok(())
    }

    /// `out` is longer than `plain` by a tag.
    fn encrypt_and_hash(&mut self, plain: &[u8], out: &mut [u8]) {
        let key = SealingKey::new(Backend::for_handshakes(), self.aead, self.key.expose());
        key.seal(self.nonce(), &self.hash, plain, out);
        self.counter += 1;
        self.mix_hash(out);
    }

    fn decrypt_and_hash(&mut self, sealed: &[u8], out: &mut [u8]) -> Result<(), HandshakeError> {
        let mut buffer = sealed.to_vec();
        let key = OpeningKey::new(Backend::for_handshakes(), self.aead, self.key.expose());
        let plain = key.open(self.nonce(), &self.hash, &mut buffer).map_err(|_| HandshakeError::Auth)?;
        if plain.len() != out.len() {
            return Err(HandshakeError::Auth);
        }
        out.copy_from_slice(plain);
        self.counter += 1;
        self.mix_hash(sealed);
        Ok(())
    }

    /// Sections 12.3 and 12.4: 32 zero bits, then the counter, which AES-GCM takes big endian and ChaCha20-Poly1305
    /// little endian.
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&match self.aead {
            Aead::Aes256Gcm => self.counter.to_be_bytes(),
            Aead::ChaCha20Poly1305 => self.counter.to_le_bytes(),
        });
        nonce
    }

    fn split(&self) -> Split {
        let mut keys = Zeroizing::new([[0; KEY_LEN]; 2]);
        hkdf_sha256(self.chaining_key.expose(), &[], &[], keys.as_flattened_mut());
        Split {
            initiator_to_responder: Secret::filled(|key| *key = keys[0]),
            responder_to_initiator: Secret::filled(|key| *key = keys[1]),
            transcript: self.hash,
        }
    }

    /// "HKDF" (section 4.3), which is RFC 5869's with the chaining key as salt and nothing as info. A new key starts at
    /// nonce 0.
    fn expand<const N: usize>(&mut self, input: &[u8], take: impl FnOnce(&[[u8; HASH_LEN]; N], &mut Self)) {
        let mut outputs = Zeroizing::new([[0; HASH_LEN]; N]);
        hkdf_sha256(self.chaining_key.expose(), input, &[], outputs.as_flattened_mut());
        take(&outputs, self);
        self.counter = 0;
    }
}

/// The full name of the protocol, which is the first thing hashed.
const fn protocol_name(aead: Aead) -> &'static str {
    match aead {
        Aead::Aes256Gcm => "Noise_XXpsk0+psk3_25519_AESGCM_SHA256",
        Aead::ChaCha20Poly1305 => "Noise_XXpsk0+psk3_25519_ChaChaPoly_SHA256",
    }
}

#[cfg(test)]
#[path = "tests/noise_oracle.rs"]
mod oracle;
#[cfg(test)]
#[path = "tests/noise_spec.rs"]
mod spec;
#[cfg(test)]
#[path = "tests/noise.rs"]
mod tests;
