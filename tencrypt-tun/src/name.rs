//! Names of network interfaces.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A name the kernel accepts for a network interface: 1 to 15 bytes, neither `.` nor `..`, without `/`, `:`, white
/// space and control characters (`dev_valid_name`, net/core/dev.c).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName {
    bytes: [u8; Self::SIZE],
    len: u8,
}

/// A name no interface can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a name of a network interface: 1 to 15 bytes, no '/', ':' or white space")]
#[non_exhaustive]
pub struct InvalidInterfaceName;

impl InterfaceName {
    /// `IFNAMSIZ`: bytes of a name with its terminating zero.
    pub const SIZE: usize = 16;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// The name, padded with zero bytes: the form of `iifname` and `oifname` in nftables.
    #[must_use]
    pub fn padded(&self) -> [u8; Self::SIZE] {
        self.bytes
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let refused =
            |byte: u8| byte == b'/' || byte == b':' || byte.is_ascii_whitespace() || byte.is_ascii_control();
        if name.is_empty()
            || name.len() >= Self::SIZE
            || name == "."
            || name == ".."
            || name.bytes().any(refused)
        {
            return Err(InvalidInterfaceName);
        }
        let mut bytes = [0; Self::SIZE];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { bytes, len: name.len() as u8 })
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_refuses_are_refused() {
        for name in ["", ".", "..", "a/b", "a:b", "a b", "a\nb", "sixteen-bytes-xx"] {
            assert_eq!(name.parse::<InterfaceName>(), Err(InvalidInterfaceName), "{name:?}");
        }
    }

    #[test]
    fn a_name_of_fifteen_bytes_is_kept_and_padded() {
        let name: InterfaceName = "fifteen-bytes-x".parse().expect("valid");
        assert_eq!(name.as_str(), "fifteen-bytes-x");
        assert_eq!(&name.padded(), b"fifteen-bytes-x\0");
    }
}
