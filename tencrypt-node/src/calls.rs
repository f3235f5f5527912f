//! The socket of the CNI plugin.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tencrypt_agent::escape::Escaped;
use tencrypt_cni::call::{self, Attachment, Reply, Request};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

/// Requests that are served at a time; more wait. A node that starts has as many as it has pods, each of which waits for its answer.
const CONNECTIONS: usize = 256;

/// Time for a request to arrive, and for its answer to be taken.
const TRANSFER: Duration = Duration::from_secs(1);

/// Time for the agent to answer: a little less than the plugin waits.
const ANSWER: Duration = Duration::from_millis(9_500);

/// Pause after accepting failed (no descriptors left), so that it does not spin.
const RECOVERY: Duration = Duration::from_millis(100);

/// A request, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The request.
    pub(crate) request: Request,
    /// The pod's network namespace.
    pub(crate) namespace: Option<OwnedFd>,
    /// For the answer.
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// Something that came to the socket.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A request.
    Asked(Asked),
    /// Something that was no request.
    Malformed,
    /// The plugin did not wait until this pod was protected: by the list that it has read, it need not have been.
    Unawaited(Attachment),
}

/// Listens at `path`, in place of a socket that is left of an agent before. That no other agent runs is known.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until it is cancelled; requests under way end with it.
pub(crate) async fn serve(listener: UnixListener, incoming: mpsc::Sender<Incoming>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let incoming = incoming.clone();
                connections.spawn(async move {
                    converse(stream, &incoming).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the socket of the plugin");
                sleep(RECOVERY).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: UnixStream, incoming: &mpsc::Sender<Incoming>) {
    let prepared = stream.into_std().and_then(|stream| {
        stream.set_nonblocking(false)?;
        Ok(stream)
    });
    let Ok(stream) = prepared else { return };
    match call::is_permitted(&stream) {
        Ok(true) => {}
        _ => {
            tracing::warn!("another user asks at the socket of the plugin");
            let _ = incoming.send(Incoming::Malformed).await;
            return;
        }
    }
    let received = spawn_blocking(move || {
        let received = call::receive(&stream, TRANSFER);
        (stream, received)
    });
    let Ok((stream, received)) = received.await else { return };
    let mut attachment = None;
    let reply = match received {
        Ok(call) => {
            if let Request::Add { attachment: added, .. } = &call.request {
                attachment = Some(added.clone());
            }
            let (reply, answer) = oneshot::channel();
            let asked = Asked { request: call.request, namespace: call.namespace, reply };
            let _ = incoming.send(Incoming::Asked(asked)).await;
            match tokio::time::timeout(ANSWER, answer).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(_)) => Reply::refused("the agent ends"),
                Err(_) => Reply::refused("the agent is not done in time"),
            }
        }
        Err(error) => {
            tracing::warn!("a request of the plugin: {}", Escaped(&error.to_string()));
            let _ = incoming.send(Incoming::Malformed).await;
            Reply::refused(error)
        }
    };
    let is_protected = reply == Reply::Protected;
    let sent = spawn_blocking(move || call::respond(&stream, &reply, TRANSFER));
    if let Ok(Err(error)) = sent.await {
        tracing::warn!(%error, "an answer that the plugin does not take any more");
        if let Some(attachment) = attachment.filter(|_| is_protected) {
            let _ = incoming.send(Incoming::Unawaited(attachment)).await;
        }
    }
}
