//! The cluster's word, heeded: tenants come into force, and the pods that run follow their namespaces.

use tencrypt_tun::NetNsId;

use super::{Agent, Entry, enrolment::Place as Standing, running::RunningPod, sources::has_address};
use crate::records::Source;

impl Agent {
    /// Takes in what the tenants' files and the cluster say now, and sees to the pods that run: one whose namespace has another tenant
    /// than it, or none any more, is let go of; one that is not protected yet is.
    pub(super) fn heed_tenants(&mut self) {
        self.read_tenants();
        self.become_ready();
        let Some(cluster) = self.cluster.as_ref().filter(|_| self.is_synced) else { return };
        let running = cluster.running();
        let left: Vec<(NetNsId, bool)> = self
            .pods
            .iter()
            .filter_map(|(id, entry)| Some((*id, self.is_left_open(entry, &running)?)))
            .collect();
        for (id, open) in left {
            self.let_go(id, open);
        }
        self.see_to_strays(&running);
    }

    /// Tells if a pod of a runtime's is to be let go of: opened if nobody has enrolled its namespace, or it may stay out and wants to
    /// (`true`), closed if another tenant has (`false`).
    fn is_left_open(&self, entry: &Entry, running: &[RunningPod]) -> Option<bool> {
        let (namespace, _) = entry.record.name.split_once('/')?;
        if entry.record.source == Source::Directory || entry.is_ending {
            return None;
        }
        match self.enrolment.place(Some(namespace)) {
            Standing::Open => Some(true),
            Standing::Of(tenant) if tenant != entry.record.tenant => Some(false),
            Standing::Of(_) if running.iter().any(|pod| pod.is_opted_out && is_its(entry, pod)) => Some(true),
            Standing::Of(_) | Standing::Unclear(_) | Standing::Unknown => None,
        }
    }
}

/// Tells if this is the pod, and no other one of its name: it has the same addresses.
fn is_its(entry: &Entry, pod: &RunningPod) -> bool {
    entry.record.name == pod.name
        && !pod.addresses.is_empty()
        && pod.addresses.iter().all(|address| has_address(&entry.identity.namespace, *address))
}
