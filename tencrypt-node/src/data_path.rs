//! A data path: its start, which may be called off until it is told to begin; its adoption; its end.

use std::{os::fd::AsFd as _, path::Path, rc::Rc, time::Duration};

use rustix::process::Signal;
use tencrypt_agent::{
    escape::Escaped,
    node::{
        Order, OrderError, Pod,
        said::{Hello, PodReport, Said},
    },
    os::rundir::RunDir,
};
use tencrypt_tun::NetNs;
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    channel::{Channel, ChannelError},
    launch::{Group, Launch, LaunchError, Launcher, Limits},
    process::Process,
    release::Release,
    tenant::{Tenant, TenantError},
};

/// Time for a program that was just started to say `hello`.
const HELLO: Duration = Duration::from_secs(5);

/// Time from `complete` to `ready`: set-up takes some 20 ms, and up to 2 s while another one lets go of the namespace.
pub(crate) const READY: Duration = Duration::from_secs(5);

/// Time for a program to end that was told to.
const END: Duration = Duration::from_secs(2);

/// The descriptor of a program's channel, which the launcher gives it.
const CHANNEL: &str = "3";

/// The way in which data paths are started.
#[derive(Debug)]
pub(crate) struct Place {
    /// The launcher.
    pub(crate) launcher: Launcher,
    /// The control group below which each has its own; none: they stay in the agent's.
    pub(crate) group: Option<String>,
    /// The folder of their control sockets.
    pub(crate) run_dir: std::path::PathBuf,
    /// Their level of logging.
    pub(crate) log: Option<String>,
    /// True if they do not write to the agent's standard error.
    pub(crate) is_silent: bool,
}

/// The pod that a data path is for.
#[derive(Debug, Clone)]
pub(crate) struct PodIdentity {
    /// Its name, for people.
    pub(crate) name: Rc<str>,
    /// Its network namespace.
    pub(crate) namespace: NetNs,
}

/// A data path that runs.
#[derive(Debug)]
pub(crate) struct DataPath {
    /// The channel to it.
    pub(crate) channel: Channel,
    /// Its process.
    pub(crate) process: Process,
    /// The process's number.
    pub(crate) pid: u32,
    /// Version of its program.
    pub(crate) version: String,
    /// Its static public key, in hex.
    pub(crate) public_key: String,
    /// The tag that it was given.
    pub(crate) tag: String,
}

/// A data path that was given everything but the word to begin. Dropped before it is ready, its program is killed: without its
/// agent it would go on.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Its public key is not known yet. None: it is ready.
    data_path: Option<DataPath>,
}

/// The reason why there is no data path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It was not started.
    #[error("cannot be started: {0}")]
    Launch(#[from] LaunchError),
    /// The name of its control group is none.
    #[error("{0}")]
    Group(String),
    /// Its tenant's keys cannot be read.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The channel broke.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Something is too long for a message.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// It says why it ended.
    #[error("{reason} (exit code {exit})")]
    Failed {
        /// Its exit code.
        exit: u8,
        /// The reason, in a line.
        reason: String,
    },
    /// It ended without a word.
    #[error("the program ended without a word")]
    Ended,
    /// It is not heard of in time.
    #[error("the program was not {0} in time")]
    Late(&'static str),
    /// It says something else than it should.
    #[error("the program said something else than `{0}`")]
    Unexpected(&'static str),
    /// Its process is not to be had.
    #[error("the program's process: {0}")]
    Process(#[from] std::io::Error),
}

impl Place {
    /// The control group of the pod.
    fn group(&self, pod: &PodIdentity) -> Result<Option<Group>, StartError> {
        let id = pod.namespace.id().to_string();
        let named = self.group.as_deref().map(|base| Group::new(base, &id));
        named.transpose().map_err(|error| StartError::Group(error.to_string()))
    }

    /// Starts a program for the pod, and gives it everything but the word to begin: it has touched nothing yet.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub(crate) async fn prepare(&self, pod: &PodIdentity, release: &Release) -> Result<Prepared, StartError> {
        let tenant = &release.tenant;
        if self.group.is_none() && tenant.limits != Limits::default() {
            let reason =
                "the limits of its tenant need a control group, and the agent's settings have none (`group`)";
            return Err(StartError::Group(reason.to_owned()));
        }
        let (channel, other) = Channel::pair()?;
        let stderr = if self.is_silent { Some(null()?) } else { None };
        let launch = Launch {
            program: release.program.path.clone(),
            arguments: ["up", "--supervised", CHANNEL].map(Into::into).into(),
            run_dir: Some(self.run_dir.clone()),
            log: self.log.clone(),
            group: self.group(pod)?,
            limits: tenant.limits,
            stderr,
        };
        self.launcher.launch(&launch, other.into()).await?;
        let (mut channel, hello) = greet(channel).await?;
        let process = Process::open(hello.pid)?;
        let tag = release.tag();
        let named = Order::pod(&Pod { name: pod.name.to_string(), tag: tag.clone() })?;
        channel.send_with(&named, pod.namespace.as_fd()).await?;
        channel.send(&tenant.keys()?).await?;
        for order in tenant.start(&pod.name)? {
            channel.send(&order).await?;
        }
        let (pid, version, public_key) = (hello.pid, hello.program, String::new());
        Ok(Prepared { data_path: Some(DataPath { channel, process, pid, version, public_key, tag }) })
    }

    /// Takes over the program that listens at the control socket `path`, and returns it with the pod as it calls it.
    ///
    /// # Errors
    /// See [`StartError`]; the program goes on as it was.
    pub(crate) async fn adopt(&self, path: &Path) -> Result<(DataPath, PodReport), StartError> {
        let (channel, hello) = greet(Channel::adopt(path).await?).await?;
        let pod = hello.pod.ok_or(StartError::Unexpected("pod"))?;
        let data_path = DataPath {
            channel,
            process: Process::open(hello.pid)?,
            pid: hello.pid,
            version: hello.program,
            public_key: pod.public_key.clone(),
            tag: pod.tag.clone(),
        };
        Ok((data_path, pod))
    }

    /// Opens a namespace without a data path, if one has closed it.
    ///
    /// # Errors
    /// A line: it may still be closed.
    pub(crate) async fn undo(&self, pod: &PodIdentity) -> Result<(), String> {
        let namespace = pod.namespace.clone();
        let undone = spawn_blocking(move || tencrypt_agent::undo(&namespace, &RunDir::create()?, END));
        match undone.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failure)) => Err(failure.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }

    /// Removes what is left of the pod's data path when it has ended: its control group.
    pub(crate) async fn forget(&self, pod: &PodIdentity) {
        let Ok(Some(group)) = self.group(pod) else { return };
        if let Err(error) = self.launcher.forget(&group).await {
            tracing::warn!(%error, "the control group of a pod that has ended");
        }
    }
}

impl Prepared {
    /// Tells the program to begin, and waits until it protects the pod.
    ///
    /// # Errors
    /// See [`StartError`]; the program was ended then, and the pod is closed or as it was.
    pub(crate) async fn complete(mut self) -> Result<DataPath, StartError> {
        let Some(data_path) = &mut self.data_path else { return Err(StartError::Ended) };
        let begun = timeout(READY, data_path.begin()).await.unwrap_or(Err(StartError::Late("ready")));
        match begun {
            Ok(()) => self.data_path.take().ok_or(StartError::Ended),
            Err(error) => {
                data_path.kill().await;
                Err(error)
            }
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(data_path) = &self.data_path {
            let _ = data_path.process.kill(Signal::KILL);
        }
    }
}

impl DataPath {
    async fn begin(&mut self) -> Result<(), StartError> {
        self.channel.send(&Order::complete()?).await?;
        loop {
            match self.channel.next().await? {
                Some(Said::Ready { public_key }) => {
                    self.public_key = public_key;
                    return Ok(());
                }
                Some(Said::Failed { exit, reason }) => return Err(StartError::Failed { exit, reason }),
                Some(Said::Refused { message, reason }) => {
                    tracing::warn!(message, "a program that starts refuses: {}", Escaped(&reason));
                }
                Some(_) => {}
                None => return Err(StartError::Ended),
            }
        }
    }

    /// Tells an adopted data path what holds now of its tenant; nothing but that, if there is none.
    pub(crate) async fn resume(&mut self, tenant: Option<&Tenant>) -> Result<(), StartError> {
        let Some(tenant) = tenant else { return Ok(()) };
        match tenant.keys() {
            Ok(keys) => self.channel.send(&keys).await?,
            // It keeps those that it has.
            Err(error) => tracing::error!("{error}"),
        }
        for order in tenant.adoption()? {
            self.channel.send(&order).await?;
        }
        self.certify(tenant).await?;
        Ok(self.channel.send(&Order::complete()?).await?)
    }

    /// Tells the program these orders, and its certificate of this tenant.
    pub(crate) async fn tell(&mut self, tenant: &Tenant, orders: &[Order]) -> Result<(), StartError> {
        for order in orders {
            self.channel.send(order).await?;
        }
        self.certify(tenant).await
    }

    /// Gives the program its certificate, if the tenant has one for its key.
    pub(crate) async fn certify(&mut self, tenant: &Tenant) -> Result<(), StartError> {
        match tenant.certificate(&self.public_key)? {
            Some(certificate) => Ok(self.channel.send(&certificate).await?),
            None => Ok(()),
        }
    }

    /// Tells the program to end, and does not wait: the next one waits for the namespace.
    pub(crate) async fn let_go(&mut self, open: bool) -> Result<(), StartError> {
        Ok(self.channel.send(&Order::end(open)?).await?)
    }

    /// Waits until the process is gone, at most for 2 s; then it is killed.
    pub(crate) async fn gone(&mut self) {
        let ended = async {
            // What it still says is read, so that it is not kept.
            while matches!(self.channel.next().await, Ok(Some(_))) {}
            self.process.ended().await;
        };
        if timeout(END, ended).await.is_err() {
            tracing::warn!(pid = self.pid, "a program that does not end is killed");
            let _ = self.process.kill(Signal::KILL);
            let _ = timeout(END, self.process.ended()).await;
        }
    }

    /// Kills the process: it does not do what it is told.
    pub(crate) async fn kill(&self) {
        let _ = self.process.kill(Signal::KILL);
        let _ = timeout(END, self.process.ended()).await;
    }
}

/// Introduces the agent, and waits for the program's introduction of itself.
async fn greet(mut channel: Channel) -> Result<(Channel, Hello), StartError> {
    channel.send(&Order::hello()?).await?;
    let said = timeout(HELLO, channel.next()).await.map_err(|_| StartError::Late("heard of"))??;
    match said {
        Some(Said::Hello(hello)) => Ok((channel, hello)),
        Some(Said::Failed { exit, reason }) => Err(StartError::Failed { exit, reason }),
        Some(_) => Err(StartError::Unexpected("hello")),
        None => Err(StartError::Ended),
    }
}

fn null() -> std::io::Result<std::os::fd::OwnedFd> {
    Ok(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}
