//! The measured part of docs/performance.md.

use std::fmt::Write as _;

use crate::{
    contender::Contender,
    network::Scene,
    pattern::Metric,
    results::Results,
    samples::{Spread, digits},
};

/// The line before what is measured.
pub(crate) const BEGIN: &str = "<!-- measured -->";
/// The line behind it.
pub(crate) const END: &str = "<!-- /measured -->";

/// The columns of the tables.
const TCP: [Metric; 5] =
    [Metric::Tcp1, Metric::Tcp10, Metric::Reverse, Metric::TunnelCpu, Metric::MachineCpu];
const UDP: [Metric; 4] = [Metric::Udp1200, Metric::Udp1200Sent, Metric::Udp64, Metric::Udp64Sent];
const LATENCY: [Metric; 5] =
    [Metric::IdleMedian, Metric::IdleTail, Metric::LoadedMedian, Metric::LoadedTail, Metric::LoadedLost];
const COMPARED: [Metric; 7] = [
    Metric::Tcp1,
    Metric::Tcp10,
    Metric::Reverse,
    Metric::Udp1200,
    Metric::Udp64,
    Metric::MachineCpu,
    Metric::LoadedTail,
];

/// The conditions of a measurement.
pub(crate) struct Setting {
    /// The machine, in a line.
    pub(crate) machine: String,
    /// Performance.svg is written as well.
    pub(crate) has_chart: bool,
    /// The part of its processors that was busy before.
    pub(crate) busy: f64,
    /// The versions of the programs, a line each.
    pub(crate) versions: Vec<(Contender, String)>,
    /// The command line.
    pub(crate) command: String,
    /// Rounds.
    pub(crate) rounds: u64,
    /// Seconds a pattern.
    pub(crate) seconds: u64,
}

/// `document` with `measured` in place of what was between the markers; `None` if it has no markers.
pub(crate) fn replace(document: &str, measured: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", measured.trim()))
}

/// A document of nothing but the measurement.
pub(crate) fn new_document(measured: &str) -> String {
    format!("# Performance\n\n{BEGIN}\n{}\n{END}\n", measured.trim())
}

/// The tables, as Markdown.
pub(crate) fn measured(results: &Results, scenes: &[Scene], setting: &Setting) -> String {
    let mut text = String::new();
    conditions(&mut text, results, setting);
    for &scene in scenes {
        part(&mut text, results, scene);
    }
    let failures: Vec<_> = results.failures().collect();
    if !failures.is_empty() {
        text.push_str("\n### Failed\n\n");
        for (scene, contender, reason) in failures {
            let _ = writeln!(text, "- {} ({}): {}", contender.name(), scene.title(), escape(reason));
        }
    }
    text
}

/// The machine, the command, the rounds, and the versions.
fn conditions(text: &mut String, results: &Results, setting: &Setting) {
    if setting.has_chart {
        text.push_str("![tencrypt beside the plain network and other tunnels](performance.svg)\n\n");
    }
    let (rounds, seconds) = (setting.rounds, setting.seconds);
    let (machine, busy) = (escape(&setting.machine), 100.0 * setting.busy);
    let _ = writeln!(text, "Measured on {machine}, {busy:.0} % busy before, by `{}`.\n", setting.command);
    let spread = if rounds > 1 {
        "Median, and in parentheses the smallest and the largest of the rounds. "
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "{spread}Rounds: {rounds}, in each of which every contender has its turn; {seconds} s a number.\n"
    );
    if let (disturbed @ 1.., patterns) = results.disturbed() {
        let _ = writeln!(
            text,
            "Other processes used the machine during {disturbed} of {patterns} measurements: these numbers are \
             worse than they should be.\n"
        );
    }
    for (contender, version) in &setting.versions {
        let _ = writeln!(text, "- {}: {}", contender.name(), escape(version));
    }
}

/// The tables of one network; nothing if nothing was measured there.
fn part(text: &mut String, results: &Results, scene: Scene) {
    let of = |wanted: fn(&Contender) -> bool| -> Vec<Contender> {
        scene.contenders().iter().copied().filter(wanted).filter(|one| results.has(scene, *one)).collect()
    };
    if !scene.contenders().iter().any(|contender| results.has(scene, *contender)) {
        return;
    }
    let _ = writeln!(text, "\n### {}\n", scene.title());
    let main = of(|contender| !contender.is_variant());
    tables(text, results, scene, &main);
    ratios(text, results, scene, &main);
    let variants = of(|contender| contender.is_tencrypt() && *contender != Contender::Against);
    if variants.len() > 1 || variants.iter().any(|contender| contender.is_variant()) {
        text.push_str("\n#### What each part of tencrypt is worth\n\n");
        tables(text, results, scene, &variants);
    }
}

fn tables(text: &mut String, results: &Results, scene: Scene, contenders: &[Contender]) {
    let mut parted = false;
    for metrics in [&TCP[..], &UDP, &LATENCY] {
        let cell = |contender, metric| {
            let spread = results.spread(scene, contender, metric);
            spread.map(show)
        };
        let table =
            table(contenders, metrics, |metric| format!("{}, {}", metric.title(), metric.unit()), cell);
        if parted && !table.is_empty() {
            text.push('\n');
        }
        parted |= !table.is_empty();
        text.push_str(&table);
    }
}

/// The factors by which tencrypt is better, by the medians.
fn ratios(text: &mut String, results: &Results, scene: Scene, contenders: &[Contender]) {
    let others: Vec<Contender> =
        contenders.iter().copied().filter(|contender| *contender != Contender::Tencrypt).collect();
    let median = |contender, metric| results.spread(scene, contender, metric).map(|spread| spread.median);
    let cell = |contender, metric: Metric| {
        let (own, other) = (median(Contender::Tencrypt, metric)?, median(contender, metric)?);
        let ratio = if metric.more_is_better() { own / other } else { other / own };
        ratio.is_finite().then(|| digits(ratio))
    };
    let table = table(&others, &COMPARED, |metric| metric.title().to_owned(), cell);
    if !table.is_empty() {
        text.push_str(
            "\nHow many times better tencrypt is than each (more throughput, less CPU or time):\n\n",
        );
        text.push_str(&table);
    }
}

/// A row for every contender and a column for every metric that has a number; empty if none has.
fn table(
    contenders: &[Contender],
    metrics: &[Metric],
    head: impl Fn(Metric) -> String,
    cell: impl Fn(Contender, Metric) -> Option<String>,
) -> String {
    let filled = |metric: &Metric| contenders.iter().any(|contender| cell(*contender, *metric).is_some());
    let columns: Vec<Metric> = metrics.iter().copied().filter(filled).collect();
    if columns.is_empty() {
        return String::new();
    }
    let mut text = String::from("|");
    for &metric in &columns {
        let _ = write!(text, " | {}", head(metric));
    }
    let _ = writeln!(text, " |\n|---|{}", "---:|".repeat(columns.len()));
    for &contender in contenders {
        let _ = write!(text, "| {}", contender.name());
        for &metric in &columns {
            let _ = write!(text, " | {}", cell(contender, metric).as_deref().unwrap_or("–"));
        }
        text.push_str(" |\n");
    }
    text
}

fn show(spread: Spread) -> String {
    let Spread { median, low, high } = spread;
    if low == high {
        digits(median)
    } else {
        format!("{} ({}–{})", digits(median), digits(low), digits(high))
    }
}

/// One line of Markdown that shows `text` as it is, also in a table.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' => escaped.extend(['\\', character]),
            _ if character.is_control() => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting {
            machine: "Linux 6.18, a|b <CPU>".into(),
            has_chart: false,
            busy: 0.014,
            versions: vec![(Contender::Tencrypt, "tencrypt 0.1.0".into())],
            command: "cargo run".into(),
            rounds: 3,
            seconds: 2,
        }
    }

    fn results() -> Results {
        let mut results = Results::default();
        for (contender, samples) in [
            (Contender::Plain, [30.0, 20.0, 28.0]),
            (Contender::Tencrypt, [8.0, 7.5, 9.0]),
            (Contender::WireguardGo, [2.0, 2.0, 2.0]),
        ] {
            for sample in samples {
                results.add(Scene::Cable, contender, Metric::Tcp1, sample);
            }
        }
        results.add(Scene::Cable, Contender::Tencrypt, Metric::MachineCpu, 1.0);
        results.add(Scene::Cable, Contender::WireguardGo, Metric::MachineCpu, 4.0);
        results
    }

    #[test]
    fn a_table_has_the_contenders_and_metrics_that_were_measured() {
        let text = measured(&results(), &[Scene::Cable], &setting());
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "| | TCP, 1 stream, Gbit/s | CPU of the machine, s/GB |",
            "|---|---:|---:|",
            "| plain | 28.0 (20.0–30.0) | – |",
            "| tencrypt | 8.00 (7.50–9.00) | 1.00 |",
            "| wireguard-go | 2.00 | 4.00 |",
        ] {
            assert!(lines.contains(&line), "{line}\n{text}");
        }
        assert!(!text.contains("boringtun") && !text.contains("UDP") && !text.contains("Failed"), "{text}");
        assert!(!text.contains("What each part"), "{text}");
    }

    #[test]
    fn a_ratio_above_one_is_in_favour_of_tencrypt_for_speed_and_for_cost() {
        let text = measured(&results(), &[Scene::Cable], &setting());
        assert!(text.contains("| wireguard-go | 4.00 | 4.00 |\n"), "{text}");
        assert!(text.contains("| plain | 0.286 | – |\n"), "{text}");
    }

    #[test]
    fn a_disturbed_run_says_so() {
        let mut results = results();
        results.count(false);
        assert!(!measured(&results, &[Scene::Cable], &setting()).contains("Other processes"));
        results.count(true);
        assert!(measured(&results, &[Scene::Cable], &setting()).contains("during 1 of 2 measurements"));
    }

    #[test]
    fn variants_have_tables_of_their_own_beside_the_default() {
        let mut results = results();
        results.add(Scene::Cable, Contender::OffloadNone, Metric::Tcp1, 1.5);
        results.fail(Scene::Cable, Contender::Chacha20, "unknown key `suite`".into());
        let text = measured(&results, &[Scene::Cable], &setting());
        let (main, variants) = text.split_once("What each part").unwrap();
        assert!(!main.contains("offload none"));
        assert!(
            variants.contains("| tencrypt | 8.00") && variants.contains("| tencrypt, offload none | 1.50")
        );
        assert!(text.contains("unknown key \\`suite\\`"), "{text}");
    }

    #[test]
    fn what_others_wrote_cannot_break_the_document() {
        assert_eq!(escape("a|b <!-- /measured -->\n*c*"), "a\\|b &lt;!-- /measured --> \\*c\\*");
        let text = measured(&results(), &[Scene::Cable], &setting());
        assert!(
            text.starts_with("Measured on Linux 6.18, a\\|b &lt;CPU>, 1 % busy before, by `cargo run`."),
            "{text}"
        );
    }

    #[test]
    fn what_is_written_by_hand_survives() {
        let document = "# Title\nby hand\n<!-- measured -->\nold\n<!-- /measured -->\nmore by hand\n";
        let new = replace(document, "new\n").unwrap();
        assert_eq!(new, "# Title\nby hand\n<!-- measured -->\nnew\n<!-- /measured -->\nmore by hand\n");
        assert_eq!(replace(&new, "new").as_deref(), Some(new.as_str()));
        assert_eq!(replace("no markers", "new"), None);
        assert_eq!(replace(&new_document("old"), "new"), Some(new_document("new")));
    }
}
