//! An authoritative DNS server for a table of names, over UDP and TCP, which remembers what it answered.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::error::{Error, Result};
use crate::listener::Listener;
use crate::topology::Pod;
use crate::udp::bind;

/// Port of DNS (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

/// Exchanges remembered; the oldest are forgotten.
const REMEMBERED: usize = 4096;
/// Names followed from one alias to the next.
const ALIASES: usize = 8;
/// Longest UDP answer to a query without EDNS, bytes (RFC 1035 section 2.3.4).
const CLASSIC_UDP: u16 = 512;
/// UDP payload this server offers in EDNS, bytes.
const OFFERED_UDP: u16 = 4096;
const TICK: Duration = Duration::from_millis(20);

/// The names a [`DnsServer`] knows; all others do not exist.
#[derive(Debug, Clone)]
pub struct Zone {
    records: BTreeMap<Name, Vec<RData>>,
    ttl: u32,
}

impl Default for Zone {
    fn default() -> Self {
        Self::new()
    }
}

impl Zone {
    /// No names; answers may be kept for 30 seconds.
    pub fn new() -> Self {
        Self { records: BTreeMap::new(), ttl: 30 }
    }

    /// Sets the time for which answers may be kept, seconds.
    #[must_use]
    pub fn ttl(mut self, seconds: u32) -> Self {
        self.ttl = seconds;
        self
    }

    /// `name` has this address (A or AAAA), besides others it may have.
    ///
    /// # Panics
    /// If `name` is not a domain name.
    #[must_use]
    pub fn address(self, name: &str, address: IpAddr) -> Self {
        self.record(parse(name), RData::from(address))
    }

    /// `name` is an alias of `target`.
    ///
    /// # Panics
    /// If either is not a domain name.
    #[must_use]
    pub fn alias(self, name: &str, target: &str) -> Self {
        self.record(parse(name), RData::CNAME(CNAME(parse(target))))
    }

    /// The reverse name of `address` points to `name` (PTR).
    ///
    /// # Panics
    /// If `name` is not a domain name.
    #[must_use]
    pub fn pointer(self, address: IpAddr, name: &str) -> Self {
        self.record(Name::from(address), RData::PTR(PTR(parse(name))))
    }

    fn record(mut self, name: Name, data: RData) -> Self {
        self.records.entry(lower(&name)).or_default().push(data);
        self
    }

    fn answer(&self, query: &Message) -> Message {
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.authoritative = true;
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.add_queries(query.queries.iter().cloned());
        if let Some(asked) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(OFFERED_UDP).set_dnssec_ok(asked.flags().dnssec_ok);
            reply.set_edns(edns);
        }
        let Some(question) = query.queries.first() else {
            reply.metadata.response_code = ResponseCode::FormErr;
            return reply;
        };
        let mut name = question.name().clone();
        for _ in 0..ALIASES {
            let Some(found) = self.records.get(&lower(&name)) else {
                // RFC 6604 section 3: the code is that of the last name of a chain; an alias may leave this zone.
                if reply.answers.is_empty() {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                }
                return reply;
            };
            let wanted = |data: &&RData| data.record_type() == question.query_type();
            for data in found.iter().filter(wanted) {
                reply.add_answer(Record::from_rdata(name.clone(), self.ttl, data.clone()));
            }
            let alias = found.iter().find_map(|data| match data {
                RData::CNAME(target) => Some(target.0.clone()),
                _ => None,
            });
            match alias {
                Some(target) if question.query_type() != RecordType::CNAME => {
                    let record = Record::from_rdata(name, self.ttl, RData::CNAME(CNAME(target.clone())));
                    reply.add_answer(record);
                    name = target;
                }
                _ => return reply,
            }
        }
        reply
    }
}

/// One question and its answer, as they were on the wire (without TCP's length field).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exchange {
    /// The asker's address.
    pub from: SocketAddr,
    /// Over TCP, not UDP.
    pub tcp: bool,
    /// The query.
    pub query: Vec<u8>,
    /// The reply; `None` if the server was silent.
    pub reply: Option<Vec<u8>>,
}

impl Exchange {
    /// The name asked for, in lower case and without the dot at the end; empty if the query has none.
    pub fn name(&self) -> String {
        let query = Message::from_vec(&self.query).ok();
        let name =
            query.and_then(|query| query.queries.first().map(|question| lower(question.name()).to_ascii()));
        name.map(|name| name.trim_end_matches('.').to_owned()).unwrap_or_default()
    }
}

/// A DNS server in a pod; answers until dropped.
pub struct DnsServer {
    shared: Arc<Shared>,
    udp: Vec<JoinHandle<()>>,
    _tcp: Listener,
}

struct Shared {
    zone: Mutex<Zone>,
    exchanges: Mutex<Vec<Exchange>>,
    silent: AtomicBool,
    stop: AtomicBool,
}

impl DnsServer {
    /// Listens on port 53 of all addresses of a pod.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(pod: &Pod, zone: Zone) -> Result<Self> {
        let shared = Arc::new(Shared {
            zone: Mutex::new(zone),
            exchanges: Mutex::default(),
            silent: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let tcp = Listener::start(pod.netns(), DNS_PORT, {
            let shared = Arc::clone(&shared);
            move |stream| serve_tcp(stream, &shared)
        })?;
        let mut server = Self { shared, udp: Vec::new(), _tcp: tcp };
        for address in pod.addresses() {
            let socket = pod.netns().run(|| bind(SocketAddr::new(address, DNS_PORT)))?;
            let shared = Arc::clone(&server.shared);
            server.udp.push(thread::spawn(move || serve_udp(&socket, &shared)));
        }
        Ok(server)
    }

    /// Answers from another table from now on.
    pub fn set_zone(&self, zone: Zone) {
        *self.shared.zone.lock().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// Stops answering, or answers again. Questions are remembered all the same.
    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// Questions and answers so far, oldest first; at most the last 4096.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.udp.drain(..) {
            // It has nothing to return, and its panic would have been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The reply, remembered; `None` for silence and for what is no query.
    fn exchange(&self, from: SocketAddr, tcp: bool, bytes: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes)
            .ok()
            .filter(|query| query.metadata.message_type == MessageType::Query)?;
        let silent = self.silent.load(Ordering::Relaxed);
        let reply = if silent { None } else { self.encode(&query, tcp).ok() };
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        if exchanges.len() == REMEMBERED {
            exchanges.remove(0);
        }
        exchanges.push(Exchange { from, tcp, query: bytes.to_vec(), reply: reply.clone() });
        reply
    }

    fn encode(&self, query: &Message, tcp: bool) -> Result<Vec<u8>> {
        const WHAT: Error = Error::Malformed("a DNS message that cannot be written");
        let reply = self.zone.lock().unwrap_or_else(PoisonError::into_inner).answer(query);
        let bytes = reply.to_vec().map_err(|_| WHAT)?;
        let asked = query.edns.as_ref().map_or(CLASSIC_UDP, Edns::max_payload);
        let room = asked.clamp(CLASSIC_UDP, OFFERED_UDP);
        if tcp || bytes.len() <= room.into() {
            return Ok(bytes);
        }
        reply.truncate().to_vec().map_err(|_| WHAT)
    }
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = vec![0; 1 << 16];
    // Cannot fail with a time other than zero (std::net::UdpSocket::set_read_timeout).
    let _ = socket.set_read_timeout(Some(TICK));
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(reply) = shared.exchange(from, false, &buffer[..length]) {
            // Who asked will ask again.
            let _ = socket.send_to(&reply, from);
        }
    }
}

/// Any number of queries on a connection, each after its length (RFC 1035 section 4.2.2).
fn serve_tcp(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let from = stream.peer_addr()?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        if let Some(reply) = shared.exchange(from, true, &query) {
            // A DNS message has at most 65,535 bytes, which to_vec sees to.
            stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat())?;
        }
    }
}

fn parse(name: &str) -> Name {
    let mut name =
        Name::from_ascii(name).unwrap_or_else(|error| panic!("{name:?} is no domain name: {error}"));
    name.set_fqdn(true);
    name
}

fn lower(name: &Name) -> Name {
    let mut name = name.to_lowercase();
    name.set_fqdn(true);
    name
}
