//! Notices of clones, whichever way the kernel tells them.

/// The meaning of the kernel's words that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Nothing of this machine's having been cloned.
    Nothing,
    /// It was cloned.
    Cloned,
    /// Words were lost: nobody knows.
    Lost,
}
