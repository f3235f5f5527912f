//! Requests to the kernel over netlink (RFC 3549; include/uapi/linux/netlink.h), one at a time and blocking.

use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Nested attribute (include/uapi/linux/netlink.h NLA_F_NESTED); nftables insists on it.
const NESTED: u16 = 1 << 15;
pub(crate) const TYPE_MASK: u16 = 0x3fff;

pub(crate) const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;

/// A message on its way to the kernel: type, flags, fixed part, attributes.
#[derive(Clone)]
pub(crate) struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// `fixed` is the family's own header, whose length must be a multiple of 4.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags, body: fixed.to_vec() }
    }

    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.pad();
        self
    }

    /// A string with its terminating zero.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Attributes inside an attribute.
    pub(crate) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.body.len();
        self.body.extend_from_slice(&[0; 4]);
        let mut inner = fill(self);
        let length = (inner.body.len() - start) as u16;
        inner.body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        inner.body[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        inner
    }

    /// Bytes as they are, such as the fixed part of a nested message.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Fixed part and attributes.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    fn pad(&mut self) {
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    fn encode(&self, extra: u16, sequence: u32, into: &mut Vec<u8>) {
        into.extend_from_slice(&((HEADER + self.body.len()) as u32).to_ne_bytes());
        into.extend_from_slice(&self.kind.to_ne_bytes());
        into.extend_from_slice(&(self.flags | libc::NLM_F_REQUEST as u16 | extra).to_ne_bytes());
        into.extend_from_slice(&sequence.to_ne_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&self.body);
    }
}

/// A netlink socket of the network namespace the calling thread was in when it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Links, addresses, routes, rules.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(libc::NETLINK_ROUTE)
    }

    /// nftables.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(libc::NETLINK_NETFILTER)
    }

    fn open(protocol: i32) -> io::Result<Self> {
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
        // The kernel answers within the call; this only keeps a surprise from hanging a test.
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Has one request done.
    pub(crate) fn ask(&mut self, request: &Request) -> io::Result<()> {
        self.sequence += 1;
        let mut bytes = Vec::new();
        request.encode(libc::NLM_F_ACK as u16, self.sequence, &mut bytes);
        self.socket.send(&bytes)?;
        self.acknowledged(self.sequence)
    }

    /// Has `requests` done together or not at all, as nftables wants it: between a begin and an end message.
    pub(crate) fn transact(
        &mut self,
        begin: &Request,
        requests: &[Request],
        end: &Request,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence + 1;
        begin.encode(0, first, &mut bytes);
        for (request, sequence) in requests.iter().zip(first + 1..) {
            request.encode(libc::NLM_F_ACK as u16, sequence, &mut bytes);
        }
        self.sequence = first + requests.len() as u32 + 1;
        end.encode(0, self.sequence, &mut bytes);
        self.socket.send(&bytes)?;
        (first + 1..self.sequence).try_for_each(|sequence| self.acknowledged(sequence))
    }

    /// All objects of a kind: message type and body (fixed part and attributes) of each.
    pub(crate) fn dump(&mut self, request: &Request) -> io::Result<Vec<(u16, Vec<u8>)>> {
        self.sequence += 1;
        let mut bytes = Vec::new();
        request.encode(libc::NLM_F_DUMP as u16, self.sequence, &mut bytes);
        self.socket.send(&bytes)?;
        let mut found = Vec::new();
        loop {
            for (kind, sequence, body) in messages(&self.receive()?) {
                match kind {
                    _ if sequence != self.sequence => {}
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return error_of(body).map(|()| found),
                    _ => found.push((kind, body.to_vec())),
                }
            }
        }
    }

    fn acknowledged(&mut self, wanted: u32) -> io::Result<()> {
        // Answers to earlier requests may still be queued after one of them failed.
        loop {
            for (kind, sequence, body) in messages(&self.receive()?) {
                if kind == NLMSG_ERROR && sequence <= wanted {
                    error_of(body)?;
                    if sequence == wanted {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        // The kernel fills at most 32 KiB of a dump at a time (net/netlink/af_netlink.c, netlink_dump).
        let mut buffer = vec![0; 64 << 10];
        let length = self.socket.read(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// The attributes in `bytes`: kind without its flags, and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, body))
    })
}

fn error_of(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map_or(-libc::EPROTO, |code| i32::from_ne_bytes(*code)) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}
