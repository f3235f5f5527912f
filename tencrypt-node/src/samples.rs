//! Reports for tests.

pub(crate) mod cluster;

use serde_json::json;
use tencrypt_agent::report::StatusReport;

use crate::report::{Counts, NodeReport, PluginReport, PodReport, PodState, StrayReport, TenantReport};

/// A data path that has counted: each counter its own number.
pub(crate) fn status() -> StatusReport {
    serde_json::from_value(json!({
        "project": "shop", "mtu": 1440, "suite": "aes-256-gcm", "lanes": 1, "unknown": "drop", "enforce": true,
        "identity": { "mode": "key-only", "public_key": "00ff", "tenant": "0a", "addresses": ["10.244.1.7"],
            "certificate": null, "problem": null, "minimum_generation": 0, "denied": 0, "revocation_problem": null },
        "namespace": { "closed": false, "parts": [
            { "part": "routes", "restored": 2, "last_s": 4, "found": "gone", "problem": null },
            { "part": "rules", "restored": 3, "last_s": 4, "found": "gone", "problem": null } ] },
        "renewal": { "count": 6, "reason": "clone", "signs": ["kernel_log"] },
        "keys": { "send": 3, "accept": [3] },
        "peers": [],
        "packets": { "encrypted": 11, "decrypted": 12, "bypassed": 13, "held": 14, "dropped": 15, "opportunistic": 16 },
        "chains": { "plain_in": 21, "leak": 22, "looped": 23 },
        "screen": { "up": false, "dropped": 31, "refused": 0 },
        "names": { "queries": 41, "answered": 42, "unanswered": 43, "withheld": 44, "external": 45,
            "foreign_name": null, "foreign_address": null, "listening": [], "problem": null, "unseen": [] },
        "drops": { "auth": 51, "replay": 0 }
    }))
    .unwrap()
}

/// A protected pod of `tenant`.
pub(crate) fn pod(name: &str, tenant: &str) -> PodReport {
    PodReport {
        id: "4-4026532281".into(),
        name: name.into(),
        tenant: tenant.into(),
        source: "plugin".into(),
        state: PodState::Protected,
        pid: Some(4711),
        program: Some("0.1.0".into()),
        current: true,
        public_key: Some("6197218c675095dd".into()),
        restarts: 0,
        problem: None,
        peers: 2,
        addresses: vec!["10.244.1.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        status: Some(Box::new(status())),
    }
}

/// A tenant without problems.
pub(crate) fn tenant(name: &str) -> TenantReport {
    TenantReport {
        name: name.into(),
        namespaces: vec![name.into()],
        pods: 1,
        problem: None,
        replacing: false,
        replacement_problem: None,
    }
}

/// An agent that is ready, with the tenant `shop`; each count its own number.
pub(crate) fn node() -> NodeReport {
    NodeReport {
        version: "0.1.0".into(),
        pid: 7,
        uptime_s: 90_061,
        ready: true,
        program: "/opt/tencrypt/bin/tencrypt".into(),
        program_id: "6197218c".into(),
        problems: vec![],
        clone_signs: vec!["kernel_log".into()],
        tenants: vec![tenant("shop")],
        pods: [("protected".to_owned(), 1)].into(),
        unprotected: vec![StrayReport::of("shop/old-0", "the keys are not there")],
        outside: vec![StrayReport::of("shop/lb-0", "it has the network of its node")],
        plugin: Some(PluginReport {
            file: "/opt/cni/bin/tencrypt-cni".into(),
            network: Some("/etc/cni/net.d/10-pods.conflist".into()),
            problem: None,
        }),
        counts: Counts {
            started: 1,
            adopted: 2,
            restarted: 3,
            replaced: 4,
            rolled_back: 5,
            failed: 6,
            added: 7,
            open: 8,
            refused: 9,
            malformed: 10,
            put_back: 11,
            found_unprotected: 12,
            clones: 13,
        },
    }
}
