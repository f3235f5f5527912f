//! Metrics in the text format of Prometheus.
//!
//! Labels are bounded: tenants, and words of this file. Neither a pod nor an address is one, or a node's metrics would grow with
//! every pod that ever ran. Counters begin with the agent or with what is counted; a value that can fall is a gauge.

mod exposition;
mod totals;

use std::collections::BTreeMap;

use tencrypt_agent::report::StatusReport;

pub(crate) use self::totals::Totals;
use self::{
    exposition::{Exposition, Metric},
    totals::{COUNTED, Sums},
};
use crate::report::{NodeReport, PodReport, PodState, TenantReport};

/// The material of metrics, all of one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    /// The agent.
    pub(crate) node: NodeReport,
    /// Its pods.
    pub(crate) pods: Vec<PodReport>,
    /// The counters of data paths that are gone.
    pub(crate) ended: Totals,
}

/// Returns the metrics.
pub(crate) fn text(snapshot: &Snapshot) -> String {
    let Snapshot { node, pods, ended } = snapshot;
    let mut out = Exposition::default();
    node_gauges(&mut out, node);
    node_counters(&mut out, node);
    let tenants = tenants(node, pods);
    tenant_gauges(&mut out, &tenants);
    tenant_counters(&mut out, &tenants, ended);
    out.into_text()
}

/// A tenant and its pods.
#[derive(Debug, Default)]
struct Tenant<'s> {
    report: Option<&'s TenantReport>,
    pods: Vec<&'s PodReport>,
}

impl<'s> Tenant<'s> {
    /// Returns the number of pods of which `is` holds.
    fn count(&self, is: impl Fn(&PodReport) -> bool) -> u64 {
        self.pods.iter().filter(|pod| is(pod)).count() as u64
    }

    /// Returns what the pods that run said last.
    fn statuses(&self) -> impl Iterator<Item = &'s StatusReport> {
        self.pods.iter().filter_map(|pod| pod.status.as_deref())
    }
}

/// Returns the tenants by name: those that have files, and those that still have pods.
fn tenants<'s>(node: &'s NodeReport, pods: &'s [PodReport]) -> BTreeMap<&'s str, Tenant<'s>> {
    let mut tenants = BTreeMap::<&str, Tenant<'s>>::new();
    for report in &node.tenants {
        tenants.entry(&report.name).or_default().report = Some(report);
    }
    for pod in pods {
        tenants.entry(&pod.tenant).or_default().pods.push(pod);
    }
    tenants
}

fn node_gauges(out: &mut Exposition, node: &NodeReport) {
    let info = Metric::gauge("tencrypt_build_info", "The agent's version; always 1.");
    out.sample(&info, &[("version", &node.version)], 1);
    let program = Metric::gauge(
        "tencrypt_program_info",
        "The first digits of the SHA-256 of the program that pods are given; always 1.",
    );
    out.sample(&program, &[("id", &node.program_id)], 1);
    let uptime = Metric::gauge("tencrypt_uptime_seconds", "Time since the agent's start.");
    out.sample(&uptime, &[], node.uptime_s);
    let ready =
        Metric::gauge("tencrypt_ready", "1 once everything that ran was adopted and every source was read.");
    out.sample(&ready, &[], node.ready.into());
    let problems = Metric::gauge("tencrypt_problems", "Faults of files and sources that stand now.");
    out.sample(&problems, &[], node.problems.len() as u64);
    let unprotected = Metric::gauge(
        "tencrypt_running_unprotected_pods",
        "Pods of enrolled namespaces that run on this node without protection, by the Kubernetes API.",
    );
    out.sample(&unprotected, &[], node.unprotected.len() as u64);
    let outside = Metric::gauge(
        "tencrypt_outside_pods",
        "Pods of enrolled namespaces that are not to be protected: of the node's network, or by their annotation.",
    );
    out.sample(&outside, &[], node.outside.len() as u64);
    let signs = Metric::gauge(
        "tencrypt_clone_signs",
        "Signs of a clone of the machine that are looked for; with none, clones are not noticed.",
    );
    out.sample(&signs, &[], node.clone_signs.len() as u64);
    if let Some(plugin) = &node.plugin {
        let installed = Metric::gauge(
            "tencrypt_plugin_installed",
            "1 if the CNI plugin stands where it should in the node's network configuration.",
        );
        out.sample(&installed, &[], (plugin.problem.is_none() && plugin.network.is_some()).into());
    }
}

fn node_counters(out: &mut Exposition, node: &NodeReport) {
    let counts = &node.counts;
    let mut sample = |name, help, label: Option<(&str, &str)>, value| {
        out.sample(&Metric::counter(name, help), label.as_slice(), value);
    };
    let starts = "Data paths that were to be started for a pod that had none.";
    sample("tencrypt_starts_total", starts, Some(("result", "started")), counts.started);
    sample("tencrypt_starts_total", starts, Some(("result", "failed")), counts.failed);
    let adoptions = "Running data paths that were taken over at the agent's start.";
    sample("tencrypt_adoptions_total", adoptions, None, counts.adopted);
    let restarts = "Data paths that died and were started again.";
    sample("tencrypt_restarts_total", restarts, None, counts.restarted);
    let replacements = "Data paths that were to be replaced by another program or other settings.";
    sample("tencrypt_replacements_total", replacements, Some(("result", "replaced")), counts.replaced);
    sample("tencrypt_replacements_total", replacements, Some(("result", "rolled_back")), counts.rolled_back);
    let requests = "Requests of the CNI plugin, by the answer.";
    sample("tencrypt_cni_requests_total", requests, Some(("result", "protected")), counts.added);
    sample("tencrypt_cni_requests_total", requests, Some(("result", "open")), counts.open);
    sample("tencrypt_cni_requests_total", requests, Some(("result", "refused")), counts.refused);
    let malformed = "Requests on the agent's sockets that made no sense.";
    sample("tencrypt_malformed_requests_total", malformed, None, counts.malformed);
    let put_back = "Times that the plugin was put back into a network configuration.";
    sample("tencrypt_conflist_put_back_total", put_back, None, counts.put_back);
    let found = "Pods that were found without protection.";
    sample("tencrypt_found_unprotected_pods_total", found, None, counts.found_unprotected);
    let clones = "Times that all pods were told to make their keys anew.";
    sample("tencrypt_clones_total", clones, None, counts.clones);
}

const STATES: [PodState; 4] = [PodState::Starting, PodState::Protected, PodState::Waiting, PodState::Ending];

/// A gauge of a tenant, and its value; `None`: there is none now.
type TenantGauge = (&'static str, &'static str, fn(&Tenant<'_>) -> Option<u64>);

const TENANT_GAUGES: [TenantGauge; 12] = [
    ("tencrypt_unprotected_pods", "Pods that are not protected now.", |tenant| {
        Some(tenant.count(|pod| pod.state != PodState::Protected))
    }),
    ("tencrypt_enforced_pods", "Pods in which nftables hold what routes alone do not.", |tenant| {
        Some(tenant.statuses().filter(|status| status.enforce).count() as u64)
    }),
    (
        "tencrypt_closed_pods",
        "Pods in which something does not stand and cannot be put back: protected destinations are unreachable.",
        |tenant| Some(tenant.statuses().filter(|status| status.namespace.closed).count() as u64),
    ),
    ("tencrypt_problem_pods", "Pods of which something is not as it ought to be.", |tenant| {
        Some(tenant.count(has_problem))
    }),
    (
        "tencrypt_outdated_pods",
        "Pods that have another program or other settings than are given now.",
        |tenant| Some(tenant.count(|pod| !pod.current)),
    ),
    ("tencrypt_uncertified_pods", "Pods that need a certificate and have none in force.", |tenant| {
        let lacks = |status: &&StatusReport| {
            status.identity.mode == "certificate" && status.identity.certificate.is_none()
        };
        Some(tenant.statuses().filter(lacks).count() as u64)
    }),
    ("tencrypt_flooded_pods", "Pods at which most of a flood is kept out now.", |tenant| {
        Some(tenant.statuses().filter(|status| status.screen.up).count() as u64)
    }),
    ("tencrypt_sessions", "Peers with which pods have a session.", |tenant| {
        Some(tenant.pods.iter().fold(0, |sum, pod| sum.saturating_add(pod.peers)))
    }),
    (
        "tencrypt_key_epoch",
        "The epoch that new sessions start under; if pods differ, that of the one that is furthest behind.",
        |tenant| tenant.statuses().map(|status| status.keys.send).reduce(earlier).map(u64::from),
    ),
    ("tencrypt_mtu_bytes", "The smallest MTU of the pods' devices.", |tenant| {
        tenant.statuses().map(|status| u64::from(status.mtu)).min()
    }),
    (
        "tencrypt_tenant_problems",
        "Reasons why a tenant's files, as they are now, are not in force, or why a replacement was given up.",
        |tenant| {
            let problems = |report: &TenantReport| {
                u64::from(report.problem.is_some()) + u64::from(report.replacement_problem.is_some())
            };
            tenant.report.map(problems)
        },
    ),
    (
        "tencrypt_tenant_replacing",
        "1 while a tenant's pods are being given another program or other settings.",
        |tenant| tenant.report.map(|report| report.replacing.into()),
    ),
];

fn tenant_gauges(out: &mut Exposition, tenants: &BTreeMap<&str, Tenant<'_>>) {
    let pods = Metric::gauge("tencrypt_pods", "Pods by state.");
    for (name, tenant) in tenants {
        for state in STATES {
            let labels = [("tenant", *name), ("state", state.as_str())];
            out.sample(&pods, &labels, tenant.count(|pod| pod.state == state));
        }
    }
    for (gauge, help, of) in TENANT_GAUGES {
        for (name, tenant) in tenants {
            if let Some(value) = of(tenant) {
                out.sample(&Metric::gauge(gauge, help), &[("tenant", name)], value);
            }
        }
    }
}

fn tenant_counters(out: &mut Exposition, tenants: &BTreeMap<&str, Tenant<'_>>, ended: &Totals) {
    let sums = tenants.iter().map(|(name, tenant)| {
        let mut sums = ended.of(name);
        tenant.statuses().for_each(|status| sums.add(status));
        (*name, sums)
    });
    let sums: Vec<(&str, Sums)> = sums.collect();
    // All samples of a metric stand together: first by metric, then by tenant, then by label.
    for group in COUNTED.chunk_by(|one, next| one.metric.name == next.metric.name) {
        let Some(start) = group.first().and_then(|first| place(first.metric.name)) else { continue };
        for (tenant, sums) in &sums {
            for (counted, value) in group.iter().zip(&sums.counts[start..]) {
                let labels = [Some(("tenant", *tenant)), counted.label];
                let labels: Vec<_> = labels.into_iter().flatten().collect();
                out.sample(&counted.metric, &labels, *value);
            }
        }
    }
    let drops =
        Metric::counter("tencrypt_drops_total", "Packets and datagrams that were dropped, by reason.");
    for (tenant, sums) in &sums {
        for (reason, count) in &sums.drops {
            out.sample(&drops, &[("tenant", tenant), ("reason", reason)], *count);
        }
    }
}

/// Returns the place of a metric's first counter.
fn place(name: &str) -> Option<usize> {
    COUNTED.iter().position(|counted| counted.metric.name == name)
}

/// Tells if something of a pod is not as it ought to be, whatever its state.
fn has_problem(pod: &PodReport) -> bool {
    let is_ill = |status: &StatusReport| {
        status.namespace.closed
            || status.namespace.parts.iter().any(|part| part.problem.is_some())
            || status.keys.error.is_some()
            || !status.problems().is_empty()
    };
    pod.problem.is_some() || pod.status.as_deref().is_some_and(is_ill)
}

/// Returns the earlier of two epochs, in the order of RFC 1982: 0 comes after 255.
fn earlier(one: u8, other: u8) -> u8 {
    if (one.wrapping_sub(other) as i8) > 0 { other } else { one }
}

#[cfg(test)]
mod tests;
