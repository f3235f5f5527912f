use proptest::prelude::*;

use super::*;
use crate::stats::DropReason;

const SUITE: CipherSuite = CipherSuite::Aes256Gcm;
const INIT_LEN: usize = SUITE.init_len();

fn index(number: u32) -> SessionIndex {
    SessionIndex::from_u32(number).unwrap()
}

fn init() -> Vec<u8> {
    let mut bytes = init_header(SUITE, 7, index(0x0403_0201)).to_vec();
    bytes.resize(INIT_LEN, 0xee);
    bytes
}

fn resp() -> Vec<u8> {
    let mut bytes = resp_header(SUITE, 7, index(1), index(2)).to_vec();
    bytes.resize(SUITE.resp_len(), 0xee);
    bytes
}

fn conf() -> Vec<u8> {
    let mut bytes = conf_header(SUITE, 7, index(1), index(2)).to_vec();
    bytes.resize(CONF_LEN, 0xee);
    bytes
}

fn data(len: usize) -> Vec<u8> {
    let mut bytes = data_header(FLAG_CSUM_PARTIAL, index(0x0d0c_0b0a), 0x0807_0605_0403_0201).to_vec();
    bytes.resize(len, 0xee);
    bytes
}

#[test]
fn headers_are_the_bytes_of_the_specification() {
    assert_eq!(init_header(SUITE, 7, index(0x0403_0201)), [1, 1, 2, 7, 1, 2, 3, 4, 0, 0, 0, 0]);
    assert_eq!(
        resp_header(CipherSuite::ChaCha20Poly1305, 255, index(0x0403_0201), index(0x0807_0605)),
        [2, 1, 1, 255, 1, 2, 3, 4, 5, 6, 7, 8]
    );
    assert_eq!(conf_header(SUITE, 0, index(1), index(2)), [3, 1, 2, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(
        data_header(1, index(0x0d0c_0b0a), 0x0807_0605_0403_0201),
        [4, 1, 0, 0, 10, 11, 12, 13, 1, 2, 3, 4, 5, 6, 7, 8]
    );
}

#[test]
fn every_message_is_read_back() {
    let bytes = init();
    let Ok(Message::Init(init)) = parse(&bytes) else { panic!("INIT") };
    assert_eq!((init.suite, init.epoch, init.sender), (SUITE, 7, index(0x0403_0201)));
    let bytes = resp();
    let Ok(Message::Resp(resp)) = parse(&bytes) else { panic!("RESP") };
    assert_eq!((resp.suite, resp.epoch, resp.sender, resp.receiver), (SUITE, 7, index(1), index(2)));
    let bytes = conf();
    let Ok(Message::Conf(conf)) = parse(&bytes) else { panic!("CONF") };
    assert_eq!((conf.suite, conf.epoch, conf.sender, conf.receiver), (SUITE, 7, index(1), index(2)));
    let Ok(Message::Data(data)) = parse(&data(100)) else { panic!("DATA") };
    assert_eq!((data.flags, data.index, data.counter), (1, index(0x0d0c_0b0a), 0x0807_0605_0403_0201));
}

#[test]
fn an_init_says_which_lane_of_its_sender_it_is_from_and_nothing_else_does() {
    let mut bytes = init();
    assert_eq!(SessionIndex::lane_of_init(&bytes), Some(0));
    bytes[7] = 0xf4;
    assert_eq!(SessionIndex::lane_of_init(&bytes), Some(15));
    for (at, wrong) in [(0, 9), (1, 2), (2, 9), (8, 1)] {
        let mut bytes = bytes.clone();
        bytes[at] = wrong;
        assert_eq!(SessionIndex::lane_of_init(&bytes), None, "{at}");
    }
    for other in [resp(), conf(), data(INIT_LEN), bytes[..INIT_LEN - 1].to_vec(), vec![]] {
        assert_eq!(SessionIndex::lane_of_init(&other), None);
    }
}

#[test]
fn each_type_has_one_length_and_data_a_least_one() {
    for &suite in CipherSuite::ALL {
        let hybrid = suite.is_hybrid();
        let (long, short) = (if hybrid { 1_372 } else { 284 }, 252);
        for (mut whole, exact) in [(init(), long), (resp(), long), (conf(), short)] {
            whole[2] = suite.wire_byte();
            for len in 0..2_048 {
                let mut bytes = whole.clone();
                bytes.resize(len, 0);
                let expected = if len == exact { None } else { Some(DropReason::Malformed) };
                assert_eq!(parse(&bytes).err(), expected, "{suite}: type {} length {len}", whole[0]);
            }
        }
    }
    for len in 0..2_048 {
        let mut bytes = data(2_048);
        bytes.truncate(len);
        assert_eq!(parse(&bytes).err(), (len < 32).then_some(DropReason::Malformed), "DATA length {len}");
    }
}

#[test]
fn other_types_versions_and_suites_are_unsupported() {
    for kind in (0..=u8::MAX).filter(|kind| !matches!(kind, 1..=6)) {
        for len in [1, 31, 32, 64, INIT_LEN] {
            let mut bytes = vec![0; len];
            bytes[0] = kind;
            assert_eq!(parse(&bytes), Err(DropReason::Unsupported), "type {kind}");
        }
    }
    for whole in [init(), resp(), conf()] {
        for value in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[1] = value;
            assert_eq!(
                parse(&bytes).err(),
                (value != 1).then_some(DropReason::Unsupported),
                "version {value}"
            );
            let mut bytes = whole.clone();
            bytes[2] = value;
            let expected = match value {
                1 | 2 => None,
                // INIT and RESP of a hybrid suite are longer, CONF is not.
                3 | 4 => (whole[0] != 3).then_some(DropReason::Malformed),
                _ => Some(DropReason::Unsupported),
            };
            assert_eq!(parse(&bytes).err(), expected, "suite {value}");
        }
    }
}

#[test]
fn zero_indices_and_an_init_with_a_receiver_are_malformed() {
    for mut bytes in [init(), resp(), conf()] {
        bytes[4..8].fill(0);
        assert_eq!(parse(&bytes), Err(DropReason::Malformed));
    }
    for mut bytes in [resp(), conf()] {
        bytes[8..12].fill(0);
        assert_eq!(parse(&bytes), Err(DropReason::Malformed));
    }
    let mut bytes = init();
    bytes[11] = 0x80;
    assert_eq!(parse(&bytes), Err(DropReason::Malformed));
    let mut bytes = data(64);
    bytes[4..8].fill(0);
    assert_eq!(parse(&bytes), Err(DropReason::Malformed));
}

#[test]
fn every_reserved_bit_of_data_must_be_zero() {
    for (byte, bits) in [(1, 1..8), (2, 0..8), (3, 0..8)] {
        for bit in bits {
            let mut bytes = data(64);
            bytes[byte] |= 1 << bit;
            assert_eq!(parse(&bytes), Err(DropReason::Malformed), "byte {byte} bit {bit}");
        }
    }
    assert_eq!(data_header(0xff, index(1), 0)[1], FLAG_CSUM_PARTIAL);
}

#[test]
fn a_reset_is_32_bytes_and_each_of_its_fields_counts() {
    let mut whole = reset_header(7, index(0x0403_0201), 0x0807_0605_0403_0201).to_vec();
    assert_eq!(whole, [6, 1, 0, 7, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]);
    whole.extend([0xab; 16]);
    assert_eq!(parse(&whole), Ok(Message::Reset(Reset { epoch: 7, index: index(0x0403_0201) })));
    assert_eq!(covered_by_tag(&whole).unwrap(), (whole[..16].try_into().unwrap(), &[0xab; 16]));
    for len in 1..300 {
        let mut bytes = whole.clone();
        bytes.resize(len, 0xab);
        assert_eq!(parse(&bytes).err(), (len != RESET_LEN).then_some(DropReason::Malformed), "length {len}");
        assert_eq!(covered_by_tag(&bytes).is_some(), len == RESET_LEN);
    }
    for value in 0..=u8::MAX {
        let with = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] = value;
            parse(&bytes).err()
        };
        assert_eq!(with(1), (value != VERSION).then_some(DropReason::Unsupported));
        assert_eq!(with(2), (value != 0).then_some(DropReason::Malformed));
        assert_eq!(with(3), None, "the epoch is not judged without keys");
    }
    whole[4..8].fill(0);
    assert_eq!(parse(&whole), Err(DropReason::Malformed));
    assert_eq!(mac1(&whole), None);
}

#[test]
fn mac1_is_found_in_handshake_messages_only() {
    for mut bytes in [init(), resp(), conf()] {
        let at = bytes.len() - 32;
        bytes[at..at + 16].fill(0xab);
        assert_eq!(mac1(&bytes), Some([0xab; 16]));
        let (epoch, covered, mac1) = covered_by_mac1(&bytes).unwrap();
        assert_eq!((epoch, covered, mac1), (7, &bytes[..at], &[0xab; 16]));
    }
    assert_eq!(mac1(&data(300)), None);
    assert_eq!(mac1(&[]), None);
    assert_eq!(mac1(&init()[..43]), None);
    assert!(mac1(&init()[..44]).is_some());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0u8..8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let _ = mac1(&bytes);
        if let Ok(Message::Data(header)) = parse(&bytes) {
            prop_assert_eq!(&data_header(header.flags, header.index, header.counter)[..], &bytes[..16]);
        }
    }
}

#[test]
fn types_and_indices_of_every_message_are_where_the_layout_says() {
    let (first, second) = (index(0x0403_0201), index(0x0807_0605));
    let cookie = cookie_header(first);
    let messages: [(u8, &[u8]); 6] = [
        (layout::INIT, &init_header(SUITE, 7, first)),
        (layout::RESP, &resp_header(SUITE, 7, first, second)),
        (layout::CONF, &conf_header(SUITE, 7, first, second)),
        (layout::DATA, &data_header(0, first, u64::MAX)),
        (layout::COOKIE, &cookie),
        (layout::RESET, &reset_header(7, first, u64::MAX)),
    ];
    for (kind, message) in messages {
        let head = Head::read(message).unwrap();
        assert_eq!(head, Head { message_type: kind, index: [1, 2, 3, 4] }, "{kind}");
        let receiver = message.get(layout::RECEIVER);
        match kind {
            layout::INIT => assert_eq!(receiver, Some(&[0; 4][..])),
            layout::RESP | layout::CONF => assert_eq!(receiver, Some(&[5, 6, 7, 8][..])),
            _ => {}
        }
        assert_eq!(head.is_answered_at_index(), kind < layout::CONF);
        assert_eq!(Head::read(&message[..Head::LEN - 1]), None);
    }
    assert_eq!(Head::read(&[]), None);
    assert_eq!(Head::LEN, 8);
}
