//! Contents of handshake messages: the address asked for in INIT, the identity slot in RESP and CONF.
//!
//! Both have one spelling each. Whatever differs from it is refused, so that later versions can give a meaning to
//! what is zero today.

use std::net::IpAddr;

use crate::{
    packet::is_tunnel_address,
    record::{
        ADDRESS_LEN, CipherSuite, IDENTITY_LEN, KEM_CIPHERTEXT_LEN, KEM_PUBLIC_LEN, decode_address,
        encode_address,
    },
    trust::{Certificate, KIND_CERTIFICATE},
};

/// Addresses that the identity slot holds.
pub(crate) const MAX_ADDRESSES: usize = 7;

const HEAD_LEN: usize = 4;
/// A static key without a certificate.
const KIND_KEY_ONLY: u8 = 1;
const FLAG_VNET: u8 = 1;

const _: () = assert!(HEAD_LEN + MAX_ADDRESSES * ADDRESS_LEN == IDENTITY_LEN);

/// Statements of a peer about itself in the identity slot. Its static key is proven by the handshake; this is not,
/// beyond that the holder of the key says so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerIdentity {
    /// Its device takes packets whose TCP or UDP checksum is unfinished.
    pub vnet: bool,
    /// The addresses it says it has: at most 7, distinct, each one a pod may have.
    pub addresses: Vec<IpAddr>,
    /// Its certificate, well-formed and no more: whether it counts, [`Trust::admit`](crate::trust::Trust::admit) says. Then
    /// `addresses` are the single ones in it.
    pub certificate: Option<Certificate>,
}

/// The payload is not spelt as docs/wire-format.md says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadPayload;

/// INIT's payload: the address that INIT goes to, a VIP perhaps, and in a hybrid suite the key to encapsulate to.
pub(super) fn encode_init(suite: CipherSuite, asked: IpAddr, kem: Option<&[u8; KEM_PUBLIC_LEN]>) -> Vec<u8> {
    let mut payload = Vec::with_capacity(suite.init_payload_len());
    payload.extend(encode_address(asked));
    payload.extend(kem.into_iter().flatten());
    payload.resize(suite.init_payload_len(), 0);
    payload
}

/// Reads what [`encode_init`] was given.
pub(super) fn decode_init(
    suite: CipherSuite,
    payload: &[u8],
) -> Result<(IpAddr, Option<&[u8; KEM_PUBLIC_LEN]>), BadPayload> {
    let (address, rest) = payload.split_first_chunk().ok_or(BadPayload)?;
    let (kem, rest) = if suite.is_hybrid() {
        let (kem, rest) = rest.split_first_chunk().ok_or(BadPayload)?;
        (Some(kem), rest)
    } else {
        (None, rest)
    };
    if !is_zero(rest) {
        return Err(BadPayload);
    }
    Ok((decode_pod_address(address)?, kem))
}

/// RESP's payload: the identity slot, and in a hybrid suite the ciphertext for INIT's key.
pub(super) fn encode_resp(slot: &[u8; IDENTITY_LEN], kem: Option<&[u8; KEM_CIPHERTEXT_LEN]>) -> Vec<u8> {
    slot.iter().chain(kem.into_iter().flatten()).copied().collect()
}

/// Reads what [`encode_resp`] was given, from a payload of the suite's length.
pub(super) fn decode_resp(
    payload: &[u8],
) -> Result<(PeerIdentity, Option<&[u8; KEM_CIPHERTEXT_LEN]>), BadPayload> {
    let (slot, kem) = payload.split_first_chunk().ok_or(BadPayload)?;
    Ok((decode_identity(slot)?, kem.as_array()))
}

/// The identity slot. Of `addresses` the first [`MAX_ADDRESSES`] that may be in it are; others would make the peer
/// refuse it.
pub(super) fn encode_identity(vnet: bool, addresses: &[IpAddr]) -> [u8; IDENTITY_LEN] {
    let mut slot = [0; IDENTITY_LEN];
    let (head, room) = slot.split_at_mut(HEAD_LEN);
    let mut listed: Vec<IpAddr> = Vec::with_capacity(MAX_ADDRESSES);
    for address in addresses.iter().filter(|address| is_tunnel_address(**address)) {
        if listed.len() < MAX_ADDRESSES && !listed.contains(address) {
            listed.push(*address);
        }
    }
    for (place, address) in room.chunks_exact_mut(ADDRESS_LEN).zip(&listed) {
        place.copy_from_slice(&encode_address(*address));
    }
    head.copy_from_slice(&[KIND_KEY_ONLY, if vnet { FLAG_VNET } else { 0 }, listed.len() as u8, 0]);
    slot
}

pub(super) fn decode_identity(slot: &[u8; IDENTITY_LEN]) -> Result<PeerIdentity, BadPayload> {
    let (&[kind, flags, count, reserved], room) = slot.split_first_chunk().ok_or(BadPayload)?;
    if kind == KIND_CERTIFICATE {
        let (certificate, vnet) = Certificate::decode(slot).map_err(|_| BadPayload)?;
        return Ok(PeerIdentity {
            vnet,
            addresses: certificate.addresses().collect(),
            certificate: Some(certificate),
        });
    }
    if kind != KIND_KEY_ONLY || flags & !FLAG_VNET != 0 || reserved != 0 {
        return Err(BadPayload);
    }
    let (listed, rest) = room.split_at_checked(usize::from(count) * ADDRESS_LEN).ok_or(BadPayload)?;
    if !is_zero(rest) {
        return Err(BadPayload);
    }
    let mut addresses = Vec::with_capacity(MAX_ADDRESSES);
    for address in listed.as_chunks::<ADDRESS_LEN>().0 {
        let address = decode_pod_address(address)?;
        if addresses.contains(&address) {
            return Err(BadPayload);
        }
        addresses.push(address);
    }
    Ok(PeerIdentity { vnet: flags & FLAG_VNET != 0, addresses, certificate: None })
}

fn decode_pod_address(bytes: &[u8; ADDRESS_LEN]) -> Result<IpAddr, BadPayload> {
    decode_address(bytes).filter(|address| is_tunnel_address(*address)).ok_or(BadPayload)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const NOT_OF_PODS: [&str; 15] = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
    ];

    #[test]
    fn the_slot_is_the_bytes_of_the_specification() {
        let slot = encode_identity(true, &[address("10.1.2.3"), address("fd00::5")]);
        let mut expected = [0; IDENTITY_LEN];
        expected[..12].copy_from_slice(&[1, 1, 2, 0, 4, 0, 0, 0, 10, 1, 2, 3]);
        expected[24] = 6;
        expected[28] = 0xfd;
        expected[43] = 5;
        assert_eq!(slot, expected);
        assert_eq!(encode_identity(false, &[])[..4], [1, 0, 0, 0]);
    }

    /// INIT's payload of a suite, with this address and a KEM key whose bytes are all `fill`.
    fn init(suite: CipherSuite, asked: IpAddr, fill: u8) -> Vec<u8> {
        encode_init(suite, asked, suite.is_hybrid().then_some(&[fill; KEM_PUBLIC_LEN]))
    }

    #[test]
    fn init_and_resp_are_the_bytes_of_the_specification() {
        let asked = address("10.1.2.3");
        let mut expected = [0; 192];
        expected[..8].copy_from_slice(&[4, 0, 0, 0, 10, 1, 2, 3]);
        assert_eq!(init(CipherSuite::Aes256Gcm, asked, 9), expected);
        assert_eq!(decode_init(CipherSuite::Aes256Gcm, &expected), Ok((asked, None)));
        let hybrid = CipherSuite::MlKem768Aes256Gcm;
        let expected = [&expected[..20], &[9; 1_184], &[0; 76]].concat();
        assert_eq!(init(hybrid, asked, 9), expected);
        assert_eq!(decode_init(hybrid, &expected), Ok((asked, Some(&[9; 1_184]))));

        let slot = encode_identity(true, &[asked]);
        assert_eq!(encode_resp(&slot, None), slot);
        let expected = [&slot[..], &[8; 1_088]].concat();
        assert_eq!(encode_resp(&slot, Some(&[8; 1_088])), expected);
        assert_eq!(decode_resp(&expected).unwrap().1, Some(&[8; 1_088]));
        assert_eq!(decode_resp(&slot).unwrap().1, None);
    }

    #[test]
    fn any_byte_that_should_be_zero_is_refused_when_it_is_not() {
        let slot = encode_identity(true, &[address("10.1.2.3"), address("fd00::5")]);
        let meaningful = |at: usize| matches!(at, 0..=2 | 4 | 8..=11 | 24 | 28..=43);
        for at in (0..IDENTITY_LEN).filter(|at| !meaningful(*at)) {
            for bit in 0..8 {
                let mut slot = slot;
                slot[at] ^= 1 << bit;
                assert_eq!(decode_identity(&slot), Err(BadPayload), "byte {at} bit {bit}");
            }
        }
        for &suite in CipherSuite::ALL {
            let payload = init(suite, address("10.1.2.3"), 0xff);
            let meaningful = |at: usize| {
                matches!(at, 0 | 4..=7) || (suite.is_hybrid() && (20..20 + KEM_PUBLIC_LEN).contains(&at))
            };
            for at in (0..payload.len()).filter(|at| !meaningful(*at)) {
                for bit in 0..8 {
                    let mut payload = payload.clone();
                    payload[at] ^= 1 << bit;
                    assert!(decode_init(suite, &payload).is_err(), "{suite}: byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn other_kinds_flags_counts_and_families_are_refused() {
        let slot = encode_identity(true, &[address("10.1.2.3")]);
        for value in 0..=u8::MAX {
            for (at, good) in [(0, &[1][..]), (1, &[0, 1]), (2, &[1]), (4, &[4])] {
                let mut slot = slot;
                slot[at] = value;
                // As family 6 the same bytes are a01:203::, an address like any other.
                let good = good.contains(&value) || (at == 4 && value == 6);
                assert_eq!(decode_identity(&slot).is_ok(), good, "byte {at} value {value}");
            }
        }
    }

    #[test]
    fn addresses_no_pod_has_are_neither_written_nor_read() {
        for bad in NOT_OF_PODS.map(address) {
            assert_eq!(encode_identity(false, &[bad])[2], 0, "{bad}");
            let mut slot = encode_identity(false, &[address("10.0.0.1")]);
            slot[4..24].copy_from_slice(&encode_address(bad));
            assert_eq!(decode_identity(&slot), Err(BadPayload), "{bad}");
            for &suite in CipherSuite::ALL {
                assert_eq!(decode_init(suite, &init(suite, bad, 0)), Err(BadPayload), "{bad}");
            }
        }
    }

    #[test]
    fn an_address_stands_once() {
        let (one, two) = (address("10.0.0.1"), address("10.0.0.2"));
        let listed = decode_identity(&encode_identity(false, &[one, two, one])).unwrap();
        assert_eq!(listed.addresses, [one, two]);
        let mut slot = encode_identity(false, &[one, two]);
        slot.copy_within(4..24, 24);
        assert_eq!(decode_identity(&slot), Err(BadPayload));
    }

    #[test]
    fn of_many_addresses_the_first_seven_are_written() {
        let many: Vec<IpAddr> = (1..20).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        assert_eq!(decode_identity(&encode_identity(false, &many)).unwrap().addresses, many[..7]);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(slot in prop::array::uniform32(any::<u8>()), count in 0u8..9, family in prop::array::uniform8(prop_oneof![Just(4u8), Just(6), any::<u8>()])) {
            let mut bytes = [0; IDENTITY_LEN];
            for (at, byte) in bytes.iter_mut().enumerate().skip(HEAD_LEN).take(usize::from(count) * ADDRESS_LEN) {
                let (place, within) = ((at - HEAD_LEN) / ADDRESS_LEN, (at - HEAD_LEN) % ADDRESS_LEN);
                *byte = match within {
                    0 => family[place],
                    1..4 => 0,
                    8.. if family[place] == 4 => 0,
                    _ => slot[at % 32],
                };
            }
            bytes[..4].copy_from_slice(&[1, 0, count, 0]);
            if let Ok(identity) = decode_identity(&bytes) {
                prop_assert_eq!(encode_identity(identity.vnet, &identity.addresses), bytes);
            }
        }

        #[test]
        fn addresses_come_back(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), vnet in any::<bool>()) {
            let given: Vec<IpAddr> = [IpAddr::from(v4), IpAddr::from(v6)].into_iter().filter(|address| is_tunnel_address(*address)).collect();
            let identity = decode_identity(&encode_identity(vnet, &given)).unwrap();
            prop_assert_eq!(identity, PeerIdentity { vnet, addresses: given, certificate: None });
        }
    }
}
