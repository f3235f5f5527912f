//! Certificates and the files of an authority, as somebody else may have written them.

use std::net::IpAddr;

use ipnet::IpNet;
use tencrypt::{
    CipherSuite, NameError, Seed, TextError,
    crypto::PeerId,
    packet::is_tunnel_address,
    trust::{
        AuthorityKey, Certificate, CertificateAuthority, CertificateFile, PodId, PodName, Request,
        Revocation, Trust,
    },
};

use crate::input::Input;

/// Bytes of an identity slot.
const SLOT: usize = 144;

/// Reads the bytes as a certificate, as its file, as each text file of an authority and as names; or has an authority issue
/// what they say, and changes that.
pub fn trust(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        issue(&mut input);
    } else {
        let bytes = input.rest();
        slot(bytes);
        file(bytes);
        if let Ok(text) = std::str::from_utf8(bytes) {
            texts(text);
            names(text);
        }
    }
}

/// A slot that is taken has one spelling, speaks of addresses that pods have, and nobody vouches for it.
fn slot(bytes: &[u8]) {
    let mut slot = [0; SLOT];
    let len = bytes.len().min(SLOT);
    slot[..len].copy_from_slice(&bytes[..len]);
    // The kind in front, so that a certificate is met often.
    for first in [slot[0], 2] {
        slot[0] = first;
        let Ok((certificate, vnet)) = Certificate::decode(&slot) else { continue };
        assert_eq!(certificate.encode(vnet), slot);
        sound(&certificate);
        let stranger = PeerId::from_bytes([9; 32]);
        assert!(certificate.verify(&authority().public_key(), &stranger).is_err(), "a forged certificate");
    }
}

fn sound(certificate: &Certificate) {
    let prefixes: Vec<IpNet> = certificate.prefixes().collect();
    assert!((1..=Certificate::MAX_PREFIXES).contains(&prefixes.len()));
    for (at, prefix) in prefixes.iter().enumerate() {
        assert_eq!(prefix.trunc(), *prefix);
        assert!(prefix.prefix_len() > 0 && is_tunnel_address(prefix.addr()));
        let others = prefixes.iter().enumerate().filter(|(other, _)| *other != at);
        assert!(!others.into_iter().any(|(_, other)| other.contains(prefix)), "one lies in the other");
        assert_eq!(certificate.prefix_of(prefix.addr()), Some(*prefix));
    }
    let single = |address: &IpAddr| prefixes.contains(&IpNet::from(*address));
    assert!(certificate.addresses().all(|address| single(&address)));
}

fn file(bytes: &[u8]) {
    let Ok(file) = CertificateFile::parse(bytes) else { return };
    assert_eq!(file.to_bytes()[..], *bytes);
    assert!(CertificateFile::is_one(bytes) && bytes.len() == CertificateFile::LEN);
    assert_eq!(file.certificate.pod(), PodId::of(&file.pod));
    sound(&file.certificate);
}

/// Each text file is taken as what it is written as again, or refused with a line of it and with none of its secrets.
fn texts(text: &str) {
    let secret = CertificateAuthority::parse(text).inspect_err(|error| refused(text, error));
    let public = AuthorityKey::parse(text).inspect_err(|error| refused(text, error));
    assert!(secret.is_err() || public.is_err(), "a secret and a public key in one");
    if let Ok(secret) = secret {
        let again = CertificateAuthority::parse(&secret.write()).expect("what is written is read");
        assert_eq!(again.public_key(), secret.public_key());
        let shown = format!("{secret:?}");
        let digits = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let shows = |word: &str| shown.contains(&word.to_lowercase());
        assert!(!text.split_ascii_whitespace().filter(digits).any(shows), "a secret was printed");
    }
    if let Ok(public) = public {
        assert_eq!(AuthorityKey::parse(&public.write()).as_ref(), Ok(&public));
    }
    match Revocation::parse(text) {
        Ok(revocation) => {
            // Nothing but a line of its own makes it longer, and the order of lines means nothing.
            assert!(text.ends_with('\n') && revocation.denied() < text.lines().count());
            let (head, lines) = text.trim_start().split_once('\n').unwrap_or((text, ""));
            if head.trim() == "tencrypt-revoked-v1" {
                let turned: Vec<&str> = lines.lines().rev().collect();
                let turned = format!("{head}\n{}\n", turned.join("\n"));
                assert_eq!(Revocation::parse(&turned).as_ref(), Ok(&revocation));
            }
        }
        Err(error) => refused(text, &error),
    }
}

fn refused(text: &str, error: &TextError) {
    assert!(error.line() <= text.lines().count() + 1);
    let shown = error.to_string();
    let secret = |word: &&str| word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shows = text.split_ascii_whitespace().filter(secret).any(|word| shown.contains(word));
    assert!(!shows && !shown.chars().any(char::is_control), "{shown:?}");
}

/// A name is one that prints as it was written, or a refusal that shows none of it.
fn names(text: &str) {
    let plain = |error: &NameError| !error.to_string().chars().any(char::is_control);
    match text.parse::<PodName>() {
        Ok(name) => {
            assert!((1..=PodName::MAX_LEN).contains(&text.len()));
            assert_eq!((name.as_str(), &*name.to_string()), (text, text));
            let allowed =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            assert!(
                text.bytes().all(allowed) && text.split('.').all(|label| (1..=63).contains(&label.len()))
            );
        }
        Err(error) => assert!(plain(&error)),
    }
    match text.parse::<CipherSuite>() {
        Ok(suite) => assert_eq!(suite.name(), text),
        Err(error) => assert!(plain(&error)),
    }
}

/// A certificate counts for its subject, its tenant and its addresses, until it is revoked; with any bit
/// changed it counts for nobody.
fn issue(input: &mut Input<'_>) {
    let name = format!("pod-{}", input.byte());
    let pod: PodName = name.parse().expect("a name");
    let (subject, generation) = (PeerId::from_bytes(input.array()), u32::from(input.word()));
    let prefixes: Vec<IpNet> = (0..input.byte() % 4).map(|_| prefix(input)).collect();
    let request = Request { tenant: [7; 16], subject, pod: &pod, generation, prefixes: &prefixes };
    let Ok(certificate) = authority().issue(&request) else {
        return;
    };
    sound(&certificate);
    assert!(certificate.prefixes().eq(prefixes.iter().copied()));
    assert_eq!((certificate.generation(), certificate.pod()), (generation, PodId::of(&pod)));
    let vnet = input.flag();
    let mut slot = certificate.encode(vnet);
    assert_eq!(Certificate::decode(&slot), Ok((certificate.clone(), vnet)));
    let kept = CertificateFile { subject, pod: pod.clone(), certificate: certificate.clone() };
    let read = CertificateFile::parse(&kept.to_bytes()).expect("what is written is read");
    assert_eq!((read.subject, &read.certificate), (subject, &certificate));

    let trust = Trust::certificates(authority().public_key(), []);
    let admits = |trust: &Trust, certificate| trust.admit(&[7; 16], &subject, Some(certificate)).is_ok();
    assert!(admits(&trust, &certificate));
    assert!(trust.admit(&[8; 16], &subject, Some(&certificate)).is_err(), "another tenant");
    assert!(
        trust.admit(&[7; 16], &PeerId::from_bytes([9; 32]), Some(&certificate)).is_err()
            || subject.as_bytes() == &[9; 32]
    );
    let minimum = u32::from(input.word());
    let revoked = format!("tencrypt-revoked-v1\nmin-generation {minimum}\n");
    let trust = trust.with_revocation(Revocation::parse(&revoked).expect("a list"));
    assert_eq!(admits(&trust, &certificate), generation >= minimum);
    let denied = format!("tencrypt-revoked-v1\ndeny-pod {name}\n");
    let trust = trust.with_revocation(Revocation::parse(&denied).expect("a list"));
    assert!(!admits(&trust, &certificate), "its pod is denied");

    let trust = Trust::certificates(authority().public_key(), []);
    let bit = input.index(SLOT * 8);
    slot[bit / 8] ^= 1 << (bit % 8);
    if let Ok((changed, other)) = Certificate::decode(&slot) {
        // The flag of the run is not signed.
        assert_eq!(admits(&trust, &changed), other != vnet, "bit {bit}");
    }
}

fn prefix(input: &mut Input<'_>) -> IpNet {
    let v4 = input.flag();
    let address = match input.byte() % 3 {
        0 if v4 => IpAddr::from([10, 0, 0, input.byte()]),
        0 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, input.word()]),
        _ => input.address(v4),
    };
    let most = if v4 { 32 } else { 128 };
    let len = if input.flag() { most } else { input.byte() % (most + 1) };
    let net = IpNet::new(address, len).expect("it is no longer than the family's");
    if input.byte().is_multiple_of(8) { net } else { net.trunc() }
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::from_seed(&Seed::from_bytes([5; 32]))
}
