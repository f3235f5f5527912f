//! Commands of the control plane, carried out by a lane, and the reports that it makes for them.

use std::{net::IpAddr, time::Instant};

use super::{
    channel::{Command, NewIdentity},
    data_path::DataPath,
    pod_status::read,
};
use crate::report::{
    CallsReport, ExplainReport, IdentityReport, KeysReport, PacketsReport, PeerReport, ProgramReport,
    ScreenReport, StatusReport, drops, fingerprints,
};

impl DataPath {
    /// Carries out the control plane's commands. Returns true when the lane is to stop.
    pub(super) fn handle_commands(&mut self) -> bool {
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
                    self.is_by_facts = true;
                    self.drain(now);
                    self.is_by_facts = false;
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
                    self.tunnel.set_addresses(&addresses, now);
                    self.addresses = addresses;
                    self.drain(now);
                }
                Command::Keys(keys) => {
                    if let Err(error) = self.tunnel.set_keys(keys, now) {
                        tracing::error!(%error, "keys");
                    }
                    self.drain(now);
                }
                Command::ReplaceIdentity(identity) => self.replace_identity(*identity, now),
                Command::ExternalOpened(destination) => self.bypass.release(destination),
                Command::ExternalEnded(destination) => self.tunnel.external_ended(destination),
                Command::AskExternals(destinations) => {
                    destinations.iter().for_each(|destination| self.tunnel.ask_external(*destination, now));
                    self.is_by_facts = true;
                    self.drain(now);
                    self.is_by_facts = false;
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn replace_identity(&mut self, new: NewIdentity, now: Instant) {
        // What other lanes told of their old sessions goes with the rest.
        self.handle_lane_updates();
        self.tunnel.reseed(new.seed);
        self.tunnel.forget_sessions(new.identity, now);
        self.generation = new.generation;
        // Unless there was another sign meanwhile.
        self.check_fresh();
        self.drain(now);
    }

    fn status(&self, now: Instant) -> StatusReport {
        let pod = &self.status;
        let suite = read(&pod.suite);
        let namespace = read(&pod.namespace);
        let stands = namespace.parts.iter().all(|part| part.part != "chains" || part.problem.is_none());
        StatusReport {
            program: ProgramReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_s: now.saturating_duration_since(pod.since).as_secs(),
            },
            network: read(&pod.network),
            project: pod.project.clone(),
            mtu: suite.mtu,
            suite: suite.name,
            suite_problem: suite.problem,
            lanes: 1,
            identity: IdentityReport { addresses: self.addresses.clone(), ..read(&pod.identity) },
            unknown: pod.unknown.to_owned(),
            enforce: pod.enforce && stands,
            namespace,
            hardening: pod.hardening.clone(),
            renewal: read(&pod.renewal),
            keys: self.keys(),
            peers: self.peers(now),
            packets: PacketsReport::from(self.tunnel.stats()),
            chains: read(&pod.chains),
            calls: self.calls(),
            screen: ScreenReport {
                up: self.transport.is_filtering(),
                dropped: self.transport.kernel_drops(),
                refused: self.transport.stats().filters_refused,
            },
            names: read(&pod.names),
            drops: drops(self.tunnel.stats()),
        }
    }

    fn keys(&self) -> KeysReport {
        let keys = self.tunnel.keys();
        let error = read(&self.status.key_fault);
        KeysReport {
            send: keys.send_epoch(),
            accept: keys.epochs().collect(),
            fingerprints: fingerprints(keys),
            error,
        }
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
        let mut report = ExplainReport::from(&self.tunnel.explain(source, destination, now));
        if self.addresses.contains(&destination) {
            report.note_own_destination();
        }
        report
    }
}
