//! The command line of the subcommand `probe`, which `kube verify` writes and the agent's container reads.

use std::{fmt, net::IpAddr};

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use tencrypt_agent::hex::{from_hex, to_hex};

/// Bytes that nothing else sends.
pub(crate) type Canary = [u8; 16];

/// The command line behind `probe`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct Arguments {
    /// The task.
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// The tasks of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Task {
    /// Sends from the pod, waits for the answer, and looks at what leaves and comes meanwhile.
    Send(Send),
    /// Looks at what leaves and comes, until a line on standard input.
    Watch(Watch),
}

/// The two pods, and the end at which this is.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct Ends {
    /// The network namespace of the pod here: an id, a path, or a name of `ip netns`.
    #[arg(long, value_name = "NAME")]
    pub(crate) netns: String,
    /// The pod's addresses, first the one that is sent from: records may go by the other family than what they hold.
    #[arg(long, required = true, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) own: Vec<IpAddr>,
    /// The other pod's, first the one that is sent to.
    #[arg(long, required = true, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) other: Vec<IpAddr>,
    /// The UDP port of the tunnel's first lane.
    #[arg(long, value_name = "PORT", default_value_t = tencrypt::TunnelConfig::DEFAULT_PORT)]
    pub(crate) port: u16,
    /// The bytes to look for, in hex.
    #[arg(long, value_name = "HEX", value_parser = canary)]
    pub(crate) canary: Canary,
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct Send {
    /// The two pods.
    #[command(flatten)]
    pub(crate) ends: Ends,
    /// The protocol of what is sent.
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub(crate) protocol: Protocol,
    /// A port of the other pod at which nobody listens.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) closed_port: u16,
}

/// The look at the other end of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct Watch {
    /// The two pods.
    #[command(flatten)]
    pub(crate) ends: Ends,
    /// The time after which it ends without being told to.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
}

/// A protocol that is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// A connection to a closed port: answered by RST.
    Tcp,
    /// A datagram to a closed port: answered by ICMP, port unreachable.
    Udp,
    /// An echo request: answered by its reply.
    Icmp,
}

impl Protocol {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

impl Task {
    /// The words of the command line that are read as this.
    pub(crate) fn words(&self) -> Vec<String> {
        let (name, ends) = match self {
            Self::Send(send) => ("send", &send.ends),
            Self::Watch(watch) => ("watch", &watch.ends),
        };
        let mut words = vec!["probe".to_owned(), name.to_owned()];
        let mut option = |name: &str, value: &dyn fmt::Display| words.push(format!("--{name}={value}"));
        option("netns", &ends.netns);
        option("own", &listed(&ends.own));
        option("other", &listed(&ends.other));
        option("port", &ends.port);
        option("canary", &to_hex(&ends.canary));
        match self {
            Self::Send(send) => {
                option("protocol", &send.protocol);
                option("closed-port", &send.closed_port);
            }
            Self::Watch(watch) => option("seconds", &watch.seconds),
        }
        words
    }
}

fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn canary(text: &str) -> Result<Canary, String> {
    from_hex(text).ok_or_else(|| "expected 32 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_words_of_a_task_are_read_as_that_task() {
        let ends = Ends {
            netns: "4-4026532281".into(),
            own: vec!["fd00::7".parse().unwrap(), "10.0.0.7".parse().unwrap()],
            other: vec!["fd00::8".parse().unwrap()],
            port: 8362,
            canary: [0xa7; 16],
        };
        let send = Send { ends: ends.clone(), protocol: Protocol::Udp, closed_port: 40_000 };
        for task in [Task::Send(send), Task::Watch(Watch { ends, seconds: 20 })] {
            // `probe` itself stands where the program's name does.
            let read = Line::try_parse_from(task.words()).unwrap();
            assert_eq!(read.arguments.task, task);
        }
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::from_str(&protocol.to_string(), false).unwrap(), protocol);
        }
    }

    #[test]
    fn a_canary_has_16_bytes() {
        assert!(canary(&"0".repeat(32)).is_ok());
        for text in ["", "00", &"0".repeat(33), &"g".repeat(32)] {
            assert!(canary(text).is_err(), "{text}");
        }
    }
}
