//! A member of the tenant with a program of its own: it has the tenant's root key and a static key, makes messages from
//! docs/wire-format.md and with another Noise library, and puts into them what it likes.

use std::cell::Cell;

use hmac::{Hmac, KeyInit, Mac};
use ml_kem::{
    B32, Seed as KeySeed,
    kem::{Decapsulate, KeyExport},
    ml_kem_768::{DecapsulationKey, EncapsulationKey},
};
use sha2::Sha256;
use snow::{
    Builder, Error, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use tencrypt::{
    CipherSuite,
    crypto::{Aead, PeerId},
    internal::Conf,
};
use tencrypt_sim::Tenant;

/// The offset of Noise in a handshake message.
pub(crate) const NOISE: usize = 12;
/// mac1 and mac2.
pub(crate) const MACS: usize = 32;

/// The one of a member's X25519 keys that is a point of low order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weak {
    Static,
    Ephemeral,
}

pub(crate) struct Member {
    tenant: Tenant,
    pub(crate) suite: CipherSuite,
    epoch: u8,
    secret: [u8; 32],
    /// A key of low order in place of one of its own.
    pub(crate) weak: Option<(Weak, [u8; 32])>,
}

/// An INIT of the member, and what it needs to go on.
pub(crate) struct Asking {
    pub(crate) init: Vec<u8>,
    noise: HandshakeState,
    kem: DecapsulationKey,
}

/// A RESP of the member, and what it needs to read CONF.
pub(crate) struct Answering {
    pub(crate) resp: Vec<u8>,
    noise: HandshakeState,
}

impl Member {
    pub(crate) fn new(tenant: &Tenant, suite: CipherSuite) -> Self {
        Self { tenant: tenant.clone(), suite, epoch: 1, secret: [0x5e; 32], weak: None }
    }

    /// The same member, under another epoch of the tenant's key.
    pub(crate) fn under(&self, epoch: u8) -> Self {
        Self { epoch, ..Self::new(&self.tenant, self.suite) }
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("the library has it");
        dh.set(&self.secret);
        PeerId::from_bytes(dh.pubkey().try_into().expect("32 bytes"))
    }

    /// A KEM key pair of the member's.
    pub(crate) fn kem(&self, number: u8) -> DecapsulationKey {
        DecapsulationKey::from_seed(KeySeed::from([number; 64]))
    }

    /// INIT's payload as it should be, for this suite.
    pub(crate) fn init_payload(&self, asked: [u8; 4]) -> Vec<u8> {
        let mut payload = vec![4, 0, 0, 0];
        payload.extend(asked);
        payload.resize(20, 0);
        if self.suite.is_hybrid() {
            payload.extend(self.kem(1).encapsulation_key().to_bytes());
        }
        payload.resize(if self.suite.is_hybrid() { 1_280 } else { 192 }, 0);
        payload
    }

    /// An identity slot of kind 1 with one address.
    pub(crate) fn slot(own: [u8; 4]) -> [u8; Conf::IDENTITY_LEN] {
        let mut slot = [0; Conf::IDENTITY_LEN];
        slot[..12].copy_from_slice(&[1, 0, 1, 0, 4, 0, 0, 0, own[0], own[1], own[2], own[3]]);
        slot
    }

    /// INIT with any payload.
    pub(crate) fn ask(&self, index: u32, payload: &[u8]) -> Asking {
        let mut noise = self.noise(|builder| builder.build_initiator());
        let init = self.message(&header(1, self, index, 0), payload, &mut noise);
        Asking { init, noise, kem: self.kem(1) }
    }

    /// CONF with any identity slot, in answer to RESP.
    pub(crate) fn confirm(&self, mut asking: Asking, resp: &[u8], slot: &[u8]) -> Vec<u8> {
        let mut payload = [0; 1_280];
        let len = asking.noise.read_message(&resp[NOISE..resp.len() - MACS], &mut payload);
        let len = len.expect("RESP reads");
        if self.suite.is_hybrid() {
            let ciphertext = payload[Conf::IDENTITY_LEN..len].try_into().expect("1,088 bytes");
            self.mix(&mut asking.noise, &asking.kem.decapsulate(&ciphertext));
        }
        let [ours, theirs] = [index(&asking.init, 4), index(resp, 4)];
        self.message(&header(3, self, ours, theirs), slot, &mut asking.noise)
    }

    /// RESP with any identity slot, in answer to an INIT. In a hybrid suite the secret is for INIT's key, or for
    /// `other_key`.
    pub(crate) fn answer(
        &self,
        init: &[u8],
        own: u32,
        slot: &[u8],
        other_key: Option<&DecapsulationKey>,
    ) -> Answering {
        let mut noise = self.noise(|builder| builder.build_responder());
        let mut asked = [0; 1_280];
        noise.read_message(&init[NOISE..init.len() - MACS], &mut asked).expect("INIT reads");
        let mut payload = slot.to_vec();
        let mut shared = None;
        if self.suite.is_hybrid() {
            let key = match other_key {
                Some(other) => other.encapsulation_key().clone(),
                None => EncapsulationKey::new(asked[20..1_204].try_into().expect("1,184 bytes"))
                    .expect("INIT holds a key"),
            };
            let (ciphertext, secret) = key.encapsulate_deterministic(&B32::from([7; 32]));
            payload.extend(ciphertext);
            shared = Some(secret);
        }
        let resp = self.message(&header(2, self, own, index(init, 4)), &payload, &mut noise);
        if let Some(shared) = shared {
            self.mix(&mut noise, &shared);
        }
        Answering { resp, noise }
    }

    /// Makes mac1 right again.
    pub(crate) fn sign(&self, message: &mut [u8]) {
        let covered = message.len() - MACS;
        let mac1 = hmac(&self.key("mac"), &[&message[..covered]]);
        message[covered..covered + 16].copy_from_slice(&mac1[..16]);
    }

    fn message(&self, header: &[u8], payload: &[u8], noise: &mut HandshakeState) -> Vec<u8> {
        let mut message = vec![0; 2_048];
        message[..NOISE].copy_from_slice(header);
        let len = noise.write_message(payload, &mut message[NOISE..]).expect("it is our turn");
        message.truncate(NOISE + len + MACS);
        self.sign(&mut message);
        message
    }

    fn noise(&self, build: impl FnOnce(Builder<'_>) -> Result<HandshakeState, Error>) -> HandshakeState {
        let aead = match self.suite.aead() {
            Aead::Aes256Gcm => "AESGCM",
            Aead::ChaCha20Poly1305 => "ChaChaPoly",
        };
        let params: NoiseParams =
            format!("Noise_XXpsk0+psk3_25519_{aead}_SHA256").parse().expect("the library knows it");
        let mut prologue = vec![1, self.suite.wire_byte(), self.epoch];
        prologue.extend(self.tenant.id());
        let psk = self.key("psk");
        let builder = match self.weak {
            Some((weak, point)) => {
                Builder::with_resolver(params, Box::new(Hostile { point, weak, resolved: Cell::new(0) }))
            }
            None => Builder::new(params),
        };
        let builder = builder
            .prologue(&prologue)
            .and_then(|builder| builder.psk(0, &psk)?.psk(3, &psk)?.local_private_key(&self.secret));
        build(builder.expect("each is set once").fixed_ephemeral_key_for_testing_only(&[0xe9; 32]))
            .expect("all is there")
    }

    /// Section 4.7, step 4.
    fn mix(&self, noise: &mut HandshakeState, shared: &[u8]) {
        let prk = hmac(&self.key("psk"), &[shared]);
        let psk = hmac(&prk, &[b"tencrypt v1 hybrid", noise.get_handshake_hash(), &[1]]);
        noise.set_psk(3, &psk).expect("the place is known");
    }

    /// Section 3.2.
    fn key(&self, label: &str) -> [u8; 32] {
        let prk = hmac(&self.tenant.id(), &[&self.tenant.root(self.epoch)]);
        hmac(&prk, &[b"tencrypt v1 ", label.as_bytes(), &[1]])
    }
}

impl Answering {
    /// Tells if CONF is one that this RESP can be answered by.
    pub(crate) fn reads(&mut self, conf: &[u8]) -> bool {
        self.noise.read_message(&conf[NOISE..conf.len() - MACS], &mut [0; Conf::IDENTITY_LEN]).is_ok()
    }
}

/// The index at a place of a message.
pub(crate) fn index(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(message[at..at + 4].try_into().expect("4 bytes"))
}

fn header(kind: u8, member: &Member, sender: u32, receiver: u32) -> Vec<u8> {
    let mut header = vec![kind, 1, member.suite.wire_byte(), member.epoch];
    header.extend(sender.to_le_bytes());
    header.extend(receiver.to_le_bytes());
    header
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Gives out a point of low order in place of a key. Its owner knows what the product with any secret is: zero.
struct Hostile {
    point: [u8; 32],
    weak: Weak,
    /// The static key is resolved first, the ephemeral one next.
    resolved: Cell<usize>,
}

impl CryptoResolver for Hostile {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let number = self.resolved.replace(self.resolved.get() + 1);
        if number == self.weak as usize {
            Some(Box::new(LowOrderKey(self.point)))
        } else {
            DefaultResolver.resolve_dh(choice)
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct LowOrderKey([u8; 32]);

impl Dh for LowOrderKey {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, _: &[u8]) {}

    fn generate(&mut self, _: &mut dyn Random) -> Result<(), Error> {
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.0
    }

    fn privkey(&self) -> &[u8] {
        &[0; 32]
    }

    fn dh(&self, _: &[u8], out: &mut [u8]) -> Result<(), Error> {
        out[..32].fill(0);
        Ok(())
    }
}
