//! Words for a running program, from its files or from the agent of the node, on their way to the lanes.

use std::{sync::Arc, time::Instant};

use tencrypt::directory::{Fact, FactChange, Standing};

use super::{
    agent_channel::Word,
    run::{Clocks, Over, Supervisor},
};
use crate::{
    escape::Escaped,
    keys::{credentials::Update, material::Material},
    lane::{channel::Command, pod_status, run::Ended},
    node::{
        End, Facts,
        said::{PodEvent, Said},
    },
    report::IdentityReport,
};

/// Services that a lane is told of at once: well below the 4,096 prefixes that it takes beside its directory.
const SERVICES: usize = 1_024;

impl From<Update> for Command {
    fn from(update: Update) -> Self {
        match update {
            Update::Trust(trust) => Self::Trust(trust),
            Update::Certificate(certificate) => Self::Certificate(certificate),
        }
    }
}

impl Supervisor {
    /// Does what a word asks for. Returns the end, if it is that.
    pub(super) async fn handle_word(&mut self, word: Word, clocks: &mut Clocks) -> Option<Over> {
        match word {
            Word::Material(material) => self.take(*material, clocks).await,
            Word::Facts(text) => self.take_facts(&text).await,
            Word::Complete => {
                if self.facts.told(|told| told.complete()) {
                    self.apply_told(Vec::new()).await;
                }
            }
            Word::Renew(reason) => {
                let sign = self.guard.sign(reason);
                return self.handle_sign(sign, clocks).await;
            }
            Word::Report => clocks.status_due = Some(Instant::now()),
            Word::End(End { open: true }) => return Some(Over::Lanes(Ended::Stopped)),
            Word::End(End { open: false }) => return Some(Over::Closed),
            Word::Adopted => {
                tracing::info!("another agent has taken this program over");
                self.facts.told(|told| told.begin());
                self.guard.leave_to_agent(true);
                clocks.status_has_changed();
            }
            Word::Gone => {
                tracing::warn!("the agent has gone; everything stays as it is");
                self.guard.leave_to_agent(false);
            }
        }
        None
    }

    /// Takes keys, certificate or revocation. What is refused stays as it was, and whoever gave it is told.
    async fn take(&mut self, material: Material, clocks: &mut Clocks) {
        clocks.status_has_changed();
        let (certificate, revocation) = match material {
            Material::Keys(came) => {
                if let Some(keys) = self.keys.take(came) {
                    let _ = self.lanes.send_all(|| Command::Keys(keys.clone())).await;
                }
                let (send, accept) = self.keys.epochs();
                return self.answer("keys", self.keys.fault(), Some(PodEvent::Keys { send, accept }));
            }
            Material::Credentials { certificate, revocation } => (certificate, revocation),
        };
        let (is_certificate, is_revocation) = (certificate.is_some(), revocation.is_some());
        for update in self.credentials.take(certificate, revocation) {
            let _ = self.lanes.send_all(|| update.clone().into()).await;
        }
        let IdentityReport { certificate, problem, minimum_generation, denied, revocation_problem, .. } =
            pod_status::read(&self.credentials.report());
        if is_revocation {
            let event = PodEvent::Revocation { minimum_generation, denied };
            self.answer("revocation", revocation_problem, Some(event));
        }
        if is_certificate {
            let event = certificate.map(|in_force| PodEvent::Certificate { generation: in_force.generation });
            self.answer("certificate", problem, event);
        }
    }

    /// Answers the agent that has given something.
    fn answer(&self, message: &'static str, fault: Option<String>, event: Option<PodEvent>) {
        match (fault, event) {
            (Some(reason), _) => self.inputs.say(&Said::Refused { message: message.to_owned(), reason }),
            (None, Some(event)) => self.inputs.say(&Said::Event(event)),
            (None, None) => {}
        }
    }

    /// Takes the agent's facts, all or none.
    async fn take_facts(&self, text: &[u8]) {
        let taken = Facts::parse(text, &self.rules.protected).and_then(|facts| {
            let services: Vec<_> = facts.learn.iter().filter(|fact| fact.is_service()).cloned().collect();
            let changed = self.facts.told(|told| told.take(facts)).map_err(|error| error.to_string())?;
            Ok(changed.then_some(services))
        });
        match taken {
            Ok(Some(services)) => self.apply_told(services).await,
            Ok(None) => {}
            Err(reason) => {
                tracing::error!("facts of the agent: {}; none of them counts", Escaped(&reason));
                self.inputs.say(&Said::Refused { message: "facts".to_owned(), reason });
            }
        }
    }

    /// Gives the lanes what the agent has told, among it new `services`, and ends what leads around the tunnel against it.
    async fn apply_told(&self, services: Vec<Fact>) {
        let directory = Arc::new(self.facts.directory());
        // As changes too: whoever was at a service's address and is not behind it any more loses it.
        for services in services.chunks(SERVICES) {
            let changes: Vec<_> = services.iter().cloned().map(FactChange::Learn).collect();
            let _ = self.lanes.ask_all(|done| Command::Facts { changes: changes.clone(), done }).await;
            // It clears what the lanes hold beside their directory: there is room for the next ones.
            let _ = self.lanes.send_all(|| Command::Directory(directory.clone())).await;
        }
        if services.is_empty() {
            let _ = self.lanes.send_all(|| Command::Directory(directory.clone())).await;
        }
        // The answer comes after the directory was taken: no lane opens a destination by the old one any more.
        let _ = self.lanes.ask_all(|done| Command::Facts { changes: Vec::new(), done }).await;
        let now = Instant::now();
        self.namespace.close_unless(|destination| {
            let standing = directory.classify(&self.rules, destination, now).standing;
            matches!(standing, Standing::External | Standing::Claimed)
        });
    }
}
