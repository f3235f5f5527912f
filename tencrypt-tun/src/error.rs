//! Errors of installing, following or removing a capture.

use std::{fmt, io};

use thiserror::Error;

use crate::{name::InterfaceName, netns::NetNsError};

/// A step of installing, following or removing a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Opening the sockets the rest is done with.
    Connect,
    /// Reading the interface, its addresses and routes.
    Discover,
    /// Creating the TUN device.
    CreateDevice,
    /// Installing the chains and sets.
    Chains,
    /// Relaxing the interface's reverse path filter.
    ReversePathFilter,
    /// Setting MTU, queue length and settings of the TUN device and bringing it up.
    ConfigureDevice,
    /// Installing or removing routes of the capture's table.
    Routes,
    /// Installing or removing the rule that leads to the table.
    Rule,
    /// Changing an element of a set.
    SetElement,
    /// Reading counters.
    Counters,
    /// Removing the TUN device.
    RemoveDevice,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect to the kernel",
            Self::Discover => "read the interface",
            Self::CreateDevice => "create the TUN device",
            Self::Chains => "install the nftables chains",
            Self::ReversePathFilter => "relax rp_filter",
            Self::ConfigureDevice => "configure the TUN device",
            Self::Routes => "change the routes",
            Self::Rule => "change the routing rule",
            Self::SetElement => "change an nftables set",
            Self::Counters => "read the nftables counters",
            Self::RemoveDevice => "remove the TUN device",
        })
    }
}

/// Something of somebody else's that is where the capture has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occupied {
    /// A routing rule of the capture's preference.
    Rule,
    /// Routes in the capture's routing table.
    RoutingTable,
    /// A table `inet tencrypt`.
    NftTable,
}

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule => "a foreign routing rule of preference 8362",
            Self::RoutingTable => "foreign routes in routing table 8362",
            Self::NftTable => "a foreign nftables table inet tencrypt",
        })
    }
}

/// A capture that cannot be installed, followed or removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The namespace has no interface of this name.
    #[error("interface {interface} does not exist in the namespace")]
    InterfaceAbsent {
        /// The name.
        interface: InterfaceName,
    },
    /// A device of this name exists: another capture is running, or it is something else.
    #[error(
        "a device named {tun} exists already: another tunnel runs in this namespace, or the name is in use"
    )]
    TunNameTaken {
        /// The name.
        tun: InterfaceName,
    },
    /// The kernel offers no TUN devices.
    #[error("no TUN driver: cannot open /dev/net/tun")]
    NoTunDriver {
        /// Error of the kernel.
        source: io::Error,
    },
    /// The kernel does not let this process choose the queue of a packet, which more than one queue needs:
    /// `PermissionDenied` without `CAP_BPF` outside every user namespace.
    #[error("the kernel refuses the program that steers flows to queues")]
    SteeringRefused {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The caller lacks `CAP_NET_ADMIN` in the namespace (or, for the TUN driver, access to `/dev/net/tun`).
    #[error("no permission to {step}")]
    Permission {
        /// Step that was refused.
        step: Step,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else uses what the capture needs.
    #[error("the namespace has {0}")]
    Occupied(Occupied),
    /// Somebody's routing rule decides before the capture's, which cannot come before it: it stands before, or beside, the
    /// rule of the local table.
    #[error("a routing rule of somebody else's decides before that of preference 8362")]
    RulePreceded,
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
    /// The list of external destinations is full; packets to more go through the raw socket.
    #[error("too many external destinations")]
    ExternalLimit,
    /// Any other failure.
    #[error("cannot {step} ({interface})")]
    Failed {
        /// Step that failed.
        step: Step,
        /// The interface it was about.
        interface: InterfaceName,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl CaptureError {
    /// A failure of `step`, which was about `interface`.
    pub(crate) fn at(step: Step, interface: InterfaceName, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { step, source },
            _ => Self::Failed { step, interface, source },
        }
    }
}

/// Names the step and interface of a failure.
pub(crate) trait At<T> {
    fn at(self, step: Step, interface: InterfaceName) -> Result<T, CaptureError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step, interface: InterfaceName) -> Result<T, CaptureError> {
        self.map_err(|source| CaptureError::at(step, interface, source))
    }
}
