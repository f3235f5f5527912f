//! A request of the plugin's to protect a pod, which may wait for the API.

use tencrypt_cni::call::{Attachment, Pod, Reply};
use tencrypt_tun::NetNs;
use tokio::{sync::oneshot, time::Instant};

/// A request to protect a pod.
pub(super) struct Adding {
    /// Its interface.
    pub(super) attachment: Attachment,
    /// The pod.
    pub(super) pod: Pod,
    /// Its network namespace.
    pub(super) namespace: Option<NetNs>,
    /// The way of the answer.
    pub(super) reply: oneshot::Sender<Reply>,
    /// The end of the wait for the API.
    pub(super) until: Instant,
}
