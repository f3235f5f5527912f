//! The default AEAD backend: RustCrypto, through the `aead` traits.

use std::{hint::black_box, mem::MaybeUninit};

use aead::{
    AeadCore, AeadInOut, KeyInit, KeySizeUser,
    consts::{U12, U16, U32},
    inout::InOutBuf,
};

use super::backend::{AeadKey, Failed, KEY_LEN, NONCE_LEN};
use crate::record::TAG_LEN;

/// A key of the cipher `A`. Boxed: round keys and tables of AES-256-GCM are 624 bytes, which moves would copy about.
/// Both ciphers erase themselves on drop (feature `zeroize` of their crates).
pub(super) struct RustCrypto<A>(Box<A>);

impl<A> AeadKey for RustCrypto<A>
where
    A: AeadInOut + KeyInit + AeadCore<NonceSize = U12, TagSize = U16> + KeySizeUser<KeySize = U32>,
{
    fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Box::new(A::new(key.into())))
    }

    #[inline]
    fn seal_into(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        src: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Failed> {
        let buffer = InOutBuf::new(src, ciphertext).map_err(|_| Failed)?;
        let made =
            far_below(|| self.0.encrypt_inout_detached(&nonce.into(), aad, buffer)).map_err(|_| Failed)?;
        tag.copy_from_slice(&made);
        Ok(())
    }

    #[inline]
    fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Failed> {
        far_below(|| self.0.decrypt_inout_detached(&nonce.into(), aad, ciphertext.into(), tag.into()))
            .map_err(|_| Failed)
    }
}

/// Bytes of stack between a cipher and its caller.
const APART: usize = 16 * 1024;

/// Calls `cipher` far down the stack. The ciphers leave round keys there, which are wiped when the key's session ends: by a
/// call that may come from further down than this one did, and reaches only what is below itself.
#[inline(never)]
fn far_below<R>(cipher: impl FnOnce() -> R) -> R {
    // Not touched, so that it costs nothing.
    let mut between = MaybeUninit::<[u8; APART]>::uninit();
    black_box(&mut between);
    call(cipher)
}

#[inline(never)]
fn call<R>(cipher: impl FnOnce() -> R) -> R {
    cipher()
}
