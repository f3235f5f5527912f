//! The fate of a packet, as `explain` shows it.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tencrypt::{Explanation, Verdict, directory::Fact};

/// `tencrypt explain --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// Source asked about.
    pub source: IpAddr,
    /// Destination asked about.
    pub destination: IpAddr,
    /// `encrypt`, `bypass`, `hold` or `drop`.
    pub verdict: String,
    /// The reason of a drop, by its name among the counters.
    pub reason: Option<String>,
    /// The peer it would be sealed for.
    pub peer: Option<String>,
    /// Standing of the destination: `internal`, `external`, `claimed`, `exempt` or `unknown`.
    pub standing: String,
    /// The fact that decided, if one did.
    pub fact: Option<FactReport>,
    /// The destination counts as internal because it was seen internal before.
    pub seen_internal: bool,
    /// The destination lies in a protected range.
    pub protected: bool,
    /// The source is the pod's own address.
    pub own_source: bool,
    /// The kernel leads packets of the pod's applications around the tunnel, whatever a lane would do with them; absent:
    /// it does not say.
    #[serde(default)]
    pub around: Option<bool>,
    /// The same in words, for people.
    pub because: Vec<String>,
}

impl ExplainReport {
    /// Takes in where the kernel leads a packet to the destination. One of this pod that is led around the tunnel passes as
    /// it is, and no lane is asked.
    pub fn note_route(&mut self, around: Option<bool>) {
        self.around = around;
        if around != Some(true) || !self.own_source || self.verdict == "bypass" {
            return;
        }
        let (verdict, reason) = (self.verdict.clone(), self.reason.take());
        let lane = reason.map_or(verdict.clone(), |reason| format!("{verdict}, {reason}"));
        self.because.push(format!("the kernel leads it around the tunnel; a lane would say: {lane}"));
        self.verdict = "bypass".to_owned();
        self.peer = None;
    }
}

impl ExplainReport {
    /// Takes in that the destination is the pod's own address: no packet of its applications to there reaches a lane.
    pub fn note_own_destination(&mut self) {
        (self.verdict, self.reason, self.peer) = ("bypass".to_owned(), None, None);
        self.because = vec!["it is an address of this pod: what goes there does not leave it".to_owned()];
    }
}

impl From<&Explanation> for ExplainReport {
    fn from(explanation: &Explanation) -> Self {
        let (reason, peer) = match explanation.verdict {
            Verdict::Encrypt(peer) => (None, Some(peer.to_string())),
            Verdict::Drop(reason) => (Some(reason.as_str().to_owned()), None),
            Verdict::Bypass | Verdict::Hold => (None, None),
        };
        Self {
            source: explanation.source,
            destination: explanation.destination,
            verdict: explanation.verdict.as_str().to_owned(),
            reason,
            peer,
            standing: explanation.standing.as_str().to_owned(),
            fact: explanation.fact.as_ref().map(|fact| FactReport::new(fact, explanation.expires_in)),
            seen_internal: explanation.seen_internal,
            protected: explanation.protected,
            own_source: explanation.own_source,
            around: None,
            because: explanation.reasons(),
        }
    }
}

/// A fact in `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactReport {
    /// The addresses it is about.
    pub prefix: String,
    /// `internal`, `external` or `exempt`.
    pub class: String,
    /// `static`, `kubernetes`, `handshake`, `dns` or `reverse_dns`.
    pub source: String,
    /// The name that DNS gave.
    pub name: Option<String>,
    /// The peer that the addresses belong to, if known.
    pub owner: Option<String>,
    /// Seconds until it ends; without: never.
    pub expires_s: Option<u64>,
}

impl FactReport {
    fn new(fact: &Fact, expires_in: Option<Duration>) -> Self {
        Self {
            prefix: fact.prefix.to_string(),
            class: fact.class.as_str().to_owned(),
            source: fact.source.as_str().to_owned(),
            name: fact.source.dns_name().map(str::to_owned),
            owner: fact.owner.map(|owner| owner.to_string()),
            expires_s: expires_in.map(|left| left.as_secs()),
        }
    }
}
