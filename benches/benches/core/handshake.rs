//! From a first packet to its arrival: the whole handshake, both sides, in one thread.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use criterion::Criterion;
use curve25519_dalek::MontgomeryPoint;
use tencrypt::CipherSuite;
use tencrypt_benches::pair::{Pair, Tenant};

use crate::measure::{BATCH, Load, Stage};

/// Ours by Noise XX: an ephemeral key pair and three shared secrets a side.
const KEY_PAIRS: usize = 2;
const SHARED_SECRETS: usize = 6;

pub(crate) fn handshake(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "handshake");
    let load = Load::HANDSHAKE;
    let suites = [("tencrypt", CipherSuite::Aes256Gcm), ("tencrypt hybrid", CipherSuite::MlKem768Aes256Gcm)];
    for (name, suite) in suites {
        let pairs: Vec<Option<Pair>> = (0..BATCH).map(|_| None).collect();
        stage.batched(
            name,
            load,
            (Tenant::new(suite), pairs),
            |(tenant, pairs), at| pairs[at] = Some(Pair::strangers(tenant)),
            |(_, pairs), at| assert_eq!(pairs[at].as_mut().map(Pair::exchange), Some(1)),
        );
    }
    #[cfg(feature = "peers")]
    {
        use tencrypt_benches::wireguard::BoringPair;
        let pairs: Vec<Option<BoringPair>> = (0..BATCH).map(|_| None).collect();
        stage.batched(
            "peer: boringtun",
            load,
            pairs,
            |pairs, at| pairs[at] = Some(BoringPair::strangers()),
            |pairs, at| assert_eq!(pairs[at].as_mut().map(BoringPair::exchange), Some(1)),
        );
    }
    stage.repeat("floor: X25519 of curve25519-dalek", load, || {
        let mut point = MontgomeryPoint::mul_base_clamped([5; 32]);
        for _ in 1..KEY_PAIRS {
            point = MontgomeryPoint::mul_base_clamped(point.to_bytes());
        }
        for _ in 0..SHARED_SECRETS {
            point = point.mul_clamped([7; 32]);
        }
        point
    });
    stage.repeat("floor: X25519 of aws-lc-rs", load, || {
        let secret = [7; 32];
        let mut point = [9; 32];
        for _ in 0..KEY_PAIRS {
            let key = PrivateKey::from_private_key(&X25519, &secret).expect("any 32 bytes are a key");
            point.copy_from_slice(key.compute_public_key().expect("a key has a public one").as_ref());
        }
        let key = PrivateKey::from_private_key(&X25519, &secret).expect("any 32 bytes are a key");
        for _ in 0..SHARED_SECRETS {
            let other = UnparsedPublicKey::new(&X25519, point);
            agree(&key, other, (), |shared| {
                point.copy_from_slice(shared);
                Ok(())
            })
            .expect("not of low order");
        }
        point
    });
}
