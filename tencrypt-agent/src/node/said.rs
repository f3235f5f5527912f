//! The messages of the program: JSON, in frames of one kind.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::frame::HEADER_LEN;
use crate::report::{RenewalReason, StatusReport};

/// The kind of the program's frames.
const KIND: u8 = 128;

/// A message of the program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The answer to the agent's `hello`.
    Hello(Hello),
    /// Traffic is protected.
    Ready {
        /// The static public key, in hex; a certificate is issued for it.
        public_key: String,
    },
    /// The program ends without having begun.
    Failed {
        /// Its exit code.
        exit: u8,
        /// The reason, in a line.
        reason: String,
    },
    /// The status, without its peers.
    Status {
        /// As `tencrypt status --json` has it.
        report: Box<StatusReport>,
        /// The number of peers.
        peers: usize,
        /// Messages so far that were not said, since no agent read them in time.
        lost: u64,
    },
    /// Something has happened.
    Event(PodEvent),
    /// A message of the agent's was not taken; what was so before stays.
    Refused {
        /// The kind of message.
        message: String,
        /// The reason, in a line.
        reason: String,
    },
    /// The program ends.
    Ending {
        /// True if its work is undone and the namespace open.
        open: bool,
    },
}

/// A program's introduction of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol that both ends speak from here on.
    pub protocol: u16,
    /// The version of the program.
    pub program: String,
    /// The process.
    pub pid: u32,
    /// The pod's name and tag as an agent has given them, and its namespace. Null before that.
    pub pod: Option<PodReport>,
}

/// The pod of a program that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodReport {
    /// Its name.
    pub name: String,
    /// The agent's own words.
    pub tag: String,
    /// The id of its namespace, as `tencrypt list` prints it.
    pub namespace: String,
    /// The static public key, in hex.
    pub public_key: String,
}

/// Something that has happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodEvent {
    /// A session with a peer.
    PeerUp {
        /// Start of its public key, in hex.
        peer: String,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// The last session with a peer has ended.
    PeerDown {
        /// Start of its public key, in hex.
        peer: String,
    },
    /// A destination does not answer.
    Unanswered {
        /// The destination.
        to: IpAddr,
    },
    /// The keys that were given are in force.
    Keys {
        /// The epoch that new sessions start under.
        send: u8,
        /// The epochs that are accepted.
        accept: Vec<u8>,
    },
    /// The certificate that was given is in force.
    Certificate {
        /// Its generation.
        generation: u32,
    },
    /// The revocation that was given is in force.
    Revocation {
        /// The least generation that counts.
        minimum_generation: u32,
        /// Keys and pods that are denied.
        denied: usize,
    },
    /// The pod's own keys were made anew; the certificate is another key's now.
    Renewed {
        /// The reason.
        reason: RenewalReason,
        /// The number of renewals since the start.
        count: u64,
        /// The new static public key, in hex.
        public_key: String,
    },
    /// The pod has other addresses.
    Addresses {
        /// All of them.
        addresses: Vec<IpAddr>,
    },
}

impl Said {
    /// Returns the message as a frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0; HEADER_LEN];
        if let Err(error) = serde_json::to_writer(&mut frame, self) {
            // No map in it has keys but strings, and memory is no writer that fails.
            tracing::error!(%error, "a message for the agent");
        }
        let len = u32::try_from(frame.len() - HEADER_LEN).unwrap_or(u32::MAX);
        let [a, b, c, d] = len.to_be_bytes();
        frame[..HEADER_LEN].copy_from_slice(&[a, b, c, d, KIND]);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_behind_its_length() {
        let said = Said::Event(PodEvent::Keys { send: 2, accept: vec![1, 2] });
        let text = br#"{"event":{"keys":{"send":2,"accept":[1,2]}}}"#;
        let mut expected = vec![0, 0, 0, text.len() as u8, 128];
        expected.extend_from_slice(text);
        assert_eq!(said.frame(), expected);
        let hello =
            Said::Hello(Hello { protocol: 1, program: "0.1.0".to_owned(), pid: 7, pod: None }).frame();
        assert_eq!(&hello[5..], br#"{"hello":{"protocol":1,"program":"0.1.0","pid":7,"pod":null}}"#);
    }
}
