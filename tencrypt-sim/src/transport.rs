//! The end that a pod's tunnel delivers to.

use tencrypt::{News, PacketSink, SinkFull, offload::Opened, sink::bytes::PacketQueue};

/// Records or packets that one input makes, at most.
pub(crate) const ROOM: usize = 1_024;

/// A device that takes everything.
pub(crate) struct Inbox {
    pub(crate) packets: PacketQueue,
    pub(crate) news: Vec<News>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { packets: PacketQueue::new(ROOM), news: Vec::new() }
    }
}

impl<'b> PacketSink<'b> for Inbox {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.packets.packet(packet)
    }

    fn news(&mut self, news: News) -> Result<(), News> {
        self.news.push(news);
        Ok(())
    }
}
