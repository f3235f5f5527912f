//! `tencrypt status` for people: a row for each thing there is to say.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use crate::{
    layout::{duration, table},
    report::{
        CloneSign, HardeningReport, IdentityReport, KeysReport, NamesReport, NamespaceReport, RenewalReport,
        StatusReport,
    },
};

/// A name and what there is to say under it; without a name it goes on with the row above.
type Row = [String; 2];

fn row(name: &str, text: impl Into<String>) -> Row {
    [name.to_owned(), text.into()]
}

/// Lays out the report, without its peers.
pub(super) fn text(report: &StatusReport) -> String {
    let mut rows = settings(report);
    rows.extend(problems(report));
    rows.extend(namespace(&report.namespace));
    rows.extend(key_rows(report));
    rows.extend(traffic(report));
    rows.extend(kept_out(report));
    rows.extend(report.names.iter().flat_map(names));
    rows.push(row("hardened", hardening(&report.hardening)));
    rows.extend(renewal(&report.renewal).map(|text| row("renewed", text)));
    rows.push(row("peers", report.peers.len().to_string()));
    table(&rows)
}

fn settings(report: &StatusReport) -> Vec<Row> {
    let mut policy = format!("unknown destinations: {}", report.unknown);
    if !report.enforce {
        policy.push_str("; NOT enforced");
    }
    if !report.network.unprotected.is_empty() {
        policy.push_str("; NOT protected: some of the pod's own addresses");
    }
    let packets = &report.packets;
    let program = &report.program;
    let up = duration(program.uptime_s);
    vec![
        row("program", format!("tencrypt {}, process {}, up {up}", program.version, program.pid)),
        row("underlay", format!("{}, UDP port {}", report.network.interface, report.network.port)),
        row("address", list(&report.identity.addresses)),
        row("ranges", report.network.protected.join(", ")),
        row("project", report.project.clone().unwrap_or_else(|| "not known".to_owned())),
        row("mtu", report.mtu.to_string()),
        row("suite", report.suite.clone()),
        row("lanes", report.lanes.to_string()),
        row("policy", policy),
        row("identity", identity(&report.identity)),
        row(
            "packets",
            format!(
                "encrypted {}, decrypted {}, bypassed {}, held {}, dropped {}",
                packets.encrypted, packets.decrypted, packets.bypassed, packets.held, packets.dropped
            ),
        ),
    ]
}

fn problems(report: &StatusReport) -> Vec<Row> {
    report.problems().into_iter().map(|text| row("", text)).collect()
}

/// Rows of what somebody else changes in the namespace.
fn namespace(report: &NamespaceReport) -> Vec<Row> {
    let mut rows = Vec::new();
    if report.closed {
        rows.push(row("", "CLOSED: protected destinations are unreachable"));
    }
    for part in &report.parts {
        if let Some(problem) = &part.problem {
            rows.push(row(&part.part, problem.clone()));
        }
        if part.restored > 0 {
            let last = part.last_s.map_or(String::new(), |last| format!(", {last} s ago"));
            let found = part.found.as_ref().map_or(String::new(), |found| format!(": {found}"));
            rows.push(row("put back", format!("{} {} times{last}{found}", part.part, part.restored)));
        }
    }
    rows
}

fn key_rows(report: &StatusReport) -> Vec<Row> {
    let mut rows = vec![row("keys", keys(&report.keys))];
    if let Some(reason) = &report.keys.error {
        rows.push(row("key file", format!("NOT in force: {reason}")));
    }
    let old = old_epochs(report);
    if !old.is_empty() {
        let text = format!("{} of {} peers: {}", old.len(), report.peers.len(), old.join(", "));
        rows.push(row("old epoch", text));
    }
    rows
}

/// Rows of traffic that passed.
fn traffic(report: &StatusReport) -> Vec<Row> {
    let (calls, packets) = (&report.calls, &report.packets);
    let mut rows = Vec::new();
    if packets.encrypted > 0 || packets.decrypted > 0 {
        let text = format!(
            "{} reads and {} sends, {} receives and {} writes",
            calls.reads, calls.sends, calls.receives, calls.writes
        );
        rows.push(row("calls", text));
    }
    if packets.opportunistic > 0 {
        let text = format!("{} of the bypassed, to destinations that did not answer", packets.opportunistic);
        rows.push(row("in plain", text));
    }
    rows
}

/// Rows of traffic that was kept from passing.
fn kept_out(report: &StatusReport) -> Vec<Row> {
    let (chains, screen) = (&report.chains, &report.screen);
    let mut rows = Vec::new();
    if chains.plain_in > 0 || chains.leak > 0 {
        let text = format!("plaintext in {}, plaintext out {}", chains.plain_in, chains.leak);
        rows.push(row("stopped", text));
    }
    if chains.looped > 0 {
        let text =
            format!("{} of the tunnel's own packets, led into it by another route or rule", chains.looped);
        rows.push(row("loop", text));
    }
    if screen.dropped > 0 || screen.refused > 0 {
        let mut text = format!("{} datagrams and trains", screen.dropped);
        if screen.up {
            text.push_str("; there is a flood now");
        }
        if screen.refused > 0 {
            text.push_str("; the kernel REFUSED filters (net.core.optmem_max)");
        }
        rows.push(row("kept out", text));
    }
    let dropped = report.drops.iter().filter(|&(_, &count)| count > 0);
    let dropped: Vec<String> = dropped.map(|(reason, count)| format!("{reason} {count}")).collect();
    if !dropped.is_empty() {
        rows.push(row("drops", dropped.join(", ")));
    }
    rows
}

/// Rows of names that were asked for.
fn names(report: &NamesReport) -> Vec<Row> {
    let NamesReport { queries, answered, unanswered, withheld, external, .. } = report;
    let mut rows =
        vec![row("names", format!("queries {queries}, answered {answered}, unanswered {unanswered}"))];
    if let Some(problem) = &report.problem {
        rows.push(row("", format!("NOT answered: {problem}")));
    }
    if !report.unseen.is_empty() {
        let servers: Vec<String> = report.unseen.iter().map(ToString::to_string).collect();
        rows.push(row("", format!("NOT seen: answers of {}", servers.join(", "))));
    }
    let found = match (&report.foreign_name, report.foreign_address) {
        (Some(name), Some(address)) => format!(": {name} has the address {address}"),
        (Some(name), None) => format!(": {name}"),
        (None, _) => String::new(),
    };
    if *withheld > 0 {
        rows.push(row("", format!("{withheld} WITHHELD, external_names is false{found}")));
    }
    if *external > 0 {
        rows.push(row("", format!("{external} led outside, external_names is true{found}")));
    }
    rows
}

/// The measures that hold, and those that do not.
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

/// The number of times that keys were made anew, and the events that would not be noticed; nothing if there is nothing to
/// say.
fn renewal(report: &RenewalReport) -> Option<String> {
    let deaf = "clones of the machine are NOT noticed, pauses are";
    match (report.reason, report.signs.contains(&CloneSign::KernelLog)) {
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
    format!("send epoch {}, accept {}", keys.send, epochs(&keys.accept, &keys.fingerprints))
}

/// Epochs, each with the fingerprint of its key where one is known.
pub(super) fn epochs<'a>(
    epochs: impl IntoIterator<Item = &'a u8>,
    fingerprints: &BTreeMap<u8, String>,
) -> String {
    let each = epochs.into_iter().map(|epoch| match fingerprints.get(epoch) {
        Some(fingerprint) => format!("{epoch} ({fingerprint})"),
        None => epoch.to_string(),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Addresses, or a word where there are none.
pub(super) fn list(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "none".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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
