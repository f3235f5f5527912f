//! The command line of `kube`, which is that of `kubectl tencrypt` too.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

/// The command line behind `kube`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Arguments {
    /// The way to the cluster.
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// The task.
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// The way to the cluster: through the administrator's own kubectl.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// The program by which the cluster is reached
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "kubectl")]
    pub(crate) kubectl: PathBuf,
    /// The context of the kubeconfig; kubectl's own
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The kubeconfig; kubectl's own
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The namespace of the agents
    #[arg(long, global = true, value_name = "NAMESPACE", default_value = "tencrypt", value_parser = name)]
    pub(crate) agents: String,
    /// Most time of each call of kubectl, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Reach {
    /// Most time of a call of kubectl.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// The tasks of `kube`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Task {
    /// Show the cluster's tenants, nodes and pods; exit code 0 only if all that can be protected are
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Prove that two pods of a namespace speak encrypted; exit code 0 only if that was seen
    Verify(Verify),
}

/// The proof of two pods.
#[derive(Debug, Clone, Args)]
pub(crate) struct Verify {
    /// The namespace
    #[arg(value_name = "NAMESPACE", value_parser = name)]
    pub(crate) namespace: String,
    /// The pod that sends; default: one that is protected
    #[arg(long, value_name = "POD")]
    pub(crate) from: Option<String>,
    /// The pod that answers; default: one that is protected, on another node if there is one
    #[arg(long, value_name = "POD")]
    pub(crate) to: Option<String>,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads the name of a namespace, which becomes a part of paths: a label of DNS (RFC 1123).
fn name(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=63).contains(&text.len()) && text.bytes().all(is_part) && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err("expected the name of a namespace".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_of_a_namespace_gets_into_no_path() {
        assert_eq!(name("shop-2"), Ok("shop-2".to_owned()));
        for text in ["", "-n", "Shop", "shop/pods", "shop?limit=1", "..", "sh op", &"a".repeat(64)] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
