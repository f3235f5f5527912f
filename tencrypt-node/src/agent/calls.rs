//! Requests of the CNI plugin.

use std::{collections::BTreeSet, time::Duration};

use tencrypt_cni::call::{Attachment, Held, Pod, Reply, Request};
use tencrypt_tun::{NetNs, NetNsId};
use tokio::{
    sync::oneshot,
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use super::{
    Agent,
    adding::Adding,
    enrolment::Place,
    running::OptOut,
    sources::{path_of, pod_name},
};
use crate::{
    calls::{Asked, Incoming},
    pod::Handle,
    records::{Record, Source},
    report::PodState,
};

/// Time for a pod to be protected: less than the plugin waits, so that it is told why it is not.
const PROTECT: Duration = Duration::from_secs(9);

/// Time for a pod's data path to end before DEL is answered. The plugin waits a second; what takes longer is done behind it.
const END: Duration = Duration::from_millis(700);

/// Time in which the API may tell of a namespace or its keys, when a pod of it is already being made.
const TELL: Duration = Duration::from_secs(5);

/// The pause between two looks for that.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The reason why a pod is not enrolled.
enum NotEnrolled {
    /// Its namespace's standing is not known, or its tenant cannot be served.
    Unclear(String),
    /// It cannot be.
    Refused(String),
}

impl Agent {
    /// Takes what has come to the socket.
    pub(super) fn take_call(&mut self, incoming: Incoming) {
        let asked = match incoming {
            Incoming::Asked(asked) => asked,
            Incoming::Malformed => {
                self.counts.malformed += 1;
                return;
            }
            Incoming::Unawaited(attachment) => return self.note_late(&attachment),
        };
        let Asked { request, namespace, reply } = asked;
        let namespace = namespace.map(|descriptor| NetNs::from_fd(descriptor, "of the plugin"));
        let namespace = match namespace.transpose() {
            Ok(namespace) => namespace,
            Err(error) => return self.reply(reply, Reply::refused(error)),
        };
        match request {
            Request::Add { attachment, pod, .. } => {
                self.detached.remove(&attachment);
                self.add(Adding { attachment, pod, namespace, reply, until: Instant::now() + TELL });
            }
            Request::Check { attachment, pod, .. } => {
                // Nothing is decided by it, so it is not counted. A plugin that has gone asks again.
                let _ = reply.send(self.check(&attachment, &pod, namespace.as_ref()));
            }
            Request::Del { attachment, .. } => self.delete(attachment, namespace.as_ref(), reply),
            Request::Gc { network, valid } => {
                self.collect(&network, &valid);
                self.reply(reply, Reply::Done);
            }
            Request::Status if self.is_ready => self.reply(reply, Reply::Ready),
            Request::Status => self.reply(reply, Reply::refused("the agent is not ready yet")),
        }
    }

    /// Notes that a pod may have run for a moment before it was protected.
    fn note_late(&mut self, attachment: &Attachment) {
        let found = self.pods.values().find(|entry| entry.record.attachments.contains(attachment));
        let Some(entry) = found else { return };
        tracing::error!(pod = entry.record.name, "the plugin did not wait until it was protected");
        self.counts.found_unprotected += 1;
        self.strays.found.insert(entry.record.name.clone());
    }

    pub(super) fn reply(&mut self, to: oneshot::Sender<Reply>, reply: Reply) {
        match reply {
            Reply::Protected => self.counts.added += 1,
            Reply::Open => self.counts.open += 1,
            Reply::Refused(_) => self.counts.refused += 1,
            Reply::Done | Reply::Ready => {}
        }
        // A plugin that has gone asks again.
        let _ = to.send(reply);
    }

    /// Protects a pod, and answers. What the API may still tell is waited for.
    pub(super) fn add(&mut self, adding: Adding) {
        match self.enrol(&adding) {
            Ok(Some(handle)) => {
                let settled = self.settled.clone();
                spawn_local(async move {
                    // The agent has gone if nobody hears it.
                    let _ = settled.send((adding.reply, protected(handle).await));
                });
            }
            Ok(None) => self.reply(adding.reply, Reply::Open),
            Err(NotEnrolled::Unclear(_))
                if self.cluster.is_some() && Instant::now() < adding.until && !adding.reply.is_closed() =>
            {
                let again = self.again.clone();
                spawn_local(async move {
                    sleep(LOOK_AGAIN).await;
                    let _ = again.send(adding);
                });
            }
            Err(NotEnrolled::Unclear(reason) | NotEnrolled::Refused(reason)) => {
                self.reply(adding.reply, Reply::refused(reason));
            }
        }
    }

    /// Enrols a pod; `None`: its namespace is left as it is.
    fn enrol(&mut self, adding: &Adding) -> Result<Option<Handle>, NotEnrolled> {
        let Adding { attachment, pod, namespace, .. } = adding;
        let refused = |reason: &str| Err(NotEnrolled::Refused(reason.to_owned()));
        let tenant = match self.place_of(pod) {
            Place::Of(_) if self.opt_out(pod) == OptOut::Unheard && Instant::now() < adding.until => {
                let reason = "the API has not said yet if it stays out".to_owned();
                return Err(NotEnrolled::Unclear(reason));
            }
            Place::Of(_) if self.enrolment.is_behind(pod.namespace.as_deref()) => {
                return refused("the list on disk says that its namespace is open, and cannot be written");
            }
            Place::Of(tenant) => tenant,
            Place::Open => return Ok(None),
            Place::Unclear(reason) => return Err(NotEnrolled::Unclear(reason)),
            Place::Unknown => {
                let name = pod.namespace.as_deref().unwrap_or("-");
                let reason = format!("nobody says if namespace {name} is to be protected");
                return Err(NotEnrolled::Unclear(reason));
            }
        };
        let Some(namespace) = namespace else { return refused("there is no namespace") };
        if namespace.is_host() {
            return refused("its network namespace is the node's own");
        }
        let id = namespace.id();
        if let Some(entry) = self.pods.get_mut(&id) {
            if entry.record.tenant != tenant {
                return refused(&format!("its network namespace is of tenant {}", entry.record.tenant));
            }
            if entry.is_ending || entry.handle.view.borrow().state == PodState::Ending {
                return refused("the pod that was in its network namespace still ends");
            }
            entry.record.attachments.insert(attachment.clone());
            let (record, handle) = (entry.record.clone(), entry.handle.clone());
            // The file is for the next agent alone.
            let _ = self.records.write(id, &record);
            return Ok(Some(handle));
        }
        let mut record = Record::new(pod_name(pod, attachment), tenant, Source::Plugin, path_of(id));
        record.attachments.insert(attachment.clone());
        self.keep(namespace.clone(), record, None);
        Ok(self.pods.get(&id).map(|entry| entry.handle.clone()))
    }

    pub(super) fn place_of(&self, pod: &Pod) -> Place {
        let is_own = self.settings.agent.as_ref().is_some_and(|agent| {
            let name = pod.name.as_deref().unwrap_or_default();
            pod.namespace.as_deref() == Some(&*agent.namespace) && name.starts_with(&agent.pod_prefix)
        });
        if is_own {
            return Place::Open;
        }
        match self.enrolment.place(pod.namespace.as_deref()) {
            Place::Of(_) if self.opt_out(pod) == OptOut::Granted => Place::Open,
            place => place,
        }
    }

    /// The wish of a pod to stay out.
    fn opt_out(&self, pod: &Pod) -> OptOut {
        self.cluster.as_ref().map_or(OptOut::No, |cluster| cluster.opt_out(pod))
    }

    fn check(&self, attachment: &Attachment, pod: &Pod, namespace: Option<&NetNs>) -> Reply {
        let id = namespace.map(NetNs::id);
        match (id.and_then(|id| self.state(id)), self.place_of(pod)) {
            (Some(PodState::Protected), _) => Reply::Protected,
            (None, Place::Open) => Reply::Open,
            (Some(state), _) => Reply::refused(format_args!("its data path is {}", state.as_str())),
            (None, _) => Reply::refused(format_args!("container {} has no data path", attachment.container)),
        }
    }

    fn delete(&mut self, attachment: Attachment, namespace: Option<&NetNs>, reply: oneshot::Sender<Reply>) {
        let ended: Vec<_> = self.detach(|held| *held == attachment, namespace.map(NetNs::id));
        if self.plugin.is_some() {
            self.detached.insert(attachment);
        }
        spawn_local(async move {
            let all = async {
                for gone in ended {
                    let _ = gone.await;
                }
            };
            let _ = timeout(END, all).await;
            let _ = reply.send(Reply::Done);
        });
    }

    fn collect(&mut self, network: &str, valid: &[Held]) {
        let valid: BTreeSet<&Held> = valid.iter().collect();
        let is_gone = |held: &Attachment| {
            let key = Held { container: held.container.clone(), interface: held.interface.clone() };
            held.network == network && !valid.contains(&key)
        };
        self.detach(is_gone, None);
    }

    /// Takes attachments from their pods, and ends those that have none any more, and the one in `namespace` if nothing is known of
    /// its attachments.
    fn detach(
        &mut self,
        is_gone: impl Fn(&Attachment) -> bool,
        namespace: Option<NetNsId>,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut over = Vec::new();
        for (id, entry) in &mut self.pods {
            let before = entry.record.attachments.len();
            entry.record.attachments.retain(|held| !is_gone(held));
            let is_named = entry.record.attachments.len() < before
                || (Some(*id) == namespace && entry.record.source != Source::Directory);
            if is_named && entry.record.attachments.is_empty() {
                over.push(*id);
            } else if entry.record.attachments.len() < before {
                let _ = self.records.write(*id, &entry.record);
            }
        }
        over.into_iter().filter_map(|id| self.end(id)).collect()
    }
}

/// Waits until the pod is protected, or until a start fails.
async fn protected(mut handle: Handle) -> Reply {
    let before = handle.view.borrow().failures;
    let settled = handle.view.wait_for(|view| view.state == PodState::Protected || view.failures > before);
    match timeout(PROTECT, settled).await {
        Ok(Ok(view)) if view.state == PodState::Protected => Reply::Protected,
        Ok(Ok(view)) => Reply::refused(view.problem.as_deref().unwrap_or("its data path has failed")),
        Ok(Err(_)) => Reply::refused("the pod has ended"),
        Err(_) => Reply::refused("its data path is not ready in time"),
    }
}
