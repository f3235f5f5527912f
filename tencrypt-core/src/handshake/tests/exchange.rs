use proptest::prelude::*;

use crate::{
    crypto::{Rng, Seed, witness},
    handshake::*,
    record::{CONF_LEN, Conf, DATA_OVERHEAD, IDENTITY_LEN, Init, KEM_CIPHERTEXT_LEN, Message, Resp, parse},
};

const SUITE: CipherSuite = CipherSuite::Aes256Gcm;
/// One of either key exchange.
const SUITES: [CipherSuite; 2] = [SUITE, CipherSuite::MlKem768Aes256Gcm];
const MAC2: std::ops::Range<usize> = 16..32;

fn rng(number: u8) -> Rng {
    Rng::new(Seed::from_bytes([number; 32]))
}

fn index(number: u32) -> SessionIndex {
    SessionIndex::from_u32(number).unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// Tenant, epoch and root of a key file.
fn ring(tenant: u8, epoch: u8, root: u8) -> KeyRing {
    let mut bytes = [root; 32];
    bytes[0] ^= 1;
    KeyRing::parse(&KeyRing::write_file([tenant; 16], epoch, &bytes)).unwrap()
}

/// One member, all of it from `number`.
struct Side {
    keys: KeyRing,
    suite: CipherSuite,
    identity: Identity,
    addresses: Vec<IpAddr>,
    number: u8,
}

impl Side {
    fn new(number: u8) -> Self {
        let identity = Identity::generate(Seed::from_bytes([number; 32]), &[address(number)]);
        Self { keys: ring(1, 7, 9), suite: SUITE, identity, addresses: vec![address(number)], number }
    }

    fn of_suite(number: u8, suite: CipherSuite) -> Self {
        Self { suite, ..Self::new(number) }
    }

    fn local(&self) -> Local<'_> {
        Local::new(&self.keys, self.suite, &self.identity, &self.addresses, self.number % 2 == 1)
    }

    fn start(&self) -> (Initiator, Box<[u8]>) {
        Initiator::start(&self.local(), index(0x1000), address(99), &mut rng(self.number + 100))
    }

    fn accept(&self, init: &[u8]) -> Result<(Responder, Box<[u8]>), HandshakeError> {
        Responder::accept(&self.local(), &as_init(init), index(0x2000), &mut rng(self.number + 100))
    }
}

fn as_init(bytes: &[u8]) -> Init<'_> {
    match parse(bytes) {
        Ok(Message::Init(init)) => init,
        other => panic!("{other:?}"),
    }
}

fn as_resp(bytes: &[u8]) -> Resp<'_> {
    match parse(bytes) {
        Ok(Message::Resp(resp)) => resp,
        other => panic!("{other:?}"),
    }
}

fn as_conf(bytes: &[u8]) -> Conf<'_> {
    match parse(bytes) {
        Ok(Message::Conf(conf)) => conf,
        other => panic!("{other:?}"),
    }
}

/// Members 1 and 2.
fn sides(suite: CipherSuite) -> (Side, Side) {
    (Side::of_suite(1, suite), Side::of_suite(2, suite))
}

/// The bits of a message's Noise part; of a long one a bit of each byte.
fn noise_bits(message: &[u8]) -> impl Iterator<Item = usize> {
    let step = if message.len() > 300 { 9 } else { 1 };
    (12 * 8..(message.len() - 32) * 8).step_by(step)
}

/// Initiator 1 and responder 2, and the three messages between them.
struct Exchange {
    initiator: Established,
    responder: Established,
    messages: [Vec<u8>; 3],
}

fn exchange(one: &Side, two: &Side) -> Exchange {
    let (mut initiator, init) = one.start();
    let (responder, resp) = two.accept(&init).unwrap();
    assert_eq!(responder.asked(), address(99));
    let Confirmed { established, conf } = initiator.handle_resp(&as_resp(&resp)).unwrap();
    let responder = responder.handle_conf(&as_conf(&conf)).unwrap();
    Exchange { initiator: established, responder, messages: [init.into(), resp.into(), conf.into()] }
}

fn say(from: &mut Established, to: &mut Established, text: &[u8]) {
    let mut record = vec![0; text.len() + DATA_OVERHEAD];
    let counter = from.sealer.counters(1).unwrap().take().unwrap();
    from.sealer.seal(counter, 0, text, &mut record);
    let Ok(Message::Data(header)) = parse(&record) else { panic!("a record") };
    assert_eq!(header.index, to.local_index);
    assert_eq!(&*to.opener.open(&mut record).unwrap().bytes, text);
}

/// Makes mac1 right again, as a member of the tenant can.
fn remac(keys: &KeyRing, bytes: &mut [u8]) {
    let at = bytes.len() - 32;
    let mac1 = keys.sent().mac1(&bytes[..at]);
    bytes[at..at + 16].copy_from_slice(&mac1);
}

#[test]
fn a_handshake_gives_both_sides_one_session() {
    for &suite in CipherSuite::ALL {
        let (one, two) = sides(suite);
        let Exchange { mut initiator, mut responder, messages } = exchange(&one, &two);
        let long = if suite.is_hybrid() { 1_372 } else { 284 };
        assert_eq!(messages.each_ref().map(Vec::len), [long, long, 252]);
        assert_eq!((initiator.peer, responder.peer), (two.identity.peer_id(), one.identity.peer_id()));
        assert_eq!((initiator.local_index, initiator.remote_index), (index(0x1000), index(0x2000)));
        assert_eq!((responder.local_index, responder.remote_index), (index(0x2000), index(0x1000)));
        assert_eq!(
            responder.identity,
            PeerIdentity { vnet: true, addresses: vec![address(1)], certificate: None }
        );
        assert_eq!(
            initiator.identity,
            PeerIdentity { vnet: false, addresses: vec![address(2)], certificate: None }
        );
        for side in [&initiator, &responder] {
            assert_eq!((side.epoch, side.suite), (7, suite));
        }
        say(&mut initiator, &mut responder, b"there");
        say(&mut responder, &mut initiator, b"and back");
        say(&mut initiator, &mut responder, b"");
    }
}

/// A search of the memory sees no difference where something else overwrites the stack by chance, so the wipes are noted.
#[test]
fn every_step_of_a_handshake_makes_secrets_and_wipes_the_stack_after_the_last() {
    for &suite in CipherSuite::ALL {
        let (one, two) = sides(suite);
        let wiped = |step: &str, made: bool| {
            assert_eq!(witness::unwiped(), 0, "{suite:?}: after {step}");
            let noted = witness::noted().len();
            witness::begin();
            assert_eq!(noted > 0, made, "{suite:?}: {step}");
        };
        witness::begin();
        let (mut initiator, init) = one.start();
        wiped("INIT", true);
        let (responder, resp) = two.accept(&init).unwrap();
        wiped("RESP", true);
        let confirmed = initiator.handle_resp(&as_resp(&resp)).unwrap();
        wiped("CONF", true);
        let established = responder.handle_conf(&as_conf(&confirmed.conf)).unwrap();
        wiped("the end", true);
        drop((confirmed, established));
        // A handshake that fails leaves as little.
        assert!(
            two.accept(&{
                let mut forged = init.clone();
                forged[20] ^= 1;
                remac(&two.keys, &mut forged);
                forged
            })
            .is_err()
        );
        wiped("a forged INIT", true);
    }
}

#[test]
fn the_directions_have_keys_of_their_own() {
    let Exchange { mut initiator, .. } = exchange(&Side::new(1), &Side::new(2));
    let mut record = [0; DATA_OVERHEAD];
    let counter = initiator.sealer.counters(1).unwrap().take().unwrap();
    initiator.sealer.seal(counter, 0, &[], &mut record);
    assert_eq!(initiator.opener.open(&mut record).err(), Some(DropReason::Auth), "a reflected record");
}

#[test]
fn seeds_decide_every_byte_and_fresh_ones_change_all_of_it() {
    let (one, two) = (Side::new(1), Side::new(2));
    let first = exchange(&one, &two).messages;
    assert_eq!(first, exchange(&one, &two).messages);
    let (_, init) = Initiator::start(&one.local(), index(0x1000), address(99), &mut rng(55));
    let same = init[12..].iter().zip(&first[0][12..252]).filter(|(one, other)| one == other).count();
    assert!(same < 10, "{same} equal bytes");
}

#[test]
fn messages_hide_identities_and_addresses() {
    let (one, two) = (Side::new(1), Side::new(2));
    for message in exchange(&one, &two).messages {
        for secret in [&one.identity.peer_id().as_bytes()[..8], &two.identity.peer_id().as_bytes()[..8]] {
            assert!(!message.windows(8).any(|window| window == secret));
        }
        assert!(!message.windows(4).any(|window| window == [10, 0, 0, 99]));
        assert!(
            !message.windows(8).any(|window| window == [0; 8]) || message[message.len() - 16..] == [0; 16]
        );
    }
}

#[test]
fn an_outsider_cannot_change_a_bit_but_those_of_mac2() {
    let one = Side::new(1);
    for message in exchange(&one, &Side::new(2)).messages {
        assert_eq!(verify_mac1(&one.keys, &message), Ok(()));
        for bit in 0..message.len() * 8 {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let outcome = parse(&flipped).and_then(|_| verify_mac1(&one.keys, &flipped));
            let from_macs = (bit / 8 + 32).checked_sub(message.len());
            let ignored = from_macs.is_some_and(|at| MAC2.contains(&at));
            assert_eq!(outcome.is_ok(), ignored, "type {} bit {bit}", message[0]);
        }
    }
}

#[test]
fn a_record_is_no_handshake_message_for_mac1() {
    let one = Side::new(1);
    let mut record = vec![0; SUITE.init_len()];
    record[0] = 4;
    assert_eq!(verify_mac1(&one.keys, &record), Err(DropReason::Malformed));
    assert_eq!(verify_mac1(&one.keys, &[]), Err(DropReason::Malformed));
}

#[test]
fn a_member_cannot_change_a_bit_of_inits_noise_message() {
    for suite in SUITES {
        let (one, two) = sides(suite);
        let (_, init) = one.start();
        for bit in noise_bits(&init) {
            let mut forged = init.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            remac(&one.keys, &mut forged);
            assert_eq!(verify_mac1(&two.keys, &forged), Ok(()));
            assert_eq!(two.accept(&forged).err(), Some(HandshakeError::Auth), "{suite} bit {bit}");
        }
    }
}

#[test]
fn a_forged_resp_leaves_the_initiator_to_the_genuine_one() {
    for suite in SUITES {
        let (one, two) = sides(suite);
        let (mut initiator, init) = one.start();
        let (responder, resp) = two.accept(&init).unwrap();
        for bit in noise_bits(&resp) {
            let mut forged = resp.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let outcome = initiator.handle_resp(&as_resp(&forged)).err();
            assert_eq!(outcome, Some(HandshakeError::Auth), "{suite} bit {bit}");
        }
        let Confirmed { conf, mut established } = initiator.handle_resp(&as_resp(&resp)).unwrap();
        let mut responder = responder.handle_conf(&as_conf(&conf)).unwrap();
        say(&mut established, &mut responder, b"still");
    }
}

#[test]
fn low_order_keys_in_a_forged_resp_leave_the_initiator_to_the_genuine_one() {
    let (one, two) = (Side::new(1), Side::new(2));
    let (mut initiator, init) = one.start();
    let (_, resp) = two.accept(&init).unwrap();
    for fill in [[0; 32], {
        let mut point = [0; 32];
        point[0] = 1;
        point
    }] {
        let mut forged = resp.clone();
        forged[12..44].copy_from_slice(&fill);
        let outcome = initiator.handle_resp(&as_resp(&forged)).err();
        assert_eq!(outcome, Some(HandshakeError::LowOrder));
    }
    assert!(initiator.handle_resp(&as_resp(&resp)).is_ok());
}

#[test]
fn a_forged_conf_makes_no_session() {
    for suite in SUITES {
        let (one, two) = sides(suite);
        let [init, _, conf] = exchange(&one, &two).messages;
        for bit in noise_bits(&conf) {
            let mut forged = conf.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let (responder, _) = two.accept(&init).unwrap();
            let outcome = responder.handle_conf(&as_conf(&forged)).err();
            assert_eq!(outcome, Some(HandshakeError::Auth), "{suite} bit {bit}");
        }
    }
}

#[test]
fn messages_of_another_handshake_do_not_fit() {
    let (one, two) = (Side::new(1), Side::new(2));
    let (mut initiator, init) = one.start();
    let (_, other_init) = Initiator::start(&one.local(), index(0x1000), address(99), &mut rng(77));
    let (responder, resp) = two.accept(&init).unwrap();
    let (_, other_resp) = two.accept(&other_init).unwrap();
    assert_eq!(initiator.handle_resp(&as_resp(&other_resp)).err(), Some(HandshakeError::Auth));
    let mut third = Initiator::start(&one.local(), index(0x1000), address(99), &mut rng(77)).0;
    let other_conf = third.handle_resp(&as_resp(&other_resp)).unwrap().conf;
    assert_eq!(responder.handle_conf(&as_conf(&other_conf)).err(), Some(HandshakeError::Auth));
    assert!(initiator.handle_resp(&as_resp(&resp)).is_ok());
}

#[test]
fn indices_tie_messages_to_their_handshake() {
    let (one, two) = (Side::new(1), Side::new(2));
    let (mut initiator, init) = one.start();
    let (_, resp) = two.accept(&init).unwrap();
    let mut other = resp.clone();
    other[8] ^= 1;
    assert_eq!(initiator.handle_resp(&as_resp(&other)).err(), Some(HandshakeError::OtherSession));
    let conf = initiator.handle_resp(&as_resp(&resp)).unwrap().conf;
    for at in [4, 8] {
        let mut other = conf;
        other[at] ^= 1;
        let (responder, _) = two.accept(&init).unwrap();
        assert_eq!(responder.handle_conf(&as_conf(&other)).err(), Some(HandshakeError::OtherSession));
    }
}

#[test]
fn a_repeated_resp_is_not_answered_by_a_second_session() {
    let (one, two) = (Side::new(1), Side::new(2));
    let (mut initiator, init) = one.start();
    let (_, resp) = two.accept(&init).unwrap();
    assert!(initiator.handle_resp(&as_resp(&resp)).is_ok());
    let again = initiator.handle_resp(&as_resp(&resp)).err();
    assert_eq!(again, Some(HandshakeError::Spent));
    assert_eq!(again.map(HandshakeError::drop_reason), Some(DropReason::Replay));
}

#[test]
fn another_tenant_meets_silence_at_mac1() {
    let (_, init) = Side::new(1).start();
    // Another root, and another tenant id over the same root.
    for keys in [ring(1, 7, 8), ring(2, 7, 9)] {
        assert_eq!(verify_mac1(&keys, &init), Err(DropReason::Mac1));
    }
}

#[test]
fn another_tenant_with_a_right_mac1_does_not_decrypt() {
    let (_, mut init) = Side::new(1).start();
    for keys in [ring(1, 7, 8), ring(2, 7, 9)] {
        remac(&keys, &mut init);
        let stranger = Side { keys, ..Side::new(2) };
        assert_eq!(verify_mac1(&stranger.keys, &init), Ok(()));
        assert_eq!(stranger.accept(&init).err(), Some(HandshakeError::Auth));
    }
}

#[test]
fn another_epoch_is_named_as_such() {
    let (_, init) = Side::new(1).start();
    let later = Side { keys: ring(1, 8, 9), ..Side::new(2) };
    assert_eq!(verify_mac1(&later.keys, &init), Err(DropReason::OtherEpoch));
    assert_eq!(later.accept(&init).err(), Some(HandshakeError::OtherEpoch));
    // The epoch byte is bound: the same root under another number is another key to the prologue.
    let mut renamed = init;
    renamed[3] = 8;
    remac(&later.keys, &mut renamed);
    assert_eq!(later.accept(&renamed).err(), Some(HandshakeError::Auth));
}

#[test]
fn another_suite_is_refused_and_a_changed_suite_byte_does_not_decrypt() {
    let (_, init) = Side::of_suite(1, CipherSuite::Aes256Gcm).start();
    let other = Side::of_suite(2, CipherSuite::ChaCha20Poly1305);
    assert_eq!(verify_mac1(&other.keys, &init), Ok(()));
    assert_eq!(other.accept(&init).err(), Some(HandshakeError::OtherSuite));
    let mut renamed = init;
    renamed[2] = other.suite.wire_byte();
    remac(&other.keys, &mut renamed);
    assert_eq!(other.accept(&renamed).err(), Some(HandshakeError::Auth));
}

#[test]
fn resp_and_conf_of_another_suite_or_epoch_are_refused_without_harm() {
    let (one, two) = (Side::new(1), Side::new(2));
    let (mut initiator, init) = one.start();
    let (_, resp) = two.accept(&init).unwrap();
    for (at, value, error) in [(2, 1, HandshakeError::OtherSuite), (3, 6, HandshakeError::OtherEpoch)] {
        let mut other = resp.clone();
        other[at] = value;
        assert_eq!(initiator.handle_resp(&as_resp(&other)).err(), Some(error));
    }
    let conf = initiator.handle_resp(&as_resp(&resp)).unwrap().conf;
    for (at, value, error) in [(2, 1, HandshakeError::OtherSuite), (3, 6, HandshakeError::OtherEpoch)] {
        let mut other = conf;
        other[at] = value;
        let (responder, _) = two.accept(&init).unwrap();
        assert_eq!(responder.handle_conf(&as_conf(&other)).err(), Some(error));
    }
}

#[test]
fn a_side_does_not_speak_to_its_own_key() {
    let one = Side::new(1);
    let (mut initiator, init) = one.start();
    let (_, resp) = one.accept(&init).unwrap();
    assert_eq!(initiator.handle_resp(&as_resp(&resp)).err(), Some(HandshakeError::OwnKey));
    // The responder's half: a clone of its identity whose initiator does not look.
    let conf = careless_conf(&one, &one, payload::encode_identity(false, &[]));
    let (responder, _) = one.accept(&conf.0).unwrap();
    assert_eq!(responder.handle_conf(&as_conf(&conf.1)).err(), Some(HandshakeError::OwnKey));
}

/// INIT and CONF of a member that writes any identity slot and looks at nothing.
fn careless_conf(member: &Side, to: &Side, slot: [u8; IDENTITY_LEN]) -> (Vec<u8>, Vec<u8>) {
    let keys = member.keys.sent();
    let mut noise = member.local().noise(keys, |parameters| Noise::initiator(parameters, &mut rng(9)));
    let header = record::init_header(SUITE, 7, index(5));
    let payload = payload::encode_init(SUITE, address(99), None);
    let init = written(SUITE.init_len(), header, keys, |out| noise.write(&payload, out));
    let (_, resp) = to.accept(&init).unwrap();
    noise.read(as_resp(&resp).noise, &mut [0; IDENTITY_LEN]).unwrap();
    let header = record::conf_header(SUITE, 7, index(5), index(0x2000));
    let conf = written(CONF_LEN, header, keys, |out| noise.write(&slot, out));
    (init, conf)
}

#[test]
fn a_member_whose_identity_slot_is_misspelt_gets_no_session() {
    let (one, two) = (Side::new(1), Side::new(2));
    let good = payload::encode_identity(false, &[address(1)]);
    let (init, conf) = careless_conf(&one, &two, good);
    let (responder, _) = two.accept(&init).unwrap();
    assert!(responder.handle_conf(&as_conf(&conf)).is_ok());
    let mut bad = good;
    bad[IDENTITY_LEN - 1] = 1;
    let (init, conf) = careless_conf(&one, &two, bad);
    let (responder, _) = two.accept(&init).unwrap();
    assert_eq!(responder.handle_conf(&as_conf(&conf)).err(), Some(HandshakeError::Payload));

    let (mut initiator, init) = one.start();
    let keys = two.keys.sent();
    let mut noise = two.local().noise(keys, |parameters| Noise::responder(parameters, &mut rng(9)));
    noise.read(as_init(&init).noise, &mut vec![0; SUITE.init_payload_len()]).unwrap();
    let header = record::resp_header(SUITE, 7, index(0x2000), index(0x1000));
    let resp = written(SUITE.resp_len(), header, keys, |out| noise.write(&bad, out));
    assert_eq!(initiator.handle_resp(&as_resp(&resp)).err(), Some(HandshakeError::Payload));
}

#[test]
fn a_member_that_asks_for_no_address_gets_no_answer() {
    let (one, two) = (Side::new(1), Side::new(2));
    let keys = one.keys.sent();
    let nowhere = payload::encode_init(SUITE, IpAddr::from([127, 0, 0, 1]), None);
    for payload in [vec![0; nowhere.len()], vec![0xff; nowhere.len()], nowhere] {
        let mut noise = one.local().noise(keys, |parameters| Noise::initiator(parameters, &mut rng(9)));
        let header = record::init_header(SUITE, 7, index(5));
        let init = written(SUITE.init_len(), header, keys, |out| noise.write(&payload, out));
        assert_eq!(two.accept(&init).err(), Some(HandshakeError::Payload));
    }
}

#[test]
fn a_member_that_offers_no_encapsulation_key_gets_no_answer() {
    let suite = CipherSuite::MlKem768Aes256Gcm;
    let (one, two) = sides(suite);
    let keys = one.keys.sent();
    // Numbers of 12 bits that are not below 3,329.
    let payload = payload::encode_init(suite, address(99), Some(&[0xff; record::KEM_PUBLIC_LEN]));
    let mut noise = one.local().noise(keys, |parameters| Noise::initiator(parameters, &mut rng(9)));
    let header = record::init_header(suite, 7, index(5));
    let init = written(suite.init_len(), header, keys, |out| noise.write(&payload, out));
    assert_eq!(two.accept(&init).err(), Some(HandshakeError::Payload));
}

/// A responder that answers with a ciphertext of something else: both have the tenant's key and all X25519 secrets, and
/// CONF does not decrypt all the same.
#[test]
fn a_hybrid_handshake_ends_where_the_kem_secrets_differ() {
    let suite = CipherSuite::MlKem768Aes256Gcm;
    let (one, two) = sides(suite);
    let (mut initiator, init) = one.start();
    let keys = two.keys.sent();
    let mut noise = two.local().noise(keys, |parameters| Noise::responder(parameters, &mut rng(9)));
    noise.read(as_init(&init).noise, &mut vec![0; suite.init_payload_len()]).unwrap();
    let payload = payload::encode_resp(&two.local().slot(), Some(&[7; KEM_CIPHERTEXT_LEN]));
    let header = record::resp_header(suite, 7, index(0x2000), index(0x1000));
    let resp = written(suite.resp_len(), header, keys, |out| noise.write(&payload, out));
    let conf = initiator.handle_resp(&as_resp(&resp)).unwrap().conf;
    assert_eq!(noise.read(as_conf(&conf).noise, &mut [0; IDENTITY_LEN]), Err(HandshakeError::Auth));
}

fn written(
    len: usize,
    header: [u8; HANDSHAKE_HEADER_LEN],
    keys: &EpochKeys,
    write: impl FnOnce(&mut [u8]) -> Result<(), HandshakeError>,
) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    write_message(&mut bytes, header, keys, write).unwrap();
    bytes
}

#[test]
fn nothing_secret_is_printed() {
    let (one, two) = (Side::new(1), Side::new(2));
    let (initiator, init) = one.start();
    let (responder, _) = two.accept(&init).unwrap();
    let established = exchange(&one, &two).initiator;
    let shown = format!("{initiator:?} {responder:?} {established:?} {:?}", one.local());
    assert!(!shown.contains("key: [") && shown.len() < 1_200, "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_noise_message_with_a_right_mac1_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), SUITE.init_len())) {
        let (one, two) = (Side::new(1), Side::new(2));
        let (mut initiator, init) = one.start();
        let mut forged = bytes;
        forged[..12].copy_from_slice(&init[..12]);
        remac(&one.keys, &mut forged);
        prop_assert!(two.accept(&forged).is_err());
        let (responder, resp) = two.accept(&init).unwrap();
        forged[..12].copy_from_slice(&resp[..12]);
        prop_assert!(initiator.handle_resp(&as_resp(&forged)).is_err());
        let conf = initiator.handle_resp(&as_resp(&resp)).unwrap().conf;
        forged.truncate(CONF_LEN);
        forged[..12].copy_from_slice(&conf[..12]);
        prop_assert!(responder.handle_conf(&as_conf(&forged)).is_err());
    }
}
