//! Times and bounds of a Tunnel, each with its source.

use std::time::Duration;

/// An initiator replaces a session this old, once it has something to send (WireGuard REKEY_AFTER_TIME).
pub(super) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Spread of [`REKEY_AFTER`], so that sessions made together are not replaced together.
pub(super) const REKEY_JITTER: Duration = Duration::from_secs(10);
/// A responder replaces a session this old: after the initiator had its chance.
pub(super) const REKEY_AFTER_RESPONDER: Duration = Duration::from_secs(140);
/// After another epoch is sent, initiators replace sessions under the old one within this time, responders within the
/// same time after that: 500 peers at 0.25 ms a handshake then take 6 % of a processor.
pub(super) const CHANGE_SPREAD: Duration = Duration::from_secs(2);
/// Keys of a session this old are erased (WireGuard REJECT_AFTER_TIME).
pub(super) const REJECT_AFTER: Duration = Duration::from_secs(180);
/// An index of an erased session is remembered this long, so that late records count as expired, not as unknown.
pub(super) const TOMBSTONE: Duration = Duration::from_secs(60);
/// Erased indices remembered.
pub(super) const MAX_TOMBSTONES: usize = 1_024;

/// Something was received and nothing sent for this long: an empty DATA tells the peer that we are there. WireGuard's
/// KEEPALIVE_TIMEOUT, 10 s, would have a healthy receiver of one-way traffic suspected at every [`SUSPECT_AFTER`].
pub(super) const KEEPALIVE: Duration = Duration::from_secs(1);
/// Data was sent and nothing came back for this long: the peer is asked if it lives. Twice [`KEEPALIVE`].
pub(super) const SUSPECT_AFTER: Duration = Duration::from_secs(2);
/// The same for a peer that answers questions and not data, doubling from [`SUSPECT_AFTER`]: one that tells that it is there
/// every 10 s, as WireGuard's timers have it (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT).
pub(super) const SUSPECT_MOST: Duration = Duration::from_secs(15);
/// A peer that is asked if it lives has this long to answer: INIT goes out at once, after 0.2, 0.6 and 1.4 s, so that two in
/// a row may be lost. With [`SUSPECT_AFTER`] less than 5 s from the first packet that was left unanswered.
pub(super) const DEAD_AFTER: Duration = Duration::from_millis(2_500);
/// An address or port that a translation on the way stands for is kept for 30 s at least (Linux `nf_conntrack_udp_timeout`)
/// after the last datagram sent there: a peer with such an endpoint that nothing was sent to for almost as long is asked at
/// its own address first.
pub(super) const TRANSLATION_KEPT: Duration = Duration::from_secs(25);
/// A packet to such a peer waits this long for the answer before it goes the old way: until INIT is repeated
/// ([`RETRY_FIRST`]).
pub(super) const WAY_WAIT: Duration = RETRY_FIRST;
/// Copies kept of packets to a service behind a peer that is asked if it lives: as many as are held for a destination.
pub(super) const MAX_COPIES: usize = HELD_PACKETS;
/// A service's address stays with a pod behind it for this long after the last packet of theirs: as long as a server's NAT
/// keeps an established flow (TCP_ESTABLISHED of `nat`, 7,440 s), and a minute for packets that were lost on the way.
pub(super) const SPEAKS_FOR: Duration = Duration::from_secs(7_500);
/// An address that a member names as its own stays its own for 10 minutes after its last session.
pub(super) const LISTED_FOR: Duration = REJECT_AFTER.saturating_add(Duration::from_secs(600));
/// A decision of the data path is made anew after this long, so that what it rests on is known to be in use.
pub(super) const USE_NOTED: Duration = Duration::from_secs(60);
/// Pairs of an address and a member that may send from it: 100 bytes each.
pub(super) const MAX_SPEAKERS: usize = 16_384;
/// Members that may send from one address.
pub(super) const MAX_SPEAKERS_AN_ADDRESS: usize = 16;
/// A packet from an address that its peer only asserts waits this long for the proof: within a cluster that takes a
/// millisecond, and whoever sends it again does so after 200 ms at the earliest (RFC 6298 section 2.4, Linux TCP_RTO_MIN).
pub(super) const PROOF_WAIT: Duration = Duration::from_millis(100);
/// Such packets of one peer.
pub(super) const MAX_WAITING_OF_A_PEER: usize = 16;
/// Such packets in all.
pub(super) const MAX_WAITING: usize = 256;
/// Lanes of members remembered beyond their last session: where to ask for them, and the services they were served under.
pub(super) const MAX_PAST: usize = 4_096;

/// First delay between repetitions of INIT and CONF: inside a cluster round trips are below a millisecond, so
/// WireGuard's 5 s would be most of what a user feels of a lost datagram.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest delay between repetitions.
pub(super) const RETRY_MOST: Duration = Duration::from_secs(5);
/// CONF is repeated no longer than this.
pub(super) const CONF_REPEATS: u32 = 8;

/// Time for which a destination may leave INIT unanswered before its packets are judged by policy.
pub(super) const ASK_WAIT: Duration = Duration::from_secs(1);
/// A destination that did not answer is asked again this long after its last INIT, as long as packets for it come: within its
/// first [`SILENT_AT_FIRST`], and always if it is known to be of the tenant, for it is expected to come up. So a pod that
/// comes up late is reached within a second, also if one INIT or the answer to it is lost.
pub(super) const ASKED_AGAIN_FIRST: Duration = Duration::from_millis(600);
/// The same for any other destination later on. It does not grow, so a late pod is reached within 6 s whenever it comes up; a
/// thousand silent destinations that are all sent to cost the 200 INITs a second of [`CONTACT_INTERVAL`].
pub(super) const ASKED_AGAIN_LATER: Duration = Duration::from_secs(5);
/// Time within which a destination that was asked may be about to come up: most pods are ready within half a minute.
pub(super) const SILENT_AT_FIRST: Duration = Duration::from_secs(30);
/// That a destination was silent is remembered this long after it was asked last: as long as answers of DNS about one are
/// asked about once. Nothing of what passes in plain meanwhile is held.
pub(super) const SILENCE_KEPT: Duration = Duration::from_secs(60);
/// Unanswered destinations remembered, the one noted the longest ago out: one that is asked again too early costs an INIT.
pub(super) const MAX_SILENT: usize = 4_096;
/// An INIT is repeated unchanged, and its RESP counts, for this long after it left first: a question that is asked anew
/// meanwhile costs no key pair, and a slow answer is one all the same.
pub(super) const INIT_LIFE: Duration = Duration::from_secs(30);
/// INITs kept whose questions were given up, the oldest out: 2 KB each, in a hybrid suite 4.
pub(super) const MAX_GIVEN_UP: usize = 1_024;
/// Time for which packets wait for a destination to be asked that only DNS calls external. Within a cluster an answer takes
/// a millisecond, 20 with a handshake's work on a busy node; a hundred are not noticed by a user.
pub(super) const CLAIMED_WAIT: Duration = Duration::from_millis(100);
/// Destinations asked because of one call that applies facts. Those that are sent to later are asked then.
pub(super) const MAX_CLAIMED_ASKED: usize = 16;
/// INITs to addresses at which nobody answers leave this often: 200 a second each to those that were not asked before, that
/// were silent, and that were silent and are of the tenant. With a hybrid suite's 1.4 KB that is 0.28 MB/s, and a key pair each
/// is 1 % of a processor.
pub(super) const CONTACT_INTERVAL: Duration = Duration::from_millis(5);
/// The same at once: a pod's usual peers at its start.
pub(super) const CONTACT_BURST: u32 = 64;
/// An INIT that was answered puts the next repetition of our own to its sender off by this long, once.
pub(super) const GIVE_WAY: Duration = Duration::from_millis(200);
/// Of two INITs that cross within this time after ours began to be sent, one is answered.
pub(super) const SIMULTANEOUS_START: Duration = Duration::from_millis(200);

/// Addresses that peers say are theirs are asked to prove it this often in all: 32 a second, as many at once. An INIT and its
/// RESP are 0.6 KB, in a hybrid suite 2.8, so that no lie makes this side send more than 45 KB/s to others.
pub(super) const PROOF_INTERVAL: Duration = Duration::from_micros(31_250);
/// Such questions at once.
pub(super) const PROOF_BURST: u32 = 32;
/// Those of them that are kept for addresses that packets wait for.
pub(super) const PROOF_RESERVED: u32 = 16;
/// One address is asked to prove that it is somebody's no more often than this, whoever says so.
pub(super) const PROOF_ADDRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Questions to addresses that were named from one source address: 4 a second, so that no liar takes the places of others.
pub(super) const PROOF_SOURCE_INTERVAL: Duration = Duration::from_millis(250);
/// The same at once: few pods have more than four other addresses, and those are asked a second later.
pub(super) const PROOF_SOURCE_BURST: u32 = 4;
/// A source whose word was not so is asked about no more for this long.
pub(super) const PROOF_WITHHELD: Duration = Duration::from_secs(60);
/// But an address that packets of such a source wait for is asked this often all the same.
pub(super) const PROOF_EXCEPTED: Duration = Duration::from_secs(1);
/// Source addresses that are remembered for it: more than [`PROOF_INTERVAL`] lets there be within [`PROOF_WITHHELD`].
pub(super) const MAX_PROOF_SOURCES: usize = 2_048;

/// Packets held for one destination.
pub(super) const HELD_PACKETS: usize = 128;
/// Bytes held for one destination.
pub(super) const HELD_BYTES: usize = 256 << 10;
/// Bytes held in all.
pub(super) const HELD_TOTAL: usize = 4 << 20;
/// Destinations asked at one time.
pub(super) const MAX_ASKED: usize = 1_024;

/// Handshake messages waiting to be worked off.
pub(super) const MAX_QUEUED: usize = 32;
/// Handshake messages worked off a call of `handle_timeout`: about 0.5 ms of public-key work.
pub(super) const MESSAGES_A_CALL: usize = 2;
/// Half-open handshakes in all, the oldest out.
pub(super) const MAX_HALF_OPEN: usize = 1_024;
/// Half-open handshakes of one lane of one source address.
pub(super) const MAX_HALF_OPEN_PER_SOURCE: usize = 4;
/// A half-open handshake that is not confirmed ends.
pub(super) const HALF_OPEN_LIFE: Duration = Duration::from_secs(10);
/// A stored RESP, or the answer to a repeated CONF, is sent again no sooner than this (5 a second).
pub(super) const REPEAT_INTERVAL: Duration = Duration::from_millis(200);

/// The same to an INIT that comes from elsewhere than it came from first: somebody who repeats those of others must repeat
/// them 20 times a second to keep the one who sent it first from its answer.
pub(super) const COPY_INTERVAL: Duration = Duration::from_millis(50);

/// Handshake messages queued from which this side is under load: a quarter of [`MAX_QUEUED`].
pub(super) const LOADED_QUEUE: usize = MAX_QUEUED / 4;
/// Public-key operations for others within [`LOADED_FOR`] from which this side is under load: INIT and CONF are one each,
/// together 0.15 to 0.2 ms and in a hybrid suite 0.25 to 0.33 (docs/performance.md), so that no flood costs more than 2 to 4 %
/// of a processor before senders have to show where they are.
pub(super) const LOADED_OPERATIONS: u32 = 256;
/// Load lasts this long after its last sign.
pub(super) const LOADED_FOR: Duration = Duration::from_secs(1);
/// Cookies are good this long at most (WireGuard COOKIE_SECRET_MAX_AGE).
pub(super) const COOKIE_LIFE: Duration = Duration::from_secs(120);
/// One source's handshakes cost work this often, in all its roles together: 20 a second (wireguard-go `ratelimiter`). Counted
/// are INIT, which pays for the one CONF that its answer leads to, and RESP.
pub(super) const INIT_INTERVAL: Duration = Duration::from_millis(50);
/// Handshakes of one source that cost work at once (the same); as many once more if it begins to show its source then.
pub(super) const INIT_BURST: u32 = 5;
/// Sources whose INITs are counted.
pub(super) const MAX_BUCKETS: usize = 1_024;

/// One source gets a RESET no more often than this.
pub(super) const RESET_INTERVAL: Duration = Duration::from_millis(100);
/// Addresses that have a RESET and did not answer it by a handshake yet, within [`RESET_WAIT`]. An address that nobody has
/// keeps an entry in the node's neighbour table for 3 s (`arp_tbl`, net/ipv4/arp.c), which all pods share and which is
/// searched from 512 entries on for what may go (`gc_thresh2`): a flood from 4,096 made-up addresses, answered 1,280 times
/// a second, filled it and left established traffic a tenth of its throughput.
pub(super) const MAX_RESETS: usize = 128;
/// Time that an address may take to answer; within a cluster, milliseconds.
pub(super) const RESET_WAIT: Duration = Duration::from_secs(1);
/// A peer's RESET starts a handshake no more often than this.
pub(super) const RESET_TAKEN: Duration = Duration::from_secs(1);
/// Authentic RESETs from addresses that say nothing of the peer are looked up among all peers this often within
/// [`RESET_TAKEN`].
pub(super) const RESET_SEARCHES: u32 = 256;

/// Peers of one source, an IPv4 address or an IPv6 network of 64 bits, are at most this part of all: a quarter, for pods
/// behind a gateway share its address.
pub(super) const PEERS_OF_A_SOURCE: usize = 4;
/// Sessions of one peer: the one in use, its predecessor, its successor, and one more from a simultaneous start.
pub(super) const MAX_SESSIONS: usize = 4;
/// Sessions from both sides no further apart than this came from a simultaneous start.
pub(super) const SIMULTANEOUS: Duration = Duration::from_secs(10);
/// That a VIP leads back to this pod is asked again after this long: as long as an unanswered destination is left alone
/// at most.
pub(super) const OWN_VIP_BELIEVED: Duration = Duration::from_secs(60);
/// Time after which the finding of another lane is looked up again: it may have forgotten it.
pub(super) const MEMBER_BELIEVED: Duration = Duration::from_secs(1);
/// Members behind addresses that other lanes have told of: 100 bytes each.
pub(super) const MAX_MEMBERS: usize = 16_384;
/// Updates for other lanes that wait to be polled, of members and of translated flows.
pub(super) const MAX_LANE_UPDATES: usize = 2_048;
/// VIPs one peer may have asked this pod under.
pub(super) const MAX_SERVED: usize = 64;
/// Events waiting to be polled, the newest dropped.
pub(super) const MAX_EVENTS: usize = 4_096;
/// Datagrams and packets waiting in the outbox.
pub(super) const MAX_TRANSMITS: usize = 4_096;
/// Destinations whose bypass was announced.
pub(super) const MAX_ANNOUNCED: usize = 4_096;
