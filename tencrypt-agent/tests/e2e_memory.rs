//! The memory of a running `up`: the keys of the sessions there are, and none of those that have ended.
//!
//! The tests know no key. They know packets and, from the wire, the records these became, and try all of the program's
//! memory as the keys that would have sealed them.

mod support;

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant},
};

use aes::{
    Aes256Dec,
    cipher::{BlockCipherDecrypt as _, KeyInit as _},
};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use support::{Cluster, LIMIT, Probe, Running};
use tencrypt_lab::{Keep, Pod, Signal, UdpEcho, test, udp_echo};

/// Port at which pod `b` sends everything back.
const PORT: u16 = 9001;
/// Bytes of the datagrams whose records are looked for: no other packet here is as long.
const LENGTH: usize = 777;
/// IPv4 and UDP in front of them.
const HEADERS: usize = 20 + 8;
/// Ethernet, IPv4 and UDP in front of a record, and its own header (docs/wire-format.md).
const OUTER: usize = 14 + 20 + 8;
const RECORD_HEADER: usize = 16;
const TAG: usize = 16;
const BLOCK: usize = 16;
const KEY: usize = 32;
const KEYS_OF_EPOCH: usize = 4;

#[test]
fn keys_of_sessions_under_a_retired_epoch_are_gone() {
    test("keys_of_sessions_under_a_retired_epoch_are_gone", || keys_go("aes-256-gcm"));
}

#[test]
fn keys_of_hybrid_sessions_are_gone_too() {
    test("keys_of_hybrid_sessions_are_gone_too", || keys_go("x25519-mlkem768-aes-256-gcm"));
}

fn keys_go(suite: &str) {
    let cluster = Cluster::on_one_node();
    let _echo = UdpEcho::start(&cluster.b, PORT).unwrap();
    let probe = cluster.probe_with(cluster.watch().keep(Keep { frames: 256, bytes: 1_500 }));
    let key_file = cluster.key_file.display();
    let tenant = format!("[tenant]\nproject = \"shop\"\nkey_file = \"{key_file}\"\nsuite = \"{suite}\"\n");
    let mut pods = [cluster.up(&cluster.a, &tenant), cluster.up(&cluster.b, &tenant)];

    // A key in each direction, and each pod has both.
    let before = talk(&cluster, &probe);
    let retired = Epoch::read(&cluster, 1);
    for pod in &mut pods {
        let memory = memory(pod);
        assert_eq!(retired.found_in(&memory), (KEYS_OF_EPOCH, 0), "(derived, root)");
        let found = search(&memory, &before);
        assert_eq!(found, [true; 2], "blind to a live session, or AES has no instructions of its own here");
    }

    for step in ["add", "activate"] {
        rotate(&cluster, step);
    }
    wait(&pods, "send", |status| status["keys"]["send"] == 2);
    rotate(&cluster, "retire");
    wait(&pods, "retire", |status| status["keys"]["accept"] == json!([2]));
    let after = talk(&cluster, &probe);
    let sent = Epoch::read(&cluster, 2);
    for pod in &mut pods {
        let memory = memory(pod);
        assert_eq!(sent.found_in(&memory), (KEYS_OF_EPOCH, 0), "(derived, root)");
        assert_eq!(retired.found_in(&memory), (0, 0), "(derived, root), of an epoch that is held no longer");
        let found = search(&memory, &[&before[..], &after[..]].concat());
        assert_eq!(found[2..], [true; 2], "blind to the session that is live now");
        assert_eq!(found[..2], [false; 2], "a key of a session that has ended");
    }
}

/// A datagram to pod `b` and back, and the two records that it became.
fn talk(cluster: &Cluster, probe: &Probe) -> [Sealed; 2] {
    let to = SocketAddr::new(cluster.b.v4(), PORT);
    let echo = |length| assert_eq!(udp_echo(cluster.a.netns(), to, [length], LIMIT).unwrap(), [0_usize; 0]);
    // What comes first waits for the handshake.
    echo(LENGTH + 1);
    probe.reset();
    echo(LENGTH);
    let kept = probe.report().kept;
    [&cluster.a, &cluster.b].map(|from| {
        let sealed = kept.iter().find_map(|frame| Sealed::read(frame, from));
        sealed.unwrap_or_else(|| panic!("no record by {} among {} frames", from.v4(), kept.len()))
    })
}

fn rotate(cluster: &Cluster, step: &str) {
    let key_file = cluster.key_file.clone().into_os_string();
    let done = cluster.tencrypt(["rotate".into(), step.into(), key_file]);
    assert!(done.status.success(), "{step}: {done:?}");
}

fn wait(pods: &[Running], what: &str, is: impl Fn(&Value) -> bool) {
    let end = Instant::now() + LIMIT;
    while !pods.iter().all(|pod| is(&pod.status())) {
        assert!(Instant::now() < end, "{what}: {}", pods[0].status());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two blocks of a record's key stream, next to each other. AES-GCM encrypts block `i` of a packet by xor with the
/// encryption of a nonce of 12 bytes, unknown here, and the number `2 + i` (NIST SP 800-38D sections 6.5 and 7.1).
#[derive(Debug, Clone, Copy)]
struct Sealed {
    stream: [[u8; BLOCK]; 2],
    /// The number in the first of them.
    number: u32,
}

impl Sealed {
    /// Of the record in this frame, if it comes from that pod and is as long as one of [`talk`]'s.
    fn read(frame: &[u8], from: &Pod) -> Option<Self> {
        let source = frame.get(26..30)?;
        let is_from =
            from.v4().to_string().split('.').map(str::parse).eq(source.iter().map(|byte| Ok(*byte)));
        let sealed = frame.get(OUTER + RECORD_HEADER..)?;
        let is_one = is_from && frame[OUTER] == 4 && sealed.len() == HEADERS + LENGTH + TAG;
        is_one.then(|| {
            // As `udp_echo` makes its first payload. The headers, with ports and a checksum, are not guessed.
            let payload: Vec<u8> = (0..LENGTH).map(|at| (at ^ (at >> 8)) as u8).collect();
            let first = HEADERS.div_ceil(BLOCK);
            let stream = [first, first + 1].map(|block| {
                let at = block * BLOCK;
                std::array::from_fn(|byte| sealed[at + byte] ^ payload[at + byte - HEADERS])
            });
            Self { stream, number: 2 + first as u32 }
        })
    }

    /// Tells if this key has sealed it.
    fn is_by(&self, key: &Aes256Dec) -> bool {
        let open = |block: [u8; BLOCK]| {
            let mut block = block.into();
            key.decrypt_block(&mut block);
            u128::from_be_bytes(block.into())
        };
        let first = open(self.stream[0]);
        first as u32 == self.number && open(self.stream[1]) == first + 1
    }
}

/// The tenant's keys of an epoch, from the key file.
struct Epoch {
    /// As it is derived from, and as the file spells it. No pod needs it once it has started.
    root: [Vec<u8>; 2],
    /// docs/wire-format.md, section 3.2.
    derived: [Vec<u8>; KEYS_OF_EPOCH],
}

impl Epoch {
    fn read(cluster: &Cluster, number: u8) -> Self {
        let text = fs::read_to_string(&cluster.key_file).unwrap();
        let value = |field: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(' '));
            value.unwrap_or_else(|| panic!("no {field} in {text}")).to_owned()
        };
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
        };
        let hex = value(&format!("epoch {number}"));
        let root = bytes(&hex);
        // RFC 5869, one block.
        let extracted = hmac(&bytes(&value("tenant")), &root);
        let derived = ["psk", "mac", "cookie", "reset"]
            .map(|label| hmac(&extracted, &[b"tencrypt v1 ", label.as_bytes(), &[1]].concat()));
        Self { root: [root, hex.into_bytes()], derived }
    }

    /// Counts the derived keys, and the root's spellings, that are there.
    fn found_in(&self, memory: &[Vec<u8>]) -> (usize, usize) {
        let is_there = |key: &&Vec<u8>| {
            let is_in = |mapping: &&Vec<u8>| mapping.windows(key.len()).any(|bytes| bytes == *key);
            memory.iter().any(|mapping| is_in(&mapping))
        };
        (self.derived.iter().filter(is_there).count(), self.root.iter().filter(is_there).count())
    }
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// Memory of a pod's program at one moment.
fn memory(pod: &mut Running) -> Vec<Vec<u8>> {
    pod.program.signal(Signal::Stop).unwrap();
    let memory = read(pod.program.id());
    pod.program.signal(Signal::Continue).unwrap();
    memory
}

/// Finds those of the records' keys that are there. A key schedule begins with the key itself.
fn search(memory: &[Vec<u8>], sealed: &[Sealed]) -> Vec<bool> {
    let begun = Instant::now();
    let pieces: Vec<&[u8]> = memory.iter().flat_map(|mapping| pieces(mapping)).collect();
    let halves = pieces.split_at(pieces.len() / 2);
    let (found, tried) = thread::scope(|scope| {
        let other = scope.spawn(|| try_all(halves.0, sealed));
        let (mut found, tried) = try_all(halves.1, sealed);
        let (more, too) = other.join().unwrap();
        found.iter_mut().zip(more).for_each(|(found, more)| *found |= more);
        (found, tried + too)
    });
    let bytes: usize = memory.iter().map(Vec::len).sum();
    println!("{tried} keys tried, of {bytes} bytes, in {:?}: {found:?}", begun.elapsed());
    found
}

/// Reads what the program can write to, and what it has no file for: each mapping that no file on disk holds as well.
fn read(pid: u32) -> Vec<Vec<u8>> {
    let maps =
        fs::read_to_string(format!("/proc/{pid}/maps")).expect("the test is root where the program is");
    let memory =
        File::open(format!("/proc/{pid}/mem")).expect("the test has CAP_SYS_PTRACE where the program is");
    let mut read = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (range, mode) = (words.next().unwrap(), words.next().unwrap());
        let name = words.nth(3).unwrap_or_default();
        // The kernel's own, and what even it cannot read (memfd_secret(2)).
        let is_out = name.starts_with("[v") || name.contains("secretmem");
        if !mode.starts_with('r') || is_out || name.starts_with('/') && !mode.contains('w') {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut bytes, start).unwrap_or_else(|error| panic!("{line}: {error}"));
        read.push(bytes);
    }
    assert!(!read.is_empty(), "{maps}");
    read
}

/// Pieces of a mapping, which overlap so that each key is whole in one; zeros are left out.
fn pieces(mapping: &[u8]) -> impl Iterator<Item = &[u8]> {
    const PAGE: usize = 4_096;
    let starts = (0..mapping.len()).step_by(PAGE);
    let pieces = starts.map(|start| &mapping[start..mapping.len().min(start + PAGE + KEY - 1)]);
    pieces.filter(|piece| piece.iter().any(|byte| *byte != 0))
}

/// Takes the 32 bytes at every place for a key. Returns which of the records' keys are among them, and how many were tried.
fn try_all(pieces: &[&[u8]], sealed: &[Sealed]) -> (Vec<bool>, u64) {
    let mut found = vec![false; sealed.len()];
    let mut tried = 0;
    for piece in pieces {
        for key in piece.windows(KEY) {
            // A random key has 8 zeros in a row once in 10^18.
            if key[..8] == [0; 8] || key[KEY - 8..] == [0; 8] {
                continue;
            }
            tried += 1;
            let Ok(key) = Aes256Dec::new_from_slice(key) else { continue };
            for (sealed, found) in sealed.iter().zip(&mut found) {
                *found |= sealed.is_by(&key);
            }
        }
    }
    (found, tried)
}
