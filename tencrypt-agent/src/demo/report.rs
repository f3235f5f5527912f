//! The demonstration's report: text as it goes, or one JSON object at its end.

use std::{
    io::{self, Write as _},
    time::Instant,
};

use serde::Serialize;

use super::observation::Observation;
use crate::failure::Failure;

/// Width of the longest observation's name.
const NAME: usize = 13;

/// The report.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    start: Instant,
    steps: u32,
    observed: Vec<Observed>,
    measured: Option<Measured>,
}

/// An observation and what was seen.
#[derive(Debug, Serialize)]
struct Observed {
    observation: &'static str,
    detail: String,
}

/// Bulk transfer and round trips, plain and encrypted.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Measured {
    /// One TCP stream, Mbit of content a second, as received.
    pub(super) plain_mbit_s: f64,
    /// The same through the tunnel.
    pub(super) encrypted_mbit_s: f64,
    /// Mean round trip of a 100-byte echo, milliseconds.
    pub(super) plain_ping_ms: f64,
    /// The same through the tunnel.
    pub(super) encrypted_ping_ms: f64,
}

/// The whole, for programs.
#[derive(Debug, Serialize)]
struct Whole<'a> {
    ok: bool,
    failure: Option<&'a str>,
    observed: &'a [Observed],
    measured: Option<Measured>,
    seconds: f64,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, start: Instant::now(), steps: 0, observed: Vec::new(), measured: None }
    }

    /// A heading.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        self.write(&format!("\n{}. {title}\n", self.steps));
    }

    /// Lines that belong to the step.
    pub(super) fn show(&self, text: &str) {
        for line in text.lines() {
            self.write(format!("   {line}").trim_end());
            self.write("\n");
        }
    }

    /// Lines without a step.
    pub(super) fn plain(&self, text: &str) {
        self.write(text);
    }

    /// Something was observed.
    pub(super) fn observed(&mut self, observation: Observation, detail: impl Into<String>) {
        let detail = detail.into();
        self.write(&format!("   ok  {:<NAME$}  {detail}\n", observation.name()));
        self.observed.push(Observed { observation: observation.name(), detail });
    }

    /// The measurement's table.
    pub(super) fn measured(&mut self, measured: Measured) {
        let Measured { plain_mbit_s, encrypted_mbit_s, plain_ping_ms, encrypted_ping_ms } = measured;
        self.show(&format!(
            "{:<18}{:>16}{:>16}{:>8}\n{:<18}{plain_mbit_s:>9.0} Mbit/s{encrypted_mbit_s:>9.0} Mbit/s{:>8.2}\n\
             {:<18}{plain_ping_ms:>13.3} ms{encrypted_ping_ms:>13.3} ms{:>8.2}\n",
            "",
            "plain",
            "encrypted",
            "ratio",
            "TCP, one stream",
            encrypted_mbit_s / plain_mbit_s,
            "ping, mean",
            encrypted_ping_ms / plain_ping_ms,
        ));
        self.measured = Some(measured);
    }

    /// The last words; the program itself reports a failure on standard error.
    pub(super) fn finish(&self, failure: Option<&Failure>) {
        let seconds = self.start.elapsed().as_secs_f64();
        if self.json {
            let whole = Whole {
                ok: failure.is_none(),
                failure: failure.map(|failure| failure.reason.as_str()),
                observed: &self.observed,
                measured: self.measured,
                seconds,
            };
            // Numbers and strings: nothing there that JSON cannot say.
            print(&format!("{}\n", serde_json::to_string_pretty(&whole).unwrap_or_default()));
        } else if failure.is_none() {
            self.write(&format!("\nAll {} observations made, in {seconds:.1} s.\n", self.observed.len()));
        }
    }

    fn write(&self, text: &str) {
        if !self.json {
            print(text);
        }
    }
}

/// A reader that has gone away is no failure of what is demonstrated.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
