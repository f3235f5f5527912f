//! Orders of a handle to its driver.

use std::net::IpAddr;

use tokio::sync::oneshot;

use super::{Listeners, ProxyError};
use crate::interceptor::Config;

/// An order of a handle.
#[derive(Debug)]
pub(super) enum Order {
    /// Use this configuration for the queries to come.
    Config(Config),
    /// Listen at these sockets too.
    Add { listeners: Listeners, done: oneshot::Sender<Result<(), ProxyError>> },
    /// Close the listeners at these addresses.
    Remove { addresses: Vec<IpAddr>, done: oneshot::Sender<()> },
}
