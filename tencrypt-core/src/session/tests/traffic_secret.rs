use std::{collections::BTreeSet, env};

use super::*;
use crate::{
    Seed,
    crypto::{
        DEEP, NONCE_LEN, hmac_sha256, sha256, wipe_stack,
        witness::{self, Noted},
    },
    record::{Aead, DATA_OVERHEAD, SessionIndex},
    stats::DropReason,
    tunnel::tests::{
        erasure_search::{Memory, Patterns, lines},
        twin::{Twin, wait_at},
    },
};

const PACKET: &[u8] = b"the same packet";

/// The secret of a number, at one end.
type At = fn(Aead, [u8; 32]) -> TrafficSecret;
const INITIATOR: At = TrafficSecret::for_initiator;
const RESPONDER: At = TrafficSecret::for_responder;
/// Each end that seals, with the one that opens.
const WAYS: [(At, At); 2] = [(INITIATOR, RESPONDER), (RESPONDER, INITIATOR)];

fn index() -> SessionIndex {
    SessionIndex::from_u32(0x0102_0304).unwrap()
}

fn sealer(secret: TrafficSecret, seed: u8) -> (Sealer, [u8; TrafficSecret::SALT_LEN]) {
    Sealer::from_secret(secret, index(), Seed::from_bytes([seed; 32]))
}

fn seal(sealer: &mut Sealer, packet: &[u8]) -> Vec<u8> {
    let mut record = vec![0; packet.len() + DATA_OVERHEAD];
    let counter = sealer.counters(1).unwrap().take().unwrap();
    sealer.seal(counter, 0, packet, &mut record);
    record
}

fn open(opener: &mut Opener, record: &[u8]) -> Result<Vec<u8>, DropReason> {
    opener.open(&mut record.to_vec()).map(|plain| plain.bytes.to_vec())
}

#[test]
fn what_is_sealed_under_a_secret_opens_once() {
    for aead in Aead::ALL {
        for (sealing, opening) in WAYS {
            let (mut sealer, salt) = sealer(sealing(aead, [7; 32]), 1);
            let mut opener = Opener::from_secret(opening(aead, [7; 32]), &salt);
            for _ in 0..3 {
                let record = seal(&mut sealer, PACKET);
                assert_eq!(open(&mut opener, &record), Ok(PACKET.to_vec()));
                assert_eq!(open(&mut opener, &record), Err(DropReason::Replay));
            }
        }
    }
}

#[test]
fn sealers_of_one_secret_and_two_seeds_have_nothing_in_common() {
    for aead in Aead::ALL {
        let fresh = || INITIATOR(aead, [7; 32]);
        let mut sealers = [sealer(fresh(), 1), sealer(fresh(), 2)];
        // The same counter, the same packet.
        let records: Vec<_> = sealers.iter_mut().map(|(sealer, _)| seal(sealer, PACKET)).collect();
        assert_eq!(records[0][..16], records[1][..16]);
        assert_ne!(records[0][16..], records[1][16..]);
        for (at, (_, salt)) in sealers.iter().enumerate() {
            let mut opener = Opener::from_secret(RESPONDER(aead, [7; 32]), salt);
            assert_eq!(open(&mut opener, &records[1 - at]), Err(DropReason::Auth));
            assert_eq!(open(&mut opener, &records[at]), Ok(PACKET.to_vec()));
        }
    }
}

#[test]
fn no_key_and_no_iv_comes_twice() {
    let (mut keys, mut ivs) = (BTreeSet::new(), BTreeSet::new());
    let mut count = 0;
    for seed in 0..=255 {
        let (_, salt) = sealer(INITIATOR(Aead::Aes256Gcm, [7; 32]), seed);
        for aead in Aead::ALL {
            for (sealing, _) in WAYS {
                let made = sealing(aead, [7; 32]).into_sealing_keys(&salt);
                keys.insert(*made.key.expose());
                ivs.insert(*made.iv.expose());
                count += 1;
            }
        }
    }
    assert_eq!((keys.len(), ivs.len()), (count, count));
}

#[test]
fn an_opener_of_another_secret_end_cipher_or_salt_opens_nothing() {
    let (mut sealer, salt) = sealer(INITIATOR(Aead::Aes256Gcm, [7; 32]), 1);
    let record = seal(&mut sealer, PACKET);
    let mut other_salt = salt;
    other_salt[31] ^= 1;
    for (secret, salt) in [
        (RESPONDER(Aead::Aes256Gcm, [8; 32]), salt),
        (INITIATOR(Aead::Aes256Gcm, [7; 32]), salt),
        (RESPONDER(Aead::ChaCha20Poly1305, [7; 32]), salt),
        (RESPONDER(Aead::Aes256Gcm, [7; 32]), other_salt),
    ] {
        assert_eq!(open(&mut Opener::from_secret(secret, &salt), &record), Err(DropReason::Auth));
    }
}

#[test]
fn no_end_opens_its_own_records_whatever_salt_it_is_given() {
    for aead in Aead::ALL {
        for (this, other) in WAYS {
            let (mut own, salt) = sealer(this(aead, [7; 32]), 1);
            let (mut theirs, _) = sealer(other(aead, [7; 32]), 1);
            let mut opener = Opener::from_secret(this(aead, [7; 32]), &salt);
            assert_eq!(open(&mut opener, &seal(&mut own, PACKET)), Err(DropReason::Auth));
            // With the same randomness, and so the same salt, it is the other end's records that open.
            assert_eq!(open(&mut opener, &seal(&mut theirs, PACKET)), Ok(PACKET.to_vec()));
        }
    }
}

#[test]
fn a_secret_that_was_written_in_place_is_the_same_secret() {
    let fill = |bytes: &mut [u8; 32]| {
        bytes.fill(7);
        Ok::<(), ()>(())
    };
    let initiator = || TrafficSecret::try_for_initiator(Aead::Aes256Gcm, fill).unwrap();
    let responder = || TrafficSecret::try_for_responder(Aead::Aes256Gcm, fill).unwrap();
    for (filled, opening) in [(initiator(), RESPONDER), (responder(), INITIATOR)] {
        let (mut sealer, salt) = sealer(filled, 1);
        let mut opener = Opener::from_secret(opening(Aead::Aes256Gcm, [7; 32]), &salt);
        assert_eq!(open(&mut opener, &seal(&mut sealer, PACKET)), Ok(PACKET.to_vec()));
    }
    let failed = TrafficSecret::try_for_initiator(Aead::Aes256Gcm, |_| Err("no randomness"));
    assert_eq!(failed.err(), Some("no randomness"));
    let failed = TrafficSecret::try_for_responder(Aead::Aes256Gcm, |_| Err("no randomness"));
    assert_eq!(failed.err(), Some("no randomness"));
}

#[test]
fn a_key_of_ones_own_is_exhausted_like_any_other() {
    let (mut sealer, _) = sealer(INITIATOR(Aead::Aes256Gcm, [7; 32]), 1);
    seal(&mut sealer, &[0; 65_503]);
    sealer.skip_to((1 << 22) - 1);
    assert!(!sealer.wants_rekey());
    sealer.skip_to((1 << 23) - 1);
    assert!(sealer.wants_rekey());
    assert_eq!(sealer.counters(2).err(), Some(DropReason::Limit));
    assert_eq!(sealer.counters(1).map(|counters| counters.left()), Ok(1));
    assert_eq!(sealer.counters(1).err(), Some(DropReason::Limit));
}

#[test]
#[should_panic(expected = "a counter of another Sealer")]
fn a_counter_of_another_sealer_of_the_same_secret_is_refused() {
    let fresh = || INITIATOR(Aead::Aes256Gcm, [7; 32]);
    let ((mut one, _), (mut other, _)) = (sealer(fresh(), 1), sealer(fresh(), 2));
    let counter = one.counters(1).unwrap().take().unwrap();
    other.seal(counter, 0, &[], &mut [0; DATA_OVERHEAD]);
}

/// Recomputed from RFC 5869 with the salt and info that docs/wire-format.md gives.
#[test]
fn keys_are_those_of_the_specification() {
    let salt = [9; TrafficSecret::SALT_LEN];
    let prk = hmac_sha256(&salt, &[&[7; 32]]);
    for ((sealing, opening), sender) in WAYS.into_iter().zip([1, 2]) {
        for (aead, cipher) in [(Aead::ChaCha20Poly1305, 1), (Aead::Aes256Gcm, 2)] {
            let sealed = sealing(aead, [7; 32]).into_sealing_keys(&salt);
            let opened = opening(aead, [7; 32]).into_opening_keys(&salt);
            let expand = |label: &[u8]| hmac_sha256(&*prk, &[label, &[sender, cipher], &[1]]);
            for keys in [sealed, opened] {
                assert_eq!(keys.key.expose(), &*expand(b"tencrypt v1 traffic key"));
                assert_eq!(keys.iv.expose()[..], expand(b"tencrypt v1 traffic iv")[..NONCE_LEN]);
            }
        }
    }
}

#[test]
fn no_secret_of_ones_own_is_printed() {
    let shown = format!("{:?}", INITIATOR(Aead::Aes256Gcm, [7; 32]));
    assert_eq!(shown, "TrafficSecret { aead: Aes256Gcm, end: Initiator, .. }");
}

/// Says to a process that it is the one whose memory is searched, and with which cipher.
const TWIN: &str = "TENCRYPT_TEST_TRAFFIC_SECRET";

#[test]
fn aes_256_gcm_under_a_secret_leaves_nothing() {
    leaves_nothing("aes_256_gcm_under_a_secret_leaves_nothing", Aead::Aes256Gcm);
}

#[test]
fn chacha20_poly1305_under_a_secret_leaves_nothing() {
    leaves_nothing("chacha20_poly1305_under_a_secret_leaves_nothing", Aead::ChaCha20Poly1305);
}

/// This process takes down every secret it makes; another one, which makes the same and takes down none, is searched.
fn leaves_nothing(test: &str, aead: Aead) {
    if env::var_os(TWIN).is_some() {
        let (mut sealer, mut opener) = ends(aead);
        wait_at("live");
        assert!(open(&mut opener, &seal(&mut sealer, PACKET)).is_ok());
        drop((sealer, opener));
        // What sealing and opening have left.
        wipe_stack::<DEEP>();
        wait_at("ended");
        return;
    }
    witness::begin();
    drop(ends(aead));
    let noted = witness::noted();
    let is_iv = |noted: &&Noted| noted.bytes.len() == NONCE_LEN;
    // What is made of a secret at last is the key.
    let key =
        noted.iter().rfind(|noted| noted.bytes.len() == 32 && noted.at.file().ends_with("traffic_secret.rs"));
    let kept = Patterns::of(noted.iter().filter(is_iv).chain(key));

    let mut twin = Twin::start(module_path!(), test, (TWIN, ""));
    twin.is_at("live");
    let memory = Memory::of(twin.id());
    assert!(!memory.search(&Patterns::of(noted.iter().filter(is_iv))).is_empty(), "blind to a live IV");
    let found = memory.search(&Patterns::of(&noted).without(&kept));
    assert!(found.is_empty(), "{aead:?}, live:\n{}", lines(&found));
    twin.go_on();
    twin.is_at("ended");
    let found = memory.search(&Patterns::of(&noted));
    assert!(found.is_empty(), "{aead:?}, ended:\n{}", lines(&found));
    twin.go_on();
    assert!(twin.ends_well());
}

/// Both ends of one direction.
fn ends(aead: Aead) -> (Sealer, Opener) {
    let (one, other, seed) = material(aead);
    wipe_stack::<DEEP>();
    let (sealer, salt) = Sealer::from_secret(one, index(), seed);
    (sealer, Opener::from_secret(other, &salt))
}

/// Stands for a key exchange and for the operating system's randomness.
#[inline(never)]
fn material(aead: Aead) -> (TrafficSecret, TrafficSecret, Seed) {
    let secret = || sha256(&[b"key exchange"]);
    (INITIATOR(aead, secret()), RESPONDER(aead, secret()), Seed::from_bytes(sha256(&[b"randomness"])))
}
