//! Reasons for which a handshake message is refused.

use super::payload::BadPayload;
use crate::stats::DropReason;

/// Reason for which a handshake message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Of a key epoch that is not here, or not the one this handshake is under.
    #[error("another key epoch")]
    OtherEpoch,
    /// Of another suite: the tenant's members are not configured alike.
    #[error("another cipher suite")]
    OtherSuite,
    /// For or from another session.
    #[error("another session")]
    OtherSession,
    /// It does not decrypt: forged, of another tenant, or of another handshake.
    #[error("the message does not decrypt")]
    Auth,
    /// It holds a public key that shares no secret.
    #[error("a public key of low order")]
    LowOrder,
    /// It decrypts to something that docs/wire-format.md does not allow.
    #[error("the message says nothing that it may say")]
    Payload,
    /// The peer has this side's own static key: a reflection, or a cloned identity.
    #[error("the peer has our own static key")]
    OwnKey,
    /// This handshake reads no more messages.
    #[error("the handshake is over")]
    Spent,
}

impl HandshakeError {
    /// The counter it counts under.
    #[must_use]
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Self::OtherEpoch => DropReason::OtherEpoch,
            Self::OtherSuite => DropReason::Unsupported,
            Self::OtherSession => DropReason::UnknownIndex,
            Self::Auth | Self::LowOrder => DropReason::Auth,
            Self::Payload => DropReason::Malformed,
            Self::OwnKey => DropReason::Policy,
            Self::Spent => DropReason::Replay,
        }
    }
}

impl From<BadPayload> for HandshakeError {
    fn from(_: BadPayload) -> Self {
        Self::Payload
    }
}
