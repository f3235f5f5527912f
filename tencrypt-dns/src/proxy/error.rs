//! Reasons for which a proxy cannot run.

use std::{io, net::SocketAddr};

use thiserror::Error;

/// Reason for which a proxy cannot run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// An upstream server is one of the listeners: every query would go round in a circle.
    #[error("upstream server {0} is this proxy itself")]
    Loop(SocketAddr),
    /// The proxy has ended.
    #[error("the proxy does not run")]
    Ended,
    /// A listener cannot be used.
    #[error("listener: {0}")]
    Listener(#[from] io::Error),
}
