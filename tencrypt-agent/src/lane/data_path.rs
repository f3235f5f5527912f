//! The data path of a lane: device, transport and tunnel in one hand, and every packet run to completion.

use std::{io, net::IpAddr, sync::Arc, time::Instant};

use tencrypt::{
    Event, Inbound, LaneId, Lost, Outbound, Output, RecvMeta, Transmit, TunPacket, Tunnel, offload::VnetHdr,
    record::SessionIndex,
};
use tencrypt_tun::{RawSockets, Received, TunDevice};
use tencrypt_udp::{Family, UdpTransport};

use super::{
    bypass::Bypass,
    channel::{Handed, Inbox, Lanes},
    delivery::{DeviceSink, write_back},
    events::Events,
    freshness::Freshness,
    pod_status::PodStatus,
    refusals::{Counted, Refusals},
};
use crate::config::offload::Offload;

/// Packets and datagrams taken in one turn before the other side gets its own.
const BURST: usize = 32;

/// Bytes of the largest datagram, which any record fits.
const DATAGRAM: usize = 65_535;

/// The device and the sockets of a lane.
pub(crate) struct Ports {
    /// The lane's queue of the device.
    pub device: Arc<TunDevice>,
    /// The lane's sockets for datagrams.
    pub transport: UdpTransport,
    /// Sockets for packets that leave as they are.
    pub raw: RawSockets,
}

/// The channels of a lane, to the control plane and to other lanes.
pub(crate) struct Links {
    /// All lanes of the pod, for updates and handshake messages.
    pub lanes: Lanes,
    /// Commands from the control plane, and whatever other lanes send.
    pub inbox: Inbox,
    /// Events for the control plane.
    pub events: Events,
}

/// The parts that all lanes of a pod have in common.
#[derive(Clone)]
pub(crate) struct Common {
    /// The share of segmentation and checksums that is left to the kernel.
    pub offload: Offload,
    /// The part of `status` that no lane counts.
    pub status: PodStatus,
    /// The pod's own addresses, for `explain`.
    pub addresses: Vec<IpAddr>,
    /// The generation of keys that may be used.
    pub freshness: Arc<Freshness>,
}

/// Everything that a lane owns.
pub(crate) struct DataPath {
    pub(super) lane: LaneId,
    pub(super) lanes: Lanes,
    pub(super) device: Arc<TunDevice>,
    pub(super) offload: Offload,
    pub(super) transport: UdpTransport,
    pub(super) tunnel: Tunnel,
    pub(super) bypass: Bypass,
    pub(super) inbox: Inbox,
    events: Events,
    /// True while events are those of facts, which all lanes have: a destination that turns out internal then is told to none.
    pub(super) is_by_facts: bool,
    pub(super) status: PodStatus,
    pub(super) addresses: Vec<IpAddr>,
    /// Senders that were named in the log.
    refusals: Refusals,
    freshness: Arc<Freshness>,
    /// The generation of the keys in use.
    pub(super) generation: u64,
    /// The outcome of the last [`Self::check_fresh`]. While it is false, nothing is read, and nothing leaves.
    pub(super) fresh: bool,
    /// Room for what the tunnel sends of its own accord: [`DATAGRAM`] bytes.
    transmit: Box<[u8]>,
}

impl DataPath {
    /// Joins the parts of a lane whose keys are of the first generation.
    pub(crate) fn new(tunnel: Tunnel, ports: Ports, links: Links, common: Common) -> Self {
        let Ports { device, transport, raw } = ports;
        let Links { lanes, inbox, events } = links;
        let Common { offload, status, addresses, freshness } = common;
        Self {
            lane: tunnel.lane(),
            lanes,
            device,
            offload,
            transport,
            tunnel,
            bypass: Bypass::new(raw),
            inbox,
            events,
            is_by_facts: false,
            status,
            addresses,
            refusals: Refusals::default(),
            freshness,
            generation: 0,
            fresh: true,
            transmit: vec![0; DATAGRAM].into(),
        }
    }

    /// The number of this lane.
    pub(crate) fn lane(&self) -> LaneId {
        self.lane
    }

    /// Updates whether the keys may still be used: no system call, some 45 ns each time, once or twice a wake-up.
    pub(super) fn check_fresh(&mut self) -> bool {
        self.fresh = self.freshness.is_current(self.generation, super::freshness::boot_clock());
        self.fresh
    }

    /// Moves packets from the device to the network. Returns the bytes read, `None` when the device is gone.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
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
            self.handle_lane_updates();
            let Some(bytes) = buffer.get_mut(VnetHdr::LEN..VnetHdr::LEN + len) else { continue };
            let mut packet = TunPacket::new(vnet, bytes);
            let outcome = self.tunnel.handle_packet(&mut packet, now, &mut self.transport);
            // First, so that other lanes know of the flow, and the control plane of a destination outside.
            self.drain(now);
            match outcome {
                Outbound::Sent { .. } | Outbound::Dropped(_) | Outbound::Held => {}
                Outbound::Hairpin => {
                    if !write_back(&self.device, &packet) {
                        self.tunnel.count_lost(Lost::Packets(1));
                    }
                }
                Outbound::Bypass => {
                    let bypass = &mut self.bypass;
                    packet.finish_segments(|segment| bypass.send(segment));
                }
            }
        }
        self.transport.flush();
        Ok(Some(moved))
    }

    /// Moves datagrams from the network to the device. Returns the bytes received; an empty datagram counts as one.
    pub(super) fn receive(&mut self, family: Family, buffer: &mut [u8]) -> usize {
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
            self.handle_lane_updates();
            let Some(train) = buffer.get_mut(..len) else { continue };
            let before = Counted::of(self.tunnel.stats());
            let inbound = match self.hands_over(&meta, train) {
                Some(datagrams) => Inbound::handed_over(datagrams),
                None => self.open(&meta, train, now),
            };
            self.transport.note_received(meta.from, &inbound, now);
            self.settle(now);
            // A handshake message is judged as it comes in or as it is worked off: by now both are done, but in a flood.
            self.refusals.note(meta.from, before, Counted::of(self.tunnel.stats()), now);
        }
        moved
    }

    /// Brings what came of a datagram where it belongs, before the next one: what is due at once, too, for a CONF counts
    /// before the DATA right behind it.
    fn settle(&mut self, now: Instant) {
        if self.drain(now).is_some_and(|due| due <= now) {
            self.tunnel.handle_timeout(now);
            self.drain(now);
        }
    }

    /// Has the tunnel open a train, and writes its packets to the device.
    fn open(&mut self, meta: &RecvMeta, train: &mut [u8], now: Instant) -> Inbound {
        let joins = self.offload.joins(&self.device);
        let mut sink = DeviceSink::new(&self.device, joins, &self.lanes, self.lane);
        let inbound = self.tunnel.handle_datagrams(meta, train, now, &mut sink);
        let lost = sink.finish();
        self.tunnel.count_lost(Lost::Packets(lost.packets.into()));
        self.tunnel.count_lost(Lost::LaneUpdates(lost.updates));
        inbound
    }

    /// Hands INITs that are another lane's to that one, and returns how many. They come to the tenant's port, and a train
    /// is of one sender.
    fn hands_over(&mut self, meta: &RecvMeta, train: &[u8]) -> Option<u16> {
        if self.lanes.count() == 1 || self.lane != LaneId::ZERO {
            return None;
        }
        let first = train.get(..meta.stride.into()).unwrap_or(train);
        let number = usize::from(SessionIndex::lane_of_init(first)?) % self.lanes.count();
        let lane = self.lanes.lane(number).filter(|_| number != 0)?;
        let init = Handed::Init { from: meta.from, stride: meta.stride, bytes: train.into() };
        if !lane.hand_over(init) {
            self.tunnel.count_lost(Lost::Datagrams(1));
        }
        Some(train.len().div_ceil(usize::from(meta.stride).max(1)).min(u16::MAX.into()) as u16)
    }

    /// Applies the updates of other lanes.
    pub(super) fn handle_lane_updates(&mut self) {
        if self.lanes.count() == 1 {
            return;
        }
        while let Some(update) = self.inbox.next_lane_update() {
            self.tunnel.handle_lane_update(&update, Instant::now());
        }
    }

    /// Handles the handshake messages that other lanes hand over.
    pub(super) fn handle_handed_over(&mut self) {
        let mut all = Vec::new();
        self.inbox.drain_handed(|handed| all.push(handed));
        for handed in all {
            match handed {
                Handed::Init { from, stride, mut bytes } => {
                    let now = Instant::now();
                    let meta = RecvMeta::new(from, stride);
                    let before = Counted::of(self.tunnel.stats());
                    // Its outcome is in the counters: a handshake message brings no packet.
                    let _ = self.open(&meta, &mut bytes, now);
                    self.settle(now);
                    self.refusals.note(from, before, Counted::of(self.tunnel.stats()), now);
                }
                Handed::Answer { to, bytes } => self.transport.send(to, &bytes, 0),
            }
        }
    }

    /// Brings everything that the tunnel has to say where it belongs, and returns when it wants to be called next; later,
    /// while its keys may not be used.
    pub(super) fn drain(&mut self, now: Instant) -> Option<Instant> {
        if !self.fresh {
            return None;
        }
        loop {
            match self.tunnel.poll_output(&mut self.transmit, now) {
                Output::Timeout(due) => return due,
                Output::LaneUpdate(update) => {
                    let lost = self.lanes.send_lane_update(self.lane, update);
                    self.tunnel.count_lost(Lost::LaneUpdates(lost));
                }
                Output::Transmit(transmit) => self.send(&transmit),
                Output::Released(mut held) => {
                    let bypass = &mut self.bypass;
                    held.as_packet().finish_segments(|segment| bypass.send(segment));
                }
                Output::Opened(mut held) => {
                    if !write_back(&self.device, &held.as_packet()) {
                        self.tunnel.count_lost(Lost::Packets(1));
                    }
                }
                Output::Event(event) => self.handle_event(event),
            }
        }
    }

    /// Sends a handshake message, a keepalive or a record. What must leave from the tenant's port is the first lane's to
    /// send.
    fn send(&mut self, transmit: &Transmit) {
        let Some(bytes) = self.transmit.get(..transmit.len) else { return };
        let first = self.lanes.first().filter(|_| transmit.from_tenant_port && self.lane != LaneId::ZERO);
        if let Some(first) = first {
            // An answer that is lost is asked for again.
            let _ = first.hand_over(Handed::Answer { to: transmit.to, bytes: bytes.into() });
        } else {
            self.transport.send(transmit.to, bytes, transmit.ecn);
        }
    }

    /// Passes an event on to the control plane.
    fn handle_event(&mut self, event: Event) {
        match event {
            Event::External { destination, until } => {
                if self.events.open(destination, until) {
                    self.bypass.begin(destination);
                } else {
                    // The destination's next packet says it again.
                    self.tunnel.external_ended(destination);
                }
            }
            Event::Internal { destination } => {
                // What waited to leave as it is must not any more.
                self.bypass.discard(destination);
                if self.is_by_facts {
                    self.events.close(destination);
                } else {
                    self.events.internal(destination);
                }
            }
            other => self.events.other(other),
        }
    }
}
