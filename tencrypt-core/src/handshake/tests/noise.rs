use std::collections::BTreeMap;

use super::{
    oracle::{Bad, hostile},
    spec::{Secrets, encrypt, mac, transcript},
    *,
};
use crate::{
    crypto::{LOW_ORDER, Seed},
    record::{CipherSuite, IDENTITY_LEN},
};

const AEAD: Aead = Aead::Aes256Gcm;
const PSK: [u8; KEY_LEN] = [9; KEY_LEN];

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn array(hex: &str) -> [u8; 32] {
    bytes(hex).try_into().unwrap()
}

fn rng(number: u8) -> Rng {
    Rng::new(Seed::from_bytes([number; 32]))
}

/// The values of one vector, by name; names that repeat keep their order.
fn vectors() -> Vec<BTreeMap<&'static str, Vec<&'static str>>> {
    let mut vectors = Vec::new();
    for line in include_str!("noise_vectors.txt").lines() {
        let Some((name, value)) = line.split_once(' ').filter(|(name, _)| *name != "#") else { continue };
        if name == "protocol" {
            vectors.push(BTreeMap::new());
        }
        let vector: &mut BTreeMap<_, Vec<_>> = vectors.last_mut().expect("a vector begins with its protocol");
        vector.entry(name).or_default().push(value);
    }
    vectors
}

/// Both sides, with the ephemeral keys given.
fn sides(secrets: &Secrets<'_>) -> [Noise; 2] {
    let [psk, last_psk] = &secrets.psks;
    let build = |[secret, ephemeral]: &[[u8; 32]; 2], role| {
        let parameters = Parameters {
            aead: secrets.aead,
            psk,
            prologue: secrets.prologue,
            secret,
            public: public_key(secret),
        };
        let mut noise = Noise::new(&parameters, role, |bytes| *bytes = *ephemeral);
        noise.0.last_psk.set(last_psk);
        noise
    };
    [build(&secrets.initiator, Role::Initiator), build(&secrets.responder, Role::Responder)]
}

#[test]
fn published_vectors_come_out_byte_for_byte() {
    let vectors = vectors();
    assert_eq!(vectors.len(), Aead::ALL.len());
    for (vector, aead) in vectors.iter().zip([Aead::ChaCha20Poly1305, Aead::Aes256Gcm]) {
        assert_eq!(vector["protocol"], [protocol_name(aead)]);
        let prologue = bytes(vector["prologue"][0]);
        let psks: Vec<[u8; 32]> = vector["psk"].iter().map(|psk| array(psk)).collect();
        let secrets = Secrets {
            aead,
            prologue: &prologue,
            psks: psks.try_into().unwrap(),
            initiator: ["init_static", "init_ephemeral"].map(|name| array(vector[name][0])),
            responder: ["resp_static", "resp_ephemeral"].map(|name| array(vector[name][0])),
        };
        let mut sides = sides(&secrets);
        let messages: Vec<_> = vector["payload"]
            .iter()
            .map(|hex| bytes(hex))
            .zip(vector["ciphertext"].iter().map(|hex| bytes(hex)))
            .collect();
        assert_eq!(messages.len(), 5);
        let by_the_book = transcript(&secrets, [0, 1, 2].map(|number| &messages[number].0[..]));
        for (number, (payload, ciphertext)) in messages[..3].iter().enumerate() {
            let mut out = vec![0; ciphertext.len()];
            sides[number % 2].write(payload, &mut out).unwrap();
            assert_eq!(&out, ciphertext, "{aead:?} message {number}");
            assert_eq!(&by_the_book.messages[number], ciphertext, "{aead:?} message {number}");
            let mut read = vec![0; payload.len()];
            sides[1 - number % 2].read(ciphertext, &mut read).unwrap();
            assert_eq!(&read, payload, "{aead:?} message {number}");
        }
        let [initiator, responder] = sides;
        let (split, other) = (initiator.split().unwrap(), responder.split().unwrap());
        assert_eq!(split.transcript, other.transcript);
        // The raw split is checked by the transport messages that follow in the vector: first the responder's.
        let of_number = [(3, &other.responder_to_initiator), (4, &split.initiator_to_responder)];
        for ((number, key), other) in of_number.into_iter().zip(by_the_book.keys.iter().rev()) {
            let (payload, ciphertext) = &messages[number];
            assert_eq!(
                &encrypt(aead, key.expose(), 0, &[], payload),
                ciphertext,
                "{aead:?} message {number}"
            );
            assert_eq!(&encrypt(aead, other, 0, &[], payload), ciphertext, "{aead:?} message {number}");
        }
        assert_eq!(initiator.remote_static(), Some(public_key(&array(vector["resp_static"][0]))));
        assert_eq!(responder.remote_static(), Some(public_key(&array(vector["init_static"][0]))));
    }
}

fn random_secrets<'a>(aead: Aead, prologue: &'a [u8], random: &mut Rng) -> Secrets<'a> {
    let mut key = || {
        let mut key = [0; 32];
        random.fill(&mut key);
        key
    };
    let psk = key();
    Secrets { aead, prologue, psks: [psk; 2], initiator: [key(), key()], responder: [key(), key()] }
}

fn split_of(noise: &Noise) -> ([[u8; 32]; 2], [u8; 32]) {
    let split = noise.split().unwrap();
    ([*split.initiator_to_responder.expose(), *split.responder_to_initiator.expose()], split.transcript)
}

/// With the payloads that tencrypt sends, and one pre-shared key at both places.
#[test]
fn transcripts_are_those_of_the_specification_for_any_keys() {
    let mut random = rng(7);
    for aead in Aead::ALL {
        for round in 0..64 {
            let secrets = random_secrets(aead, &[5; 31][..round / 2], &mut random);
            let payloads = [
                vec![1; CipherSuite::Aes256Gcm.init_payload_len()],
                vec![2; IDENTITY_LEN],
                vec![3; IDENTITY_LEN],
            ];
            let expected = transcript(&secrets, [0, 1, 2].map(|number| &payloads[number][..]));
            let mut sides = sides(&secrets);
            for (number, payload) in payloads.iter().enumerate() {
                let message = &expected.messages[number];
                let mut written = vec![0; message.len()];
                sides[number % 2].write(payload, &mut written).unwrap();
                assert_eq!(&written, message, "{aead:?} {round}: message {number}");
                let mut read = vec![0; payload.len()];
                sides[1 - number % 2].read(message, &mut read).unwrap();
                assert_eq!(&read, payload, "{aead:?} {round}: message {number}");
            }
            for side in &sides {
                assert_eq!(split_of(side), (expected.keys, expected.hash), "{aead:?} {round}");
            }
        }
    }
}

/// docs/wire-format.md section 4.7, with HKDF spelt out (RFC 5869).
#[test]
fn a_secret_mixed_in_before_the_third_message_is_part_of_it_as_the_specification_says() {
    let secrets = random_secrets(Aead::Aes256Gcm, b"hybrid", &mut rng(10));
    let payloads = [&[1; 50][..], &[2; 60], &[3; 70]];
    let plain = transcript(&secrets, payloads);
    let shared = [0x77; 32];
    let prk = mac(&secrets.psks[0], &[&shared]);
    let psk = mac(&prk, &[b"tencrypt v1 hybrid", &plain.hash_after_second, &[1]]);
    let expected = transcript(&Secrets { psks: [secrets.psks[0], psk], ..secrets }, payloads);
    let mut sides = sides(&secrets);
    for (number, payload) in payloads.into_iter().enumerate() {
        if number == 2 {
            sides
                .iter_mut()
                .for_each(|side| side.mix_into_last_psk(&Secret::filled(|bytes| *bytes = shared)));
        }
        let mut written = vec![0; expected.messages[number].len()];
        sides[number % 2].write(payload, &mut written).unwrap();
        assert_eq!(written, expected.messages[number], "message {number}");
        sides[1 - number % 2].read(&written, &mut vec![0; payload.len()]).unwrap();
    }
    assert_ne!(expected.keys, plain.keys);
    for side in &sides {
        assert_eq!(split_of(side), (expected.keys, expected.hash));
    }
}

/// Ours and the other library take every turn on either side; what one says the other says too, and what one refuses
/// the other refuses.
#[test]
fn another_library_agrees_in_both_roles_whatever_is_said_and_changed() {
    let mut random = rng(8);
    let mut refused = 0;
    for round in 0..400 {
        let aead = Aead::ALL[round % 2];
        let mut prologue = vec![0; random.below(64) as usize];
        random.fill(&mut prologue);
        let secrets = random_secrets(aead, &prologue, &mut random);
        let (mut ours, mut theirs) = (sides(&secrets), oracle::sides(&secrets));
        for (number, overhead) in [48, 96, 64].into_iter().enumerate() {
            let (from, to) = (number % 2, 1 - number % 2);
            let mut payload = vec![0; random.below(1_400) as usize];
            random.fill(&mut payload);
            let (mut message, mut same) =
                (vec![0; payload.len() + overhead], vec![0; payload.len() + overhead]);
            ours[from].write(&payload, &mut message).unwrap();
            assert_eq!(theirs[from].write_message(&payload, &mut same), Ok(same.len()));
            assert_eq!(message, same, "round {round}: message {number}");

            let mut read = vec![0; payload.len()];
            // The other library is spoilt by a third message whose payload alone is forged.
            if number < 2 && random.below(2) == 0 {
                let bit = random.below(message.len() as u32 * 8);
                // The highest bit of an X25519 key is not part of the number (RFC 7748 section 5), but of the transcript.
                same[bit as usize / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    ours[to].read(&same, &mut read),
                    Err(HandshakeError::Auth),
                    "round {round} bit {bit}"
                );
                assert!(theirs[to].read_message(&same, &mut vec![0; 2_000]).is_err());
                refused += 1;
            }
            ours[to].read(&message, &mut read).unwrap();
            assert_eq!(read, payload, "round {round}: message {number}");
            let mut read = vec![0; payload.len()];
            assert_eq!(theirs[to].read_message(&message, &mut read), Ok(payload.len()));
            assert_eq!(read, payload, "round {round}: message {number}");
        }
        for (ours, theirs) in ours.iter().zip(&mut theirs) {
            let keys = theirs.dangerously_get_raw_split();
            assert_eq!(split_of(ours), (keys.into(), theirs.get_handshake_hash().try_into().unwrap()));
            assert_eq!(ours.remote_static().as_ref().map(|key| &key[..]), theirs.get_remote_static());
        }
    }
    assert!(refused > 300, "{refused} messages were forged");
}

#[test]
fn a_forged_message_changes_nothing_in_any_turn() {
    for aead in Aead::ALL {
        let secrets = random_secrets(aead, b"same", &mut rng(9));
        let mut sides = sides(&secrets);
        for (number, len) in [48 + 9, 96 + 9, 64 + 9].into_iter().enumerate() {
            let mut message = vec![0; len];
            sides[number % 2].write(b"a payload", &mut message).unwrap();
            let reader = &mut sides[1 - number % 2];
            for byte in 0..len {
                let mut forged = message.clone();
                forged[byte] ^= 1;
                assert_eq!(reader.read(&forged, &mut [0; 9]), Err(HandshakeError::Auth), "byte {byte}");
                assert_eq!(
                    reader.read(&message[..byte], &mut [0; 9]),
                    Err(HandshakeError::Auth),
                    "{byte} bytes"
                );
            }
            reader.read(&message, &mut [0; 9]).unwrap();
        }
        assert_eq!(split_of(&sides[0]), split_of(&sides[1]));
    }
}

fn honest() -> Parameters<'static> {
    Parameters { aead: AEAD, psk: &PSK, prologue: b"same", secret: &[3; 32], public: public_key(&[3; 32]) }
}

#[test]
fn a_low_order_ephemeral_in_init_is_refused_when_it_is_answered() {
    for point in LOW_ORDER.map(array) {
        let mut hostile = hostile(AEAD, &PSK, point, Bad::Ephemeral).build_initiator().unwrap();
        let mut message = [0; 32 + 16];
        assert_eq!(hostile.write_message(&[], &mut message), Ok(48));
        assert_eq!(message[..32], point);
        let mut responder = Noise::responder(&honest(), &mut rng(1));
        responder.read(&message, &mut []).unwrap();
        assert_eq!(responder.write(&[], &mut [0; 96]), Err(HandshakeError::LowOrder));
    }
}

#[test]
fn low_order_keys_in_resp_are_refused() {
    for point in LOW_ORDER.map(array) {
        for bad in [Bad::Static, Bad::Ephemeral] {
            let mut initiator = Noise::initiator(&honest(), &mut rng(1));
            let (mut message, mut answer) = ([0; 48], [0; 96]);
            initiator.write(&[], &mut message).unwrap();
            let mut hostile = hostile(AEAD, &PSK, point, bad).build_responder().unwrap();
            hostile.read_message(&message, &mut []).unwrap();
            assert_eq!(hostile.write_message(&[], &mut answer), Ok(96));
            assert_eq!(initiator.read(&answer, &mut []), Err(HandshakeError::LowOrder), "{bad:?}");
        }
    }
}

#[test]
fn a_low_order_static_key_in_conf_is_refused() {
    for point in LOW_ORDER.map(array) {
        let mut hostile = hostile(AEAD, &PSK, point, Bad::Static).build_initiator().unwrap();
        let mut responder = Noise::responder(&honest(), &mut rng(1));
        let (mut init, mut resp, mut conf) = ([0; 48], [0; 96], [0; 64]);
        hostile.write_message(&[], &mut init).unwrap();
        responder.read(&init, &mut []).unwrap();
        responder.write(&[], &mut resp).unwrap();
        hostile.read_message(&resp, &mut []).unwrap();
        assert_eq!(hostile.write_message(&[], &mut conf), Ok(64));
        assert_eq!(responder.read(&conf, &mut []), Err(HandshakeError::LowOrder));
    }
}

#[test]
fn another_psk_or_prologue_ends_the_handshake_at_the_first_message() {
    for (psk, prologue) in [(&[8; 32], &b"same"[..]), (&PSK, b"else")] {
        let mut initiator = Noise::initiator(&honest(), &mut rng(1));
        let mut message = [0; 48];
        initiator.write(&[], &mut message).unwrap();
        let other = Parameters { aead: AEAD, psk, prologue, secret: &[4; 32], public: public_key(&[4; 32]) };
        let mut responder = Noise::responder(&other, &mut rng(2));
        assert_eq!(responder.read(&message, &mut []), Err(HandshakeError::Auth));
    }
}

#[test]
fn messages_out_of_turn_are_refused_and_nothing_is_split_before_the_end() {
    let mut initiator = Noise::initiator(&honest(), &mut rng(1));
    assert_eq!(initiator.read(&[0; 96], &mut []), Err(HandshakeError::Spent));
    initiator.write(&[], &mut [0; 48]).unwrap();
    assert_eq!(initiator.write(&[], &mut [0; 64]), Err(HandshakeError::Spent));
    assert!(initiator.split().is_err());
    assert_eq!(initiator.remote_static(), None);
}

#[test]
fn nothing_secret_is_printed() {
    assert_eq!(format!("{:?}", Noise::initiator(&honest(), &mut rng(1))), "Noise(..)");
}
