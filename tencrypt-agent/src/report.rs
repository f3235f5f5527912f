//! The reports that lanes and control plane make, the control socket carries, and `--json` prints.

pub(crate) mod checked;
mod explained;
mod filtered;
pub(crate) mod inspected;
pub(crate) mod listed;
mod problems;
mod renewal;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};
use tencrypt::{KeyRing, Stats, trust::CertificateFile};

#[cfg(test)]
pub(crate) use self::explained::FactReport;
pub use self::{
    explained::ExplainReport,
    filtered::FilteredReport,
    renewal::{CloneSign, RenewalReason, RenewalReport},
};
use crate::hex::to_hex;

/// `tencrypt status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The program that runs.
    #[serde(default)]
    pub program: ProgramReport,
    /// The interface, and what is protected at it.
    #[serde(default)]
    pub network: NetworkReport,
    /// The project, once it is known.
    pub project: Option<String>,
    /// MTU of the TUN device in bytes.
    pub mtu: u32,
    /// Cipher suite, the whole tenant's.
    #[serde(default)]
    pub suite: String,
    /// The reason why no session can be made with it.
    #[serde(default)]
    pub suite_problem: Option<String>,
    /// Number of lanes.
    pub lanes: u8,
    /// This pod's identity, and the proof that it asks of others.
    #[serde(default)]
    pub identity: IdentityReport,
    /// `drop` or `plain`: what happens to protected destinations that do not answer.
    pub unknown: String,
    /// True if nftables hold what routes alone do not, and were seen to at the last look.
    pub enforce: bool,
    /// The state that the program keeps in the namespace, and the changes that somebody else has made to it.
    #[serde(default)]
    pub namespace: NamespaceReport,
    /// Rights that the program has given up.
    #[serde(default)]
    pub hardening: HardeningReport,
    /// Renewals of the pod's own keys, and the signs that are watched for.
    #[serde(default)]
    pub renewal: RenewalReport,
    /// The tenant's keys.
    #[serde(default)]
    pub keys: KeysReport,
    /// Pods with which there is a session.
    pub peers: Vec<PeerReport>,
    /// Packets by what became of them.
    pub packets: PacketsReport,
    /// Plaintext that the chains have stopped; up to a second old.
    #[serde(default)]
    pub chains: ChainsReport,
    /// System calls that moved packets.
    #[serde(default)]
    pub calls: CallsReport,
    /// Datagrams of floods that were kept out.
    #[serde(default)]
    pub screen: ScreenReport,
    /// Names that were asked for; null: DNS is not captured.
    #[serde(default)]
    pub names: Option<NamesReport>,
    /// Drops by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
}

/// The program that runs, in `status --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramReport {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
}

/// The pod's interface, in `status --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// The namespace, as it was called at the start.
    pub netns: String,
    /// The interface's name.
    pub interface: String,
    /// The UDP port of the first lane; the others' follow it.
    pub port: u16,
    /// The protected ranges.
    pub protected: Vec<String>,
    /// The pod's own addresses that lie in none of them: what comes from there and goes there is plain.
    pub unprotected: Vec<IpAddr>,
    /// Servers that are bound to the interface: what comes through the tunnel does not reach them.
    pub bound_servers: Vec<BoundServerReport>,
    /// Packets of the tunnel that a firewall of the pod's own has dropped lately.
    #[serde(default)]
    pub filtered: Vec<FilteredReport>,
}

/// A server that is bound to the interface, in `status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundServerReport {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address and port that it listens at.
    pub address: SocketAddr,
}

/// Returns the fingerprint of each epoch's key, in hex.
#[must_use]
pub(crate) fn fingerprints(keys: &KeyRing) -> BTreeMap<u8, String> {
    let of = |epoch| Some((epoch, to_hex(&keys.fingerprint(epoch)?)));
    keys.epochs().filter_map(of).collect()
}

/// The pod's identity, in `status --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityReport {
    /// `certificate`: peers need one of this tenant's authority; `key-only`: the tenant's key is enough.
    pub mode: String,
    /// The static public key in hex, made at start.
    pub public_key: String,
    /// The tenant id in hex.
    pub tenant: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The certificate that is presented.
    pub certificate: Option<CertificateReport>,
    /// The reason why there is none, or why a newer one is not taken.
    pub problem: Option<String>,
    /// The least generation that counts.
    pub minimum_generation: u32,
    /// Keys and pods that are denied.
    pub denied: usize,
    /// The reason why the revocation file is not taken; the one before stays in force.
    pub revocation_problem: Option<String>,
}

/// A certificate, in `status --json` and `inspect --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// The pod's name.
    pub pod: String,
    /// Its id on the wire.
    pub pod_id: String,
    /// The tenant id in hex.
    pub tenant: String,
    /// The static public key in hex.
    pub public_key: String,
    /// The generation.
    pub generation: u32,
    /// The pod's addresses, with prefix lengths.
    pub addresses: Vec<String>,
}

impl From<&CertificateFile> for CertificateReport {
    fn from(file: &CertificateFile) -> Self {
        let certificate = &file.certificate;
        Self {
            pod: file.pod.to_string(),
            pod_id: certificate.pod().to_string(),
            tenant: to_hex(certificate.tenant()),
            public_key: to_hex(file.subject.as_bytes()),
            generation: certificate.generation(),
            addresses: certificate.prefixes().map(|prefix| prefix.to_string()).collect(),
        }
    }
}

/// Epochs of the tenant's key, in `status --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysReport {
    /// The epoch that new sessions start under.
    pub send: u8,
    /// The epochs that are accepted.
    pub accept: Vec<u8>,
    /// The fingerprint of each epoch's key, in hex, by its number: the same on every node, or keys differ.
    #[serde(default)]
    pub fingerprints: BTreeMap<u8, String>,
    /// The reason why the key file, as it is now, is not in force; null: it is.
    #[serde(default)]
    pub error: Option<String>,
}

/// One peer, in `status --json` and `peers --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Start of its public key, in hex.
    pub peer: String,
    /// Its first address.
    pub address: Option<IpAddr>,
    /// All of its addresses.
    pub addresses: Vec<IpAddr>,
    /// The address that its datagrams go to.
    pub endpoint: SocketAddr,
    /// Cipher suite.
    pub suite: String,
    /// Generation of the tenant key.
    pub epoch: u8,
    /// Generation of the certificate that it presented last, if it did.
    #[serde(default)]
    pub generation: Option<u32>,
    /// Seconds since the last handshake.
    pub last_handshake_s: Option<u64>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Pairs of a lane here and one there that have a session.
    #[serde(default = "one")]
    pub lanes: u16,
}

/// Returns the number of lanes of a program that does not report it.
fn one() -> u16 {
    1
}

impl StatusReport {
    /// Adds what another lane of the same pod has counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.lanes += other.lanes;
        self.packets.add(other.packets);
        self.calls.add(other.calls);
        self.screen.add(other.screen);
        for (reason, count) in other.drops {
            *self.drops.entry(reason).or_default() += count;
        }
        self.peers.extend(other.peers);
    }
}

impl CallsReport {
    fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.sends += other.sends;
        self.receives += other.receives;
        self.writes += other.writes;
    }
}

impl ScreenReport {
    fn add(&mut self, other: Self) {
        self.up |= other.up;
        self.dropped += other.dropped;
        self.refused += other.refused;
    }
}

impl PacketsReport {
    fn add(&mut self, other: Self) {
        self.encrypted += other.encrypted;
        self.decrypted += other.decrypted;
        self.bypassed += other.bypassed;
        self.held += other.held;
        self.dropped += other.dropped;
        self.opportunistic += other.opportunistic;
        self.lane_updates_lost += other.lane_updates_lost;
    }
}

/// Merges what each pair of lanes says of a peer into one report, in the order in which they are first named.
#[must_use]
pub(crate) fn merged(reports: Vec<PeerReport>) -> Vec<PeerReport> {
    let mut peers: Vec<PeerReport> = Vec::new();
    let mut places = BTreeMap::new();
    for report in reports {
        let place = *places.entry(report.peer.clone()).or_insert(peers.len());
        let Some(peer) = peers.get_mut(place) else {
            peers.push(report);
            continue;
        };
        for address in report.addresses {
            if !peer.addresses.contains(&address) {
                peer.addresses.push(address);
            }
        }
        peer.address = peer.addresses.first().copied();
        peer.last_handshake_s = peer.last_handshake_s.into_iter().chain(report.last_handshake_s).min();
        peer.rx_bytes += report.rx_bytes;
        peer.tx_bytes += report.tx_bytes;
        peer.lanes += report.lanes;
        // A pod is as far in a rotation, and its certificate as new, as its last pair of lanes. Epochs are in the order
        // of RFC 1982: 0 comes after 255.
        if (peer.epoch.wrapping_sub(report.epoch) as i8) > 0 {
            peer.epoch = report.epoch;
        }
        peer.generation = peer.generation.min(report.generation);
    }
    peers
}

/// State of what the program keeps in the namespace, in `status --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceReport {
    /// True while something does not stand and cannot be put back: protected destinations are unreachable.
    pub closed: bool,
    /// The parts, in the order in which they are put back.
    pub parts: Vec<PartReport>,
}

/// A part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReport {
    /// `chains`, `rp_filter`, `device`, `routes` or `rules`.
    pub part: String,
    /// Times that it was put back.
    pub restored: u64,
    /// Seconds since the last time.
    pub last_s: Option<u64>,
    /// Change that was found then.
    pub found: Option<String>,
    /// Reason why it does not stand now; null: it was seen to stand.
    pub problem: Option<String>,
}

/// Packets that the nftables chains dropped since they were installed; all zero without enforcement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainsReport {
    /// Came in, in plain, from protected sources.
    pub plain_in: u64,
    /// Would have left in plain, to protected destinations or to everybody on the link.
    pub leak: u64,
    /// The program's own, led to its device by a route or rule of somebody else's.
    pub looped: u64,
}

/// Queries of the pod, since the start; up to a second old.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesReport {
    /// Queries taken.
    pub queries: u64,
    /// Answers as the nameserver gave them.
    pub answered: u64,
    /// SERVFAIL for lack of an answer.
    pub unanswered: u64,
    /// SERVFAIL in place of an answer that gave a name of the project's own an address neither protected nor exempt.
    pub withheld: u64,
    /// Answers of that kind that `external_names` let pass.
    pub external: u64,
    /// The name in the last answer of that kind.
    pub foreign_name: Option<String>,
    /// Its address; absent: the answer could not be read.
    pub foreign_address: Option<IpAddr>,
    /// Addresses of the pod at which queries are taken.
    pub listening: Vec<IpAddr>,
    /// The reason why queries of another address are not; tried again each second. Absent: there is none.
    pub problem: Option<String>,
    /// Nameservers of the link that applications ask themselves: their answers are not looked at.
    pub unseen: Vec<IpAddr>,
}

/// System calls that moved packets, since the start: beside the packets they tell how long trains are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsReport {
    /// Packets and super-packets read from the device.
    pub reads: u64,
    /// Calls that sent records.
    pub sends: u64,
    /// Trains received.
    pub receives: u64,
    /// Packets and super-packets written to the device.
    pub writes: u64,
}

/// Datagrams that are kept out before the program sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScreenReport {
    /// True while most of a flood is kept out.
    pub up: bool,
    /// Datagrams and trains that the kernel dropped at the sockets since the start: kept out, or without room.
    pub dropped: u64,
    /// Filters that the kernel did not take: it lets all of a flood in.
    pub refused: u64,
}

/// Packets since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketsReport {
    /// Sealed and sent.
    pub encrypted: u64,
    /// Opened and delivered.
    pub decrypted: u64,
    /// Left as they are.
    pub bypassed: u64,
    /// Held for a destination that was asked.
    pub held: u64,
    /// Dropped, for whatever reason.
    pub dropped: u64,
    /// Among the bypassed: because of `unknown = "plain"`.
    pub opportunistic: u64,
    /// Not packets: what lanes had to tell each other and had no room for.
    #[serde(default)]
    pub lane_updates_lost: u64,
}

impl From<&Stats> for PacketsReport {
    fn from(stats: &Stats) -> Self {
        Self {
            encrypted: stats.encrypted,
            decrypted: stats.decrypted,
            bypassed: stats.bypassed,
            held: stats.held,
            dropped: stats.dropped_total(),
            opportunistic: stats.opportunistic,
            lane_updates_lost: stats.lane_updates_lost,
        }
    }
}

/// Returns drops by the reasons' names.
#[must_use]
pub(crate) fn drops(stats: &Stats) -> BTreeMap<String, u64> {
    stats.drops().map(|(reason, count)| (reason.as_str().to_owned(), count)).collect()
}

/// The suite in `status`: its name, and whether the network carries its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteReport {
    /// MTU of the TUN device in bytes.
    pub mtu: u32,
    /// The cipher suite's name.
    pub name: String,
    /// The reason why no session can be made with it.
    pub problem: Option<String>,
}

/// Protections that hold, in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardeningReport {
    /// Others of the same user cannot look into the program, and it leaves no core dump.
    pub not_dumpable: bool,
    /// None of its memory goes to swap.
    pub memory_locked: bool,
    /// The key file's text is read into memory that the kernel has not mapped itself.
    pub secret_memory: bool,
    /// Nothing it could start would gain privileges.
    pub no_new_privs: bool,
    /// Capabilities of the control plane; the lanes have none.
    pub capabilities: Vec<String>,
    /// System calls it has no use for are refused.
    pub seccomp: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, address: u8, lanes: u16) -> PeerReport {
        let address = IpAddr::from([10, 0, 0, address]);
        PeerReport {
            peer: name.into(),
            address: Some(address),
            addresses: vec![address],
            endpoint: SocketAddr::new(address, 8362),
            suite: "aes-256-gcm".into(),
            epoch: 1,
            last_handshake_s: Some(u64::from(lanes)),
            rx_bytes: 10,
            tx_bytes: 1,
            lanes,
            generation: None,
        }
    }

    #[test]
    fn a_peer_is_named_once_with_what_all_lanes_say_of_it() {
        let merged = merged(vec![peer("a", 1, 2), peer("b", 2, 1), peer("a", 3, 1), peer("a", 1, 1)]);
        assert_eq!(merged.iter().map(|peer| &*peer.peer).collect::<Vec<_>>(), ["a", "b"]);
        let a = &merged[0];
        assert_eq!((a.lanes, a.rx_bytes, a.tx_bytes, a.last_handshake_s), (4, 30, 3, Some(1)));
        assert_eq!(a.addresses, [[10, 0, 0, 1], [10, 0, 0, 3]].map(IpAddr::from));
        assert_eq!(merged[1], peer("b", 2, 1));
    }

    #[test]
    fn a_peer_is_as_far_in_a_rotation_as_its_last_pair_of_lanes() {
        for (epochs, last) in [([2, 1, 2], 1), ([1, 2, 2], 1), ([0, 255, 0], 255)] {
            let reports = epochs.map(|epoch| PeerReport { epoch, ..peer("a", 1, 1) });
            assert_eq!(merged(reports.to_vec())[0].epoch, last, "{epochs:?}");
        }
    }

    #[test]
    fn counters_of_lanes_are_added_up() {
        let mut stats = Stats::new();
        stats.encrypted = 2;
        stats.drop_many(tencrypt::DropReason::Auth, 3);
        let report = StatusReport {
            program: ProgramReport::default(),
            network: NetworkReport::default(),
            project: None,
            mtu: 1440,
            suite: "aes-256-gcm".into(),
            suite_problem: None,
            lanes: 1,
            unknown: "drop".into(),
            enforce: true,
            namespace: NamespaceReport::default(),
            identity: IdentityReport::default(),
            hardening: HardeningReport::default(),
            renewal: RenewalReport::default(),
            keys: KeysReport::default(),
            peers: vec![peer("a", 1, 1)],
            packets: PacketsReport::from(&stats),
            chains: ChainsReport { plain_in: 4, leak: 5, looped: 0 },
            calls: CallsReport { reads: 1, sends: 2, receives: 3, writes: 4 },
            screen: ScreenReport { up: false, dropped: 5, refused: 6 },
            names: None,
            drops: drops(&stats),
        };
        let mut sum = report.clone();
        sum.screen.up = true;
        sum.add(report);
        assert_eq!(sum.screen, ScreenReport { up: true, dropped: 10, refused: 12 });
        assert_eq!((sum.lanes, sum.packets.encrypted, sum.packets.dropped, sum.drops["auth"]), (2, 4, 6, 6));
        assert_eq!(sum.calls, CallsReport { reads: 2, sends: 4, receives: 6, writes: 8 });
        // The chains are the pod's, not a lane's.
        assert_eq!((sum.peers.len(), sum.chains.plain_in), (2, 4));
    }
}
