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

/// Something was received and nothing sent for this long: an empty DATA tells the peer that we are there
/// (WireGuard KEEPALIVE_TIMEOUT).
pub(super) const KEEPALIVE: Duration = Duration::from_secs(10);
/// Data was sent and nothing came back for this long: a new handshake (WireGuard KEEPALIVE_TIMEOUT + REKEY_TIMEOUT).
pub(super) const DEAD_PEER: Duration = Duration::from_secs(15);

/// First delay between repetitions of INIT and CONF: inside a cluster round trips are below a millisecond, so
/// WireGuard's 5 s would be most of what a user feels of a lost datagram.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest delay between repetitions.
pub(super) const RETRY_MOST: Duration = Duration::from_secs(5);
/// CONF is repeated no longer than this.
pub(super) const CONF_REPEATS: u32 = 8;

/// Time for which a destination may leave INIT unanswered before its packets are judged by policy.
pub(super) const ASK_WAIT: Duration = Duration::from_secs(1);
/// An unanswered destination is not asked again for this long, doubling.
pub(super) const SILENT_FIRST: Duration = Duration::from_secs(5);
/// Longest time an unanswered destination is not asked again.
pub(super) const SILENT_MOST: Duration = Duration::from_secs(60);
/// The same for a destination known to be of the tenant: it is expected to come up.
pub(super) const SILENT_INTERNAL: Duration = Duration::from_secs(1);
/// Unanswered destinations remembered.
pub(super) const MAX_SILENT: usize = 4_096;

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
/// One source's INITs cost work this often: 20 a second (wireguard-go `ratelimiter`).
pub(super) const INIT_INTERVAL: Duration = Duration::from_millis(50);
/// INITs of one source that cost work at once (the same).
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
/// Addresses that belong to one peer: its own and the VIPs it answered for.
pub(super) const MAX_OWNED: usize = 256;
/// Events waiting to be polled, the newest dropped.
pub(super) const MAX_EVENTS: usize = 4_096;
/// Datagrams and packets waiting in the outbox.
pub(super) const MAX_TRANSMITS: usize = 4_096;
/// Destinations whose bypass was announced.
pub(super) const MAX_ANNOUNCED: usize = 4_096;
