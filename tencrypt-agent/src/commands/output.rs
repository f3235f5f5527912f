//! What `status`, `peers` and `explain` print: tables for people, one JSON document for programs.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;

use crate::{
    failure::Failure,
    os::escape::Escaped,
    report::{
        CertificateReport, ExplainReport, HardeningReport, IdentityReport, KeysReport, PeerReport,
        RenewalReport, StatusReport,
    },
};

/// `tencrypt status`.
#[must_use]
pub(crate) fn status(report: &StatusReport, as_json: bool) -> String {
    if as_json {
        return json(report);
    }
    let packets = &report.packets;
    let dropped: Vec<String> = report
        .drops
        .iter()
        .filter(|&(_, &count)| count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    let mut policy = format!("unknown destinations: {}", report.unknown);
    if !report.enforce {
        policy.push_str("; NOT enforced");
    }
    let mut rows = vec![
        ["project".to_owned(), report.project.clone().unwrap_or_else(|| "not known".to_owned())],
        ["mtu".to_owned(), report.mtu.to_string()],
        ["suite".to_owned(), report.suite.clone()],
        ["lanes".to_owned(), report.lanes.to_string()],
        ["policy".to_owned(), policy],
        ["identity".to_owned(), identity(&report.identity)],
        [
            "packets".to_owned(),
            format!(
                "encrypted {}, decrypted {}, bypassed {}, held {}, dropped {}",
                packets.encrypted, packets.decrypted, packets.bypassed, packets.held, packets.dropped
            ),
        ],
    ];
    if let Some(problem) = &report.suite_problem {
        rows.push(["".to_owned(), format!("NO SESSIONS: {problem}")]);
    }
    if let Some(problem) = &report.identity.problem {
        rows.push(["".to_owned(), format!("certificate: {problem}")]);
    }
    if let Some(problem) = &report.identity.revocation_problem {
        rows.push(["".to_owned(), format!("revocation: {problem}; the one before is in force")]);
    }
    rows.push(["keys".to_owned(), keys(&report.keys)]);
    if let Some(reason) = &report.keys.error {
        rows.push(["key file".to_owned(), format!("NOT in force: {reason}")]);
    }
    let old = old_epochs(report);
    if !old.is_empty() {
        let line = format!("{} of {} peers: {}", old.len(), report.peers.len(), old.join(", "));
        rows.push(["old epoch".to_owned(), line]);
    }
    let calls = &report.calls;
    if packets.encrypted > 0 || packets.decrypted > 0 {
        let line = format!(
            "{} reads and {} sends, {} receives and {} writes",
            calls.reads, calls.sends, calls.receives, calls.writes
        );
        rows.push(["calls".to_owned(), line]);
    }
    if packets.opportunistic > 0 {
        let line = format!("{} of the bypassed, to destinations that did not answer", packets.opportunistic);
        rows.push(["in plain".to_owned(), line]);
    }
    let chains = &report.chains;
    if chains.plain_in > 0 || chains.leak > 0 {
        let line = format!("plaintext in {}, plaintext out {}", chains.plain_in, chains.leak);
        rows.push(["stopped".to_owned(), line]);
    }
    let screen = &report.screen;
    if screen.dropped > 0 || screen.refused > 0 {
        let mut line = format!("{} datagrams and trains", screen.dropped);
        if screen.up {
            line.push_str("; there is a flood now");
        }
        if screen.refused > 0 {
            line.push_str("; the kernel REFUSED filters (net.core.optmem_max)");
        }
        rows.push(["kept out".to_owned(), line]);
    }
    if !dropped.is_empty() {
        rows.push(["drops".to_owned(), dropped.join(", ")]);
    }
    rows.push(["hardened".to_owned(), hardening(&report.hardening)]);
    if let Some(row) = renewal(&report.renewal) {
        rows.push(["renewed".to_owned(), row]);
    }
    rows.push(["peers".to_owned(), report.peers.len().to_string()]);
    let mut text = table(&rows);
    if !report.peers.is_empty() {
        text.push('\n');
        text.push_str(&peers(&report.peers, false));
    }
    text
}

/// What holds, and what does not.
fn hardening(report: &HardeningReport) -> String {
    let measures = [
        (report.not_dumpable, "not dumpable"),
        (report.memory_locked, "memory locked"),
        (report.secret_memory, "secret memory"),
        (report.no_new_privs, "no new privileges"),
        (report.seccomp, "seccomp"),
    ];
    let [holds, lacks] = [true, false].map(|wanted| {
        let named = measures.iter().filter(|(holds, _)| *holds == wanted).map(|(_, name)| *name);
        named.collect::<Vec<_>>().join(", ")
    });
    let capabilities =
        if report.capabilities.is_empty() { "none".to_owned() } else { report.capabilities.join(", ") };
    let lacks = if lacks.is_empty() { lacks } else { format!("; NOT: {lacks}") };
    format!("{holds}; capabilities {capabilities}{lacks}")
}

/// How often keys were made anew, and what would not be noticed; nothing if there is nothing to say.
fn renewal(report: &RenewalReport) -> Option<String> {
    let deaf = "clones of the machine are NOT noticed, pauses are";
    match (report.reason, report.clones_told) {
        (None, true) => None,
        (None, false) => Some(format!("never; {deaf}")),
        (Some(reason), told) => {
            let deaf = if told { String::new() } else { format!("; {deaf}") };
            Some(format!("{} times, last because {}{deaf}", report.count, reason.as_str()))
        }
    }
}

/// Mode, public key, certificate and revocation.
fn identity(report: &IdentityReport) -> String {
    let mut text = format!("{}, public key {}", report.mode, report.public_key);
    match &report.certificate {
        Some(certificate) => {
            let addresses = certificate.addresses.join(",");
            let _ = write!(text, ", {} {addresses} generation {}", certificate.pod, certificate.generation);
        }
        None if report.mode == "certificate" => text.push_str(", NO CERTIFICATE: tenant traffic is dropped"),
        None => {}
    }
    if report.minimum_generation > 0 || report.denied > 0 {
        let _ = write!(text, "; revoked: below {}, {} denied", report.minimum_generation, report.denied);
    }
    text
}

fn keys(keys: &KeysReport) -> String {
    let accept: Vec<String> = keys.accept.iter().map(ToString::to_string).collect();
    format!("send epoch {}, accept {}", keys.send, accept.join(", "))
}

/// The peers whose session is under another epoch than the one that is sent, each with its epoch.
fn old_epochs(report: &StatusReport) -> Vec<String> {
    let old = report.peers.iter().filter(|peer| peer.epoch != report.keys.send);
    old.map(|peer| match peer.address {
        Some(address) => format!("{address} ({})", peer.epoch),
        None => format!("{} ({})", peer.peer, peer.epoch),
    })
    .collect()
}

/// `tencrypt peers`.
#[must_use]
pub(crate) fn peers(peers: &[PeerReport], as_json: bool) -> String {
    if as_json {
        return json(&peers);
    }
    if peers.is_empty() {
        return "no peers\n".to_owned();
    }
    let mut rows = vec![
        [
            "PEER",
            "ADDRESS",
            "ENDPOINT",
            "SUITE",
            "EPOCH",
            "GENERATION",
            "LANES",
            "HANDSHAKE",
            "RECEIVED",
            "SENT",
        ]
        .map(ToOwned::to_owned),
    ];
    for peer in peers {
        let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
        rows.push([
            peer.peer.clone(),
            if addresses.is_empty() { "-".to_owned() } else { addresses.join(",") },
            peer.endpoint.to_string(),
            peer.suite.clone(),
            peer.epoch.to_string(),
            peer.generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            peer.lanes.to_string(),
            peer.last_handshake_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s ago")),
            bytes(peer.rx_bytes),
            bytes(peer.tx_bytes),
        ]);
    }
    table(&rows)
}

/// `tencrypt explain`.
#[must_use]
pub(crate) fn explanation(report: &ExplainReport, as_json: bool) -> String {
    if as_json {
        return json(report);
    }
    let mut text = format!("{} -> {}: {}", report.source, report.destination, Escaped(&report.verdict));
    if let Some(peer) = &report.peer {
        let _ = write!(text, " for peer {}", Escaped(peer));
    }
    text.push('\n');
    for step in &report.because {
        let _ = writeln!(text, "  {}", Escaped(step));
    }
    text
}

/// `tencrypt ca inspect`. `verified`: by an authority that was named.
#[must_use]
pub(crate) fn certificate(report: &CertificateReport, verified: bool, as_json: bool) -> String {
    if as_json {
        #[derive(Serialize)]
        struct Inspected<'a> {
            #[serde(flatten)]
            certificate: &'a CertificateReport,
            verified: bool,
        }
        return json(&Inspected { certificate: report, verified });
    }
    let signature = if verified { "verified" } else { "not looked at; name the authority by --ca" };
    table(
        &[
            ["pod", &report.pod],
            ["addresses", &report.addresses.join(", ")],
            ["generation", &report.generation.to_string()],
            ["public key", &report.public_key],
            ["tenant", &report.tenant],
            ["pod id", &report.pod_id],
            ["signature", signature],
        ]
        .map(|row| row.map(ToOwned::to_owned)),
    )
}

fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
    text.push('\n');
    text
}

/// Left-aligned columns, two blanks apart.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let escaped: Vec<[String; N]> =
        rows.iter().map(|row| std::array::from_fn(|column| Escaped(&row[column]).to_string())).collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        escaped.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in &escaped {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in a unit that keeps the figure short.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut name = None;
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        name = Some(unit);
    }
    name.map_or_else(|| format!("{count} B"), |unit| format!("{value:.1} {unit}"))
}

/// Writes to standard output. A reader that has gone away (`tencrypt peers | head -1`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime(format_args!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::RenewalReason as Reason;
    use crate::report::{ChainsReport, IdentityReport, PacketsReport};

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
        stats.drops[tencrypt::DropReason::Mac1 as usize] = 3;
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
        assert!(
            text.contains("0011223344556677  10.244.2.7,fd00::7  10.244.2.7:8362  aes-256-gcm"),
            "{text}"
        );
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
        assert!(
            text.contains("renewed   never; clones of the machine are NOT noticed, pauses are\n"),
            "{text}"
        );
        let renewed = with(RenewalReport { count: 2, reason: Some(Reason::Pause), clones_told: true });
        let text = status(&renewed, false);
        let line =
            "renewed   2 times, last because the machine or the program stood still for more than 60 s\n";
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
            peer: None,
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
}
