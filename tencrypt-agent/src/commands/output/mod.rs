//! The output of `status`, `peers`, `explain` and `ca inspect`: tables for people, one JSON document for programs.

mod status;
mod table;

use std::{fmt::Write as _, io::Write as _};

use serde::Serialize;

use self::table::{bytes, table};
use crate::{
    escape::Escaped,
    failure::Failure,
    report::{CertificateReport, ExplainReport, PeerReport, StatusReport},
};

/// `tencrypt status`.
#[must_use]
pub(crate) fn status(report: &StatusReport, as_json: bool) -> String {
    if as_json {
        return json(report);
    }
    let mut text = status::text(report);
    if !report.peers.is_empty() {
        text.push('\n');
        text.push_str(&peers(&report.peers, false));
    }
    text
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
    if let Some(reason) = &report.reason {
        let _ = write!(text, " ({})", Escaped(reason));
    }
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
mod tests;
