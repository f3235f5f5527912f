//! An operation of CNI, from the variables and the network configuration to the result: CNI SPEC section 2 "CNI operations".
//!
//! One thing is never done: to let a pod start unprotected of which nobody says that it may. Who says so is the agent, and where it
//! does not answer the list on disk.

use std::{
    io::Read,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use serde::Serialize;

use crate::{
    call::{AskError, Attachment, Pod, Reply, Request},
    config::{self, Config, Settings},
    environment::{Command, Environment},
    failure::Failure,
    host::Host,
    list::{List, ListError, Standing},
    previous,
    text::{MESSAGE, one_line},
    version::Version,
};

/// The `type` of the plugin in a network configuration, and the name of its file.
pub const TYPE: &str = "tencrypt-cni";

/// Time that the agent has to protect a pod; its own aim is 2 s. The kubelet gives a pod's sandbox four minutes in all, twice its
/// `runtimeRequestTimeout`.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Time that the agent has where the pod may start without its answer, or ends.
pub const COURTESY: Duration = Duration::from_millis(200);

/// Time that the agent has for what can be made up for: DEL, GC, STATUS.
pub const SHORT: Duration = Duration::from_secs(1);

/// The end of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// Standard output: one JSON value in lines of its own, or nothing.
    pub output: String,
    /// A line for standard error, without its end, where there is something to say that is no failure.
    pub note: Option<String>,
    /// The exit code: 0 for success, 1 for failure.
    pub exit: u8,
}

/// Performs the operation that the variables name with the network configuration that `input` gives.
pub fn run(environment: &Environment, input: &mut impl Read, host: &impl Host) -> Outcome {
    let mut read = Vec::new();
    let mut note = None;
    let result = perform(environment, input, host, &mut read, &mut note);
    let (output, exit) = match result {
        Ok(output) => (output, 0),
        Err(failure) => (failure.document(Version::of(&read).unwrap_or(Version::NEWEST)), 1),
    };
    Outcome { output, note: note.map(|note| one_line(&note, MESSAGE)), exit }
}

fn perform(
    environment: &Environment,
    input: &mut impl Read,
    host: &impl Host,
    read: &mut Vec<u8>,
    note: &mut Option<String>,
) -> Result<String, Failure> {
    let command = environment.command()?;
    // One byte more than there may be, so that it is seen.
    input.take(config::LIMIT as u64 + 1).read_to_end(read).map_err(Failure::Input)?;
    if command == Command::Version {
        return versions(read);
    }
    let config = Config::parse(read)?;
    has_command(config.version, command)?;
    let operation = Operation { environment, config: &config, host };
    let done = match command {
        Command::Add => return operation.add(),
        Command::Check => return operation.check(),
        Command::Status => return operation.status(),
        Command::Del => operation.del()?,
        Command::Gc => operation.gc()?,
        Command::Version => return versions(read),
    };
    *note = done.err();
    Ok(String::new())
}

/// VERSION.
fn versions(input: &[u8]) -> Result<String, Failure> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions<'v> {
        cni_version: &'v str,
        supported_versions: [&'v str; Version::ALL.len()],
    }
    let asked = config::asked_version(input)?;
    let versions = Versions { cni_version: &asked, supported_versions: Version::ALL.map(Version::as_str) };
    // Text can always be written.
    Ok(serde_json::to_string(&versions).unwrap_or_default() + "\n")
}

fn has_command(version: Version, command: Command) -> Result<(), Failure> {
    let (since, name) = match command {
        Command::Add | Command::Del | Command::Version => return Ok(()),
        Command::Check => (Version::V0_4_0, "CHECK"),
        Command::Gc => (Version::V1_1_0, "GC"),
        Command::Status => (Version::V1_1_0, "STATUS"),
    };
    if version >= since { Ok(()) } else { Err(Failure::NoCommand { version, command: name }) }
}

/// The end of an operation that succeeds whatever becomes of it: a note if something became of it.
type Told = Result<(), String>;

struct Operation<'o, H> {
    environment: &'o Environment,
    config: &'o Config<'o>,
    host: &'o H,
}

impl<H: Host> Operation<'_, H> {
    /// ADD: the result before, once the pod is protected or need not be.
    fn add(&self) -> Result<String, Failure> {
        let (result, pod, namespace) = self.joined()?;
        let (attachment, addresses) = self.placed(result)?;
        let request = Request::Add { attachment, pod: pod.clone(), addresses };
        match self.admit(&request, &pod, namespace.as_fd())? {
            Some(reason) => Err(Failure::Refused { reason }),
            None => Ok(format!("{result}\n")),
        }
    }

    /// CHECK: nothing, if the pod is protected or need not be.
    fn check(&self) -> Result<String, Failure> {
        let (result, pod, namespace) = self.joined()?;
        let (attachment, addresses) = self.placed(result)?;
        let request = Request::Check { attachment, pod: pod.clone(), addresses };
        match self.admit(&request, &pod, namespace.as_fd())? {
            Some(reason) => Err(Failure::Unprotected { reason }),
            None => Ok(String::new()),
        }
    }

    /// The parts of ADD and CHECK that have to be there: the result before, the pod, its network namespace.
    fn joined(&self) -> Result<(&str, Pod, OwnedFd), Failure> {
        self.environment.attachment()?;
        let path = self.environment.netns()?;
        let pod = self.environment.pod()?;
        let result = self.config.previous()?;
        let namespace = self.host.namespace(&path).map_err(|error| Failure::Environment {
            text: format!("CNI_NETNS: {}: {error}", path.display()),
        })?;
        Ok((result, pod, namespace))
    }

    fn placed(&self, result: &str) -> Result<(Attachment, Vec<IpAddr>), Failure> {
        let attachment = self.attachment()?;
        let addresses = previous::addresses(result, &attachment.interface)?;
        Ok((attachment, addresses))
    }

    fn attachment(&self) -> Result<Attachment, Failure> {
        let (container, interface) = self.environment.attachment()?;
        Ok(Attachment { network: self.config.network.clone(), container, interface })
    }

    /// Asks the agent, then the list. Returns the agent's reason if it refuses, and nothing if the pod is protected or need not be.
    fn admit(
        &self,
        request: &Request,
        pod: &Pod,
        namespace: BorrowedFd<'_>,
    ) -> Result<Option<String>, Failure> {
        let settings = self.config.settings()?;
        let known = self.host.list(&settings.list);
        let may_pass = settings.is_agent(pod) || standing(&known, pod) == Some(Standing::Open);
        let limit = if may_pass { COURTESY } else { PATIENCE };
        match self.host.ask(&settings.socket, request, Some(namespace), limit) {
            Ok(Reply::Protected | Reply::Open) => Ok(None),
            Ok(Reply::Refused(reason)) => Ok(Some(reason)),
            // The agent would have answered another question.
            Ok(Reply::Done | Reply::Ready) | Err(_) if may_pass => Ok(None),
            Ok(Reply::Done | Reply::Ready) => Err(undecided(&settings, pod, &known, &AskError::Unexpected)),
            Err(error) => Err(undecided(&settings, pod, &known, &error)),
        }
    }

    /// DEL: tells the agent, which finds out by itself where it is not told.
    fn del(&self) -> Result<Told, Failure> {
        let attachment = self.attachment()?;
        // None of these is needed, and each may be gone or may never have been right.
        let pod = self.environment.pod().unwrap_or_default();
        let namespace = self.environment.netns().ok().and_then(|path| self.host.namespace(&path).ok());
        let settings = match self.config.settings() {
            Ok(settings) => settings,
            Err(failure) => return Ok(Err(format!("the node agent was not told of DEL: {failure}"))),
        };
        let known = self.host.list(&settings.list);
        let limit = if standing(&known, &pod) == Some(Standing::Open) { COURTESY } else { SHORT };
        let request = Request::Del { attachment, pod };
        Ok(self.tell(&settings, &request, namespace.as_ref().map(|file| file.as_fd()), limit))
    }

    /// GC: passes on what is still attached.
    fn gc(&self) -> Result<Told, Failure> {
        self.environment.path()?;
        let Some(valid) = self.config.valid()? else { return Ok(Ok(())) };
        let settings = match self.config.settings() {
            Ok(settings) => settings,
            Err(failure) => return Ok(Err(format!("the node agent was not told of GC: {failure}"))),
        };
        let request = Request::Gc { network: self.config.network.clone(), valid };
        Ok(self.tell(&settings, &request, None, SHORT))
    }

    fn tell(
        &self,
        settings: &Settings,
        request: &Request,
        namespace: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Told {
        let said = match self.host.ask(&settings.socket, request, namespace, limit) {
            Ok(Reply::Refused(reason)) => reason,
            Ok(_) => return Ok(()),
            Err(error) => error.to_string(),
        };
        let (name, socket) = (request.name(), settings.socket.display());
        Err(format!("the node agent at {socket} was told of {name} in vain: {said}"))
    }

    /// STATUS: success once the agent has ever been ready. A failure makes the whole node not ready, with every tenant's pods; ADD
    /// fails by pod.
    fn status(&self) -> Result<String, Failure> {
        let settings = self.config.settings()?;
        if self.host.list(&settings.list).is_ok_and(|list| list.is_ready()) {
            return Ok(String::new());
        }
        let reason = match self.host.ask(&settings.socket, &Request::Status, None, SHORT) {
            Ok(Reply::Ready) => return Ok(String::new()),
            Ok(Reply::Refused(reason)) => reason,
            Ok(_) => AskError::Unexpected.to_string(),
            Err(error) => error.to_string(),
        };
        let socket = settings.socket.display();
        let reason = format!("the node agent at {socket} has never been ready on this node: {reason}");
        Err(Failure::Unavailable { reason })
    }
}

fn standing(known: &Result<List, ListError>, pod: &Pod) -> Option<Standing> {
    known.as_ref().ok().and_then(|list| list.standing(pod.namespace.as_deref()))
}

/// The failure of a pod of which nobody says that it may start, with the way out.
fn undecided(settings: &Settings, pod: &Pod, known: &Result<List, ListError>, error: &AskError) -> Failure {
    let (socket, list) = (settings.socket.display(), settings.list.display());
    let whose = match &pod.namespace {
        Some(namespace) => format!("namespace `{namespace}`"),
        None => "pods without a namespace (`-`)".to_owned(),
    };
    let why = match (known, standing(known, pod)) {
        (Err(error), _) => format!("{list} does not say if {whose} is enrolled ({error})"),
        (Ok(_), Some(_)) => format!("{whose} is enrolled"),
        (Ok(_), None) => format!("{list} does not name {whose}"),
    };
    let reason = format!(
        "{why}, and the node agent at {socket} does not say that the pod is protected ({error}); \
         the pod starts once the node agent runs on this node"
    );
    Failure::Undecided { reason }
}

#[cfg(test)]
mod tests;
