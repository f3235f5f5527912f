//! Views of DNS messages: a query, and a reply that was checked against it.
//!
//! Messages are forwarded as the bytes they are. hickory-proto reads a copy, and nothing is ever encoded again, except
//! for the SERVFAIL that a client gets when no upstream server answers.
//!
//! Behaviour of hickory-proto 0.26.3 with hostile names was read in its source (`Name`, its `read_inner`): a
//! loop without recursion; a pointer must lead to before the name or name part that it ends, so there is no loop of
//! pointers; a name may have 255 bytes. Left open are pointers into the header (the copy has a header that no pointer
//! can use, see [`Reply::records`]) and long runs of pointers to pointers, which cost a walk for every name that uses
//! them (see [`MAX_POINTER_RUN`]).

mod header;

use std::net::IpAddr;

use header::{FLAG_RESPONSE, Header, OPCODE_MASK, Section};
pub use header::{FORMERR, HEADER, NOTIMP, REFUSED, SERVFAIL};
use hickory_proto::{
    op::{Message, OpCode},
    rr::{
        self, DNSClass, RData, RecordType,
        rdata::{HTTPS, SVCB, svcb::SvcParamValue},
    },
    serialize::binary::{BinDecodable as _, BinDecoder},
};
use thiserror::Error;

use crate::Name;

/// Longest message, in bytes: TCP's length field has 16 bits (RFC 1035 section 4.2.2).
pub const MAX_MESSAGE: usize = 65_535;
/// Longest run of pointers that lead to nothing but another pointer. Encoders write runs of one; some that compress
/// against names that are pointers themselves write a few more. Without a bound, 4,000 records that all use a run of
/// 8,000 pointers cost 32 million steps.
pub const MAX_POINTER_RUN: u8 = 16;

/// Record types that matter here (RFC 1035 section 3.2.2, RFC 3596).
pub mod record_type {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Service binding, which may hint at addresses (RFC 9460).
    pub const SVCB: u16 = 64;
    /// The same for HTTPS (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// The changes of a zone, in a question (RFC 1995).
    pub const IXFR: u16 = 251;
    /// A whole zone, in a question (RFC 5936).
    pub const AXFR: u16 = 252;
    /// Any type, in a question.
    pub const ANY: u16 = 255;
}

/// Class IN (RFC 1035 section 3.2.4).
pub const CLASS_IN: u16 = 1;

/// Reason for which bytes are not taken for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Shorter than a header.
    #[error("shorter than a header")]
    Short,
    /// A response where a query was expected.
    #[error("a response, not a query")]
    NotQuery,
    /// The one question cannot be read.
    #[error("malformed question")]
    Question,
    /// The sections after the question cannot be read as their counts and lengths say.
    #[error("malformed records")]
    Records,
    /// Names that lead through too many pointers.
    #[error("too many compression pointers in a row")]
    Pointers,
}

/// Reason for which a message is not the reply to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// Shorter than a header.
    #[error("shorter than a header")]
    Short,
    /// A query itself.
    #[error("a query, not a response")]
    NotResponse,
    /// Another id.
    #[error("other id")]
    Id,
    /// Another kind of operation.
    #[error("other opcode")]
    Opcode,
    /// The question is missing, is not the only one, or is another one.
    #[error("other question")]
    Question,
}

/// A query as a client sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    bytes: Box<[u8]>,
    question: Option<Question>,
    letters: Letters,
}

/// Demand on the letters of the name that a reply repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Letters {
    /// The same in either case (RFC 4343), as libc has it: some servers answer in lower case.
    AnyCase,
    /// The same in the same case, which was chosen at random: a forger has to guess it.
    SameCase,
}

/// The question of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Question {
    /// The name that is asked for.
    pub name: Name,
    /// Type of the records that are asked for.
    pub record_type: u16,
    /// Class of the records that are asked for.
    pub class: u16,
}

impl Query {
    /// Takes bytes for a query.
    ///
    /// A query of another operation than QUERY (UPDATE, NOTIFY, ...) and one that has not exactly one question has no
    /// [`question`](Self::question): it can be forwarded and its reply recognised, but nothing is learnt from that.
    ///
    /// # Errors
    /// It is shorter than a header, is a response, or has one question that cannot be read.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let header = Header::of(bytes).ok_or(MessageError::Short)?;
        if header.is_response() {
            return Err(MessageError::NotQuery);
        }
        let question = (header.opcode() == OPCODE_QUERY && header.questions() == 1)
            .then(|| read_question(bytes).ok_or(MessageError::Question))
            .transpose()?;
        Ok(Self { bytes: bytes.into(), question, letters: Letters::AnyCase })
    }

    /// A query of our own, class IN, recursion desired. The bits of `case` decide which letters of the name are
    /// written large, for the reply to repeat.
    #[must_use]
    pub fn new(id: u16, name: Name, record_type: u16, case: u64) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        bytes[2] = FLAG_RECURSION_DESIRED;
        bytes[5] = 1;
        let mut bits = case;
        bytes.extend(name.wire().iter().map(|byte| {
            // Length bytes are no letters: at most 63.
            if !byte.is_ascii_lowercase() {
                return *byte;
            }
            bits = bits.rotate_right(1);
            if bits >> 63 == 1 { byte.to_ascii_uppercase() } else { *byte }
        }));
        bytes.extend(record_type.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        let question = Some(Question { name, record_type, class: CLASS_IN });
        Self { bytes: bytes.into(), question, letters: Letters::SameCase }
    }

    /// The query as it came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The question, if this is a QUERY with exactly one.
    #[must_use]
    pub const fn question(&self) -> Option<&Question> {
        self.question.as_ref()
    }

    /// Tells if this asks for a zone or its changes: the reply by TCP is then as many messages as it takes.
    #[must_use]
    pub fn is_transfer(&self) -> bool {
        use record_type::{AXFR, IXFR};
        self.question().is_some_and(|question| [AXFR, IXFR].contains(&question.record_type))
    }

    /// Takes `bytes` for the reply to this query: a response with its id, its opcode and, where there is one, its
    /// question. Names compare without case (RFC 4343), except for that of [`new`](Self::new), whose case is random.
    /// Nothing behind the question is looked at.
    ///
    /// FORMERR, SERVFAIL, NOTIMP and REFUSED need no question if they have no records either: servers that do not read
    /// a query do not repeat it.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn verify<'a>(&'a self, bytes: &'a [u8]) -> Result<Reply<'a>, Mismatch> {
        let header = self.verify_header(bytes)?;
        let question = self.question_bytes();
        if self.repeats_question(header, bytes) {
            return Ok(Reply { query: self, bytes, header, records_at: HEADER + question.len() });
        }
        if header.is_bare_error() {
            return Ok(Reply { query: self, bytes, header, records_at: HEADER });
        }
        Err(Mismatch::Question)
    }

    /// Takes `bytes` for a further message of the reply to a [transfer](Self::is_transfer): as
    /// [`verify`](Self::verify), but that the question may be left out (RFC 5936 section 2.2.1).
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn verify_further<'a>(&'a self, bytes: &'a [u8]) -> Result<Reply<'a>, Mismatch> {
        let header = self.verify_header(bytes)?;
        if header.questions() == 0 {
            return Ok(Reply { query: self, bytes, header, records_at: HEADER });
        }
        self.verify(bytes)
    }

    fn verify_header(&self, bytes: &[u8]) -> Result<Header, Mismatch> {
        let header = Header::of(bytes).ok_or(Mismatch::Short)?;
        let asked = self.header();
        if !header.is_response() {
            return Err(Mismatch::NotResponse);
        }
        if header.id() != asked.id() {
            return Err(Mismatch::Id);
        }
        if header.opcode() != asked.opcode() { Err(Mismatch::Opcode) } else { Ok(header) }
    }

    /// Tells if a message has this query's question and no other; of any, if it has none itself.
    fn repeats_question(&self, header: Header, bytes: &[u8]) -> bool {
        let question = self.question_bytes();
        let Some((name, tail)) = question.split_last_chunk::<QUESTION_TAIL>() else { return true };
        let Some(repeated) = bytes.get(HEADER..HEADER + question.len()) else { return false };
        let (repeated_name, repeated_tail) = repeated.split_at(name.len());
        let is_same_name = match self.letters {
            // Length bytes are no letters: at most 63.
            Letters::AnyCase => repeated_name.eq_ignore_ascii_case(name),
            Letters::SameCase => repeated_name == name,
        };
        // An empty question section would repeat any question.
        header.questions() == 1 && is_same_name && repeated_tail == tail
    }

    /// A reply that says SERVFAIL: header with id, opcode, RD and CD of the query, and its question (RFC 6895
    /// section 2).
    #[must_use]
    pub fn servfail(&self) -> Vec<u8> {
        let mut header = self.header().0;
        header[2] = FLAG_RESPONSE | (header[2] & (OPCODE_MASK | FLAG_RECURSION_DESIRED));
        header[3] = (header[3] & FLAG_CHECKING_DISABLED) | SERVFAIL;
        header[4..].fill(0);
        header[5] = u8::from(self.question.is_some());
        [&header[..], self.question_bytes()].concat()
    }

    fn header(&self) -> Header {
        Header::of(&self.bytes).unwrap_or(Header([0; HEADER]))
    }

    fn question_bytes(&self) -> &[u8] {
        let length = self.question.as_ref().map_or(0, |question| question.name.wire().len() + QUESTION_TAIL);
        self.bytes.get(HEADER..HEADER + length).unwrap_or_default()
    }
}

/// A response that belongs to a query. Only [`Query::verify`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    query: &'a Query,
    bytes: &'a [u8],
    header: Header,
    /// Start of the records, behind the question if there is one.
    records_at: usize,
}

/// A record of class IN.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Whose record it is.
    pub owner: Name,
    /// Time to live in seconds; 0 where the highest bit was set (RFC 2181 section 8).
    pub ttl: u32,
    /// Content of the record.
    pub data: Data,
}

/// Content of a record, for the types that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// CNAME.
    Alias(Name),
    /// PTR.
    Pointer(Name),
    /// One of the addresses that SVCB or HTTPS hint at. It is used as an address is, and no fact is made of it.
    Hint(IpAddr),
}

/// The records of a reply, by section.
#[derive(Debug)]
pub(crate) struct Sections {
    /// The answer section's.
    pub(crate) answers: Vec<Record>,
    /// Those of the authority and the additional section.
    pub(crate) others: Vec<Record>,
}

impl<'a> Reply<'a> {
    /// The query it belongs to.
    #[must_use]
    pub const fn query(&self) -> &'a Query {
        self.query
    }

    /// The reply as it came.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The response code of the header, without the upper bits that OPT may add.
    #[must_use]
    pub const fn response_code(&self) -> u8 {
        self.header.response_code()
    }

    /// Tells if TC is set: there is more, by TCP.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.header.0[2] & FLAG_TRUNCATED != 0
    }

    /// A, AAAA, CNAME and PTR records of class IN in the answer section, and the addresses that SVCB and HTTPS there hint
    /// at; the other sections must be well-formed, but say nothing.
    ///
    /// The copy that is read has a header of ones: a name that leads there finds a pointer to beyond itself, which is
    /// an error. Lengths and counts are taken from the true header.
    ///
    /// # Errors
    /// Any section is malformed or shorter than its count says, or names lead through too many pointers.
    pub fn records(&self) -> Result<Vec<Record>, MessageError> {
        self.sections().map(|sections| sections.answers)
    }

    /// The same, with those of the other sections beside them.
    pub(crate) fn sections(&self) -> Result<Sections, MessageError> {
        if longest_pointer_run(self.bytes) > MAX_POINTER_RUN {
            return Err(MessageError::Pointers);
        }
        let copy = with_unusable_header(self.bytes);
        let mut decoder = BinDecoder::new(&copy);
        decoder.read_slice(self.records_at).map_err(|_| MessageError::Records)?;
        let mut read = |count, is_additional| {
            Message::read_records(&mut decoder, usize::from(count), is_additional, OpCode::Query)
                .map(|(records, ..)| records)
                .map_err(|_| MessageError::Records)
        };
        let answers = read(self.header.count(Section::Answer), false)?;
        let mut others = read(self.header.count(Section::Authority), false)?;
        others.extend(read(self.header.count(Section::Additional), true)?);
        Ok(Sections { answers: of_interest(&answers), others: of_interest(&others) })
    }
}

/// Type and class behind the name of a question, in bytes.
const QUESTION_TAIL: usize = 4;
const OPCODE_QUERY: u8 = 0;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const FLAG_CHECKING_DISABLED: u8 = 0x10;

/// The one question behind the header; `None` if it is malformed or compressed (there is nothing to point to).
fn read_question(bytes: &[u8]) -> Option<Question> {
    let copy = with_unusable_header(bytes);
    let mut decoder = BinDecoder::new(&copy);
    decoder.read_slice(HEADER).ok()?;
    let name = rr::Name::read(&mut decoder).ok()?;
    let record_type = decoder.read_u16().ok()?.unverified();
    let class = decoder.read_u16().ok()?.unverified();
    let name = Name::from_labels(name.iter()).ok()?;
    let plain_end = HEADER + name.wire().len() + QUESTION_TAIL;
    (decoder.index() == plain_end).then_some(Question { name, record_type, class })
}

/// A copy whose first 12 bytes read as pointers to at least 0x3f00, always beyond where they stand.
fn with_unusable_header(bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    copy.iter_mut().take(HEADER).for_each(|byte| *byte = 0xff);
    copy
}

/// The records of class IN that matter here; one for each address that a service binding hints at.
fn of_interest(records: &[rr::Record]) -> Vec<Record> {
    let mut found = Vec::with_capacity(records.len());
    for record in records.iter().filter(|record| record.dns_class == DNSClass::IN) {
        let Some(owner) = name_of(&record.name) else { continue };
        let ttl = if record.ttl >> 31 == 0 { record.ttl } else { 0 };
        let mut push = |data| found.push(Record { owner: owner.clone(), ttl, data });
        match (&record.data, record.record_type()) {
            (RData::A(address), RecordType::A) => push(Data::Address(IpAddr::V4(address.0))),
            (RData::AAAA(address), RecordType::AAAA) => push(Data::Address(IpAddr::V6(address.0))),
            (RData::CNAME(target), RecordType::CNAME) => {
                name_of(&target.0).map(Data::Alias).into_iter().for_each(push);
            }
            (RData::PTR(target), RecordType::PTR) => {
                name_of(&target.0).map(Data::Pointer).into_iter().for_each(push);
            }
            (RData::SVCB(service) | RData::HTTPS(HTTPS(service)), _) => {
                hints(service).map(Data::Hint).for_each(push);
            }
            _ => {}
        }
    }
    found
}

fn name_of(name: &rr::Name) -> Option<Name> {
    Name::from_labels(name.iter()).ok()
}

/// The addresses that a service binding hints at (RFC 9460 section 7.3).
fn hints(service: &SVCB) -> impl Iterator<Item = IpAddr> {
    service.svc_params.iter().flat_map(|(_, value)| -> Vec<IpAddr> {
        match value {
            SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|address| address.0.into()).collect(),
            SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|address| address.0.into()).collect(),
            _ => Vec::new(),
        }
    })
}

/// Length of the longest run of pointers, each leading to the next, at any place where a name might be read.
///
/// Pointers lead back, so one pass from the front suffices. Runs saturate: what matters is whether there are too many.
fn longest_pointer_run(bytes: &[u8]) -> u8 {
    // Beyond 14 bits of offset nothing can be pointed to.
    const REACH: usize = 1 << 14;
    let mut runs = vec![0_u8; bytes.len().min(REACH)];
    let mut longest = 0;
    for (at, pair) in bytes.windows(2).enumerate() {
        if pair[0] < 0xc0 {
            continue;
        }
        let target = usize::from(u16::from_be_bytes([pair[0], pair[1]]) & 0x3fff);
        let run = if target < at { runs[target].saturating_add(1) } else { 1 };
        longest = longest.max(run);
        if let Some(slot) = runs.get_mut(at) {
            *slot = run;
        }
    }
    longest
}

#[cfg(test)]
mod tests;
