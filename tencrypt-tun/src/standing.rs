//! The parts of a capture over time: what was put back, what does not stay, and when to look.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{backoff::BackOff, desired::Part};

/// The time between two looks at a part whose changes the kernel was not seen to tell of here, and at one whose it was.
const LOOK: Duration = Duration::from_secs(5);
const LOOK_IF_TOLD: Duration = Duration::from_secs(60);

/// State of a part of a capture, as it was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartState {
    /// The part.
    pub part: Part,
    /// Times that it was put back after somebody had changed it.
    pub restored: u64,
    /// The last time.
    pub last: Option<Instant>,
    /// Change that was found then.
    pub found: Option<String>,
    /// Reason why it does not stand now; none: it was seen to stand.
    pub problem: Option<String>,
}

#[derive(Debug, Default)]
struct Kept {
    restored: u64,
    last: Option<Instant>,
    found: Option<String>,
    problem: Option<String>,
    back_off: BackOff,
    looked: Option<Instant>,
    is_told: bool,
}

/// All parts.
#[derive(Debug, Default)]
pub(crate) struct Standing(BTreeMap<Part, Kept>);

impl Standing {
    /// Returns the state of each part.
    pub(crate) fn states(&self) -> Vec<PartState> {
        let none = Kept::default();
        let state = |part: Part| {
            let kept = self.0.get(&part).unwrap_or(&none);
            PartState {
                part,
                restored: kept.restored,
                last: kept.last,
                found: kept.found.clone(),
                problem: kept.problem.clone(),
            }
        };
        Part::ALL.into_iter().map(state).collect()
    }

    /// Tells if anything does not stand.
    pub(crate) fn has_problem(&self) -> bool {
        self.0.values().any(|kept| kept.problem.is_some())
    }

    /// Notes that the kernel has told of a change of `part`.
    pub(crate) fn heard(&mut self, part: Part) {
        self.kept(part).is_told = true;
    }

    /// Returns the parts that have to be looked at now: by the clock, or since a pause is over.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Part> {
        let mut due = Vec::new();
        for part in Part::ALL {
            let kept = self.kept(part);
            let period = if kept.is_told { LOOK_IF_TOLD } else { LOOK };
            let is_late = kept.looked.is_none_or(|last| now.saturating_duration_since(last) >= period);
            let pause_is_over = kept.problem.is_some() && !kept.back_off.is_pausing(now);
            if is_late || pause_is_over {
                due.push(part);
            }
        }
        due
    }

    /// Tells if `part` is left alone for the time being.
    pub(crate) fn is_pausing(&self, part: Part, now: Instant) -> bool {
        self.0.get(&part).is_some_and(|kept| kept.back_off.is_pausing(now))
    }

    /// Notes that `part` was looked at and stands.
    pub(crate) fn stood(&mut self, part: Part, now: Instant) {
        let kept = self.kept(part);
        kept.looked = Some(now);
        if kept.back_off.stood(now) {
            kept.problem = None;
        }
    }

    /// Notes that `part` was put back after somebody had changed it.
    pub(crate) fn restored(&mut self, part: Part, found: String, now: Instant) {
        let kept = self.kept(part);
        (kept.looked, kept.last) = (Some(now), Some(now));
        kept.restored += 1;
        kept.problem = None;
        if kept.back_off.restored(now) {
            let pause = kept.back_off.until().map_or(Duration::ZERO, |until| until - now);
            let problem =
                format!("somebody changes it all the time: {found}; left alone for {} s", pause.as_secs());
            tracing::error!(%part, "closed: {problem}");
            kept.problem = Some(problem);
        } else {
            tracing::warn!(%part, "put back: {found}");
        }
        kept.found = Some(found);
    }

    /// Notes that `part` does not stand and cannot be put back.
    pub(crate) fn failed(&mut self, part: Part, problem: String, now: Instant) {
        let kept = self.kept(part);
        kept.looked = Some(now);
        kept.back_off.failed(now);
        if kept.problem.as_ref() != Some(&problem) {
            tracing::error!(%part, "closed: {problem}");
        }
        kept.problem = Some(problem);
    }

    fn kept(&mut self, part: Part) -> &mut Kept {
        self.0.entry(part).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn all_stood(standing: &mut Standing, now: Instant) {
        Part::ALL.into_iter().for_each(|part| standing.stood(part, now));
    }

    #[test]
    fn parts_are_looked_at_each_five_seconds_or_each_minute_if_the_kernel_tells() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        assert_eq!(standing.due(start), Part::ALL);
        all_stood(&mut standing, start);
        assert_eq!(standing.due(start + 4 * SECOND), []);
        assert_eq!(standing.due(start + 5 * SECOND), Part::ALL);
        Part::ALL.into_iter().for_each(|part| standing.heard(part));
        assert_eq!(standing.due(start + 59 * SECOND), []);
        assert_eq!(standing.due(start + 60 * SECOND), Part::ALL);
    }

    #[test]
    fn what_does_not_stay_is_a_problem_until_it_was_seen_to_stand_after_the_pause() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        all_stood(&mut standing, start);
        let mut count = 0;
        while !standing.has_problem() {
            standing.restored(Part::Rules, "gone".to_owned(), start);
            count += 1;
        }
        assert!((10..100).contains(&count), "{count}");
        assert!(standing.is_pausing(Part::Rules, start + 4 * SECOND));
        standing.stood(Part::Rules, start + SECOND);
        assert!(standing.has_problem(), "the pause is not over");
        assert_eq!(standing.due(start + 4 * SECOND), []);
        assert!(standing.due(start + 5 * SECOND).contains(&Part::Rules));
        standing.stood(Part::Rules, start + 5 * SECOND);
        assert!(!standing.has_problem());
        let state = standing.states().into_iter().find(|state| state.part == Part::Rules).expect("there");
        assert_eq!((state.restored, state.last, state.problem), (count, Some(start), None));
    }

    #[test]
    fn what_cannot_be_put_back_is_tried_again_before_the_next_look() {
        let (mut standing, start) = (Standing::default(), Instant::now());
        all_stood(&mut standing, start);
        standing.failed(Part::Chains, "no memory".to_owned(), start);
        assert!(standing.has_problem());
        standing.stood(Part::Chains, start);
        assert!(!standing.has_problem(), "somebody has put it right");
        standing.failed(Part::Chains, "no memory".to_owned(), start);
        assert_eq!(standing.due(start), []);
        assert_eq!(standing.due(start + SECOND), [Part::Chains]);
        standing.restored(Part::Chains, "gone".to_owned(), start + SECOND);
        assert!(!standing.has_problem());
    }
}
