//! The numbers that were measured, as they come in.

use std::collections::BTreeMap;

use crate::{contender::Contender, network::Scene, pattern::Metric, samples::Spread};

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// With the round of each.
    samples: BTreeMap<(Scene, Contender, Metric), Vec<(u64, f64)>>,
    round: u64,
    failures: BTreeMap<(Scene, Contender), String>,
    disturbed: u32,
    patterns: u32,
}

impl Results {
    /// Begins another round.
    pub(crate) fn begin_round(&mut self) {
        self.round += 1;
    }

    /// Takes a number of this round.
    pub(crate) fn add(&mut self, scene: Scene, contender: Contender, metric: Metric, value: f64) {
        self.samples.entry((scene, contender, metric)).or_default().push((self.round, value));
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

    /// The number of patterns that other processes disturbed, and the number of all.
    pub(crate) fn disturbed(&self) -> (u32, u32) {
        (self.disturbed, self.patterns)
    }

    /// The numbers of all rounds.
    pub(crate) fn spread(&self, scene: Scene, contender: Contender, metric: Metric) -> Option<Spread> {
        Spread::of(&self.of(scene, contender, metric).map(|(_, value)| value).collect::<Vec<_>>())
    }

    /// The quotients of two contenders' numbers, a round each in which both have one.
    pub(crate) fn quotients(&self, scene: Scene, [over, under]: [Contender; 2], metric: Metric) -> Vec<f64> {
        let of_round = |round| self.of(scene, under, metric).find(|(other, _)| *other == round);
        let of_both =
            self.of(scene, over, metric).filter_map(|(round, value)| Some(value / of_round(round)?.1));
        of_both.filter(|quotient| quotient.is_finite()).collect()
    }

    fn of(&self, scene: Scene, contender: Contender, metric: Metric) -> impl Iterator<Item = (u64, f64)> {
        self.samples.get(&(scene, contender, metric)).into_iter().flatten().copied()
    }

    /// Tells if there is any number of this contender there.
    pub(crate) fn has(&self, scene: Scene, contender: Contender) -> bool {
        self.samples.keys().any(|&(in_scene, of, _)| (in_scene, of) == (scene, contender))
    }

    /// The failures, with the first reason of each.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (Scene, Contender, &str)> {
        self.failures.iter().map(|(&(scene, contender), reason)| (scene, contender, reason.as_str()))
    }
}
