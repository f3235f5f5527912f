//! Statements of the kernel about the way to a destination.

use std::{io, net::SocketAddr};

/// A statement about the path to one destination. It comes from the kernel's own routing or from an ICMP message,
/// which anybody on the path can forge: advice, never proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{to}: {kind}")]
#[non_exhaustive]
pub struct PathError {
    /// Destination of the datagram.
    pub to: SocketAddr,
    /// Fate of the datagram.
    pub kind: PathErrorKind,
}

/// Reason for which a datagram did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathErrorKind {
    /// The host is there and nobody listens on the port (ICMP type 3 code 3, ICMPv6 type 1 code 4).
    #[error("nobody listens on the port")]
    Unreachable,
    /// The host or its network is not reached, or somebody on the way refuses.
    #[error("the host is not reached")]
    NoRoute,
    /// Longer than the path carries.
    #[error("longer than the {mtu} bytes that the path carries")]
    TooBig {
        /// Bytes of the longest IP packet that fits, as the kernel or the ICMP message says.
        mtu: u16,
    },
}

impl PathErrorKind {
    /// The kind for an errno that Linux derives from ICMP or from its own routing (`icmp_err_convert` in
    /// net/ipv4/icmp.c, `tab_unreach` in net/ipv6/icmp.c); `info` is `ee_info` of the error queue. `None`: it says
    /// nothing of the path.
    pub(crate) fn from_errno(errno: i32, info: u32) -> Option<Self> {
        match errno {
            libc::ECONNREFUSED => Some(Self::Unreachable),
            libc::EMSGSIZE => Some(Self::TooBig { mtu: u16::try_from(info).unwrap_or(u16::MAX) }),
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EPROTO
            | libc::EACCES
            | libc::EADDRNOTAVAIL => Some(Self::NoRoute),
            _ => None,
        }
    }
}

/// Tells if an error of `recvmsg` or `sendmsg` may be the report on an earlier datagram that Linux hands to the next
/// caller (`sk_err`), or says something of the path.
pub(crate) fn is_about_path(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|errno| PathErrorKind::from_errno(errno, 0).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_beyond_16_bits_saturates() {
        assert_eq!(
            PathErrorKind::from_errno(libc::EMSGSIZE, 65_536),
            Some(PathErrorKind::TooBig { mtu: 65_535 })
        );
        assert_eq!(
            PathErrorKind::from_errno(libc::EMSGSIZE, 1_500),
            Some(PathErrorKind::TooBig { mtu: 1_500 })
        );
    }

    #[test]
    fn only_a_refused_port_counts_as_unreachable() {
        assert_eq!(PathErrorKind::from_errno(libc::ECONNREFUSED, 0), Some(PathErrorKind::Unreachable));
        assert_eq!(PathErrorKind::from_errno(libc::EHOSTUNREACH, 0), Some(PathErrorKind::NoRoute));
        assert_eq!(PathErrorKind::from_errno(libc::ENOMEM, 0), None);
    }
}
