//! HTTP/1.1 for GET and HEAD: one request a connection, bounded in bytes and in time.

mod request;
mod response;

use std::{future::Future, io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use self::request::{Reading, read};
pub(crate) use self::response::{Content, Response, Status};

/// The time of a conversation, from its first byte to the last of the answer.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// The time that a client has to take an answer to bytes of which not all were read, and to close.
const LINGER: Duration = Duration::from_secs(1);

/// Most bytes that are read after the answer.
const LINGER_BYTES: usize = 64 << 10;

/// Receives the one request of a connection, has `answer` answer it if it is for one of `pages`, and sends that; all within
/// `limit`. A client that takes longer is left without an answer.
pub(crate) async fn converse<S, P, F>(
    mut stream: S,
    limit: Duration,
    pages: &[(&str, P)],
    answer: impl FnOnce(P) -> F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Copy,
    F: Future<Output = Response>,
{
    // A client that goes away or dawdles is its own loss.
    let _ = timeout(limit, exchange(&mut stream, pages, answer)).await;
}

/// Answers whatever the client asks, within `limit`.
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    limit: Duration,
    response: &Response,
) {
    let _ = timeout(limit, send(&mut stream, response, false)).await;
}

async fn exchange<S, P, F>(stream: &mut S, pages: &[(&str, P)], answer: impl FnOnce(P) -> F) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: Copy,
    F: Future<Output = Response>,
{
    let request = match read(stream).await? {
        Reading::Request(request) => request,
        Reading::Refused(status, reason) => {
            return send(stream, &Response::line(status, reason), false).await;
        }
        Reading::Nothing => return Ok(()),
    };
    let page = pages.iter().find(|(path, _)| *path == request.path).map(|&(_, page)| page);
    let is_head = request.method == "HEAD";
    let response = match page {
        None => Response::line(Status::NotFound, "there is no such page"),
        Some(_) if !is_head && request.method != "GET" => {
            Response::line(Status::MethodNotAllowed, "only GET and HEAD")
        }
        Some(_) if request.has_body => Response::line(Status::ContentTooLarge, "a request has no body here"),
        Some(page) => answer(page).await,
    };
    send(stream, &response, is_head).await
}

/// Sends an answer, its body unless the request `is_head`, and closes.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    response: &Response,
    is_head: bool,
) -> io::Result<()> {
    stream.write_all(response.head().as_bytes()).await?;
    if !is_head {
        stream.write_all(response.body.as_bytes()).await?;
    }
    stream.shutdown().await?;
    // A socket that is closed with bytes unread resets the connection, and the client may lose the answer (RFC 9112 section 9.6).
    let _ = timeout(LINGER, discard(stream)).await;
    Ok(())
}

/// Reads until the client closes, or has sent as much as is borne.
async fn discard(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut piece = [0; 4096];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match stream.read(&mut piece).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
