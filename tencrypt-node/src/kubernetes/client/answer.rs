//! Answers: their status and their body.

use http_body_util::BodyExt as _;
use hyper::{
    Response,
    body::{Body as _, Incoming},
};
use zeroize::Zeroizing;

use super::{bytes::append, error::ClientError};

/// Most bytes of an answer that tells of an error; of a longer one only the HTTP status is told.
const STATUS_LIMIT: usize = 64 << 10;

/// Reads the whole body of an answer, of at most `limit` bytes.
///
/// # Errors
/// [`ClientError::Status`]: it is no success. [`ClientError::TooLong`], [`ClientError::Cut`], [`ClientError::Malformed`].
pub(super) async fn whole(
    response: Response<Incoming>,
    limit: usize,
    server: &str,
) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    collected(stream(response, server).await?, limit, server).await
}

/// Returns the body of an answer that is a success (RFC 9110 section 15.3). A redirection is none: it is not followed, for the token
/// is for nobody else.
///
/// # Errors
/// [`ClientError::Status`]: it is no success.
pub(super) async fn stream(response: Response<Incoming>, server: &str) -> Result<Incoming, ClientError> {
    let code = response.status();
    if code.is_success() {
        return Ok(response.into_body());
    }
    let body = collected(response.into_body(), STATUS_LIMIT, server).await.unwrap_or_default();
    Err(ClientError::of_status(code, &body, server))
}

/// Reads a body of at most `limit` bytes.
async fn collected(
    mut body: Incoming,
    limit: usize,
    server: &str,
) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    let too_long = || ClientError::TooLong { server: server.to_owned(), part: "the answer", limit };
    let said = usize::try_from(body.size_hint().lower()).map_err(|_| too_long())?;
    if said > limit {
        return Err(too_long());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(said));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::of_http(&error, server))?;
        let piece = frame.data_ref().map_or(&[][..], |data| data);
        if piece.len() > limit.saturating_sub(bytes.len()) {
            return Err(too_long());
        }
        append(&mut bytes, piece);
    }
    Ok(bytes)
}
