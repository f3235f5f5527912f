//! The lines of a stream that comes in pieces of any length.

use zeroize::Zeroizing;

use super::bytes::append;

/// Most bytes of a line without its line feed. etcd takes objects of 1.5 MiB (`--max-request-bytes`), as protobuf; in JSON a byte may
/// become six (`\u003c`).
pub(super) const LINE_LIMIT: usize = 16 << 20;

/// A line of more than [`LINE_LIMIT`] bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

/// The bytes that have come of a stream and were not taken yet: at most a piece more than a line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Zeroizing<Vec<u8>>,
    /// The beginning of the next line.
    start: usize,
    /// The place at which the search for its end goes on.
    searched: usize,
}

impl Lines {
    /// Appends a piece. [`Self::next`] returned `None` before.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let taken = self.start.min(self.bytes.len());
        self.bytes.drain(..taken);
        self.searched = self.searched.saturating_sub(self.start);
        self.start = 0;
        append(&mut self.bytes, piece);
    }

    /// Takes the next line, without its line feed; `None`: the rest of it has not come yet.
    ///
    /// # Errors
    /// The line is too long, or will be.
    pub(super) fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, LineTooLong> {
        let rest = self.bytes.get(self.searched..).unwrap_or_default();
        let feed = rest.iter().position(|&byte| byte == b'\n').map(|at| self.searched + at);
        let end = feed.unwrap_or(self.bytes.len());
        let line = self.bytes.get(self.start..end).unwrap_or_default();
        if line.len() > LINE_LIMIT {
            return Err(LineTooLong);
        }
        let Some(feed) = feed else {
            self.searched = end;
            return Ok(None);
        };
        let line = Zeroizing::new(line.to_vec());
        self.start = feed + 1;
        self.searched = self.start;
        Ok(Some(line))
    }

    /// Returns true if the last line has its line feed, or nothing has come.
    pub(super) fn is_at_end_of_line(&self) -> bool {
        self.start == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_in_pieces_of_any_length() {
        let text = b"{\"a\":1}\n\n{\"bc\":\"\xc3\xa4\"}\nx\nrest";
        for len in 1..=text.len() {
            let mut lines = Lines::default();
            let mut taken = Vec::new();
            for piece in text.chunks(len) {
                lines.push(piece);
                while let Some(line) = lines.next().unwrap() {
                    taken.push(line.to_vec());
                }
            }
            let whole: Vec<&[u8]> = vec![b"{\"a\":1}", b"", b"{\"bc\":\"\xc3\xa4\"}", b"x"];
            assert_eq!(taken, whole, "pieces of {len}");
            assert!(!lines.is_at_end_of_line());
            lines.push(b"\n");
            assert_eq!(lines.next().unwrap().unwrap().as_slice(), b"rest");
            assert!(lines.is_at_end_of_line());
        }
    }

    #[test]
    fn a_line_may_have_its_limit_and_not_a_byte_more() {
        let mut lines = Lines::default();
        lines.push(&vec![b'a'; LINE_LIMIT]);
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"\n");
        assert_eq!(lines.next().unwrap().unwrap().len(), LINE_LIMIT);
        lines.push(&vec![b'a'; LINE_LIMIT]);
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"a");
        assert_eq!(lines.next(), Err(LineTooLong), "before its end has come");
        let mut lines = Lines::default();
        lines.push(&[vec![b'a'; LINE_LIMIT + 1], vec![b'\n']].concat());
        assert_eq!(lines.next(), Err(LineTooLong));
    }
}
