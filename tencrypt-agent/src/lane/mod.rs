//! The lane: one thread that owns device, transport and tunnel, and runs every packet to completion.
//!
//! It waits in one poll for the device, the sockets, the control plane and the tunnel's next deadline. There is no
//! channel, lock or task between reading a packet and sending it.

pub(crate) mod awaiting_bypass;
pub(crate) mod channel;
mod commands;
pub(crate) mod delivery;
pub(crate) mod freshness;
mod patience;
pub(crate) mod threads;

use std::{
    io, mem,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use tencrypt::{
    Event, LaneId, Outbound, PathEvent, RecvMeta, TunPacket, Tunnel, offload::VnetHdr, record::init_lane,
};
use tencrypt_tun::{RawSockets, Received, TunDevice};
use tencrypt_udp::{Buffer, Family, PathErrorKind, UdpTransport};
use tokio::sync::mpsc;

pub(crate) use self::commands::About;
use self::patience::Patience;
use crate::{
    config::offload::Offload,
    lane::awaiting_bypass::Opening,
    lane::channel::{Handed, Inbox, Lanes},
    lane::delivery::{DeviceSink, write_back},
    lane::freshness::Freshness,
    lane::freshness::boot_clock,
    os::sys,
    supervisor::clone_guard::{self as renewal},
};

/// Packets and datagrams taken in one turn before the other side gets its own.
const BURST: usize = 32;

/// Turns before the control plane and the timers get theirs: some milliseconds of work.
const TURNS: usize = 4;

/// Looks at device and sockets before the lane goes to sleep: some 3 microseconds.
const LOOKS: u32 = 3;

/// Bytes that a wake-up must have moved for the lane to look again: most of a train. Whoever sends less is served as soon
/// from sleep.
const BULK: usize = 32 << 10;

/// How long a lane stays awake before the control plane and the error queues get their turn.
const STRETCH: Duration = Duration::from_millis(2);

/// The first byte of an INIT (docs/wire-format.md section 1).
const INIT: u8 = 1;

/// Bytes of a datagram that say what it claims to be: all that the transport looks at.
const HEAD: usize = 8;

/// Bytes of the largest datagram, which any record fits.
pub(crate) const DATAGRAM: usize = 65_535;

/// Room for the largest packet with its virtio-net header, and for the largest datagram.
const BUFFER: usize = VnetHdr::LEN + 65_535;

/// What a lane owns.
pub(crate) struct DataPath {
    /// Which lane it is.
    pub lane: LaneId,
    /// All lanes of the pod, for handshake messages.
    pub lanes: Lanes,
    /// The device.
    pub device: Arc<TunDevice>,
    /// What of offload is wanted.
    pub offload: Offload,
    /// The transport.
    pub transport: UdpTransport,
    /// The tunnel.
    pub tunnel: Tunnel,
    /// Sockets for packets that leave as they are.
    pub raw: RawSockets,
    /// What waits for a way around the tunnel.
    pub opening: Opening,
    /// Commands from the control plane.
    pub inbox: Inbox,
    /// Events for the control plane.
    pub events: mpsc::Sender<Event>,
    /// What `status` says beside the counters.
    pub about: About,
    /// This pod's own addresses, for `explain`.
    pub addresses: Vec<IpAddr>,
    /// Whether its keys may still be used.
    pub freshness: Arc<Freshness>,
    /// Which time they were made, as that counts.
    pub renewal: u64,
    /// What it said when it was last asked. While it is false, nothing is read, and nothing leaves.
    pub fresh: bool,
    /// Room for what the tunnel sends of its own accord: [`DATAGRAM`] bytes.
    pub control: Box<[u8]>,
}

/// Where something is to be had, as far as is known.
#[derive(Clone, Copy, Default)]
struct Readable {
    v4: bool,
    v6: bool,
    device: bool,
}

impl Readable {
    fn of(&mut self, family: Family) -> &mut bool {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// Why a lane ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// The device is gone: somebody removed it.
    DeviceGone,
    /// Waiting or reading failed for good.
    Failed(io::Error),
}

impl DataPath {
    /// Runs until it is told to stop, or cannot go on.
    pub(crate) fn run(mut self) -> Ended {
        let mut buffer = Buffer::new(BUFFER);
        let mut is_huge = false;
        let mut before = Readable::default();
        let mut patience = Patience::default();
        loop {
            let worked = self.wait(&mut buffer).and_then(|(now, moved)| {
                // One end of the lane wakes it up, the other mostly has the answer.
                let lately = Readable { v4: now.v4 || before.v4, v6: now.v6 || before.v6, ..now };
                before = now;
                if moved < BULK {
                    return Ok(());
                }
                if !mem::replace(&mut is_huge, true) {
                    buffer.make_huge();
                    self.transport.make_huge();
                }
                self.linger(lately, &mut patience, &mut buffer)
            });
            if let Err(ended) = worked {
                return ended;
            }
        }
    }

    /// Sleeps until there is something to do, and does it. Returns where there was something, and the bytes moved.
    fn wait(&mut self, buffer: &mut [u8]) -> Result<(Readable, usize), Ended> {
        let waited = if self.fresh {
            let due = [self.tunnel.poll_timeout(), self.transport.screen_due()].into_iter().flatten().min();
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            let descriptors = [
                Some(self.inbox.as_fd()),
                Some(self.device.as_fd()),
                self.transport.socket(Family::V4),
                self.transport.socket(Family::V6),
            ];
            sys::poll(descriptors, timeout)
        } else {
            // For new keys, or the word that the old ones are good after all.
            sys::poll([Some(self.inbox.as_fd()), None, None, None], Some(renewal::LOOK))
        };
        let [inbox, device, v4, v6] = waited.map_err(Ended::Failed)?;
        let resumes = !self.fresh;
        self.check_fresh();
        if inbox.readable && self.obey() {
            return Err(Ended::Stopped);
        }
        if !self.fresh {
            return Ok((Readable::default(), 0));
        }
        if inbox.readable || resumes {
            self.take_handed();
        }
        self.take_news();
        self.tend();
        if v4.error || v6.error {
            self.transport.drain_path_errors();
        }
        self.heed_path();
        let lately = Readable { v4: v4.readable, v6: v6.readable, device: device.readable || device.error };
        Ok((lately, self.work(lately, buffer)?))
    }

    /// Looks again a few times, after whoever else is waiting for the processor, before it goes to sleep: under load the
    /// next train has come by then, and neither this thread is put to sleep nor the sender made to wake it.
    ///
    /// Measured with one TCP stream between two pods on two cores, medians of three: 8.6 Gbit/s when it sleeps at once,
    /// 9.3 to 9.6 with 3 to 40 looks. Spinning without yielding, 20 to 100 microseconds, gains nothing on one stream and
    /// doubles round trips, for it takes the applications' time. Where somebody keeps the processor busy, a yield costs
    /// that one's time slice, while a thread that sleeps is woken at once: with two busy loops beside it, mean round
    /// trips rose from 0.15 to 8 ms. Therefore [`Patience`].
    fn linger(&mut self, lately: Readable, patience: &mut Patience, buffer: &mut [u8]) -> Result<(), Ended> {
        let begun = Instant::now();
        let mut misses = 0;
        while misses < LOOKS && begun.elapsed() < STRETCH && patience.yield_now() {
            if !self.check_fresh() {
                break;
            }
            self.tend();
            // An answer may come from the device whatever came last.
            let found = self.work(Readable { device: true, ..lately }, buffer)? > 0;
            misses = if found { 0 } else { misses + 1 };
        }
        Ok(())
    }

    /// Takes turns between network and device while there is something: what one of them is given mostly has the other
    /// answer at once, an acknowledgement or the next train, and asking for it costs less than waiting again.
    /// Returns the bytes moved.
    fn work(&mut self, mut ready: Readable, buffer: &mut [u8]) -> Result<usize, Ended> {
        let mut moved = 0;
        for turn in 0..TURNS {
            if turn > 0 && !self.check_fresh() {
                break;
            }
            let before = moved;
            for family in [Family::V4, Family::V6] {
                if *ready.of(family) {
                    let received = self.receive(family, buffer);
                    *ready.of(family) = received > 0;
                    ready.device |= received > 0;
                    moved += received;
                }
            }
            if ready.device {
                let read = match self.read(buffer) {
                    Ok(Some(read)) => read,
                    Ok(None) => return Err(Ended::DeviceGone),
                    Err(error) => return Err(Ended::Failed(error)),
                };
                ready.device = read > 0;
                moved += read;
            }
            if moved == before {
                break;
            }
        }
        Ok(moved)
    }

    /// Looks whether its keys may still be used: no system call, some 45 ns each time, once or twice a wake-up.
    fn check_fresh(&mut self) -> bool {
        self.fresh = self.freshness.is_current(self.renewal, boot_clock());
        self.fresh
    }

    /// From the device to the network. Returns the bytes read, `None` when the device is gone.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let now = Instant::now();
        let mut moved = 0;
        for _ in 0..BURST {
            let (vnet, len) = match self.device.read(buffer)? {
                Received::Packet { vnet, len } => (vnet, len),
                Received::Empty => break,
                Received::Malformed => continue,
                Received::Gone => return Ok(None),
                _ => break,
            };
            moved += VnetHdr::LEN + len;
            // Whatever lanes have done that this packet answers, they said before.
            self.take_news();
            let Some(bytes) = buffer.get_mut(VnetHdr::LEN..VnetHdr::LEN + len) else { continue };
            let mut packet = TunPacket::new(vnet, bytes);
            let outcome = self.tunnel.handle_outbound(&mut packet, now, &mut self.transport);
            tell(&mut self.tunnel, &self.lanes, self.lane);
            match outcome {
                Outbound::Sent { .. } | Outbound::Dropped(_) => {}
                Outbound::Hairpin => {
                    if !write_back(&self.device, &packet) {
                        self.tunnel.undelivered(1);
                    }
                }
                Outbound::Bypass => {
                    // First, so that the control plane has been told of a new destination.
                    self.drain(now);
                    let (raw, opening) = (&self.raw, &mut self.opening);
                    packet.finish_segments(|segment| pass(raw, opening, segment));
                }
                Outbound::Held => self.drain(now),
            }
        }
        self.transport.flush();
        self.drain(now);
        Ok(Some(moved))
    }

    /// From the network to the device. Returns the bytes received; an empty datagram counts as one.
    fn receive(&mut self, family: Family, buffer: &mut [u8]) -> usize {
        let mut moved = 0;
        for _ in 0..BURST {
            let (meta, len) = match self.transport.recv_from_family(family, buffer) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "receive");
                    break;
                }
            };
            moved += len.max(1);
            let now = Instant::now();
            self.take_news();
            let Some(train) = buffer.get_mut(..len) else { continue };
            let mut head = [0; HEAD];
            let known = len.min(HEAD);
            head[..known].copy_from_slice(&train[..known]);
            let head = &head[..known];
            let records = len.div_ceil(usize::from(meta.stride).max(1)).min(u16::MAX.into()) as u16;
            if self.hands_over(&meta, train) {
                self.transport.weigh(meta.from, head, records, 0, now);
                continue;
            }
            let mut sink =
                DeviceSink::new(&self.device, self.offload.joins(&self.device), &self.lanes, self.lane);
            let inbound = self.tunnel.handle_datagrams(&meta, train, now, &mut sink);
            let lost = sink.finish();
            self.tunnel.undelivered(lost.packets);
            self.tunnel.not_told(lost.news);
            self.transport.weigh(meta.from, head, records, inbound.opened + inbound.control, now);
            if inbound.control > 0 {
                // A CONF counts before the DATA right behind it.
                if self.tunnel.poll_timeout().is_some_and(|due| due <= now) {
                    self.tunnel.handle_timeout(now);
                }
                self.drain(now);
            }
        }
        if moved > 0 {
            self.drain(Instant::now());
        }
        moved
    }

    /// Hands INITs that are another lane's to that one. They come to the tenant's port, and a train is of one sender.
    fn hands_over(&mut self, meta: &RecvMeta, train: &[u8]) -> bool {
        if self.lanes.count() == 1 || self.lane != LaneId::ZERO || train.first() != Some(&INIT) {
            return false;
        }
        let first = train.get(..meta.stride.into()).unwrap_or(train);
        let Some(number) = init_lane(first).map(|lane| usize::from(lane) % self.lanes.count()) else {
            return false;
        };
        let Some(lane) = self.lanes.lane(number).filter(|_| number != 0) else { return false };
        let init = Handed::Init { from: meta.from, stride: meta.stride, bytes: train.into() };
        if !lane.hand_over(init) {
            self.tunnel.not_handed_over(1);
        }
        true
    }

    /// Takes in what other lanes have told.
    fn take_news(&mut self) {
        if self.lanes.count() == 1 {
            return;
        }
        while let Some(news) = self.inbox.next_news() {
            self.tunnel.take_news(&news, Instant::now());
        }
    }

    /// Takes what other lanes hand over.
    fn take_handed(&mut self) {
        let mut all = Vec::new();
        self.inbox.drain_handed(|handed| all.push(handed));
        for handed in all {
            match handed {
                Handed::Init { from, stride, mut bytes } => {
                    let now = Instant::now();
                    let meta = RecvMeta { from, stride, ecn: 0 };
                    let mut sink = DeviceSink::new(
                        &self.device,
                        self.offload.joins(&self.device),
                        &self.lanes,
                        self.lane,
                    );
                    // Its outcome is in the counters: a handshake message brings no packet.
                    let _ = self.tunnel.handle_datagrams(&meta, &mut bytes, now, &mut sink);
                    let lost = sink.finish();
                    self.tunnel.undelivered(lost.packets);
                    self.tunnel.not_told(lost.news);
                }
                Handed::Answer { to, bytes } => self.transport.send(to, &bytes, 0),
            }
        }
    }

    /// Does what is due.
    fn tend(&mut self) {
        let now = Instant::now();
        if self.tunnel.poll_timeout().is_some_and(|due| due <= now) {
            self.tunnel.handle_timeout(now);
            self.drain(now);
        }
        if self.transport.screen_due().is_some_and(|due| due <= now) {
            self.transport.tend_screen(now);
        }
    }

    /// Sends what the tunnel has to send, and passes its events on; later, while its keys may not be used.
    fn drain(&mut self, now: Instant) {
        if !self.fresh {
            return;
        }
        tell(&mut self.tunnel, &self.lanes, self.lane);
        while self.tunnel.next_transmit_len() > 0 {
            let Some(transmit) = self.tunnel.poll_transmit(&mut self.control, now) else { break };
            if let Some(bytes) = self.control.get(..transmit.len) {
                let first = self.lanes.first();
                if let Some(first) = first.filter(|_| transmit.from_tenant_port && self.lane != LaneId::ZERO)
                {
                    // An answer that is lost is asked for again.
                    let _ = first.hand_over(Handed::Answer { to: transmit.to, bytes: bytes.into() });
                } else {
                    self.transport.send(transmit.to, bytes, transmit.ecn);
                }
            }
        }
        while let Some(event) = self.tunnel.poll_event() {
            let external = match event {
                Event::External { destination, .. } => Some(destination),
                Event::Internal { destination } => {
                    // What waited to leave as it is must not any more.
                    drop(self.opening.end(destination));
                    None
                }
                _ => None,
            };
            match (self.events.try_send(event), external) {
                (Ok(()), Some(destination)) => self.opening.begin(destination),
                // A control plane that is far behind learns of a destination again with its next packet.
                (Err(_), Some(destination)) => self.tunnel.external_ended(destination),
                (_, None) => {}
            }
        }
        while let Some(mut held) = self.tunnel.poll_released() {
            let (raw, opening) = (&self.raw, &mut self.opening);
            held.as_packet().finish_segments(|segment| pass(raw, opening, segment));
        }
    }

    fn heed_path(&mut self) {
        while let Some(error) = self.transport.poll_path_error() {
            let event = match error.kind {
                PathErrorKind::Unreachable => PathEvent::Unreachable(error.to),
                PathErrorKind::TooBig { mtu } => PathEvent::TooBig { to: error.to, mtu },
                _ => continue,
            };
            let now = Instant::now();
            self.tunnel.handle_path_event(event, now);
            self.drain(now);
        }
    }
}

/// Brings a lane's news to the others.
fn tell(tunnel: &mut Tunnel, lanes: &Lanes, lane: LaneId) {
    if lanes.count() == 1 {
        return;
    }
    while let Some(news) = tunnel.poll_news() {
        let lost = lanes.tell_others(lane, news);
        tunnel.not_told(lost);
    }
}

fn pass(raw: &RawSockets, opening: &mut Opening, packet: &[u8]) {
    if !opening.keep(packet) {
        send(raw, packet);
    }
}

fn send(raw: &RawSockets, packet: &[u8]) {
    if let Err(error) = raw.send(packet) {
        tracing::debug!(%error, "raw socket");
    }
}

/// How long the control plane waits for a lane to end.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);
