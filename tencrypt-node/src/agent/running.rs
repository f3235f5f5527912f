//! The pods of this node that run, as the API has them.

use std::{collections::BTreeSet, net::IpAddr};

use tencrypt_cni::call;

use super::cluster::Cluster;
use crate::kubernetes::{
    About,
    objects::{ContainerStatus, Key, Pod},
};

/// The annotation of a pod that is to stay as it is, if its tenant lets it: with the value `false`.
const PROTECT: &str = "tencrypt.io/protect";

/// The label of a pod that runs without protection, where the settings have it labelled.
pub(super) const UNPROTECTED: &str = "tencrypt.io/unprotected";

/// A pod that runs.
#[derive(Debug, Clone)]
pub(super) struct RunningPod {
    namespace: String,
    /// `NAMESPACE/POD`.
    pub(super) name: String,
    /// Its id.
    pub(super) uid: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// The ids of its containers.
    pub(super) containers: Vec<String>,
    /// It has the node's own network namespace.
    pub(super) is_host_network: bool,
    /// It wants to stay as it is, and its tenant lets it.
    pub(super) is_opted_out: bool,
    /// Its end was asked for.
    pub(super) is_ending: bool,
    /// It has the label [`UNPROTECTED`].
    pub(super) is_labelled: bool,
    /// The id of the controller that makes another one when it is gone. The API's picture of a static pod has its node there, and
    /// deleting that ends nothing.
    pub(super) controller: Option<String>,
}

/// The wish of a pod to stay as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OptOut {
    /// It wants that, and its tenant lets it.
    Granted,
    /// Its tenant would let it, and the API has not told of the pod.
    Unheard,
    /// It is protected.
    No,
}

impl RunningPod {
    /// The namespace.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod, to write of.
    pub(super) fn about(&self) -> About<'_> {
        let name = self.name.split_once('/').map_or(&*self.name, |(_, name)| name);
        About { namespace: &self.namespace, name, uid: &self.uid }
    }

    fn of(key: &Key, pod: &Pod, may_opt_out: bool) -> Self {
        let status = &pod.status;
        let addresses: BTreeSet<IpAddr> = status.addresses().collect();
        let controller = pod.metadata.controller.as_ref().filter(|owner| owner.kind != "Node");
        Self {
            namespace: key.namespace.clone(),
            name: pod.metadata.full_name(),
            uid: pod.metadata.uid.clone(),
            addresses: addresses.into_iter().collect(),
            containers: status.container_statuses.iter().filter_map(container).collect(),
            is_host_network: pod.spec.host_network,
            is_opted_out: may_opt_out && wants_out(pod),
            is_ending: pod.metadata.deletion_timestamp.is_some(),
            is_labelled: pod.metadata.labels.contains_key(UNPROTECTED),
            controller: controller.map(|owner| owner.uid.clone()),
        }
    }
}

impl Cluster {
    /// The pods of this node that run: a container of theirs does.
    pub(super) fn running(&self) -> Vec<RunningPod> {
        let heard = self.heard();
        let running = heard.pods.iter().filter(|(_, pod)| {
            let mut containers = pod.status.container_statuses.iter();
            pod.status.phase == "Running" && containers.any(ContainerStatus::is_running)
        });
        running.map(|(key, pod)| RunningPod::of(key, pod, self.may_opt_out(&key.namespace))).collect()
    }

    /// The wish of a pod that is being made. One of the same name with another id is another one.
    pub(super) fn opt_out(&self, pod: &call::Pod) -> OptOut {
        let (Some(namespace), Some(name)) = (&pod.namespace, &pod.name) else { return OptOut::No };
        if !self.may_opt_out(namespace) {
            return OptOut::No;
        }
        let heard = self.heard();
        let found = heard.pods.get(&Key { namespace: namespace.clone(), name: name.clone() });
        match found.filter(|found| pod.uid.as_ref().is_none_or(|uid| *uid == found.metadata.uid)) {
            Some(found) if wants_out(found) => OptOut::Granted,
            Some(_) => OptOut::No,
            None => OptOut::Unheard,
        }
    }
}

/// The id of a container without its runtime's name.
fn container(status: &ContainerStatus) -> Option<String> {
    status.container_id.split_once("://").map(|(_, id)| id.to_owned())
}

fn wants_out(pod: &Pod) -> bool {
    pod.metadata.annotations.get(PROTECT).is_some_and(|value| value == "false")
}
