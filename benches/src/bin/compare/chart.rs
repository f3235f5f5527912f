//! docs/performance.svg: bars, one panel a metric.

use std::fmt::Write as _;

use crate::{
    contender::Contender,
    network::Scene,
    pattern::Metric,
    results::Results,
    samples::{Spread, digits},
};

const WIDTH: f64 = 760.0;
/// The start of the bars, and the length of the longest.
const LEFT: f64 = 130.0;
const LONGEST: f64 = 500.0;
const BAR: f64 = 16.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 44.0;
const FOOT: f64 = 38.0;
const MARGIN: f64 = 18.0;
/// Above the first title, whose head has room of its own.
const TOP: f64 = 8.0;

/// On its own background, so that it can be read wherever it is shown.
const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}\
.title{font-weight:600}.note{font-size:11px}.value{font-variant-numeric:tabular-nums}\
.back{fill:#fff;stroke:#d1d9e0}.bar{fill:#9aa4af}.own{fill:#1a7f64}.plain{fill:#d1d9e0}\
.range{stroke:#1f2328;stroke-width:1.5}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.back{fill:#0d1117;stroke:#3d444d}.bar{fill:#6e7781}\
.own{fill:#2da584}.plain{fill:#3d444d}.range{stroke:#e6edf3}}";

const PANELS: [(Metric, &str); 3] = [
    (Metric::Tcp1, "TCP, one stream: Gbit/s"),
    (Metric::Udp1200, "UDP, 1200 bytes at full rate: thousand datagrams received a second"),
    (Metric::MachineCpu, "CPU-seconds of the machine per GB over TCP, both ends together (less is better)"),
];

/// The chart of what was measured between two namespaces; `None` if nothing of it was.
pub(crate) fn chart(results: &Results) -> Option<String> {
    let scene = Scene::Cable;
    let panels: Vec<(&str, Vec<(Contender, Spread)>)> = PANELS
        .into_iter()
        .map(|(metric, title)| {
            let contenders = scene.contenders().iter().filter(|contender| !contender.is_variant());
            let bars = contenders.filter_map(|&contender| {
                results.spread(scene, contender, metric).map(|spread| (contender, spread))
            });
            (title, bars.collect::<Vec<_>>())
        })
        .filter(|(_, bars)| !bars.is_empty())
        .collect();
    (!panels.is_empty()).then(|| draw(&panels))
}

fn draw(panels: &[(&str, Vec<(Contender, Spread)>)]) -> String {
    let height = TOP + FOOT + panels.iter().map(|(_, bars)| HEAD + ROW * bars.len() as f64).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"back\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n",
        escape(
            "tencrypt beside a plain veth pair and other userspace tunnels; the numbers are in performance.md"
        ),
        WIDTH - 1.0,
        height - 1.0,
    );
    let mut top = TOP;
    for (title, bars) in panels {
        let _ = writeln!(
            svg,
            "<text class=\"title\" x=\"{MARGIN}\" y=\"{}\">{}</text>",
            top + 28.0,
            escape(title)
        );
        top += HEAD;
        let largest = bars.iter().map(|(_, spread)| spread.high).fold(f64::MIN_POSITIVE, f64::max);
        for (contender, spread) in bars {
            bar(&mut svg, top, *contender, *spread, LONGEST / largest);
            top += ROW;
        }
    }
    let _ = writeln!(
        svg,
        "<text class=\"note\" x=\"{MARGIN}\" y=\"{}\">Bars: medians. Lines: from the smallest to the largest of all \
         rounds.</text>\n</svg>",
        top + 20.0
    );
    svg
}

fn bar(svg: &mut String, top: f64, contender: Contender, spread: Spread, scale: f64) {
    let class = match contender {
        Contender::Plain => "plain",
        contender if contender.is_tencrypt() => "own",
        _ => "bar",
    };
    let [length, low, high] = [spread.median, spread.low, spread.high].map(|value| value * scale);
    let baseline = top + 12.5;
    let name = escape(contender.name());
    let _ = writeln!(svg, "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{name}</text>", LEFT - 8.0);
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>"
    );
    if spread.low < spread.high {
        let middle = top + BAR / 2.0;
        let _ = writeln!(svg, "<path class=\"range\" d=\"M{:.1} {middle}H{:.1}\"/>", LEFT + low, LEFT + high);
    }
    let _ = writeln!(
        svg,
        "<text class=\"value\" x=\"{:.1}\" y=\"{baseline}\">{}</text>",
        LEFT + high.max(length) + 8.0,
        digits(spread.median)
    );
}

/// Text for an XML document, outside and inside of attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut results = Results::default();
        for (contender, samples) in [
            (Contender::Plain, [20.0, 40.0]),
            (Contender::Tencrypt, [10.0, 10.0]),
            (Contender::OffloadUdp, [5.0, 5.0]),
        ] {
            for sample in samples {
                results.add(Scene::Cable, contender, Metric::Tcp1, sample);
            }
        }
        results
    }

    #[test]
    fn bars_are_as_long_as_their_numbers_and_fit() {
        let svg = chart(&results()).unwrap();
        // The largest sample, not the largest median, fills the width.
        assert!(svg.contains("class=\"plain\" x=\"130\" y=\"52\" width=\"375.0\""), "{svg}");
        assert!(svg.contains("class=\"own\" x=\"130\" y=\"76\" width=\"125.0\""), "{svg}");
        assert!(svg.contains("d=\"M380.0 60H630.0\""), "{svg}");
        assert_eq!(svg.matches("class=\"range\"").count(), 1, "a bar without spread has no line");
        assert!(!svg.contains("offload"), "variants are not in the chart");
        assert_eq!(svg.matches("class=\"title\"").count(), 1, "a panel without numbers is left out");
    }

    #[test]
    fn every_element_is_closed() {
        let svg = chart(&results()).unwrap();
        for name in ["svg", "style", "title", "text"] {
            let opened =
                svg.matches(&format!("<{name} ")).count() + svg.matches(&format!("<{name}>")).count();
            assert_eq!(opened, svg.matches(&format!("</{name}>")).count(), "{name}");
        }
        for line in svg.lines().filter(|line| line.starts_with("<rect") || line.starts_with("<path")) {
            assert!(line.ends_with("/>"), "{line}");
        }
    }

    #[test]
    fn text_is_escaped_and_nothing_gives_no_chart() {
        assert_eq!(escape("a<b & \"c\">"), "a&lt;b &amp; &quot;c&quot;&gt;");
        assert_eq!(chart(&Results::default()), None);
    }
}
