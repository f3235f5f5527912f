//! Cipher suites.

use std::{fmt, str::FromStr};

use super::{
    ADDRESS_LEN, HANDSHAKE_HEADER_LEN, IDENTITY_LEN, KEM_CIPHERTEXT_LEN, KEM_PUBLIC_LEN, MAC_LEN,
    SEALED_KEY_LEN, TAG_LEN,
};

/// Key agreement and cipher of a tenant's members. There is no negotiation: all are configured alike, and
/// the suite is part of the prologue, so that two that differ never complete a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CipherSuite {
    /// X25519 and ML-KEM-768 (FIPS 203), then AES-256-GCM: who records traffic and has a quantum computer one day, or
    /// breaks one of the two, reads nothing. The default: its handshake takes less than twice the classical one's CPU
    /// time.
    #[default]
    MlKem768Aes256Gcm,
    /// X25519 and ML-KEM-768, then ChaCha20-Poly1305.
    MlKem768ChaCha20Poly1305,
    /// X25519, then AES-256-GCM. Its handshake fits 1,280 bytes.
    Aes256Gcm,
    /// X25519, then ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// The cipher of handshake and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "every backend has to know them all")]
pub enum Aead {
    /// AES-256-GCM (NIST SP 800-38D). The fastest where the CPU has AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439). The fastest in plain software.
    ChaCha20Poly1305,
}

impl CipherSuite {
    /// Every suite this side speaks.
    pub const ALL: &'static [Self] =
        &[Self::MlKem768Aes256Gcm, Self::MlKem768ChaCha20Poly1305, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Its cipher.
    #[must_use]
    pub const fn aead(self) -> Aead {
        match self {
            Self::MlKem768Aes256Gcm | Self::Aes256Gcm => Aead::Aes256Gcm,
            Self::MlKem768ChaCha20Poly1305 | Self::ChaCha20Poly1305 => Aead::ChaCha20Poly1305,
        }
    }

    /// Tells if ML-KEM-768 stands beside X25519.
    #[must_use]
    pub const fn is_hybrid(self) -> bool {
        match self {
            Self::MlKem768Aes256Gcm | Self::MlKem768ChaCha20Poly1305 => true,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => false,
        }
    }

    /// The suite's byte in a handshake header and in the prologue (docs/wire-format.md).
    #[must_use]
    pub const fn wire_byte(self) -> u8 {
        match self {
            Self::ChaCha20Poly1305 => 1,
            Self::Aes256Gcm => 2,
            Self::MlKem768ChaCha20Poly1305 => 3,
            Self::MlKem768Aes256Gcm => 4,
        }
    }

    /// The suite with this byte; `None`: not one this side speaks.
    #[must_use]
    pub const fn from_wire_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::ChaCha20Poly1305),
            2 => Some(Self::Aes256Gcm),
            3 => Some(Self::MlKem768ChaCha20Poly1305),
            4 => Some(Self::MlKem768Aes256Gcm),
            _ => None,
        }
    }

    /// The suite's name in configuration and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MlKem768Aes256Gcm => "x25519-mlkem768-aes-256-gcm",
            Self::MlKem768ChaCha20Poly1305 => "x25519-mlkem768-chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// Bytes of INIT.
    #[must_use]
    pub const fn init_len(self) -> usize {
        HANDSHAKE_HEADER_LEN + 32 + self.init_payload_len() + TAG_LEN + 2 * MAC_LEN
    }

    /// Bytes of RESP: as many as INIT has, so that the answer is not longer than the question.
    #[must_use]
    pub const fn resp_len(self) -> usize {
        HANDSHAKE_HEADER_LEN + 32 + SEALED_KEY_LEN + self.resp_payload_len() + TAG_LEN + 2 * MAC_LEN
    }

    /// Bytes of INIT's payload, what fills it up included.
    pub(crate) const fn init_payload_len(self) -> usize {
        self.resp_payload_len() + SEALED_KEY_LEN
    }

    /// Bytes of RESP's payload.
    pub(crate) const fn resp_payload_len(self) -> usize {
        if self.is_hybrid() { IDENTITY_LEN + KEM_CIPHERTEXT_LEN } else { IDENTITY_LEN }
    }
}

// docs/wire-format.md section 2 fixes these: within 1,280 bytes over IPv6, hybrid within 1,420.
const _: () = assert!(CipherSuite::Aes256Gcm.init_len() == 284 && CipherSuite::Aes256Gcm.resp_len() == 284);
const _: () = assert!(CipherSuite::MlKem768Aes256Gcm.init_len() == 1_372);
const _: () = assert!(CipherSuite::MlKem768Aes256Gcm.resp_len() == 1_372);
const _: () = assert!(ADDRESS_LEN + KEM_PUBLIC_LEN <= CipherSuite::MlKem768Aes256Gcm.init_payload_len());

impl Aead {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that is none of the names that it has to be one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem}: expected {expected}")]
#[non_exhaustive]
pub struct NameError {
    /// Name that it is not: of a suite, a policy or a pod.
    pub problem: &'static str,
    /// Names that would do.
    pub expected: &'static str,
}

impl NameError {
    pub(crate) const fn new(problem: &'static str, expected: &'static str) -> Self {
        Self { problem, expected }
    }
}

const NO_SUITE: NameError = NameError::new(
    "not a cipher suite",
    "aes-256-gcm or chacha20-poly1305, or either with x25519-mlkem768- before it",
);

impl FromStr for CipherSuite {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::ALL.iter().copied().find(|suite| suite.name() == name).ok_or(NO_SUITE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_wire_bytes_lead_back_to_the_suite() {
        for &suite in CipherSuite::ALL {
            assert_eq!(suite.name().parse(), Ok(suite));
            assert_eq!(CipherSuite::from_wire_byte(suite.wire_byte()), Some(suite));
        }
    }

    #[test]
    fn nothing_else_is_a_suite() {
        for name in [
            "",
            "AES-256-GCM",
            "aes-128-gcm",
            "null",
            "aes-256-gcm ",
            "x25519-mlkem768-",
            "x25519-aes-256-gcm",
        ] {
            assert_eq!(name.parse::<CipherSuite>(), Err(NO_SUITE), "{name:?}");
        }
        let known = (0..=u8::MAX).filter(|byte| CipherSuite::from_wire_byte(*byte).is_some()).count();
        assert_eq!(known, CipherSuite::ALL.len());
    }
}
