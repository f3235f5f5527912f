//! What was measured, as it comes in.

use std::collections::BTreeMap;

use crate::{contender::Contender, network::Scene, pattern::Metric, samples::Spread};

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<(Scene, Contender, Metric), Vec<f64>>,
    failures: BTreeMap<(Scene, Contender), String>,
    disturbed: u32,
    patterns: u32,
}

impl Results {
    /// Takes a number of one round.
    pub(crate) fn add(&mut self, scene: Scene, contender: Contender, metric: Metric, value: f64) {
        self.samples.entry((scene, contender, metric)).or_default().push(value);
    }

    /// Takes note of the first failure of a contender.
    pub(crate) fn fail(&mut self, scene: Scene, contender: Contender, reason: String) {
        self.failures.entry((scene, contender)).or_insert(reason);
    }

    /// Counts a pattern, and whether other processes disturbed it.
    pub(crate) fn count(&mut self, disturbed: bool) {
        self.patterns += 1;
        self.disturbed += u32::from(disturbed);
    }

    /// How many patterns other processes disturbed, and of how many.
    pub(crate) fn disturbed(&self) -> (u32, u32) {
        (self.disturbed, self.patterns)
    }

    /// The numbers of all rounds.
    pub(crate) fn spread(&self, scene: Scene, contender: Contender, metric: Metric) -> Option<Spread> {
        self.samples.get(&(scene, contender, metric)).and_then(|samples| Spread::of(samples))
    }

    /// Whether there is any number of this contender there.
    pub(crate) fn has(&self, scene: Scene, contender: Contender) -> bool {
        self.samples.keys().any(|&(in_scene, of, _)| (in_scene, of) == (scene, contender))
    }

    /// What failed, with the first reason.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (Scene, Contender, &str)> {
        self.failures.iter().map(|(&(scene, contender), reason)| (scene, contender, reason.as_str()))
    }
}
