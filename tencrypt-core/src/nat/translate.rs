//! One packet's way through the tables.

use std::time::Instant;

use super::{
    Nat, NatError, NatOutcome,
    choices::Choices,
    fragments::{Decision, Key},
    table::{Found, Hook, forward_hook},
};
use crate::{
    crypto::PeerId,
    packet::{Flow, IpPacket, Rewrite, RewriteError},
};

/// Other source ports tried for a flow that would coincide with another one. With half of the ports taken between the
/// same two ends, all tries fail once in 65,536 times.
const PORT_TRIES: u64 = 16;

/// The ports for that: dynamic ones (RFC 6335 section 6).
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// Entry of the tables for a packet.
enum Known {
    /// Its flow's translation.
    Flow(Found),
    /// A packet of this flow, which is not translated.
    New(Flow),
    /// An ICMP error about a packet of a translated flow; what [`Found`] says is about the packets that cause it.
    Error(Found),
    /// An ICMP error about anything else.
    ForeignError,
    /// A fragment that follows its first one.
    Follows(Decision),
    /// A fragment without its first one.
    Orphan,
    /// A first fragment so short that its flow cannot be told.
    Tiny,
}

impl Nat {
    /// Translates a packet to a VIP, of this peer or of the pod itself. Its flow is made known with what `choose` makes
    /// of it, unless it has a translation that is `valid` still.
    pub(super) fn forward(
        &mut self,
        client: Option<PeerId>,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        now: Instant,
        valid: impl FnOnce(Flow, Flow) -> bool,
        choose: impl FnOnce(Flow, &mut Choices) -> Result<Flow, NatError>,
    ) -> Result<(), NatError> {
        let hook = forward_hook(client);
        let flow = match self.look(hook, packet, now) {
            Known::Flow(found) if valid(found.from, found.to) => {
                return Ok(self.carry_on(found, hook, packet, partial, now)?);
            }
            Known::Flow(stale) => {
                self.flows.forget(stale.slot);
                stale.from
            }
            Known::New(flow) => flow,
            Known::Error(found) => return Ok(self.error(found, hook, packet, partial, now)?),
            Known::ForeignError => return Err(NatError::UnknownFlow),
            Known::Follows(Decision::Rewrite { source, destination }) => {
                let to = Flow { source, destination, ..addresses_of(packet) };
                return Ok(packet.rewrite(Rewrite::between(addresses_of(packet), to), partial)?);
            }
            Known::Follows(Decision::Pass) | Known::Orphan => return Err(NatError::FirstFragmentUnseen),
            Known::Tiny => return Err(RewriteError::OutOfReach.into()),
        };
        let chosen = choose(flow, &mut self.choices)?;
        let to = self.unique(hook, flow, chosen, now)?;
        let (key, flags) = (Key::of(hook, packet), packet.tcp_flags());
        packet.rewrite(Rewrite::between(flow, to), partial)?;
        self.flows.insert(client, flow, to, flags, now);
        self.remember(key, packet, now);
        Ok(())
    }

    /// Translates a packet that may be the answer to a translated one.
    pub(super) fn back(
        &mut self,
        hook: Hook,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        now: Instant,
    ) -> NatOutcome {
        if self.flows.is_empty_at(hook) {
            // What is left of fragments goes without their flow: it has been forgotten.
            return NatOutcome::Untouched;
        }
        let rewritten = match self.look(hook, packet, now) {
            Known::Flow(found) => self.carry_on(found, hook, packet, partial, now),
            Known::Error(found) => self.error(found, hook, packet, partial, now),
            Known::Follows(Decision::Rewrite { source, destination }) => {
                let to = Flow { source, destination, ..addresses_of(packet) };
                packet.rewrite(Rewrite::between(addresses_of(packet), to), partial)
            }
            Known::Orphan | Known::Tiny
                if self.flows.has_pair(hook, packet.source(), packet.destination()) =>
            {
                return NatOutcome::Refused;
            }
            Known::New(_) | Known::ForeignError => {
                // Only where a later fragment would be refused otherwise.
                if let Some(key) = Key::of(hook, packet)
                    && self.flows.has_pair(hook, packet.source(), packet.destination())
                {
                    self.fragments.remember(key, Decision::Pass, now);
                }
                return NatOutcome::Untouched;
            }
            Known::Follows(Decision::Pass) | Known::Orphan | Known::Tiny => return NatOutcome::Untouched,
        };
        match rewritten {
            Ok(()) => NatOutcome::Rewritten,
            Err(_) => NatOutcome::Refused,
        }
    }

    fn look(&mut self, hook: Hook, packet: &IpPacket<&mut [u8]>, now: Instant) -> Known {
        if packet.is_later_fragment() {
            let decision = Key::of(hook, packet).and_then(|key| self.fragments.find(&key, now));
            return decision.map_or(Known::Orphan, Known::Follows);
        }
        if packet.is_icmp_error() {
            let cause = packet.quoted_flow().map(Flow::reverse);
            let found = cause.and_then(|cause| self.flows.find(hook, cause, now));
            return found.map_or(Known::ForeignError, Known::Error);
        }
        let Some(flow) = packet.flow() else { return Known::Tiny };
        self.flows.find(hook, flow, now).map_or(Known::New(flow), Known::Flow)
    }

    fn carry_on(
        &mut self,
        found: Found,
        hook: Hook,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        now: Instant,
    ) -> Result<(), RewriteError> {
        let key = Key::of(hook, packet);
        packet.rewrite(Rewrite::between(found.from, found.to), partial)?;
        self.flows.note(found.slot, hook, packet.tcp_flags(), now);
        self.remember(key, packet, now);
        Ok(())
    }

    /// Rewrites an ICMP error that goes the way `found` describes. What it quotes went the other way. Its own addresses
    /// are those of the flow only if it comes from the other end and not from a router. It does not prolong the flow
    /// (RFC 5508 section 4.1).
    fn error(
        &mut self,
        found: Found,
        hook: Hook,
        packet: &mut IpPacket<&mut [u8]>,
        partial: bool,
        now: Instant,
    ) -> Result<(), RewriteError> {
        let Found { from, to, .. } = found;
        let key = Key::of(hook, packet);
        packet.rewrite_quoted(Rewrite::between(from.reverse(), to.reverse()))?;
        let outer = Rewrite {
            source: (packet.source() == from.source).then_some(to.source),
            destination: (packet.destination() == from.destination).then_some(to.destination),
            source_port: None,
            destination_port: None,
        };
        packet.rewrite(outer, partial)?;
        self.remember(key, packet, now);
        Ok(())
    }

    /// Lets later fragments follow a first one that was rewritten; `key` is from before.
    fn remember(&mut self, key: Option<Key>, packet: &IpPacket<&mut [u8]>, now: Instant) {
        if let Some(key) = key {
            let (source, destination) = (packet.source(), packet.destination());
            self.fragments.remember(key, Decision::Rewrite { source, destination }, now);
        }
    }

    /// `to`, with another source port if answers could not be told from those to another flow.
    fn unique(&mut self, hook: Hook, flow: Flow, to: Flow, now: Instant) -> Result<Flow, NatError> {
        let back = hook.opposite();
        let Some(other) = self.flows.find(back, to.reverse(), now) else { return Ok(to) };
        // Ports of TCP and UDP, and the identifier of an echo request, which stands in the same place.
        let has_source_port = matches!(flow.protocol, 6 | 17 | 1 | 58) && flow.source_port != 0;
        if !has_source_port {
            self.flows.forget(other.slot);
            return Ok(to);
        }
        let count = u64::from(DYNAMIC_PORTS.end() - DYNAMIC_PORTS.start()) + 1;
        for attempt in 0..PORT_TRIES {
            let port = DYNAMIC_PORTS.start() + (flow.hash(self.seed.wrapping_add(attempt)) % count) as u16;
            let candidate = Flow { source_port: port, ..to };
            if self.flows.find(back, candidate.reverse(), now).is_none() {
                return Ok(candidate);
            }
        }
        Err(NatError::Full)
    }
}

/// The packet's addresses as a flow without ports.
fn addresses_of(packet: &IpPacket<&mut [u8]>) -> Flow {
    Flow {
        source: packet.source(),
        destination: packet.destination(),
        protocol: packet.protocol(),
        source_port: 0,
        destination_port: 0,
    }
}
