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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        directory::{Class, FactSource},
        stats::DropReason,
    };

    fn explanation() -> Explanation {
        Explanation {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            verdict: Verdict::Bypass,
            standing: Standing::Claimed,
            fact: Some(Fact::new(
                IpAddr::from([10, 0, 0, 2]),
                Class::External,
                FactSource::Dns("a.test".into()),
                None,
            )),
            expires_in: Some(Duration::from_secs(5)),
            seen_internal: false,
            protected: true,
            own_source: true,
        }
    }

    #[test]
    fn the_text_is_a_line_for_the_verdict_and_one_for_each_reason() {
        assert_eq!(
            explanation().to_string(),
            "10.0.0.1 -> 10.0.0.2: pass as it is\n\
             \x20 standing: external on the word of DNS, asked in the background\n\
             \x20 because: 10.0.0.2/32 is external, says dns a.test, for 5 s\n"
        );
        let verdict = Verdict::Drop(DropReason::Policy);
        let foreign = Explanation {
            verdict,
            standing: Standing::Unknown,
            fact: None,
            own_source: false,
            ..explanation()
        };
        assert_eq!(
            foreign.to_string(),
            "10.0.0.1 -> 10.0.0.2: drop (policy)\n\
             \x20 the source is not an address of this pod: its packets are dropped (policy)\n\
             \x20 standing: unknown: nobody has said anything that counts\n\
             \x20 because: it lies in a protected range\n"
        );
    }

    #[test]
    fn the_reason_is_what_decided() {
        let because = |explanation: Explanation| explanation.reasons().pop().unwrap();
        let forever = Explanation { expires_in: None, ..explanation() };
        assert_eq!(because(forever), "because: 10.0.0.2/32 is external, says dns a.test");
        let outside = Explanation { fact: None, protected: false, ..explanation() };
        assert_eq!(because(outside), "because: it lies in no protected range");
        let seen = Explanation { seen_internal: true, ..explanation() };
        let expected = "because: it was seen internal before, and no authoritative fact says otherwise";
        assert_eq!(because(seen), expected);
    }
}
