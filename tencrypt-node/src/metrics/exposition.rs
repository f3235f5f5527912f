//! The text format of Prometheus, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).

use std::fmt::Write as _;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only goes up, and begins at 0 with the agent or with what it counts.
    Counter,
    /// A value of now.
    Gauge,
}

/// A text in the making: a metric after the other.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    last: Option<&'static str>,
}

impl Exposition {
    /// Adds a sample. All samples of a metric come one after the other: its HELP and TYPE stand before the first.
    pub(super) fn sample(&mut self, metric: &Metric, labels: &[(&str, &str)], value: u64) {
        let &Metric { name, kind, help } = metric;
        if self.last != Some(name) {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(help, false));
            self.last = Some(name);
        }
        self.text.push_str(name);
        for (place, (label, value)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(value, true));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// Returns the text.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// A metric, without its samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    /// Its name.
    pub(super) name: &'static str,
    /// Its kind.
    pub(super) kind: Kind,
    /// Its meaning, in a sentence.
    pub(super) help: &'static str,
}

impl Metric {
    /// Describes a counter.
    pub(super) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    /// Describes a gauge.
    pub(super) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }
}

/// Escapes backslashes and line feeds, and quotation marks if it is a label's value.
fn escaped(text: &str, is_value: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if is_value => escaped.push_str("\\\""),
            char => escaped.push(char),
        }
    }
    escaped
}
