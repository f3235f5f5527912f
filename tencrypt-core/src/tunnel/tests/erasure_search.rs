//! Searches the memory of another process for secrets, in every form that gives them away.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use sha2::block_api::compress256;

use crate::crypto::{KemSecret, X25519_LEN, witness::Noted};

/// Bytes of which a finding consists, where a secret has as many.
const WINDOW: usize = 16;
/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// Bits of the filter in front of the look-up.
const FILTER: u32 = 22;

/// Byte strings that are searched for, and what each of them is of.
pub(crate) struct Patterns(BTreeMap<Vec<u8>, String>);

impl Patterns {
    /// Each half of each secret, and of what is as good as it: the scalar that X25519 makes of it, the states that
    /// HMAC-SHA256 under it starts from, the round keys of AES-256, the vector of ML-KEM.
    pub(crate) fn of(secrets: impl IntoIterator<Item = impl Borrow<Noted>>) -> Self {
        let mut patterns = Self(BTreeMap::new());
        let substitution = substitution();
        for noted in secrets {
            let Noted { bytes, at } = noted.borrow();
            patterns.add(bytes, "itself", at);
            if let Ok(key) = <&[u8; X25519_LEN]>::try_from(&bytes[..]) {
                patterns.add(&curve25519_dalek::scalar::clamp_integer(*key), "X25519 scalar", at);
                for (name, pad) in [("HMAC inner state", 0x36), ("HMAC outer state", 0x5c)] {
                    patterns.add(&hmac_state(key, pad), name, at);
                }
                patterns.add(aes_round_keys(key, &substitution).as_flattened(), "AES round keys", at);
            }
            if let Ok(seed) = <&[u8; 64]>::try_from(&bytes[..]) {
                patterns.add(&KemSecret::vector(seed), "ML-KEM vector", at);
            }
        }
        patterns
    }

    /// These without those.
    pub(crate) fn without(mut self, other: &Self) -> Self {
        self.0.retain(|bytes, _| !other.0.contains_key(bytes));
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, bytes: &[u8], form: &str, at: &dyn std::fmt::Display) {
        for (number, window) in bytes.chunks(WINDOW).enumerate() {
            let mut distinct = window.to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            // Zeros and ones, with which states begin, are no secrets. Of 12 random bytes fewer than 6 differ once in 10^8.
            if distinct.len() >= 6 {
                self.0.entry(window.to_vec()).or_insert_with(|| format!("{at}, {form}, part {number}"));
            }
        }
    }
}

/// A secret that was found.
pub(crate) struct Found {
    /// Bytes that are there.
    pub(crate) bytes: Vec<u8>,
    text: String,
}

/// One a line: where it is, what it is, and where in the code it was made.
pub(crate) fn lines(found: &[Found]) -> String {
    found.iter().map(|found| found.text.as_str()).collect::<Vec<_>>().join("\n")
}

/// A process's memory.
pub(crate) struct Memory {
    pid: u32,
    file: File,
}

impl Memory {
    /// That of a child of this process.
    pub(crate) fn of(pid: u32) -> Self {
        let file = File::open(format!("/proc/{pid}/mem")).expect("a parent may read its child's memory");
        Self { pid, file }
    }

    /// Bytes that can be read.
    pub(crate) fn readable(&self) -> u64 {
        self.mappings().iter().map(|mapping| mapping.end - mapping.start).sum()
    }

    /// Looks at every readable byte.
    pub(crate) fn search(&self, patterns: &Patterns) -> Vec<Found> {
        let head = |bytes: &[u8]| bytes.first_chunk().map(|head| u64::from_le_bytes(*head));
        let mut by_head: BTreeMap<u64, Vec<(&[u8], &str)>> = BTreeMap::new();
        let mut filter = vec![false; 1 << FILTER];
        for (bytes, name) in &patterns.0 {
            let head = head(bytes).expect("no pattern is shorter");
            filter[place(head)] = true;
            by_head.entry(head).or_default().push((bytes, name));
        }
        let mut found = Vec::new();
        let mut chunk = vec![0; CHUNK + WINDOW];
        for mapping in self.mappings() {
            for start in (mapping.start..mapping.end).step_by(CHUNK) {
                let wanted = (mapping.end - start).min(chunk.len() as u64) as usize;
                self.file
                    .read_exact_at(&mut chunk[..wanted], start)
                    .unwrap_or_else(|error| panic!("{}: {error}", mapping.name));
                for at in 0..wanted.min(CHUNK) {
                    let Some(head) = head(&chunk[at..wanted]).filter(|head| filter[place(*head)]) else {
                        continue;
                    };
                    for (bytes, name) in by_head.get(&head).into_iter().flatten() {
                        if chunk[at..wanted].starts_with(bytes) {
                            let text = format!("{:x} {}: {name}", start + at as u64, mapping.name);
                            found.push(Found { bytes: bytes.to_vec(), text });
                        }
                    }
                }
            }
        }
        found
    }

    /// Returns how far below `address` the mapping that it is in was written to.
    pub(crate) fn written_below(&self, address: u64) -> usize {
        let mappings = self.mappings();
        let mapping = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&address));
        let start = mapping.expect("an address of this process").start;
        let mut below = vec![0; (address - start) as usize];
        self.file.read_exact_at(&mut below, start).expect("memory of this process");
        below.iter().position(|byte| *byte != 0).map_or(0, |lowest| below.len() - lowest)
    }

    fn mappings(&self) -> Vec<Mapping> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).expect("the process lives");
        maps.lines().filter_map(Mapping::parse).collect()
    }
}

struct Mapping {
    start: u64,
    end: u64,
    name: String,
}

impl Mapping {
    /// A line of `/proc/PID/maps` (proc_pid_maps(5)), if the process may read there. The kernel's own pages are left out.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let readable = words.next()?.starts_with('r');
        let name = words.nth(3).unwrap_or("anonymous").to_owned();
        let own = name.starts_with("[v");
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self { start: number(start)?, end: number(end)?, name }).filter(|_| readable && !own)
    }
}

fn place(head: u64) -> usize {
    (head.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER)) as usize
}

/// The state of SHA-256 behind the key's block (RFC 2104 section 2).
fn hmac_state(key: &[u8; 32], pad: u8) -> Vec<u8> {
    // FIPS 180-4 section 5.3.3.
    let mut state = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    let mut block = [pad; 64];
    block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
    compress256(&mut state, &[block]);
    state.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// FIPS 197 section 5.2, for keys of 8 words.
fn aes_round_keys(key: &[u8; 32], substitution: &[u8; 256]) -> [[u8; 16]; 15] {
    let mut words: Vec<[u8; 4]> = key.as_chunks().0.to_vec();
    let mut constant = 1;
    for at in 8..60 {
        let mut word = words[at - 1];
        if at % 8 == 0 {
            word.rotate_left(1);
        }
        if at % 4 == 0 {
            word = word.map(|byte| substitution[usize::from(byte)]);
        }
        if at % 8 == 0 {
            word[0] ^= constant;
            constant <<= 1;
        }
        words.push(std::array::from_fn(|byte| words[at - 8][byte] ^ word[byte]));
    }
    let mut keys = [[0; 16]; 15];
    keys.as_flattened_mut().copy_from_slice(words.as_flattened());
    keys
}

/// The S-box (FIPS 197 section 5.1.1): the inverse in GF(2^8), then an affine map.
fn substitution() -> [u8; 256] {
    std::array::from_fn(|byte| {
        let inverse = (1..=255).find(|other| multiply(byte as u8, *other) == 1).unwrap_or(0);
        (0..5).fold(0x63, |sum, turn| sum ^ inverse.rotate_left(turn))
    })
}

fn multiply(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= a;
        }
        a = (a << 1) ^ (0x1b * (a >> 7));
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{hex::decode, hmac_sha256};

    /// FIPS 197 appendix A.3.
    #[test]
    fn round_keys_are_those_of_the_standard() {
        let key = decode("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4").unwrap();
        let keys = aes_round_keys(&key, &substitution());
        assert_eq!(keys.as_flattened()[..32], *key);
        assert_eq!(keys[14], *decode("fe4890d1e6188d0b046df344706c631e").unwrap());
    }

    #[test]
    fn hmac_goes_on_from_its_states() {
        let finish = |state: Vec<u8>, block: &[u8]| {
            let mut words: [u32; 8] =
                std::array::from_fn(|at| u32::from_ne_bytes(*state[4 * at..].first_chunk().unwrap()));
            let mut last = [0; 64];
            last[..block.len()].copy_from_slice(block);
            last[block.len()] = 0x80;
            last[56..].copy_from_slice(&(8 * (64 + block.len() as u64)).to_be_bytes());
            compress256(&mut words, &[last]);
            words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>()
        };
        let inner = finish(hmac_state(&[3; 32], 0x36), b"text");
        assert_eq!(finish(hmac_state(&[3; 32], 0x5c), &inner), hmac_sha256(&[3; 32], &[b"text"])[..]);
    }
}
