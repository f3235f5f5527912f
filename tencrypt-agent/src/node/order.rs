//! Messages of the agent, as the agent makes them.

use serde::Serialize;

use super::{
    frame::{HEADER_LEN, Kind, Payload},
    message::{End, Pod, Versions},
};
use crate::{os::secret_memory::SecretBytes, report::RenewalReason};

/// A message for a program: its frame, keys in a place where nobody else can see them.
pub struct Order {
    kind: Kind,
    header: [u8; HEADER_LEN],
    payload: Payload,
}

/// A payload that no program would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message `{}` of {len} bytes; at most {} are allowed", kind.as_str(), kind.limit())]
pub struct OrderError {
    /// The kind of message.
    pub kind: Kind,
    /// Length of its payload in bytes.
    pub len: usize,
}

impl Order {
    /// Makes a message of these bytes. Keys are given with [`keys`](Self::keys).
    ///
    /// # Errors
    /// They are more than the kind allows.
    pub fn new(kind: Kind, payload: &[u8]) -> Result<Self, OrderError> {
        Self::of(kind, Payload::Open(payload.to_owned()))
    }

    /// Makes a message of the first `len` bytes of a key file's text.
    ///
    /// # Errors
    /// They are more than are allowed.
    pub fn keys(text: &SecretBytes, len: usize) -> Result<Self, OrderError> {
        let text = text.get(..len).unwrap_or(text);
        let mut bytes = SecretBytes::new(text.len());
        bytes.copy_from_slice(text);
        Self::of(Kind::Keys, Payload::Secret(bytes))
    }

    /// Makes the first message.
    ///
    /// # Errors
    /// None.
    pub fn hello() -> Result<Self, OrderError> {
        Self::json(Kind::Hello, &Versions::OWN)
    }

    /// Makes the message that a descriptor of the pod's namespace goes with.
    ///
    /// # Errors
    /// The names are too long.
    pub fn pod(pod: &Pod) -> Result<Self, OrderError> {
        Self::json(Kind::Pod, pod)
    }

    /// Makes the message that ends what is given at the start.
    ///
    /// # Errors
    /// None.
    pub fn complete() -> Result<Self, OrderError> {
        Self::new(Kind::Complete, b"")
    }

    /// Makes the message that asks for the status.
    ///
    /// # Errors
    /// None.
    pub fn report() -> Result<Self, OrderError> {
        Self::new(Kind::Report, b"")
    }

    /// Makes the message that has the pod's keys made anew.
    ///
    /// # Errors
    /// None.
    pub fn renew(reason: RenewalReason) -> Result<Self, OrderError> {
        #[derive(Serialize)]
        struct Renew {
            reason: RenewalReason,
        }
        Self::json(Kind::Renew, &Renew { reason })
    }

    /// Makes the message that ends the program.
    ///
    /// # Errors
    /// None.
    pub fn end(open: bool) -> Result<Self, OrderError> {
        Self::json(Kind::End, &End { open })
    }

    /// Returns its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns its bytes: header and payload, to be sent one behind the other.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.header, &self.payload]
    }

    fn json(kind: Kind, value: &impl Serialize) -> Result<Self, OrderError> {
        // These are structs of texts and numbers, which are always JSON; an empty payload would be refused where it arrives.
        Self::new(kind, &serde_json::to_vec(value).unwrap_or_default())
    }

    fn of(kind: Kind, payload: Payload) -> Result<Self, OrderError> {
        let len = payload.len();
        match u32::try_from(len) {
            Ok(bytes) if len <= kind.limit() => {
                let [a, b, c, d] = bytes.to_be_bytes();
                Ok(Self { kind, header: [a, b, c, d, kind as u8], payload })
            }
            _ => Err(OrderError { kind, len }),
        }
    }
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.kind.as_str(), self.payload.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Header, Message};

    fn read(order: &Order) -> Message {
        let [header, payload] = order.parts();
        let header = Header::parse(header.try_into().unwrap()).unwrap();
        assert_eq!((header.kind, header.len), (order.kind(), payload.len()));
        Message::parse(header.kind, payload).unwrap()
    }

    #[test]
    fn the_program_reads_what_the_agent_has_made() {
        assert!(matches!(read(&Order::hello().unwrap()), Message::Hello(Versions::OWN)));
        let pod = Pod { name: "shop/web-0".to_owned(), tag: "a-b".to_owned() };
        assert!(matches!(read(&Order::pod(&pod).unwrap()), Message::Pod(read) if read == pod));
        assert!(matches!(read(&Order::complete().unwrap()), Message::Complete));
        assert!(matches!(read(&Order::report().unwrap()), Message::Report));
        let renew = Order::renew(RenewalReason::Clone).unwrap();
        assert!(matches!(read(&renew), Message::Renew(RenewalReason::Clone)));
        for open in [true, false] {
            assert!(matches!(read(&Order::end(open).unwrap()), Message::End(end) if end.open == open));
        }
    }

    #[test]
    fn keys_stay_hidden_and_are_not_printed() {
        let mut text = SecretBytes::new(100);
        text[..6].copy_from_slice(b"secret");
        let order = Order::keys(&text, 6).unwrap();
        assert_eq!(order.parts(), [&[0, 0, 0, 6, Kind::Keys as u8][..], b"secret"]);
        assert!(matches!(order.payload, Payload::Secret(_)));
        assert_eq!(format!("{order:?}"), "keys (6 bytes)");
    }

    #[test]
    fn what_no_program_would_take_is_not_made() {
        for kind in Kind::ALL {
            assert!(Order::new(kind, &vec![b' '; kind.limit()]).is_ok());
            let len = kind.limit() + 1;
            assert_eq!(Order::new(kind, &vec![b' '; len]).unwrap_err(), OrderError { kind, len });
        }
    }
}
