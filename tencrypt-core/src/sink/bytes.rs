//! Ready sinks on the types of the crate [`bytes`](https://docs.rs/bytes), with the feature `bytes`.
//!
//! [`DatagramQueue`] keeps sealed records and [`PacketQueue`] opened packets until somebody has a use for them: a socket's
//! task, a channel, a TCP/IP stack in user space, another tunnel in the same program. Both are bounded. Each cuts what it
//! gives out from one block of memory, which it uses anew once it is empty and what was taken from it is dropped: a queue
//! in steady use allocates nothing, and what is kept of it keeps the whole block.
//!
//! ```
//! use tencrypt::{
//!     DatagramSink as _, Train, TrainSlot as _,
//!     sink::bytes::{Bytes, DatagramQueue},
//! };
//!
//! let mut queue = DatagramQueue::new(64);
//! // As a tunnel does it: room for a train of two records, sealed in place.
//! let to = "10.0.0.2:8362".parse()?;
//! let mut slot = queue.reserve(Train { to, stride: 4, count: 2, last: 2, ecn: 0 }).ok_or("full")?;
//! slot.buffer().copy_from_slice(b"abcdef");
//! slot.commit(2, 6);
//!
//! let train = queue.pop().ok_or("empty")?;
//! assert_eq!((train.to, train.stride), (to, 4));
//! assert!(train.records().eq([&b"abcd"[..], b"ef"]));
//! let sent: Bytes = train.bytes.freeze(); // not copied
//! assert_eq!(sent, &b"abcdef"[..]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{collections::VecDeque, fmt, iter, net::SocketAddr};

pub use ::bytes::{Bytes, BytesMut};

use super::{DatagramSink, PacketSink, RecvMeta, SinkFull, Train, TrainSlot, Transmit};
use crate::offload::{Opened, VnetHdr};

/// Sealed records of one train, or a control datagram, to be sent.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuedTrain {
    /// Destination of the records.
    pub to: SocketAddr,
    /// Bytes of every record but the last, which may be shorter.
    pub stride: u16,
    /// The two ECN bits of the outer header (RFC 3168 section 5).
    pub ecn: u8,
    /// [`Transmit::from_tenant_port`]; records leave from their lane's own port.
    pub from_tenant_port: bool,
    /// The records, one behind the other.
    pub bytes: BytesMut,
}

impl QueuedTrain {
    /// Returns the records, each a datagram.
    pub fn records(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.bytes.chunks(self.stride.max(1).into())
    }

    /// Takes the train apart into its records, without a copy.
    pub fn into_records(self) -> impl Iterator<Item = Bytes> {
        let stride = usize::from(self.stride.max(1));
        let mut rest = self.bytes.freeze();
        iter::from_fn(move || (!rest.is_empty()).then(|| rest.split_to(stride.min(rest.len()))))
    }

    /// Returns what its receiver knows of the train if it arrives as it is: for tunnels in one program.
    #[must_use]
    pub fn received_from(&self, from: SocketAddr) -> RecvMeta {
        RecvMeta { from, stride: self.stride, ecn: self.ecn }
    }
}

impl fmt::Debug for QueuedTrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedTrain")
            .field("to", &self.to)
            .field("stride", &self.stride)
            .field("ecn", &self.ecn)
            .field("from_tenant_port", &self.from_tenant_port)
            .field("len", &self.bytes.len())
            .finish()
    }
}

/// Datagrams to be sent, in their order: the records that a tunnel seals, and what it says besides.
pub struct DatagramQueue {
    block: Block,
    trains: VecDeque<QueuedTrain>,
    /// Records in `trains`.
    records: usize,
    /// Bytes in `trains`.
    bytes: usize,
    capacity: usize,
}

impl DatagramQueue {
    /// An empty queue for at most `capacity` datagrams. It allocates when it is used.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { block: Block::default(), trains: VecDeque::new(), records: 0, bytes: 0, capacity }
    }

    /// Puts a control datagram, the first bytes of the buffer it was written into, behind what waits.
    ///
    /// # Errors
    /// [`SinkFull`] if there is no room.
    pub fn push(&mut self, transmit: &Transmit, buffer: &[u8]) -> Result<(), SinkFull> {
        if self.records == self.capacity {
            return Err(SinkFull);
        }
        let Transmit { to, len, ecn, from_tenant_port } = *transmit;
        let datagram = buffer.get(..len).unwrap_or(buffer);
        let stride = u16::try_from(datagram.len()).map_err(|_long| SinkFull)?;
        let bytes = self.block.copy(datagram, self.bytes);
        self.append(QueuedTrain { to, stride, ecn, from_tenant_port, bytes }, 1);
        Ok(())
    }

    /// Takes the next train.
    pub fn pop(&mut self) -> Option<QueuedTrain> {
        let train = self.trains.pop_front()?;
        self.records -= train.records().len();
        self.bytes -= train.bytes.len();
        Some(train)
    }

    /// Takes all trains.
    pub fn drain(&mut self) -> impl Iterator<Item = QueuedTrain> {
        iter::from_fn(|| self.pop())
    }

    /// The number of datagrams that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records
    }

    /// Tells if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    fn append(&mut self, train: QueuedTrain, records: usize) {
        self.records += records;
        self.bytes += train.bytes.len();
        self.trains.push_back(train);
    }
}

impl fmt::Debug for DatagramQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramQueue")
            .field("len", &self.records)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl DatagramSink for DatagramQueue {
    type Slot<'s> = QueueSlot<'s>;

    /// Room for as many records of the train as may wait in the queue still.
    #[inline]
    fn reserve(&mut self, want: Train) -> Option<QueueSlot<'_>> {
        let left = u16::try_from(self.capacity - self.records).unwrap_or(u16::MAX);
        if left == 0 {
            return None;
        }
        let (count, len) = if left < want.count {
            (left, usize::from(want.stride) * usize::from(left))
        } else {
            (want.count, want.total_len())
        };
        self.block.make_room(len, self.bytes);
        self.block.free.resize(len, 0);
        Some(QueueSlot { queue: self, want, count })
    }
}

/// Room for a train in a [`DatagramQueue`].
#[derive(Debug)]
#[doc(hidden)]
pub struct QueueSlot<'s> {
    queue: &'s mut DatagramQueue,
    want: Train,
    /// Records that fit.
    count: u16,
}

impl TrainSlot for QueueSlot<'_> {
    #[inline]
    fn records(&self) -> u16 {
        self.count
    }

    #[inline]
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.queue.block.free
    }

    #[inline]
    fn commit(self, records: u16, len: usize) {
        if records == 0 {
            return;
        }
        let Train { to, ecn, stride, .. } = self.want;
        self.queue.block.free.truncate(len);
        let bytes = self.queue.block.free.split();
        // The only record of a train may be its last and shorter one.
        let stride = if records == 1 { bytes.len() as u16 } else { stride };
        self.queue.append(QueuedTrain { to, stride, ecn, from_tenant_port: false, bytes }, records.into());
    }
}

/// An opened packet for the device, or for whatever takes its place.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueuedPacket {
    /// State of its checksums. With [`TunnelConfig::vnet`](crate::TunnelConfig::vnet) off they are finished.
    pub vnet: VnetHdr,
    /// The IP packet.
    pub bytes: BytesMut,
}

impl fmt::Debug for QueuedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedPacket").field("vnet", &self.vnet).field("len", &self.bytes.len()).finish()
    }
}

/// Opened packets, copied out of the receive buffer, in their order.
pub struct PacketQueue {
    block: Block,
    packets: VecDeque<QueuedPacket>,
    /// Bytes in `packets`.
    bytes: usize,
    capacity: usize,
}

impl PacketQueue {
    /// An empty queue for at most `capacity` packets. It allocates when it is used.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { block: Block::default(), packets: VecDeque::new(), bytes: 0, capacity }
    }

    /// Puts a packet behind what waits: one that comes back to the device, for example.
    ///
    /// # Errors
    /// [`SinkFull`] if there is no room.
    pub fn push(&mut self, vnet: VnetHdr, packet: &[u8]) -> Result<(), SinkFull> {
        if self.packets.len() == self.capacity {
            return Err(SinkFull);
        }
        let bytes = self.block.copy(packet, self.bytes);
        self.bytes += packet.len();
        self.packets.push_back(QueuedPacket { vnet, bytes });
        Ok(())
    }

    /// Takes the next packet.
    pub fn pop(&mut self) -> Option<QueuedPacket> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.bytes.len();
        Some(packet)
    }

    /// Takes all packets.
    pub fn drain(&mut self) -> impl Iterator<Item = QueuedPacket> {
        iter::from_fn(|| self.pop())
    }

    /// The number of packets that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Tells if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

impl fmt::Debug for PacketQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketQueue")
            .field("len", &self.packets.len())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// News for other lanes are left to the tunnel, which has them before anything else it has to say: they are to be brought
/// there before the packets are taken from here.
impl<'b> PacketSink<'b> for PacketQueue {
    #[inline]
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.push(packet.vnet(), packet.bytes())
    }
}

/// The memory that a queue cuts its entries from.
#[derive(Default)]
struct Block {
    /// The part that is left.
    free: BytesMut,
    /// Bytes of a whole block.
    size: usize,
}

impl Block {
    /// Makes room for `len` bytes in `free`, while entries of `queued` bytes wait.
    #[inline]
    fn make_room(&mut self, len: usize, queued: usize) {
        // A slot that was not committed leaves its records here.
        self.free.clear();
        // An empty queue begins at the start of the block again; not if somebody keeps what was taken from it.
        let is_whole = queued == 0 && self.free.try_reclaim(self.size);
        if !(is_whole && self.size >= len || self.free.try_reclaim(len)) {
            self.grow(len, queued);
        }
    }

    /// Takes another block, for all that waits and `len` bytes: as much fits into it the next time.
    #[cold]
    fn grow(&mut self, len: usize, queued: usize) {
        self.size = self.size.max((queued + len).next_power_of_two());
        self.free = BytesMut::with_capacity(self.size);
    }

    /// Cuts off a copy of `bytes`.
    #[inline]
    fn copy(&mut self, bytes: &[u8], queued: usize) -> BytesMut {
        self.make_room(bytes.len(), queued);
        self.free.extend_from_slice(bytes);
        self.free.split()
    }
}
