//! X25519 (RFC 7748).

use curve25519_dalek::montgomery::MontgomeryPoint;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::secret::Secret;

/// Bytes of a secret or public key.
pub(crate) const X25519_LEN: usize = 32;

/// The public key of `secret`, which is clamped as it is used (RFC 7748 section 5).
#[inline(never)]
pub(crate) fn public_key(secret: &[u8; X25519_LEN]) -> [u8; X25519_LEN] {
    #[cfg(test)]
    super::tests::work::count();
    MontgomeryPoint::mul_base_clamped(*secret).to_bytes()
}

/// The secret shared with the holder of `public`. `None` if it is all zeros, which it is for the points of low order
/// alone: whoever sends one knows the result without a secret of his own (RFC 7748 section 6.1).
pub(crate) fn shared_secret(
    secret: &[u8; X25519_LEN],
    public: &[u8; X25519_LEN],
) -> Option<Secret<X25519_LEN>> {
    #[cfg(test)]
    super::tests::work::count();
    let shared = Zeroizing::new(MontgomeryPoint(*public).mul_clamped(*secret).to_bytes());
    let is_zero: bool = shared.ct_eq(&[0; X25519_LEN]).into();
    (!is_zero).then(|| Secret::filled(|bytes| bytes.copy_from_slice(&*shared)))
}

/// Points whose product with any clamped scalar is zero: those of order 1, 2, 4 and 8 on curve and twist, and their
/// forms that are not reduced modulo 2^255 - 19 (the list of cr.yp.to/ecdh.html, "validate").
#[cfg(test)]
pub(crate) const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex::decode;

    fn key(hex: &str) -> [u8; X25519_LEN] {
        *decode(hex).unwrap()
    }

    /// RFC 7748 section 5.2, first vector, and section 6.1.
    #[test]
    fn vectors_of_rfc_7748_come_out() {
        let scalar = key("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let point = key("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let product = key("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        assert_eq!(shared_secret(&scalar, &point).unwrap().expose(), &product);

        let bob = key("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        assert_eq!(public_key(&bob), key("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        let alice_public = key("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let shared = key("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(shared_secret(&bob, &alice_public).unwrap().expose(), &shared);
    }

    #[test]
    fn points_of_low_order_give_no_secret() {
        for point in LOW_ORDER {
            for high_bit in [0, 0x80] {
                let mut point = key(point);
                point[31] |= high_bit;
                assert!(shared_secret(&[0x55; 32], &point).is_none(), "{point:02x?}");
            }
        }
    }
}
