//! Counters of pods, added up by tenant: of those that run, and of those that have ended.

use std::collections::BTreeMap;

use tencrypt_agent::report::StatusReport;

use super::exposition::Metric;

/// A counter that pods report: a metric, the label that tells its counters apart, and its place in a report.
pub(super) struct Counted {
    pub(super) metric: Metric,
    pub(super) label: Option<(&'static str, &'static str)>,
    of: fn(&StatusReport) -> u64,
}

const PACKETS: Metric = Metric::counter(
    "tencrypt_packets_total",
    "Packets by what became of them. One that was held is counted again when it leaves or is dropped.",
);
const LEAKS: Metric = Metric::counter(
    "tencrypt_plaintext_leak_packets_total",
    "Plaintext of or to protected addresses that nftables stopped.",
);
const ANSWERS: Metric = Metric::counter("tencrypt_dns_answers_total", "Answers to captured DNS queries.");

const fn counted(
    metric: Metric,
    label: Option<(&'static str, &'static str)>,
    of: fn(&StatusReport) -> u64,
) -> Counted {
    Counted { metric, label, of }
}

/// The counters, those of a metric one after the other.
pub(super) const COUNTED: [Counted; COUNT] = [
    counted(PACKETS, Some(("verdict", "encrypted")), |report| report.packets.encrypted),
    counted(PACKETS, Some(("verdict", "decrypted")), |report| report.packets.decrypted),
    counted(PACKETS, Some(("verdict", "bypassed")), |report| report.packets.bypassed),
    counted(PACKETS, Some(("verdict", "held")), |report| report.packets.held),
    counted(PACKETS, Some(("verdict", "dropped")), |report| report.packets.dropped),
    counted(
        Metric::counter(
            "tencrypt_opportunistic_packets_total",
            "Packets among the bypassed that left because the policy lets destinations without an answer have plaintext.",
        ),
        None,
        |report| report.packets.opportunistic,
    ),
    counted(LEAKS, Some(("direction", "egress")), |report| report.chains.leak),
    counted(LEAKS, Some(("direction", "ingress")), |report| report.chains.plain_in),
    counted(
        Metric::counter(
            "tencrypt_looped_packets_total",
            "Packets of the tunnel itself that another route or rule led back into it.",
        ),
        None,
        |report| report.chains.looped,
    ),
    counted(
        Metric::counter(
            "tencrypt_socket_drops_total",
            "Datagrams and trains that the kernel dropped at the sockets: a flood, or no room.",
        ),
        None,
        |report| report.screen.dropped,
    ),
    counted(
        Metric::counter(
            "tencrypt_namespace_repairs_total",
            "Times that a part of a pod's namespace was found changed and put back.",
        ),
        None,
        |report| report.namespace.parts.iter().fold(0, |sum, part| sum.saturating_add(part.restored)),
    ),
    counted(
        Metric::counter(
            "tencrypt_key_renewals_total",
            "Times that a pod made its own keys anew: after a clone or a pause of the machine.",
        ),
        None,
        |report| report.renewal.count,
    ),
    counted(
        Metric::counter("tencrypt_dns_queries_total", "DNS queries that were captured."),
        None,
        |report| report.names.as_ref().map_or(0, |names| names.queries),
    ),
    counted(ANSWERS, Some(("verdict", "answered")), |report| {
        report.names.as_ref().map_or(0, |names| names.answered)
    }),
    counted(ANSWERS, Some(("verdict", "unanswered")), |report| {
        report.names.as_ref().map_or(0, |names| names.unanswered)
    }),
    counted(ANSWERS, Some(("verdict", "withheld")), |report| {
        report.names.as_ref().map_or(0, |names| names.withheld)
    }),
    counted(
        Metric::counter(
            "tencrypt_dns_external_answers_total",
            "Answers among the answered that led a name of the tenant's own outside, and were let pass.",
        ),
        None,
        |report| report.names.as_ref().map_or(0, |names| names.external),
    ),
];

/// The number of [`COUNTED`].
const COUNT: usize = 17;

/// Most reasons of drops of a tenant. The programs of this version have 24; those of another one may have other names, and a
/// report is not believed to be short.
const REASONS: usize = 64;

/// Most characters of a reason.
const REASON: usize = 40;

/// The reason under which drops are counted that are beyond these limits.
const OTHER: &str = "other";

/// Counters of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// In the order of [`COUNTED`].
    pub(super) counts: [u64; COUNT],
    /// Drops by reason.
    pub(super) drops: BTreeMap<String, u64>,
}

impl Sums {
    /// Adds the counters of a report.
    pub(super) fn add(&mut self, report: &StatusReport) {
        for (sum, counted) in self.counts.iter_mut().zip(&COUNTED) {
            *sum = sum.saturating_add((counted.of)(report));
        }
        for (reason, count) in &report.drops {
            self.add_drops(reason, *count);
        }
    }

    fn add_drops(&mut self, reason: &str, count: u64) {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_sound = (1..=REASON).contains(&reason.len()) && reason.bytes().all(is_letter);
        let has_room = self.drops.len() < REASONS || self.drops.contains_key(reason);
        let reason = if is_sound && has_room { reason } else { OTHER };
        let sum = self.drops.entry(reason.to_owned()).or_default();
        *sum = sum.saturating_add(count);
    }
}

/// The last counters of data paths that are gone, by tenant: what is a sum over pods does not fall when one of them ends.
///
/// They begin with the agent. A counter of a tenant falls when the agent itself starts anew, by what ended before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    tenants: BTreeMap<String, Sums>,
}

impl Totals {
    /// Adds the last report of a data path that is gone: its pod ended, or it died or was replaced, and another one counts from 0.
    /// Each report is added once, at the moment from which on [`PodReport::status`](crate::report::PodReport::status) does not hold
    /// it any more; else it would count twice.
    pub(crate) fn ended(&mut self, tenant: &str, last: &StatusReport) {
        self.tenants.entry(tenant.to_owned()).or_default().add(last);
    }

    /// Drops the tenants that are not there any more: those that have neither files nor pods.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.tenants.retain(|tenant, _| is_there(tenant));
    }

    /// Returns what a tenant's ended data paths had counted.
    pub(super) fn of(&self, tenant: &str) -> Sums {
        self.tenants.get(tenant).cloned().unwrap_or_default()
    }
}
