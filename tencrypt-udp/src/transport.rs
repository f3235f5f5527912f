//! The transport: its state, and what is neither sending nor receiving.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::BorrowedFd,
    time::Instant,
};

use tencrypt::{DatagramSink, Inbound, Train};

use crate::{
    address::RawAddress,
    bind::{BindError, Family, Sockets},
    flood_filter::FloodFilter,
    path::PathError,
    report::{Reports, UdpStats},
    send::{Refusing, Sender},
    slab::{SEGMENTS, SendSlot, Slab},
    sys::{self, Outgoing},
};

/// UDP over IPv4 and IPv6 on one port. See the [crate documentation](crate).
pub struct UdpTransport {
    pub(crate) sockets: Sockets,
    slab: Slab,
    refusing: Refusing,
    pub(crate) reports: Reports,
    /// True while offload is wanted.
    wanted: bool,
    /// Offload that there is.
    offload: SegmentationOffload,
    flood_filter: FloodFilter,
    /// The family asked first by the next receive, so that neither starves.
    pub(crate) next: Family,
}

/// Segmentation that the kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentationOffload {
    /// Several records leave in one message (`UDP_SEGMENT`, Linux 4.18). A destination whose path refuses it gets its
    /// records one by one all the same.
    pub send: bool,
    /// Several records arrive in one message if the kernel has them joined (`UDP_GRO`, Linux 5.0).
    pub receive: bool,
}

impl UdpTransport {
    /// Opens the sockets on `port` (0: the kernel picks one that is free in both families), in the calling thread's
    /// network namespace. `set_up` is given each socket before it is bound, to mark it for instance. A family that
    /// the kernel lacks is left out.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(port: u16, set_up: impl FnMut(&UdpSocket) -> io::Result<()>) -> Result<Self, BindError> {
        Sockets::bind(port, set_up).map(Self::over)
    }

    /// Takes sockets made elsewhere, bound to the same port; the IPv6 one must not take IPv4 too.
    ///
    /// # Errors
    /// [`BindError::NoFamily`] without a socket, [`BindError::Mismatch`] if they do not belong together,
    /// [`BindError::Socket`] if the kernel refuses an option.
    pub fn from_sockets(v4: Option<UdpSocket>, v6: Option<UdpSocket>) -> Result<Self, BindError> {
        Sockets::from_sockets(v4, v6).map(Self::over)
    }

    fn over(sockets: Sockets) -> Self {
        let mut transport = Self {
            sockets,
            slab: Slab::new(1),
            refusing: Refusing::new(),
            reports: Reports::new(),
            wanted: false,
            offload: SegmentationOffload { send: false, receive: false },
            flood_filter: FloodFilter::new(),
            next: Family::V4,
        };
        transport.set_offload(true);
        transport
    }

    /// Switches segmentation offload on, as it is from the beginning and as far as the kernel has it, or off: then every
    /// record is a system call of its own. Sends what waits; what was received joined and not taken yet may be lost
    /// when it is switched off.
    pub fn set_offload(&mut self, on: bool) {
        self.flush();
        self.wanted = on;
        // A kernel that does not know the option ignores the control message without a word.
        let send = on && self.sockets.all(|socket| sys::option(socket, libc::SOL_UDP, libc::UDP_SEGMENT));
        let receive =
            self.sockets.all(|socket| sys::set_option(socket, libc::SOL_UDP, libc::UDP_GRO, i32::from(on)));
        self.offload = SegmentationOffload { send, receive: on && receive };
        self.slab.set_segments(if send { SEGMENTS } else { 1 });
        self.refusing.clear();
    }

    /// The offload that holds now.
    #[must_use]
    pub fn offload(&self) -> SegmentationOffload {
        self.offload
    }

    /// Moves the send buffer to a huge page, for a transport in steady use; see
    /// [`Buffer::make_huge`](crate::Buffer::make_huge).
    pub fn make_huge(&mut self) {
        self.slab.make_huge();
    }

    /// Sends what waits in the send buffer.
    pub fn flush(&mut self) {
        let (mut sender, slab) = self.sender();
        sender.flush(slab);
        slab.clear();
    }

    /// Sends one datagram behind what waits already.
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8], ecn: u8) {
        self.flood_filter.note_sent(bytes);
        self.flush();
        self.sender().0.send(to, Outgoing { address: &RawAddress::from(to), bytes, segment: 0, ecn });
    }

    /// The next statement about a path. To be polled after [`recv`](Self::recv), [`flush`](Self::flush),
    /// [`send`](Self::send) and [`drain_path_errors`](Self::drain_path_errors).
    pub fn poll_path_error(&mut self) -> Option<PathError> {
        self.reports.path_errors.pop_front()
    }

    /// Reads the sockets' error queues; for the caller who sees `POLLERR` on a descriptor.
    pub fn drain_path_errors(&mut self) {
        for family in [Family::V4, Family::V6] {
            if let Some(socket) = self.sockets.of(family) {
                self.reports.drain(socket, None);
            }
        }
    }

    /// Tells if [`poll_path_error`](Self::poll_path_error) has something to say.
    #[must_use]
    pub fn has_path_error(&self) -> bool {
        !self.reports.path_errors.is_empty()
    }

    /// Takes note of what became of one receive from `from`: the core's outcome for it.
    ///
    /// Above 2.5 % of a processor spent on what proved nothing, or 12 times that while next to nothing is proven, a socket
    /// filter admits only a share of that kind (handshake messages, or records) from that source and from those that share
    /// a hash with it (one of 64). Records of sessions that were proven lately are always admitted.
    ///
    /// [`handle_timeout`](Self::handle_timeout) has to be called as well.
    pub fn note_received(&mut self, from: SocketAddr, inbound: &Inbound, now: Instant) {
        if self.flood_filter.note_received(from, inbound, now) {
            self.handle_timeout(now);
        }
    }

    /// Changes the filter as need be; to be called at [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.flood_filter.handle_timeout(now) {
            return;
        }
        for family in [Family::V4, Family::V6] {
            let Some(socket) = self.sockets.of(family) else { continue };
            let program = self.flood_filter.program(family);
            let done = match program.is_empty() {
                true => sys::detach_filter(socket),
                false => sys::attach_filter(socket, &program),
            };
            self.reports.stats.filters_refused += u64::from(done.is_err());
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due; `None` while all is quiet.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flood_filter.poll_timeout()
    }

    /// Tells if a filter keeps something out now.
    #[must_use]
    pub fn is_filtering(&self) -> bool {
        self.flood_filter.is_active()
    }

    /// Datagrams and trains that the kernel dropped at the sockets, because a filter kept them out or there was no room;
    /// 0 if it does not say. The kernel counts to 2^32 a socket and begins again.
    #[must_use]
    pub fn kernel_drops(&self) -> u64 {
        let sockets = [Family::V4, Family::V6].into_iter().filter_map(|family| self.sockets.of(family));
        sockets.map(|socket| u64::from(sys::kernel_drops(socket).unwrap_or(0))).sum()
    }

    /// The port both sockets are bound to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.sockets.port
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &UdpStats {
        &self.reports.stats
    }

    /// The socket of `family`, to poll it; `None` if the family does not exist here.
    #[must_use]
    pub fn socket(&self, family: Family) -> Option<BorrowedFd<'_>> {
        self.sockets.of(family)
    }

    fn sender(&mut self) -> (Sender<'_>, &mut Slab) {
        let batch = if self.wanted { sys::BATCH } else { 1 };
        let Self { sockets, refusing, reports, slab, .. } = self;
        (Sender { sockets, refusing, reports, batch }, slab)
    }
}

impl DatagramSink for UdpTransport {
    type Slot<'s> = SendSlot<'s>;

    /// Room for as many records as one message takes. What waits is sent first if there is not as much room left.
    fn reserve(&mut self, want: Train) -> Option<SendSlot<'_>> {
        if !self.slab.has_room(want) {
            self.flush();
        }
        self.slab.slot(want)
    }
}
