#![doc = include_str!("../README.md")]

#[cfg(not(target_os = "linux"))]
compile_error!("tencrypt-node needs Linux: network namespaces, control groups and pidfds are its");

mod agent;
mod backoff;
mod calls;
mod channel;
mod client;
mod clones;
mod commands;
mod data_path;
mod digest;
mod install;
mod kube;
mod kubernetes;
mod launch;
mod metrics;
mod output;
mod pod;
mod pod_processes;
mod probe;
mod process;
mod records;
mod release;
mod report;
#[cfg(test)]
mod samples;
mod serve;
mod settings;
mod tenant;
mod timestamp;
mod watch;

pub use self::commands::run;
