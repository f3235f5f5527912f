//! Cipher suites.

use std::{fmt, str::FromStr};

/// The AEAD of handshake and records. There is no negotiation: a tenant's members are configured alike, and the suite
/// is part of the prologue, so that two that differ never complete a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CipherSuite {
    /// AES-256-GCM (NIST SP 800-38D). The fastest where the CPU has AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439). The fastest in plain software.
    ChaCha20Poly1305,
}

impl CipherSuite {
    /// Every suite this side speaks.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The suite's byte in a handshake header and in the prologue (docs/wire-format.md).
    #[must_use]
    pub const fn wire_byte(self) -> u8 {
        match self {
            Self::ChaCha20Poly1305 => 1,
            Self::Aes256Gcm => 2,
        }
    }

    /// The suite with this byte; `None`: not one this side speaks.
    #[must_use]
    pub const fn from_wire_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::ChaCha20Poly1305),
            2 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }

    /// The suite's name in configuration and in `status --json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no suite's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cipher suite: expected aes-256-gcm or chacha20-poly1305")]
#[non_exhaustive]
pub struct UnknownSuite;

impl FromStr for CipherSuite {
    type Err = UnknownSuite;

    fn from_str(name: &str) -> Result<Self, UnknownSuite> {
        Self::ALL.into_iter().find(|suite| suite.name() == name).ok_or(UnknownSuite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_wire_bytes_lead_back_to_the_suite() {
        for suite in CipherSuite::ALL {
            assert_eq!(suite.name().parse(), Ok(suite));
            assert_eq!(CipherSuite::from_wire_byte(suite.wire_byte()), Some(suite));
        }
    }

    #[test]
    fn nothing_else_is_a_suite() {
        for name in ["", "AES-256-GCM", "aes-128-gcm", "null", "aes-256-gcm "] {
            assert_eq!(name.parse::<CipherSuite>(), Err(UnknownSuite), "{name:?}");
        }
        let known = (0..=u8::MAX).filter(|byte| CipherSuite::from_wire_byte(*byte).is_some()).count();
        assert_eq!(known, CipherSuite::ALL.len());
    }
}
