//! Rights that the program gives up so that a flaw in it is worth less: being looked into, its capabilities, most system calls.
//!
//! In the order of a start: [`Memory::protect`] before any key is read; [`give_up_all`] in every thread that needs no
//! capability; [`keep_network`] in the control plane's thread once everything is set up, where the lanes' threads begin
//! as copies of it and give up the rest. Nothing here ends the program where a kernel or a container refuses: `status`
//! says what holds. Being dumpable is the exception: keys never go into a core dump.

use std::io;

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs},
};

use crate::{os::secret_memory::SecretBytes, report::HardeningReport};

mod syscalls;

/// The protection of the memory, as it was before keys came into it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    locked: bool,
    hides: bool,
}

impl Memory {
    /// Makes the process not dumpable, so that others of its user cannot attach to it or read its memory (prctl(2),
    /// `PR_SET_DUMPABLE`); limits its core size to 0; and locks its memory, as it is touched, where the limit on locked
    /// memory can be lifted. With a limit it is left alone: an allocation beyond it would fail later.
    ///
    /// # Errors
    /// The kernel's answer, to all but the lock.
    pub(crate) fn protect() -> io::Result<Self> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        let unlimited = Rlimit { current: None, maximum: None };
        let unbounded =
            getrlimit(Resource::Memlock).current.is_none() || setrlimit(Resource::Memlock, unlimited).is_ok();
        let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        let locked = unbounded && mlockall(all).is_ok();
        Ok(Self { locked, hides: SecretBytes::new(1).is_hidden() })
    }
}

/// Takes every capability from the calling thread, for good. A process that has none to begin with keeps none.
pub(crate) fn give_up_all() {
    keep(CapabilitySet::empty());
}

/// Takes from the calling thread, and from those it will start, every capability but those that routes, rules, marks
/// and raw sockets need; takes from the whole process the system calls it has no use for. Says what holds.
pub(crate) fn keep_network(memory: Memory) -> HardeningReport {
    keep(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
    let no_new_privs = set_no_new_privs(true).is_ok();
    let left = capabilities(None).map_or(CapabilitySet::all(), |sets| sets.permitted);
    HardeningReport {
        not_dumpable: true,
        memory_locked: memory.locked,
        secret_memory: memory.hides,
        no_new_privs,
        capabilities: left.iter_names().map(|(name, _)| name.to_ascii_lowercase()).collect(),
        seccomp: no_new_privs && syscalls::restrict(),
    }
}

/// Keeps of the calling thread's capabilities at most `wanted`.
fn keep(wanted: CapabilitySet) {
    let Ok(held) = capabilities(None) else { return };
    let kept = held.permitted & wanted;
    // Less is always granted (capabilities(7)).
    let _ = set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    );
}
