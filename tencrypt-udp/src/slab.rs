//! The send buffer: messages in the order of their commits, in one piece of memory that is never reallocated.
//!
//! A message is what one `sendmsg` takes: one record, or several for one destination that the kernel cuts apart again
//! (`UDP_SEGMENT`, udp(7)), all of one length but the last, which may be shorter. Commits that continue the last message
//! become part of it, so packets that come one by one make trains too.

use std::net::SocketAddr;

use tencrypt::{Train, TrainSlot};

use crate::{address::RawAddress, buffer::Buffer, sys::Outgoing};

/// Bytes of the buffer: two of the largest messages. More would leave the cache before the kernel reads it.
const BYTES: usize = 128 << 10;

/// Messages it takes.
pub(crate) const MESSAGES: usize = 64;

/// Records in a message: `UDP_MAX_SEGMENTS` of Linux before 6.9 (include/linux/udp.h; 128 since, and nothing tells
/// which it is but a refusal). Full-sized records on a 1500-byte link never reach it: 44 fill the largest datagram.
pub(crate) const SEGMENTS: u16 = 64;

/// Bytes of the largest UDP payload: 65,535 less the UDP header, and for IPv4 less the IP header, which its length
/// counts in (RFC 768, RFC 791 section 3.1, RFC 8200 section 3). The kernel holds a message to it as a whole.
const V4_PAYLOAD: usize = 65_507;
const V6_PAYLOAD: usize = 65_527;

/// Records for one destination that wait to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) to: SocketAddr,
    address: RawAddress,
    ecn: u8,
    /// Bytes of every record but the last.
    pub(crate) stride: u16,
    /// At least 1.
    pub(crate) records: u16,
    /// The last record is as long as the others: one more may follow.
    open: bool,
    at: usize,
    len: usize,
}

impl Message {
    /// One datagram for the kernel with all records, which it cuts apart if there are several.
    pub(crate) fn whole<'s>(&'s self, slab: &'s Slab) -> Outgoing<'s> {
        let segment = if self.records > 1 { self.stride } else { 0 };
        Outgoing { address: &self.address, bytes: slab.bytes_of(self), segment, ecn: self.ecn }
    }

    /// One datagram with `record` alone.
    pub(crate) fn single<'s>(&'s self, record: &'s [u8]) -> Outgoing<'s> {
        Outgoing { address: &self.address, bytes: record, segment: 0, ecn: self.ecn }
    }
}

/// The buffer.
pub(crate) struct Slab {
    bytes: Buffer,
    used: usize,
    messages: Vec<Message>,
    /// Records a message may have.
    segments: u16,
}

impl Slab {
    pub(crate) fn new(segments: u16) -> Self {
        let messages = Vec::with_capacity(MESSAGES);
        Self { bytes: Buffer::new(BYTES), used: 0, messages, segments: segments.max(1) }
    }

    pub(crate) fn make_huge(&mut self) {
        self.bytes.make_huge();
    }

    /// Changes how many records the messages to come may have.
    pub(crate) fn set_segments(&mut self, segments: u16) {
        self.segments = segments.max(1);
    }

    /// Tells if as much of `want` fits as one message takes. An empty buffer has room for any.
    pub(crate) fn has_room(&self, want: Train) -> bool {
        self.messages.len() < MESSAGES && self.bytes.len() - self.used >= self.prefix(want).1
    }

    /// Room for as much of `want` as one message takes.
    pub(crate) fn slot(&mut self, want: Train) -> Option<SendSlot<'_>> {
        let (records, len) = self.prefix(want);
        (len > 0 && self.has_room(want)).then_some(SendSlot { slab: self, want, records, len })
    }

    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(crate) fn bytes_of(&self, message: &Message) -> &[u8] {
        self.bytes.get(message.at..message.at + message.len).unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.used = 0;
    }

    /// The longest prefix of `want` that one message takes: records and bytes.
    fn prefix(&self, want: Train) -> (u16, usize) {
        let stride = usize::from(record_len(want));
        let longest = longest_payload(want.to);
        if want.count <= 1 {
            return (1, stride);
        }
        let total = stride * usize::from(want.count - 1) + usize::from(want.last.min(want.stride));
        if want.count <= self.segments && total <= longest {
            return (want.count, total);
        }
        let fit = longest.checked_div(stride).and_then(|fit| u16::try_from(fit).ok()).unwrap_or(u16::MAX);
        let records = fit.min(self.segments).min(want.count - 1).max(1);
        (records, stride * usize::from(records))
    }

    /// Appends `len` bytes behind what is there, as records of `stride` bytes.
    fn append(&mut self, to: SocketAddr, ecn: u8, stride: u16, len: usize) {
        // Not the caller's count: the kernel cuts by length.
        let records = len.div_ceil(usize::from(stride)) as u16;
        let stride = if records == 1 { len as u16 } else { stride };
        let full = len == usize::from(stride) * usize::from(records);
        let at = self.used;
        self.used += len;
        if let Some(last) = self.messages.last_mut()
            && last.open
            && (last.to, last.ecn) == (to, ecn)
            && (stride == last.stride || records == 1 && stride < last.stride)
            && last.len + len <= longest_payload(to)
            && last.records + records <= self.segments
        {
            last.len += len;
            last.records += records;
            last.open = full && stride == last.stride;
            return;
        }
        let address = RawAddress::from(to);
        self.messages.push(Message { to, address, ecn, stride, records, open: full, at, len });
    }
}

fn longest_payload(to: SocketAddr) -> usize {
    if to.is_ipv4() { V4_PAYLOAD } else { V6_PAYLOAD }
}

/// Bytes of a train's first record.
fn record_len(want: Train) -> u16 {
    if want.count <= 1 { want.last } else { want.stride }
}

/// Room for the first records of a train in a [`UdpTransport`](crate::UdpTransport).
#[must_use = "nothing is sent without a commit"]
pub struct SendSlot<'s> {
    slab: &'s mut Slab,
    want: Train,
    records: u16,
    len: usize,
}

impl TrainSlot for SendSlot<'_> {
    fn records(&self) -> u16 {
        self.records
    }

    fn buffer(&mut self) -> &mut [u8] {
        let at = self.slab.used;
        &mut self.slab.bytes[at..at + self.len]
    }

    fn commit(self, records: u16, len: usize) {
        let stride = record_len(self.want);
        let len = len.min(self.len).min(usize::from(stride) * usize::from(records));
        if len > 0 {
            self.slab.append(self.want.to, self.want.ecn, stride, len);
        }
    }
}

#[cfg(test)]
mod tests;
