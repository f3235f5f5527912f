//! The reverse lookup of an address, the way the prototype learnt whose an address is: an optional source of facts.
//!
//! Whoever owns an address decides on its PTR record, so the fact is the weakest there is
//! ([`FactSource::ReverseDns`]). A false "internal" leads to encryption nobody answers; a false "external" is no more
//! than a non-authoritative hint.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tencrypt::directory::{Class, Fact, FactSource};

use crate::{
    Name, Project,
    facts::{ClassifyError, MIN_TTL, expiry, follow},
    message::{Data, Query, record_type},
};

/// One PTR query and the check of its reply. Send [`query`](Self::query) from a fresh port, and hand what comes back to
/// [`fact`](Self::fact) until it is the reply or time is up.
#[derive(Debug, Clone)]
pub struct ReverseLookup {
    address: IpAddr,
    server: SocketAddr,
    query: Query,
}

impl ReverseLookup {
    /// Asks `server` for the name of `address`. `seed` is random: 16 bits become the id, the others the case of the
    /// letters in the question, which the reply must repeat.
    #[must_use]
    pub fn new(address: IpAddr, server: SocketAddr, seed: u64) -> Self {
        let address = address.to_canonical();
        let [id_high, id_low, ..] = seed.to_be_bytes();
        let id = u16::from_be_bytes([id_high, id_low]);
        Self { address, server, query: Query::new(id, reverse_name(address), record_type::PTR, seed) }
    }

    /// The message to send.
    #[must_use]
    pub const fn query(&self) -> &Query {
        &self.query
    }

    /// Address to send it to.
    #[must_use]
    pub const fn server(&self) -> SocketAddr {
        self.server
    }

    /// Returns what the reply says: internal if any of the names is the project's, external if there are only others,
    /// `None` if there is no name.
    ///
    /// # Errors
    /// `bytes` is not the reply (go on waiting), or cannot be read.
    pub fn fact(
        &self,
        from: SocketAddr,
        bytes: &[u8],
        project: &Project,
        now: Instant,
    ) -> Result<Option<Fact>, ReverseError> {
        if from != self.server {
            return Err(ReverseError::Source);
        }
        let reply = self.query.verify(bytes).map_err(ClassifyError::from)?;
        let Some(question) = self.query.question().filter(|_| reply.response_code() == 0) else {
            return Ok(None);
        };
        let records = reply.records().map_err(ClassifyError::from)?;
        // Aliases occur here too (RFC 2317).
        let end = follow(&records, &question.name)?;
        let names =
            records.iter().filter(|record| record.owner == end.name).filter_map(|record| {
                match &record.data {
                    Data::Pointer(name) => Some((name, record.ttl)),
                    Data::Address(_) | Data::Alias(_) | Data::Hint(_) => None,
                }
            });
        let first = |class| names.clone().find(move |(name, _)| project.class_of(name) == class);
        let found =
            [Class::Internal, Class::External].into_iter().find_map(|class| Some((class, first(class)?)));
        Ok(found.map(|(class, (name, ttl))| self.named(name, class, expiry(now, ttl.min(end.ttl), MIN_TTL))))
    }

    fn named(&self, name: &Name, class: Class, expires: Instant) -> Fact {
        let source = FactSource::ReverseDns(Arc::from(name.to_string()));
        Fact::new(self.address, class, source, Some(expires))
    }
}

/// Reason for which bytes say nothing about the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReverseError {
    /// Not from the server that was asked.
    #[error("not from the server that was asked")]
    Source,
    /// Not the reply, or unreadable.
    #[error(transparent)]
    Reply(#[from] ClassifyError),
}

/// The name that holds the PTR records of `address` (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_name(address: IpAddr) -> Name {
    let (labels, zone): (Vec<String>, _) = match address {
        IpAddr::V4(v4) => (v4.octets().iter().rev().map(u8::to_string).collect(), ["in-addr", "arpa"]),
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 0xf, octet >> 4]);
            (nibbles.map(|nibble| format!("{nibble:x}")).collect(), ["ip6", "arpa"])
        }
    };
    Name::from_labels(labels.iter().map(String::as_str).chain(zone)).expect("at most 74 bytes")
}

#[cfg(test)]
mod tests;
