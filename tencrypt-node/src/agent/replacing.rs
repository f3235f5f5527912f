//! Replacements: a tenant's pods are given another program or other settings one after the other, until one does not become ready.

use std::{collections::BTreeMap, num::NonZero, rc::Rc, thread, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::{
    pod::{Command, Handle, NotReplaced},
    release::Release,
    report::PodState,
};

/// Pause before a replacement is tried again that could not even be prepared.
const AGAIN: Duration = Duration::from_secs(30);

/// The replacement of a tenant's data paths.
#[derive(Debug)]
pub(super) struct Replacing {
    tenants: BTreeMap<String, State>,
    /// One for each processor: more at a time would make the silence of each longer.
    places: Rc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    is_under_way: bool,
    /// The tag that did not become ready, and why.
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    tag: String,
    reason: String,
    /// The time from which on it is tried again; never, if a pod was closed by it: then it has to be another one.
    again: Option<Instant>,
}

/// The end of a tenant's replacement.
#[derive(Debug)]
pub(super) struct Done {
    /// The tenant.
    pub(super) tenant: String,
    /// The tag that its pods were to have.
    pub(super) tag: String,
    /// The reason why one was not replaced.
    pub(super) failed: Option<NotReplaced>,
}

impl Replacing {
    /// Nothing is replaced.
    pub(super) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self { tenants: BTreeMap::new(), places: Rc::new(Semaphore::new(processors)) }
    }

    /// True while pods of the tenant are replaced.
    pub(super) fn is_under_way(&self, tenant: &str) -> bool {
        self.tenants.get(tenant).is_some_and(|state| state.is_under_way)
    }

    /// The reason why the tenant's replacement was given up.
    pub(super) fn problem(&self, tenant: &str) -> Option<&str> {
        Some(&self.tenants.get(tenant)?.failed.as_ref()?.reason)
    }

    /// Starts to replace the data paths of those of the tenant's `pods` that run and have another tag than `release`. To be called
    /// within a `LocalSet`.
    pub(super) fn begin(
        &mut self,
        tenant: &str,
        release: &Release,
        pods: Vec<Handle>,
        done: mpsc::UnboundedSender<Done>,
    ) {
        let tag = release.tag();
        let state = self.tenants.entry(tenant.to_owned()).or_default();
        let is_due =
            |failed: &Failed| failed.tag != tag || failed.again.is_some_and(|at| at <= Instant::now());
        if state.failed.as_ref().is_some_and(is_due) {
            state.failed = None;
        }
        let is_old = |pod: &Handle| {
            let view = pod.view.borrow();
            view.state == PodState::Protected && view.tag.as_deref() != Some(&tag)
        };
        let old: Vec<Handle> = pods.into_iter().filter(is_old).collect();
        if state.is_under_way || state.failed.is_some() || old.is_empty() {
            return;
        }
        state.is_under_way = true;
        let (tenant, release) = (tenant.to_owned(), release.clone());
        let places = Rc::clone(&self.places);
        tokio::task::spawn_local(async move {
            let failed = one_by_one(&old, &release, &places).await;
            // Without an agent nobody wants to know.
            let _ = done.send(Done { tenant, tag, failed });
        });
    }

    /// Takes note of an end.
    pub(super) fn end(&mut self, done: Done) {
        let state = self.tenants.entry(done.tenant).or_default();
        state.is_under_way = false;
        state.failed = done.failed.map(|NotReplaced { reason, is_harmless }| {
            let again = is_harmless.then(|| Instant::now() + AGAIN);
            Failed { tag: done.tag, reason, again }
        });
    }

    /// Notes that this tag did not become ready under an agent before.
    pub(super) fn remember(&mut self, tenant: String, tag: String) {
        let reason = "it did not become ready under an agent before".to_owned();
        let state = self.tenants.entry(tenant).or_default();
        state.failed = Some(Failed { tag, reason, again: None });
    }

    /// Begins no further one.
    pub(super) fn stop(&self) {
        self.places.close();
    }
}

async fn one_by_one(pods: &[Handle], release: &Release, places: &Semaphore) -> Option<NotReplaced> {
    for pod in pods {
        let Ok(_place) = places.acquire().await else { return None };
        let (done, result) = oneshot::channel();
        if pod.commands.send(Command::Replace(release.clone(), done)).is_err() {
            continue;
        }
        // One whose pod ends meanwhile says nothing.
        if let Ok(Err(reason)) = result.await {
            return Some(reason);
        }
    }
    None
}
