//! The report of `--against`: one program beside another one, round by round.

use std::fmt::Write as _;

use crate::{
    contender::Contender,
    network::Scene,
    pattern::{Metric, Pattern},
    results::Results,
    samples::{Spread, digits},
};

/// The table of a network for each of `scenes`, a row a number of `patterns`: both medians, how many times better this
/// program is by them (more throughput, less CPU or time), and the smallest and the largest ratio of a round.
pub(crate) fn report(results: &Results, scenes: &[Scene], patterns: &[Pattern]) -> String {
    let mut text = String::new();
    for &scene in scenes {
        let rows: String = patterns
            .iter()
            .flat_map(|pattern| pattern.metrics())
            .filter_map(|&metric| row(results, scene, metric))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "\n### This program against the other one: {}\n\n\
             | | this | other | ratio of medians | ratios of rounds |\n|---|---:|---:|---:|---:|\n{rows}",
            scene.title()
        );
    }
    text
}

/// A row; `None` if one of the two has no number.
fn row(results: &Results, scene: Scene, metric: Metric) -> Option<String> {
    let medians = [Contender::Tencrypt, Contender::Against].map(|one| results.spread(scene, one, metric));
    let [this, other] = [medians[0]?.median, medians[1]?.median];
    let (ratio, ends) = if metric.more_is_better() {
        (this / other, [Contender::Tencrypt, Contender::Against])
    } else {
        (other / this, [Contender::Against, Contender::Tencrypt])
    };
    let rounds = Spread::of(&results.quotients(scene, ends, metric));
    let ratio = if ratio.is_finite() { format!("{ratio:.3}") } else { "–".to_owned() };
    let spread =
        rounds.map_or_else(|| "–".to_owned(), |Spread { low, high, .. }| format!("{low:.3}–{high:.3}"));
    let (title, unit) = (metric.title(), metric.unit());
    Some(format!("| {title}, {unit} | {} | {} | {ratio} | {spread} |\n", digits(this), digits(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(rounds: &[(Metric, Option<f64>, Option<f64>)]) -> Results {
        let mut results = Results::default();
        for &(metric, this, other) in rounds {
            results.begin_round();
            for (contender, value) in [(Contender::Tencrypt, this), (Contender::Against, other)] {
                if let Some(value) = value {
                    results.add(Scene::Cable, contender, metric, value);
                }
            }
        }
        results
    }

    #[test]
    fn ratios_are_of_the_medians_and_of_the_numbers_of_one_round() {
        let tcp = |this, other| (Metric::Tcp1, Some(this), Some(other));
        let results = results(&[tcp(8.0, 8.0), tcp(9.0, 10.0), tcp(12.0, 8.0)]);
        let text = report(&results, &[Scene::Cable], &[Pattern::Tcp1]);
        assert!(text.contains("| TCP, 1 stream, Gbit/s | 9.00 | 8.00 | 1.125 | 0.900–1.500 |\n"), "{text}");
        assert_eq!(text.trim().lines().count(), 5, "no row without a number: {text}");
    }

    #[test]
    fn less_cpu_or_time_is_a_ratio_above_one_too() {
        let results = results(&[(Metric::MachineCpu, Some(1.0), Some(2.0))]);
        let text = report(&results, &[Scene::Cable], &[Pattern::Tcp1]);
        assert!(text.contains("| 1.00 | 2.00 | 2.000 | 2.000–2.000 |"), "{text}");
    }

    #[test]
    fn a_round_in_which_one_of_them_failed_has_no_ratio() {
        let udp = |this, other| (Metric::Udp64, this, other);
        let results = results(&[udp(Some(3.0), None), udp(Some(4.0), Some(2.0)), udp(None, Some(1.0))]);
        let text = report(&results, &[Scene::Cable], &[Pattern::Udp64]);
        assert!(text.contains("| 3.50 | 1.50 | 2.333 | 2.000–2.000 |"), "{text}");
        assert_eq!(report(&Results::default(), &[Scene::Cable], &Pattern::ALL), "");
    }
}
