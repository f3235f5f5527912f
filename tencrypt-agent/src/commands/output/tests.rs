use super::*;
use crate::report::{
    ChainsReport, HardeningReport, IdentityReport, KeysReport, PacketsReport, RenewalReason as Reason,
    RenewalReport,
};

fn peer() -> PeerReport {
    PeerReport {
        peer: "0011223344556677".into(),
        address: Some("10.244.2.7".parse().unwrap()),
        addresses: vec!["10.244.2.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        endpoint: "10.244.2.7:8362".parse().unwrap(),
        suite: "aes-256-gcm".into(),
        epoch: 1,
        generation: Some(4),
        last_handshake_s: Some(12),
        rx_bytes: 1536,
        tx_bytes: 900,
        lanes: 2,
    }
}

fn report() -> StatusReport {
    let mut stats = tencrypt::Stats::new();
    stats.drop_many(tencrypt::DropReason::Mac1, 3);
    StatusReport {
        project: Some("shop".into()),
        mtu: 1440,
        suite: "aes-256-gcm".into(),
        suite_problem: None,
        lanes: 1,
        identity: IdentityReport {
            mode: "certificate".into(),
            public_key: "00ff".into(),
            problem: Some("c.cert does not exist".into()),
            minimum_generation: 3,
            ..IdentityReport::default()
        },
        unknown: "plain".into(),
        enforce: false,
        hardening: HardeningReport {
            not_dumpable: true,
            no_new_privs: true,
            capabilities: vec!["net_admin".to_owned()],
            ..HardeningReport::default()
        },
        renewal: RenewalReport { clones_told: true, ..RenewalReport::default() },
        keys: KeysReport { send: 1, accept: vec![1, 2], error: None },
        peers: vec![peer()],
        chains: ChainsReport { plain_in: 4, leak: 0 },
        calls: crate::report::CallsReport::default(),
        screen: crate::report::ScreenReport { up: true, dropped: 77, refused: 2 },
        packets: PacketsReport { encrypted: 10, opportunistic: 2, ..PacketsReport::from(&stats) },
        drops: crate::report::drops(&stats),
    }
}

#[test]
fn status_json_holds_every_documented_field() {
    let value: serde_json::Value = serde_json::from_str(&status(&report(), true)).unwrap();
    assert_eq!(value["project"], "shop");
    assert_eq!((value["mtu"].as_u64(), value["lanes"].as_u64()), (Some(1440), Some(1)));
    for field in ["address", "endpoint", "suite", "epoch", "last_handshake_s", "rx_bytes", "tx_bytes"] {
        assert!(!value["peers"][0][field].is_null(), "{field}");
    }
    for field in ["encrypted", "decrypted", "bypassed", "held", "dropped"] {
        assert!(value["packets"][field].is_u64(), "{field}");
    }
    assert_eq!(value["packets"]["dropped"], 3);
    for reason in tencrypt::DropReason::ALL {
        assert!(value["drops"][reason.as_str()].is_u64(), "{reason}");
    }
    assert_eq!(value["drops"]["mac1"], 3);
    assert_eq!((&value["chains"]["plain_in"], &value["chains"]["leak"]), (&4.into(), &0.into()));
}

#[test]
fn status_for_people_says_what_leaves_in_plain() {
    let text = status(&report(), false);
    assert!(text.contains("unknown destinations: plain; NOT enforced\n"), "{text}");
    let line = "identity  certificate, public key 00ff, NO CERTIFICATE: tenant traffic is dropped; revoked: below 3, 0 denied\n";
    assert!(text.contains(line) && text.contains("certificate: c.cert does not exist\n"), "{text}");
    assert!(text.contains("in plain  2 of the bypassed"), "{text}");
    assert!(text.contains("drops     mac1 3\n"), "{text}");
    let line = "kept out  77 datagrams and trains; there is a flood now; the kernel REFUSED filters";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("stopped   plaintext in 4, plaintext out 0\n"), "{text}");
    assert!(text.contains("0011223344556677  10.244.2.7,fd00::7  10.244.2.7:8362  aes-256-gcm"), "{text}");
    assert!(text.contains("12 s ago"), "{text}");
    assert!(text.contains("1.5 KiB"), "{text}");
    assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
}

#[test]
fn status_says_which_peers_use_another_epoch_and_why_the_key_file_is_not_in_force() {
    let text = status(&report(), false);
    assert!(text.contains("keys      send epoch 1, accept 1, 2\n"), "{text}");
    assert!(!text.contains("old epoch") && !text.contains("key file"), "{text}");
    let keys = KeysReport { send: 2, accept: vec![1, 2], error: Some("line 3".into()) };
    let other = StatusReport { keys, ..report() };
    let text = status(&other, false);
    assert!(text.contains("old epoch  1 of 1 peers: 10.244.2.7 (1)\n"), "{text}");
    assert!(text.contains("key file   NOT in force: line 3\n"), "{text}");
    let value: serde_json::Value = serde_json::from_str(&status(&other, true)).unwrap();
    assert_eq!(value["keys"], serde_json::json!({ "send": 2, "accept": [1, 2], "error": "line 3" }));
}

#[test]
fn status_says_how_often_keys_were_made_anew_and_what_would_not_be_noticed() {
    assert!(!status(&report(), false).contains("renewed"));
    let with = |renewal| StatusReport { renewal, ..report() };
    let text = status(&with(RenewalReport::default()), false);
    assert!(text.contains("renewed   never; clones of the machine are NOT noticed, pauses are\n"), "{text}");
    let renewed = with(RenewalReport { count: 2, reason: Some(Reason::Pause), clones_told: true });
    let text = status(&renewed, false);
    let line = "renewed   2 times, last because the machine or the program stood still for more than 60 s\n";
    assert!(text.contains(line), "{text}");
    let value: serde_json::Value = serde_json::from_str(&status(&renewed, true)).unwrap();
    let expected = serde_json::json!({ "count": 2, "reason": "pause", "clones_told": true });
    assert_eq!(value["renewal"], expected);
}

#[test]
fn names_from_outside_cannot_reach_the_terminal() {
    let report = ExplainReport {
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2".parse().unwrap(),
        verdict: "bypass".into(),
        reason: None,
        peer: None,
        standing: "external".into(),
        fact: None,
        seen_internal: false,
        protected: false,
        own_source: true,
        because: vec!["dns evil\u{1b}[31m.example\n".into()],
    };
    assert_eq!(
        explanation(&report, false),
        "10.0.0.1 -> 10.0.0.2: bypass\n  dns evil\\u{1b}[31m.example\\n\n"
    );
    assert_eq!(explanation(&report, true).lines().count(), 1);
}

#[test]
fn no_peers_is_said_in_words_and_an_empty_array() {
    assert_eq!(peers(&[], false), "no peers\n");
    assert_eq!(peers(&[], true), "[]\n");
}

#[test]
fn byte_counts_stay_short() {
    assert_eq!((bytes(0), bytes(1023), bytes(1024)), ("0 B".into(), "1023 B".into(), "1.0 KiB".into()));
    assert_eq!(bytes(u64::MAX), "16384.0 PiB");
}
