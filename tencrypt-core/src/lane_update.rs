//! Updates that the lanes of a pod tell each other.
//!
//! Translation changes what the kernel's steering looks at, so the two directions of a flow to a VIP come to different
//! lanes: the lane that meets an answer has to know what another one has done with the question. Lanes share no memory;
//! they send each other messages.

use std::net::{IpAddr, SocketAddr};

use crate::{crypto::PeerId, packet::Flow};

/// Something that one lane knows and the others of its pod have to: a translated flow, the endpoint that flows to a service go
/// to, or a member behind an address.
///
/// From [`Output::LaneUpdate`](crate::Output::LaneUpdate) or [`PacketSink::lane_update`](crate::PacketSink::lane_update) of one lane, for
/// [`Tunnel::handle_lane_update`](crate::Tunnel::handle_lane_update) of each other one, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneUpdate {
    /// The lane that says so.
    pub(crate) lane: u8,
    pub(crate) change: LaneChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneChange {
    Flow(FlowUpdate),
    /// A flow began to a service with an affinity.
    Choice(ChoiceUpdate),
    /// A member was found behind an address.
    Found {
        address: IpAddr,
        peer: PeerId,
    },
    /// It is there no longer.
    Lost {
        address: IpAddr,
        peer: PeerId,
    },
}

/// A translated flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowUpdate {
    /// The peer that began it, to a VIP that this pod serves; `None`: the pod itself, to a VIP that it calls.
    pub(crate) client: Option<PeerId>,
    pub(crate) original: Flow,
    pub(crate) translated: Flow,
    /// `None`: it was forgotten before its time.
    pub(crate) state: Option<FlowState>,
}

/// The endpoint that new flows to a port of a service go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChoiceUpdate {
    /// Address of the service, number of the protocol, port; 0 for what has none.
    pub(crate) at: (IpAddr, u8, u16),
    pub(crate) endpoint: SocketAddr,
}

/// Progress of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FlowState {
    pub(crate) answered: bool,
    pub(crate) established: bool,
    pub(crate) closing: bool,
}
