//! The operations that each backend of the AEAD implements.

use crate::record::TAG_LEN;

/// Bytes of an AEAD key, either cipher.
pub(crate) const KEY_LEN: usize = 32;
/// Bytes of an AEAD nonce, either cipher.
pub(crate) const NONCE_LEN: usize = 12;

/// A backend could not do it: on opening a tag that does not verify, on sealing more than the cipher takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed;

/// Operations that a backend implements, for each cipher.
pub(super) trait AeadKey: Sized {
    fn new(key: &[u8; KEY_LEN]) -> Self;

    /// `ciphertext` is as long as `src`.
    fn seal_into(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        src: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Failed>;

    fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Failed>;
}
