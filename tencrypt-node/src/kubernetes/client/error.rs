//! The reasons why there is no answer.

use std::{error::Error, fmt, io, iter, path::PathBuf, time::Duration};

use hyper::StatusCode;
use serde::Deserialize;
use tencrypt_agent::escape::Escaped;

/// Most characters of the server's reason for a refusal, a CamelCase word (`metav1.StatusReason`).
const REASON: usize = 64;

/// Most characters of the server's own words, or of those about its certificate.
const WORDS: usize = 400;

/// Most errors that one error may be caused by.
const CAUSES: usize = 16;

/// The reason why there is no answer. Each is one line that names the server or the file, and has nothing of a token or of a body
/// but the reason and the message of a `Status`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The server's address cannot be used.
    #[error("{}: no address of an API server: {reason}", Escaped(server))]
    Server {
        /// The address.
        server: String,
        /// The fault.
        reason: &'static str,
    },
    /// The path that was asked for cannot be sent.
    #[error("{}: no path of an API", Escaped(path))]
    Path {
        /// The path.
        path: String,
    },
    /// The token or the authorities' certificates cannot be read.
    #[error("{}: {reason}", Escaped(path.display()))]
    Credentials {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: io::Error,
    },
    /// There is no connection to the server.
    #[error("{server}: cannot connect: {reason}")]
    Unreachable {
        /// The server.
        server: String,
        /// The system's answer.
        reason: io::Error,
    },
    /// The server is not the one that was meant, or speaks no TLS that is understood.
    #[error("{server}: {reason}")]
    Tls {
        /// The server.
        server: String,
        /// The fault, escaped and bounded: it may have names of the server's certificate.
        reason: String,
    },
    /// The connection ended before the answer did.
    #[error("{server}: the answer was cut off: {kind}")]
    Cut {
        /// The server.
        server: String,
        /// The kind of its end.
        kind: io::ErrorKind,
    },
    /// Something took too long.
    #[error("{server}: {step} took longer than {after:?}")]
    Timeout {
        /// The server.
        server: String,
        /// The step that was waited for.
        step: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The answer, or a line of it, is longer than it may be.
    #[error("{server}: {part} is longer than {limit} bytes")]
    TooLong {
        /// The server.
        server: String,
        /// The part that is too long.
        part: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The bytes that came are no HTTP.
    #[error("{server}: the answer is no HTTP")]
    Malformed {
        /// The server.
        server: String,
    },
    /// The server answered with another status than success.
    #[error("{}", Refusal { server, code: *code, reason, message })]
    Status {
        /// The server.
        server: String,
        /// The HTTP status.
        code: u16,
        /// The reason of a `Status` of the API, such as `Expired`; where there is none, the words for the HTTP status. Bounded.
        reason: String,
        /// The message of a `Status`, or nothing. Bounded, and not escaped: this error is when it is printed.
        message: String,
    },
}

impl ClientError {
    /// Returns true if what was asked for is too old: a watch has to begin with a list again (410, Kubernetes API concepts, "410
    /// Gone responses").
    pub(crate) fn is_gone(&self) -> bool {
        self.has_code(StatusCode::GONE)
    }

    /// Returns true if there is no such object or kind of objects (404).
    pub(crate) fn is_absent(&self) -> bool {
        self.has_code(StatusCode::NOT_FOUND)
    }

    /// Returns true if there is such an object already, or another version of it than was meant (409).
    pub(crate) fn is_conflict(&self) -> bool {
        self.has_code(StatusCode::CONFLICT)
    }

    /// Returns true if this is an answer of the HTTP status `wanted`.
    fn has_code(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Status { code, .. } if *code == wanted.as_u16())
    }

    /// Explains a failure of HTTP on a connection to `server`.
    pub(super) fn of_http(error: &hyper::Error, server: &str) -> Self {
        let server = server.to_owned();
        if error.is_parse() {
            return Self::Malformed { server };
        }
        let causes = iter::successors(error.source(), |&cause| cause.source()).take(CAUSES);
        let kind = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind).last();
        Self::Cut { server, kind: kind.unwrap_or(io::ErrorKind::UnexpectedEof) }
    }

    /// Explains why a TLS handshake with `server` has failed.
    pub(super) fn of_handshake(error: io::Error, server: &str) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(fault) => Self::of_tls(fault, server),
            None => Self::Unreachable { server: server.to_owned(), reason: error },
        }
    }

    /// Explains a fault of TLS.
    pub(super) fn of_tls(fault: &rustls::Error, server: &str) -> Self {
        let reason = Escaped(bounded(&fault.to_string(), WORDS)).to_string();
        Self::Tls { server: server.to_owned(), reason }
    }

    /// Reads an answer of another status than success: its reason and its message if `body` is a `Status` of the API (Kubernetes API
    /// conventions, "Response Status Kind").
    pub(super) fn of_status(code: StatusCode, body: &[u8], server: &str) -> Self {
        let said: Said = serde_json::from_slice(body).unwrap_or_default();
        let said = if said.kind == "Status" { said } else { Said::default() };
        let reason =
            if said.reason.is_empty() { code.canonical_reason().unwrap_or("") } else { &said.reason };
        Self::Status {
            server: server.to_owned(),
            code: code.as_u16(),
            reason: bounded(reason, REASON),
            message: bounded(&said.message, WORDS),
        }
    }
}

/// The fields of a `Status` that are shown.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    kind: String,
    reason: String,
    message: String,
}

/// Prints an answer of another status than success, on one line.
struct Refusal<'a> {
    server: &'a str,
    code: u16,
    reason: &'a str,
    message: &'a str,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: answered {}", self.server, self.code)?;
        if !self.reason.is_empty() {
            write!(f, " {}", Escaped(self.reason))?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", Escaped(self.message))?;
        }
        Ok(())
    }
}

/// Returns the first `most` characters of `text`.
fn bounded(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: u16, body: &str) -> ClientError {
        ClientError::of_status(StatusCode::from_u16(code).unwrap(), body.as_bytes(), "https://a:1")
    }

    #[test]
    fn a_status_of_the_api_gives_its_reason_and_its_message() {
        let body = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods is\nforbidden","reason":"Forbidden","code":403}"#;
        let error = refusal(403, body);
        assert!(!error.is_gone() && !error.is_absent());
        assert_eq!(error.to_string(), "https://a:1: answered 403 Forbidden: pods is\\nforbidden");
    }

    #[test]
    fn of_what_is_no_status_nothing_is_shown() {
        for body in ["", "secret", r#"{"kind":"Secret","message":"secret"}"#, r#"{"message":"secret"}"#] {
            assert_eq!(refusal(404, body).to_string(), "https://a:1: answered 404 Not Found", "{body}");
        }
        assert_eq!(refusal(599, "").to_string(), "https://a:1: answered 599");
        assert!(refusal(404, "").is_absent());
        assert!(refusal(410, "").is_gone());
    }

    #[test]
    fn long_words_are_cut() {
        let body = format!(r#"{{"kind":"Status","reason":"{0}","message":"{0}"}}"#, "ä".repeat(5_000));
        let said = refusal(500, &body).to_string();
        assert_eq!(said.chars().filter(|&char| char == 'ä').count(), REASON + WORDS);
    }
}
