//! `tencrypt-node pods` for people.

use tencrypt_agent::layout::table;

use super::table::{cut, joined};
use crate::report::{PodReport, PodState};

/// Most characters of a name. A namespace's and a pod's have 317 at most, and nearly all less than this.
const NAME: usize = 63;

/// Most characters of a tenant's name, and of a program's version.
const WORD: usize = 32;

/// Most addresses of a pod that are shown: dual stack has two.
const ADDRESSES: usize = 2;

/// Most characters of a problem. `--json` has all of it.
const PROBLEM: usize = 120;

/// Lays out a row for each pod, in the order in which they come.
pub(super) fn text(pods: &[PodReport]) -> String {
    if pods.is_empty() {
        return "no pods\n".to_owned();
    }
    let head = ["NAME", "TENANT", "STATE", "PID", "PROGRAM", "PEERS", "RESTARTS", "ADDRESSES", "PROBLEM"];
    let mut rows = vec![head.map(ToOwned::to_owned)];
    rows.extend(pods.iter().map(row));
    table(&rows)
}

fn row(pod: &PodReport) -> [String; 9] {
    // Capitals catch the eye where a pod has no data path.
    let state = match pod.state {
        PodState::Waiting => "WAITING",
        state => state.as_str(),
    };
    let dash = || "-".to_owned();
    [
        cut(&pod.name, NAME),
        cut(&pod.tenant, WORD),
        state.to_owned(),
        pod.pid.map_or_else(dash, |pid| pid.to_string()),
        program(pod),
        pod.peers.to_string(),
        pod.restarts.to_string(),
        addresses(pod),
        cut(&problem(pod), PROBLEM),
    ]
}

/// The version of the program, and a word if it or its settings are not the ones that pods are given now.
fn program(pod: &PodReport) -> String {
    let Some(version) = &pod.program else { return "-".to_owned() };
    let note = if pod.current { "" } else { " old" };
    format!("{}{note}", cut(version, WORD))
}

fn addresses(pod: &PodReport) -> String {
    let shown = &pod.addresses[..pod.addresses.len().min(ADDRESSES)];
    let more = pod.addresses.len() - shown.len();
    let more = if more > 0 { format!(" +{more}") } else { String::new() };
    format!("{}{more}", joined(shown, ","))
}

/// The agent's problem with the pod, and those that its program has.
fn problem(pod: &PodReport) -> String {
    let own = pod.problem.iter().cloned();
    let status = pod.status.as_deref();
    let closed = status.filter(|status| status.namespace.closed);
    let closed = closed.map(|_| "CLOSED: protected destinations are unreachable".to_owned());
    let keys = status.and_then(|status| status.keys.error.as_ref());
    let keys = keys.map(|reason| format!("keys NOT in force: {reason}"));
    let said = status.map(|status| status.problems()).unwrap_or_default();
    own.chain(closed).chain(keys).chain(said).collect::<Vec<_>>().join("; ")
}
