//! Secrets that print redacted and are erased on drop.

use std::fmt;

use zeroize::Zeroizing;

/// `N` secret bytes. Not `Clone`, printed redacted, erased on drop.
///
/// Moving a value leaves its bytes behind where it was, which safe code cannot prevent: what lives long is put behind
/// a pointer once and not moved again.
pub(crate) struct Secret<const N: usize>(Zeroizing<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// The secret that `fill` writes into a zeroed array.
    pub(crate) fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut bytes = Zeroizing::new([0; N]);
        fill(&mut bytes);
        Self(bytes)
    }

    /// Puts other bytes in place of these.
    pub(crate) fn set(&mut self, bytes: &[u8; N]) {
        self.0.copy_from_slice(bytes);
    }

    /// The bytes, for the one computation they are made for.
    pub(crate) fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// 32 bytes of randomness from the operating system: all the randomness the core ever gets. Not `Clone`, printed
/// redacted, erased on drop.
///
/// Two uses of the same bytes repeat every ephemeral key drawn from them, so a seed must be fresh and used once.
pub struct Seed(Secret<32>);

impl Seed {
    /// A seed of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self(Secret::filled(|seed| seed.copy_from_slice(&*bytes)))
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// Bytes below the caller's frame that [`wipe_stack`] overwrites: more than a handshake takes.
const WIPED: usize = 64 * 1024;

/// Overwrites the stack below the caller's frame, where the functions it has called kept what they computed with. Moves and
/// libraries leave copies there that nothing else erases.
#[inline(never)]
pub(crate) fn wipe_stack() {
    let mut below = [0_u8; WIPED];
    std::hint::black_box(&mut below);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_print_redacted() {
        let secret = Secret::<3>::filled(|bytes| *bytes = [0xab; 3]);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_eq!(format!("{:?}", Seed::from_bytes([0xab; 32])), "Seed(..)");
    }
}
