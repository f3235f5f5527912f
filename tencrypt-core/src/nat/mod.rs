//! Network address translation inside the tunnel: service VIPs to pods and back, and the port-53 hairpin.
//!
//! A VIP is translated at one end only. Where the sender knows the pods behind it (a fact with endpoints), the sender
//! picks one per flow ([`Nat::balance`], [`Nat::unbalance`]); where it does not, the packet travels with the VIP as its
//! destination and the pod that answered for the VIP translates it ([`Nat::serve`], [`Nat::reply`]). A pod that calls a
//! VIP it serves itself gets its packet back from the VIP ([`Nat::loop_back`], [`Nat::loop_reply`]), since the kernel
//! takes no packet from outside whose source is its own address.
//!
//! Errors of ICMP are translated with the packet they quote. Later fragments follow their first one.

mod dns;
mod fragments;
mod table;

use std::{net::IpAddr, time::Instant};

use thiserror::Error;

pub use self::dns::{DnsHairpin, DnsOutcome};
use self::{
    fragments::Fragments,
    table::{FlowTable, Target},
};
use crate::packet::{Flow, IpPacket, Rewrite};

/// A service whose pods are known.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "the caller builds it")]
pub struct Service<'a> {
    /// Its address.
    pub vip: IpAddr,
    /// The pods behind it.
    pub endpoints: &'a [IpAddr],
    /// `(service port, target port)`; a port that is not listed stays as it is.
    pub ports: &'a [(u16, u16)],
    /// Addresses never to be picked: the pod's own.
    pub exclude: &'a [IpAddr],
}

/// What a translation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers act on every case")]
pub enum NatOutcome {
    /// The packet was rewritten.
    Rewritten,
    /// The packet cannot be translated and must not pass as it is: a later fragment whose first was not seen, a
    /// routing header.
    Refused,
    /// The packet is none of its business.
    Untouched,
}

/// There is no room for another flow, or no endpoint to send it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NatError {
    /// The table holds as many connections as it may.
    #[error("NAT table is full")]
    Full,
    /// The packet cannot be translated, as in [`NatOutcome::Refused`].
    #[error("packet cannot be translated")]
    Refused,
    /// The service has no endpoint of the packet's family.
    #[error("service has no endpoint")]
    NoEndpoint,
}

type Packet<'p> = IpPacket<&'p mut [u8]>;

/// The translations of one Tunnel. Tables are bounded, entries expire; flows that are known cost no allocation.
#[derive(Debug)]
pub struct Nat {
    hash_key: u64,
    /// Flow of the pod's answer to the VIP it was called by.
    served: FlowTable,
    /// Flow to a VIP to the endpoint picked for it.
    picked: FlowTable,
    /// Flow of an endpoint's answer to the VIP that was called.
    answers: FlowTable,
    /// Flow of the pod's answer to itself to the VIP it called.
    looped: FlowTable,
    fragments: Fragments,
}

impl Nat {
    /// No translations. `hash_key` should be random: it decides which endpoint a flow goes to.
    #[must_use]
    pub fn new(hash_key: u64) -> Self {
        Self {
            hash_key,
            served: FlowTable::default(),
            picked: FlowTable::default(),
            answers: FlowTable::default(),
            looped: FlowTable::default(),
            fragments: Fragments::default(),
        }
    }

    /// An opened packet to a VIP that this pod answers for: `A:p > VIP:s` becomes `A:p > own:s`.
    ///
    /// # Errors
    /// [`NatError::Full`].
    pub fn serve(
        &mut self,
        packet: &mut Packet<'_>,
        partial: bool,
        own: IpAddr,
        now: Instant,
    ) -> Result<NatOutcome, NatError> {
        let vip = packet.destination();
        let to_own = Rewrite { destination: Some(own), ..Rewrite::default() };
        if let Some(quoted) = packet.quoted_flow() {
            // An error about an answer of ours, which left with the VIP as its source.
            let back = Rewrite { source: (quoted.source == vip).then_some(own), ..Rewrite::default() };
            return Ok(apply(packet, to_own, Some(back), partial));
        }
        if let Some(flow) = Flow::of(packet) {
            let answer = Flow { destination: own, ..flow }.reversed();
            if !self.served.insert(answer, Target { address: vip, port: None }, now) {
                return Err(NatError::Full);
            }
            self.served.touch(&answer, packet.tcp_flags(), now);
        }
        Ok(apply(packet, to_own, None, partial))
    }

    /// A packet from the pod: an answer to a call by VIP, `own:s > A:p`, becomes `VIP:s > A:p`.
    pub fn reply(&mut self, packet: &mut Packet<'_>, partial: bool, now: Instant) -> NatOutcome {
        if let Some(quoted) = packet.quoted_flow() {
            // An error of ours about a packet that came for the VIP.
            let Some(target) = self.served.find(&quoted.reversed()) else { return NatOutcome::Untouched };
            let outer = Rewrite { source: Some(target.address), ..Rewrite::default() };
            let inner = Rewrite { destination: Some(target.address), ..Rewrite::default() };
            return apply(packet, outer, Some(inner), partial);
        }
        let Some(flow) = Flow::of(packet) else {
            return self.follow(packet, partial, now, NatOutcome::Untouched);
        };
        let Some(target) = self.served.find(&flow) else { return NatOutcome::Untouched };
        self.served.touch(&flow, packet.tcp_flags(), now);
        let change = Rewrite { source: Some(target.address), ..Rewrite::default() };
        self.fragments.remember(packet, change, now);
        apply(packet, change, None, partial)
    }

    /// A packet from the pod to a service whose pods are known: `A:p > VIP:s` becomes `A:p > endpoint:t`. A flow stays
    /// with its endpoint as long as the service has it. Returns the endpoint.
    ///
    /// # Errors
    /// [`NatError`].
    pub fn balance(
        &mut self,
        packet: &mut Packet<'_>,
        partial: bool,
        service: &Service<'_>,
        now: Instant,
    ) -> Result<IpAddr, NatError> {
        if let Some(quoted) = packet.quoted_flow() {
            // An error of ours about an answer that was shown to us as coming from the VIP.
            let target = self.picked.find(&quoted.reversed()).ok_or(NatError::Refused)?;
            let outer = Rewrite { destination: Some(target.address), ..Rewrite::default() };
            let inner =
                Rewrite { source: Some(target.address), source_port: target.port, ..Rewrite::default() };
            return rewritten(apply(packet, outer, Some(inner), partial), target.address);
        }
        let Some(flow) = Flow::of(packet) else {
            let change = self.fragments.find(packet, now).ok_or(NatError::Refused)?;
            let endpoint = change.destination.ok_or(NatError::Refused)?;
            return rewritten(apply(packet, change, None, partial), endpoint);
        };
        let usable = |endpoint: &IpAddr| {
            endpoint.is_ipv4() == service.vip.is_ipv4() && !service.exclude.contains(endpoint)
        };
        let known = self
            .picked
            .find(&flow)
            .filter(|known| service.endpoints.contains(&known.address) && usable(&known.address));
        let target = match known {
            Some(known) => known,
            None => {
                let count = service.endpoints.iter().filter(|endpoint| usable(endpoint)).count() as u64;
                let choice = flow.hash_with(self.hash_key).checked_rem(count).ok_or(NatError::NoEndpoint)?;
                let mut endpoints = service.endpoints.iter().filter(|endpoint| usable(endpoint));
                let endpoint = *endpoints.nth(choice as usize).ok_or(NatError::NoEndpoint)?;
                let target = Target { address: endpoint, port: target_port(service.ports, packet) };
                self.pick(flow, target, now)?;
                target
            }
        };
        self.picked.touch(&flow, packet.tcp_flags(), now);
        self.answers.touch(&answer_of(&flow, target), packet.tcp_flags(), now);
        let change = Rewrite {
            destination: Some(target.address),
            destination_port: target.port,
            ..Rewrite::default()
        };
        self.fragments.remember(packet, change, now);
        rewritten(apply(packet, change, None, partial), target.address)
    }

    /// An opened packet: an endpoint's answer, `endpoint:t > A:p`, becomes `VIP:s > A:p`.
    pub fn unbalance(&mut self, packet: &mut Packet<'_>, partial: bool, now: Instant) -> NatOutcome {
        if let Some(quoted) = packet.quoted_flow() {
            // An error about a packet of ours, from the endpoint or from a router on the way.
            let Some(target) = self.answers.find(&quoted.reversed()) else { return NatOutcome::Untouched };
            let from_endpoint = packet.source() == quoted.destination;
            let outer = Rewrite { source: from_endpoint.then_some(target.address), ..Rewrite::default() };
            let inner = Rewrite {
                destination: Some(target.address),
                destination_port: target.port,
                ..Rewrite::default()
            };
            return apply(packet, outer, Some(inner), partial);
        }
        let Some(flow) = Flow::of(packet) else {
            return self.follow(packet, partial, now, NatOutcome::Untouched);
        };
        let Some(target) = self.answers.find(&flow) else { return NatOutcome::Untouched };
        self.answers.touch(&flow, packet.tcp_flags(), now);
        let call =
            Flow { source: target.address, source_port: target.port.unwrap_or(flow.source_port), ..flow };
        self.picked.touch(&call.reversed(), packet.tcp_flags(), now);
        let change = Rewrite { source: Some(target.address), source_port: target.port, ..Rewrite::default() };
        self.fragments.remember(packet, change, now);
        apply(packet, change, None, partial)
    }

    /// A packet from the pod to a VIP that leads back to it: `A:p > VIP:s` becomes `VIP:p > A:t`, for the device.
    ///
    /// # Errors
    /// [`NatError::Full`], and [`NatError::Refused`] for a later fragment whose first was not seen.
    pub fn loop_back(
        &mut self,
        packet: &mut Packet<'_>,
        partial: bool,
        vip: IpAddr,
        own: IpAddr,
        ports: &[(u16, u16)],
        now: Instant,
    ) -> Result<(), NatError> {
        let Some(flow) = Flow::of(packet) else {
            let change = self.fragments.find(packet, now).ok_or(NatError::Refused)?;
            return rewritten(apply(packet, change, None, partial), own).map(drop);
        };
        let port = target_port(ports, packet);
        let change = Rewrite {
            source: Some(vip),
            destination: Some(own),
            destination_port: port,
            ..Rewrite::default()
        };
        // The answer, as the pod will send it: own:t > VIP:p. It becomes VIP:s > own:p.
        let answer = Flow {
            protocol: flow.protocol,
            source: own,
            destination: vip,
            source_port: port.unwrap_or(flow.destination_port),
            destination_port: flow.source_port,
        };
        let service_port = packet.ports().map(|(_, destination)| destination);
        if !self.looped.insert(answer, Target { address: vip, port: service_port }, now) {
            return Err(NatError::Full);
        }
        self.looped.touch(&answer, packet.tcp_flags(), now);
        self.fragments.remember(packet, change, now);
        rewritten(apply(packet, change, None, partial), own).map(drop)
    }

    /// The pod's answer to itself, `A:t > VIP:p`, becomes `VIP:s > A:p`, for the device.
    pub fn loop_reply(&mut self, packet: &mut Packet<'_>, partial: bool, now: Instant) -> NatOutcome {
        let Some(flow) = Flow::of(packet) else { return NatOutcome::Untouched };
        // Echo requests look like their answers: a request starts a flow, only a reply ends one.
        let request = packet.echo_id().is_some() && packet.is_echo_request();
        let Some(target) = self.looped.find(&flow).filter(|_| !request) else { return NatOutcome::Untouched };
        self.looped.touch(&flow, packet.tcp_flags(), now);
        let change = Rewrite {
            source: Some(target.address),
            source_port: target.port,
            destination: Some(packet.source()),
            ..Rewrite::default()
        };
        self.fragments.remember(packet, change, now);
        apply(packet, change, None, partial)
    }

    /// Removes flows that have been idle for too long, a bounded number a call.
    pub fn handle_timeout(&mut self, now: Instant) {
        for table in [&mut self.served, &mut self.picked, &mut self.answers, &mut self.looped] {
            table.handle_timeout(now);
        }
    }

    /// When there may be something to remove.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [&self.served, &self.picked, &self.answers, &self.looped]
            .into_iter()
            .filter_map(FlowTable::next_due)
            .min()
    }

    fn pick(&mut self, flow: Flow, target: Target, now: Instant) -> Result<(), NatError> {
        if let Some(before) = self.picked.find(&flow) {
            self.answers.remove(&answer_of(&flow, before));
        }
        let service_port = target.port.map(|_| flow.destination_port);
        if !self.answers.insert(
            answer_of(&flow, target),
            Target { address: flow.destination, port: service_port },
            now,
        ) {
            return Err(NatError::Full);
        }
        if !self.picked.insert(flow, target, now) {
            self.answers.remove(&answer_of(&flow, target));
            return Err(NatError::Full);
        }
        Ok(())
    }

    fn follow(
        &self,
        packet: &mut Packet<'_>,
        partial: bool,
        now: Instant,
        otherwise: NatOutcome,
    ) -> NatOutcome {
        match self.fragments.find(packet, now) {
            Some(change) => apply(packet, change, None, partial),
            None => otherwise,
        }
    }
}

/// The flow in which an endpoint answers a call to its service.
fn answer_of(call: &Flow, endpoint: Target) -> Flow {
    Flow {
        destination: endpoint.address,
        destination_port: endpoint.port.unwrap_or(call.destination_port),
        ..*call
    }
    .reversed()
}

fn target_port(ports: &[(u16, u16)], packet: &Packet<'_>) -> Option<u16> {
    let (_, service_port) = packet.ports()?;
    ports.iter().find(|(port, _)| *port == service_port).map(|(_, target)| *target)
}

fn apply(packet: &mut Packet<'_>, outer: Rewrite, quoted: Option<Rewrite>, partial: bool) -> NatOutcome {
    if let Some(quoted) = quoted
        && packet.rewrite_quoted(quoted).is_err()
    {
        return NatOutcome::Refused;
    }
    match packet.rewrite(outer, partial) {
        Ok(()) => NatOutcome::Rewritten,
        Err(_) => NatOutcome::Refused,
    }
}

fn rewritten(outcome: NatOutcome, address: IpAddr) -> Result<IpAddr, NatError> {
    match outcome {
        NatOutcome::Rewritten => Ok(address),
        NatOutcome::Refused | NatOutcome::Untouched => Err(NatError::Refused),
    }
}
