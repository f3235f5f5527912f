use std::net::IpAddr;

use ed25519_dalek::Signature;
use proptest::prelude::*;

use super::*;
use crate::{
    crypto::{
        Seed, to_hex,
        wycheproof::{Case, Expected, cases},
    },
    record::IDENTITY_LEN,
    text::{Problem, TextError, TrustFileProblem},
};

const TENANT: [u8; TENANT_LEN] = [0x7e; TENANT_LEN];

fn authority(seed: u8) -> CertificateAuthority {
    CertificateAuthority::from_seed(&Seed::from_bytes([seed; 32]))
}

fn problem(error: TextError) -> TrustFileProblem {
    let Problem::TrustFile(problem) = error.problem() else { panic!("{error}") };
    problem
}

fn subject(number: u8) -> PeerId {
    PeerId::from_bytes([number; 32])
}

fn name(text: &str) -> PodName {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn issue(generation: u32, prefixes: &[&str]) -> Result<Certificate, CertificateError> {
    let (pod, prefixes) = (name("web-0"), nets(prefixes));
    let request = Request { tenant: TENANT, subject: subject(9), pod: &pod, generation, prefixes: &prefixes };
    authority(1).issue(&request)
}

fn good() -> Certificate {
    issue(7, &["10.1.2.3/32", "fd00::5/128"]).unwrap()
}

fn trust() -> Trust {
    Trust::certificates(authority(1).public_key(), nets(&["10.96.0.0/12"]))
}

fn revoked(text: &str) -> Trust {
    trust().with_revocation(Revocation::parse(&format!("tencrypt-revoked-v1\n{text}\n")).unwrap())
}

#[test]
fn the_slot_is_the_bytes_of_the_specification() {
    let slot = good().encode(true);
    let mut expected = [0; IDENTITY_LEN];
    expected[..4].copy_from_slice(&[2, 1, 2, 0]);
    expected[4..20].copy_from_slice(&TENANT);
    expected[20..36].copy_from_slice(PodId::of(&name("web-0")).as_bytes());
    expected[36..40].copy_from_slice(&[7, 0, 0, 0]);
    expected[40..48].copy_from_slice(&[4, 32, 0, 0, 10, 1, 2, 3]);
    expected[60..64].copy_from_slice(&[6, 128, 0, 0]);
    (expected[64], expected[79]) = (0xfd, 5);
    assert_eq!(slot[..80], expected[..80]);
    assert_eq!(Certificate::decode(&slot), Ok((good(), true)));
}

/// Made by another implementation of SHA-256 and Ed25519, from the specification alone.
#[test]
fn pod_id_and_signature_are_those_of_another_implementation() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(PodId::of(&name("web-0")).as_bytes()), "df2d01512ba88fd0972eff0a740792e6");
    assert_eq!(
        hex(authority(1).public_key().as_bytes()),
        "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
    );
    assert_eq!(
        hex(&good().encode(false)[80..]),
        concat!(
            "f22b9f65f8d79e3d6e75c9c51c98066131149886678330efc7012db4b2dc4dad",
            "a2c70154e43fb879eaf3eb1f025dab3ee4cf624a703dd58232cc771db4dd410d"
        )
    );
}

#[test]
fn a_certificate_counts_for_its_key_tenant_and_authority_alone() {
    let certificate = good();
    assert_eq!(trust().admit(&TENANT, &subject(9), Some(&certificate)), Ok(()));
    assert_eq!(trust().admit(&TENANT, &subject(8), Some(&certificate)), Err(CertificateError::Signature));
    assert_eq!(trust().admit(&[1; 16], &subject(9), Some(&certificate)), Err(CertificateError::OtherTenant));
    let other = Trust::certificates(authority(2).public_key(), []);
    assert_eq!(other.admit(&TENANT, &subject(9), Some(&certificate)), Err(CertificateError::Signature));
    assert_eq!(trust().admit(&TENANT, &subject(9), None), Err(CertificateError::Missing));
    assert_eq!(Trust::key_only().admit(&TENANT, &subject(9), None), Ok(()));
}

/// Every bit of the slot, one after the other: either it is no certificate any more, or the signature fails. But for
/// the flag of the run, which the handshake's transcript covers.
#[test]
fn every_bit_of_every_field_counts() {
    let slot = good().encode(false);
    for at in 0..IDENTITY_LEN {
        for bit in 0..8 {
            let mut slot = slot;
            slot[at] ^= 1 << bit;
            let outcome = Certificate::decode(&slot)
                .and_then(|(certificate, _)| trust().admit(&TENANT, &subject(9), Some(&certificate)));
            assert_eq!(outcome.is_ok(), (at, bit) == (1, 0), "byte {at} bit {bit}: {outcome:?}");
        }
    }
}

#[test]
fn every_value_of_kind_flags_count_and_reserved_is_judged() {
    let slot = good().encode(false);
    for value in 0..=u8::MAX {
        for (at, fine) in [(0, &[2][..]), (1, &[0, 1]), (2, &[2]), (3, &[0])] {
            let mut slot = slot;
            slot[at] = value;
            assert_eq!(Certificate::decode(&slot).is_ok(), fine.contains(&value), "byte {at} value {value}");
        }
    }
    let mut one = issue(7, &["10.1.2.3/32"]).unwrap().encode(false);
    assert!(Certificate::decode(&one).is_ok());
    one[60] = 1;
    assert_eq!(Certificate::decode(&one), Err(CertificateError::Layout));
}

#[test]
fn prefixes_that_no_pod_has_are_neither_signed_nor_read() {
    for bad in [
        "0.0.0.0/0",
        "0.0.0.0/32",
        "127.0.0.1/32",
        "169.254.0.1/32",
        "224.0.0.1/32",
        "255.255.255.255/32",
        "10.1.2.3/24",
        "::/0",
        "::1/128",
        "fe80::1/128",
        "ff02::1/128",
        "::ffff:10.0.0.1/128",
        "fd00::1/64",
    ] {
        assert_eq!(issue(1, &[bad]), Err(CertificateError::Prefix(1)), "{bad}");
        assert_eq!(issue(1, &["10.9.9.9/32", bad]), Err(CertificateError::Prefix(2)), "{bad}");
    }
    let mut slot = good().encode(false);
    slot[41] = 33;
    assert_eq!(Certificate::decode(&slot), Err(CertificateError::Prefix(1)));
    slot = good().encode(false);
    slot[61] = 129;
    assert_eq!(Certificate::decode(&slot), Err(CertificateError::Prefix(2)));
    assert_eq!(issue(1, &[]), Err(CertificateError::Count));
    assert_eq!(issue(1, &["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"]), Err(CertificateError::Count));
    for [one, two] in [["10.0.0.0/24", "10.0.0.7/32"], ["10.0.0.7/32", "10.0.0.0/24"], ["fd00::1/128"; 2]] {
        assert_eq!(issue(1, &[one, two]), Err(CertificateError::Overlap), "{one} {two}");
    }
}

#[test]
fn a_certificate_covers_its_prefixes() {
    let certificate = issue(1, &["10.1.2.0/24", "fd00::5/128"]).unwrap();
    let covered = |text: &str| certificate.prefix_of(text.parse::<IpAddr>().unwrap()).is_some();
    assert!(covered("10.1.2.0") && covered("10.1.2.255") && covered("fd00::5"));
    assert!(!covered("10.1.3.0") && !covered("10.1.1.255") && !covered("fd00::6"));
    assert_eq!(certificate.addresses().collect::<Vec<_>>(), ["fd00::5".parse::<IpAddr>().unwrap()]);
}

#[test]
fn revocation_is_by_generation_key_and_pod() {
    let judged = |trust: &Trust| trust.admit(&TENANT, &subject(9), Some(&good()));
    assert_eq!(judged(&revoked("min-generation 7")), Ok(()));
    let below = CertificateError::Generation { found: 7, minimum: 8 };
    assert_eq!(judged(&revoked("min-generation 8")), Err(below));
    assert_eq!(judged(&revoked(&format!("deny-key {}", "09".repeat(32)))), Err(CertificateError::Denied));
    assert_eq!(judged(&revoked(&format!("deny-key {}", "08".repeat(32)))), Ok(()));
    assert_eq!(judged(&revoked("deny-pod web-0")), Err(CertificateError::Denied));
    assert_eq!(judged(&revoked("deny-pod web-1")), Ok(()));
}

#[test]
fn a_revocation_file_is_read_strictly() {
    let full = "# why\n\ntencrypt-revoked-v1\nmin-generation 3\ndeny-pod a.b-1\n  deny-pod x  \n";
    let revocation = Revocation::parse(full).unwrap();
    assert_eq!((revocation.minimum_generation(), revocation.denied()), (3, 2));
    let body = |line: &str| format!("tencrypt-revoked-v1\n{line}\n");
    for (text, line, problem) in [
        (String::new(), 1, TrustFileProblem::FirstLine("tencrypt-revoked-v1")),
        ("deny-pod x\n".to_owned(), 1, TrustFileProblem::FirstLine("tencrypt-revoked-v1")),
        (body("min-generation"), 2, TrustFileProblem::Number),
        (body("min-generation -1"), 2, TrustFileProblem::Number),
        (body("min-generation +1"), 2, TrustFileProblem::Number),
        (body("min-generation 01"), 2, TrustFileProblem::Number),
        (body("min-generation 4294967296"), 2, TrustFileProblem::Number),
        (body("min-generation 1\nmin-generation 1"), 3, TrustFileProblem::Duplicate("min-generation")),
        (body("deny-pod Web"), 2, TrustFileProblem::Pod),
        (body("deny-pod"), 2, TrustFileProblem::Pod),
        (body("deny-pod web # why"), 2, TrustFileProblem::Trailing),
        (body("deny-key"), 2, TrustFileProblem::Length),
        (body(&format!("deny-key {}", "0".repeat(63))), 2, TrustFileProblem::Length),
        (body(&format!("deny-key {}", "g".repeat(64))), 2, TrustFileProblem::Digit),
        (body("deny web-0"), 2, TrustFileProblem::RevocationField),
        ("tencrypt-revoked-v1\ndeny-pod web".to_owned(), 2, TrustFileProblem::Unfinished),
        ("tencrypt-revoked-v1\n".repeat(60_000), 1, TrustFileProblem::TooLong),
    ] {
        let error = Revocation::parse(&text).unwrap_err();
        assert_eq!((error.line(), self::problem(error)), (line, problem), "{text:.80}");
    }
}

#[test]
fn names_of_pods_are_those_that_kubernetes_allows() {
    let long = "a".repeat(63);
    let longest = format!("{long}.{long}.{long}.{}", "a".repeat(61));
    for good in ["a", "web-0", "0", "a.b", &long, &longest] {
        assert_eq!(name(good).as_str(), good);
    }
    let wrong = ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a.", "a b", "ä", "a\n"];
    for bad in wrong.into_iter().chain([&*format!("{long}a"), &*format!("{longest}a")]) {
        assert!(bad.parse::<PodName>().is_err(), "{bad:?}");
    }
}

#[test]
fn keys_are_written_and_read_back_and_anything_else_is_refused() {
    let weak = CertificateAuthority::parse(&authority(1).write()).unwrap_err();
    assert_eq!((weak.line(), problem(weak)), (2, TrustFileProblem::WeakSecret));
    let authority = CertificateAuthority::from_seed(&Seed::from_bytes(std::array::from_fn(|at| at as u8)));
    let (secret, public) = (authority.write(), authority.public_key().write());
    assert_eq!(CertificateAuthority::parse(&secret).unwrap().public_key(), authority.public_key());
    assert_eq!(AuthorityKey::parse(&public).unwrap(), authority.public_key());
    assert!(CertificateAuthority::parse(&public).is_err() && AuthorityKey::parse(&secret).is_err());
    let cut = |text: &str| problem(AuthorityKey::parse(text).unwrap_err());
    assert_eq!(cut(""), TrustFileProblem::FirstLine("tencrypt-ca-public-v1"));
    assert_eq!(cut("tencrypt-ca-public-v1\n"), TrustFileProblem::Missing("public"));
    assert_eq!(cut(&public[..public.len() - 2]), TrustFileProblem::Length);
    assert_eq!(cut(&format!("{public}public 00")), TrustFileProblem::Duplicate("public"));
    assert_eq!(cut(&public.replace("public ", "secret ")), TrustFileProblem::Field("public"));
    assert_eq!(cut(&format!("{} x", public.trim_end())), TrustFileProblem::Trailing);
    assert_eq!(cut(&format!("tencrypt-ca-public-v1\npublic {}\n", "zz".repeat(32))), TrustFileProblem::Digit);
    assert_eq!(cut(&"#\n".repeat(3_000)), TrustFileProblem::TooLong);
    // Of low order, and no point at all (no x belongs to y = 2).
    for bad in ["01", "02"].map(|first| first.to_owned() + &"00".repeat(31)) {
        assert_eq!(
            cut(&format!("tencrypt-ca-public-v1\npublic {bad}\n")),
            TrustFileProblem::NoPublicKey,
            "{bad}"
        );
    }
}

#[test]
fn the_secret_is_not_printed() {
    let seed: [u8; 32] = std::array::from_fn(|at| at as u8 + 0x40);
    let printed = format!("{:?}", CertificateAuthority::from_seed(&Seed::from_bytes(seed)));
    assert!(printed.contains("public_key") && !printed.contains("40414243"), "{printed}");
    assert!(!printed.contains("64, 65, 66"), "{printed}");
}

fn file() -> CertificateFile {
    CertificateFile { subject: subject(9), pod: name("web-0"), certificate: good() }
}

#[test]
fn every_byte_of_a_certificate_file_counts() {
    let bytes = file().to_bytes();
    assert_eq!(CertificateFile::parse(&bytes), Ok(file()));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes;
            bytes[at] ^= 1 << bit;
            let outcome = CertificateFile::parse(&bytes)
                .and_then(|file| trust().admit(&TENANT, &file.subject, Some(&file.certificate)));
            assert!(outcome.is_err(), "byte {at} bit {bit}");
        }
    }
    for len in 0..bytes.len() {
        assert_eq!(CertificateFile::parse(&bytes[..len]), Err(CertificateError::NotAFile));
    }
    assert!(CertificateFile::parse(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn the_longest_name_fits_into_a_file() {
    let long = "a".repeat(63);
    let pod = name(&format!("{long}.{long}.{long}.{}", "b".repeat(61)));
    let prefixes = nets(&["10.0.0.1/32"]);
    let request =
        Request { tenant: TENANT, subject: subject(9), pod: &pod, generation: 1, prefixes: &prefixes };
    let certificate = authority(1).issue(&request).unwrap();
    let file = CertificateFile { subject: subject(9), pod, certificate };
    assert_eq!(CertificateFile::parse(&file.to_bytes()), Ok(file));
}

fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<[u8; 4]>(), 0u8..=32).prop_map(|(octets, len)| IpNet::new(octets.into(), len).unwrap());
    let v6 = (any::<[u8; 16]>(), 0u8..=128).prop_map(|(octets, len)| IpNet::new(octets.into(), len).unwrap());
    prop_oneof![v4, v6].prop_map(|prefix| prefix.trunc())
}

proptest! {
    #[test]
    fn what_is_issued_is_read_back_and_verifies(
        tenant in any::<[u8; 16]>(),
        key in any::<[u8; 32]>(),
        generation in any::<u32>(),
        prefixes in prop::collection::vec(prefix(), 1..=2),
        vnet in any::<bool>(),
    ) {
        let (pod, subject) = (name("db.1"), PeerId::from_bytes(key));
        let request = Request { tenant, subject, pod: &pod, generation, prefixes: &prefixes };
        if let Ok(certificate) = authority(1).issue(&request) {
            let (read, read_vnet) = Certificate::decode(&certificate.encode(vnet)).unwrap();
            prop_assert_eq!(read_vnet, vnet);
            prop_assert_eq!(trust().admit(&tenant, &subject, Some(&read)), Ok(()));
            prop_assert_eq!(read.prefixes().collect::<Vec<_>>(), prefixes);
            prop_assert_eq!((read.tenant(), read.generation()), (&tenant, generation));
        }
    }

    #[test]
    fn what_is_read_is_written_the_same(
        body in prop::array::uniform32(any::<u8>()),
        first in prefix(),
        second in prop::option::of(prefix()),
        noise in prop::option::of((0..IDENTITY_LEN, any::<u8>())),
    ) {
        let mut slot: [u8; IDENTITY_LEN] = std::array::from_fn(|at| body[at % 32]);
        slot[..4].copy_from_slice(&[2, body[0] & 1, 1 + u8::from(second.is_some()), 0]);
        slot[40..80].fill(0);
        for (at, prefix) in [Some(first), second].into_iter().flatten().enumerate() {
            let place = &mut slot[40 + 20 * at..][..20];
            (place[0], place[1]) = (if prefix.addr().is_ipv4() { 4 } else { 6 }, prefix.prefix_len());
            match prefix.addr() {
                IpAddr::V4(v4) => place[4..8].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => place[4..].copy_from_slice(&v6.octets()),
            }
        }
        if let Some((at, value)) = noise {
            slot[at] = value;
        }
        if let Ok((certificate, vnet)) = Certificate::decode(&slot) {
            prop_assert_eq!(certificate.encode(vnet), slot);
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..440), text in ".{0,200}") {
        let mut prefixed = file().to_bytes();
        for (place, byte) in prefixed[16..].iter_mut().zip(&bytes) {
            *place = *byte;
        }
        let _ = (CertificateFile::parse(&bytes), CertificateFile::parse(&prefixed), Revocation::parse(&text));
        let _ = (AuthorityKey::parse(&text).is_ok(), CertificateAuthority::parse(&text).is_ok());
    }
}

/// Project Wycheproof's cases for Ed25519, by way of the file that the key comes in.
#[test]
fn signatures_are_accepted_and_refused_as_wycheproof_says() {
    let (mut accepted, mut refused, mut too_long_or_short) = (0, 0, 0);
    for case in cases("ed25519") as Vec<Case<3>> {
        let text = format!("tencrypt-ca-public-v1\npublic {}\n", to_hex(&case.array::<32>(0)));
        let key = AuthorityKey::parse(&text).unwrap();
        let Ok(signature) = <[u8; 64]>::try_from(case.bytes(2)) else {
            // A certificate has room for 64 bytes.
            assert_eq!(case.result, Expected::Invalid, "case {}", case.number);
            too_long_or_short += 1;
            continue;
        };
        let verified = key.verify(&case.bytes(1), &Signature::from_bytes(&signature));
        match case.result {
            Expected::Valid => {
                assert_eq!(verified, Ok(()), "case {}", case.number);
                accepted += 1;
            }
            _ => {
                assert_eq!(verified, Err(CertificateError::Signature), "case {}", case.number);
                refused += 1;
            }
        }
    }
    assert_eq!((accepted, refused, too_long_or_short), (88, 51, 12));
}
