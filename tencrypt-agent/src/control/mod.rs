//! The control protocol: one request and one reply a connection, each one line of JSON, over a Unix socket in the run
//! directory.

pub mod client;
pub mod server;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tencrypt_core::{DropReason, Stats, crypto::to_hex, trust::CertificateFile};

use crate::hardening::HardeningReport;

/// Longest request in bytes.
const REQUEST_LIMIT: u64 = 4 << 10;

/// Longest reply in bytes: some 30,000 peers.
const REPLY_LIMIT: u64 = 16 << 20;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::exhaustive_enums, reason = "the program's own")]
pub enum Request {
    /// Counters and peers.
    Status,
    /// Peers alone.
    Peers,
    /// What would happen to a packet.
    Explain {
        /// Its source; absent: this pod.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<IpAddr>,
        /// Its destination.
        destination: IpAddr,
    },
    /// End, and undo everything.
    Stop,
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the program's own")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(StatusReport),
    /// To [`Request::Peers`].
    Peers(Vec<PeerReport>),
    /// To [`Request::Explain`].
    Explanation(ExplainReport),
    /// To [`Request::Stop`]: it has begun.
    Stopping,
    /// It cannot be done, and why.
    Refused(String),
}

/// `tencrypt status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
pub struct StatusReport {
    /// The project, once it is known.
    pub project: Option<String>,
    /// MTU of the TUN device in bytes.
    pub mtu: u32,
    /// Number of lanes.
    pub lanes: u8,
    /// Who this pod is, and what it asks of others.
    #[serde(default)]
    pub identity: Box<IdentityReport>,
    /// `drop` or `plain`: what happens to protected destinations that do not answer.
    pub unknown: String,
    /// Whether nftables hold what routes alone do not.
    pub enforce: bool,
    /// What the program has given up.
    #[serde(default)]
    pub hardening: HardeningReport,
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
    /// Drops by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
}

/// Who the pod is, in `status --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
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
    /// Why there is none, or why a newer one is not taken.
    pub problem: Option<String>,
    /// The least generation that counts.
    pub minimum_generation: u32,
    /// Keys and pods that are denied.
    pub denied: usize,
    /// Why the revocation file is not taken; the one before stays in force.
    pub revocation_problem: Option<String>,
}

/// A certificate, in `status --json` and `ca inspect --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
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
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
pub struct KeysReport {
    /// The epoch that new sessions start under.
    pub send: u8,
    /// The epochs that are accepted.
    pub accept: Vec<u8>,
    /// Why the key file, as it is now, is not in force; absent: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One peer, in `status --json` and `peers --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
pub struct PeerReport {
    /// Start of its public key, in hex.
    pub peer: String,
    /// Its first address.
    pub address: Option<IpAddr>,
    /// All of its addresses.
    pub addresses: Vec<IpAddr>,
    /// Where its datagrams go.
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
}

/// Packets that the nftables chains dropped since they were installed; all zero without enforcement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
pub struct ChainsReport {
    /// Came in, in plain, from protected sources.
    pub plain_in: u64,
    /// Would have left in plain, to protected destinations or to everybody on the link.
    pub leak: u64,
}

/// System calls that moved packets, since the start: beside the packets they tell how long trains are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
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

/// Packets since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
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
}

/// `tencrypt explain --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the program's own")]
pub struct ExplainReport {
    /// Source asked about.
    pub source: IpAddr,
    /// Destination asked about.
    pub destination: IpAddr,
    /// `encrypt`, `bypass`, `hold` or `drop`.
    pub verdict: String,
    /// The peer it would be sealed for.
    pub peer: Option<String>,
    /// Why, in steps.
    pub because: Vec<String>,
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
        }
    }
}

/// Drops by the reasons' names.
#[must_use]
pub fn drops(stats: &Stats) -> BTreeMap<String, u64> {
    DropReason::ALL.iter().map(|&reason| (reason.as_str().to_owned(), stats.dropped(reason))).collect()
}
