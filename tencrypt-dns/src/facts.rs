//! From a reply to facts about addresses.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tencrypt::{
    directory::{Class, Fact, FactSource},
    packet::is_tunnel_address,
};
use thiserror::Error;

use crate::{
    Name, Project,
    message::{CLASS_IN, Data, MessageError, Mismatch, Query, Record, Reply, record_type},
    own_names::{Place, Ranges},
};

/// Longest chain of CNAMEs that is followed. BIND and Unbound follow 11 and more, but nothing longer than a few is in
/// use; what lies behind a longer one is not classified.
pub const MAX_LINKS: usize = 8;
/// Most addresses of one reply that become facts. A headless service of 1,000 pods has that many. Further ones stay unknown:
/// inside the protected ranges they are asked, and never spoken to in plain on the reply's word.
pub const MAX_ADDRESSES: usize = 1_024;
/// Shortest life of a fact: an answer that must not be cached is still used for a connection.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// Shortest life of a fact that an address is internal: what was resolved a moment ago is connected to in a moment.
pub const MIN_INTERNAL_TTL: Duration = Duration::from_secs(60);
/// Longest life of a fact, so that a wrong one ends.
pub const MAX_TTL: Duration = Duration::from_secs(300);

/// Reason for which a reply says nothing about addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// The query is not one.
    #[error("query: {0}")]
    Query(MessageError),
    /// The reply does not belong to the query.
    #[error("not the reply: {0}")]
    Unverified(#[from] Mismatch),
    /// The reply cannot be read.
    #[error("reply: {0}")]
    Reply(#[from] MessageError),
    /// More than [`MAX_LINKS`] CNAMEs.
    #[error("chain of more than {MAX_LINKS} aliases")]
    ChainTooLong,
    /// CNAMEs that lead in a circle.
    #[error("loop of aliases")]
    ChainLoops,
    /// A name with several targets, or with addresses and a target (RFC 2181 section 10.1 allows neither): the
    /// application may take either.
    #[error("ambiguous alias")]
    ChainForks,
}

/// The facts in `reply`, the bytes of a reply to the bytes of `query`, for a pod of `project`.
///
/// # Errors
/// `reply` does not belong to `query`, or either is malformed, or its chain of aliases is.
pub fn classify_reply(
    query: &[u8],
    reply: &[u8],
    project: &Project,
    now: Instant,
) -> Result<Vec<Fact>, ClassifyError> {
    let query = Query::parse(query).map_err(ClassifyError::Query)?;
    facts(&query.verify(reply)?, project, now)
}

/// The facts in a checked reply.
///
/// The chain of CNAMEs is followed from the asked name; the addresses of the name at its end get that name's class, and
/// live as long as the shortest-lived link, within [`MIN_TTL`] ([`MIN_INTERNAL_TTL`], where they are internal) and
/// [`MAX_TTL`]. A fact is about one address, and its source names the end of the chain.
/// Records of other names, other sections and other types are not looked at. Addresses that no packet of the tunnel
/// may carry ([`is_tunnel_address`]) get no fact; an IPv4-mapped one is the IPv4 address that a connection to it would
/// use.
///
/// # Errors
/// The reply cannot be read, or its chain of aliases is no chain.
///
/// ```
/// use std::{net::IpAddr, time::{Duration, Instant}};
/// use tencrypt::directory::Class;
/// use tencrypt_dns::{Name, Project, facts::facts, message::Query};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let project = Project::new("shop", Name::from_text("cluster.local")?)?;
/// // A of web.shop.svc.cluster.local, and the reply: 10.96.0.80, for 30 s.
/// let query = Query::parse(
///     b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\x04shop\x03svc\x07cluster\x05local\0\0\x01\0\x01",
/// )?;
/// let answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\x0a\x60\0\x50";
/// let mut reply = [query.bytes(), answer].concat();
/// (reply[2], reply[7]) = (0x85, 1); // a reply, with one answer
///
/// let now = Instant::now();
/// let facts = facts(&query.verify(&reply)?, &project, now)?;
/// assert_eq!((facts.len(), facts[0].class), (1, Class::Internal));
/// assert_eq!(facts[0].prefix.addr(), IpAddr::from([10, 96, 0, 80]));
/// assert_eq!(facts[0].expires, Some(now + Duration::from_secs(60)));
/// # Ok(())
/// # }
/// ```
pub fn facts(reply: &Reply<'_>, project: &Project, now: Instant) -> Result<Vec<Fact>, ClassifyError> {
    if reply.query().question().is_none() {
        return Ok(Vec::new());
    }
    facts_of(reply, &reply.records()?, project, None, now)
}

/// The facts in the `answers` of a checked reply. With `ranges` an address of the project's own names is internal only
/// where it is protected; of an exempt one nothing is said, and one outside is external.
pub(crate) fn facts_of(
    reply: &Reply<'_>,
    answers: &[Record],
    project: &Project,
    ranges: Option<&Ranges>,
    now: Instant,
) -> Result<Vec<Fact>, ClassifyError> {
    let Some(question) = reply.query().question() else { return Ok(Vec::new()) };
    let wanted: fn(&IpAddr) -> bool = match question.record_type {
        record_type::A => IpAddr::is_ipv4,
        record_type::AAAA => IpAddr::is_ipv6,
        record_type::ANY => |_| true,
        _ => return Ok(Vec::new()),
    };
    if reply.response_code() != 0 || question.class != CLASS_IN {
        return Ok(Vec::new());
    }
    let end = follow(answers, &question.name)?;
    let mut lives: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for record in answers.iter().filter(|record| record.owner == end.name) {
        let Data::Address(address) = &record.data else { continue };
        let canonical = address.to_canonical();
        if !wanted(address) || !is_tunnel_address(canonical) || lives.len() == MAX_ADDRESSES {
            continue;
        }
        let ttl = record.ttl.min(end.ttl);
        lives.entry(canonical).and_modify(|known| *known = ttl.min(*known)).or_insert(ttl);
    }
    let named = project.class_of(&end.name);
    let source = FactSource::Dns(Arc::from(end.name.to_string()));
    let fact = |(address, ttl)| {
        let place = ranges.map_or(Place::Protected, |ranges| ranges.place(address));
        let class = match (named, place) {
            (Class::Internal, Place::Exempt) => return None,
            (Class::Internal, Place::Outside) => Class::External,
            (class, _) => class,
        };
        let least = if class == Class::Internal { MIN_INTERNAL_TTL } else { MIN_TTL };
        Some(Fact::new(address, class, source.clone(), Some(expiry(now, ttl, least))))
    };
    Ok(lives.into_iter().filter_map(fact).collect())
}

/// The end of a chain of aliases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainEnd {
    pub(crate) name: Name,
    /// The shortest of the links, in seconds; `u32::MAX` without links.
    pub(crate) ttl: u32,
}

/// Follows the CNAMEs among `records`, in whatever order they come, from `start`.
pub(crate) fn follow(records: &[Record], start: &Name) -> Result<ChainEnd, ClassifyError> {
    let mut seen = vec![start.clone()];
    let mut ttl = u32::MAX;
    loop {
        let current = &seen[seen.len() - 1];
        let mut target: Option<&Name> = None;
        let mut ends_here = false;
        for record in records.iter().filter(|record| record.owner == *current) {
            match &record.data {
                Data::Alias(alias) => {
                    if target.is_some_and(|known| known != alias) {
                        return Err(ClassifyError::ChainForks);
                    }
                    target = Some(alias);
                    ttl = ttl.min(record.ttl);
                }
                Data::Address(_) | Data::Pointer(_) => ends_here = true,
                Data::Hint(_) => {}
            }
        }
        match target {
            None => return Ok(ChainEnd { name: current.clone(), ttl }),
            Some(_) if ends_here => return Err(ClassifyError::ChainForks),
            Some(alias) if seen.contains(alias) => return Err(ClassifyError::ChainLoops),
            Some(_) if seen.len() > MAX_LINKS => return Err(ClassifyError::ChainTooLong),
            Some(alias) => seen.push(alias.clone()),
        }
    }
}

/// End of a fact that lives `ttl` seconds from `now`, within `least` and [`MAX_TTL`].
pub(crate) fn expiry(now: Instant, ttl: u32, least: Duration) -> Instant {
    now + Duration::from_secs(ttl.into()).clamp(least, MAX_TTL)
}

#[cfg(test)]
mod tests;
