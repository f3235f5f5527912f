use super::*;
use crate::report::{
    ChainsReport, CloneSign, HardeningReport, IdentityReport, KeysReport, NamesReport, NamespaceReport,
    PacketsReport, PartReport, RenewalReason as Reason, RenewalReport,
};

pub(super) fn peer() -> PeerReport {
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

pub(super) fn report() -> StatusReport {
    let mut stats = tencrypt::Stats::new();
    stats.drop_many(tencrypt::DropReason::Mac1, 3);
    StatusReport {
        program: crate::report::ProgramReport::default(),
        network: crate::report::NetworkReport::default(),
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
        namespace: NamespaceReport::default(),
        hardening: HardeningReport {
            not_dumpable: true,
            no_new_privs: true,
            capabilities: vec!["net_admin".to_owned()],
            ..HardeningReport::default()
        },
        renewal: RenewalReport { signs: vec![CloneSign::KernelLog], ..RenewalReport::default() },
        keys: KeysReport { send: 1, accept: vec![1, 2], ..KeysReport::default() },
        peers: vec![peer()],
        chains: ChainsReport { plain_in: 4, leak: 0, looped: 0 },
        calls: crate::report::CallsReport::default(),
        screen: crate::report::ScreenReport { up: true, dropped: 77, refused: 2 },
        names: None,
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
fn status_says_what_somebody_has_changed_in_the_namespace_and_what_does_not_stand() {
    assert!(!status(&report(), false).contains("put back"));
    let part = |part: &str, restored, problem: Option<&str>| PartReport {
        part: part.to_owned(),
        restored,
        last_s: (restored > 0).then_some(7),
        found: (restored > 0).then(|| "the IPv4 rule for table 8362 is gone".to_owned()),
        problem: problem.map(str::to_owned),
    };
    let parts = vec![part("chains", 0, Some("no memory")), part("rules", 3, None)];
    let namespace = NamespaceReport { closed: true, parts };
    let text = status(&StatusReport { namespace, ..report() }, false);
    assert!(text.contains("CLOSED: protected destinations are unreachable\n"), "{text}");
    assert!(text.contains("chains    no memory\n"), "{text}");
    let line = "put back  rules 3 times, 7 s ago: the IPv4 rule for table 8362 is gone\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn status_says_which_peers_use_another_epoch_and_why_the_key_file_is_not_in_force() {
    let text = status(&report(), false);
    assert!(text.contains("keys      send epoch 1, accept 1, 2\n"), "{text}");
    assert!(!text.contains("old epoch") && !text.contains("key file"), "{text}");
    let fingerprints = [(1, "3f9c12ab".to_owned()), (2, "a01b77c0".to_owned())].into();
    let keys = KeysReport { send: 2, accept: vec![1, 2], fingerprints, error: Some("line 3".into()) };
    let other = StatusReport { keys, ..report() };
    let text = status(&other, false);
    assert!(text.contains("keys       send epoch 2, accept 1 (3f9c12ab), 2 (a01b77c0)\n"), "{text}");
    assert!(text.contains("old epoch  1 of 1 peers: 10.244.2.7 (1)\n"), "{text}");
    assert!(text.contains("key file   NOT in force: line 3\n"), "{text}");
    let value: serde_json::Value = serde_json::from_str(&status(&other, true)).unwrap();
    assert_eq!(
        value["keys"],
        serde_json::json!({
            "send": 2, "accept": [1, 2], "fingerprints": { "1": "3f9c12ab", "2": "a01b77c0" }, "error": "line 3"
        })
    );
}

#[test]
fn status_says_how_often_keys_were_made_anew_and_what_would_not_be_noticed() {
    assert!(!status(&report(), false).contains("renewed"));
    let with = |renewal| StatusReport { renewal, ..report() };
    let text = status(&with(RenewalReport::default()), false);
    assert!(text.contains("renewed   never; clones of the machine are NOT noticed, pauses are\n"), "{text}");
    const SIGNS: [CloneSign; 2] = [CloneSign::BootClock, CloneSign::KernelLog];
    let renewed = with(RenewalReport { count: 2, reason: Some(Reason::Pause), signs: SIGNS.to_vec() });
    let text = status(&renewed, false);
    let line = "renewed   2 times, last because the machine or the program stood still for more than 60 s\n";
    assert!(text.contains(line), "{text}");
    let value: serde_json::Value = serde_json::from_str(&status(&renewed, true)).unwrap();
    let expected =
        serde_json::json!({ "count": 2, "reason": "pause", "signs": ["boot_clock", "kernel_log"] });
    assert_eq!(value["renewal"], expected);
}

#[test]
fn status_says_which_name_led_outside_and_how_often_that_was_withheld() {
    let with = |names| status(&StatusReport { names: Some(names), ..report() }, false);
    let names = NamesReport { queries: 9, answered: 8, unanswered: 1, ..NamesReport::default() };
    assert!(with(names.clone()).contains("names     queries 9, answered 8, unanswered 1\n"));
    let problem = Some("10.0.0.1 port 5: in use".to_owned());
    let text = with(NamesReport { problem, unseen: vec!["fe80::1".parse().unwrap()], ..names.clone() });
    assert!(text.contains("NOT answered: 10.0.0.1 port 5: in use\n"), "{text}");
    assert!(text.contains("NOT seen: answers of fe80::1\n"), "{text}");
    let names = NamesReport {
        withheld: 2,
        foreign_name: Some("web.shop.svc.cluster.local".into()),
        foreign_address: Some("203.0.113.10".parse().unwrap()),
        ..names
    };
    let text = with(names.clone());
    let line =
        "2 WITHHELD, external_names is false: web.shop.svc.cluster.local has the address 203.0.113.10\n";
    assert!(text.contains(line), "{text}");
    let text = with(NamesReport { withheld: 0, external: 3, foreign_address: None, ..names });
    assert!(text.contains("3 led outside, external_names is true: web.shop.svc.cluster.local\n"), "{text}");
}

#[test]
fn explain_says_what_the_kernel_leads_around_the_tunnel_whatever_a_lane_would_do() {
    let mut held = ExplainReport {
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2".parse().unwrap(),
        verdict: "hold".into(),
        reason: None,
        peer: None,
        standing: "unknown".into(),
        fact: None,
        seen_internal: false,
        protected: true,
        own_source: true,
        around: None,
        because: vec!["standing: unknown".into()],
    };
    let mut led = held.clone();
    led.note_route(Some(true));
    assert_eq!(
        explanation(&led, false),
        "10.0.0.1 -> 10.0.0.2: bypass\n  standing: unknown\n  the kernel leads it around the tunnel; a lane would say: hold\n"
    );
    let value: serde_json::Value = serde_json::from_str(&explanation(&led, true)).unwrap();
    assert_eq!((&value["verdict"], &value["around"]), (&"bypass".into(), &true.into()));
    held.note_route(Some(false));
    assert_eq!((held.verdict.as_str(), held.around), ("hold", Some(false)));
    let mut refused =
        ExplainReport { verdict: "drop".into(), reason: Some("unknown_destination".into()), ..held };
    refused.note_route(Some(true));
    assert_eq!((refused.verdict.as_str(), refused.reason.clone()), ("bypass", None));
    assert!(refused.because.last().unwrap().ends_with("a lane would say: drop, unknown_destination"));
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
        around: None,
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
    assert_eq!(peers(&[], true), "{\"version\":1,\"peers\":[]}\n");
}

#[test]
fn byte_counts_stay_short() {
    assert_eq!((bytes(0), bytes(1023), bytes(1024)), ("0 B".into(), "1023 B".into(), "1.0 KiB".into()));
    assert_eq!(bytes(u64::MAX), "16384.0 PiB");
}
