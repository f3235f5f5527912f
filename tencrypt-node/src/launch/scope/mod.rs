//! Control groups of pods where systemd keeps them: each pod has a transient scope.
//!
//! Where process 1 is systemd, the hierarchy is its own, and nobody else makes groups in it but below what it has delegated
//! (CGROUP_DELEGATION, "single-writer rule"). So the launcher asks it for a scope with itself in it, as runc with its systemd driver
//! and podman do: `StartTransientUnit`, then the end of the job (startUnit, systemd/common.go of opencontainers/cgroups). The program
//! that it starts is in the scope as its child. systemd removes the scope with its last process (`CollectMode`).
//!
//! A pod whose data path is replaced has two for a while, in one scope. The second one is attached (`AttachProcessesToUnit`), which
//! takes a scope that is delegated; that also keeps systemd from ending both where memory is short (`OOMPolicy`, systemd.scope(5)).
//!
//! As runc, it asks over the system bus, and where nobody listens there over systemd's own socket, which is root's alone: systemctl
//! uses that first, but it is no promised interface. Calls, replies and a signal are all that is said, so the protocol's few pages are
//! written out here: rustbus 0.19 would bring nix, bitflags 1 and syn 1, second versions of what is built already, and zbus a runtime
//! for asynchronous code of its own.
//!
//! Needs systemd 238, the first one that attaches processes to a scope.

mod bus;
mod marshal;
mod message;
mod unit;

use std::{
    fmt, fs, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{
    command::Sockets,
    group::{Group, Limits},
};
use bus::Bus;
use marshal::{Value, Writer};
use message::Message;

pub(super) use bus::BusError;
pub(super) use unit::{Unit, UnitNameError};

/// The time that systemd has to make a scope. It needs milliseconds, and seconds while it reads its units anew (`daemon-reload`) and
/// answers nobody. The agent waits a second longer for the launcher.
const LIMIT: Duration = Duration::from_secs(4);

/// The time that systemd has beside the patience with a pod's last processes, to remove a scope.
const MARGIN: Duration = Duration::from_secs(1);

/// The pause between two looks at a scope that is to go.
const PAUSE: Duration = Duration::from_millis(20);

/// The attempts to get into a scope that comes and goes meanwhile.
const ATTEMPTS: u32 = 10;

/// The folder that tells that process 1 is systemd: sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

/// The name of systemd on a bus.
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// Its object.
const PATH: &str = "/org/freedesktop/systemd1";

/// The interface that makes units.
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// The reason why a process is in no scope, or why the scope is still there.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScopeError {
    /// The scope would have no name that systemd takes.
    #[error(transparent)]
    Name(#[from] UnitNameError),
    /// systemd was not reached, or refuses.
    #[error("{unit}: {source}")]
    Bus {
        /// The unit.
        unit: String,
        /// The bus's answer.
        source: BusError,
    },
    /// systemd has not made it.
    #[error("{unit}: systemd has not started it: {result}")]
    Job {
        /// The unit.
        unit: String,
        /// The job's result.
        result: String,
    },
    /// systemd says that it is done, but it is not.
    #[error("{unit}: systemd has not moved this process into it")]
    Elsewhere {
        /// The unit.
        unit: String,
    },
    /// The own groups cannot be read.
    #[error("cannot read {OWN_GROUPS}: {0}")]
    Own(io::Error),
    /// It is still there.
    #[error("{unit}: still there: a process is in it")]
    Busy {
        /// The unit.
        unit: String,
    },
}

/// The scope that this process is in. Shown as text, it says where the pod is accounted.
#[derive(Debug)]
pub(super) struct Entered(Unit);

impl Entered {
    /// The folder of the scope's group below the root of each hierarchy.
    pub(super) fn folder(&self) -> PathBuf {
        [&self.0.slice, &self.0.scope].iter().collect()
    }
}

/// Tells if process 1 is systemd, in whose mounts this process is.
pub(super) fn is_booted() -> bool {
    fs::symlink_metadata(BOOTED).is_ok_and(|found| found.is_dir())
}

/// Moves this process, which has one thread, into the scope of `group` with these limits. It is made if it is not there.
///
/// # Errors
/// systemd is not reached, refuses, or has not done it within four seconds. A scope that was made ends with this process.
pub(super) fn enter(group: &Group, limits: &Limits, sockets: &Sockets) -> Result<Entered, ScopeError> {
    let unit = Unit::of(group)?;
    let entering = |source| ScopeError::Bus { unit: unit.scope.clone(), source };
    let mut systemd = Systemd::connect(&unit, sockets, Instant::now() + LIMIT).map_err(entering)?;
    systemd.make_slice(&unit).map_err(entering)?;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match systemd.start(&unit, limits) {
            Ok(result) if result == "done" => break,
            Ok(result) => return Err(ScopeError::Job { unit: unit.scope, result }),
            Err(BusError::Method { name, .. }) if name == "org.freedesktop.systemd1.UnitExists" => {}
            Err(error) => return Err(entering(error)),
        }
        match systemd.attach(&unit, limits) {
            Ok(()) => break,
            // Its last process may have ended meanwhile: it is not there any more, or about to go.
            Err(BusError::Method { .. }) if attempts < ATTEMPTS => {
                // A scope that has failed goes by this.
                let _ = systemd.of_unit("ResetFailedUnit", &unit);
                thread::sleep(PAUSE);
            }
            Err(error) => return Err(entering(error)),
        }
    }
    let own = fs::read_to_string(OWN_GROUPS).map_err(ScopeError::Own)?;
    if unit.is_in(&own) { Ok(Entered(unit)) } else { Err(ScopeError::Elsewhere { unit: unit.scope }) }
}

/// Waits for `patience` until the scope of a pod is gone with its last process. One that has none and stays is stopped. A scope that is
/// not there is fine.
///
/// # Errors
/// A process is in it, or systemd is not reached.
pub(super) fn forget(group: &Group, sockets: &Sockets, patience: Duration) -> Result<(), ScopeError> {
    let unit = Unit::of(group)?;
    let removing = |source| ScopeError::Bus { unit: unit.scope.clone(), source };
    let until = Instant::now() + patience;
    let mut systemd = Systemd::connect(&unit, sockets, until + MARGIN).map_err(removing)?;
    loop {
        match systemd.has_processes(&unit) {
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(removing(error)),
            Ok(true) if Instant::now() >= until => return Err(ScopeError::Busy { unit: unit.scope }),
            Ok(true) => {}
            Ok(false) => {
                // In hierarchies of version 1 systemd may not hear that a group is empty (cgroups.rst, 1.4), and one that has failed
                // stays where `CollectMode` was changed. Either may be gone by now.
                for outcome in [systemd.stop(&unit), systemd.of_unit("ResetFailedUnit", &unit).map(drop)] {
                    outcome.or_else(|error| if is_gone(&error) { Ok(()) } else { Err(removing(error)) })?;
                }
            }
        }
        thread::sleep(PAUSE);
    }
}

/// The file that lists the groups of this process.
const OWN_GROUPS: &str = "/proc/self/cgroup";

/// Tells if a method has failed as there is no such unit.
fn is_gone(error: &BusError) -> bool {
    matches!(error, BusError::Method { name, .. } if name == "org.freedesktop.systemd1.NoSuchUnit")
}

/// A connection to systemd.
struct Systemd(Bus);

impl Systemd {
    /// Connects over the system bus or, where nobody listens there, directly. Signals of jobs of the scope are heard.
    fn connect(unit: &Unit, sockets: &Sockets, until: Instant) -> Result<Self, BusError> {
        let mut bus = match Bus::open(&sockets.system_bus, until) {
            Ok(bus) => bus,
            // Everything that systemd signals comes here without being asked for (bus_foreach_bus, src/core/dbus.c).
            Err(BusError::Connect { path, source }) => {
                return Bus::open(&sockets.systemd, until).map(Self).map_err(|error| match error {
                    // Of two sockets at which nobody listens, that of the bus is the one that should have somebody.
                    BusError::Connect { .. } => BusError::Connect { path, source },
                    other => other,
                });
            }
            Err(error) => return Err(error),
        };
        // Signals of jobs come to whoever has queued one, even without Subscribe (bus_job_track_sender, src/core/dbus-job.c).
        bus.register(&format!(
            "type='signal',sender='{SYSTEMD}',path='{PATH}',interface='{MANAGER}',member='JobRemoved',arg2='{}'",
            unit.scope
        ))?;
        Ok(Self(bus))
    }

    /// Makes the slice of all pods, if it is not there.
    ///
    /// A slice that systemd makes as a scope needs one would be stopped with all scopes in it as soon as the machine goes down, before
    /// the pods. kubelet makes those of pods like this, too.
    fn make_slice(&mut self, unit: &Unit) -> Result<(), BusError> {
        let properties = [
            ("Description", Value::Text("Data paths of tencrypt")),
            ("DefaultDependencies", Value::Bool(false)),
        ];
        match self.transient(&unit.slice, &properties) {
            Err(BusError::Method { name, .. }) if name == "org.freedesktop.systemd1.UnitExists" => Ok(()),
            made => made.map(drop),
        }
    }

    /// Makes the scope with this process in it, and returns the result of the job.
    fn start(&mut self, unit: &Unit, limits: &Limits) -> Result<String, BusError> {
        let description = format!("tencrypt: data path of {}", unit.pod);
        let mut properties = vec![
            ("Description", Value::Text(&description)),
            ("Slice", Value::Text(&unit.slice)),
            ("PIDs", Value::Numbers(&SENDER)),
            ("Delegate", Value::Bool(true)),
            ("CollectMode", Value::Text("inactive-or-failed")),
            // The data path is to end with the pods, not before them.
            ("DefaultDependencies", Value::Bool(false)),
        ];
        properties.extend(unit::properties(limits));
        let job = self.transient(&unit.scope, &properties)?;
        self.result(&job)
    }

    /// Moves this process into the scope that is there, with these limits.
    fn attach(&mut self, unit: &Unit, limits: &Limits) -> Result<(), BusError> {
        let properties = unit::properties(limits);
        if !properties.is_empty() {
            let mut body = Writer::default();
            body.text(&unit.scope);
            body.boolean(true);
            body.properties(&properties);
            self.call("SetUnitProperties", "sba(sv)", body)?;
        }
        let mut body = Writer::default();
        body.text(&unit.scope);
        body.text("");
        body.numbers(&SENDER);
        self.call("AttachProcessesToUnit", "ssau", body).map(drop)
    }

    /// Tells if there are processes in the scope.
    fn has_processes(&mut self, unit: &Unit) -> Result<bool, BusError> {
        let reply = self.of_unit("GetUnitProcesses", unit)?;
        // An array begins with its length.
        let length = reply.arguments("a(sus)").and_then(|mut arguments| arguments.number());
        length.map(|length| length > 0).map_err(|reason| self.0.malformed(reason))
    }

    /// Stops the scope, and waits until that is done.
    fn stop(&mut self, unit: &Unit) -> Result<(), BusError> {
        let mut body = Writer::default();
        body.text(&unit.scope);
        body.text("replace");
        let reply = self.call("StopUnit", "ss", body)?;
        let job = self.job(&reply)?;
        self.result(&job).map(drop)
    }

    /// Makes a transient unit, and returns its job.
    fn transient(&mut self, name: &str, properties: &[(&str, Value<'_>)]) -> Result<String, BusError> {
        let mut body = Writer::default();
        body.text(name);
        body.text("replace");
        body.properties(properties);
        // Units beside it: none.
        body.array(8, |_| {});
        let reply = self.call("StartTransientUnit", "ssa(sv)a(sa(sv))", body)?;
        self.job(&reply)
    }

    /// The job that a reply names.
    fn job(&self, reply: &Message) -> Result<String, BusError> {
        let job = reply.arguments("o").and_then(|mut arguments| arguments.text());
        job.map_err(|reason| self.0.malformed(reason))
    }

    /// Waits for the end of a job, and returns its result.
    fn result(&mut self, job: &str) -> Result<String, BusError> {
        self.0.signal(|signal| {
            let is_removed = signal.interface.as_deref() == Some(MANAGER)
                && signal.member.as_deref() == Some("JobRemoved");
            let mut arguments = signal.arguments("uoss").ok().filter(|_| is_removed)?;
            let _number = arguments.number().ok()?;
            let path = arguments.text().ok()?;
            let _unit = arguments.text().ok()?;
            arguments.text().ok().filter(|_| path == job)
        })
    }

    /// Calls a method that takes the name of a unit alone.
    fn of_unit(&mut self, member: &'static str, unit: &Unit) -> Result<Message, BusError> {
        let mut body = Writer::default();
        body.text(&unit.scope);
        self.call(member, "s", body)
    }

    /// Calls a method.
    fn call(&mut self, member: &'static str, signature: &str, body: Writer) -> Result<Message, BusError> {
        self.0.call(SYSTEMD, PATH, MANAGER, member, signature, body)
    }
}

/// The process that sends the message, by the kernel's word on whoever has connected: right in whatever namespace of processes it is
/// (bus_scope_set_transient_property, src/core/dbus-scope.c).
const SENDER: [u32; 1] = [0];

impl fmt::Display for Entered {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "control groups: {} (systemd)", self.0)
    }
}
