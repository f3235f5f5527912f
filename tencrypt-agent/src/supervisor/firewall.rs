//! Packets of the tunnel that a firewall of the pod's own drops: told when it begins, and by `status`.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use tencrypt_tun::Filtered;

use crate::{
    config::Network,
    lane::pod_status::Shared,
    report::{FilteredReport, NetworkReport},
};

/// Time for which `status` names packets that are dropped no more.
const REMEMBERED: Duration = Duration::from_secs(600);
/// The shortest time between two lines about one kind of packets.
const SILENCE: Duration = Duration::from_secs(60);

/// A kind of packets.
struct Kind {
    name: &'static str,
    what: String,
    cure: String,
    count: u64,
    last: Option<Instant>,
    told: Option<Instant>,
}

/// The packets that the pod's own firewall has dropped, by kind.
pub(super) struct Firewall {
    kinds: [Kind; 3],
    report: Shared<NetworkReport>,
}

impl Firewall {
    /// Knows of none yet; `report` is kept in line.
    pub(super) fn new(network: &Network, report: Shared<NetworkReport>) -> Self {
        let Network { interface, tun, port, .. } = network;
        let ports = match network.lanes.get() {
            1 => format!("port {port}"),
            lanes => format!("ports {port} to {}", port.saturating_add(u16::from(lanes) - 1)),
        };
        let kind = |name, what, cure| Kind { name, what, cure, count: 0, last: None, told: None };
        let kinds = [
            kind(
                "datagrams",
                format!("datagrams of other pods to UDP {ports} at {interface}"),
                format!("let UDP {ports} in at {interface}"),
            ),
            kind(
                "names",
                format!("packets of captured DNS at {tun}"),
                format!("let in at {tun} what comes from the nameservers"),
            ),
            kind(
                "packets",
                format!("packets of other pods at {tun}"),
                format!("let in at {tun} what may come in at {interface}"),
            ),
        ];
        Self { kinds, report }
    }

    /// Takes what was dropped since the start.
    pub(super) fn note(&mut self, filtered: Filtered, now: Instant) {
        let Filtered { datagrams, names, packets, .. } = filtered;
        let mut reports = Vec::new();
        for (kind, count) in self.kinds.iter_mut().zip([datagrams, names, packets]) {
            let is_more = count > kind.count;
            kind.count = count;
            if is_more {
                kind.last = Some(now);
            }
            let Some(report) = kind.report(now) else { continue };
            let is_silent = kind.told.is_none_or(|told| now.saturating_duration_since(told) >= SILENCE);
            if is_more && is_silent {
                kind.told = Some(now);
                tracing::warn!("{}", report.problem());
            }
            reports.push(report);
        }
        self.report.lock().unwrap_or_else(PoisonError::into_inner).filtered = reports;
    }
}

impl Kind {
    /// Returns what there is to say now.
    fn report(&self, now: Instant) -> Option<FilteredReport> {
        let ago = now.saturating_duration_since(self.last?);
        (ago < REMEMBERED).then(|| FilteredReport {
            kind: self.name.to_owned(),
            count: self.count,
            last_s: ago.as_secs(),
            what: self.what.clone(),
            cure: self.cure.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::ConfigFile, lane::pod_status::read};

    #[test]
    fn what_is_dropped_is_named_with_its_cure_until_ten_minutes_after_the_last() {
        let text = "[tenant]\nkey_file = \"k\"\n[network]\nprotected = [\"10.0.0.0/8\"]\nlanes = 3\n";
        let config = ConfigFile::parse(text, Path::new("c.toml")).unwrap().config;
        let report = Shared::<NetworkReport>::default();
        let mut firewall = Firewall::new(&config.network, report.clone());
        let start = Instant::now();
        let note = |firewall: &mut Firewall, [datagrams, names, packets]: [u64; 3], second: u64| {
            let mut filtered = Filtered::default();
            (filtered.datagrams, filtered.names, filtered.packets) = (datagrams, names, packets);
            firewall.note(filtered, start + Duration::from_secs(second));
            let reports = read(&report).filtered;
            reports.into_iter().map(|report| (report.kind, report.count, report.last_s)).collect::<Vec<_>>()
        };
        assert_eq!(note(&mut firewall, [0; 3], 0), []);
        let datagrams = |count, last_s| ("datagrams".to_owned(), count, last_s);
        assert_eq!(note(&mut firewall, [2, 0, 0], 1), [datagrams(2, 0)]);
        let problem = read(&report).filtered[0].problem();
        assert!(problem.contains("2 datagrams of other pods to UDP ports 8362 to 8364 at eth0"), "{problem}");
        assert!(problem.ends_with("let UDP ports 8362 to 8364 in at eth0"), "{problem}");
        let both = [datagrams(2, 5), ("packets".to_owned(), 1, 0)];
        assert_eq!(note(&mut firewall, [2, 0, 1], 6), both);
        assert_eq!(note(&mut firewall, [2, 0, 1], 600), [datagrams(2, 599), ("packets".to_owned(), 1, 594)]);
        assert_eq!(note(&mut firewall, [2, 0, 1], 605), [("packets".to_owned(), 1, 599)]);
        assert_eq!(note(&mut firewall, [3, 0, 1], 700), [datagrams(3, 0)]);
    }
}
