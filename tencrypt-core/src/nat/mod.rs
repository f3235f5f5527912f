//! Address translation: between a service's virtual address (VIP) and the pod behind it, and the DNS hairpin.
//!
//! Nothing here knows a clock: every call gets the time, and [`Nat::poll_timeout`] says when
//! [`Nat::handle_timeout`] is due.

mod choices;
mod fragments;
mod hairpin;
mod lists;
mod outcome;
mod service;
mod shares;
mod table;
mod translate;

#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod share_tests;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Instant};

use thiserror::Error;

use self::{
    choices::Choices,
    fragments::Fragments,
    table::{Hook, Table},
};
use crate::{
    crypto::PeerId,
    lane_update::{ChoiceUpdate, FlowUpdate},
    packet::{Flow, IpPacket, RewriteError},
    stats::DropReason,
};

pub use hairpin::DnsHairpin;
pub use outcome::NatOutcome;
pub use service::{PortEndpoints, Service, ServicePort, ServiceProtocol};

/// Flows remembered at most. One takes about 330 bytes (112 for itself, 16 for its places in two lists, two map entries
/// of about 100 with the map's slack), so a full table is 11 MB; a peer with flows takes about 200 bytes besides. Memory is
/// taken as flows come.
pub(crate) const MAX_FLOWS: usize = 32_768;

/// Fragmented packets remembered at most, about 200 bytes each: 200 KB. The oldest goes first.
pub(crate) const MAX_FRAGMENTED: usize = 1_024;

/// Expired entries that one call of [`Nat::handle_timeout`] removes at most from either table.
pub(crate) const EXPIRE_BUDGET: usize = 256;

/// Reason for which a packet to a VIP cannot be translated. It has to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NatError {
    /// All source ports tried are taken, so that answers to the flow could not be told from another one's.
    #[error("no port is free for a translated flow")]
    Full,
    /// The service has no endpoint of this address family that may be chosen.
    #[error("service has no endpoint to choose")]
    NoEndpoint,
    /// The service has endpoints by port, and no such port.
    #[error("service has no such port")]
    NoPort,
    /// A fragment whose first one was not seen, so that nobody knows its flow.
    #[error("first fragment was not seen")]
    FirstFragmentUnseen,
    /// An ICMP error about a packet of no flow that is translated.
    #[error("ICMP error about an unknown flow")]
    UnknownFlow,
    /// The packet cannot be rewritten.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
}

impl NatError {
    /// The counter for packets dropped for this reason.
    #[must_use]
    pub fn drop_reason(self) -> DropReason {
        match self {
            Self::Full => DropReason::NatFull,
            _ => DropReason::Policy,
        }
    }
}

/// Translation between VIPs and pods, with the flows it has to remember.
///
/// Written with A for a client, `own` for this pod and numbers for ports:
///
/// | call | packet | becomes |
/// |---|---|---|
/// | [`serve`](Self::serve) | opened `A:p > VIP:s` | `A:p > own:s` |
/// | [`reply`](Self::reply) | sent `own:s > A:p` | `VIP:s > A:p` |
/// | [`balance`](Self::balance) | sent `own:p > VIP:s` | `own:p > endpoint:t` |
/// | [`unbalance`](Self::unbalance) | opened `endpoint:t > own:p` | `VIP:s > own:p` |
/// | [`loop_back`](Self::loop_back) | sent `own:p > VIP:s` | `VIP:p > own:t`, to be written back |
/// | [`loop_reply`](Self::loop_reply) | sent `own:t > VIP:p` | `VIP:s > own:p`, to be written back |
///
/// TCP and UDP flows are told apart by ports, ICMP echo by its identifier, everything else by protocol and addresses.
/// ICMP errors go the way of the packet they quote, which is rewritten inside them. Fragments go the way of their
/// first one. Where two flows would become one, the later one gets another source port; where there is none to
/// change, it takes the place of the earlier one.
///
/// `partial` as in [`IpPacket::rewrite`]. Known flows cost one or two look-ups in a sorted map and no allocation.
///
/// # When the table is full
///
/// There is always room for another flow. One peer has at most half of the table, and what it wants beyond that takes
/// the place of its own flows. In a full table another flow takes the place of one of the peer that has most; the
/// pod's own, of [`balance`](Self::balance) and [`loop_back`](Self::loop_back), give way only beyond half of the table. Of
/// the flows of who has to give way, the one ends that was used last the longest ago: of those that nobody answered or that
/// are opening or closing, if these are more than an eighth; else of those that are no TCP; else of the TCP connections.
/// What goes on in a flow that was pushed out begins it anew.
///
/// # Order of calls
///
/// For a packet that the pod sends: [`loop_reply`](Self::loop_reply), which ends its way if it rewrites, and
/// [`reply`](Self::reply); then, if the destination is a VIP, `loop_back` where this pod is chosen for it and
/// `balance` otherwise, and [`note_direct`](Self::note_direct) if it is none. For a packet that was opened: `serve` if it
/// is to a VIP, `note_direct` if it is to the pod's own address; then [`unbalance`](Self::unbalance). A packet that is
/// refused on its way is dropped. [`handle_timeout`](Self::handle_timeout) whenever
/// [`poll_timeout`](Self::poll_timeout) has come.
///
/// ```
/// use std::{net::IpAddr, time::Instant};
/// use tencrypt::{nat::{Nat, NatOutcome, Service, ServicePort}, packet::{IpPacket, Rewrite}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (vip, pod, now) = (IpAddr::from([10, 96, 0, 80]), IpAddr::from([10, 244, 1, 9]), Instant::now());
/// let ports = [ServicePort::new(80, 8080)];
/// let service =
///     Service { endpoints: &[pod], ports: &ports, ..Service::new(vip) };
/// let mut nat = Nat::new(0x5eed);
///
/// // UDP from 10.244.1.7, port 5000, to the VIP, port 80.
/// let mut bytes = *b"\x45\0\0\x20\0\0\x40\0\x40\x11\x24\x23\x0a\xf4\x01\x07\x0a\x60\0\x50\
///     \x13\x88\0\x50\0\x0c\x05\x86call";
/// let mut packet = IpPacket::parse(&mut bytes[..])?;
/// assert_eq!(nat.balance(&mut packet, false, &service, now)?, pod);
/// assert_eq!((packet.destination(), packet.ports()), (pod, Some((5000, 8080))));
///
/// // The pod answers: the same packet, turned round.
/// let call = packet.flow().ok_or("a whole packet has a flow")?;
/// packet.rewrite(Rewrite::between(call, call.reverse()), false)?;
/// assert_eq!(nat.unbalance(&mut packet, false, now), NatOutcome::Rewritten);
/// assert_eq!((packet.source(), packet.ports()), (vip, Some((80, 5000))));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Nat {
    flows: Table,
    fragments: Fragments,
    choices: Choices,
    seed: u64,
}

impl Nat {
    /// Most flows, of a table with no other capacity.
    pub const MAX_FLOWS: usize = MAX_FLOWS;

    /// Empty, with room for [`MAX_FLOWS`](Self::MAX_FLOWS). `seed` decides which flow gets which endpoint.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_capacity(seed, MAX_FLOWS, MAX_FRAGMENTED)
    }

    /// Empty, with room for this many flows and fragmented packets, at least one of each.
    #[must_use]
    pub fn with_capacity(seed: u64, flows: usize, fragmented: usize) -> Self {
        let (flows, fragments) = (Table::new(flows), Fragments::new(fragmented));
        Self { flows, fragments, choices: Choices::default(), seed }
    }

    /// The same for another lane of the pod, without flows. From now on both have updates for each other.
    #[must_use]
    pub(crate) fn sibling(&mut self) -> Self {
        self.choices.start_updates();
        let mut sibling = Self { choices: self.choices.clone(), ..Self::new(self.seed) };
        for nat in [self, &mut sibling] {
            nat.flows.start_updates();
        }
        sibling
    }

    /// The next update for other lanes. What one call makes is taken out before the next.
    pub(crate) fn poll_update(&mut self) -> Option<FlowUpdate> {
        self.flows.poll_update()
    }

    /// Takes what another lane tells.
    pub(crate) fn learn(&mut self, update: &FlowUpdate, now: Instant) {
        self.flows.learn(update, now);
    }

    /// The next choice of an endpoint for other lanes, as [`poll_update`](Self::poll_update).
    pub(crate) fn poll_choice(&mut self) -> Option<ChoiceUpdate> {
        self.choices.poll_update()
    }

    /// Takes a choice that another lane tells.
    pub(crate) fn learn_choice(&mut self, update: &ChoiceUpdate, now: Instant) {
        self.choices.learn(update, now);
    }

    /// Flows remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Tells if no flow is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Directs an opened packet, whose destination is a VIP this pod serves, to the pod's address `own`. A flow counts for
    /// the peer `client` that begins it.
    ///
    /// # Errors
    /// [`NatError`]: drop the packet.
    pub fn serve(
        &mut self,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        own: IpAddr,
        client: PeerId,
        now: Instant,
    ) -> Result<(), NatError> {
        self.forward(
            Some(client),
            packet,
            partial,
            now,
            |_, to| to.destination == own,
            |flow, _| Ok(Flow { destination: own, ..flow }),
        )
    }

    /// Tells if there is a flow of `client` to `vip` that [`serve`](Self::serve) directs here.
    pub(crate) fn serves(&self, client: IpAddr, vip: IpAddr) -> bool {
        self.flows.has_pair(Hook::Serve, client, vip)
    }

    /// Directs an opened packet of a flow that [`serve`](Self::serve) has begun, where its destination has come to be the pod's own.
    pub(crate) fn go_on_serving(
        &mut self,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        now: Instant,
    ) -> NatOutcome {
        self.back(Hook::Serve, packet, partial, now)
    }

    /// Gives a packet that this pod sends the VIP as source, if it answers what [`serve`](Self::serve) directed here.
    pub fn reply(&mut self, packet: &mut IpPacket<&mut [u8]>, partial: bool, now: Instant) -> NatOutcome {
        self.back(Hook::Reply, packet, partial, now)
    }

    /// Directs a packet that this pod sends to the VIP of `service` to one of its endpoints, and returns that: the one
    /// its flow already has, while it is still listed, or one chosen by the flow's hash. Where the service has an affinity, a
    /// new flow to a port goes where the last one to that went.
    ///
    /// # Errors
    /// [`NatError`]: drop the packet.
    pub fn balance(
        &mut self,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        service: &Service<'_>,
        now: Instant,
    ) -> Result<IpAddr, NatError> {
        let seed = self.seed;
        self.forward(
            None,
            packet,
            partial,
            now,
            |from, to| service.may_choose(to.destination) && service.lists(from, to),
            |flow, choices| match service.services {
                [] => among_all(service, flow, seed),
                _ => among_its_ports(service, flow, seed, choices, now),
            },
        )?;
        Ok(packet.destination())
    }

    /// Gives an opened packet the VIP as source, if it answers what [`balance`](Self::balance) sent to its sender.
    pub fn unbalance(&mut self, packet: &mut IpPacket<&mut [u8]>, partial: bool, now: Instant) -> NatOutcome {
        self.back(Hook::Answer, packet, partial, now)
    }

    /// Turns a packet that this pod sends to the VIP of a `service` that it is behind itself round: it comes back to the pod's
    /// address `own` from the VIP, for the kernel takes no packet from its own address out of a device. It comes to the
    /// target port that this pod has there. Write it back to the device.
    ///
    /// # Errors
    /// [`NatError`]: drop the packet.
    pub fn loop_back(
        &mut self,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        service: &Service<'_>,
        own: IpAddr,
        now: Instant,
    ) -> Result<(), NatError> {
        let (vip, is_by_port) = (service.vip, !service.services.is_empty());
        self.forward(
            None,
            packet,
            partial,
            now,
            |from, to| to.source == vip && to.destination == own && (!is_by_port || service.lists(from, to)),
            |flow, _| {
                let to = if is_by_port {
                    let way = service.ways(flow).find(|way| way.destination == own);
                    way.ok_or_else(|| none_of(service, flow))?
                } else {
                    Flow { destination: own, destination_port: service.target_port(flow), ..flow }
                };
                Ok(Flow { source: vip, ..to })
            },
        )
    }

    /// Turns the pod's answer to what [`loop_back`](Self::loop_back) gave it round, to the socket that asked. Write it
    /// back to the device if it was rewritten.
    pub fn loop_reply(
        &mut self,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        now: Instant,
    ) -> NatOutcome {
        self.back(Hook::Answer, packet, partial, now)
    }

    /// Takes note of a packet between a client and a pod that no VIP had a part in: a new connection or datagram of
    /// that kind means that answers to it must keep their addresses, so a flow that would claim them is forgotten.
    /// Worth calling for opened packets to the pod's own address and for sent packets to a pod, before anything here
    /// rewrote them; a client that uses VIP and pod address from one port is rare.
    pub fn note_direct(&mut self, packet: &IpPacket<&mut [u8]>, now: Instant) {
        const SYN_ACK: u8 = 0x12;
        const SYN: u8 = 0x02;
        if packet.tcp_flags().is_some_and(|flags| flags & SYN_ACK != SYN) || packet.is_icmp_error() {
            return;
        }
        let Some(flow) = packet.flow() else { return };
        for hook in [Hook::Reply, Hook::Answer] {
            if !self.flows.is_empty_at(hook)
                && let Some(found) = self.flows.find(hook, flow.reverse(), now)
            {
                self.flows.forget(found.slot);
            }
        }
    }

    /// Forgets flows and fragments that are due, at most 256 of each. What is left is due at once.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.flows.expire(now, EXPIRE_BUDGET);
        self.fragments.expire(now, EXPIRE_BUDGET);
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due, in constant time. `None`: never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flows.next_expiry().into_iter().chain(self.fragments.next_expiry()).min()
    }
}

/// Translates a new flow to one of the endpoints of all ports.
fn among_all(service: &Service<'_>, flow: Flow, seed: u64) -> Result<Flow, NatError> {
    let eligible = || service.endpoints.iter().filter(|endpoint| service.may_choose(**endpoint));
    // The hash's share of its range, in 128 bits: no bias worth naming and no division.
    let choice = (u128::from(flow.hash(seed)) * eligible().count() as u128) >> 64;
    let destination = *eligible().nth(choice as usize).ok_or(NatError::NoEndpoint)?;
    Ok(Flow { destination, destination_port: service.target_port(flow), ..flow })
}

/// Translates a new flow to one of the endpoints of its port: the one that is remembered, or the one with the greatest hash
/// (rendezvous hashing: Thaler, Ravishankar, IEEE/ACM Transactions on Networking 6(1), 1998). So an endpoint that is listed
/// at several ports is no more likely than others where any port will do. Where the service has an affinity nothing of the
/// flow but its port goes into the hash: lanes that choose at once choose the same.
fn among_its_ports(
    service: &Service<'_>,
    flow: Flow,
    seed: u64,
    choices: &mut Choices,
    now: Instant,
) -> Result<Flow, NatError> {
    let eligible = service.ways(flow).filter(|way| service.may_choose(way.destination));
    let Some(time) = service.affinity else {
        return eligible.max_by_key(|way| way.hash(seed)).ok_or_else(|| none_of(service, flow));
    };
    let at = (service.vip, flow.protocol, flow.destination_port);
    let chosen = choices.find(at, time, now).map(|endpoint| Flow {
        destination: endpoint.ip(),
        destination_port: endpoint.port(),
        ..flow
    });
    let chosen = chosen.filter(|to| service.may_choose(to.destination) && service.lists(flow, *to));
    let (source, source_port) = (service.vip, flow.destination_port);
    let weight = |way: &Flow| Flow { source, source_port, ..*way }.hash(seed);
    let to = chosen.or_else(|| eligible.max_by_key(weight)).ok_or_else(|| none_of(service, flow))?;
    choices.began(at, service::destination(to), now);
    Ok(to)
}

/// Reason for which a service with endpoints by port has none for a flow.
fn none_of(service: &Service<'_>, flow: Flow) -> NatError {
    if service.lacks(flow) { NatError::NoPort } else { NatError::NoEndpoint }
}
