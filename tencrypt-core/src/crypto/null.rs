//! No cipher at all: what a tunnel costs without one. Compiled only with `--cfg tencrypt_null_cipher`, which no feature
//! and no ordinary build can turn on; the program says so at its start.

use super::backend::{AeadKey, Failed, KEY_LEN, NONCE_LEN};
use crate::record::TAG_LEN;

/// Copies, and calls every tag right that is zeros.
pub(super) struct Null;

impl AeadKey for Null {
    fn new(_: &[u8; KEY_LEN]) -> Self {
        Self
    }

    #[inline]
    fn seal_into(
        &self,
        _: [u8; NONCE_LEN],
        _: &[u8],
        src: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Failed> {
        ciphertext.copy_from_slice(src);
        tag.fill(0);
        Ok(())
    }

    #[inline]
    fn open_in_place(
        &self,
        _: [u8; NONCE_LEN],
        _: &[u8],
        _: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Failed> {
        if *tag == [0; TAG_LEN] { Ok(()) } else { Err(Failed) }
    }
}
