//! DNS queries as bytes, and their replies as bytes.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::error::{During, Error, Result, is_timeout};
use crate::netns::NetNs;
use crate::tcp::connect;
use crate::udp::bind;

/// The subject of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// An alias.
    Cname,
    /// The name of an address.
    Ptr,
}

/// A query as it goes on the wire; with EDNS if `udp_payload` names a size in bytes (RFC 6891).
///
/// # Panics
/// If `name` is not a domain name.
pub fn dns_query(id: u16, name: &str, asked: Asked, udp_payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let kind = match asked {
        Asked::A => RecordType::A,
        Asked::Aaaa => RecordType::AAAA,
        Asked::Cname => RecordType::CNAME,
        Asked::Ptr => RecordType::PTR,
    };
    let mut name =
        Name::from_ascii(name).unwrap_or_else(|error| panic!("{name:?} is no domain name: {error}"));
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    if let Some(size) = udp_payload {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap_or_else(|error| panic!("a query can be written: {error}"))
}

/// Sends a query over UDP and returns the first reply's bytes. Only a reply from the address asked is taken.
///
/// # Errors
/// [`Error::Timeout`] without a reply within `limit`, or what the kernel refused.
pub fn dns_over_udp(from: &NetNs, server: SocketAddr, query: &[u8], limit: Duration) -> Result<Vec<u8>> {
    const WHAT: &str = "a DNS query over UDP";
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = from.run(|| -> Result<UdpSocket> {
        let socket = bind(any)?;
        socket.connect(server).during(WHAT)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(limit)).during(WHAT)?;
    socket.send(query).during(WHAT)?;
    let mut reply = vec![0; 1 << 16];
    match socket.recv(&mut reply) {
        Ok(length) => {
            reply.truncate(length);
            Ok(reply)
        }
        Err(error) if is_timeout(&error) => Err(Error::Timeout { what: WHAT, limit }),
        Err(error) => Err(error).during(WHAT),
    }
}

/// Sends a query over TCP and returns the reply's bytes, without the length field.
///
/// # Errors
/// [`Error::Timeout`] without a reply within `limit`, or what the kernel refused.
pub fn dns_over_tcp(from: &NetNs, server: SocketAddr, query: &[u8], limit: Duration) -> Result<Vec<u8>> {
    const WHAT: &str = "a DNS query over TCP";
    let end = Instant::now() + limit;
    let mut stream = connect(from, server)?;
    let length =
        u16::try_from(query.len()).map_err(|_| Error::Malformed("a query of more than 65,535 bytes"))?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).during(WHAT)?;
    let mut received = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let announced = received.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)) + 2);
        if announced.is_some_and(|length| received.len() >= length) {
            return Ok(received.split_off(2));
        }
        let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let left = left.ok_or(Error::Timeout { what: WHAT, limit })?;
        stream.set_read_timeout(Some(left)).during(WHAT)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(Error::Ended("the DNS reply was complete")),
            Ok(length) => received.extend_from_slice(&chunk[..length]),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).during(WHAT),
        }
    }
}

/// A DNS reply, as far as tests ask.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsReply {
    /// Query id.
    pub id: u16,
    /// Response code: 0 no error, 3 no such name.
    pub code: u16,
    /// It is cut (TC) and should be asked for over TCP.
    pub truncated: bool,
    /// It has an EDNS record.
    pub edns: bool,
    /// Addresses in the answer section.
    pub addresses: Vec<IpAddr>,
}

impl DnsReply {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is no DNS message.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let message = Message::from_vec(bytes).map_err(|_| Error::Malformed("not a DNS message"))?;
        let address = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        };
        Ok(Self {
            id: message.metadata.id,
            code: message.metadata.response_code.into(),
            truncated: message.metadata.truncation,
            edns: message.edns.is_some(),
            addresses: message.answers.iter().filter_map(|record| address(&record.data)).collect(),
        })
    }
}
