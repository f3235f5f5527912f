//! `tencrypt list` for people and for programs.

use super::{json::json, status::list as addresses};
use crate::{
    layout::{duration, table},
    report::listed::{Listed, State},
};

/// `tencrypt list`.
#[must_use]
pub(crate) fn list(listed: &Listed, as_json: bool) -> String {
    if as_json {
        return json(listed);
    }
    let mut text = if listed.tunnels.is_empty() { "no tunnels\n".to_owned() } else { tunnels(listed) };
    if listed.unseen > 0 {
        text.push_str(&format!("{} namespaces could not be looked into: ask as root\n", listed.unseen));
    }
    text
}

fn tunnels(listed: &Listed) -> String {
    let mut rows = vec![
        ["NETNS", "STATE", "PROJECT", "ADDRESS", "PEERS", "PROCESS", "UP", "PROBLEM"].map(ToOwned::to_owned),
    ];
    for tunnel in &listed.tunnels {
        let (state, note) = match tunnel.state {
            State::Running => ("running", ""),
            State::Silent => ("SILENT", "it does not answer"),
            State::Others => ("running", "another user's, or with another TENCRYPT_RUN_DIR"),
            State::Closed => ("CLOSED", "`tencrypt up` takes over, `tencrypt down` opens it"),
        };
        let mut row = [&tunnel.netns, state, "-", "-", "-", "-", "-", note].map(ToOwned::to_owned);
        if let Some(summary) = &tunnel.status {
            let project = summary.project.clone().unwrap_or_else(|| "-".to_owned());
            row[2] = project;
            row[3] = addresses(&summary.addresses);
            row[4] = summary.peers.to_string();
            row[5] = summary.pid.to_string();
            row[6] = duration(summary.uptime_s);
            row[7] = summary.problems.join("; ");
        }
        rows.push(row);
    }
    table(&rows)
}
