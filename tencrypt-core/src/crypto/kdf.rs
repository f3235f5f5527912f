//! SHA-256 (FIPS 180-4), HMAC-SHA256 (RFC 2104) and HKDF-SHA256 (RFC 5869).

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::secret::Secret;

/// Bytes of a SHA-256 digest.
pub(crate) const HASH_LEN: usize = 32;

/// SHA-256 of the concatenation of `parts`.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().into()
}

/// HMAC-SHA256 over the concatenation of `parts`, under a key of any length.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; HASH_LEN]> {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// HKDF-SHA256: fills `out` from the secret `ikm`, a salt, and the concatenation of `info`.
///
/// # Panics
/// If `out` is longer than 255 x 32 bytes (RFC 5869 section 2.3). Callers ask for fixed lengths.
pub(crate) fn hkdf_sha256(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
    assert!(out.len() <= 255 * HASH_LEN, "HKDF output too long");
    let prk = Secret::<HASH_LEN>::filled(|prk| prk.copy_from_slice(&*hmac_sha256(salt, &[ikm])));
    let mut block = Zeroizing::new([0; HASH_LEN]);
    for (number, chunk) in (1..=u8::MAX).zip(out.chunks_mut(HASH_LEN)) {
        let mut mac = keyed(prk.expose());
        if number > 1 {
            mac.update(&*block);
        }
        for part in info {
            mac.update(part);
        }
        mac.update(&[number]);
        *block = mac.finalize().into_bytes().into();
        chunk.copy_from_slice(&block[..chunk.len()]);
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex::decode;

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| decode::<1>(std::str::from_utf8(pair).unwrap()).unwrap()[0])
            .collect()
    }

    /// RFC 5869 appendix A.1 to A.3: hash, IKM, salt, info, output.
    #[test]
    fn the_sha256_vectors_of_rfc_5869_come_out() {
        let cases = [
            (
                bytes(&"0b".repeat(22)),
                bytes("000102030405060708090a0b0c"),
                bytes("f0f1f2f3f4f5f6f7f8f9"),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                (0x00..=0x4f).collect(),
                (0x60..=0xaf).collect(),
                (0xb0..=0xff).collect(),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
                 da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                bytes(&"0b".repeat(22)),
                Vec::new(),
                Vec::new(),
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ];
        for (ikm, salt, info, expected) in cases {
            let expected = bytes(expected);
            let mut out = vec![0; expected.len()];
            hkdf_sha256(&salt, &ikm, &[&info], &mut out);
            assert_eq!(out, expected);
            let (left, right) = info.split_at(info.len() / 2);
            hkdf_sha256(&salt, &ikm, &[left, right], &mut out);
            assert_eq!(out, expected, "info in two parts");
        }
    }

    /// RFC 4231 test cases 2 and 6: a short key, and one longer than a block.
    #[test]
    fn hmac_vectors_of_rfc_4231_come_out() {
        let mac = hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(mac[..], bytes("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
        let mac = hmac_sha256(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"]);
        assert_eq!(mac[..], bytes("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"));
    }
}
