//! The failures of an operation, and the object that a runtime is told of them by: CNI SPEC section 5 "Error".

use std::io;

use serde::Serialize;

use crate::{
    text::{MESSAGE, one_line},
    version::Version,
};

/// A failure. Its text is one line about what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the network configuration is of CNI version `{found}`; this plugin speaks {}", Version::names())]
    Version { found: String },
    #[error("CNI {version}, of which the network configuration is, has no {command}")]
    NoCommand { version: Version, command: &'static str },
    #[error("`{key}` = {value} in the network configuration is not known")]
    Field { key: String, value: String },
    #[error("{text}")]
    Environment { text: String },
    #[error("standard input: {0}")]
    Input(io::Error),
    #[error("the network configuration is not readable: {reason}")]
    Decode { reason: String },
    #[error("network configuration: {reason}")]
    Config { reason: String },
    /// Not now, and the agent said why.
    #[error("the node agent cannot protect the pod now: {reason}")]
    Refused { reason: String },
    /// Not now, because nobody says that the pod may start as it is.
    #[error("{reason}")]
    Undecided { reason: String },
    /// STATUS: no.
    #[error("{reason}")]
    Unavailable { reason: String },
    /// CHECK: no.
    #[error("{reason}")]
    Unprotected { reason: String },
}

impl Failure {
    /// The code, from 100 on the plugin's own.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Version { .. } | Self::NoCommand { .. } => 1,
            Self::Field { .. } => 2,
            Self::Environment { .. } => 4,
            Self::Input(_) => 5,
            Self::Decode { .. } => 6,
            Self::Config { .. } => 7,
            Self::Refused { .. } | Self::Undecided { .. } => 11,
            Self::Unavailable { .. } => 50,
            Self::Unprotected { .. } => 100,
        }
    }

    /// The short message of the code.
    fn message(&self) -> &'static str {
        match self.code() {
            1 => "incompatible CNI version",
            2 => "unsupported field in network configuration",
            4 => "invalid environment variables",
            5 => "I/O failure",
            6 => "failed to decode content",
            7 => "invalid network configuration",
            11 => "try again later",
            50 => "the plugin is not available",
            _ => "the pod is not protected",
        }
    }

    /// The error object, in a line.
    pub(crate) fn document(&self, version: Version) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'f> {
            cni_version: &'f str,
            code: u32,
            msg: &'f str,
            details: &'f str,
        }
        let details = one_line(&self.to_string(), MESSAGE);
        let (code, msg) = (self.code(), self.message());
        let document = Document { cni_version: version.as_str(), code, msg, details: &details };
        // Text and numbers can always be written.
        serde_json::to_string(&document).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_object_is_that_of_the_specification() {
        let failure = Failure::Config { reason: "`socket`\nis \"no\" path".into() };
        assert_eq!(
            failure.document(Version::V1_0_0),
            "{\"cniVersion\":\"1.0.0\",\"code\":7,\"msg\":\"invalid network configuration\",\
             \"details\":\"network configuration: `socket`\\\\nis \\\"no\\\" path\"}\n"
        );
    }
}
