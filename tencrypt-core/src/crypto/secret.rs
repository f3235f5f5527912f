//! Secrets that print redacted and are erased on drop.

use std::fmt;

use zeroize::Zeroizing;

/// `N` secret bytes. Not `Clone`, printed redacted, erased on drop.
///
/// Moving a value leaves its bytes behind where it was, which safe code cannot prevent: what outlives the call that makes
/// it is [`boxed`](Self::boxed), and what such a call leaves on the stack is wiped at its end ([`wipe_stack`]).
pub(crate) struct Secret<const N: usize>(Zeroizing<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// The secret that `fill` writes into a zeroed array.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self(Zeroizing::new([0; N]));
        fill(&mut secret.0);
        #[cfg(test)]
        witness::note(&*secret.0);
        secret
    }

    /// The same, filled where it stays.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn boxed(fill: impl FnOnce(&mut [u8; N])) -> Box<Self> {
        let mut secret = Box::new(Self(Zeroizing::new([0; N])));
        fill(&mut secret.0);
        #[cfg(test)]
        witness::note(&*secret.0);
        secret
    }

    /// Puts other bytes in place of these.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn set(&mut self, bytes: &[u8; N]) {
        self.0.copy_from_slice(bytes);
        #[cfg(test)]
        witness::note(&*self.0);
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
pub struct Seed(Box<Secret<32>>);

impl Seed {
    /// A seed of these bytes, of which the caller's copy is the caller's to erase.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self(Secret::boxed(|seed| seed.copy_from_slice(&*bytes)))
    }

    /// A seed that `fill` writes where it stays, so that there is no other copy.
    ///
    /// # Errors
    /// That of `fill`.
    pub fn try_filled<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut filled = Ok(());
        let seed = Self(Secret::boxed(|seed| filled = fill(seed)));
        filled.map(|()| seed)
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

/// Bytes of stack to overwrite after handshakes and records: twice the measured depth, which was 41,231 to 65,047 with
/// ML-KEM and varies by build. The test `wipes_reach_as_deep_as_the_stack_was_used` measures it.
pub(crate) const DEEP: usize = 128 * 1024;
/// The same for a draw of randomness, which takes 1,758 in a debug build.
pub(crate) const SHALLOW: usize = 8 * 1024;

/// Overwrites `N` bytes of the stack below the caller's frame, where the functions it has called kept what they computed with.
/// Moves and libraries leave copies there that nothing else erases.
#[inline]
pub(crate) fn wipe_stack<const N: usize>() {
    #[cfg(test)]
    if witness::leaves_stack() {
        return;
    }
    overwrite::<N>();
    #[cfg(test)]
    witness::note_wipe(N);
}

#[inline(never)]
fn overwrite<const N: usize>() {
    let mut below = [0_u8; N];
    std::hint::black_box(&mut below);
}

/// Takes down every secret that a thread makes, for the test that looks for what is left of them.
#[cfg(test)]
pub(crate) mod witness {
    use std::{
        cell::{Cell, RefCell},
        panic::Location,
    };

    /// A secret, and where it was made.
    #[derive(Clone)]
    pub(crate) struct Noted {
        pub(crate) bytes: Vec<u8>,
        pub(crate) at: &'static Location<'static>,
    }

    thread_local! {
        static NOTED: RefCell<Option<Vec<Noted>>> = const { RefCell::new(None) };
        static LEAVES_STACK: Cell<bool> = const { Cell::new(false) };
        static UNWIPED: Cell<usize> = const { Cell::new(0) };
    }

    /// From here on this thread's stack is not wiped.
    pub(crate) fn leave_stack() {
        LEAVES_STACK.set(true);
    }

    pub(super) fn leaves_stack() -> bool {
        LEAVES_STACK.get()
    }

    pub(super) fn note_wipe(depth: usize) {
        if depth >= super::DEEP {
            UNWIPED.set(0);
        }
    }

    /// Returns the number of secrets that this thread has made since its stack was wiped all the way.
    pub(crate) fn unwiped() -> usize {
        UNWIPED.get()
    }

    /// From here on this thread's secrets are taken down. No thread does so otherwise.
    pub(crate) fn begin() {
        NOTED.with_borrow_mut(|noted| *noted = Some(Vec::new()));
    }

    /// Returns what was taken down so far.
    pub(crate) fn noted() -> Vec<Noted> {
        NOTED.with_borrow(|noted| noted.clone().unwrap_or_default())
    }

    #[track_caller]
    pub(crate) fn note(bytes: &[u8]) {
        let at = Location::caller();
        UNWIPED.set(UNWIPED.get() + 1);
        NOTED.with_borrow_mut(|noted| {
            if let Some(noted) = noted {
                noted.push(Noted { bytes: bytes.to_vec(), at });
            }
        });
    }
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
