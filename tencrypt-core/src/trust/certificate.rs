//! The certificate: which static key speaks for which addresses of which tenant.

use std::{fmt, mem, net::IpAddr, str::FromStr};

use ed25519_dalek::Signature;
use ipnet::IpNet;

use super::{AuthorityKey, CertificateError};
use crate::{
    crypto::{PeerId, TENANT_LEN, sha256},
    packet::is_tunnel_address,
    record::{ADDRESS_LEN, IDENTITY_LEN, decode_address, encode_address, suite::NameError},
};

/// Address prefixes that a certificate holds.
pub(crate) const MAX_PREFIXES: usize = 2;
/// Bytes of a pod's id.
pub(crate) const POD_ID_LEN: usize = 16;

/// The kind byte of an identity slot that holds a certificate.
pub(crate) const KIND_CERTIFICATE: u8 = 2;
/// Flags that belong to the run, not to the certificate: they are not signed, the handshake's transcript covers them.
const FLAG_VNET: u8 = 1;

const SIGNATURE_LEN: usize = 64;
/// Bytes of the slot that are signed.
const BODY_LEN: usize = 4 + TENANT_LEN + POD_ID_LEN + 4 + MAX_PREFIXES * ADDRESS_LEN;
/// Purpose of a signature by an authority, so that it cannot be taken for another one.
const CONTEXT: &[u8; 23] = b"tencrypt v1 certificate";
const SIGNED_LEN: usize = CONTEXT.len() + 32 + BODY_LEN;

const _: () = assert!(BODY_LEN + SIGNATURE_LEN == IDENTITY_LEN);

/// The name of a pod: a DNS subdomain (RFC 1123 section 2.1, as Kubernetes wants it), lower case, at most 253 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName(Box<str>);

impl PodName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 253;
    const RULE: &str = "lower case letters, digits and hyphens, labels of at most 63 bytes, 253 in all";
    /// Longest label in bytes. It also keeps a name from looking like a public key, which is 64 digits.
    const MAX_LABEL: usize = 63;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let is_label = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=Self::MAX_LABEL).contains(&label.len())
                && label.bytes().all(plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() <= Self::MAX_LEN && name.split('.').all(is_label) {
            Ok(Self(name.into()))
        } else {
            Err(NameError::new("no name of a pod", Self::RULE))
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Stand-in for a pod's name where there is no room for 253 bytes: the first 16 bytes of
/// SHA-256("tencrypt v1 pod" ‖ name). Finding another name for the id of a given one takes 2^128 attempts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId([u8; POD_ID_LEN]);

impl PodId {
    /// Bytes of an id.
    pub const LEN: usize = POD_ID_LEN;

    /// The id of the pod of this name.
    #[must_use]
    pub fn of(name: &PodName) -> Self {
        let mut id = [0; POD_ID_LEN];
        let digest = sha256(&[b"tencrypt v1 pod", name.as_str().as_bytes()]);
        id.copy_from_slice(&digest[..POD_ID_LEN]);
        Self(id)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; POD_ID_LEN] {
        &self.0
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodId({self})")
    }
}

/// A tenant certificate: 144 bytes, which fill the identity slot of a handshake. It says that the holder of a static
/// key, which is not in it, is a pod of a tenant and has these addresses. What is in here is well-formed; whether it is
/// true, [`verify`](Self::verify) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    tenant: [u8; TENANT_LEN],
    pod: PodId,
    generation: u32,
    first: IpNet,
    second: Option<IpNet>,
    signature: [u8; SIGNATURE_LEN],
}

impl Certificate {
    /// Most prefixes that a certificate lists.
    pub const MAX_PREFIXES: usize = MAX_PREFIXES;

    /// A certificate without a signature that verifies.
    pub(super) fn unsigned(
        tenant: [u8; TENANT_LEN],
        pod: PodId,
        generation: u32,
        prefixes: &[IpNet],
    ) -> Result<Self, CertificateError> {
        let (first, second) = match *prefixes {
            [first] => (first, None),
            [first, second] => (first, Some(second)),
            _ => return Err(CertificateError::Count),
        };
        for (number, prefix) in (1..).zip([Some(first), second].into_iter().flatten()) {
            if !is_canonical(prefix) {
                return Err(CertificateError::Prefix(number));
            }
        }
        if second.is_some_and(|second| first.contains(&second) || second.contains(&first)) {
            return Err(CertificateError::Overlap);
        }
        Ok(Self { tenant, pod, generation, first, second, signature: [0; SIGNATURE_LEN] })
    }

    pub(super) fn signed(self, sign: impl FnOnce(&[u8]) -> Signature, subject: &PeerId) -> Self {
        let signature = sign(&self.message(subject)).to_bytes();
        Self { signature, ..self }
    }

    /// Reads an identity slot. Also says whether its sender's device takes unfinished checksums.
    ///
    /// # Errors
    /// [`CertificateError`]: it is not spelt as docs/wire-format.md says. There is one spelling.
    pub fn decode(slot: &[u8; IDENTITY_LEN]) -> Result<(Self, bool), CertificateError> {
        let (&[kind, flags, count, reserved], rest) =
            slot.split_first_chunk().ok_or(CertificateError::Layout)?;
        if kind != KIND_CERTIFICATE || flags & !FLAG_VNET != 0 || reserved != 0 {
            return Err(CertificateError::Layout);
        }
        let (tenant, rest) = rest.split_first_chunk().ok_or(CertificateError::Layout)?;
        let (pod, rest) = rest.split_first_chunk().ok_or(CertificateError::Layout)?;
        let (generation, rest) = rest.split_first_chunk().ok_or(CertificateError::Layout)?;
        let (first, rest) = rest.split_first_chunk().ok_or(CertificateError::Layout)?;
        let (second, rest) = rest.split_first_chunk().ok_or(CertificateError::Layout)?;
        let signature = *rest.first_chunk().ok_or(CertificateError::Layout)?;
        let first = decode_prefix(first).ok_or(CertificateError::Prefix(1))?;
        let second = match count {
            1 if second.iter().all(|byte| *byte == 0) => None,
            1 => return Err(CertificateError::Layout),
            2 => Some(decode_prefix(second).ok_or(CertificateError::Prefix(2))?),
            _ => return Err(CertificateError::Count),
        };
        let prefixes: Vec<IpNet> = [Some(first), second].into_iter().flatten().collect();
        let certificate = Self::unsigned(*tenant, PodId(*pod), u32::from_le_bytes(*generation), &prefixes)?;
        Ok((Self { signature, ..certificate }, flags & FLAG_VNET != 0))
    }

    /// The identity slot.
    #[must_use]
    pub fn encode(&self, vnet: bool) -> [u8; IDENTITY_LEN] {
        let mut slot = [0; IDENTITY_LEN];
        let (body, signature) = slot.split_at_mut(BODY_LEN);
        body.copy_from_slice(&self.body());
        body[1] = if vnet { FLAG_VNET } else { 0 };
        signature.copy_from_slice(&self.signature);
        slot
    }

    /// Checks that `authority` has signed this for the static key `subject`.
    ///
    /// # Errors
    /// [`CertificateError::Signature`].
    pub fn verify(&self, authority: &AuthorityKey, subject: &PeerId) -> Result<(), CertificateError> {
        authority.verify(&self.message(subject), &Signature::from_bytes(&self.signature))
    }

    /// The tenant's 16 bytes.
    #[must_use]
    pub fn tenant(&self) -> &[u8; TENANT_LEN] {
        &self.tenant
    }

    /// The pod.
    #[must_use]
    pub fn pod(&self) -> PodId {
        self.pod
    }

    /// Its generation: what is below the tenant's minimum does not count any more.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The pod's addresses: mostly one of each family; a range where a pod stands for several.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> + Clone {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// The single addresses among [`prefixes`](Self::prefixes).
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + Clone {
        let single = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
        self.prefixes().filter(single).map(|prefix| prefix.addr())
    }

    /// The prefix that `address` lies in.
    #[must_use]
    pub fn prefix_of(&self, address: IpAddr) -> Option<IpNet> {
        self.prefixes().find(|prefix| prefix.contains(&address))
    }

    /// The slot up to the signature, with the flags of no run in particular.
    fn body(&self) -> [u8; BODY_LEN] {
        let mut body = [0; BODY_LEN];
        let count = self.prefixes().count() as u8;
        let (head, rest) = body.split_at_mut(4);
        head.copy_from_slice(&[KIND_CERTIFICATE, 0, count, 0]);
        let (tenant, rest) = rest.split_at_mut(TENANT_LEN);
        tenant.copy_from_slice(&self.tenant);
        let (pod, rest) = rest.split_at_mut(POD_ID_LEN);
        pod.copy_from_slice(&self.pod.0);
        let (generation, places) = rest.split_at_mut(4);
        generation.copy_from_slice(&self.generation.to_le_bytes());
        for (place, prefix) in places.chunks_exact_mut(ADDRESS_LEN).zip(self.prefixes()) {
            place.copy_from_slice(&encode_prefix(prefix));
        }
        body
    }

    /// Bytes that are signed: context ‖ static key ‖ slot up to the signature, flags zero.
    fn message(&self, subject: &PeerId) -> [u8; SIGNED_LEN] {
        let mut message = [0; SIGNED_LEN];
        let (context, rest) = message.split_at_mut(CONTEXT.len());
        context.copy_from_slice(CONTEXT);
        let (key, body) = rest.split_at_mut(32);
        key.copy_from_slice(subject.as_bytes());
        body.copy_from_slice(&self.body());
        message
    }
}

/// An address with its prefix length in the byte after the family.
fn encode_prefix(prefix: IpNet) -> [u8; ADDRESS_LEN] {
    let mut bytes = encode_address(prefix.addr());
    bytes[1] = prefix.prefix_len();
    bytes
}

fn decode_prefix(bytes: &[u8; ADDRESS_LEN]) -> Option<IpNet> {
    let mut address = *bytes;
    let len = mem::take(&mut address[1]);
    let prefix = IpNet::new(decode_address(&address)?, len).ok()?;
    is_canonical(prefix).then_some(prefix)
}

/// Tells if a prefix is of addresses that pods have, not of everything, and spelt the one way.
fn is_canonical(prefix: IpNet) -> bool {
    prefix.prefix_len() > 0 && prefix.trunc() == prefix && is_tunnel_address(prefix.addr())
}
