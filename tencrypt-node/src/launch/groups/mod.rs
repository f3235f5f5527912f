//! The control groups of a pod, in every hierarchy of the machine.

mod files;
mod mounts;
mod v1;
mod v2;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::group::{Group, Limits};
use mounts::{Hierarchy, Kind};

pub(super) use files::GroupError;

/// The pause between two attempts to remove a group.
const PAUSE: Duration = Duration::from_millis(20);

/// The hierarchies of control groups that this process sees as a whole.
#[derive(Debug)]
pub(super) struct Hierarchies(Vec<Hierarchy>);

/// The groups of a pod that were made or found, and what this process has done with them. Shown as text, it says where the pod is
/// accounted.
#[derive(Debug, Default)]
pub(super) struct Entered {
    /// Roots of hierarchies in which this process has moved.
    moved: Vec<PathBuf>,
    /// Folders that were not there before, the outer ones first.
    made: Vec<PathBuf>,
    /// A text of each group of the pod: controllers, folder and version.
    said: Vec<String>,
}

impl Hierarchies {
    /// The hierarchies that are mounted here.
    ///
    /// # Errors
    /// The table of mounts cannot be read, or there is no hierarchy.
    pub(super) fn here() -> Result<Self, GroupError> {
        let found = mounts::hierarchies(&files::read(Path::new("/proc/self/mountinfo"))?)?;
        if found.is_empty() { Err(GroupError::NoHierarchy) } else { Ok(Self(found)) }
    }

    /// Moves this process, which has one thread, into the groups of `group` with these limits. They are made where they are missing;
    /// in hierarchies of version 1 in which a pod has none it goes to the root.
    ///
    /// # Errors
    /// A group cannot be made or entered, or a limit cannot be set. What was made is removed then, and this process is at the root of
    /// the hierarchies in which it has moved.
    pub(super) fn enter(&self, group: &Group, limits: &Limits) -> Result<Entered, GroupError> {
        let mut entered = Entered::default();
        match self.fill(group, limits, &mut entered) {
            Ok(()) => Ok(entered),
            Err(error) => {
                entered.undo();
                Err(error)
            }
        }
    }

    /// Does what [`Hierarchies::enter`] says, without the end.
    fn fill(&self, group: &Group, limits: &Limits, entered: &mut Entered) -> Result<(), GroupError> {
        let mut kept: Vec<String> = Vec::new();
        let mut refused = Vec::new();
        let mut targets = Vec::new();
        for Hierarchy { folder: root, kind } in &self.0 {
            let pod = group.pod(root);
            match kind {
                Kind::V1 { controllers } if v1::is_own(controllers) => {
                    for folder in [&group.base(root), &pod] {
                        if files::make(folder)? {
                            entered.made.push(folder.clone());
                        }
                    }
                    v1::set_limits(&pod, controllers, limits)?;
                    kept.extend_from_slice(controllers);
                    entered.say("v1", &v1::names(controllers), &pod);
                    targets.push((root, pod));
                }
                Kind::V1 { .. } => targets.push((root, root.clone())),
                Kind::V2 => {
                    let prepared = v2::prepare(root, group, |folder| entered.made.push(folder.to_owned()))?;
                    v2::set_limits(&pod, &prepared.controllers, limits)?;
                    kept.extend(prepared.controllers.iter().map(|&controller| controller.to_owned()));
                    entered.say("v2", &prepared.controllers, &pod);
                    refused = prepared.refused;
                    targets.push((root, pod));
                }
            }
        }
        controllers_are_there(limits, &kept, refused)?;
        for (root, target) in targets {
            files::join(&target)?;
            entered.moved.push(root.clone());
        }
        Ok(())
    }

    /// Checks the limits of a group that systemd has made, `folder` in each hierarchy, and that this process is in none of whoever has
    /// started it: it moves to the root of all hierarchies of version 1 in which systemd makes no groups.
    ///
    /// systemd logs that the kernel does not take a limit, or that there is no controller for it, and goes on (cgroup_context_apply,
    /// src/core/cgroup.c).
    ///
    /// # Errors
    /// A limit has no effect, or it cannot move there.
    pub(super) fn settle(&self, folder: &Path, limits: &Limits) -> Result<(), GroupError> {
        let mut kept: Vec<String> = Vec::new();
        for Hierarchy { folder: root, kind } in &self.0 {
            let path = root.join(folder);
            match kind {
                Kind::V1 { controllers } if !v1::is_systemds(controllers) => files::join(root)?,
                // In one that no limit needs systemd makes no group. On a machine with both versions that of version 2 has no limits.
                _ if !path.is_dir() => {}
                Kind::V1 { controllers } => {
                    v1::check_limits(&path, controllers, limits)?;
                    kept.extend_from_slice(controllers);
                }
                Kind::V2 => kept.extend(v2::check_limits(&path, limits)?.into_iter().map(str::to_owned)),
            }
        }
        controllers_are_there(limits, &kept, Vec::new())
    }

    /// Removes the groups of a pod. While processes in it end it is tried again, for `patience`. The folder around it stays, for the
    /// other pods. Groups that are not there are fine.
    ///
    /// # Errors
    /// The first folder that is still there, with the kernel's answer: EBUSY for one with a process in it. The others were removed.
    pub(super) fn remove(&self, group: &Group, patience: Duration) -> Result<(), GroupError> {
        let until = Instant::now() + patience;
        let mut outcome = Ok(());
        for Hierarchy { folder: root, kind } in &self.0 {
            if matches!(kind, Kind::V1 { controllers } if !v1::is_own(controllers)) {
                continue;
            }
            let path = group.pod(root);
            let removed = loop {
                match fs::remove_dir(&path) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                        thread::sleep(PAUSE);
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break Ok(()),
                    removed => break removed,
                }
            };
            outcome = outcome.and(removed.map_err(|source| GroupError::Remove { path, source }));
        }
        outcome
    }
}

/// Checks that there is a controller for each limit among those of the pod's groups.
///
/// # Errors
/// [`GroupError::NoController`], with the error of `refused` for it.
fn controllers_are_there(
    limits: &Limits,
    kept: &[String],
    refused: Vec<(&'static str, GroupError)>,
) -> Result<(), GroupError> {
    let asked =
        [("memory", limits.memory.is_some()), ("cpu", limits.cpu.is_some()), ("pids", limits.pids.is_some())];
    for (controller, _) in asked.into_iter().filter(|(_, is_asked)| *is_asked) {
        if kept.iter().all(|own| own != controller) {
            let refusal = refused.into_iter().find(|(other, _)| *other == controller);
            let because = refusal.map(|(_, error)| Box::new(error));
            return Err(GroupError::NoController { controller, because });
        }
    }
    Ok(())
}

impl Entered {
    /// Moves this process to the roots of the hierarchies and removes what was made, as far as that is possible: an error is on its way
    /// already.
    pub(super) fn undo(self) {
        for root in self.moved {
            let _ = files::join(&root);
        }
        for folder in self.made.iter().rev() {
            // It stays if somebody else has made a group in it meanwhile.
            let _ = fs::remove_dir(folder);
        }
    }

    /// Notes a group of the pod.
    fn say(&mut self, version: &str, controllers: &[&str], folder: &Path) {
        let controllers = if controllers.is_empty() { "nothing".to_owned() } else { controllers.join("+") };
        self.said.push(format!("{controllers} in {} ({version})", folder.display()));
    }
}

impl fmt::Display for Entered {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "control groups: {}", self.said.join(", "))
    }
}
