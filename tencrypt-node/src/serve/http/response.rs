//! Answers, and their heads.

/// The status of an answer (RFC 9110 section 15, RFC 6585 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is here.
    Ok = 200,
    /// The request is no HTTP/1.
    BadRequest = 400,
    /// The client has no right to it.
    Forbidden = 403,
    /// There is no such page.
    NotFound = 404,
    /// The page is there for GET and HEAD alone.
    MethodNotAllowed = 405,
    /// The request has a body.
    ContentTooLarge = 413,
    /// The first line is longer than a head may be.
    UriTooLong = 414,
    /// The head is too long, or has too many fields.
    FieldsTooLarge = 431,
    /// It cannot be had now.
    Unavailable = 503,
}

impl Status {
    /// Returns the phrase of RFC 9110 for it.
    fn phrase(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::ContentTooLarge => "Content Too Large",
            Self::UriTooLong => "URI Too Long",
            Self::FieldsTooLarge => "Request Header Fields Too Large",
            Self::Unavailable => "Service Unavailable",
        }
    }
}

/// The type of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Text for people.
    Text,
    /// A document.
    Json,
    /// The text format of Prometheus.
    Metrics,
}

impl Content {
    /// Returns the media type.
    fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
            Self::Metrics => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    /// Its status.
    pub(crate) status: Status,
    /// The type of its body.
    pub(crate) content: Content,
    /// The body.
    pub(crate) body: String,
}

impl Response {
    /// Returns an answer of one line of text.
    pub(crate) fn line(status: Status, text: &str) -> Self {
        Self { status, content: Content::Text, body: format!("{text}\n") }
    }

    /// Returns the head, with the line that ends it.
    pub(super) fn head(&self) -> String {
        let Self { status, content, body } = self;
        let allow = if *status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{allow}Connection: close\r\n\r\n",
            *status as u16,
            status.phrase(),
            content.media_type(),
            body.len(),
        )
    }
}
