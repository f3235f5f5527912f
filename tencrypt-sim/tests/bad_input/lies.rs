//! Every field of every handshake message, wrong in turn, and what it is counted as.

use tencrypt::{
    CipherSuite,
    DropReason::{self, Auth, Mac1, Malformed, OtherEpoch, UnknownIndex, Unsupported},
    internal::Conf,
};

use crate::member::{MACS, Member, NOISE};

/// Makes another message of a good one of this member's.
type Change = Box<dyn Fn(&Member, &[u8]) -> Vec<u8>>;

/// One way in which a good message is made wrong.
pub(crate) struct Lie {
    pub(crate) what: String,
    /// The reason that it is counted under.
    pub(crate) reason: DropReason,
    make: Change,
}

impl Lie {
    /// Makes it of a good message of this member's.
    pub(crate) fn of(&self, member: &Member, good: &[u8]) -> Vec<u8> {
        (self.make)(member, good)
    }
}

/// Points whose product with any secret is zero (cr.yp.to/ecdh.html, "validate"), little endian.
pub(crate) const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

pub(crate) fn point(hex: &str) -> [u8; 32] {
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("two digits"))
}

/// Addresses that no pod has, as they are spelt.
const NOT_OF_PODS: [(u8, [u8; 16]); 11] = [
    (4, [0; 16]),
    (4, v4([0, 1, 2, 3])),
    (4, v4([127, 0, 0, 1])),
    (4, v4([169, 254, 169, 254])),
    (4, v4([224, 0, 0, 1])),
    (4, v4([255, 255, 255, 255])),
    (6, [0; 16]),
    (6, v6([0; 6], 1)),
    (6, v6([0xfe, 0x80, 0, 0, 0, 0], 1)),
    (6, v6([0xff, 2, 0, 0, 0, 0], 1)),
    (6, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]),
];

const fn v4([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

const fn v6([a, b, c, d, e, f]: [u8; 6], last: u8) -> [u8; 16] {
    [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

pub(crate) fn with(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = value;
    bytes
}

/// A byte takes another value.
fn set(at: usize, value: u8) -> impl Fn(&Member, &[u8]) -> Vec<u8> + Clone + 'static {
    move |_, good| with(good, at, value)
}

/// A bit of a byte is another.
fn flip(at: usize) -> impl Fn(&Member, &[u8]) -> Vec<u8> + Clone + 'static {
    move |_, good| with(good, at, good[at] ^ 2)
}

/// The same by a member, who makes mac1 right again.
fn signed(
    change: impl Fn(&Member, &[u8]) -> Vec<u8> + 'static,
) -> impl Fn(&Member, &[u8]) -> Vec<u8> + 'static {
    move |member, good| {
        let mut bytes = change(member, good);
        member.sign(&mut bytes);
        bytes
    }
}

/// All that can be wrong on the outside of a message of this type and length: in its header, in its ciphertexts, in mac1.
pub(crate) fn outside(suite: CipherSuite, kind: u8, len: usize) -> Vec<Lie> {
    let mut lies: Vec<Lie> = Vec::new();
    let mut lie = |what: String, reason, make: Change| {
        lies.push(Lie { what, reason, make });
    };
    for value in (0..=u8::MAX).filter(|value| *value != kind) {
        let reason = if (1..=6).contains(&value) { Malformed } else { Unsupported };
        lie(format!("type {value}"), reason, Box::new(signed(set(0, value))));
    }
    for value in (0..=u8::MAX).filter(|value| *value != 1) {
        lie(format!("version {value}"), Unsupported, Box::new(signed(set(1, value))));
    }
    for value in (0..=u8::MAX).filter(|value| *value != suite.wire_byte()) {
        let length = CipherSuite::from_wire_byte(value).map(|suite| match kind {
            1 => suite.init_len(),
            2 => suite.resp_len(),
            _ => Conf::LEN,
        });
        let (by_anybody, by_a_member) = match length {
            Some(length) if length == len => (Mac1, Unsupported),
            Some(_) => (Malformed, Malformed),
            None => (Unsupported, Unsupported),
        };
        lie(format!("suite {value}"), by_anybody, Box::new(set(2, value)));
        lie(format!("suite {value}, right mac1"), by_a_member, Box::new(signed(set(2, value))));
    }
    lie("an epoch that is not held".into(), OtherEpoch, Box::new(set(3, 9)));
    lie("another epoch".into(), Mac1, Box::new(set(3, 2)));
    let under_the_other = |member: &Member, good: &[u8]| {
        let mut bytes = with(good, 3, 2);
        member.under(2).sign(&mut bytes);
        bytes
    };
    let reason = if kind == 1 { Auth } else { OtherEpoch };
    lie("another epoch, right mac1".into(), reason, Box::new(under_the_other));
    for (what, at) in [("sender index", 4), ("receiver index", 8)] {
        let absent = kind == 1 && at == 8;
        for byte in at..at + 4 {
            let by_anybody = if absent { Malformed } else { Mac1 };
            lie(format!("{what}, byte {byte}"), by_anybody, Box::new(flip(byte)));
            let by_a_member = match (kind, at) {
                (1, 8) => Malformed,
                (2, 8) | (3, _) => UnknownIndex,
                // Its own index a member may choose.
                _ => continue,
            };
            lie(format!("{what}, byte {byte}, right mac1"), by_a_member, Box::new(signed(flip(byte))));
        }
        if !absent {
            let zero = move |_: &Member, good: &[u8]| [&good[..at], &[0; 4], &good[at + 4..]].concat();
            lie(format!("{what} 0"), Malformed, Box::new(signed(zero)));
        }
    }
    // Where the parts of the Noise message begin: keys, their tags, payload, its tag.
    let end = len - MACS;
    let parts = match kind {
        1 => vec![NOISE, NOISE + 32, end - 16, end],
        2 => vec![NOISE, NOISE + 32, NOISE + 64, NOISE + 80, end - 16, end],
        _ => vec![NOISE, NOISE + 32, NOISE + 48, end - 16, end],
    };
    for part in parts.windows(2) {
        for at in [part[0], part[1] - 1] {
            lie(format!("byte {at}"), Mac1, Box::new(flip(at)));
            lie(format!("byte {at}, right mac1"), Auth, Box::new(signed(flip(at))));
        }
    }
    for at in end..len - 16 {
        lie(format!("mac1, byte {at}"), Mac1, Box::new(flip(at)));
    }
    for short in [0, 1, 11, 12, 43, 44, len - 16, len - 1] {
        lie(format!("{short} bytes"), Malformed, Box::new(move |_, good| good[..short].to_vec()));
    }
    lie("a byte more".into(), Malformed, Box::new(|_, good| [good, &[0]].concat()));
    lies
}

/// Payloads of INIT that say what they may not.
pub(crate) fn init_payloads(member: &Member) -> Vec<(String, Vec<u8>)> {
    let good = member.init_payload([10, 1, 0, 2]);
    let mut payloads = misspelt_addresses(&good, 0);
    let filler = if member.suite.is_hybrid() { 1_204 } else { 20 };
    for at in [filler, good.len() - 1] {
        payloads.push((format!("filler, byte {at}"), with(&good, at, 1)));
    }
    if member.suite.is_hybrid() {
        let mut no_key = good.clone();
        no_key[20..1_204].fill(0xff);
        payloads.push(("encapsulation key of ones".into(), no_key));
        // The first coefficient, 12 bits: 3,329, the first that is none.
        let mut first = with(&good, 20, 0x01);
        first[21] = (first[21] & 0xf0) | 0x0d;
        payloads.push(("a coefficient of the modulus".into(), first));
    }
    payloads
}

/// Identity slots of kind 1 that say what they may not.
pub(crate) fn slots(own: [u8; 4]) -> Vec<(String, Vec<u8>)> {
    let good = Member::slot(own);
    let mut slots = misspelt_addresses(&good, 4);
    for (what, at, values) in [
        ("kind", 0, &[0, 3, 255][..]),
        ("flags", 1, &[2, 0x80, 0xfe]),
        ("count", 2, &[0, 2, 8, 255]),
        ("reserved", 3, &[1, 0x80]),
        ("behind the addresses", 24, &[1]),
        ("the last byte", Conf::IDENTITY_LEN - 1, &[1]),
    ] {
        slots.extend(values.iter().map(|value| (format!("{what} {value}"), with(&good, at, *value))));
    }
    let mut twice = with(&good, 2, 2);
    twice.copy_within(4..24, 24);
    slots.push(("an address twice".into(), twice));
    slots
}

/// `good` with the IPv4 address at `at` spelt otherwise, or one that no pod has in its place.
fn misspelt_addresses(good: &[u8], at: usize) -> Vec<(String, Vec<u8>)> {
    let mut wrong = Vec::new();
    for family in [0, 1, 5, 7, 255] {
        wrong.push((format!("family {family}"), with(good, at, family)));
    }
    for byte in [1, 2, 3, 8, 19] {
        wrong.push((format!("byte {byte} of an address"), with(good, at + byte, 1)));
    }
    for (family, address) in NOT_OF_PODS {
        let mut bytes = with(good, at, family);
        bytes[at + 4..at + 20].copy_from_slice(&address);
        wrong.push((format!("address {family} {address:?}"), bytes));
    }
    wrong
}

/// Certificate slots that are not spelt as such.
pub(crate) fn misspelt_certificates(good: &[u8; Conf::IDENTITY_LEN]) -> Vec<(String, Vec<u8>)> {
    let mut slots = Vec::new();
    for (what, at, values) in [
        ("kind", 0, &[0, 3, 255][..]),
        ("flags", 1, &[2, 0x80]),
        // None and three; and two, of which the second is none.
        ("count", 2, &[0, 3, 2, 255]),
        ("reserved", 3, &[1]),
        ("family", 40, &[0, 5]),
        ("prefix length", 41, &[0, 8, 31, 33, 255]),
        ("reserved of the prefix", 42, &[1]),
        ("behind an IPv4 prefix", 48, &[1]),
        ("a second prefix beside count 1", 79, &[1]),
        ("an address of no pod", 44, &[0, 127, 224]),
    ] {
        slots.extend(values.iter().map(|value| (format!("{what} {value}"), with(good, at, *value))));
    }
    let mut nested = with(good, 2, 2);
    nested.copy_within(40..60, 60);
    slots.push(("the same prefix twice".into(), nested));
    slots
}
