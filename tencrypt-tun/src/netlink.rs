//! Requests on a netlink socket, one at a time, without a runtime.
//!
//! The kernel works a request off inside `send` (net/netlink/af_netlink.c, `netlink_unicast_kernel`), so there is
//! nothing to overlap. The socket belongs to the namespace of the thread that opened it; it may be used from any.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    time::Duration,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

use crate::sys::borrow;

/// The kernel answers at once or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Dumps are cut to at most 32 KiB a datagram (`NLMSG_GOODSIZE` and `netlink_dump`); the rest is room for one large
/// message. There is such a buffer only while answers are read: kept by each of a program's sockets, they were a third of its memory.
const DATAGRAM: usize = 64 * 1024;

/// Times that a dump is taken again which the kernel marks as inconsistent.
const DUMP_ATTEMPTS: usize = 8;

/// `nfgenmsg` of a batch's first and last message: family 0, version 0, subsystem nftables in network byte order
/// (net/netfilter/nfnetlink.c, `nfnetlink_rcv_batch`).
const BATCH_SUBSYSTEM: [u8; 4] = [0, 0, 0, 10];
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// A netlink socket of one protocol.
pub(crate) struct Netlink {
    socket: Socket,
    port: u32,
    sequence: u32,
}

/// A message of a batch and its flags beside `NLM_F_REQUEST`.
pub(crate) struct BatchItem<M> {
    pub(crate) message: M,
    pub(crate) flags: u16,
}

impl Netlink {
    /// Opens a socket of `protocol` (`netlink_sys::protocols`) in the calling thread's namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        SockRef::from(&borrow(&socket)).set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, port, sequence: 0 })
    }

    /// The socket's address, which the kernel gives as the author of what it changes.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement; returns what the kernel sent before that.
    pub(crate) fn request<M>(&mut self, message: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let bytes = self.serialize(message, NLM_F_REQUEST | NLM_F_ACK | flags);
        self.send(&bytes)?;
        let mut answers = Vec::new();
        self.receive(|kind, payload| answers.extend(decode(kind, payload)))?;
        Ok(answers)
    }

    /// Everything the kernel has of what `message` asks for. Entries that cannot be decoded are left out: they are
    /// other people's and of kinds this crate does not make.
    pub(crate) fn dump<M>(&mut self, message: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        for _ in 0..DUMP_ATTEMPTS {
            let bytes = self.serialize(message.clone(), NLM_F_REQUEST | NLM_F_DUMP);
            self.send(&bytes)?;
            let mut entries = Vec::new();
            if self.receive(|kind, payload| entries.extend(decode(kind, payload)))? {
                return Ok(entries);
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    /// As [`dump`](Self::dump), for messages no crate encodes: `body` follows the netlink header.
    pub(crate) fn dump_raw(
        &mut self,
        kind: u16,
        body: &[u8],
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        push_raw(&mut bytes, kind, NLM_F_REQUEST | NLM_F_DUMP, self.sequence, body);
        self.send(&bytes)?;
        self.receive(each).map(drop)
    }

    /// Sends several requests at once, which the kernel works off one after another without a pause, and returns the outcome
    /// of each; one that fails keeps none of the others from being tried.
    pub(crate) fn together<M: NetlinkSerializable>(
        &mut self,
        items: Vec<BatchItem<M>>,
    ) -> io::Result<Vec<io::Result<()>>> {
        let (first, count) = (self.sequence, items.len());
        let mut bytes = Vec::new();
        for item in items {
            bytes.extend(self.serialize(item.message, NLM_F_REQUEST | NLM_F_ACK | item.flags));
        }
        self.send(&bytes)?;
        let mut results = Vec::with_capacity(count);
        let mut datagram = vec![0; DATAGRAM];
        while results.len() < count {
            let length = receive_datagram(&self.socket, &mut datagram, 0)?;
            for message in messages(&datagram[..length]) {
                let place = message.sequence_number().wrapping_sub(first) as usize;
                if message.message_type() == NLMSG_ERROR && place == results.len() + 1 {
                    results.push(error_code(message.payload()));
                }
            }
        }
        Ok(results)
    }

    /// As [`request`](Self::request), for messages no crate encodes: `body` follows the netlink header.
    pub(crate) fn request_raw(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        push_raw(&mut bytes, kind, NLM_F_REQUEST | NLM_F_ACK, self.sequence, body);
        self.send(&bytes)?;
        self.receive(|_, _| {}).map(drop)
    }

    /// Applies nftables messages together or not at all.
    pub(crate) fn batch<M: NetlinkSerializable>(&mut self, items: Vec<BatchItem<M>>) -> io::Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        self.sequence = self.sequence.wrapping_add(1);
        push_raw(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, self.sequence, &BATCH_SUBSYSTEM);
        let last = items.len() - 1;
        let mut acknowledged = self.sequence;
        for (index, item) in items.into_iter().enumerate() {
            let ack = if index == last { NLM_F_ACK } else { 0 };
            bytes.extend(self.serialize(item.message, NLM_F_REQUEST | item.flags | ack));
            acknowledged = self.sequence;
        }
        self.sequence = self.sequence.wrapping_add(1);
        push_raw(&mut bytes, BATCH_END, NLM_F_REQUEST, self.sequence, &BATCH_SUBSYSTEM);
        // The whole batch must fit one socket buffer; beyond net.core.wmem_max the kernel caps the wish.
        SockRef::from(&borrow(&self.socket))
            .set_send_buffer_size(bytes.len().saturating_mul(2).max(64 * 1024))?;
        self.send(&bytes)?;
        self.receive_batch(acknowledged)
    }

    fn serialize<M: NetlinkSerializable>(&mut self, message: M, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut bytes);
        bytes
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }

    /// Reads answers to the last request up to its end. False: a dump during which the kernel's tables changed.
    fn receive(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut consistent = true;
        let mut datagram = vec![0; DATAGRAM];
        loop {
            let length = receive_datagram(&self.socket, &mut datagram, 0)?;
            for message in messages(&datagram[..length]) {
                if message.sequence_number() != self.sequence {
                    continue;
                }
                consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
                match message.message_type() {
                    NLMSG_ERROR => return error_code(message.payload()).map(|()| consistent),
                    NLMSG_DONE => return done_code(message.payload()).map(|()| consistent),
                    NLMSG_NOOP => {}
                    kind => each(kind, message.payload()),
                }
            }
        }
    }

    /// Reads the answers to a batch, all of which are queued when `send` returns: errors in the order of their
    /// messages, among them the acknowledgement asked of the last, which alone does not mean success.
    fn receive_batch(&self, acknowledged: u32) -> io::Result<()> {
        let mut result = Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        let mut refused = false;
        let mut datagram = vec![0; DATAGRAM];
        loop {
            let length = match receive_datagram(&self.socket, &mut datagram, libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return result,
                Err(error) => return Err(error),
            };
            for message in messages(&datagram[..length]) {
                if message.message_type() != NLMSG_ERROR || refused {
                    continue;
                }
                match error_code(message.payload()) {
                    Ok(()) if message.sequence_number() == acknowledged => result = Ok(()),
                    Ok(()) => {}
                    Err(error) => {
                        refused = true;
                        result = Err(error);
                    }
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("fd", &self.socket.as_raw_fd()).finish_non_exhaustive()
    }
}

/// Receives one datagram; one larger than `buffer` is an error, not a truncated answer.
pub(crate) fn receive_datagram(socket: &Socket, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
    loop {
        let mut room = &mut buffer[..];
        match socket.recv(&mut room, flags | libc::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => return Err(io::Error::from(io::ErrorKind::InvalidData)),
            Ok(length) => return Ok(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The messages of one datagram; ends at the first that is cut short.
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let length = (message.length() as usize).next_multiple_of(4).min(datagram.len());
        datagram = &datagram[length..];
        Some(message)
    })
}

/// The message of type `kind`, or nothing where it is of a form the packet crates do not know.
pub(crate) fn decode<M: NetlinkDeserializable>(kind: u16, payload: &[u8]) -> Option<M> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    match M::deserialize(&header, payload) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::debug!(kind, %error, "left out a netlink message");
            None
        }
    }
}

/// The result in `struct nlmsgerr`: a negated errno first, 0 for an acknowledgement.
fn error_code(payload: &[u8]) -> io::Result<()> {
    let Some(&code) = payload.first_chunk() else { return Err(io::Error::from(io::ErrorKind::InvalidData)) };
    match i32::from_ne_bytes(code) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

/// The result at the end of a dump; older kernels send none.
fn done_code(payload: &[u8]) -> io::Result<()> {
    if payload.is_empty() { Ok(()) } else { error_code(payload) }
}

/// Appends a message made by hand: `struct nlmsghdr` (include/uapi/linux/netlink.h), then `body`, padded to 4 bytes.
fn push_raw(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let length = 16 + body.len();
    out.extend_from_slice(&(length as u32).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&0_u32.to_ne_bytes());
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(4), 0);
}
