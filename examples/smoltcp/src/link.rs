//! The device that smoltcp sees: two queues of packets.

use std::collections::VecDeque;

use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use tencrypt::sink::bytes::{BytesMut, PacketQueue};

/// Packets that may wait in a direction.
const ROOM: usize = 256;

/// Packets from the tunnel for the stack, and from the stack for the tunnel.
pub(crate) struct Link {
    mtu: usize,
    pub(crate) arrived: PacketQueue,
    pub(crate) sent: VecDeque<Vec<u8>>,
}

impl Link {
    /// A link for packets of at most `mtu` bytes.
    pub(crate) fn new(mtu: u16) -> Self {
        Self { mtu: mtu.into(), arrived: PacketQueue::new(ROOM), sent: VecDeque::new() }
    }
}

impl Device for Link {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Arrived, Room<'_>)> {
        let packet = self.arrived.pop()?;
        Some((Arrived(packet.bytes), Room(&mut self.sent)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        (self.sent.len() < ROOM).then_some(Room(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A packet for the stack.
pub(crate) struct Arrived(BytesMut);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

/// Room for a packet of the stack.
pub(crate) struct Room<'l>(&'l mut VecDeque<Vec<u8>>);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}
