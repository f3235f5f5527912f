//! COOKIE and mac2: how a sender shows that it receives at the address and port it sends from, before anybody spends
//! public-key work on it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use subtle::ConstantTimeEq;

use crate::{
    crypto::{
        Backend, CipherSuite, EpochKeys, KeyRing, NONCE_LEN, OpeningKey, Rng, SealingKey, Secret, hmac_sha256,
    },
    record::{self, COOKIE_LEN, COOKIE_NONCE_LEN, COOKIE_SECRET_LEN, MAC_LEN, SessionIndex},
    stats::DropReason,
};

/// Cookie of one sender: it depends on its address and port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CookieBytes([u8; COOKIE_SECRET_LEN]);

impl fmt::Debug for CookieBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieBytes(..)")
    }
}

/// Secret that cookies are made from. Nobody else has it, and nobody needs to keep what was given out.
#[derive(Debug)]
pub(crate) struct CookieSecret(Secret<32>);

impl CookieSecret {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        Self(Secret::filled(|secret| rng.fill(secret)))
    }

    /// The cookie of a sender.
    pub(crate) fn cookie(&self, from: SocketAddr) -> CookieBytes {
        let port = from.port().to_le_bytes();
        let mac = match from.ip() {
            IpAddr::V4(address) => hmac_sha256(self.0.expose(), &[&address.octets(), &port]),
            IpAddr::V6(address) => hmac_sha256(self.0.expose(), &[&address.octets(), &port]),
        };
        let mut cookie = [0; COOKIE_SECRET_LEN];
        cookie.copy_from_slice(&mac[..COOKIE_SECRET_LEN]);
        CookieBytes(cookie)
    }
}

/// Writes `cookie` for the sender of a handshake message whose mac1 was verified.
pub(crate) fn write_cookie(
    keys: &KeyRing,
    suite: CipherSuite,
    (message, sender): (&[u8], SessionIndex),
    cookie: &CookieBytes,
    rng: &mut Rng,
) -> Option<[u8; COOKIE_LEN]> {
    let (keys, mac1) = keyed(keys, message)?;
    let mut bytes = [0; COOKIE_LEN];
    let header = record::cookie_header(sender);
    let (head, rest) = bytes.split_at_mut(header.len());
    head.copy_from_slice(&header);
    let (nonce, sealed) = rest.split_first_chunk_mut::<COOKIE_NONCE_LEN>()?;
    rng.fill(nonce);
    let key = keys.cookie_key(nonce);
    // The key is used once, so that its nonce need not differ.
    SealingKey::new(Backend::fastest(), suite.aead(), key.expose()).seal_into(
        [0; NONCE_LEN],
        &mac1,
        &cookie.0,
        sealed,
    );
    Some(bytes)
}

/// Reads a COOKIE for `message`, which this side has sent.
///
/// # Errors
/// [`DropReason::Auth`]: it was made by no member, or for another message; [`DropReason::OtherEpoch`]: the keys of that
/// message are not here any more.
pub(crate) fn read_cookie(
    keys: &KeyRing,
    suite: CipherSuite,
    message: &[u8],
    cookie: &record::Cookie<'_>,
) -> Result<CookieBytes, DropReason> {
    let (keys, mac1) = keyed(keys, message).ok_or(DropReason::OtherEpoch)?;
    let key = keys.cookie_key(cookie.nonce);
    let mut sealed = *cookie.sealed;
    let opening = OpeningKey::new(Backend::fastest(), suite.aead(), key.expose());
    let opened = opening.open_in_place([0; NONCE_LEN], &mac1, &mut sealed).map_err(|_| DropReason::Auth)?;
    (&*opened).try_into().map(CookieBytes).map_err(|_| DropReason::Auth)
}

/// Puts mac2 into a handshake message.
pub(crate) fn set_mac2(message: &mut [u8], cookie: &CookieBytes) {
    let Some(mac2) = record::covered_by_mac2(message).map(|(covered, _)| mac2(covered, cookie)) else {
        return;
    };
    if let Some(last) = message.last_chunk_mut() {
        *last = mac2;
    }
}

/// Tells if a handshake message shows that its sender has `cookie`, compared in constant time.
pub(crate) fn has_mac2(message: &[u8], cookie: &CookieBytes) -> bool {
    record::covered_by_mac2(message).is_some_and(|(covered, given)| mac2(covered, cookie).ct_eq(given).into())
}

fn mac2(covered: &[u8], cookie: &CookieBytes) -> [u8; MAC_LEN] {
    let mut mac2 = [0; MAC_LEN];
    mac2.copy_from_slice(&hmac_sha256(&cookie.0, &[covered])[..MAC_LEN]);
    mac2
}

/// The keys that a handshake message is under, and its mac1.
fn keyed<'k>(keys: &'k KeyRing, message: &[u8]) -> Option<(&'k EpochKeys, [u8; MAC_LEN])> {
    let (epoch, _, mac1) = record::covered_by_mac1(message)?;
    Some((keys.epoch(epoch)?, *mac1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::Seed, record::Message};

    const SUITE: CipherSuite = CipherSuite::Aes256Gcm;
    const INIT_LEN: usize = SUITE.init_len();

    fn keys(tenant: u8) -> KeyRing {
        let root = std::array::from_fn(|at| at as u8);
        KeyRing::parse(&KeyRing::write_file([tenant; 16], 3, &root)).unwrap()
    }

    fn rng() -> Rng {
        Rng::new(Seed::from_bytes([5; 32]))
    }

    fn index() -> SessionIndex {
        SessionIndex::from_u32(0x0123_4567).unwrap()
    }

    /// An INIT as far as macs go.
    fn init(fill: u8) -> [u8; INIT_LEN] {
        let mut bytes = [fill; INIT_LEN];
        bytes[..12].copy_from_slice(&record::init_header(SUITE, 3, index()));
        bytes
    }

    fn read(keys: &KeyRing, message: &[u8], datagram: &[u8]) -> Result<CookieBytes, DropReason> {
        let Message::Cookie(cookie) = record::parse(datagram)? else { return Err(DropReason::Unsupported) };
        read_cookie(keys, SUITE, message, &cookie)
    }

    #[test]
    fn a_cookie_is_read_by_the_sender_of_the_message_alone_and_every_bit_of_it_counts() {
        let (cookie, sent) = (CookieBytes([9; 16]), init(1));
        let bytes = write_cookie(&keys(7), SUITE, (&sent, index()), &cookie, &mut rng()).unwrap();
        assert_eq!((bytes.len(), &bytes[..8]), (64, &[5, 1, 0, 0, 0x67, 0x45, 0x23, 0x01][..]));
        assert_eq!(read(&keys(7), &sent, &bytes), Ok(cookie));
        assert_eq!(read(&keys(7), &init(2), &bytes), Err(DropReason::Auth), "for another message");
        assert_eq!(read(&keys(8), &sent, &bytes), Err(DropReason::Auth), "of another tenant");
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes;
            forged[bit / 8] ^= 1 << (bit % 8);
            // The index says which message it is for; mac1 of that is what counts.
            assert_eq!(read(&keys(7), &sent, &forged).is_ok(), (4..8).contains(&(bit / 8)), "bit {bit}");
        }
        for len in 1..200 {
            let mut other = bytes.to_vec();
            other.resize(len, 0);
            assert_eq!(record::parse(&other).is_ok(), len == COOKIE_LEN, "length {len}");
        }
        let mut zero = bytes;
        zero[4..8].fill(0);
        assert_eq!(record::parse(&zero), Err(DropReason::Malformed));
    }

    #[test]
    fn a_cookie_is_for_one_address_port_and_secret() {
        let mut rng = rng();
        let (secret, other) = (CookieSecret::new(&mut rng), CookieSecret::new(&mut rng));
        let from = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let mut cookies = vec![other.cookie(from("10.0.0.1:8362"))];
        for source in ["10.0.0.1:8362", "10.0.0.1:8363", "10.0.0.2:8362", "[fd00::1]:8362", "[fd00::1]:1"] {
            let cookie = secret.cookie(from(source));
            assert_eq!(cookie, secret.cookie(from(source)));
            assert!(!cookies.contains(&cookie), "{source}");
            cookies.push(cookie);
        }
    }

    #[test]
    fn mac2_covers_all_before_it() {
        let mut bytes = init(1);
        assert!(!has_mac2(&bytes, &CookieBytes([9; 16])));
        set_mac2(&mut bytes, &CookieBytes([9; 16]));
        assert!(has_mac2(&bytes, &CookieBytes([9; 16])) && !has_mac2(&bytes, &CookieBytes([8; 16])));
        assert_eq!(bytes[..INIT_LEN - 16], init(1)[..INIT_LEN - 16]);
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!has_mac2(&forged, &CookieBytes([9; 16])), "bit {bit}");
        }
        assert!(!has_mac2(&[4; 100], &CookieBytes([9; 16])));
    }
}
