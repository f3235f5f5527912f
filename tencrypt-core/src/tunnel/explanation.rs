//! Answer to the question what a packet meets, and why.

use std::{fmt, net::IpAddr, time::Duration};

use super::outcome::Verdict;
use crate::directory::{Fact, Standing};

/// The answer of [`Tunnel::explain`](crate::Tunnel::explain).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// Source of the packet.
    pub source: IpAddr,
    /// Destination of the packet.
    pub destination: IpAddr,
    /// Verdict on the packet.
    pub verdict: Verdict,
    /// Standing of the destination by the facts.
    pub standing: Standing,
    /// The statement that decided, if one did.
    pub fact: Option<Fact>,
    /// Time for which that statement still stands; `None`: for good.
    pub expires_in: Option<Duration>,
    /// The destination counts as internal because it was seen internal before.
    pub seen_internal: bool,
    /// The destination lies in a protected range.
    pub protected: bool,
    /// The source is this pod's own address.
    pub own_source: bool,
}

impl Explanation {
    /// The reasons in words, a sentence each.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::with_capacity(3);
        if !self.own_source {
            reasons.push(
                "the source is not an address of this pod: its packets are dropped (policy)".to_owned(),
            );
        }
        let standing = match self.standing {
            Standing::Internal => "internal: of this tenant",
            Standing::External => "external: not of this tenant",
            Standing::Claimed => "external on the word of DNS, asked in the background",
            Standing::Exempt => "exempt: of the node or the cluster",
            Standing::Unknown => "unknown: nobody has said anything that counts",
        };
        reasons.push(format!("standing: {standing}"));
        let because = match (&self.fact, self.seen_internal) {
            (_, true) => "it was seen internal before, and no authoritative fact says otherwise".to_owned(),
            (Some(fact), false) => {
                let left =
                    self.expires_in.map_or_else(String::new, |left| format!(", for {} s", left.as_secs()));
                format!("{} is {}, says {}{left}", fact.prefix, fact.class.as_str(), fact.source)
            }
            (None, false) if self.protected => "it lies in a protected range".to_owned(),
            (None, false) => "it lies in no protected range".to_owned(),
        };
        reasons.push(format!("because: {because}"));
        reasons
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Encrypt(peer) => format!("encrypt to peer {peer}"),
            Verdict::Bypass => "pass as it is".to_owned(),
            Verdict::Hold => "hold and ask".to_owned(),
            Verdict::Drop(reason) => format!("drop ({reason})"),
        };
        writeln!(f, "{} -> {}: {verdict}", self.source, self.destination)?;
        self.reasons().iter().try_for_each(|reason| writeln!(f, "  {reason}"))
    }
}
