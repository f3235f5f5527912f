//! Sums of files, by which it is seen that they are others.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// The first 64 bits of a SHA-256: enough to tell apart what one operator has written, and short enough for a pod's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest([u8; 8]);

impl Digest {
    /// The sum of these parts, of which each counts with its length.
    pub(crate) fn of<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
        Self([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_parts_have_another_sum_even_if_their_bytes_are_the_same() {
        let sum = |parts: &[&str]| Digest::of(parts.iter().map(|part| part.as_bytes())).to_string();
        assert_eq!(sum(&["a", "b"]), sum(&["a", "b"]));
        assert_eq!(sum(&["a"]).len(), 16);
        for other in [&["ab"][..], &["", "ab"], &["a", "b", ""], &["b", "a"]] {
            assert_ne!(sum(other), sum(&["a", "b"]), "{other:?}");
        }
    }
}
