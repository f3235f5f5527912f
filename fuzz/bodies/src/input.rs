//! Choices out of fuzz input.

use std::net::IpAddr;

/// Bytes that are used up from the front. Past the end everything is zero, so that any input is a whole one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// An index into something of `len` elements; 0 if it has none.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::from(self.word()).checked_rem(len).unwrap_or(0)
    }

    pub(crate) fn address(&mut self, v4: bool) -> IpAddr {
        if v4 { IpAddr::from(self.array::<4>()) } else { IpAddr::from(self.array::<16>()) }
    }

    /// At most `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes behind their length, which has two bytes.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let len = self.word();
        self.take(len.into())
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }
}
