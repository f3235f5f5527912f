use std::{cell::Cell, collections::BTreeMap};

use super::{
    spec::{Secrets, encrypt, transcript},
    *,
};
use crate::{
    crypto::LOW_ORDER,
    record::{IDENTITY_LEN, INIT_PAYLOAD_LEN},
};

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
    let build = |[secret, ephemeral]: &[[u8; 32]; 2], initiator: bool| {
        let resolver = Resolver { seed: Seed::from_bytes([0; 32]), public: None };
        let [first, last] = &secrets.psks;
        let builder = Builder::with_resolver(params(secrets.suite).unwrap(), Box::new(resolver))
            .prologue(secrets.prologue)
            .and_then(|builder| builder.psk(0, first)?.psk(3, last)?.local_private_key(secret))
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(ephemeral);
        let state = if initiator { builder.build_initiator() } else { builder.build_responder() };
        Noise(Box::new(state.unwrap()))
    };
    [build(&secrets.initiator, true), build(&secrets.responder, false)]
}

#[test]
fn published_vectors_come_out_byte_for_byte() {
    let vectors = vectors();
    assert_eq!(vectors.len(), CipherSuite::ALL.len());
    for (vector, suite) in vectors.iter().zip([CipherSuite::ChaCha20Poly1305, CipherSuite::Aes256Gcm]) {
        assert_eq!(vector["protocol"], [protocol_name(suite)]);
        let prologue = bytes(vector["prologue"][0]);
        let psks: Vec<[u8; 32]> = vector["psk"].iter().map(|psk| array(psk)).collect();
        let secrets = Secrets {
            suite,
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
            assert_eq!(&out, ciphertext, "{suite} message {number}");
            assert_eq!(&by_the_book.messages[number], ciphertext, "{suite} message {number}");
            let mut read = vec![0; payload.len()];
            sides[1 - number % 2].read(ciphertext, &mut read).unwrap();
            assert_eq!(&read, payload, "{suite} message {number}");
        }
        let [mut initiator, mut responder] = sides;
        let (split, other) = (initiator.split().unwrap(), responder.split().unwrap());
        assert_eq!(split.transcript, other.transcript);
        // The raw split is checked by the transport messages that follow in the vector: first the responder's.
        let of_number = [(3, &other.responder_to_initiator), (4, &split.initiator_to_responder)];
        for ((number, key), other) in of_number.into_iter().zip(by_the_book.keys.iter().rev()) {
            let (payload, ciphertext) = &messages[number];
            let mut cipher: Box<dyn Cipher> = match suite {
                CipherSuite::Aes256Gcm => Box::new(AesGcm::default()),
                CipherSuite::ChaCha20Poly1305 => Box::new(ChaChaPoly::default()),
            };
            cipher.set(key);
            let mut out = vec![0; ciphertext.len()];
            cipher.encrypt(0, &[], payload, &mut out);
            assert_eq!(&out, ciphertext, "{suite} message {number}");
            assert_eq!(&encrypt(suite, other, 0, &[], payload), ciphertext, "{suite} message {number}");
        }
        assert_eq!(initiator.remote_static(), Some(public_key(&array(vector["resp_static"][0]))));
        assert_eq!(responder.remote_static(), Some(public_key(&array(vector["init_static"][0]))));
    }
}

/// With the payloads that tencrypt sends, and one pre-shared key at both places.
#[test]
fn transcripts_are_those_of_the_specification_for_any_keys() {
    let mut random = rng(7);
    let mut key = || {
        let mut key = [0; 32];
        random.fill(&mut key);
        key
    };
    for suite in CipherSuite::ALL {
        for round in 0..64 {
            let (prologue, psk) = (key(), key());
            let secrets = Secrets {
                suite,
                prologue: &prologue[..round / 2],
                psks: [psk; 2],
                initiator: [key(), key()],
                responder: [key(), key()],
            };
            let payloads = [vec![1; INIT_PAYLOAD_LEN], vec![2; IDENTITY_LEN], vec![3; IDENTITY_LEN]];
            let expected = transcript(&secrets, [0, 1, 2].map(|number| &payloads[number][..]));
            let mut sides = sides(&secrets);
            for (number, payload) in payloads.iter().enumerate() {
                let message = &expected.messages[number];
                let mut written = vec![0; message.len()];
                sides[number % 2].write(payload, &mut written).unwrap();
                assert_eq!(&written, message, "{suite} {round}: message {number}");
                let mut read = vec![0; payload.len()];
                sides[1 - number % 2].read(message, &mut read).unwrap();
                assert_eq!(&read, payload, "{suite} {round}: message {number}");
            }
            for side in &mut sides {
                let split = side.split().unwrap();
                assert_eq!([*split.initiator_to_responder, *split.responder_to_initiator], expected.keys);
                assert_eq!(split.transcript, expected.hash, "{suite} {round}");
            }
        }
    }
}

/// A member of the tenant who sends a point of low order as its static or its ephemeral key, and knows what the
/// product with any secret is: zero.
struct Hostile {
    point: [u8; 32],
    /// Static and ephemeral key are resolved in this order; which of them is the point.
    bad: usize,
    resolved: Cell<usize>,
    honest: Resolver,
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

impl CryptoResolver for Hostile {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        self.honest.resolve_rng()
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let number = self.resolved.replace(self.resolved.get() + 1);
        if number == self.bad {
            Some(Box::new(LowOrderKey(self.point)))
        } else {
            self.honest.resolve_dh(choice)
        }
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.honest.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.honest.resolve_cipher(choice)
    }
}

fn hostile(point: [u8; 32], bad: usize) -> Builder<'static> {
    let honest = Resolver { seed: Seed::from_bytes([1; 32]), public: None };
    let resolver = Hostile { point, bad, resolved: Cell::new(0), honest };
    Builder::with_resolver(params(CipherSuite::Aes256Gcm).unwrap(), Box::new(resolver))
        .prologue(b"same")
        .and_then(|builder| builder.psk(0, &PSK)?.psk(3, &PSK)?.local_private_key(&[7; 32]))
        .unwrap()
}

fn honest() -> Parameters<'static> {
    Parameters {
        suite: CipherSuite::Aes256Gcm,
        psk: &PSK,
        prologue: b"same",
        secret: &[3; 32],
        public: public_key(&[3; 32]),
    }
}

#[test]
fn a_low_order_ephemeral_in_init_is_refused_when_it_is_answered() {
    for point in LOW_ORDER.map(array) {
        let mut hostile = Noise(Box::new(hostile(point, 1).build_initiator().unwrap()));
        let mut message = [0; 32 + 16];
        hostile.write(&[], &mut message).unwrap();
        assert_eq!(message[..32], point);
        let mut responder = Noise::responder(&honest(), &mut rng(1));
        responder.read(&message, &mut []).unwrap();
        assert_eq!(responder.write(&[], &mut [0; 96]), Err(HandshakeError::LowOrder));
    }
}

#[test]
fn low_order_keys_in_resp_are_refused() {
    for point in LOW_ORDER.map(array) {
        for bad in [0, 1] {
            let mut initiator = Noise::initiator(&honest(), &mut rng(1));
            let (mut message, mut answer) = ([0; 48], [0; 96]);
            initiator.write(&[], &mut message).unwrap();
            let mut hostile = hostile(point, bad).build_responder().unwrap();
            hostile.read_message(&message, &mut []).unwrap();
            // The honest half of the hostile side refuses too where its ephemeral meets an honest one; not here.
            assert_eq!(hostile.write_message(&[], &mut answer), Ok(96));
            assert_eq!(initiator.read(&answer, &mut []), Err(HandshakeError::LowOrder), "key {bad}");
        }
    }
}

#[test]
fn a_low_order_static_key_in_conf_is_refused() {
    for point in LOW_ORDER.map(array) {
        let mut hostile = hostile(point, 0).build_initiator().unwrap();
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
        let other = Parameters {
            suite: CipherSuite::Aes256Gcm,
            psk,
            prologue,
            secret: &[4; 32],
            public: public_key(&[4; 32]),
        };
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
