//! Bytes that may be secret, such as those of a `Secret`, in memory that is wiped when it is given back.

use zeroize::Zeroizing;

/// Appends `piece`. A vector that grows by itself would leave a copy of what it holds behind.
pub(super) fn append(to: &mut Zeroizing<Vec<u8>>, piece: &[u8]) {
    let len = to.len().saturating_add(piece.len());
    if len > to.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(len.max(to.capacity().saturating_mul(2))));
        larger.extend_from_slice(to);
        *to = larger;
    }
    to.extend_from_slice(piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_one_after_another() {
        let mut bytes = Zeroizing::new(Vec::new());
        for piece in ["", "a", "bcd", "", "efghijklmnopqrstuvwxyz"] {
            append(&mut bytes, piece.as_bytes());
        }
        assert_eq!(*bytes, b"abcdefghijklmnopqrstuvwxyz");
    }
}
