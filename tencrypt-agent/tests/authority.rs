//! `tencrypt ca` from outside: what it writes is whole, what it is given is judged, and each mistake is one line.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

const KEY: &str = "4ac3e9f60b2d75815e90c1a7d38f24b67c0d91e2a85b3f64d17c28e905ba6f43";

/// A directory of the test's own with an authority and a tenant key in it, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tencrypt-ca-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        let place = Self(path);
        done(&place.tencrypt(&["genkey", "tenant.key"]));
        done(&place.tencrypt(&["ca", "init", "shop.ca"]));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn tencrypt(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tencrypt"));
        command.args(arguments).current_dir(&self.0).env_remove("TENCRYPT_LOG");
        command.env("TENCRYPT_RUN_DIR", self.path("run")).stdin(Stdio::null()).output().unwrap()
    }

    /// `ca issue` for a key, with these further arguments.
    fn issue(&self, more: &[&str]) -> Output {
        let first = ["ca", "issue", "--ca", "shop.ca", "--public-key", KEY, "--tenant-key", "tenant.key"];
        self.tencrypt(&[&first[..], more].concat())
    }

    fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const GOOD: [&str; 8] =
    ["--address", "10.244.1.5", "--address", "fd00::5", "--pod", "web-0", "--out", "web-0.cert"];

fn done(output: &Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output, code: i32, reason: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.starts_with("tencrypt: ") && said.lines().count() == 1, "{said:?}");
    assert!(said.contains(reason), "{said:?} lacks {reason:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn an_authority_is_made_whole_its_secret_private_and_never_overwritten() {
    let place = Place::new("init");
    let secret = fs::read_to_string(place.path("shop.ca")).unwrap();
    assert!(secret.starts_with("tencrypt-ca-v1\nsecret "));
    let public = fs::read_to_string(place.path("shop.ca.pub")).unwrap();
    assert!(public.starts_with("tencrypt-ca-public-v1\npublic "));
    assert_eq!(fs::metadata(place.path("shop.ca")).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(place.listing(), ["shop.ca", "shop.ca.pub", "tenant.key"], "no temporary file stays");
    refused(&place.tencrypt(&["ca", "init", "shop.ca"]), 2, "shop.ca exists already");
    fs::remove_file(place.path("shop.ca")).unwrap();
    refused(&place.tencrypt(&["ca", "init", "shop.ca"]), 2, "shop.ca.pub exists already");
    refused(&place.tencrypt(&["ca", "init", "absent/ca"]), 1, "cannot make absent/ca.pub");
    assert_eq!(fs::read_to_string(place.path("shop.ca.pub")).unwrap(), public);
    assert_eq!(place.listing(), ["shop.ca.pub", "tenant.key"], "nothing is half there");
}

#[test]
fn a_certificate_is_issued_whole_shown_and_replaced_only_by_another() {
    let place = Place::new("issue");
    assert_eq!(done(&place.issue(&GOOD)), "");
    let first = fs::read(place.path("web-0.cert")).unwrap();
    assert_eq!(first.len(), 448);
    let shown = done(&place.tencrypt(&["inspect", "web-0.cert", "--ca", "shop.ca.pub"]));
    for part in ["web-0", "10.244.1.5/32, fd00::5/128", "generation  1", KEY, "signature   verified"] {
        assert!(shown.contains(part), "{shown} lacks {part}");
    }
    let shown = done(&place.tencrypt(&["inspect", "web-0.cert", "--json"]));
    let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&value["pod"], &value["generation"]), (&"web-0".into(), &1.into()));
    assert_eq!((&value["public_key"], &value["verified"]), (&KEY.into(), &false.into()));

    done(&place.issue(&[&GOOD[..], &["--generation", "2"]].concat()));
    assert_ne!(fs::read(place.path("web-0.cert")).unwrap(), first);
    let key = fs::read(place.path("tenant.key")).unwrap();
    for other in ["tenant.key", "shop.ca"] {
        let arguments = ["--address", "10.244.1.5", "--pod", "web-0", "--out", other];
        refused(&place.issue(&arguments), 2, "is no certificate; it is left alone");
    }
    assert_eq!(fs::read(place.path("tenant.key")).unwrap(), key);
    assert_eq!(place.listing(), ["shop.ca", "shop.ca.pub", "tenant.key", "web-0.cert"]);
}

#[test]
fn each_mistake_in_a_request_is_one_line_and_nothing_is_written() {
    let place = Place::new("mistakes");
    let with = |changes: &[(&str, &str)]| {
        let mut arguments: Vec<String> = GOOD.map(str::to_owned).to_vec();
        for (option, value) in changes {
            let at = arguments.iter().position(|word| word == option).unwrap();
            arguments[at + 1] = (*value).to_owned();
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        place.issue(&arguments)
    };
    for (option, value, reason) in [
        ("--address", "10.244.1", "expected an address"),
        ("--address", "10.244.1.5/24", "--address: address 1 is none that a pod may have"),
        ("--address", "224.0.0.1", "address 1"),
        ("--address", "127.0.0.1", "address 1"),
        ("--address", "0.0.0.0/0", "address 1"),
        ("--address", "fd00::/16", "lies within the other"),
        ("--pod", "Web", "--pod: no name of a pod"),
        ("--pod", "", "--pod"),
    ] {
        refused(&with(&[(option, value)]), 2, reason);
    }
    refused(&with(&[("--out", "absent/x.cert")]), 1, "cannot make absent/x.cert");
    let third = [&GOOD[..], &["--address", "10.0.0.1"]].concat();
    refused(&place.issue(&third), 2, "one or two addresses");
    refused(&place.issue(&["--pod", "web-0", "--out", "x"]), 2, "--address");
    let start = ["ca", "issue", "--ca", "shop.ca"];
    let command = |middle: &[&str]| place.tencrypt(&[&start[..], middle, &GOOD].concat());
    refused(&command(&[]), 2, "--netns");
    refused(&command(&["--public-key", KEY]), 2, "--tenant-key");
    for bad in [&KEY[1..], "zz", ""] {
        refused(&command(&["--public-key", bad, "--tenant-key", "tenant.key"]), 2, "--public-key");
    }
    refused(
        &command(&["--public-key", KEY, "--netns", "x", "--tenant-key", "tenant.key"]),
        2,
        "cannot be used",
    );
    refused(&command(&["--netns", "/proc/self/ns/net"]), 3, "nothing runs in namespace");
    refused(&command(&["--public-key", KEY, "--tenant-key", "shop.ca"]), 2, "tencrypt-key-v1");
    fs::set_permissions(place.path("shop.ca"), fs::Permissions::from_mode(0o640)).unwrap();
    refused(&place.issue(&GOOD), 2, "mode 0640 lets others");
    fs::write(place.path("shop.ca"), "tencrypt-ca-v1\nsecret 00\n").unwrap();
    fs::set_permissions(place.path("shop.ca"), fs::Permissions::from_mode(0o600)).unwrap();
    refused(&place.issue(&GOOD), 2, "shop.ca: line 2: the key is not 32 bytes long");
    assert_eq!(place.listing(), ["shop.ca", "shop.ca.pub", "tenant.key"]);
}

#[test]
fn a_certificate_with_any_byte_changed_or_cut_is_refused_in_one_line() {
    let place = Place::new("bytes");
    done(&place.issue(&GOOD));
    let good = fs::read(place.path("web-0.cert")).unwrap();
    // One byte of each field: magic, key, kind, flags, count, reserved, tenant, pod, generation, both prefixes,
    // signature, name and what is behind it.
    for at in
        [0, 20, 48, 49, 50, 51, 60, 70, 84, 88, 89, 90, 92, 97, 108, 109, 112, 128, 191, 192, 193, 200, 447]
    {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        fs::write(place.path("bad.cert"), bytes).unwrap();
        refused(&place.tencrypt(&["inspect", "bad.cert", "--ca", "shop.ca.pub"]), 2, "bad.cert: ");
    }
    for bytes in [&good[..447], &good[..16], &[], &[&good[..], &[0]].concat()] {
        fs::write(place.path("bad.cert"), bytes).unwrap();
        refused(&place.tencrypt(&["inspect", "bad.cert"]), 2, "not a certificate file");
    }
    done(&place.tencrypt(&["ca", "init", "other.ca"]));
    let other = ["inspect", "web-0.cert", "--ca", "other.ca.pub"];
    refused(&place.tencrypt(&other), 2, "the signature is not this authority's");
    refused(&place.tencrypt(&["inspect", "absent"]), 2, "absent: does not exist");
    refused(&place.tencrypt(&["inspect", "web-0.cert", "--ca", "shop.ca"]), 2, "tencrypt-ca-public-v1");
}

#[test]
fn up_refuses_an_authority_or_a_revocation_that_is_wrong() {
    let place = Place::new("up");
    let up = |identity: &str| {
        let text = format!(
            "[tenant]\nkey_file = \"tenant.key\"\n[network]\nprotected = [\"10.0.0.0/8\"]\n[identity]\ncertificate = \"c\"\n{identity}"
        );
        fs::write(place.path("c.toml"), text).unwrap();
        // The namespace is the test's own: whatever is right is refused for that.
        place.tencrypt(&["up", "--netns", "/proc/self/ns/net", "--config", "c.toml"])
    };
    refused(&up("ca = \"absent.pub\"\n"), 2, "absent.pub: does not exist");
    refused(&up("ca = \"shop.ca\"\n"), 2, "shop.ca: line 1: expected `tencrypt-ca-public-v1`");
    fs::write(place.path("r"), "tencrypt-revoked-v1\ndeny-pod web").unwrap();
    refused(&up("ca = \"shop.ca.pub\"\nrevoked = \"r\"\n"), 2, "r: line 2: the last line has no end");
    refused(&up("ca = \"shop.ca.pub\"\nrevoked = \"absent\"\n"), 2, "absent: does not exist");
}
