//! Explanation of the verdict that a packet meets.

use std::{net::IpAddr, time::Instant};

use super::{Explanation, Tunnel, outbound::Judgement};

impl Tunnel {
    pub(super) fn explanation(&self, source: IpAddr, destination: IpAddr, now: Instant) -> Explanation {
        let Judgement { verdict, finding, .. } = self.judge(destination, now);
        let fact = finding.fact.cloned();
        Explanation {
            source,
            destination,
            verdict,
            standing: finding.standing,
            expires_in: fact
                .as_ref()
                .and_then(|fact| fact.expires)
                .map(|expires| expires.saturating_duration_since(now)),
            fact,
            seen_internal: finding.sticky,
            protected: self.policy.is_protected(destination),
            own_source: self.policy.is_own(source),
        }
    }
}
