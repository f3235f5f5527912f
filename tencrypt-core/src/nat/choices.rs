//! Endpoints that were chosen for services with affinity, so that new flows go where the last one went.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::lane_update::ChoiceUpdate;

/// Choices remembered at most, about 120 bytes each: 120 KB. The one whose last flow began the longest ago goes first.
pub(super) const MAX_CHOICES: usize = 1_024;

/// A port of a service's address: the address, the protocol's number, and the port, 0 for what has none. kube-proxy has one
/// list for each of these, too (`KUBE-SEP` chains with the match `recent`, pkg/proxy/iptables/proxier.go).
pub(super) type At = (IpAddr, u8, u16);

/// The endpoint of a service's port, and when the last flow to it began.
#[derive(Debug, Clone, Copy)]
struct Choice {
    /// Address and target port.
    endpoint: SocketAddr,
    /// The time at which the last flow began, as far as this lane knows.
    at: Instant,
}

/// The choices of one lane, and what the others have to know of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Choices {
    /// The choices, of this lane or another.
    chosen: BTreeMap<At, Choice>,
    /// `None`: there are no other lanes. Taken out after each call, by who bounds what waits.
    updates: Option<VecDeque<ChoiceUpdate>>,
}

impl Choices {
    /// The endpoint that the last flow went to, if that began less than `time` ago.
    pub(super) fn find(&self, at: At, time: Duration, now: Instant) -> Option<SocketAddr> {
        let choice = self.chosen.get(&at)?;
        (now.saturating_duration_since(choice.at) < time).then_some(choice.endpoint)
    }

    /// A flow to `at` begins at `endpoint`: the next ones follow it, in all lanes.
    pub(super) fn began(&mut self, at: At, endpoint: SocketAddr, now: Instant) {
        if let Some(updates) = &mut self.updates {
            updates.push_back(ChoiceUpdate { at, endpoint });
        }
        self.learn(&ChoiceUpdate { at, endpoint }, now);
    }

    /// Takes what another lane tells: its word is the later one. Two lanes that begin at once tell the same, for what is not
    /// remembered follows from a hash that is theirs in common.
    pub(super) fn learn(&mut self, update: &ChoiceUpdate, now: Instant) {
        let ChoiceUpdate { at, endpoint } = *update;
        if self.chosen.len() >= MAX_CHOICES && !self.chosen.contains_key(&at) {
            let oldest = self.chosen.iter().min_by_key(|(_, choice)| choice.at).map(|(at, _)| *at);
            if let Some(oldest) = oldest {
                self.chosen.remove(&oldest);
            }
        }
        self.chosen.insert(at, Choice { endpoint, at: now });
    }

    /// From now on there is somebody to tell.
    pub(super) fn start_updates(&mut self) {
        self.updates.get_or_insert_default();
    }

    /// The next update for other lanes.
    pub(super) fn poll_update(&mut self) -> Option<ChoiceUpdate> {
        self.updates.as_mut()?.pop_front()
    }

    /// Number of choices remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.chosen.len()
    }
}
