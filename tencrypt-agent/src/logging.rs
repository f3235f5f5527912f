//! Logging to standard error. Addresses and names appear at DEBUG and TRACE only, secrets never. The exceptions are the
//! address of a sender that is refused, and the pod's own where it is not protected, where a server waits that the tunnel does not
//! reach, or where names cannot be answered: without them nobody could look into it.

use std::{
    env,
    ffi::OsStr,
    fmt,
    io::{IsTerminal as _, stderr},
};

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, time::FormatTime as _},
    registry::LookupSpan,
};

use crate::failure::{Exit, Failure};

/// The variable that sets the level where `-v` is not given.
pub const LEVEL_VARIABLE: &str = "TENCRYPT_LOG";

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line for people.
    Text,
    /// An object of JSON a line: `timestamp` (RFC 3339, UTC), `level`, `message`, and what else there is.
    Json,
}

/// Starts logging for this process; without `-v` and [`LEVEL_VARIABLE`] warnings and errors only.
///
/// # Errors
/// A usage [`Failure`] if the variable holds no level.
pub fn start(verbose: u8, format: Format) -> Result<(), Failure> {
    let level = level(verbose, env::var_os(LEVEL_VARIABLE).as_deref())?;
    // Nobody may read any more: the program outlives the agent that started it, and standard error with it. By default each line
    // that cannot be written is told on standard error, which panics.
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(stderr).log_internal_errors(false);
    // A second start in one process (tests) leaves the first in place.
    let _ = match format {
        Format::Json => log.event_format(JsonLines).try_init(),
        Format::Text => {
            let colour = has_colour(stderr().is_terminal(), env::var_os("NO_COLOR").as_deref());
            log.with_ansi(colour).with_target(false).try_init()
        }
    };
    Ok(())
}

/// Returns true if the log is coloured: on a terminal, unless `NO_COLOR` is there and not empty (no-color.org).
fn has_colour(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

fn level(verbose: u8, variable: Option<&OsStr>) -> Result<LevelFilter, Failure> {
    match (verbose, variable) {
        (1, _) => Ok(LevelFilter::INFO),
        (2, _) => Ok(LevelFilter::DEBUG),
        (3.., _) => Ok(LevelFilter::TRACE),
        (0, None) => Ok(LevelFilter::WARN),
        (0, Some(name)) => match name.to_str() {
            Some("error") => Ok(LevelFilter::ERROR),
            Some("" | "warn") => Ok(LevelFilter::WARN),
            Some("info") => Ok(LevelFilter::INFO),
            Some("debug") => Ok(LevelFilter::DEBUG),
            Some("trace") => Ok(LevelFilter::TRACE),
            _ => Err(Failure::new(
                Exit::Usage,
                format_args!("{LEVEL_VARIABLE}: expected error, warn, info, debug or trace, found {name:?}"),
            )),
        },
    }
}

/// Writes an event as one line of JSON.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        // The log's time, as the other form has it: nothing is decided by it.
        tracing_subscriber::fmt::time().format_time(&mut Writer::new(&mut timestamp))?;
        writeln!(writer, "{}", Value::Object(object(timestamp, event)))
    }
}

fn object(timestamp: String, event: &Event<'_>) -> Map<String, Value> {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let mut object = fields.0;
    object.insert("timestamp".to_owned(), timestamp.into());
    object.insert("level".to_owned(), event.metadata().level().as_str().to_ascii_lowercase().into());
    object
}

/// The fields of an event, `message` among them.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[test]
    fn the_option_goes_before_the_variable() {
        assert_eq!(level(1, Some("trace".as_ref())).unwrap(), LevelFilter::INFO);
        assert_eq!(level(0, Some("trace".as_ref())).unwrap(), LevelFilter::TRACE);
        assert_eq!(level(0, None).unwrap(), LevelFilter::WARN);
        assert_eq!(level(9, None).unwrap(), LevelFilter::TRACE);
        assert_eq!(level(0, Some("loud".as_ref())).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn colour_is_for_a_terminal_whose_user_does_not_refuse_it() {
        assert!(has_colour(true, None) && has_colour(true, Some("".as_ref())));
        assert!(!has_colour(true, Some("1".as_ref())) && !has_colour(true, Some("0".as_ref())));
        assert!(!has_colour(false, None));
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_object_on_one_line_whatever_its_text_holds() {
        let written = Written::default();
        let writer = written.clone();
        let log =
            tracing_subscriber::fmt().event_format(JsonLines).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(send = 2_u8, %LEVEL_VARIABLE, "two\nlines \"quoted\" \u{1b}[31m");
            tracing::error!(fine = false, text = "a", "again");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!((&lines[0]["level"], &lines[0]["send"]), (&"warn".into(), &2.into()));
        assert_eq!(lines[0]["message"], "two\nlines \"quoted\" \u{1b}[31m");
        assert_eq!((&lines[1]["fine"], &lines[1]["text"]), (&false.into(), &"a".into()));
        let time = lines[1]["timestamp"].as_str().unwrap();
        assert!(time.len() >= 20 && time.ends_with('Z'), "{time}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
