//! The head of a request.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::response::Status;

/// Most bytes of a head.
pub(super) const HEAD_LIMIT: usize = 8 << 10;

/// Most fields of a head. Prometheus sends 6, the kubelet 4.
const FIELDS: usize = 64;

/// Bytes that are read at once.
const PIECE: usize = 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Its method.
    pub(super) method: String,
    /// The path, without a query.
    pub(super) path: String,
    /// True if a body follows.
    pub(super) has_body: bool,
}

/// The outcome of reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// A request.
    Request(Request),
    /// Something that is none, and why.
    Refused(Status, &'static str),
    /// The client closed without a word.
    Nothing,
}

/// Reads until the head has ended, is seen to be none, or is too long.
///
/// # Errors
/// The connection's.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Reading> {
    let mut head = Vec::new();
    let mut piece = [0; PIECE];
    while head.len() < HEAD_LIMIT {
        let room = PIECE.min(HEAD_LIMIT - head.len());
        let read = stream.read(&mut piece[..room]).await?;
        let (new, is_first) = (&piece[..read], head.is_empty());
        head.extend_from_slice(new);
        if new.is_empty() {
            let cut = Reading::Refused(Status::BadRequest, "the request is cut off");
            return Ok(if is_first { Reading::Nothing } else { cut });
        }
        // A head is parsed from its beginning: not for each of its bytes, where they come one by one.
        if (is_first || new.contains(&b'\n'))
            && let Some(reading) = parse(&head)
        {
            return Ok(reading);
        }
    }
    Ok(if head.contains(&b'\n') {
        Reading::Refused(Status::FieldsTooLarge, "the head is longer than 8 KiB")
    } else {
        Reading::Refused(Status::UriTooLong, "the first line is longer than 8 KiB")
    })
}

/// Parses a head; `None`: it is not all there.
fn parse(head: &[u8]) -> Option<Reading> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => Some(checked(&request).unwrap_or_else(|refused| refused)),
        Err(httparse::Error::TooManyHeaders) => {
            Some(Reading::Refused(Status::FieldsTooLarge, "the head has more than 64 fields"))
        }
        Err(httparse::Error::Version) => {
            Some(Reading::Refused(Status::BadRequest, "only HTTP/1.0 and HTTP/1.1 are spoken"))
        }
        Err(_) => Some(Reading::Refused(Status::BadRequest, "the request is no HTTP")),
    }
}

/// Returns the request that a head is, or its refusal.
fn checked(head: &httparse::Request<'_, '_>) -> Result<Reading, Reading> {
    let refused = |reason| Reading::Refused(Status::BadRequest, reason);
    let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
        return Err(refused("the first line has a part too few"));
    };
    // RFC 9112 section 3.2: HTTP/1.1 needs a host, and no request has two.
    match (values(head, "host").count(), version) {
        (1, _) | (0, 0) => {}
        (0, _) => return Err(refused("the request has no host")),
        _ => return Err(refused("the request has more than one host")),
    }
    if values(head, "transfer-encoding").next().is_some() {
        return Err(refused("a request has no body here"));
    }
    let mut has_body = false;
    for length in values(head, "content-length") {
        // RFC 9110 section 8.6: digits alone. Any digit but 0 makes it longer than nothing, however many there are.
        if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
            return Err(refused("content-length is no number"));
        }
        has_body |= length.iter().any(|&digit| digit != b'0');
    }
    Ok(Reading::Request(Request { method: method.to_owned(), path: path(target).to_owned(), has_body }))
}

/// Returns the values of the fields called `name`.
fn values<'h>(head: &'h httparse::Request<'_, '_>, name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    head.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// Returns the path of a target in origin form or in absolute form (RFC 9112 section 3.2), without its query.
fn path(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            rest.find('/').map_or("/", |start| &rest[start..])
        }
        _ => target,
    };
    path.split('?').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_its_path_in_either_form() {
        for (target, expected) in [
            ("/metrics", "/metrics"),
            ("/metrics?name[]=a://b/c", "/metrics"),
            ("http://node:9100/metrics?a", "/metrics"),
            ("HTTP://node", "/"),
            ("*", "*"),
            ("/../metrics", "/../metrics"),
        ] {
            assert_eq!(path(target), expected, "{target}");
        }
    }

    #[test]
    fn a_head_is_complete_at_its_empty_line_and_not_before() {
        let head = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse(&head[..end]), None, "{end}");
        }
        let expected = Request { method: "GET".into(), path: "/a".into(), has_body: false };
        assert_eq!(parse(head), Some(Reading::Request(expected)));
    }
}
