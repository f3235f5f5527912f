//! Sinks of records and packets that nothing sends: buffers that are made once.

use std::{hint::black_box, net::SocketAddr, time::Instant};

use tencrypt::{
    DatagramSink, Inbound, PacketSink, RecvMeta, SinkFull, Train, TrainSlot, Tunnel, offload::Opened,
};

/// Trains of a slab.
const TRAINS: usize = 64;

/// A send buffer that takes whole trains, one behind the other, and hands them to the receiver in place. Records that
/// follow each other with the same destination and length are one train, as UDP GSO and GRO make them.
#[derive(Debug)]
pub struct Slab {
    bytes: Box<[u8]>,
    used: usize,
    trains: Vec<Train>,
}

impl Slab {
    /// An empty one for this many bytes of records.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes].into(), used: 0, trains: Vec::with_capacity(TRAINS) }
    }

    /// Forgets what is in it.
    pub fn clear(&mut self) {
        self.used = 0;
        self.trains.clear();
    }

    /// The records, one behind the other.
    #[must_use]
    pub fn records(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// The trains in it.
    #[must_use]
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// Hands everything to the receiver `to`, as received from `from`, and forgets it.
    pub fn deliver<'b>(
        &'b mut self,
        from: SocketAddr,
        to: &mut Tunnel,
        now: Instant,
        sink: &mut impl PacketSink<'b>,
    ) -> Inbound {
        let mut sum = Inbound::default();
        let mut rest = &mut self.bytes[..self.used];
        for train in self.trains.drain(..) {
            let (records, behind) = rest.split_at_mut(train.total_len());
            rest = behind;
            let meta = RecvMeta::new(from, train.stride).with_ecn(train.ecn);
            let inbound = to.handle_datagrams(&meta, records, now, sink);
            sum.opened += inbound.opened;
            sum.dropped += inbound.dropped;
            sum.control += inbound.control;
        }
        self.used = 0;
        sum
    }
}

impl DatagramSink for Slab {
    type Slot<'s> = Room<'s>;

    #[inline]
    fn reserve(&mut self, want: Train) -> Option<Room<'_>> {
        let end = self.used + want.total_len();
        (end <= self.bytes.len()).then_some(Room { slab: self, want, end })
    }
}

/// Room for a train in a [`Slab`].
#[derive(Debug)]
pub struct Room<'s> {
    slab: &'s mut Slab,
    want: Train,
    end: usize,
}

impl TrainSlot for Room<'_> {
    fn records(&self) -> u16 {
        self.want.count
    }

    #[inline]
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.slab.bytes[self.slab.used..self.end]
    }

    #[inline]
    fn commit(self, records: u16, len: usize) {
        if records == 0 {
            return;
        }
        let last = len - usize::from(self.want.stride) * usize::from(records - 1);
        let train = Train { count: records, last: last as u16, ..self.want };
        self.slab.used += len;
        match self.slab.trains.last_mut() {
            Some(open) if open.last == open.stride && open.to == train.to && open.stride == train.stride => {
                open.count += train.count;
                open.last = train.last;
            }
            _ => self.slab.trains.push(train),
        }
    }
}

/// Counts packets, and looks at nothing but their length.
#[derive(Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a plain sum")]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl<'b> PacketSink<'b> for Count {
    #[inline]
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.packets += 1;
        self.bytes += black_box(packet.bytes()).len() as u64;
        Ok(())
    }
}

/// Keeps packets, in place.
#[derive(Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a list by another name")]
pub struct Kept<'b>(pub Vec<Opened<'b>>);

impl<'b> PacketSink<'b> for Kept<'b> {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.0.push(packet);
        Ok(())
    }
}
