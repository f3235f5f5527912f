//! Version, lengths and flags of the wire format, as docs/wire-format.md fixes them.

/// The version of the wire format.
pub(crate) const VERSION: u8 = 1;

/// Bytes of a handshake header: type, version, suite, epoch, sender index, receiver index.
pub(crate) const HANDSHAKE_HEADER_LEN: usize = 12;
/// Bytes of mac1, and of mac2.
pub(crate) const MAC_LEN: usize = 16;
/// Bytes of an AEAD tag.
pub(crate) const TAG_LEN: usize = 16;

/// Bytes of the identity slot in RESP and CONF, the same in every mode.
pub(crate) const IDENTITY_LEN: usize = 144;

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203 table 3).
pub(crate) const KEM_PUBLIC_LEN: usize = 1_184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203 table 3).
pub(crate) const KEM_CIPHERTEXT_LEN: usize = 1_088;

/// Bytes of a static key and its tag.
pub(crate) const SEALED_KEY_LEN: usize = 32 + TAG_LEN;
/// Bytes of CONF's Noise message: static key and its tag, identity and its tag.
pub(crate) const CONF_NOISE_LEN: usize = SEALED_KEY_LEN + IDENTITY_LEN + TAG_LEN;
/// Bytes of CONF. Those of INIT and RESP depend on the suite:
/// [`CipherSuite::init_len`](super::CipherSuite::init_len),
/// [`CipherSuite::resp_len`](super::CipherSuite::resp_len).
pub(crate) const CONF_LEN: usize = HANDSHAKE_HEADER_LEN + CONF_NOISE_LEN + 2 * MAC_LEN;

/// Bytes of a DATA header: type, flags, two zero bytes, receiver index, counter. It is the record's associated data.
pub(crate) const DATA_HEADER_LEN: usize = 16;
/// Bytes a record is longer than its packet: header and tag.
pub(crate) const DATA_OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;

/// Flag of a DATA record: the packet's TCP or UDP checksum is unfinished.
pub(crate) const FLAG_CSUM_PARTIAL: u8 = 1;
/// The flags that have a meaning. A record with any other bit set is malformed.
pub(crate) const KNOWN_FLAGS: u8 = FLAG_CSUM_PARTIAL;

// docs/wire-format.md section 1 fixes these.
const _: () = assert!(CONF_LEN == 252 && DATA_OVERHEAD == 32);
