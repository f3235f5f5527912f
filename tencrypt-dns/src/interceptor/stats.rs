//! Counters of an interceptor.

/// Counts so far, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Queries accepted.
    pub queries: u64,
    /// Queries dropped as malformed, too long, or sent to no nameserver.
    pub refused: u64,
    /// Queries dropped by the rate limit.
    pub rate_limited: u64,
    /// Answers that were a server's reply.
    pub answered: u64,
    /// Answers that were SERVFAIL made here, since no server answered in time.
    pub unanswered: u64,
    /// Answers that were SERVFAIL made here, since the server's reply gave a name of the project's own an address that is
    /// neither protected nor exempt, or could not be read.
    pub withheld: u64,
    /// Replies of that kind that were answers all the same, by [`Config::external_names`](super::Config::external_names).
    pub external_names: u64,
    /// Queries given up to make room for newer ones; among the unanswered.
    pub evicted: u64,
    /// Attempts beyond the first of a query.
    pub fallbacks: u64,
    /// Datagrams that were not the reply they came as.
    pub forged: u64,
    /// Replies that could not be read, or whose aliases are no chain.
    pub unreadable: u64,
    /// Facts handed out.
    pub facts: u64,
}

impl Stats {
    /// Nothing counted yet.
    pub(super) const fn new() -> Self {
        Self {
            queries: 0,
            refused: 0,
            rate_limited: 0,
            answered: 0,
            unanswered: 0,
            withheld: 0,
            external_names: 0,
            evicted: 0,
            fallbacks: 0,
            forged: 0,
            unreadable: 0,
            facts: 0,
        }
    }
}
