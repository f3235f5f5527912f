//! `tencrypt-node status` for people: a row for each thing there is to say, and a table of the tenants.

use tencrypt_agent::layout::{duration, table};

use super::table::{cut, joined};
use crate::report::{Counts, NodeReport, PluginReport, StrayReport, TenantReport};

/// Most characters of a tenant's name.
const NAME: usize = 32;

/// Most namespaces of a tenant that are shown.
const NAMESPACES: usize = 4;

/// Most pods outside of the tunnel that are shown. `--json` has all.
const STRAYS: usize = 20;

/// Most characters of a problem. `--json` has all of it.
const PROBLEM: usize = 120;

/// A name and what there is to say under it; without a name it goes on with the row above.
type Row = [String; 2];

fn row(name: &str, text: impl Into<String>) -> Row {
    [name.to_owned(), text.into()]
}

/// Lays out the report.
pub(super) fn text(report: &NodeReport) -> String {
    let agent =
        format!("tencrypt-node {}, process {}, up {}", report.version, report.pid, duration(report.uptime_s));
    let ready = if report.ready { "yes" } else { "NO: not everything is adopted and read" };
    let mut rows = vec![
        row("agent", agent),
        row("ready", ready),
        row("program", format!("{} ({})", report.program, report.program_id)),
    ];
    rows.extend(
        report
            .problems
            .iter()
            .enumerate()
            .map(|(place, problem)| row(if place == 0 { "problems" } else { "" }, problem.clone())),
    );
    rows.push(row("clones", clones(report)));
    rows.extend(report.plugin.as_ref().map(|report| row("plugin", plugin(report))));
    let pods: Vec<String> = report.pods.iter().map(|(state, count)| format!("{state} {count}")).collect();
    rows.push(row("pods", if pods.is_empty() { "none".to_owned() } else { pods.join(", ") }));
    rows.extend(strays("UNPROTECTED", &report.unprotected));
    rows.extend(strays("outside", &report.outside));
    rows.extend(counts(&report.counts));
    let mut text = table(&rows);
    text.push('\n');
    text.push_str(&tenants(&report.tenants));
    text
}

fn clones(report: &NodeReport) -> String {
    let times = report.counts.clones;
    match (report.clone_signs.as_slice(), times) {
        ([], 0) => "NOT noticed".to_owned(),
        ([], _) => format!("keys made anew {times} times; more are NOT noticed"),
        (signs, 0) => format!("noticed by {}", joined(signs, ", ")),
        (signs, _) => format!("noticed by {}; keys made anew {times} times", joined(signs, ", ")),
    }
}

/// Rows of pods that are outside of the tunnel.
fn strays(name: &str, strays: &[StrayReport]) -> Vec<Row> {
    let shown = strays.iter().take(STRAYS).map(|stray| format!("{}: {}", stray.name, stray.reason));
    let more = strays.len().saturating_sub(STRAYS);
    let more = (more > 0).then(|| format!("and {more} more"));
    let line = |(place, text): (usize, String)| row(if place == 0 { name } else { "" }, cut(&text, PROBLEM));
    shown.chain(more).enumerate().map(line).collect()
}

fn plugin(report: &PluginReport) -> String {
    match (&report.problem, &report.network) {
        (Some(problem), _) => format!("{}: NOT in place: {problem}", report.file),
        (None, Some(network)) => format!("{}, in {network}", report.file),
        (None, None) => format!("{}: in no network configuration", report.file),
    }
}

/// Rows of what has happened; nothing of what has not.
fn counts(counts: &Counts) -> Vec<Row> {
    let groups: [(&str, &[(&str, u64)]); 3] = [
        (
            "data paths",
            &[
                ("started", counts.started),
                ("adopted", counts.adopted),
                ("restarted", counts.restarted),
                ("replaced", counts.replaced),
                ("ROLLED BACK", counts.rolled_back),
                ("FAILED", counts.failed),
            ],
        ),
        (
            "requests",
            &[
                ("protected", counts.added),
                ("open", counts.open),
                ("refused", counts.refused),
                ("malformed", counts.malformed),
            ],
        ),
        (
            "found",
            &[
                ("pods UNPROTECTED", counts.found_unprotected),
                ("plugin missing and put back", counts.put_back),
            ],
        ),
    ];
    let mut rows = Vec::new();
    for (name, group) in groups {
        let happened = group.iter().filter(|(_, count)| *count > 0);
        let happened: Vec<String> = happened.map(|(event, count)| format!("{event} {count}")).collect();
        if !happened.is_empty() {
            rows.push(row(name, happened.join(", ")));
        }
    }
    rows
}

fn tenants(tenants: &[TenantReport]) -> String {
    if tenants.is_empty() {
        return "no tenants\n".to_owned();
    }
    let mut rows = vec![["TENANT", "PODS", "NAMESPACES", "PROBLEM"].map(ToOwned::to_owned)];
    for tenant in tenants {
        let shown = &tenant.namespaces[..tenant.namespaces.len().min(NAMESPACES)];
        let more = tenant.namespaces.len() - shown.len();
        let more = if more > 0 { format!(" +{more}") } else { String::new() };
        rows.push([
            cut(&tenant.name, NAME),
            tenant.pods.to_string(),
            format!("{}{more}", joined(shown, ",")),
            cut(&problem(tenant), PROBLEM),
        ]);
    }
    table(&rows)
}

fn problem(tenant: &TenantReport) -> String {
    let files = tenant.problem.as_ref().map(|problem| format!("files NOT in force: {problem}"));
    let replacing = tenant.replacing.then(|| "pods are being replaced".to_owned());
    let given_up =
        tenant.replacement_problem.as_ref().map(|problem| format!("replacement GIVEN UP: {problem}"));
    [files, given_up, replacing].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
