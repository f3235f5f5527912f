//! Bytes of a channel as the program takes them: the entrance of the fuzz target `channel`.

use ipnet::IpNet;

use super::{
    facts::Facts,
    frame::{HEADER_LEN, Header, Payload},
    message::Message,
};

/// Reads messages out of `bytes` until one ends the channel, and returns what is printed of each. Facts are judged by these
/// `protected` ranges.
#[must_use]
pub fn read(mut bytes: &[u8], protected: &[IpNet]) -> Vec<String> {
    let mut printed = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = match Header::parse(*header) {
            Ok(header) => header,
            Err(error) => {
                printed.push(error.to_string());
                break;
            }
        };
        let Some((payload, rest)) = rest.split_at_checked(header.len) else { break };
        let mut place = Payload::of(header);
        place.copy_from_slice(payload);
        let message = Message::parse(header.kind, &place);
        let text = match &message {
            Ok(Message::Facts(text)) => format!("{:?}", Facts::parse(text, protected)),
            Ok(message) => format!("{message:?}"),
            Err(error) => error.to_string(),
        };
        printed.push(text);
        if message.is_err() {
            break;
        }
        bytes = rest;
    }
    printed
}
