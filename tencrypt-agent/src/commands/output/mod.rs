//! The output of the commands that show something: tables for people, one JSON document for programs.
//!
//! docs/json.md has every field of the documents; a test holds it.

mod check;
mod json;
mod list;
mod status;

use std::{fmt::Write as _, io::Write as _, net::IpAddr};

use serde::Serialize;

use self::json::json;
pub(crate) use self::{check::findings, list::list};
use crate::{
    escape::Escaped,
    failure::Failure,
    layout::{bytes, table},
    report::{
        CertificateReport, ExplainReport, PeerReport, StatusReport,
        inspected::{Inspected, KeyFileReport},
    },
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
        #[derive(Serialize)]
        struct Peers<'a> {
            peers: &'a [PeerReport],
        }
        return json(&Peers { peers });
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

/// `tencrypt inspect`.
#[must_use]
pub(crate) fn inspected(content: &Inspected, as_json: bool) -> String {
    if as_json {
        return json(content);
    }
    let key = |kind: &str, public_key: &str| {
        table(&[["kind", kind], ["public key", public_key]].map(|row| row.map(ToOwned::to_owned)))
    };
    match content {
        Inspected::Keys(keys) => key_file(keys),
        Inspected::Certificate { certificate, verified } => self::certificate(certificate, *verified),
        Inspected::Authority { public_key } => key("secret of an authority", public_key),
        Inspected::AuthorityKey { public_key } => key("public key of an authority", public_key),
        Inspected::Revocation { minimum_generation, denied } => table(
            &[
                ["kind", "revocation"],
                ["revoked", &format!("below generation {minimum_generation}, and {denied} keys and pods")],
            ]
            .map(|row| row.map(ToOwned::to_owned)),
        ),
    }
}

/// Epochs of a key file, on one line.
#[must_use]
pub(crate) fn key_epochs(report: &KeyFileReport) -> String {
    let accept = status::epochs(report.fingerprints.keys(), &report.fingerprints);
    format!("send epoch {}, accept {accept}", report.send)
}

/// Addresses on one line, or a word where there are none.
#[must_use]
pub(crate) fn list_of(addresses: &[IpAddr]) -> String {
    status::list(addresses)
}

fn key_file(report: &KeyFileReport) -> String {
    table(
        &[
            ["kind", "keys of a tenant"],
            ["tenant", &report.tenant],
            ["send", &format!("epoch {}", report.send)],
            ["accept", &status::epochs(report.fingerprints.keys(), &report.fingerprints)],
        ]
        .map(|row| row.map(ToOwned::to_owned)),
    )
}

/// A certificate. `verified`: by an authority that was named.
fn certificate(report: &CertificateReport, verified: bool) -> String {
    let signature = if verified { "verified" } else { "not looked at; name the authority by --ca" };
    table(
        &[
            ["kind", "certificate"],
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

/// Writes to standard output. A reader that has gone away (`tencrypt peers | head -1`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_more(text).map(drop)
}

/// Writes to standard output. False: the reader has gone away, and more is of no use.
pub(crate) fn print_more(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::runtime(format_args!("standard output: {error}"))),
    }
}

#[cfg(test)]
mod documents;
#[cfg(test)]
mod tests;
