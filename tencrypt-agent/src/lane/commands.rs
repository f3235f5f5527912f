//! What a lane does for the control plane: it carries out commands, and says what it knows.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tencrypt::Verdict;

use super::{DataPath, send};
use crate::{
    lane::channel::Command,
    lane::channel::Renewal,
    report::{
        CallsReport, ChainsReport, ExplainReport, HardeningReport, IdentityReport, KeysReport, PacketsReport,
        PeerReport, RenewalReport, ScreenReport, StatusReport, drops,
    },
    supervisor::suite_fit::SuiteFit,
};

/// What `status` says that the lane does not count.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// The project, where it is known.
    pub project: Option<String>,
    /// The suite and the interface's MTU, followed by the control plane.
    pub fit: SuiteFit,
    /// What the chains have dropped, followed by the control plane.
    pub chains: Arc<Mutex<ChainsReport>>,
    /// Who this pod is, followed by the control plane.
    pub identity: Arc<Mutex<IdentityReport>>,
    /// Why the key file is not what is in force, followed by the control plane.
    pub key_fault: Arc<Mutex<Option<String>>>,
    /// How often keys were made anew, followed by the control plane.
    pub renewal: Arc<Mutex<RenewalReport>>,
    /// `drop` or `plain`.
    pub unknown: &'static str,
    /// Whether the chains are installed.
    pub enforce: bool,
    /// What the program has given up.
    pub hardening: HardeningReport,
}

impl DataPath {
    /// Carries out the control plane's commands. True when it is to stop.
    pub(super) fn obey(&mut self) -> bool {
        let mut commands = Vec::new();
        self.inbox.drain(|command| commands.push(command));
        let now = Instant::now();
        for command in commands {
            match command {
                // Whoever asked may have gone away: that is no concern of the lane.
                Command::Status(reply) => drop(reply.send(self.status(now))),
                Command::Peers(reply) => drop(reply.send(self.peers(now))),
                Command::Explain { source, destination, reply } => {
                    drop(reply.send(self.explain(source, destination, now)));
                }
                Command::Facts { changes, done } => {
                    self.tunnel.apply_facts(&changes, now);
                    self.drain(now);
                    let _ = done.send(());
                }
                Command::Directory(directory) => self.tunnel.set_directory(directory),
                Command::Trust(trust) => {
                    self.tunnel.set_trust(trust, now);
                    self.drain(now);
                }
                Command::Certificate(certificate) => {
                    // The control plane has judged it by the same rules.
                    let _ = self.tunnel.set_certificate(Some(*certificate), now);
                    self.drain(now);
                }
                Command::Addresses(addresses) => {
                    self.tunnel.set_addresses(&addresses);
                    self.addresses = addresses;
                }
                Command::Keys(keys) => {
                    if let Err(error) = self.tunnel.set_keys(keys, now) {
                        tracing::error!(%error, "keys");
                    }
                    self.drain(now);
                }
                Command::Renew(renewal) => self.renew(*renewal, now),
                Command::ExternalOpened(destination) => {
                    self.opening.end(destination).iter().for_each(|packet| send(&self.raw, packet));
                }
                Command::ExternalEnded(destination) => self.tunnel.external_ended(destination),
                Command::Stop => return true,
            }
        }
        false
    }

    fn renew(&mut self, renewal: Renewal, now: Instant) {
        // What other lanes told of their old sessions goes with the rest.
        self.take_news();
        self.tunnel.reseed(renewal.seed);
        self.tunnel.forget_sessions(renewal.identity, now);
        self.renewal = renewal.number;
        // Unless there was another sign meanwhile.
        self.check_fresh();
        self.drain(now);
    }

    fn status(&self, now: Instant) -> StatusReport {
        StatusReport {
            project: self.about.project.clone(),
            mtu: self.about.fit.mtu().device(),
            suite: self.about.fit.suite().name().to_owned(),
            suite_problem: self.about.fit.problem(&self.addresses),
            lanes: 1,
            identity: IdentityReport {
                addresses: self.addresses.clone(),
                ..self.about.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
            },
            unknown: self.about.unknown.to_owned(),
            enforce: self.about.enforce,
            hardening: self.about.hardening.clone(),
            renewal: self.about.renewal.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            keys: self.keys(),
            peers: self.peers(now),
            packets: PacketsReport::from(self.tunnel.stats()),
            chains: *self.about.chains.lock().unwrap_or_else(PoisonError::into_inner),
            calls: self.calls(),
            screen: ScreenReport {
                up: self.transport.is_screened(),
                dropped: self.transport.kernel_drops(),
                refused: self.transport.stats().filters_refused,
            },
            drops: drops(self.tunnel.stats()),
        }
    }

    fn keys(&self) -> KeysReport {
        let keys = self.tunnel.keys();
        let fault = self.about.key_fault.lock().unwrap_or_else(PoisonError::into_inner);
        KeysReport { send: keys.send_epoch(), accept: keys.epochs().collect(), error: fault.clone() }
    }

    fn calls(&self) -> CallsReport {
        let (device, transport) = (self.device.calls(), self.transport.stats());
        CallsReport {
            reads: device.reads,
            sends: transport.send_calls,
            receives: transport.receive_calls,
            writes: device.writes,
        }
    }

    fn peers(&self, now: Instant) -> Vec<PeerReport> {
        let report = |peer: tencrypt::PeerInfo| PeerReport {
            peer: peer.peer.to_string(),
            address: peer.addresses.first().copied(),
            addresses: peer.addresses.to_vec(),
            endpoint: peer.endpoint,
            suite: peer.suite.name().to_owned(),
            epoch: peer.epoch,
            generation: peer.generation,
            last_handshake_s: peer.last_handshake.map(|age| age.as_secs()),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            lanes: 1,
        };
        self.tunnel.peers(now).map(report).collect()
    }

    fn explain(&self, source: Option<IpAddr>, destination: IpAddr, now: Instant) -> ExplainReport {
        let own = self.addresses.iter().find(|own| own.is_ipv4() == destination.is_ipv4());
        let source = source.or(own.copied()).unwrap_or(destination);
        let explanation = self.tunnel.explain(source, destination, now);
        let (verdict, peer) = match explanation.verdict {
            Verdict::Encrypt(peer) => ("encrypt".to_owned(), Some(peer.to_string())),
            Verdict::Bypass => ("bypass".to_owned(), None),
            Verdict::Hold => ("hold".to_owned(), None),
            Verdict::Drop(reason) => (format!("drop ({reason})"), None),
        };
        let because = explanation.to_string().lines().skip(1).map(|line| line.trim().to_owned()).collect();
        ExplainReport { source, destination, verdict, peer, because }
    }
}
