//! A pod: a task that keeps its data path, from its enrolment to its end.
//!
//! The data path is started, started again when it dies, replaced, and ended with the pod. What it is told and what it says goes
//! through here alone.

mod keep;
mod view;

use std::{collections::VecDeque, pin::pin, rc::Rc, time::Duration};

use tencrypt_agent::{escape::Escaped, failure::Exit, node::Order, report::StatusReport};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

pub(crate) use self::view::View;
use crate::{
    backoff::{Backoff, random},
    data_path::{DataPath, Place, PodIdentity, StartError},
    release::{self, Release},
    report::PodState,
    tenant::Tenant,
};

/// Times that a namespace without a data path is tried to be opened.
const UNDOINGS: u32 = 10;

/// The pause between two of them.
const UNDO_PAUSE: Duration = Duration::from_millis(500);

/// A command to a pod.
#[derive(Debug)]
pub(crate) enum Command {
    /// Its data path is told this.
    Tell(Rc<Order>),
    /// The files of its tenant, as they are now: the data path is told what it was not told yet.
    Changed(Rc<Tenant>),
    /// Another program or other settings take its data path's place. The answer comes when they have, or why they have not: then
    /// it has what it had.
    Replace(Release, oneshot::Sender<Result<(), NotReplaced>>),
    /// It ends, and is open or closed from then on. The answer comes when its data path is gone.
    End {
        /// All is undone; else the namespace stays closed.
        open: bool,
        /// To be told.
        done: oneshot::Sender<()>,
    },
}

/// The reason why a data path was not replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotReplaced {
    /// It, in a line.
    pub(crate) reason: String,
    /// True if the one before was left alone: nothing was lost, and it may be tried again.
    pub(crate) is_harmless: bool,
}

/// An event of a pod's.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A data path is gone, and had counted this.
    Counted(Box<StatusReport>),
    /// A data path was started.
    Started,
    /// A start failed.
    Failed,
    /// A data path died.
    Died,
    /// A data path was replaced.
    Replaced,
    /// A replacement was taken back.
    RolledBack,
    /// The task has ended: the pod has, or its namespace is no pod's any more.
    Ended,
}

/// The others' part of a pod.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    /// For commands. Few are sent, and only by the agent, which must not wait for a pod.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    /// Its state.
    pub(crate) view: watch::Receiver<View>,
}

/// The latest that there is to start a data path of a pod with; none: its tenant is not there, or was never good.
pub(crate) trait Latest {
    /// Returns it.
    fn release(&self) -> Option<Release>;
}

/// A pod.
pub(crate) struct Pod<L, N> {
    identity: PodIdentity,
    place: Rc<Place>,
    latest: L,
    notify: N,
    /// The release that its data path was started with, and is started with again.
    own: Option<Release>,
    /// The files that the data path which runs was told of; none: it was adopted, and nobody knows.
    told: Option<Rc<Tenant>>,
    backoff: Backoff,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Commands that came while a data path was on its way.
    waiting: VecDeque<Command>,
    /// For the one that waits for a start to replace what there was.
    replacer: Option<oneshot::Sender<Result<(), NotReplaced>>>,
    view: watch::Sender<View>,
    /// The word to end it, and true if it is to be open. A data path that was killed, or is not there, undoes nothing itself.
    leaving: Option<(bool, oneshot::Sender<()>)>,
}

/// The state of the task.
enum Step {
    /// A data path is started after this pause.
    Start(Duration),
    /// This one runs.
    Keep(DataPath),
    /// Somebody has opened the pod: nothing is started until that is asked for.
    Opened,
    /// The pod has ended.
    Over,
}

impl<L: Latest, N: Fn(Notice)> Pod<L, N> {
    /// Makes the task of a pod, which is to be run, and the others' part of it. `own`: what a data path that was adopted was
    /// started with, as far as that can be known.
    pub(crate) fn new(
        identity: PodIdentity,
        place: Rc<Place>,
        latest: L,
        notify: N,
        own: Option<Release>,
    ) -> (Self, Handle) {
        let (command, commands) = mpsc::unbounded_channel();
        let (view, seen) = watch::channel(View::new());
        let pod = Self {
            identity,
            place,
            latest,
            notify,
            own,
            told: None,
            backoff: Backoff::default(),
            commands,
            waiting: VecDeque::new(),
            replacer: None,
            view,
            leaving: None,
        };
        (pod, Handle { commands: command, view: seen })
    }

    /// Keeps the pod's data path until the pod ends; `running` was adopted, and is told what holds now.
    pub(crate) async fn run(mut self, running: Option<DataPath>) {
        let mut step = match running {
            Some(running) => self.resume(running).await,
            None => Step::Start(Duration::ZERO),
        };
        loop {
            step = match step {
                Step::Start(pause) => self.start(pause).await,
                Step::Keep(running) => self.keep(running).await,
                Step::Opened => self.stay_open().await,
                Step::Over => break,
            };
        }
        self.lose(PodState::Ending);
        if let Some((open, done)) = self.leaving.take() {
            if open {
                self.undo().await;
            }
            let _ = done.send(());
        }
        self.place.forget(&self.identity).await;
        (self.notify)(Notice::Ended);
    }

    /// Opens the namespace that a data path has closed which is not there any more.
    async fn undo(&self) {
        for _ in 0..UNDOINGS {
            match self.place.undo(&self.identity).await {
                Ok(()) => return,
                Err(reason) => {
                    let id = self.identity.namespace.id();
                    tracing::error!(pod = %id, "stays closed, `tencrypt down` opens it: {}", Escaped(&reason));
                }
            }
            // What was killed a moment ago may hold it still.
            sleep(UNDO_PAUSE).await;
        }
    }

    /// Starts a data path after a pause.
    async fn start(&mut self, pause: Duration) -> Step {
        if let Some(step) = self.wait(pause).await {
            return step;
        }
        let Some(release) = self.candidate() else {
            return self.failed(&"the files of its tenant are not there, or were never good");
        };
        self.view.send_modify(|view| view.state = PodState::Starting);
        let (place, identity, attempted) = (Rc::clone(&self.place), self.identity.clone(), release.clone());
        let attempt = async move {
            let prepared = place.prepare(&identity, &attempted).await?;
            prepared.complete().await
        };
        let mut attempt = pin!(attempt);
        let started = loop {
            tokio::select! {
                started = &mut attempt => break started,
                command = self.commands.recv() => match command {
                    // What was started is killed with the attempt.
                    Some(Command::End { open, done }) => {
                        self.leaving = Some((open, done));
                        return Step::Over;
                    }
                    Some(command) => self.waiting.push_back(command),
                    None => return Step::Over,
                },
            }
        };
        match started {
            Ok(started) => self.started(started, release),
            Err(StartError::Failed { exit, .. }) if exit == Exit::Held as u8 => self.take_over().await,
            Err(error) => self.failed(&error),
        }
    }

    /// Waits before a start; the step is another one if the pod ends meanwhile.
    async fn wait(&mut self, pause: Duration) -> Option<Step> {
        if pause.is_zero() {
            return None;
        }
        let end = Instant::now() + pause;
        loop {
            let command = tokio::select! {
                () = sleep_until(end) => return None,
                command = self.next_command() => command,
            };
            match command {
                Some(Command::Replace(release, done)) => {
                    self.prefer(release, done);
                    return None;
                }
                Some(command) => {
                    if let Some(step) = self.take_idle(command) {
                        return Some(step);
                    }
                }
                None => return Some(Step::Over),
            }
        }
    }

    /// Takes a command while there is no data path.
    fn take_idle(&mut self, command: Command) -> Option<Step> {
        match command {
            // The next one is started with what holds then.
            Command::Tell(_) => None,
            Command::Changed(tenant) => {
                self.update(&tenant);
                None
            }
            Command::Replace(release, done) => {
                self.prefer(release, done);
                Some(Step::Start(Duration::ZERO))
            }
            Command::End { open, done } => {
                self.leaving = Some((open, done));
                Some(Step::Over)
            }
        }
    }

    /// Takes what the next start is to be with.
    fn prefer(&mut self, release: Release, done: oneshot::Sender<Result<(), NotReplaced>>) {
        self.own = Some(self.newest(release));
        self.replacer = Some(done);
        self.backoff.reset();
        self.view.send_modify(|view| view.failures = 0);
    }

    /// The release of the next start: the one that there was before, and, each second time after a failure, the latest. The one before may
    /// not be there any more.
    fn candidate(&self) -> Option<Release> {
        let latest = self.latest.release();
        let is_own_turn = self.view.borrow().failures.is_multiple_of(2);
        if is_own_turn { self.own.clone().or(latest) } else { latest.or_else(|| self.own.clone()) }
    }

    fn started(&mut self, started: DataPath, release: Release) -> Step {
        self.told = Some(Rc::clone(&release.tenant));
        self.own = Some(release);
        (self.notify)(Notice::Started);
        if let Some(done) = self.replacer.take() {
            let _ = done.send(Ok(()));
        }
        self.view.send_modify(|view| {
            view.failures = 0;
            view.problem = None;
        });
        Step::Keep(started)
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) -> Step {
        tracing::warn!(pod = %self.identity.namespace.id(), "a data path: {}", Escaped(&error.to_string()));
        (self.notify)(Notice::Failed);
        if let Some(done) = self.replacer.take() {
            let _ = done.send(Err(NotReplaced { reason: error.to_string(), is_harmless: false }));
        }
        self.view.send_modify(|view| {
            view.state = PodState::Waiting;
            view.failures += 1;
            view.problem = Some(error.to_string());
        });
        Step::Start(self.backoff.after(Duration::ZERO, random()))
    }

    /// Another program holds the namespace: it is taken over, if it is one of an agent and of this tenant.
    async fn take_over(&mut self) -> Step {
        let id = self.identity.namespace.id();
        let path = self.place.run_dir.join(format!("{id}.sock"));
        match self.place.adopt(&path).await {
            Ok((running, _)) if self.is_own_tenants(&running.tag) => self.resume(running).await,
            Ok((running, _)) => {
                self.failed(&format_args!("it is held by a data path of another tenant: {}", running.tag))
            }
            Err(error) => self.failed(&format_args!("it is held by another program: {error}")),
        }
    }

    fn is_own_tenants(&self, tag: &str) -> bool {
        let latest = self.latest.release();
        let tenant = self.own.as_ref().or(latest.as_ref()).map(|release| release.tenant.name());
        tenant.is_some() && tenant == release::tenant_of(tag)
    }

    /// Tells a data path that was taken over what holds now.
    async fn resume(&mut self, mut running: DataPath) -> Step {
        if let Some(done) = self.replacer.take() {
            let reason = "another data path was found running".to_owned();
            let _ = done.send(Err(NotReplaced { reason, is_harmless: true }));
        }
        let latest = self.latest.release();
        let tenant = latest.as_ref().or(self.own.as_ref()).map(|release| Rc::clone(&release.tenant));
        let told = running.resume(tenant.as_deref()).await;
        if self.own.is_none() {
            self.own = latest;
        }
        match told {
            Ok(()) => {
                self.view.send_modify(|view| view.is_stale = tenant.is_none());
                self.told = tenant;
                Step::Keep(running)
            }
            Err(error) => {
                running.kill().await;
                self.failed(&error)
            }
        }
    }

    async fn next_command(&mut self) -> Option<Command> {
        match self.waiting.pop_front() {
            Some(command) => Some(command),
            None => self.commands.recv().await,
        }
    }

    /// Takes over what holds now of the tenant; the settings stay those that the data path was started with.
    fn update(&mut self, tenant: &Rc<Tenant>) {
        if let Some(own) = &mut self.own {
            let has_same_settings = own.tenant.settings_id == tenant.settings_id;
            own.tenant =
                if has_same_settings { Rc::clone(tenant) } else { Rc::new(own.tenant.refreshed(tenant)) };
        }
    }

    /// The release with the tenant's files as they are now, if its settings still are these: others may have changed since it was
    /// chosen.
    fn newest(&self, release: Release) -> Release {
        self.latest.release().filter(|latest| latest.tag() == release.tag()).unwrap_or(release)
    }

    /// Notes that there is no data path any more, and what it had counted.
    fn lose(&self, state: PodState) {
        let mut counted = None;
        self.view.send_modify(|view| counted = view.lose(state));
        if let Some(counted) = counted {
            (self.notify)(Notice::Counted(counted));
        }
    }

    /// Waits for as long as the pod is open by somebody's hand.
    async fn stay_open(&mut self) -> Step {
        self.lose(PodState::Waiting);
        self.view.send_modify(|view| {
            view.problem = Some("it was opened with `tencrypt down`, and is left so".to_owned());
        });
        loop {
            let Some(command) = self.next_command().await else { return Step::Over };
            if let Some(step) = self.take_idle(command) {
                return step;
            }
        }
    }
}
