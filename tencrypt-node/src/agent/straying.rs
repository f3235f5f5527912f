//! Pods of enrolled namespaces that run outside of the tunnel: told in `status` and as events, and repaired as the settings say.

use std::{collections::BTreeSet, path::Path, time::Duration};

use tencrypt_agent::escape::Escaped;
use tokio::time::Instant;

use super::{
    Agent, Entry,
    enrolment::Place,
    running::{RunningPod, UNPROTECTED},
    sources::{has_address, open, path_of},
};
use crate::{
    pod_processes::{PROC, namespaces},
    records::{Record, Source},
    report::StrayReport,
    settings::Repair,
};

/// The time after which a pod that runs without protection is told and repaired: it may be on its way in or out until then.
const GRACE: Duration = Duration::from_secs(10);

impl Agent {
    /// Looks for pods of enrolled namespaces that run outside of the tunnel; protects those that it can, and tells of the others.
    pub(super) fn see_to_strays(&mut self, running: &[RunningPod]) {
        let mut unprotected = self.unprotected(running);
        if !unprotected.is_empty() {
            self.find_unprotected();
            unprotected = self.unprotected(running);
            for (pod, place) in &unprotected {
                if let Place::Of(tenant) = place {
                    self.protect_running(pod, tenant);
                }
            }
            unprotected = self.unprotected(running);
        }
        let names: Vec<&str> = unprotected.iter().map(|(pod, _)| &*pod.name).collect();
        let fault = (!names.is_empty()).then(|| format!("run without protection: {}", names.join(", ")));
        self.note("unprotected pods", fault);
        self.strays.outside = running.iter().filter_map(|pod| self.outside(pod)).collect();
        self.strays.since.retain(|uid, _| unprotected.iter().any(|(pod, _)| pod.uid == *uid));
        for (pod, _) in &unprotected {
            self.strays.since.entry(pod.uid.clone()).or_insert_with(Instant::now);
        }
        let reports: Vec<StrayReport> = unprotected
            .iter()
            .map(|(pod, place)| StrayReport::of(&pod.name, &self.reason(pod, place)))
            .collect();
        self.strays.unprotected = reports;
        self.strays.found.retain(|name| running.iter().any(|pod| pod.name == *name));
        self.tell_strays(running, &unprotected);
        self.repair(running, &unprotected);
        self.end_taint();
    }

    /// The pods that run here by the API, are to be protected, and are not. One that was found counts among them until a data path has
    /// closed it.
    fn unprotected<'p>(&self, running: &'p [RunningPod]) -> Vec<(&'p RunningPod, Place)> {
        let is_closed =
            |entry: &&Entry| entry.record.source != Source::Found || entry.handle.view.borrow().was_protected;
        let known: BTreeSet<&str> =
            self.pods.values().filter(is_closed).map(|entry| &*entry.record.name).collect();
        let is_bare =
            |pod: &&RunningPod| !pod.is_host_network && !pod.is_opted_out && !known.contains(&*pod.name);
        running
            .iter()
            .filter(is_bare)
            .map(|pod| (pod, self.enrolment.place(Some(pod.namespace()))))
            .filter(|(_, place)| matches!(place, Place::Of(_) | Place::Unclear(_)))
            .collect()
    }

    /// The word on a pod of an enrolled namespace that is not to be protected.
    fn outside(&self, pod: &RunningPod) -> Option<StrayReport> {
        let reason = match (pod.is_host_network, pod.is_opted_out) {
            (true, _) => "it has the network of its node",
            (_, true) => "its annotation says so, and its tenant lets it",
            _ => return None,
        };
        let place = self.enrolment.place(Some(pod.namespace()));
        matches!(place, Place::Of(_) | Place::Unclear(_)).then(|| StrayReport::of(&pod.name, reason))
    }

    /// Protects a pod that no runtime has noted, if one of its processes is in a network namespace with its addresses.
    fn protect_running(&mut self, pod: &RunningPod, tenant: &str) {
        if pod.addresses.is_empty() || pod.is_ending {
            return;
        }
        for path in namespaces(Path::new(PROC), &pod.uid, &pod.containers) {
            let Ok(namespace) = open(&path) else { continue };
            let id = namespace.id();
            if self.pods.contains_key(&id)
                || !pod.addresses.iter().all(|address| has_address(&namespace, *address))
            {
                continue;
            }
            tracing::error!(pod = %Escaped(&pod.name), "it runs without protection, and gets it now");
            self.counts.found_unprotected += 1;
            self.strays.found.insert(pod.name.clone());
            let record = Record::new(pod.name.clone(), tenant.to_owned(), Source::Found, path_of(id));
            self.keep(namespace, record, None);
            return;
        }
    }

    /// Tells each pod that is outside of the tunnel, or was, in an event.
    fn tell_strays(&self, running: &[RunningPod], unprotected: &[(&RunningPod, Place)]) {
        let Some(cluster) = &self.cluster else { return };
        let uids: BTreeSet<&str> = running.iter().map(|pod| &*pod.uid).collect();
        cluster.retain_pods(&uids);
        for (pod, place) in unprotected.iter().filter(|(pod, _)| self.is_overdue(pod)) {
            let message = format!("It runs without protection: {}", self.reason(pod, place));
            cluster.tell_event(pod.about(), ("Unprotected", true, &message));
        }
        for pod in running {
            let is_bare = unprotected.iter().any(|(bare, _)| bare.uid == pod.uid);
            if self.strays.found.contains(&pod.name) && !is_bare {
                let message = "It was started without protection, and has it since the agent has found it";
                cluster.tell_event(pod.about(), ("ProtectedLate", true, message));
            }
            if let Some(stray) = self.strays.outside.iter().find(|stray| stray.name == pod.name) {
                let message = format!("It is outside of its namespace's tenant, in plain: {}", stray.reason);
                cluster.tell_event(pod.about(), ("OutsideTenant", false, &message));
            }
        }
    }

    fn is_overdue(&self, pod: &RunningPod) -> bool {
        self.strays.since.get(&pod.uid).is_some_and(|since| since.elapsed() >= GRACE)
    }

    /// Repairs pods that could be protected if they were made anew. Where they are deleted it is one after the other, and only while
    /// the plugin stands where it protects the next one.
    fn repair(&mut self, running: &[RunningPod], unprotected: &[(&RunningPod, Place)]) {
        let in_place = self.is_in_place();
        let overdue: Vec<&RunningPod> = unprotected
            .iter()
            .filter(|(pod, place)| matches!(place, Place::Of(_)) && !pod.is_ending && self.is_overdue(pod))
            .map(|(pod, _)| *pod)
            .collect();
        let (Some(cluster), Some(settings)) = (&self.cluster, &self.settings.kubernetes) else { return };
        match settings.repair {
            Repair::None => {}
            Repair::Label => {
                for pod in overdue {
                    cluster.label_pod(pod.about(), UNPROTECTED, Some("true"));
                }
                let is_bare = |uid: &str| unprotected.iter().any(|(pod, _)| pod.uid == uid);
                for pod in running.iter().filter(|pod| pod.is_labelled && !is_bare(&pod.uid)) {
                    cluster.label_pod(pod.about(), UNPROTECTED, None);
                }
            }
            Repair::Delete if in_place && !unprotected.iter().any(|(pod, _)| pod.is_ending) => {
                // Of others nobody would make the next one.
                let mut controlled = overdue.iter().filter_map(|pod| Some((pod, pod.controller.as_ref()?)));
                let strays = &mut self.strays;
                let next = controlled.find(|(pod, controller)| strays.note_deletion(controller, &pod.uid));
                if let Some((pod, _)) = next {
                    tracing::warn!(pod = %Escaped(&pod.name), "it runs without protection, and is deleted");
                    cluster.delete_pod(pod.about());
                }
            }
            Repair::Delete => {}
        }
    }

    /// Takes the taint from the node that keeps pods away until they would be protected.
    fn end_taint(&self) {
        let taint = self.settings.kubernetes.as_ref().and_then(|settings| settings.startup_taint.as_deref());
        if let (Some(cluster), Some(taint)) = (&self.cluster, taint)
            && self.is_in_place()
        {
            cluster.take_taint(taint);
        }
    }

    /// Tells if a pod that is made now is protected: the agent is ready, and the plugin stands where it should.
    fn is_in_place(&self) -> bool {
        let plugin = self.plugin.as_ref().map(super::plugin::Plugin::report);
        self.is_ready && plugin.is_some_and(|plugin| plugin.problem.is_none() && plugin.network.is_some())
    }

    /// The reason why a pod is not protected.
    fn reason(&self, pod: &RunningPod, place: &Place) -> String {
        if let Place::Unclear(reason) = place {
            return reason.clone();
        }
        let entry = self.pods.values().find(|entry| entry.record.name == pod.name);
        match entry.map(|entry| entry.handle.view.borrow().problem.clone()) {
            Some(Some(problem)) => format!("its data path does not start: {problem}"),
            Some(None) => "its data path is being started".to_owned(),
            None => "neither the runtime's notes nor its processes lead to its network namespace".to_owned(),
        }
    }
}
