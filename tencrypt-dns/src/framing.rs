//! DNS messages in a TCP stream: two bytes of length, big endian, before each (RFC 1035 section 4.2.2).

use thiserror::Error;

/// Bytes of the length field.
const LENGTH: usize = 2;

/// Collects what a stream delivers, split wherever it was, and gives out whole messages.
#[derive(Debug)]
pub struct Framing {
    max: usize,
    buffer: Vec<u8>,
    /// Start of the next frame in `buffer`.
    start: usize,
}

/// Reason for which a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FramingError {
    /// A message of no bytes.
    #[error("empty message")]
    Empty,
    /// A message longer than allowed.
    #[error("message too long")]
    TooLong,
}

impl Framing {
    /// For messages of at most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, buffer: Vec::new(), start: 0 }
    }

    /// Takes in bytes of the stream. Call [`next_message`](Self::next_message) until it has none before the next one:
    /// then no more than one message and `bytes` are kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message that is complete.
    ///
    /// # Errors
    /// The next length is 0 or too large. It stays so: the stream is to be closed.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, FramingError> {
        let rest = &self.buffer[self.start..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            return Err(FramingError::Empty);
        }
        if length > self.max {
            return Err(FramingError::TooLong);
        }
        let message = rest.get(..length).map(<[u8]>::to_vec);
        if message.is_some() {
            self.start += LENGTH + length;
        }
        Ok(message)
    }

    /// Tells if nothing of a message that is still to come was received.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.buffer.len() == self.start
    }
}

/// `message` with its length before it; `None` if it is empty or longer than the length field can say.
#[must_use]
pub fn frame(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok().filter(|length| *length > 0)?;
    Some([&length.to_be_bytes()[..], message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(framing: &mut Framing) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| framing.next_message().unwrap()).collect()
    }

    #[test]
    fn d12_messages_come_out_whole_wherever_the_stream_is_split() {
        let messages = [vec![1_u8; 1], vec![2; 300], vec![3; 17]];
        let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message).unwrap()).collect();
        for split in 0..=stream.len() {
            let mut framing = Framing::new(300);
            let mut found = Vec::new();
            for part in [&stream[..split], &stream[split..]] {
                framing.push(part);
                found.extend(drain(&mut framing));
            }
            assert_eq!(found, messages, "split at {split}");
            assert!(framing.is_empty());
        }
        let mut framing = Framing::new(300);
        let mut found = Vec::new();
        for byte in &stream {
            framing.push(&[*byte]);
            found.extend(drain(&mut framing));
            assert!(framing.buffer.len() <= 302);
        }
        assert_eq!(found, messages);
    }

    #[test]
    fn d12_empty_and_oversized_messages_end_the_stream() {
        let mut framing = Framing::new(300);
        framing.push(&[0, 0, 0, 1, 7]);
        assert_eq!(framing.next_message(), Err(FramingError::Empty));
        assert_eq!(framing.next_message(), Err(FramingError::Empty));
        let mut framing = Framing::new(300);
        framing.push(&301_u16.to_be_bytes());
        assert_eq!(framing.next_message(), Err(FramingError::TooLong));
        assert_eq!(frame(&[]), None);
        assert_eq!(frame(&vec![0; 65_536]), None);
    }
}
