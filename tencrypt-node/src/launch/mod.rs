//! Starting data paths so that they outlive the agent and its container.
//!
//! [`Launcher`] is the agent's side. It starts this program once more, as `tencrypt-node launch`: a process of one thread that
//! enters the namespaces of process 1, puts itself into the control group of the pod, starts the data path there and ends. So the
//! data path is never a child of the agent, and nothing of what a container's end takes away holds it: neither its control groups
//! nor its mounts.

mod agent;
mod command;
mod error;
mod group;
mod groups;
mod launcher;
mod namespaces;
mod scope;
mod sys;

pub(crate) use agent::{Launch, Launcher};
pub(crate) use command::{Arguments, Groups};
pub(crate) use error::LaunchError;
pub(crate) use group::{Group, Limits};
pub(crate) use launcher::run;
pub(crate) use namespaces::is_contained;
