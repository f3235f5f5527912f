//! Outcomes of a translation.

/// Outcome for a packet that may or may not belong to a translated flow, or to DNS at the hairpin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers must treat all three")]
pub enum NatOutcome {
    /// It belongs to no translated flow, or is neither a query to a nameserver nor an answer of the proxy. It is unchanged.
    Untouched,
    /// Rewritten.
    Rewritten,
    /// It belongs, or may belong, to a translated flow or to DNS, but cannot be rewritten: drop it. A fragment whose first one
    /// was not seen is of this kind if flows between its addresses are translated.
    Refused,
}
