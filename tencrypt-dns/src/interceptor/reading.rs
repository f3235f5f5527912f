//! The content of a reply, as a pod of a project reads it.

use std::time::Instant;

use tencrypt::directory::Fact;

use super::config::Config;
use crate::{
    ForeignAddress,
    facts::{self, ClassifyError},
    message::Reply,
    own_names,
};

/// The content of a reply.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) facts: Result<Vec<Fact>, ClassifyError>,
    /// The address for which it is to be withheld.
    pub(super) foreign: Option<ForeignAddress>,
}

impl Reading {
    /// Reads a checked reply once for both.
    pub(super) fn of(reply: &Reply<'_>, config: &Config, now: Instant) -> Self {
        let Config { project, ranges, .. } = config;
        let sections = reply.sections();
        let read = sections.as_ref().map_err(|error| *error);
        let foreign = own_names::foreign_address(reply, read, project, ranges);
        let facts = read
            .map_err(ClassifyError::from)
            .and_then(|sections| facts::facts_of(reply, &sections.answers, project, Some(ranges), now));
        Self { facts, foreign }
    }
}
