//! The `snow` library as a second opinion, with its own primitives and a state machine that is not ours.

use std::cell::Cell;

use snow::{
    Builder, Error, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};

use super::{protocol_name, spec::Secrets};
use crate::record::Aead;

/// Initiator and responder, with the ephemeral keys given.
pub(super) fn sides(secrets: &Secrets<'_>) -> [HandshakeState; 2] {
    [
        builder(secrets, &secrets.initiator).build_initiator().unwrap(),
        builder(secrets, &secrets.responder).build_responder().unwrap(),
    ]
}

fn builder<'a>(secrets: &'a Secrets<'_>, [secret, ephemeral]: &'a [[u8; 32]; 2]) -> Builder<'a> {
    let [first, last] = &secrets.psks;
    Builder::new(params(secrets.aead))
        .prologue(secrets.prologue)
        .and_then(|builder| builder.psk(0, first)?.psk(3, last)?.local_private_key(secret))
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(ephemeral)
}

/// Key of a hostile member that is a point of low order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    Static,
    Ephemeral,
}

/// A member of the tenant who sends a point of low order as one of its keys, and knows what the product with any secret
/// is: zero. This library does not look.
pub(super) fn hostile(aead: Aead, psk: &[u8; 32], point: [u8; 32], bad: Bad) -> Builder<'_> {
    let resolver = Hostile { point, bad, resolved: Cell::new(0) };
    Builder::with_resolver(params(aead), Box::new(resolver))
        .prologue(b"same")
        .and_then(|builder| builder.psk(0, psk)?.psk(3, psk)?.local_private_key(&[7; 32]))
        .unwrap()
}

fn params(aead: Aead) -> NoiseParams {
    protocol_name(aead).parse().unwrap()
}

struct Hostile {
    point: [u8; 32],
    bad: Bad,
    /// The static key is resolved first, the ephemeral one next.
    resolved: Cell<usize>,
}

impl CryptoResolver for Hostile {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let number = self.resolved.replace(self.resolved.get() + 1);
        if number == self.bad as usize {
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
