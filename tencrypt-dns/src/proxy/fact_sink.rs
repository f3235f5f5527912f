//! Destination of the facts of answers.

use tencrypt::directory::Fact;

/// Destination of facts.
pub trait FactSink: Send + Sync + 'static {
    /// Makes the facts stand everywhere. The answer that they came with is released when this returns.
    fn apply(&self, facts: Vec<Fact>) -> impl Future<Output = ()> + Send;

    /// Tells if all of this stands already, for at least as long: the answer is then released without
    /// [`apply`](Self::apply). Called for every answer with facts; must not block. By default nothing does.
    fn stands(&self, facts: &[Fact]) -> bool {
        let _ = facts;
        false
    }
}
