//! Search for a session's secrets in the memory of the process once it has ended: nothing is left.
//!
//! A Tunnel does what seeds, packets and times say and nothing else, so two processes can do the very same. One of them,
//! the parent, takes down every secret it makes. The other, its twin, takes down none and is not told any: its memory is
//! searched by the parent, through the kernel, before and after its sessions end.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    erasure_search::{Memory, Patterns, lines},
    twin::{Twin, wait_at},
};
use crate::{
    TunnelConfig,
    crypto::{
        CipherSuite, DEEP, Identity, KeyRing, NONCE_LEN, Rng, SHALLOW, Seed, sha256, wipe_stack,
        witness::{self, Noted},
    },
    offload::VnetHdr,
    packet::samples::Sample,
    record::Aead,
    sink::bytes::{DatagramQueue, PacketQueue, QueuedTrain},
    testing::start,
    trust::{AuthorityKey, Trust},
    tunnel::{Outbound, Output, TunPacket, Tunnel},
};

/// Says to the twin that it is one, and how its sessions end.
const TWIN: &str = "TENCRYPT_TEST_TWIN";
/// Behind it: the stack is not wiped.
const LEAVE_STACK: &str = "leave-stack";
const NAMES: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const NOBODY: &str = "10.0.0.3";
/// Longest datagram that is sent here.
const LONGEST: usize = 2_048;
/// Datagrams or packets that wait at once: more than there are.
const ROOM: usize = 64;

/// Ways in which sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By their age.
    Expired,
    /// The tenant's key under which they were made is no longer held.
    Retired,
    /// The peers are members no longer.
    Revoked,
    /// The virtual machine was cloned.
    Forgotten,
    /// With their Tunnels.
    Dropped,
}

impl End {
    const ALL: [Self; 5] = [Self::Expired, Self::Retired, Self::Revoked, Self::Forgotten, Self::Dropped];
}

#[test]
fn aes_256_gcm_leaves_nothing() {
    leaves_nothing("aes_256_gcm_leaves_nothing", CipherSuite::Aes256Gcm);
}

#[test]
fn chacha20_poly1305_leaves_nothing() {
    leaves_nothing("chacha20_poly1305_leaves_nothing", CipherSuite::ChaCha20Poly1305);
}

#[test]
fn hybrid_aes_256_gcm_leaves_nothing() {
    leaves_nothing("hybrid_aes_256_gcm_leaves_nothing", CipherSuite::MlKem768Aes256Gcm);
}

#[test]
fn hybrid_chacha20_poly1305_leaves_nothing() {
    leaves_nothing("hybrid_chacha20_poly1305_leaves_nothing", CipherSuite::MlKem768ChaCha20Poly1305);
}

/// With sessions ended in each way, in a process for each.
fn leaves_nothing(test: &str, suite: CipherSuite) {
    if be_twin(suite) {
        return;
    }
    for end in End::ALL {
        witness::begin();
        let mut pair = Pair::talking(suite);
        let mut twin = Twin::start(module_path!(), test, (TWIN, &format!("{end:?} ")));
        twin.is_at("live");
        let memory = Memory::of(twin.id());
        let noted = witness::noted();
        let keys = noted.iter().filter(|noted| noted.at.file().ends_with("session/keys.rs"));
        let keys: Vec<&Noted> = keys.collect();
        // Two sessions, of which each has a key and an IV in each direction, on both sides.
        assert_eq!(keys.len(), 2 * 2 * 2 * 2);
        let found = memory.search(&Patterns::of(keys.iter().copied()));
        for key in &keys {
            // AES without instructions of its own keeps the key in another form.
            let is_raw = key.bytes.len() == NONCE_LEN || suite.aead() != Aead::Aes256Gcm || has_aes();
            let is_found = found.iter().any(|found| key.bytes.starts_with(&found.bytes));
            assert!(!is_raw || is_found, "{suite:?}: blind to a live session's secret, {}", key.at);
        }
        let live = Patterns::of(&noted)
            .without(&Patterns::of(pair.kept()))
            .without(&Patterns::of(keys.iter().copied()));
        let found = memory.search(&live);
        assert!(found.is_empty(), "{suite:?}: left by a handshake:\n{}", lines(&found));

        pair.end(end);
        twin.go_on();
        twin.is_at("ended");
        let noted = witness::noted();
        let patterns = Patterns::of(&noted).without(&Patterns::of(pair.kept()));
        let (found, bytes) = (memory.search(&patterns), memory.readable());
        println!("{suite:?}, {end:?}: {} secrets, {} patterns, {bytes} bytes", noted.len(), patterns.len());
        assert!(found.is_empty(), "{suite:?}, {end:?}:\n{}", lines(&found));
        twin.go_on();
        assert!(twin.ends_well());
    }
}

/// Shows that the wipes are needed, and that the search sees stacks.
#[test]
fn without_the_wipes_secrets_are_left_on_the_stack() {
    let suite = CipherSuite::MlKem768Aes256Gcm;
    if be_twin(suite) {
        return;
    }
    witness::begin();
    let mut pair = Pair::talking(suite);
    let mut twin = Twin::start(
        module_path!(),
        "without_the_wipes_secrets_are_left_on_the_stack",
        (TWIN, &format!("{:?} {LEAVE_STACK}", End::Forgotten)),
    );
    twin.is_at("live");
    pair.end(End::Forgotten);
    twin.go_on();
    twin.is_at("ended");
    let patterns = Patterns::of(witness::noted()).without(&Patterns::of(pair.kept()));
    assert!(!Memory::of(twin.id()).search(&patterns).is_empty());
}

/// Debug and release builds differ: this holds of the one that is tested.
#[test]
fn wipes_reach_as_deep_as_the_stack_was_used() {
    let draw = stack_used(|| Rng::new(seed("draw", 0)).fill(&mut [0; 64]));
    println!("a draw of randomness: {draw} bytes");
    assert!((256..SHALLOW).contains(&draw));
    for &suite in CipherSuite::ALL {
        let used = stack_used(|| drop(Pair::talking(suite)));
        println!("{suite:?}, handshakes and records: {used} bytes");
        assert!((4_096..DEEP).contains(&used));
    }
}

/// Bytes of stack that `work` writes to, on a thread whose stack is all zeros before.
fn stack_used(work: impl FnOnce() + Send) -> usize {
    let measure = || {
        witness::leave_stack();
        let top = 0_u8;
        let top = std::hint::black_box(&raw const top) as u64;
        work();
        Memory::of(std::process::id()).written_below(top)
    };
    std::thread::scope(|scope| {
        // No stack as large was used and kept by the C library before.
        std::thread::Builder::new().stack_size(32 << 20).spawn_scoped(scope, measure).unwrap().join().unwrap()
    })
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Does what a twin does, if this process is one.
fn be_twin(suite: CipherSuite) -> bool {
    let Ok(role) = env::var(TWIN) else { return false };
    let (end, stack) = role.split_once(' ').unwrap();
    if stack == LEAVE_STACK {
        witness::leave_stack();
    }
    let mut pair = Pair::talking(suite);
    wait_at("live");
    pair.end(End::ALL.into_iter().find(|known| format!("{known:?}") == end).unwrap());
    wait_at("ended");
    true
}

/// Two pods in one process.
pub(super) struct Pair {
    pub(super) tunnels: Vec<Tunnel>,
    now: Instant,
}

impl Pair {
    /// Two that have not met.
    pub(super) fn new(suite: CipherSuite) -> Self {
        let now = start();
        Self { tunnels: vec![tunnel(suite, 0, now), tunnel(suite, 1, now)], now }
    }

    /// A session, and one that has replaced it, with packets both ways on either.
    fn talking(suite: CipherSuite) -> Self {
        let mut pair = Self::new(suite);
        let now = pair.now;
        // One that nobody answers and that is given up in between.
        assert!(
            pair.send_to(0, NOBODY).is_empty() && pair.tunnels[0].exchanges.is_asked(NOBODY.parse().unwrap())
        );
        for after in [0, 1, 131, 132] {
            pair.now = now + Duration::from_secs(after);
            assert!(pair.say(0) + pair.say(1) > 0, "nothing was delivered at {after} s");
        }
        assert!(pair.tunnels.iter().all(|tunnel| tunnel.stats.handshakes == 2), "no rekey");
        assert!(!pair.tunnels[0].exchanges.is_asked(NOBODY.parse().unwrap()));
        pair
    }

    fn end(&mut self, end: End) {
        match end {
            End::Expired => {
                // Timers are at least seconds apart here.
                for _ in 0..1_000 {
                    let Some(next) = self.tunnels.iter().filter_map(|tunnel| tunnel.next_timeout()).min()
                    else {
                        break;
                    };
                    self.now = self.now.max(next);
                    self.settle(DatagramQueue::new(ROOM));
                }
            }
            End::Retired => self.each(|tunnel, _, now| tunnel.set_keys(keys(&[2]), now).unwrap()),
            End::Revoked => self.each(|tunnel, _, now| {
                // RFC 8032 section 7.1, test 1: any public key will do.
                let key = "tencrypt-ca-public-v1\n\
                    public d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\n";
                let trust = Trust::certificates(AuthorityKey::parse(key).unwrap(), []);
                tunnel.set_trust(Arc::new(trust), now);
            }),
            End::Forgotten => self.each(|tunnel, pod, now| {
                tunnel.forget_sessions(Identity::generate(seed("clone", pod), &[address(pod)]), now);
            }),
            End::Dropped => self.tunnels.clear(),
        }
        assert!(
            self.tunnels.iter().all(|tunnel| tunnel.peers.iter().next().is_none()),
            "{end:?}: a peer is left"
        );
    }

    fn each(&mut self, mut act: impl FnMut(&mut Tunnel, usize, Instant)) {
        for (pod, tunnel) in self.tunnels.iter_mut().enumerate() {
            act(tunnel, pod, self.now);
        }
    }

    /// Secrets that may be left: those that later sessions are made from.
    fn kept(&self) -> Vec<Noted> {
        let kept = self.tunnels.iter().flat_map(|tunnel| {
            let epochs = tunnel.keys().epochs().filter_map(|epoch| tunnel.keys().epoch(epoch));
            let state = tunnel.rng.state().into_iter().chain([tunnel.membership.identity().secret()]);
            epochs.flat_map(|keys| keys.all()).chain(state).map(|bytes| bytes.to_vec()).collect::<Vec<_>>()
        });
        kept.map(|bytes| Noted { bytes, at: std::panic::Location::caller() }).collect()
    }

    /// A packet from one pod to the other. Returns the packets that came out anywhere.
    fn say(&mut self, from: usize) -> usize {
        let sent = self.send(from);
        self.settle(sent)
    }

    /// The first packet from one pod to the other, as far as INIT, which was answered by RESP.
    pub(super) fn ask(&mut self, from: usize) {
        let mut sent = self.send(from);
        assert!(sent.is_empty());
        let mut init = [0; LONGEST];
        let Output::Transmit(transmit) = self.tunnels[from].poll_output(&mut init, self.now) else {
            panic!("no INIT")
        };
        sent.push(&transmit, &init).unwrap();
        self.deliver(1 - from, sent.pop().unwrap(), &mut PacketQueue::new(ROOM));
    }

    fn send(&mut self, from: usize) -> DatagramQueue {
        self.send_to(from, NAMES[1 - from])
    }

    fn send_to(&mut self, from: usize, to: &str) -> DatagramQueue {
        let mut packet = Sample::udp(NAMES[from], to, (5_000, 80));
        let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
        let mut outbox = DatagramQueue::new(ROOM);
        let sent = self.tunnels[from].handle_packet(&mut packet, self.now, &mut outbox);
        assert!(matches!(sent, Outbound::Held | Outbound::Sent { records: 1 }), "{sent:?}");
        outbox
    }

    fn deliver(&mut self, to: usize, mut train: QueuedTrain, inbox: &mut PacketQueue) {
        let meta = train.received_from(SocketAddr::new(address(1 - to), 8_362));
        self.tunnels[to].handle_datagrams(&meta, &mut train.bytes, self.now, inbox);
        self.tunnels[to].handle_timeout(self.now);
    }

    /// Carries datagrams until there are none.
    pub(super) fn settle(&mut self, mut waiting: DatagramQueue) -> usize {
        let mut inbox = PacketQueue::new(ROOM);
        for _ in 0..100 {
            for tunnel in &mut self.tunnels {
                tunnel.handle_timeout(self.now);
                let mut buffer = [0; LONGEST];
                loop {
                    match tunnel.poll_output(&mut buffer, self.now) {
                        Output::Transmit(transmit) => waiting.push(&transmit, &buffer).unwrap(),
                        Output::Timeout(_) => break,
                        _ => {}
                    }
                }
            }
            if waiting.is_empty() {
                return inbox.len();
            }
            for train in waiting.drain() {
                if let Some(pod) = [0, 1].into_iter().find(|pod| train.to.ip() == address(*pod)) {
                    self.deliver(pod, train, &mut inbox);
                }
            }
        }
        panic!("the pods do not come to rest");
    }
}

fn tunnel(suite: CipherSuite, pod: usize, now: Instant) -> Tunnel {
    let mut config = TunnelConfig::new(["10.0.0.0/8".parse().unwrap()]);
    config.suite = suite;
    let identity = Identity::generate(seed("identity", pod), &[address(pod)]);
    Tunnel::builder(config, keys(&[1, 2]), identity).build(seed("tunnel", pod), now).unwrap()
}

/// Stands for the operating system's randomness. Nothing of it is left on the stack, as nothing is there of what the kernel
/// writes.
fn seed(use_: &str, pod: usize) -> Seed {
    let seed = Seed::from_bytes(sha256(&[use_.as_bytes(), &[pod as u8]]));
    wipe_stack::<DEEP>();
    seed
}

/// The keys of these epochs, of which the first is sent.
pub(super) fn keys(epochs: &[u8]) -> Arc<KeyRing> {
    let root = |epoch: u8| sha256(&[b"root", &[epoch]]);
    let mut text = KeyRing::write_file([7; 16], epochs[0], &root(epochs[0]));
    text.reserve(256);
    for epoch in &epochs[1..] {
        text.push_str(&KeyRing::write_epoch(*epoch, &root(*epoch)));
    }
    text.push_str(&format!("send {}\n", epochs[0]));
    Arc::new(KeyRing::parse(&text).unwrap())
}

fn address(pod: usize) -> IpAddr {
    NAMES[pod].parse().unwrap()
}
