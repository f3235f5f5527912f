//! Memory for a secret in passing, such as the text of a key file.

use std::ops::{Deref, DerefMut};

use zeroize::{Zeroize as _, Zeroizing};

use crate::os::sys::SecretMapping;

/// Bytes, zero at first, that nobody else can see: not even the kernel has them mapped where it has `memfd_secret`
/// (memfd_secret(2), Linux 5.14, where it is switched on). Elsewhere ordinary memory. Erased on drop either way.
pub struct SecretBytes(Place);

enum Place {
    Secret(SecretMapping),
    Ordinary(Zeroizing<Vec<u8>>),
}

impl SecretBytes {
    /// `len` bytes.
    pub fn new(len: usize) -> Self {
        Self(match SecretMapping::new(len) {
            Ok(mapping) => Place::Secret(mapping),
            Err(_) => Place::Ordinary(Zeroizing::new(vec![0; len])),
        })
    }

    /// Tells if the kernel hides them.
    pub fn is_hidden(&self) -> bool {
        matches!(self.0, Place::Secret(_))
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Secret(mapping) => mapping.bytes(),
            Place::Ordinary(bytes) => bytes,
        }
    }
}

impl DerefMut for SecretBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Place::Secret(mapping) => mapping.bytes_mut(),
            Place::Ordinary(bytes) => bytes,
        }
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt as _};

    use super::*;

    #[test]
    fn what_is_written_is_read_and_both_places_are_alike() {
        for mut bytes in
            [SecretBytes::new(70_000), SecretBytes(Place::Ordinary(Zeroizing::new(vec![0; 70_000])))]
        {
            assert!(bytes.len() == 70_000 && bytes.iter().all(|byte| *byte == 0));
            bytes[69_999] = 7;
            assert_eq!(bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>(), 7);
        }
    }

    #[test]
    fn not_even_this_process_reads_them_through_the_kernel() {
        let mut bytes = SecretBytes::new(32);
        bytes.fill(0xa5);
        let mut ordinary = [0_u8; 32];
        ordinary.fill(0xa5);
        let memory = fs::File::open("/proc/self/mem").expect("/proc");
        let look = |at: *const u8| memory.read_at(&mut [0; 32], at as u64);
        assert!(look(ordinary.as_ptr()).is_ok(), "the positive control");
        if bytes.is_hidden() {
            assert!(look(bytes.as_ptr()).is_err(), "memfd_secret memory was read");
        } else {
            // Nothing to be shown by this kernel; `status` says that it is so.
            assert!(look(bytes.as_ptr()).is_ok());
        }
    }
}
