use super::*;

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
    (error.line(), error.problem())
}

#[test]
fn a_written_file_is_read_back() {
    let tenant = *hex::decode(TENANT).unwrap();
    let root = hex::decode(ROOT).unwrap();
    for epoch in [0, 7, 255] {
        let text = write_key_file(tenant, epoch, &root);
        let ring = KeyRing::parse(&text).unwrap();
        assert_eq!((ring.tenant_id(), ring.newest_epoch()), (&tenant, epoch));
    }
    assert_eq!(*write_key_file(tenant, 7, &root), good());
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
        assert_eq!(ring.newest().psk(), reference.newest().psk());
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

#[test]
fn several_epochs_are_refused_with_a_reason() {
    let text = format!("{}epoch 8 {ROOT}\n", good());
    assert_eq!(problem(&text), (4, KeyFileProblem::SeveralEpochs));
    assert!(KeyRing::parse(&text).unwrap_err().to_string().contains("several epochs"));
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
    assert!(!format!("{ring:?} {:?}", ring.newest()).contains("16, 17, 18"));
}

/// Recomputed from RFC 5869 with the salt and info that docs/wire-format.md gives.
#[test]
fn keys_of_an_epoch_are_those_of_the_specification_and_differ() {
    let ring = KeyRing::parse(&good()).unwrap();
    let keys = ring.newest();
    let prk = hmac_sha256(ring.tenant_id(), &[&*hex::decode::<32>(ROOT).unwrap()]);
    let label = |label: &[u8]| hmac_sha256(&*prk, &[b"tencrypt v1 ", label, &[1]]);
    assert_eq!(keys.psk(), &*label(b"psk"));
    assert_eq!(keys.mac1(b"bytes"), hmac_sha256(&*label(b"mac"), &[b"bytes"])[..16]);
    assert_ne!(label(b"psk"), label(b"mac"));
    assert!(keys.verify_mac1(b"bytes", &keys.mac1(b"bytes")));
    assert!(!keys.verify_mac1(b"bytez", &keys.mac1(b"bytes")));
}

#[test]
fn another_tenant_with_the_same_root_has_other_keys() {
    let ring = KeyRing::parse(&good()).unwrap();
    let other = KeyRing::parse(&good().replace("tenant 00", "tenant 01")).unwrap();
    assert_ne!(ring.newest().psk(), other.newest().psk());
    assert!(ring.epoch(7).is_some() && ring.epoch(6).is_none());
}
