//! Reports: of the agent and of its pods.

use std::{collections::BTreeMap, process, time::Duration};

use tencrypt_agent::node::Order;
use tokio::{task::spawn_local, time::timeout};

use super::{Agent, Entry};
use crate::{
    metrics::Snapshot,
    pod::Handle,
    report::{NodeReport, PodReport, PodState, TenantReport},
    serve::Question,
};

/// Time for pods to say how they are. One that does not is reported as it was.
const SAY: Duration = Duration::from_millis(300);

impl Agent {
    /// Asks the pods how they are, and has the question answered when they have said it.
    pub(super) fn ask_pods(&self, question: Question) {
        if matches!(question, Question::Node(_)) {
            return self.answer(question);
        }
        let handles: Vec<Handle> = self.pods.values().map(|entry| entry.handle.clone()).collect();
        let before: Vec<u64> = handles.iter().map(|handle| handle.view.borrow().said).collect();
        self.tell_all(Order::report());
        let answers = self.answers.clone();
        spawn_local(async move {
            let all = async {
                for (mut handle, before) in handles.into_iter().zip(before) {
                    let _ = handle
                        .view
                        .wait_for(|view| view.said > before || view.state != PodState::Protected)
                        .await;
                }
            };
            let _ = timeout(SAY, all).await;
            // The agent has gone if nobody hears it.
            let _ = answers.send(question);
        });
    }

    /// Answers a question with what is known.
    pub(super) fn answer(&self, question: Question) {
        // Who has asked may not wait any more.
        match question {
            Question::Node(to) => drop(to.send(self.node_report())),
            Question::Pods(to) => drop(to.send(self.pod_reports())),
            Question::Everything(to) => {
                let (node, pods, ended) = (self.node_report(), self.pod_reports(), self.ended.clone());
                drop(to.send(Snapshot { node, pods, ended }));
            }
        }
    }

    fn node_report(&self) -> NodeReport {
        let mut pods: BTreeMap<String, u64> = BTreeMap::new();
        for entry in self.pods.values() {
            let state = entry.handle.view.borrow().state;
            *pods.entry(state.as_str().to_owned()).or_default() += 1;
        }
        NodeReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            ready: self.is_ready,
            program: self.shared.program().path.display().to_string(),
            program_id: self.shared.program().id.to_string(),
            problems: self.problems.values().cloned().collect(),
            clone_signs: self.clones.names(),
            tenants: self.tenant_reports(),
            pods,
            plugin: self.plugin.as_ref().map(super::plugin::Plugin::report),
            unprotected: self.strays.unprotected.clone(),
            outside: self.strays.outside.clone(),
            counts: self.counts,
        }
    }

    /// The tenants that have files or pods.
    fn tenant_reports(&self) -> Vec<TenantReport> {
        let mut tenants: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for tenant in self.shared.tenants() {
            tenants.insert(tenant.name().to_owned(), tenant.namespaces.iter().cloned().collect());
        }
        let without_files =
            self.pods.values().map(|entry| &entry.record.tenant).chain(self.tenant_problems.keys());
        for name in without_files {
            tenants.entry(name.clone()).or_default();
        }
        let report = |(name, namespaces): (String, Vec<String>)| TenantReport {
            pods: self.count(&name),
            problem: self
                .tenant_problems
                .get(&name)
                .cloned()
                .or_else(|| self.shared.tenant(&name).is_none().then(|| "its files are gone".to_owned())),
            replacing: self.replacing.is_under_way(&name),
            replacement_problem: self.replacing.problem(&name).map(str::to_owned),
            name,
            namespaces,
        };
        tenants.into_iter().map(report).collect()
    }

    fn pod_reports(&self) -> Vec<PodReport> {
        self.pods.values().map(|entry| self.pod_report(entry)).collect()
    }

    fn pod_report(&self, entry: &Entry) -> PodReport {
        let view = entry.handle.view.borrow();
        let latest = self.shared.release(&entry.record.tenant).map(|release| release.tag());
        PodReport {
            id: entry.identity.namespace.id().to_string(),
            name: entry.record.name.clone(),
            tenant: entry.record.tenant.clone(),
            source: entry.record.source.as_str().to_owned(),
            state: view.state,
            pid: view.pid,
            program: view.version.clone(),
            current: view.tag.is_some() && view.tag == latest,
            public_key: view.public_key.clone(),
            restarts: view.restarts,
            problem: view.problem.clone(),
            peers: view.peers,
            addresses: view
                .status
                .as_ref()
                .map(|status| status.identity.addresses.clone())
                .unwrap_or_default(),
            status: view.status.clone(),
        }
    }
}
