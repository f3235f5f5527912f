//! Names in the nftables table: its own, those of its counters and of its sets.

/// The table's name; its family is `inet`.
pub(crate) const TABLE: &str = "tencrypt";

/// Counter of plaintext that came in from protected sources and was dropped.
pub(crate) const PLAIN_IN: &str = "plain_in";

/// Counter of packets that would have left in plain and were dropped.
pub(crate) const LEAK: &str = "leak";

/// Counter of the tunnel's own packets that were led to its device and dropped.
pub(crate) const LOOP: &str = "loop";

/// The sets, one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    Protected,
    Exempt,
    External,
    Internal,
    Nameserver,
}

impl Set {
    pub(crate) const ALL: [Self; 5] =
        [Self::Protected, Self::Exempt, Self::External, Self::Internal, Self::Nameserver];

    pub(crate) fn name(self, v4: bool) -> &'static str {
        match (self, v4) {
            (Self::Protected, true) => "protected4",
            (Self::Protected, false) => "protected6",
            (Self::Exempt, true) => "exempt4",
            (Self::Exempt, false) => "exempt6",
            (Self::External, true) => "external4",
            (Self::External, false) => "external6",
            (Self::Internal, true) => "internal4",
            (Self::Internal, false) => "internal6",
            (Self::Nameserver, true) => "nameserver4",
            (Self::Nameserver, false) => "nameserver6",
        }
    }
}
