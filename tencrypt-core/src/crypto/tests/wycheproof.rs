//! The cases of Project Wycheproof, for everything in this module and every backend of this build. How many they are is
//! asserted, so that none is passed over.

use std::fs;

use crate::{
    crypto::{
        Aead, Backend, KemSecret, OpeningKey, SealingKey, hkdf_sha256, hmac_sha256, kem::encapsulate_message,
        public_key, sha256, shared_secret,
    },
    record::TAG_LEN,
};

/// One case: its number, whether it is to be accepted, and its columns.
pub(crate) struct Case<const COLUMNS: usize> {
    pub(crate) number: u32,
    pub(crate) result: Expected,
    columns: [&'static str; COLUMNS],
}

/// Expected result of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Valid,
    Invalid,
    /// As the protocol decides.
    Acceptable,
}

impl<const COLUMNS: usize> Case<COLUMNS> {
    /// The bytes in a column.
    pub(crate) fn bytes(&self, column: usize) -> Vec<u8> {
        let hex = self.columns[column];
        if hex == "-" {
            return Vec::new();
        }
        assert!(hex.len().is_multiple_of(2), "case {}", self.number);
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    /// The same where only one length is possible.
    pub(crate) fn array<const N: usize>(&self, column: usize) -> [u8; N] {
        self.bytes(column).try_into().unwrap_or_else(|_| panic!("case {}: not {N} bytes", self.number))
    }
}

/// The cases of a file, one a line; lines with `#` are about it. Read when a test runs and not when it is compiled: a
/// published package comes without them.
///
/// # Panics
/// If there is no such file, or a line is anything else.
pub(crate) fn cases<const COLUMNS: usize>(name: &str) -> Vec<Case<COLUMNS>> {
    let path = format!("{}/tests/vectors/wycheproof/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{path}: {error}; the repository has it, a published package has not")
    });
    let text: &'static str = text.leak();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [number, result, columns @ ..] = &words[..] else { panic!("{line}") };
            let result = match *result {
                "valid" => Expected::Valid,
                "invalid" => Expected::Invalid,
                "acceptable" => Expected::Acceptable,
                _ => panic!("{line}"),
            };
            let columns = columns.try_into().expect("as many columns as the first lines say");
            Case { number: number.parse().expect("a number"), result, columns }
        })
        .collect()
}

/// Number of cases with each outcome.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    accepted: usize,
    refused: usize,
}

fn aead(cipher: Aead, cases: &[Case<6>], expected: &Tally) {
    for backend in Backend::ALL.iter().copied() {
        let mut tally = Tally::default();
        for case in cases {
            let about = format!("{backend:?} {cipher:?}: case {}", case.number);
            let (key, nonce, aad, plain) = (case.array(0), case.array(1), case.bytes(2), case.bytes(3));
            let sealed = [case.bytes(4), case.array::<TAG_LEN>(5).to_vec()].concat();
            let mut made = vec![0x77; plain.len() + TAG_LEN];
            SealingKey::new(backend, cipher, &key).seal(nonce, &aad, &plain, &mut made);
            let mut buffer = sealed.clone();
            let opened = OpeningKey::new(backend, cipher, &key).open(nonce, &aad, &mut buffer);
            match case.result {
                Expected::Valid => {
                    assert_eq!(opened.as_deref(), Ok(&plain[..]), "{about}");
                    assert_eq!(made, sealed, "{about}");
                    tally.accepted += 1;
                }
                Expected::Invalid => {
                    assert_eq!(opened, Err(crate::crypto::aead::OpenError), "{about}");
                    assert!(buffer.iter().all(|byte| *byte == 0), "{about}: something is left");
                    assert_ne!(made, sealed, "{about}");
                    tally.refused += 1;
                }
                Expected::Acceptable => panic!("{about}: undecided"),
            }
        }
        assert_eq!(tally, *expected, "{backend:?} {cipher:?}");
    }
}

#[test]
fn aes_256_gcm_of_every_backend() {
    aead(Aead::Aes256Gcm, &cases("aes_256_gcm"), &Tally { accepted: 39, refused: 27 });
}

#[test]
fn chacha20_poly1305_of_every_backend() {
    let expected = Tally { accepted: 256, refused: 60 };
    aead(Aead::ChaCha20Poly1305, &cases("chacha20_poly1305"), &expected);
}

/// Acceptable are points on the twist, not reduced, or of low order. Only the last are refused here: all others have a
/// secret that is known to nobody else.
#[test]
fn x25519() {
    let mut tally = Tally::default();
    for case in cases("x25519") as Vec<Case<3>> {
        let (secret, public, expected) = (case.array(0), case.array(1), case.array::<32>(2));
        let shared = shared_secret(&secret, &public).map(|shared| *shared.expose());
        if expected == [0; 32] {
            assert_eq!((shared, case.result), (None, Expected::Acceptable), "case {}", case.number);
            tally.refused += 1;
        } else {
            assert_eq!(shared, Some(expected), "case {}", case.number);
            assert_ne!(case.result, Expected::Invalid, "case {}", case.number);
            tally.accepted += 1;
        }
        // The base point by its table, and by the ladder.
        let base = std::array::from_fn(|at| if at == 0 { 9 } else { 0 });
        let ladder = shared_secret(&secret, &base).map(|shared| *shared.expose());
        assert_eq!(ladder, Some(public_key(&secret)), "case {}", case.number);
    }
    assert_eq!(tally, Tally { accepted: 487, refused: 31 });
}

#[test]
fn hkdf() {
    let mut tally = Tally::default();
    for case in cases("hkdf_sha256") as Vec<Case<5>> {
        let (ikm, salt, info) = (case.bytes(0), case.bytes(1), case.bytes(2));
        let mut out = vec![0; case.columns[3].parse().expect("a size")];
        let (left, right) = info.split_at(info.len() / 2);
        let derived = std::panic::catch_unwind(move || {
            hkdf_sha256(&salt, &ikm, &[left, right], &mut out);
            out
        });
        match case.result {
            Expected::Valid => {
                assert_eq!(derived.ok(), Some(case.bytes(4)), "case {}", case.number);
                tally.accepted += 1;
            }
            // Longer than HKDF can be. The callers' lengths are constants: asking for it is a mistake in the program.
            Expected::Invalid => {
                assert!(derived.is_err(), "case {}", case.number);
                tally.refused += 1;
            }
            Expected::Acceptable => panic!("case {}: undecided", case.number),
        }
    }
    assert_eq!(tally, Tally { accepted: 83, refused: 3 });
}

#[test]
fn hmac() {
    let mut tally = Tally::default();
    for case in cases("hmac_sha256") as Vec<Case<3>> {
        let (key, message, tag) = (case.bytes(0), case.bytes(1), case.bytes(2));
        assert!(matches!(tag.len(), 16 | 32), "case {}", case.number);
        let (left, right) = message.split_at(message.len() / 2);
        let same = hmac_sha256(&key, &[left, right])[..tag.len()] == tag;
        assert_eq!(same, case.result == Expected::Valid, "case {}", case.number);
        *(if same { &mut tally.accepted } else { &mut tally.refused }) += 1;
    }
    assert_eq!(tally, Tally { accepted: 66, refused: 108 });
}

#[test]
fn ml_kem_768_keys_from_seeds() {
    let cases: Vec<Case<2>> = cases("ml_kem_768_keygen");
    for case in &cases {
        let public = KemSecret::from_seed(case.array::<64>(0).into()).public();
        assert_eq!(
            (sha256(&[&public]), case.result),
            (case.array(1), Expected::Valid),
            "case {}",
            case.number
        );
    }
    assert_eq!(cases.len(), 100);
}

/// Keys and ciphertexts of a wrong length are counted as refused: they are not of the argument's type.
#[test]
fn ml_kem_768_encapsulation() {
    let mut tally = Tally::default();
    for case in cases("ml_kem_768_encaps") as Vec<Case<4>> {
        let public = case.bytes(0).try_into().ok();
        let made = public.and_then(|public| encapsulate_message(&public, &case.array::<32>(1).into()));
        let accepted = made.is_some();
        match made {
            Some((ciphertext, shared)) => {
                assert_eq!(sha256(&[&ciphertext]), case.array(2), "case {}", case.number);
                assert_eq!(shared.expose(), &case.array(3), "case {}", case.number);
                tally.accepted += 1;
            }
            None => tally.refused += 1,
        }
        assert_eq!(case.result == Expected::Valid, accepted, "case {}", case.number);
    }
    assert_eq!(tally, Tally { accepted: 133, refused: 132 });
}

#[test]
fn ml_kem_768_decapsulation() {
    let mut tally = Tally::default();
    for case in cases("ml_kem_768_decaps") as Vec<Case<4>> {
        let given: Option<([u8; 64], _)> = case.bytes(0).try_into().ok().zip(case.bytes(2).try_into().ok());
        let accepted = given.is_some();
        match given {
            Some((seed, ciphertext)) => {
                let secret = KemSecret::from_seed(seed.into());
                assert_eq!(sha256(&[&secret.public()]), case.array(1), "case {}", case.number);
                assert_eq!(secret.decapsulate(&ciphertext).expose(), &case.array(3), "case {}", case.number);
                tally.accepted += 1;
            }
            None => tally.refused += 1,
        }
        assert_eq!(case.result == Expected::Valid, accepted, "case {}", case.number);
    }
    assert_eq!(tally, Tally { accepted: 153, refused: 40 });
}
