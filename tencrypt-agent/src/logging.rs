//! Logging to standard error. Addresses and names appear at DEBUG and TRACE only, secrets never.

use tracing::level_filters::LevelFilter;

use crate::failure::{Exit, Failure};

/// The variable that sets the level where `-v` is not given.
pub(crate) const LEVEL_VARIABLE: &str = "TENCRYPT_LOG";

/// Starts logging for this process; without `-v` and [`LEVEL_VARIABLE`] warnings and errors only.
///
/// # Errors
/// A usage [`Failure`] if the variable holds no level.
pub(crate) fn start(verbose: u8) -> Result<(), Failure> {
    let level = level(verbose, std::env::var_os(LEVEL_VARIABLE).as_deref())?;
    // A second start in one process (tests) leaves the first in place.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init();
    Ok(())
}

fn level(verbose: u8, variable: Option<&std::ffi::OsStr>) -> Result<LevelFilter, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_goes_before_the_variable() {
        assert_eq!(level(1, Some("trace".as_ref())).unwrap(), LevelFilter::INFO);
        assert_eq!(level(0, Some("trace".as_ref())).unwrap(), LevelFilter::TRACE);
        assert_eq!(level(0, None).unwrap(), LevelFilter::WARN);
        assert_eq!(level(9, None).unwrap(), LevelFilter::TRACE);
        assert_eq!(level(0, Some("loud".as_ref())).unwrap_err().exit, Exit::Usage);
    }
}
