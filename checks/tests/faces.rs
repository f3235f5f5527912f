//! The faces of the published libraries, read from the kept lists of their public items: no type of a third-party crate that
//! is not re-exported, and no error that is none.

use std::{collections::BTreeSet, error::Error, fs};

use tencrypt_checks::{faces, root, sources};

/// Libraries whose lists are kept.
const LIBRARIES: [&str; 6] =
    ["tencrypt", "tencrypt-cni", "tencrypt-dns", "tencrypt-lab", "tencrypt-tun", "tencrypt-udp"];

/// Types of third-party crates that a library may name, each with the path that it re-exports it at: a user who needs the
/// type need not guess the crate's version.
const REEXPORTS: [(&str, &str, &str); 10] = [
    ("tencrypt", "bytes::bytes::Bytes", "tencrypt::sink::bytes::Bytes"),
    ("tencrypt", "bytes::bytes_mut::BytesMut", "tencrypt::sink::bytes::BytesMut"),
    ("tencrypt", "ipnet::ipnet::IpNet", "tencrypt::IpNet"),
    ("tencrypt", "zeroize::Zeroizing", "tencrypt::crypto::Zeroizing"),
    ("tencrypt-dns", "ipnet::ipnet::IpNet", "tencrypt_dns::IpNet"),
    ("tencrypt-lab", "ipnet::ipnet::IpNet", "tencrypt_lab::IpNet"),
    ("tencrypt-lab", "ipnet::ipnet::Ipv4Net", "tencrypt_lab::Ipv4Net"),
    ("tencrypt-lab", "ipnet::ipnet::Ipv6Net", "tencrypt_lab::Ipv6Net"),
    ("tencrypt-tun", "ipnet::ipnet::IpNet", "tencrypt_tun::IpNet"),
    ("tencrypt-udp", "bytes::bytes_mut::BytesMut", "tencrypt_udp::BytesMut"),
];

/// Types that stand as `Err` and are no errors: a function gives back what it did not take.
const GIVEN_BACK: [&str; 2] = ["tencrypt::LaneUpdate", "tencrypt::offload::CheckedPacket"];

/// The name of a package's library in paths.
fn path_name(package: &str) -> String {
    package.replace('-', "_")
}

fn list(package: &str) -> String {
    let path = root().join("checks/public").join(format!("{package}.txt"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_third_party_type_in_a_face_is_re_exported() {
    let family: Vec<String> =
        sources::packages(root()).iter().map(|package| path_name(&package.name)).collect();
    let mut offences = Vec::new();
    let mut used = BTreeSet::new();
    for package in LIBRARIES {
        let text = list(package);
        for (path, line) in faces::foreign(&text, &family) {
            let row = REEXPORTS.iter().find(|row| (row.0, row.1) == (package, path));
            let is_there = |reexport: &str| text.lines().any(|line| line == format!("pub use {reexport}"));
            match row {
                Some(row) if is_there(row.2) => drop(used.insert(*row)),
                Some(row) => offences.push(format!("{package}: {path} is not re-exported as {}", row.2)),
                None => offences.push(format!("{package} names {path}: {line}")),
            }
        }
    }
    let unused = REEXPORTS.iter().filter(|row| !used.contains(*row));
    offences.extend(unused.map(|row| format!("no item of {} needs {}: the row is stale", row.0, row.1)));
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

/// Names its arguments, each of which has to be an error.
macro_rules! errors {
    ($($path:ty,)*) => {{
        $(is_error::<$path>();)*
        [$(stringify!($path)),*]
    }};
}

/// Holds of what `?` turns into a `Box<dyn Error + Send + Sync>`.
fn is_error<E: Error + Send + Sync + 'static>() {}

#[test]
fn what_stands_as_an_error_is_one() {
    let known = errors![
        tencrypt::DropReason,
        tencrypt::SinkFull,
        tencrypt::NameError,
        tencrypt::TextError,
        tencrypt::crypto::KeyRingError,
        tencrypt::BuildError,
        tencrypt::nat::NatError,
        tencrypt::offload::OffloadError,
        tencrypt::packet::ParseError,
        tencrypt::packet::RewriteError,
        tencrypt::trust::CertificateError,
        tencrypt_cni::call::AskError,
        tencrypt_cni::call::LineError,
        tencrypt_cni::call::ReceiveError,
        tencrypt_cni::conflist::ConflistError,
        tencrypt_cni::list::InvalidNamespace,
        tencrypt_cni::list::ListError,
        tencrypt_cni::netns::NetnsError,
        tencrypt_dns::NameError,
        tencrypt_dns::ProjectError,
        tencrypt_dns::facts::ClassifyError,
        tencrypt_dns::framing::FramingError,
        tencrypt_dns::interceptor::Refusal,
        tencrypt_dns::interceptor::Unaccepted,
        tencrypt_dns::message::MessageError,
        tencrypt_dns::message::Mismatch,
        tencrypt_dns::proxy::ProxyError,
        tencrypt_dns::resolv_conf::NotCapturable,
        tencrypt_dns::resolv_conf::ResolvConfError,
        tencrypt_dns::reverse::ReverseError,
        tencrypt_lab::Error,
        tencrypt_tun::CaptureError,
        tencrypt_tun::DeviceError,
        tencrypt_tun::InvalidInterfaceName,
        tencrypt_tun::NetNsError,
        tencrypt_udp::BindError,
        tencrypt_udp::PathError,
    ];
    let last = |path: &str| path.rsplit("::").next().unwrap_or_default().trim().to_owned();
    let named = |path: &str, known: &[&str]| {
        let head = |path: &str| path.split("::").next().unwrap_or_default().trim().to_owned();
        known.iter().any(|known| head(known) == head(path) && last(known) == last(path))
    };
    let mut offences = Vec::new();
    let mut found = Vec::new();
    for package in LIBRARIES {
        let text = list(package);
        found.extend(faces::errors(&text, &path_name(package)).into_iter().map(str::to_owned));
    }
    for path in &found {
        if !named(path, &known) && !named(path, &GIVEN_BACK) {
            offences.push(format!("{path} stands as Err and is not in the list of errors of this test"));
        }
    }
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    let stale = GIVEN_BACK.iter().filter(|path| !named(path, &found));
    offences.extend(stale.map(|path| format!("no function gives {path} back: the row is stale")));
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}
