//! The part of a node that the plugin deals with.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use crate::{
    call::{self, AskError, Reply, Request},
    list::{List, ListError},
    netns::{self, NetnsError},
};

/// A node, for real or for a test.
pub trait Host {
    /// Opens the network namespace at `path`.
    ///
    /// # Errors
    /// There is none.
    fn namespace(&self, path: &Path) -> Result<OwnedFd, NetnsError>;

    /// Reads the list at `path`.
    ///
    /// # Errors
    /// There is none, or it is broken.
    fn list(&self, path: &Path) -> Result<List, ListError>;

    /// Asks the agent that listens at `socket`, within `limit`.
    ///
    /// # Errors
    /// No answer came that is one.
    fn ask(
        &self,
        socket: &Path,
        request: &Request,
        namespace: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Reply, AskError>;
}

/// The node that this runs on.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::exhaustive_structs, reason = "it holds nothing: there is one node")]
pub struct Node;

impl Host for Node {
    fn namespace(&self, path: &Path) -> Result<OwnedFd, NetnsError> {
        netns::open(path)
    }

    fn list(&self, path: &Path) -> Result<List, ListError> {
        List::read(path)
    }

    fn ask(
        &self,
        socket: &Path,
        request: &Request,
        namespace: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Reply, AskError> {
        call::ask(socket, request, namespace, limit)
    }
}
