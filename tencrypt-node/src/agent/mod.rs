//! The agent: one loop that has every decision about the node's pods.
//!
//! Pods are tasks of their own ([`crate::pod`]); files, sockets and the kernel's words come in, commands to pods go out. Nothing here
//! waits for a pod.

mod acknowledged;
mod adding;
mod answers;
mod calls;
mod cluster;
mod detached;
mod enrolment;
mod heeding;
mod plugin;
mod replacing;
mod running;
mod shared;
mod sources;
mod straying;
mod strays;
mod tenants;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use tencrypt_agent::{
    escape::Escaped,
    node::{Order, OrderError},
    os::{notify::ServiceManager, rundir::RunDir},
};
use tencrypt_cni::call::Reply;
use tencrypt_tun::{NetNs, NetNsId};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use self::{
    adding::Adding,
    cluster::Cluster,
    detached::Detached,
    enrolment::Enrolment,
    plugin::Plugin,
    replacing::{Done, Replacing},
    shared::{LatestOf, Shared},
    strays::Strays,
};
use crate::{
    calls::Incoming,
    clones::CloneSigns,
    data_path::{DataPath, Place, PodIdentity, READY},
    metrics::Totals,
    pod::{Command, Handle, Notice, Pod},
    records::{Record, Records, Source},
    release::Program,
    report::{Counts, PodState},
    serve::Question,
    settings::Settings,
    tenant::KeyFiles,
    watch::FolderWatch,
};

/// The time after which files are looked at without an event of theirs, and what has failed is tried again.
const LOOK: Duration = Duration::from_secs(5);

/// Pause between two looks at pods that are between two data paths when the agent ends.
const FINISH_LOOK: Duration = Duration::from_millis(10);

/// Requests and questions that wait for the loop.
const QUEUE: usize = 256;

/// The agent.
pub(crate) struct Agent {
    settings: Settings,
    run_dir: RunDir,
    place: Rc<Place>,
    shared: Rc<Shared>,
    records: Records,
    enrolment: Enrolment,
    key_files: KeyFiles,
    replacing: Replacing,
    plugin: Option<Plugin>,
    cluster: Option<Cluster>,
    clones: CloneSigns,
    pods: BTreeMap<NetNsId, Entry>,
    /// Programs of data paths that were adopted, by their files.
    programs: BTreeMap<PathBuf, Rc<Program>>,
    detached: Detached,
    strays: Strays,
    /// The faults that stand now, by what they are of.
    problems: BTreeMap<String, String>,
    tenant_problems: BTreeMap<String, String>,
    counts: Counts,
    ended: Totals,
    is_ready: bool,
    /// The cluster was read whole once, or there is none.
    is_synced: bool,
    manager: Option<ServiceManager>,
    started: Instant,
    notices: mpsc::UnboundedSender<(NetNsId, Notice)>,
    done: mpsc::UnboundedSender<Done>,
    answers: mpsc::UnboundedSender<Question>,
    settled: mpsc::UnboundedSender<Settled>,
    again: mpsc::UnboundedSender<Adding>,
}

/// A request of the plugin's that waited for a pod, and its answer.
type Settled = (oneshot::Sender<Reply>, Reply);

/// A pod of the agent's.
struct Entry {
    record: Record,
    identity: PodIdentity,
    handle: Handle,
    /// It was told to end.
    is_ending: bool,
}

/// Everything that comes to the loop.
pub(crate) struct Inbox {
    /// Of the plugin.
    pub(crate) calls: mpsc::Receiver<Incoming>,
    /// Of the server.
    pub(crate) questions: mpsc::Receiver<Question>,
    notices: mpsc::UnboundedReceiver<(NetNsId, Notice)>,
    done: mpsc::UnboundedReceiver<Done>,
    /// Questions whose pods have said how they are.
    answers: mpsc::UnboundedReceiver<Question>,
    settled: mpsc::UnboundedReceiver<Settled>,
    /// Requests of the plugin's that are looked at again.
    again: mpsc::UnboundedReceiver<Adding>,
}

/// The others' ends of an [`Inbox`].
pub(crate) struct Senders {
    /// For the socket of the plugin.
    pub(crate) calls: mpsc::Sender<Incoming>,
    /// For the server.
    pub(crate) questions: mpsc::Sender<Question>,
}

/// Folders whose changes are followed.
struct Watches {
    tenants: FolderWatch,
    /// The folders of [`tenants`](Self::tenants).
    tenant_folders: BTreeSet<PathBuf>,
    pods: FolderWatch,
    networks: Option<FolderWatch>,
    results: Option<FolderWatch>,
}

impl Agent {
    /// Makes an agent that has neither read nor adopted anything. To be called within a tokio runtime.
    ///
    /// # Errors
    /// A line: the run directory, the program or the plugin cannot be used.
    pub(crate) fn new(
        settings: Settings,
        run_dir: &RunDir,
        place: Place,
        program: Program,
    ) -> Result<(Self, Inbox, Senders), String> {
        let records = Records::open(run_dir.path())
            .map_err(|error| format!("run directory {}: {error}", run_dir.path().display()))?;
        let plugin = settings.plugin.as_ref().map(|plugin| Plugin::install(plugin, &settings, run_dir));
        let plugin = plugin.transpose()?;
        let cluster = settings.kubernetes.as_ref().map(Cluster::new).transpose()?;
        let (enrolment, fault) = Enrolment::read(settings.list.clone());
        let (calls_out, calls) = mpsc::channel(QUEUE);
        let (questions_out, questions) = mpsc::channel(QUEUE);
        let (notices_out, notices) = mpsc::unbounded_channel();
        let (done_out, done) = mpsc::unbounded_channel();
        let (answers_out, answers) = mpsc::unbounded_channel();
        let (settled_out, settled) = mpsc::unbounded_channel();
        let (again_out, again) = mpsc::unbounded_channel();
        let mut agent = Self {
            settings,
            run_dir: run_dir.clone(),
            place: Rc::new(place),
            shared: Shared::new(program),
            records,
            enrolment,
            key_files: KeyFiles::default(),
            replacing: Replacing::new(),
            plugin,
            cluster,
            clones: CloneSigns::open(),
            pods: BTreeMap::new(),
            programs: BTreeMap::new(),
            detached: Detached::default(),
            strays: Strays::default(),
            problems: BTreeMap::new(),
            tenant_problems: BTreeMap::new(),
            counts: Counts::default(),
            ended: Totals::default(),
            is_ready: false,
            is_synced: false,
            manager: ServiceManager::connect().unwrap_or_else(|error| {
                tracing::warn!(%error, "the service manager is not to be reached");
                None
            }),
            started: Instant::now(),
            notices: notices_out,
            done: done_out,
            answers: answers_out,
            settled: settled_out,
            again: again_out,
        };
        agent.note("list", fault);
        let inbox = Inbox { calls, questions, notices, done, answers, settled, again };
        Ok((agent, inbox, Senders { calls: calls_out, questions: questions_out }))
    }

    /// Takes over what runs, reads what there is, and then does what comes in, until the process is told to end. Data paths go on. To be
    /// called within a `LocalSet`.
    ///
    /// # Errors
    /// The kernel gives no signals or no events of folders.
    pub(crate) async fn run(mut self, mut inbox: Inbox) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut watches = self.watches()?;
        for (tenant, tag) in self.records.given_up() {
            self.replacing.remember(tenant, tag);
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.follow();
        }
        self.read_tenants();
        self.adopt_all().await;
        self.read_pods();
        self.become_ready();
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(notice) = inbox.notices.recv() => self.heed(notice.0, notice.1),
                Some(incoming) = inbox.calls.recv() => self.take_call(incoming),
                Some((to, reply)) = inbox.settled.recv() => self.reply(to, reply),
                Some(question) = inbox.questions.recv() => self.ask_pods(question),
                Some(question) = inbox.answers.recv() => self.answer(question),
                Some(done) = inbox.done.recv() => {
                    self.end_replacing(done);
                }
                reason = self.clones.next() => self.renew_all(reason),
                () = watches.tenants.next() => {
                    self.heed_tenants();
                    self.follow_tenants(&mut watches);
                }
                () = changed(self.cluster.as_ref()) => self.heed_tenants(),
                Some(waiting) = inbox.again.recv() => self.add(waiting),
                () = watches.pods.next() => self.read_pods(),
                () = next(watches.networks.as_mut()) => self.check_networks(),
                () = next(watches.results.as_mut()) => self.find_unprotected(),
            }
        }
        self.finish_replacing().await;
        Ok(())
    }

    /// Waits, at most as long as a start may take, until no pod is between two data paths: it would be without one until the next agent.
    async fn finish_replacing(&self) {
        self.replacing.stop();
        let is_between = |entry: &Entry| entry.handle.view.borrow().state == PodState::Starting;
        let finished = async {
            while self.pods.values().any(is_between) {
                sleep(FINISH_LOOK).await;
            }
        };
        let _ = timeout(READY, finished).await;
    }

    fn end_replacing(&mut self, done: Done) {
        if done.failed.as_ref().is_some_and(|failed| !failed.is_harmless) {
            let fault = self.records.give_up(&done.tenant, &done.tag).err();
            self.note("records", fault.map(|error| format!("a replacement that was given up: {error}")));
        }
        self.replacing.end(done);
        self.replace_old();
    }

    fn watches(&self) -> io::Result<Watches> {
        let tenant_folders = self.tenant_folders();
        let plugin = self.settings.plugin.as_ref();
        let watch = |path: &PathBuf| FolderWatch::of([path], LOOK);
        Ok(Watches {
            tenants: FolderWatch::of(&tenant_folders, LOOK)?,
            tenant_folders,
            pods: FolderWatch::of([&self.settings.pods, &PathBuf::from("/run/netns")], LOOK)?,
            networks: plugin.map(|plugin| watch(&plugin.networks)).transpose()?,
            results: plugin.map(|plugin| watch(&plugin.results)).transpose()?,
        })
    }

    /// Notes or clears a fault.
    fn note(&mut self, of: &str, fault: Option<String>) {
        match fault {
            Some(fault) => {
                if self.problems.get(of) != Some(&fault) {
                    tracing::error!("{}", Escaped(&fault));
                }
                self.problems.insert(of.to_owned(), fault);
            }
            None => {
                self.problems.remove(of);
            }
        }
    }

    /// Says that it is ready, once the tenants were read and the list is written.
    fn become_ready(&mut self) {
        let is_blind = ["tenants", "list"].iter().any(|of| self.problems.contains_key(*of));
        if self.is_ready || is_blind || !self.is_synced {
            return;
        }
        self.is_ready = true;
        let fault = self.enrolment.set_ready().err();
        self.note("ready", fault);
        tracing::info!(pods = self.pods.len(), "ready");
        // Nobody may read it.
        let _ = writeln!(io::stdout(), "ready");
        if let Some(manager) = &self.manager {
            manager.ready("pods are protected");
        }
        self.replace_old();
    }

    /// Starts the task of a pod. `running` was adopted.
    fn keep(&mut self, namespace: NetNs, record: Record, running: Option<DataPath>) {
        let id = namespace.id();
        let fault =
            self.records.write(id, &record).err().map(|error| format!("the file of pod {id}: {error}"));
        self.note("records", fault);
        let identity = PodIdentity { name: record.name.as_str().into(), namespace };
        let latest = LatestOf { shared: Rc::clone(&self.shared), tenant: record.tenant.as_str().into() };
        let own = running.as_ref().and_then(|running| self.release_of(running, &record.tenant));
        let notices = self.notices.clone();
        // The agent has gone if nobody hears it.
        let notify = move |notice| drop(notices.send((id, notice)));
        let (pod, handle) = Pod::new(identity.clone(), Rc::clone(&self.place), latest, notify, own);
        spawn_local(pod.run(running));
        self.pods.insert(id, Entry { record, identity, handle, is_ending: false });
    }

    /// Takes note of what has happened to a pod.
    fn heed(&mut self, id: NetNsId, notice: Notice) {
        match notice {
            Notice::Counted(status) => {
                if let Some(entry) = self.pods.get(&id) {
                    self.ended.ended(&entry.record.tenant, &status);
                }
            }
            Notice::Started => self.counts.started += 1,
            Notice::Failed => self.counts.failed += 1,
            Notice::Died => self.counts.restarted += 1,
            Notice::Replaced => self.counts.replaced += 1,
            Notice::RolledBack => self.counts.rolled_back += 1,
            Notice::Ended => {
                let ended = self.pods.remove(&id);
                self.records.remove(id);
                self.run_dir.tidy(id);
                if ended.is_some_and(|entry| entry.record.source == Source::Directory) {
                    // Its file may already name another.
                    self.read_pods();
                }
                if self.cluster.is_some() {
                    // It may be another tenant's now, and its tenant's last one.
                    self.heed_tenants();
                }
                let pods = &self.pods;
                let shared = &self.shared;
                self.ended.retain(|tenant| {
                    shared.tenant(tenant).is_some()
                        || pods.values().any(|entry| entry.record.tenant == tenant)
                });
            }
        }
    }

    /// Ends a pod; it stays closed. The answer comes when its data path is gone.
    fn end(&mut self, id: NetNsId) -> Option<oneshot::Receiver<()>> {
        self.let_go(id, false)
    }

    /// Ends a pod's data path; the pod is `open` then, or stays closed. The answer comes when its data path is gone.
    fn let_go(&mut self, id: NetNsId, open: bool) -> Option<oneshot::Receiver<()>> {
        let entry = self.pods.get_mut(&id)?;
        entry.is_ending = true;
        let (done, gone) = oneshot::channel();
        entry.handle.commands.send(Command::End { open, done }).ok()?;
        Some(gone)
    }

    /// Has every pod make its keys anew.
    fn renew_all(&mut self, reason: tencrypt_agent::report::RenewalReason) {
        tracing::warn!("{}: every pod makes its keys anew", reason.as_str());
        self.counts.clones += 1;
        self.tell_all(Order::renew(reason));
    }

    fn tell_all(&self, order: Result<Order, OrderError>) {
        let Ok(order) = order.map(Rc::new) else { return };
        for entry in self.pods.values() {
            // One that has ended hears nothing.
            let _ = entry.handle.commands.send(Command::Tell(Rc::clone(&order)));
        }
    }

    /// Replaces the data paths that have another program or other settings than they would be given now.
    fn replace_old(&mut self) {
        if !self.is_ready {
            return;
        }
        for tenant in self.shared.tenants() {
            let Some(release) = self.shared.release(tenant.name()) else { continue };
            let pods = self.pods.values().filter(|entry| entry.record.tenant == tenant.name());
            let handles = pods.map(|entry| entry.handle.clone()).collect();
            self.replacing.begin(tenant.name(), &release, handles, self.done.clone());
        }
    }

    /// Pods of the tenant that are in this state.
    fn count(&self, tenant: &str) -> u64 {
        self.pods.values().filter(|entry| entry.record.tenant == tenant).count() as u64
    }

    fn state(&self, id: NetNsId) -> Option<PodState> {
        let entry = self.pods.get(&id)?;
        Some(if entry.is_ending { PodState::Ending } else { entry.handle.view.borrow().state })
    }
}

/// Waits for a change in folders, for ever if there are none.
async fn next(watch: Option<&mut FolderWatch>) {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of the cluster, for ever if there is none.
async fn changed(cluster: Option<&Cluster>) {
    match cluster {
        Some(cluster) => cluster.changed().await,
        None => std::future::pending().await,
    }
}
