//! A model of the tunnel's promises, which checks them packet by packet.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Instant};

use crate::{packets::read, pod::PodId};

/// A packet as it was sent.
#[derive(Debug, Clone)]
struct Sent {
    from: PodId,
    to: Vec<PodId>,
    destination: IpAddr,
    bytes: Vec<u8>,
    /// Pods that it came out at.
    at: Vec<PodId>,
    /// Time at which it came out first.
    first: Option<Instant>,
    /// The pod that it came out at, with these ends.
    came_out: Option<(PodId, IpAddr, IpAddr)>,
}

/// Every packet that applications sent, and what became of it.
#[derive(Debug, Default)]
pub struct Model {
    sent: BTreeMap<u64, Sent>,
    violations: Vec<Violation>,
}

/// Something that must not happen did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A packet came out twice at one pod.
    Duplicate(u64),
    /// A packet came out at this pod, and at another one before.
    Copied(u64, PodId),
    /// A packet came out at the wrong pod: of another tenant, or another pod of the same one.
    WrongPod(u64, PodId),
    /// A packet came out that is not, byte for byte but for a translated VIP, what went in.
    Altered(u64),
    /// A packet came out that nobody sent.
    Invented(PodId),
    /// A payload was seen on the wire.
    Plaintext,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Model {
    pub(crate) fn send(
        &mut self,
        number: u64,
        from: PodId,
        to: Vec<PodId>,
        destination: IpAddr,
        bytes: Vec<u8>,
    ) {
        self.sent.insert(
            number,
            Sent { from, to, destination, bytes, at: Vec::new(), first: None, came_out: None },
        );
    }

    /// `leads(a, b)`: the network leads from `a`, a service's address, to `b`.
    pub(crate) fn deliver(
        &mut self,
        (at, now): (PodId, Instant),
        own: &[IpAddr],
        leads: impl Fn(IpAddr, IpAddr) -> bool,
        bytes: &[u8],
    ) {
        let Some((source, destination, payload)) = read(bytes) else {
            self.violations.push(Violation::Invented(at));
            return;
        };
        let number = payload.first_chunk::<8>().map(|number| u64::from_be_bytes(*number));
        let Some((number, sent)) = number.and_then(|number| Some((number, self.sent.get_mut(&number)?)))
        else {
            self.violations.push(Violation::Invented(at));
            return;
        };
        if sent.at.contains(&at) {
            self.violations.push(Violation::Duplicate(number));
        } else if !sent.at.is_empty() {
            self.violations.push(Violation::Copied(number, at));
        }
        sent.at.push(at);
        sent.first.get_or_insert(now);
        if !sent.to.contains(&at) {
            self.violations.push(Violation::WrongPod(number, at));
        }
        sent.came_out = Some((at, source.0, destination.0));
        // The destination may have been a VIP that the receiver turned into its own address, and the source have become
        // the VIP that the packet answers.
        let before = read(&sent.bytes);
        let same = before.is_some_and(|(from, to, before)| {
            (from.0 == source.0 || leads(source.0, from.0))
                && (from.1, to.1) == (source.1, destination.1)
                && before == payload
                && own.contains(&destination.0)
        });
        if !same {
            self.violations.push(Violation::Altered(number));
        }
    }

    pub(crate) fn on_wire(&mut self, bytes: &[u8], canary: &[u8]) {
        if bytes.windows(canary.len()).any(|window| window == canary) {
            self.violations.push(Violation::Plaintext);
        }
    }

    /// Tells if this packet has come out.
    #[must_use]
    pub fn is_delivered(&self, number: u64) -> bool {
        self.sent.get(&number).is_some_and(|sent| !sent.at.is_empty())
    }

    /// The time at which this packet came out first.
    #[must_use]
    pub fn delivered_at(&self, number: u64) -> Option<Instant> {
        self.sent.get(&number)?.first
    }

    /// The source that this packet came out with.
    #[must_use]
    pub fn source_of(&self, number: u64) -> Option<IpAddr> {
        self.came_out(number).map(|(_, source, _)| source)
    }

    /// The pod at which this packet came out, and the source and destination that it came out with.
    #[must_use]
    pub fn came_out(&self, number: u64) -> Option<(PodId, IpAddr, IpAddr)> {
        self.sent.get(&number)?.came_out
    }

    /// The address that this packet was sent to.
    #[must_use]
    pub fn destination_of(&self, number: u64) -> Option<IpAddr> {
        Some(self.sent.get(&number)?.destination)
    }

    /// Packets sent, and packets that came out.
    #[must_use]
    pub fn totals(&self) -> (usize, usize) {
        (self.sent.len(), self.sent.values().filter(|sent| !sent.at.is_empty()).count())
    }

    /// Packets from one pod to an address that have not come out.
    #[must_use]
    pub fn missing(&self, from: PodId, destination: IpAddr) -> usize {
        self.sent
            .values()
            .filter(|sent| sent.from == from && sent.destination == destination && sent.at.is_empty())
            .count()
    }

    /// Breaches found so far.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}
