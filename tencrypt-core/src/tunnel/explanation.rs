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

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Encrypt(peer) => format!("encrypt to peer {peer}"),
            Verdict::Bypass => "pass as it is".to_owned(),
            Verdict::Hold => "hold and ask".to_owned(),
            Verdict::Drop(reason) => format!("drop ({reason})"),
        };
        writeln!(f, "{} -> {}: {verdict}", self.source, self.destination)?;
        if !self.own_source {
            writeln!(f, "  the source is not an address of this pod: its packets are dropped (policy)")?;
        }
        let standing = match self.standing {
            Standing::Internal => "internal: of this tenant",
            Standing::External => "external: not of this tenant",
            Standing::Claimed => "external on the word of DNS, asked in the background",
            Standing::Exempt => "exempt: of the node or the cluster",
            Standing::Unknown => "unknown: nobody has said anything that counts",
        };
        writeln!(f, "  standing: {standing}")?;
        match (&self.fact, self.seen_internal) {
            (_, true) => writeln!(
                f,
                "  because: it was seen internal before, and no authoritative fact says otherwise"
            )?,
            (Some(fact), false) => {
                write!(f, "  because: {} is {}, says {}", fact.prefix, fact.class.as_str(), fact.source)?;
                match self.expires_in {
                    Some(left) => writeln!(f, ", for {} s", left.as_secs())?,
                    None => writeln!(f)?,
                }
            }
            (None, false) if self.protected => writeln!(f, "  because: it lies in a protected range")?,
            (None, false) => writeln!(f, "  because: it lies in no protected range")?,
        }
        Ok(())
    }
}
