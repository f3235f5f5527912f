use super::*;
use crate::{
    crypto::hex,
    text::{Field, KeyFileProblem, Problem},
};

const TENANT: &str = "000102030405060708090a0b0c0d0e0f";
const ROOT: &str = "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f";

fn file(lines: &[&str]) -> String {
    let mut text = String::from("tencrypt-key-v1\n");
    for line in lines {
        text += line;
        text.push('\n');
    }
    text
}

fn good() -> String {
    file(&[&format!("tenant {TENANT}"), &format!("epoch 7 {ROOT}")])
}

fn problem(text: &str) -> (usize, KeyFileProblem) {
    let error = KeyRing::parse(text).expect_err(text);
    let Problem::KeyFile(problem) = error.problem() else { panic!("{error}") };
    (error.line(), problem)
}

#[test]
fn a_written_file_is_read_back() {
    let tenant = *hex::decode(TENANT).unwrap();
    let root = hex::decode(ROOT).unwrap();
    for epoch in [0, 7, 255] {
        let text = KeyRing::write_file(tenant, epoch, &root);
        let ring = KeyRing::parse(&text).unwrap();
        assert_eq!((ring.tenant_id(), ring.send_epoch()), (&tenant, epoch));
    }
    assert_eq!(*KeyRing::write_file(tenant, 7, &root), good());
    assert!(good().ends_with(KeyRing::write_epoch(7, &root).as_str()));
}

#[test]
fn comments_blank_lines_and_order_mean_nothing() {
    let reference = KeyRing::parse(&good()).unwrap();
    for text in [
        format!("# made today\n\n  tencrypt-key-v1  \n\n#\ntenant {TENANT}\n\tepoch\t7   {ROOT}\n\n"),
        format!("tencrypt-key-v1\r\nepoch 7 {ROOT}\r\ntenant {TENANT}"),
        good()
            .to_uppercase()
            .replace("TENCRYPT-KEY-V1", "tencrypt-key-v1")
            .replace("TENANT", "tenant")
            .replace("EPOCH", "epoch"),
    ] {
        let ring = KeyRing::parse(&text).expect(&text);
        assert_eq!(ring.tenant_id(), reference.tenant_id());
        assert_eq!(ring.sent().psk(), reference.sent().psk());
    }
}

#[test]
fn a_wrong_first_line_is_refused() {
    assert_eq!(problem(""), (1, KeyFileProblem::FirstLine));
    assert_eq!(problem("# nothing\n\n"), (2, KeyFileProblem::FirstLine));
    assert_eq!(problem(&good().replace("v1", "v2")), (1, KeyFileProblem::FirstLine));
    assert_eq!(problem(&format!("\n{}", good().replace("-v1", "-v1 x"))), (2, KeyFileProblem::FirstLine));
    assert_eq!(problem(&format!("\u{feff}{}", good())), (1, KeyFileProblem::FirstLine));
}

#[test]
fn a_missing_or_second_tenant_is_refused() {
    assert_eq!(problem(&file(&[&format!("epoch 7 {ROOT}")])), (2, KeyFileProblem::NoTenant));
    assert_eq!(problem(&format!("{}tenant {TENANT}\n", good())), (4, KeyFileProblem::DuplicateTenant));
}

#[test]
fn a_file_without_epoch_is_refused() {
    assert_eq!(problem(&file(&[&format!("tenant {TENANT}")])), (2, KeyFileProblem::NoEpoch));
}

#[test]
fn values_of_wrong_length_are_refused_with_line_and_field() {
    for bad in ["", "00", &TENANT[1..], &format!("{TENANT}0"), &format!("{TENANT}00")] {
        let text = file(&[&format!("tenant {bad}"), &format!("epoch 7 {ROOT}")]);
        assert_eq!(problem(&text), (2, KeyFileProblem::Length(Field::Tenant)), "{bad}");
    }
    for bad in ["", "00", &ROOT[1..], &format!("{ROOT}0"), &format!("{ROOT}00")] {
        let text = file(&[&format!("tenant {TENANT}"), &format!("epoch 7 {bad}")]);
        assert_eq!(problem(&text), (3, KeyFileProblem::Length(Field::Root)), "{bad}");
    }
}

#[test]
fn values_that_are_not_hexadecimal_are_refused() {
    assert_eq!(problem(&good().replace("0102", "01g2")), (2, KeyFileProblem::Digit(Field::Tenant)));
    assert_eq!(problem(&good().replace("2e2f", "2e-f")), (3, KeyFileProblem::Digit(Field::Root)));
}

#[test]
fn epochs_other_than_0_to_255_are_refused() {
    for bad in ["256", "-1", "+1", "01", "00", "0x1", "1.0", "x", "99999999999999999999"] {
        let text = good().replace("epoch 7", &format!("epoch {bad}"));
        assert_eq!(problem(&text), (3, KeyFileProblem::EpochNumber), "{bad}");
    }
    assert_eq!(problem(&file(&["epoch"])), (2, KeyFileProblem::EpochNumber));
}

#[test]
fn an_epoch_given_twice_is_refused() {
    assert_eq!(problem(&format!("{}epoch 7 {ROOT}\n", good())), (4, KeyFileProblem::DuplicateEpoch));
}

/// A file with these epochs, each with a root of its own, and the `send` line if one is given.
fn several(epochs: &[u8], send: Option<u8>) -> String {
    let mut text = file(&[&format!("tenant {TENANT}")]);
    for epoch in epochs {
        text += &format!("epoch {epoch} {epoch:02x}{}\n", &ROOT[2..]);
    }
    text + &send.map_or(String::new(), |epoch| format!("send {epoch}\n"))
}

fn ring(epochs: &[u8], send: u8) -> KeyRing {
    KeyRing::parse(&several(epochs, Some(send))).unwrap()
}

#[test]
fn several_epochs_are_accepted_and_one_of_them_is_sent() {
    let keys = ring(&[6, 7, 8], 7);
    assert_eq!((keys.epochs().collect::<Vec<_>>(), keys.send_epoch()), (vec![6, 7, 8], 7));
    assert_eq!(keys.sent().number(), 7);
    for epoch in 0..=u8::MAX {
        assert_eq!(keys.holds(epoch), (6..=8).contains(&epoch));
    }
    let psks = [6, 7, 8].map(|epoch| *keys.epoch(epoch).unwrap().psk());
    assert!(psks[0] != psks[1] && psks[1] != psks[2]);
    // The line's place means nothing, and one epoch needs no such line.
    let first = several(&[6, 7], None).replace("tenant", "send 7\ntenant");
    assert_eq!(KeyRing::parse(&first).unwrap().send_epoch(), 7);
    assert!(ring(&[7], 7).is_same(&KeyRing::parse(&several(&[7], None)).unwrap()));
}

#[test]
fn a_wrong_send_line_is_refused() {
    assert_eq!(problem(&several(&[6, 7], None)), (4, KeyFileProblem::NoSend));
    assert_eq!(problem(&several(&[6, 7], Some(8))), (5, KeyFileProblem::UnknownSend));
    assert_eq!(problem(&several(&[7], Some(8))), (4, KeyFileProblem::UnknownSend));
    assert_eq!(problem(&(several(&[6, 7], Some(7)) + "send 7\n")), (6, KeyFileProblem::DuplicateSend));
    assert_eq!(problem(&(several(&[7], None) + "send 07\n")), (4, KeyFileProblem::EpochNumber));
    assert_eq!(problem(&(several(&[7], None) + "send\n")), (4, KeyFileProblem::EpochNumber));
    let trailing = KeyFileProblem::Trailing(Field::Send);
    assert_eq!(problem(&(several(&[7], None) + "send 7 8\n")), (4, trailing));
    assert_eq!(problem(&file(&[&format!("tenant {TENANT}"), "send 7"])), (3, KeyFileProblem::NoEpoch));
}

#[test]
fn too_many_epochs_and_one_key_under_two_numbers_are_refused() {
    let most: Vec<u8> = (0..MAX_EPOCHS as u8).collect();
    assert!(KeyRing::parse(&several(&most, Some(3))).is_ok());
    let more: Vec<u8> = (0..=MAX_EPOCHS as u8).collect();
    assert_eq!(
        problem(&several(&more, Some(3))),
        (3 + MAX_EPOCHS, KeyFileProblem::TooManyEpochs(MAX_EPOCHS))
    );
    let same = format!("{}epoch 8 {}\nsend 7\n", good(), ROOT.to_uppercase());
    assert_eq!(problem(&same), (4, KeyFileProblem::SameRoot));
}

#[test]
fn epochs_are_ordered_around_the_one_that_is_sent() {
    for (epochs, send, next, oldest, vacant) in [
        (&[7][..], 7, None, None, 8),
        (&[6, 7, 8], 7, Some(8), Some(6), 9),
        (&[9, 5, 6, 8, 7], 7, Some(8), Some(5), 10),
        (&[3, 7, 20], 7, Some(20), Some(3), 21),
        (&[255], 255, None, None, 0),
        (&[254, 255, 0, 1], 255, Some(0), Some(254), 2),
        (&[254, 255, 0, 1], 1, None, Some(254), 2),
        (&[254, 255, 0, 1], 254, Some(255), None, 2),
        (&[0, 127], 0, Some(127), None, 128),
        (&[0, 128], 0, None, Some(128), 1),
    ] {
        let keys = ring(epochs, send);
        assert_eq!((keys.next_epoch(), keys.oldest_epoch()), (next, oldest), "{epochs:?}, {send}");
        assert_eq!(keys.vacant_epoch(), vacant, "{epochs:?}, {send}");
        assert!(!keys.holds(vacant));
    }
}

#[test]
fn a_change_keeps_tenant_and_the_key_of_each_epoch() {
    let keys = ring(&[7, 8], 7);
    for (epochs, send) in [(&[7, 8][..], 7), (&[7, 8], 8), (&[8], 8), (&[7, 8, 9], 7), (&[1], 1)] {
        let next = ring(epochs, send);
        assert_eq!(keys.check_change(&next), Ok(()));
        assert_eq!(keys.is_same(&next), (epochs, send) == (&[7, 8], 7));
    }
    let other = several(&[7, 8], Some(7));
    let tenant = KeyRing::parse(&other.replace("tenant 00", "tenant 01")).unwrap();
    assert_eq!(keys.check_change(&tenant), Err(KeyRingError::OtherTenant));
    let key = KeyRing::parse(&other.replace("epoch 8 08", "epoch 8 09")).unwrap();
    assert_eq!(keys.check_change(&key), Err(KeyRingError::OtherKey(8)));
    assert!(!keys.is_same(&tenant) && !keys.is_same(&key));
}

#[test]
fn a_root_of_equal_bytes_is_refused() {
    for byte in ["00", "ff", "5a"] {
        let text = good().replace(ROOT, &byte.repeat(32));
        assert_eq!(problem(&text), (3, KeyFileProblem::WeakRoot), "{byte}");
    }
}

#[test]
fn text_after_a_value_is_refused() {
    assert_eq!(
        problem(&good().replace(TENANT, &format!("{TENANT} x"))),
        (2, KeyFileProblem::Trailing(Field::Tenant))
    );
    assert_eq!(
        problem(&good().replace(ROOT, &format!("{ROOT} # mine"))),
        (3, KeyFileProblem::Trailing(Field::Root))
    );
}

#[test]
fn unknown_lines_are_refused() {
    assert_eq!(problem(&format!("{}Tenant x\n", good())), (4, KeyFileProblem::UnknownField));
    assert_eq!(problem(&format!("{}tencrypt-key-v1\n", good())), (4, KeyFileProblem::UnknownField));
}

#[test]
fn a_file_that_is_too_long_is_refused() {
    let lines = format!("{}{}", good(), "#\n".repeat(253));
    assert!(KeyRing::parse(&lines).is_ok());
    assert_eq!(problem(&format!("{lines}#\n")), (257, KeyFileProblem::TooLong));
    let long = format!("{}#{}", good(), "x".repeat(64 * 1024));
    assert_eq!(problem(&long), (0, KeyFileProblem::TooLong));
}

#[test]
fn no_error_shows_any_of_the_text() {
    let text = good().replace("2e2f", "2e2");
    let shown = format!("{0} {0:?}", KeyRing::parse(&text).unwrap_err());
    assert!(!shown.contains("1011") && !shown.contains("2e2"), "{shown}");
    let ring = KeyRing::parse(&good()).unwrap();
    assert!(!format!("{ring:?} {:?}", ring.sent()).contains("16, 17, 18"));
}

/// Recomputed from RFC 5869 with the salt and info that docs/wire-format.md gives.
#[test]
fn keys_of_an_epoch_are_those_of_the_specification_and_differ() {
    let ring = KeyRing::parse(&good()).unwrap();
    let keys = ring.sent();
    let prk = hmac_sha256(ring.tenant_id(), &[&*hex::decode::<32>(ROOT).unwrap()]);
    let label = |label: &[u8]| hmac_sha256(&*prk, &[b"tencrypt v1 ", label, &[1]]);
    assert_eq!(keys.psk(), &*label(b"psk"));
    assert_eq!(keys.mac1(b"bytes"), hmac_sha256(&*label(b"mac"), &[b"bytes"])[..16]);
    assert_eq!(keys.reset_tag(b"bytes"), hmac_sha256(&*label(b"reset"), &[b"bytes"])[..16]);
    let seal = hmac_sha256(&*hmac_sha256(&[4; 24], &[&*label(b"cookie")]), &[b"tencrypt v1 seal", &[1]]);
    assert_eq!(keys.cookie_key(&[4; 24]).expose(), &*seal);
    assert_ne!(label(b"psk"), label(b"mac"));
    assert_ne!(keys.reset_tag(b"bytes"), keys.mac1(b"bytes"));
    assert!(keys.verify_mac1(b"bytes", &keys.mac1(b"bytes")));
    assert!(!keys.verify_mac1(b"bytez", &keys.mac1(b"bytes")));
}

#[test]
fn two_keys_under_one_number_have_two_fingerprints_which_are_no_other_keys_beginning() {
    let ring = KeyRing::parse(&good()).unwrap();
    let prk = hmac_sha256(ring.tenant_id(), &[&*hex::decode::<32>(ROOT).unwrap()]);
    let expected = hmac_sha256(&*prk, &[b"tencrypt v1 fingerprint", &[1]]);
    assert_eq!(ring.fingerprint(7).as_ref().map(|bytes| &bytes[..]), Some(&expected[..4]));
    assert_eq!(ring.fingerprint(6), None);
    let other = KeyRing::parse(&good().replace("epoch 7 10", "epoch 7 11")).unwrap();
    assert_ne!(ring.fingerprint(7), other.fingerprint(7));
    assert!(ring.sent().all().iter().all(|key| key[..4] != expected[..4]));
}

#[test]
fn another_tenant_with_the_same_root_has_other_keys() {
    let ring = KeyRing::parse(&good()).unwrap();
    let other = KeyRing::parse(&good().replace("tenant 00", "tenant 01")).unwrap();
    assert_ne!(ring.sent().psk(), other.sent().psk());
    assert!(ring.epoch(7).is_some() && ring.epoch(6).is_none());
}

#[test]
fn keys_from_bytes_are_those_of_a_file() {
    let root = |epoch: u8| {
        let mut root = *hex::decode::<32>(ROOT).unwrap();
        root[0] = epoch;
        root
    };
    let roots = [6, 7, 8].map(|epoch| (epoch, root(epoch)));
    let tenant = *hex::decode(TENANT).unwrap();
    let keys = KeyRing::new(tenant, roots.iter().map(|(epoch, root)| (*epoch, root)), 7).unwrap();
    let read = ring(&[6, 7, 8], 7);
    assert!(keys.is_same(&read) && read.is_same(&keys));
    assert_eq!((keys.tenant_id(), keys.send_epoch()), (&tenant, 7));
    for epoch in 6..=8 {
        assert_eq!(keys.epoch(epoch).unwrap().all(), read.epoch(epoch).unwrap().all());
    }
}

#[test]
fn bytes_that_a_file_may_not_hold_are_refused() {
    let roots: Vec<[u8; 32]> =
        (0..=MAX_EPOCHS as u8).map(|first| std::array::from_fn(|at| first ^ at as u8)).collect();
    let refused =
        |epochs: &[(u8, &[u8; 32])], send| KeyRing::new([1; 16], epochs.iter().copied(), send).unwrap_err();
    let (one, other) = (&roots[0], &roots[1]);
    assert_eq!(refused(&[], 1), KeyRingError::NoEpoch);
    assert_eq!(refused(&[(1, one), (1, other)], 1), KeyRingError::DuplicateEpoch(1));
    assert_eq!(refused(&[(1, one), (2, one)], 1), KeyRingError::SameRoot(2));
    assert_eq!(refused(&[(1, one), (2, &[5; 32])], 1), KeyRingError::WeakRoot(2));
    assert_eq!(refused(&[(1, one), (2, other)], 3), KeyRingError::UnknownSend(3));
    let all: Vec<_> = (0..).zip(&roots).collect();
    assert_eq!(refused(&all, 0), KeyRingError::TooManyEpochs);
    assert!(KeyRing::new([1; 16], all[1..].iter().copied(), 1).is_ok());
    // It ends with the first that is refused, however many follow.
    assert_eq!(
        KeyRing::new([1; 16], std::iter::repeat((1, one)), 1).unwrap_err(),
        KeyRingError::DuplicateEpoch(1)
    );
    let shown = format!("{0} {0:?}", refused(&[(1, &[0xab; 32])], 1));
    assert!(!shown.contains("171") && !shown.contains("ab"), "{shown}");
}
