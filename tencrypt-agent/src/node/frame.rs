//! Frames: four bytes with the length of the payload, big endian; a byte with its kind; the payload.

use std::ops::{Deref, DerefMut};

use tencrypt::trust::CertificateFile;

use crate::{config, keys::file as keyfile, os::secret_memory::SecretBytes};

/// Bytes in front of each payload.
pub const HEADER_LEN: usize = 5;

/// Longest text that is no file of its own, in bytes: names, versions, a reason.
const SHORT: usize = 4 << 10;

/// Longest payload of the others, in bytes: some 10,000 facts.
const LONG: usize = 1 << 20;

/// The kind of a message of the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The versions that it speaks.
    Hello = 1,
    /// The pod: names, and the descriptor of its namespace beside it.
    Pod = 2,
    /// The configuration, without files.
    Config = 3,
    /// A key file.
    Keys = 4,
    /// The public key of the tenant's authority.
    Authority = 5,
    /// A revocation.
    Revocation = 6,
    /// A certificate file.
    Certificate = 7,
    /// The pod's resolv.conf.
    ResolvConf = 8,
    /// Facts that are new, and prefixes of which there is none any more.
    Facts = 9,
    /// The end of what is given at the beginning.
    Complete = 10,
    /// Keys are to be made anew.
    Renew = 11,
    /// The status is wanted now.
    Report = 12,
    /// The program is to end.
    End = 13,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Hello,
        Self::Pod,
        Self::Config,
        Self::Keys,
        Self::Authority,
        Self::Revocation,
        Self::Certificate,
        Self::ResolvConf,
        Self::Facts,
        Self::Complete,
        Self::Renew,
        Self::Report,
        Self::End,
    ];

    /// Returns the most bytes of its payload.
    pub const fn limit(self) -> usize {
        match self {
            Self::Hello | Self::Pod | Self::Renew | Self::End => SHORT,
            Self::Complete | Self::Report => 0,
            Self::Config => config::MAX_FILE_LEN as usize,
            Self::Keys => keyfile::MAX_FILE_LEN as usize,
            Self::Certificate => CertificateFile::LEN,
            Self::Authority | Self::Revocation | Self::ResolvConf | Self::Facts => LONG,
        }
    }

    /// Returns its name in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Pod => "pod",
            Self::Config => "config",
            Self::Keys => "keys",
            Self::Authority => "authority",
            Self::Revocation => "revocation",
            Self::Certificate => "certificate",
            Self::ResolvConf => "resolv_conf",
            Self::Facts => "facts",
            Self::Complete => "complete",
            Self::Renew => "renew",
            Self::Report => "report",
            Self::End => "end",
        }
    }
}

/// The bytes in front of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The kind of what follows.
    pub(crate) kind: Kind,
    /// Its length in bytes, within the kind's limit.
    pub(crate) len: usize,
}

/// A header that the channel ends with: nobody knows where the next one begins, or what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// No such kind in this version.
    #[error("no message is of kind {0}")]
    Unknown(u8),
    /// Longer than the kind allows.
    #[error("a message `{}` of {len} bytes; at most {} are allowed", kind.as_str(), kind.limit())]
    TooLong {
        /// Its kind.
        kind: Kind,
        /// The length that it claims.
        len: u32,
    },
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError`].
    pub(crate) fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [a, b, c, d, number] = bytes;
        let len = u32::from_be_bytes([a, b, c, d]);
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == number);
        let kind = kind.ok_or(FrameError::Unknown(number))?;
        match usize::try_from(len) {
            Ok(bytes) if bytes <= kind.limit() => Ok(Self { kind, len: bytes }),
            _ => Err(FrameError::TooLong { kind, len }),
        }
    }
}

/// A payload. Keys lie where nobody else can see them.
pub(crate) enum Payload {
    /// Anything but keys.
    Open(Vec<u8>),
    /// Keys.
    Secret(SecretBytes),
}

impl Payload {
    /// Returns room for the payload behind `header`.
    pub(crate) fn of(header: Header) -> Self {
        match header.kind {
            Kind::Keys => Self::Secret(SecretBytes::new(header.len)),
            _ => Self::Open(vec![0; header.len]),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Open(bytes) => bytes,
            Self::Secret(bytes) => bytes,
        }
    }
}

impl DerefMut for Payload {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Open(bytes) => bytes,
            Self::Secret(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(len: u32, kind: u8) -> Result<Header, FrameError> {
        let [a, b, c, d] = len.to_be_bytes();
        Header::parse([a, b, c, d, kind])
    }

    #[test]
    fn each_kind_is_known_by_its_number_and_taken_up_to_its_limit() {
        for (number, kind) in (1..).zip(Kind::ALL) {
            assert_eq!(kind as u8, number);
            let limit = u32::try_from(kind.limit()).unwrap();
            assert_eq!(header(limit, number), Ok(Header { kind, len: kind.limit() }));
            let too_long = header(limit + 1, number).unwrap_err();
            assert_eq!(too_long, FrameError::TooLong { kind, len: limit + 1 });
            assert!(too_long.to_string().contains(kind.as_str()));
            assert!(kind.limit() <= 1 << 20);
        }
        for number in [0, 14, 128, 255] {
            assert_eq!(header(0, number), Err(FrameError::Unknown(number)));
        }
        assert_eq!(header(u32::MAX, 4), Err(FrameError::TooLong { kind: Kind::Keys, len: u32::MAX }));
    }

    #[test]
    fn the_document_has_every_kind_and_its_limit() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/node-protocol.md");
        let text = std::fs::read_to_string(path).expect("the document of the protocol");
        for kind in Kind::ALL {
            let begin = format!("| {} | `{}` |", kind as u8, kind.as_str());
            let row =
                text.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no {begin}"));
            let limit = match kind.limit() {
                SHORT => "4,096".to_owned(),
                bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
                bytes if bytes >= 1 << 10 => format!("{} KiB", bytes >> 10),
                bytes => bytes.to_string(),
            };
            assert!(row.ends_with(&format!("| {limit} |")), "{row}");
        }
    }

    #[test]
    fn keys_have_a_place_of_their_own() {
        let of = |kind, len| Payload::of(Header { kind, len });
        assert!(matches!(of(Kind::Keys, 600), Payload::Secret(bytes) if bytes.len() == 600));
        assert!(matches!(of(Kind::Config, 600), Payload::Open(bytes) if bytes.len() == 600));
        assert!(of(Kind::Keys, 0).is_empty());
    }
}
