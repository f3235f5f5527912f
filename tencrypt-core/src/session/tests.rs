use super::*;
use crate::{
    record::{Aead, CipherSuite, DATA_OVERHEAD, FLAG_CSUM_PARTIAL, SessionIndex},
    stats::DropReason,
};

const AEADS: [Aead; 2] = Aead::ALL;

fn keys(aead: Aead, number: u8) -> DirectionKeys {
    DirectionKeys::derive(aead, &[number; 32], &[0x33; 32])
}

fn pair(aead: Aead) -> (Sealer, Opener) {
    let keys = keys(aead, 1);
    (Sealer::new(&keys, SessionIndex::from_u32(0x0102_0304).unwrap()), Opener::new(&keys))
}

fn seal(sealer: &mut Sealer, flags: u8, packet: &[u8]) -> Vec<u8> {
    let mut record = vec![0x77; packet.len() + DATA_OVERHEAD];
    let counter = sealer.counters(1).unwrap().take().unwrap();
    sealer.seal(counter, flags, packet, &mut record);
    record
}

fn open(opener: &mut Opener, record: &[u8]) -> Result<(Vec<u8>, u8), DropReason> {
    opener.open(&mut record.to_vec()).map(|plain| (plain.bytes.to_vec(), plain.flags))
}

#[test]
fn what_is_sealed_opens_once() {
    for aead in AEADS {
        let (mut sealer, mut opener) = pair(aead);
        for len in [0, 1, 15, 16, 17, 20, 1_400, 9_000, 65_475] {
            let packet: Vec<u8> = (0..len).map(|at| at as u8).collect();
            for flags in [0, FLAG_CSUM_PARTIAL] {
                let record = seal(&mut sealer, flags, &packet);
                assert_eq!(open(&mut opener, &record), Ok((packet.clone(), flags)), "{aead:?} {len}");
                assert_eq!(open(&mut opener, &record), Err(DropReason::Replay), "{aead:?} {len}");
            }
        }
    }
}

#[test]
fn a_record_begins_with_the_header_of_the_specification() {
    let (mut sealer, _) = pair(Aead::Aes256Gcm);
    sealer.skip_to(0x0102);
    let record = seal(&mut sealer, FLAG_CSUM_PARTIAL, b"packet");
    assert_eq!(record[..16], [4, 1, 0, 0, 4, 3, 2, 1, 2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(record.len(), 16 + 6 + 16);
}

#[test]
fn every_flipped_bit_is_refused_and_changes_nothing() {
    for aead in AEADS {
        let (mut sealer, mut opener) = pair(aead);
        let record = seal(&mut sealer, 0, b"a packet");
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let outcome = open(&mut opener, &flipped);
            let expected = match bit / 8 {
                // 4 becomes 5, 6, 0 or one with a high bit; none of those is of this length or spoken.
                0 => &[DropReason::Unsupported][..],
                1 if bit % 8 == 0 => &[DropReason::Auth],
                1..4 => &[DropReason::Malformed],
                _ => &[DropReason::Auth],
            };
            assert!(
                outcome.as_ref().is_err_and(|reason| expected.contains(reason)),
                "bit {bit}: {outcome:?}"
            );
        }
        assert_eq!(open(&mut opener, &record), Ok((b"a packet".to_vec(), 0)));
    }
}

#[test]
fn truncated_records_are_refused_at_every_length() {
    let (mut sealer, mut opener) = pair(Aead::Aes256Gcm);
    let record = seal(&mut sealer, 0, b"a packet");
    for len in 0..record.len() {
        let expected = if len < DATA_OVERHEAD { DropReason::Malformed } else { DropReason::Auth };
        assert_eq!(open(&mut opener, &record[..len]), Err(expected), "{len}");
    }
    assert!(open(&mut opener, &record).is_ok());
}

#[test]
fn a_forgery_from_the_far_future_does_not_move_the_window() {
    let (mut sealer, mut opener) = pair(Aead::Aes256Gcm);
    let record = seal(&mut sealer, 0, b"a packet");
    for counter in [1_u64, 8_192, 1 << 40, u64::MAX] {
        let mut forged = record.clone();
        forged[8..16].copy_from_slice(&counter.to_le_bytes());
        assert_eq!(open(&mut opener, &forged), Err(DropReason::Auth));
    }
    assert!(open(&mut opener, &record).is_ok());
}

#[test]
fn records_arrive_in_any_order_within_the_window() {
    let (mut sealer, mut opener) = pair(Aead::Aes256Gcm);
    let first = seal(&mut sealer, 0, b"0");
    let second = seal(&mut sealer, 0, b"1");
    sealer.skip_to(ReplayWindow::SIZE);
    let late = seal(&mut sealer, 0, b"8192");
    assert!(open(&mut opener, &late).is_ok());
    assert_eq!(open(&mut opener, &second), Ok((b"1".to_vec(), 0)));
    assert_eq!(open(&mut opener, &first), Err(DropReason::TooOld));
}

#[test]
fn a_peer_that_jumps_to_the_last_counter_harms_only_its_own_session() {
    let (mut sealer, mut opener) = pair(Aead::Aes256Gcm);
    sealer.lower_limits([u64::MAX; 3]);
    let before = seal(&mut sealer, 0, b"before");
    sealer.skip_to(u64::MAX - 1);
    let last = seal(&mut sealer, 0, b"last");
    assert_eq!(open(&mut opener, &last), Ok((b"last".to_vec(), 0)));
    assert_eq!(open(&mut opener, &last), Err(DropReason::Replay));
    assert_eq!(open(&mut opener, &before), Err(DropReason::TooOld));
    assert_eq!(sealer.counters(1).err(), Some(DropReason::Limit));
}

#[test]
fn records_of_another_key_do_not_open() {
    let (mut sealer, _) = pair(Aead::Aes256Gcm);
    let record = seal(&mut sealer, 0, b"a packet");
    for keys in [keys(Aead::Aes256Gcm, 2), keys(Aead::ChaCha20Poly1305, 1)] {
        assert_eq!(open(&mut Opener::new(&keys), &record), Err(DropReason::Auth));
    }
}

#[test]
fn counters_are_consecutive_and_burnt_when_not_spent() {
    let (mut sealer, _) = pair(Aead::Aes256Gcm);
    let mut train = sealer.counters(3).unwrap();
    assert_eq!(train.left(), 3);
    let mut numbers = Vec::new();
    while let Some(counter) = train.take() {
        let mut record = [0; DATA_OVERHEAD];
        sealer.seal(counter, 0, &[], &mut record);
        numbers.push(record[8]);
    }
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(sealer.counters(10).map(|train| train.left()), Ok(10));
    assert_eq!(seal(&mut sealer, 0, &[])[8], 13);
}

#[test]
#[should_panic(expected = "a counter of another Sealer")]
fn a_counter_of_another_sealer_is_refused() {
    let mut one = Sealer::new(&keys(Aead::Aes256Gcm, 1), SessionIndex::from_u32(1).unwrap());
    let mut other = Sealer::new(&keys(Aead::Aes256Gcm, 2), SessionIndex::from_u32(1).unwrap());
    let counter = one.counters(1).unwrap().take().unwrap();
    other.seal(counter, 0, &[], &mut [0; DATA_OVERHEAD]);
}

#[test]
#[should_panic(expected = "32 bytes longer")]
fn a_buffer_of_wrong_length_is_refused() {
    let (mut sealer, _) = pair(Aead::Aes256Gcm);
    let counter = sealer.counters(1).unwrap().take().unwrap();
    sealer.seal(counter, 0, b"packet", &mut [0; DATA_OVERHEAD]);
}

#[test]
fn the_limit_is_exact_and_half_of_it_wants_a_rekey() {
    for aead in AEADS {
        let (mut sealer, _) = pair(aead);
        sealer.lower_limits([10, 6, 4]);
        for at in 0..10 {
            assert_eq!(sealer.wants_rekey(), at >= 5, "{at}");
            seal(&mut sealer, 0, &[]);
        }
        assert_eq!(sealer.counters(1).err(), Some(DropReason::Limit));
        assert!(sealer.counters(0).is_ok());
    }
}

#[test]
fn a_train_that_does_not_fit_takes_nothing() {
    let (mut sealer, _) = pair(Aead::Aes256Gcm);
    sealer.lower_limits([10, 6, 4]);
    assert_eq!(sealer.counters(11).err(), Some(DropReason::Limit));
    assert_eq!(sealer.counters(10).map(|train| train.left()), Ok(10));
}

#[test]
fn longer_records_lower_the_limit_for_good() {
    for (len, limit) in [(2_016, 10), (2_017, 6), (9_184, 6), (9_185, 4), (65_503, 4)] {
        let (mut sealer, _) = pair(Aead::Aes256Gcm);
        sealer.lower_limits([10, 6, 4]);
        seal(&mut sealer, 0, &vec![0; len]);
        let left = (0..20).take_while(|_| sealer.counters(1).is_ok()).count();
        assert_eq!(left + 1, limit, "{len}");
    }
}

#[test]
fn the_limits_are_those_of_rfc_9001() {
    for (len, exponent) in [(2_016, 28), (9_184, 25), (65_503, 23)] {
        let (mut sealer, _) = pair(Aead::Aes256Gcm);
        seal(&mut sealer, 0, &vec![0; len]);
        sealer.skip_to((1 << (exponent - 1)) - 1);
        assert!(!sealer.wants_rekey(), "{len}");
        sealer.skip_to(1 << (exponent - 1));
        assert!(sealer.wants_rekey(), "{len}");
        sealer.skip_to((1 << exponent) - 1);
        assert!(sealer.counters(1).is_ok(), "{len}");
        assert_eq!(sealer.counters(1).err(), Some(DropReason::Limit), "{len}");
    }
}

#[test]
fn a_key_that_met_too_many_forgeries_opens_nothing() {
    let (mut sealer, mut opener) = pair(Aead::Aes256Gcm);
    opener.lower_failed_tags(3);
    let record = seal(&mut sealer, 0, b"a packet");
    let mut forged = record.clone();
    forged[20] ^= 1;
    for _ in 0..3 {
        assert_eq!(open(&mut opener, &forged), Err(DropReason::Auth));
    }
    assert_eq!(open(&mut opener, &forged), Err(DropReason::Limit));
    assert_eq!(open(&mut opener, &record), Err(DropReason::Limit));
}

#[test]
fn a_replay_is_no_forgery() {
    let (mut sealer, mut opener) = pair(Aead::Aes256Gcm);
    opener.lower_failed_tags(1);
    let record = seal(&mut sealer, 0, b"a packet");
    assert!(open(&mut opener, &record).is_ok());
    for _ in 0..5 {
        assert_eq!(open(&mut opener, &record), Err(DropReason::Replay));
    }
    assert!(open(&mut opener, &seal(&mut sealer, 0, b"next")).is_ok());
}

#[test]
fn a_handshake_message_is_no_record() {
    let (_, mut opener) = pair(Aead::Aes256Gcm);
    let mut init =
        crate::record::init_header(CipherSuite::Aes256Gcm, 0, SessionIndex::from_u32(1).unwrap()).to_vec();
    init.resize(CipherSuite::Aes256Gcm.init_len(), 0);
    assert_eq!(open(&mut opener, &init), Err(DropReason::Unsupported));
}

#[test]
fn no_key_is_printed() {
    let (sealer, opener) = pair(Aead::Aes256Gcm);
    let keys = keys(Aead::Aes256Gcm, 1);
    let shown = format!("{sealer:?} {opener:?} {keys:?}");
    assert!(shown.contains("Secret(..)") && shown.len() < 400, "{shown}");
}
