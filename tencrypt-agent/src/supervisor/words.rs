//! What comes for a running program, from its files or from the agent of the node, on its way to the lanes.

use std::{sync::Arc, time::Instant};

use tencrypt::directory::Standing;

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
            Word::Material(material) => self.take(material, clocks).await,
            Word::Facts(text) => self.take_facts(&text).await,
            Word::Complete => {
                if self.facts.told(|told| told.complete()) {
                    self.apply_told().await;
                }
            }
            Word::Renew(reason) => return self.handle_sign(self.guard.sign(reason), clocks).await,
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
        let identity = |this: &Self| pod_status::read(&this.credentials.report());
        let (message, fault, event) = match material {
            Material::Keys(came) => {
                if let Some(keys) = self.keys.take(came) {
                    let _ = self.lanes.send_all(|| Command::Keys(keys.clone())).await;
                }
                let (send, accept) = self.keys.epochs();
                ("keys", self.keys.fault(), Some(PodEvent::Keys { send, accept }))
            }
            Material::Certificate(came) => {
                let update = self.credentials.take_certificate(came);
                self.tell(update).await;
                let IdentityReport { certificate, problem, .. } = identity(self);
                let event =
                    certificate.map(|in_force| PodEvent::Certificate { generation: in_force.generation });
                ("certificate", problem, event)
            }
            Material::Revocation(came) => {
                let updates = self.credentials.take_revocation(came);
                self.tell(updates).await;
                let IdentityReport { minimum_generation, denied, revocation_problem, .. } = identity(self);
                ("revocation", revocation_problem, Some(PodEvent::Revocation { minimum_generation, denied }))
            }
        };
        match (fault, event) {
            (Some(reason), _) => self.inputs.say(&Said::Refused { message, reason }),
            (None, Some(event)) => self.inputs.say(&Said::Event(event)),
            (None, None) => {}
        }
        clocks.status_has_changed();
    }

    /// Tells the lanes what has changed of certificate and revocation.
    async fn tell(&self, updates: impl IntoIterator<Item = Update>) {
        for update in updates {
            let _ = self.lanes.send_all(|| update.clone().into()).await;
        }
    }

    /// Takes the agent's facts, all or none.
    async fn take_facts(&self, text: &[u8]) {
        let facts = Facts::parse(text, &self.rules.protected);
        let taken = facts
            .and_then(|facts| self.facts.told(|told| told.take(facts)).map_err(|error| error.to_string()));
        match taken {
            Ok(true) => self.apply_told().await,
            Ok(false) => {}
            Err(reason) => {
                tracing::error!("facts of the agent: {}; none of them counts", Escaped(&reason));
                self.inputs.say(&Said::Refused { message: "facts", reason });
            }
        }
    }

    /// Gives the lanes what the agent has told, and ends what leads around the tunnel against it.
    async fn apply_told(&self) {
        let directory = Arc::new(self.facts.directory());
        let _ = self.lanes.send_all(|| Command::Directory(directory.clone())).await;
        // The answer comes after the directory was taken: no lane opens a destination by the old one any more.
        let _ = self.lanes.ask_all(|done| Command::Facts { changes: Vec::new(), done }).await;
        let now = Instant::now();
        self.namespace.close_unless(|destination| {
            let standing = directory.classify(&self.rules, destination, now).standing;
            matches!(standing, Standing::External | Standing::Claimed)
        });
    }
}
