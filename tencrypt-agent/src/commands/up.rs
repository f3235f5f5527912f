//! `up` and `down`.

use std::{
    fs,
    os::fd::RawFd,
    panic::resume_unwind,
    path::Path,
    time::{Duration, Instant},
};

use tencrypt::KeyRing;
use tencrypt_tun::NetNs;

use crate::{
    commands::cli::Origin,
    config::{Config, ConfigFile},
    control::{self, Reply, Request, client::ClientError},
    failure::{Exit, Failure},
    keys::credentials::Credentials,
    keys::file as keyfile,
    node::start::{self, Channel, Given},
    os::files::ReadError,
    os::hardening::{self, Memory},
    os::notify::{SOCKET_VARIABLE, ServiceManager},
    os::rundir::{Hold, RunDir, RunDirError},
    supervisor::clone_guard::KernelWords,
    supervisor::dns::Names,
    supervisor::pod_end::Place,
    supervisor::{self as protect, Protection, Source},
};

/// Time that `down` gives a running `up` to undo its work and let go of the namespace.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Pause between attempts to take hold of the namespace meanwhile.
const HOLD_RETRY: Duration = Duration::from_millis(20);

/// Time for which a program of an agent's waits for the one before it to end.
const TAKE_OVER: Duration = Duration::from_secs(2);
/// Pause between its attempts. Nothing of the pod's moves meanwhile.
const TAKE_OVER_RETRY: Duration = Duration::from_millis(1);

/// Protects a namespace until the process is told to end.
///
/// # Errors
/// A [`Failure`]; nothing is left behind then.
pub(crate) fn up(origin: &Origin) -> Result<(), Failure> {
    #[cfg(tencrypt_null_cipher)]
    tracing::error!("this build has no cipher: nothing is encrypted; it is for measuring alone");
    let prepared = match origin {
        Origin::Files { netns, config } => of_files(netns, config)?,
        Origin::Agent { descriptor } => of_agent(*descriptor)?,
    };
    let Prepared { protection, namespace, hold } = prepared;
    let agent = protection.source.channel();
    let protecting = namespace.spawn("control", move || protect::run(protection)).map_err(Failure::from);
    let protecting = protecting.inspect_err(|failure| {
        agent.iter().for_each(|channel| start::tell_failure(channel, failure));
    })?;
    drop(agent);
    // This thread waits, no more.
    hardening::give_up_all();
    let outcome = protecting.join().unwrap_or_else(|panic| resume_unwind(panic));
    drop(hold);
    outcome
}

/// Ends protection of the namespace: of a running `up` by its control socket, of one that died by removing what
/// it left.
///
/// # Errors
/// A [`Failure`]; [`Exit::NotRunning`] if there was nothing to end.
pub(crate) fn down(namespace: &NetNs) -> Result<(), Failure> {
    let stopped = match control::client::ask(namespace, &Request::Stop) {
        Ok(Reply::Stopping) => true,
        Ok(Reply::Refused(reason)) => return Err(Failure::runtime(reason)),
        Ok(_) => return Err(ClientError::Garbled.into()),
        Err(ClientError::NotRunning { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    // Before the run directory is made: a refusal leaves nothing behind.
    refuse_host(namespace)?;
    let limit = if stopped { STOP_LIMIT } else { Duration::ZERO };
    let was_there = undo(namespace, &RunDir::create()?, limit)?;
    if !stopped && !was_there {
        let reason = format_args!("nothing of tencrypt is in `{}`", namespace.name());
        return Err(Failure::new(Exit::NotRunning, reason));
    }
    Ok(())
}

/// Removes what a program has left in the namespace that is not there any more. One that still ends is waited for, `limit` at most.
/// Returns true if there was something.
///
/// # Errors
/// A [`Failure`]; [`Exit::Held`] if a program holds the namespace.
pub fn undo(namespace: &NetNs, rundir: &RunDir, limit: Duration) -> Result<bool, Failure> {
    refuse_host(namespace)?;
    let end = Instant::now() + limit;
    let hold = loop {
        match rundir.hold(namespace.id()) {
            Ok(hold) => break hold,
            Err(_) if Instant::now() < end => std::thread::sleep(HOLD_RETRY),
            Err(error) => return Err(error.into()),
        }
    };
    let cleaned = namespace.run(protect::clean)??;
    // Of a program that was killed: the hold shows that nobody listens there. Mostly there is none.
    let _ = fs::remove_file(rundir.socket(namespace.id()));
    drop(hold);
    Ok(!cleaned.is_empty())
}

/// Parts of a start that are checked before anything is touched.
struct Prepared {
    protection: Protection,
    namespace: NetNs,
    hold: Hold,
}

/// Prepares what files say.
fn of_files(netns: &str, path: &Path) -> Result<Prepared, Failure> {
    // Here and not in the pod's namespace, where a socket without a path is another one.
    let manager = ServiceManager::connect();
    let manager = manager.inspect_err(|error| tracing::warn!(%error, "{SOCKET_VARIABLE}")).ok().flatten();
    let memory = protect_memory()?;
    let ConfigFile { config, files } = ConfigFile::read(path)?;
    let keys = keyfile::read(&files.keys)?;
    let credentials = Credentials::read(&files, &config.identity)?;
    let words = KernelWords::open();
    // Opened once: lock, socket, names and capture are of this namespace, whatever the name comes to mean.
    let namespace = NetNs::open(netns)?;
    refuse_host(&namespace)?;
    let names = Names::find(&config, files.resolv_conf.as_deref(), &namespace)?;
    let rundir = RunDir::create()?;
    let hold = rundir.hold(namespace.id()).map_err(|error| held(&namespace, error))?;
    let gathered =
        Gathered { config, keys, credentials, names, words, manager, source: Source::Files(files) };
    Ok(gathered.prepared(memory, namespace, (&rundir, hold)))
}

/// Prepares what the agent gives over the channel at `descriptor`. It is told why that fails.
fn of_agent(descriptor: RawFd) -> Result<Prepared, Failure> {
    let mut channel = Channel::take(descriptor)?;
    let prepared = protect_memory().and_then(|memory| Ok((memory, channel.receive()?)));
    let prepared = prepared.and_then(|(memory, given)| {
        let rundir = RunDir::create()?;
        refuse_host(&given.namespace)?;
        let hold = hold_soon(&rundir, &given.namespace)?;
        Ok((memory, given, rundir, hold))
    });
    let (memory, given, rundir, hold) = prepared.inspect_err(|failure| channel.tell_failure(failure))?;
    let Given { pod, namespace, config, keys, credentials, resolv_conf, facts } = given;
    let content = resolv_conf.ok_or(ReadError::Absent);
    let names = Names::of(&config, content, &"resolv.conf of the node's agent");
    let names = names.inspect_err(|failure| channel.tell_failure(failure))?;
    let source = Source::Agent { channel: channel.into_stream(), pod, facts };
    let (words, manager) = (KernelWords::open_log(), None);
    let gathered = Gathered { config, keys, credentials, names, words, manager, source };
    Ok(gathered.prepared(memory, namespace, (&rundir, hold)))
}

fn protect_memory() -> Result<Memory, Failure> {
    Memory::protect()
        .map_err(|error| Failure::runtime(format_args!("cannot keep keys out of core dumps: {error}")))
}

/// Parts that are read or given, from wherever they come.
struct Gathered {
    config: Config,
    keys: KeyRing,
    credentials: Credentials,
    names: Names,
    words: KernelWords,
    manager: Option<ServiceManager>,
    source: Source,
}

impl Gathered {
    /// Completes a start by what follows from the namespace.
    fn prepared(self, memory: Memory, namespace: NetNs, (rundir, hold): (&RunDir, Hold)) -> Prepared {
        let Self { config, keys, credentials, names, words, manager, source } = self;
        tracing::info!(
            suite = config.tenant.suite.name(),
            lanes = config.network.lanes,
            send = keys.send_epoch(),
            "configuration and keys are read"
        );
        tracing::debug!(namespace = namespace.name(), protected = ?config.network.protected, "to be protected");
        let control = rundir.socket(namespace.id());
        let (place, netns) = (Place::of(&namespace), namespace.name().to_owned());
        let protection = Protection {
            config,
            keys,
            credentials,
            names,
            control,
            memory,
            words,
            place,
            netns,
            manager,
            source,
        };
        Prepared { protection, namespace, hold }
    }
}

/// Takes hold of the namespace, which the program before this one is about to let go of.
fn hold_soon(rundir: &RunDir, namespace: &NetNs) -> Result<Hold, Failure> {
    let limit = Instant::now() + TAKE_OVER;
    loop {
        match rundir.hold(namespace.id()) {
            Err(RunDirError::Held) if Instant::now() < limit => std::thread::sleep(TAKE_OVER_RETRY),
            outcome => return outcome.map_err(|error| held(namespace, error)),
        }
    }
}

/// Says who holds the namespace, where that one says so itself.
fn held(namespace: &NetNs, error: RunDirError) -> Failure {
    let holder = match &error {
        RunDirError::Held => control::client::ask(namespace, &Request::Status),
        _ => return error.into(),
    };
    match holder {
        Ok(Reply::Status(status)) => {
            Failure::new(Exit::Held, format_args!("{error}: process {}", status.program.pid))
        }
        _ => error.into(),
    }
}

/// Refuses the host's own namespace.
pub(super) fn refuse_host(namespace: &NetNs) -> Result<(), Failure> {
    if namespace.is_own() || namespace.is_host() {
        return Err(Failure::new(Exit::Usage, "this is the host's own network namespace; name a pod's"));
    }
    Ok(())
}
