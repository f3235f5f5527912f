//! Requests.

use http_body_util::Full;
use hyper::{
    Method as HttpMethod, Request, Uri,
    body::Bytes,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
};
use zeroize::Zeroizing;

use super::{credentials, error::ClientError, place::Place};

/// The only format that is asked for.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The name of this client in the API server's audit log.
const NAME: HeaderValue = HeaderValue::from_static(concat!("tencrypt-node/", env!("CARGO_PKG_VERSION")));

/// The media type of a JSON merge patch (RFC 7396; Kubernetes API concepts, "Updates to existing resources").
const MERGE_PATCH: HeaderValue = HeaderValue::from_static("application/merge-patch+json");

/// A request that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Changes the object at a path: the body is a JSON merge patch.
    Merge,
    /// Adds an object, the body, to the collection at a path.
    Create,
    /// Deletes the object at a path: the body is a `DeleteOptions`.
    Delete,
}

/// A question, from which a request is made as often as it is sent.
#[derive(Debug)]
pub(super) struct Question<'a> {
    method: HttpMethod,
    path: &'a str,
    /// A body, and its media type.
    body: Option<(HeaderValue, &'a [u8])>,
}

impl<'a> Question<'a> {
    /// Asks for what is at `path`.
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: HttpMethod::GET, path, body: None }
    }

    /// Asks for a change at `path`.
    pub(super) fn change(verb: Verb, path: &'a str, body: &'a [u8]) -> Self {
        let (method, media) = match verb {
            Verb::Merge => (HttpMethod::PATCH, MERGE_PATCH),
            Verb::Create => (HttpMethod::POST, JSON),
            Verb::Delete => (HttpMethod::DELETE, JSON),
        };
        Self { method, path, body: Some((media, body)) }
    }

    /// Returns true if it changes nothing, so that it may be asked twice.
    pub(super) fn is_get(&self) -> bool {
        self.method == HttpMethod::GET
    }

    /// Makes a request of it, with the token as it is now.
    ///
    /// # Errors
    /// [`ClientError::Path`], [`ClientError::Server`], and [`ClientError::Credentials`] of the token.
    pub(super) fn request(&self, place: &Place) -> Result<Request<Full<Bytes>>, ClientError> {
        let no_path = || ClientError::Path { path: self.path.chars().take(400).collect() };
        // The fragment of a URI would be left out without a word.
        if !self.path.starts_with('/') || self.path.contains('#') {
            return Err(no_path());
        }
        let uri: Uri = self.path.parse().map_err(|_| no_path())?;
        let host = HeaderValue::from_str(&place.address()?.authority);
        let host =
            host.map_err(|_| ClientError::Server { server: place.server.clone(), reason: "no host" })?;
        let body = self
            .body
            .as_ref()
            .map_or_else(Bytes::new, |(_, body)| Bytes::from_owner(Zeroizing::new(body.to_vec())));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let fields = request.headers_mut();
        fields.insert(HOST, host);
        fields.insert(USER_AGENT, NAME);
        fields.insert(ACCEPT, JSON);
        if let Some((media, _)) = &self.body {
            fields.insert(CONTENT_TYPE, media.clone());
        }
        fields.insert(AUTHORIZATION, credentials::authorization(place)?);
        Ok(request)
    }
}
