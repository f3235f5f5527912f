//! Receiving.

use std::{io, os::fd::BorrowedFd};

use tencrypt::RecvMeta;

use crate::{
    bind::Family,
    path,
    sys::{self, Received},
    transport::UdpTransport,
};

/// Datagrams and pending errors passed over in one call of [`UdpTransport::recv`], so that a flood of them cannot keep
/// the lane inside.
const PASSED_OVER: usize = 64;

/// Memory that datagrams are received into.
pub(crate) trait Room {
    /// Receives one datagram, or several that the kernel joined.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received>;

    /// Takes the `len` bytes of the last one out again.
    fn take_back(&mut self, len: usize);
}

/// The start of the slice.
impl Room for [u8] {
    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        sys::receive(socket, self)
    }

    fn take_back(&mut self, _len: usize) {}
}

/// The room behind what is in it already.
#[cfg(feature = "tokio")]
impl Room for bytes::BytesMut {
    fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        sys::receive_behind(socket, self)
    }

    fn take_back(&mut self, len: usize) {
        self.truncate(self.len() - len);
    }
}

/// Result of one receive.
pub(crate) enum Receipt {
    /// A datagram or a train, and its length in bytes.
    Datagram(RecvMeta, usize),
    /// Nothing is there.
    Empty,
    /// Nothing of use among the first [`PASSED_OVER`]; there may be more.
    PassedOver,
}

/// Result of one system call.
enum Step {
    Datagram(RecvMeta, usize),
    /// One that is of no use.
    Dropped,
    /// No datagram, but something else that was in the way.
    Again,
    Empty,
}

impl UdpTransport {
    /// Receives one datagram, or several that the kernel joined, into `buf`: 65,535 bytes take any, and what is longer
    /// than `buf` is dropped. The families take turns; `None`: nothing there now.
    ///
    /// # Errors
    /// Only what the kernel says of the socket itself or of its memory; nothing that a remote party causes.
    pub fn recv(&mut self, buf: &mut [u8]) -> io::Result<Option<(RecvMeta, usize)>> {
        self.receive(buf).map(Receipt::datagram)
    }

    /// As [`recv`](Self::recv), from the socket of `family` alone: for the caller who knows which one is readable, and
    /// saves the system call that finds nothing at the other.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_from_family(
        &mut self,
        family: Family,
        buf: &mut [u8],
    ) -> io::Result<Option<(RecvMeta, usize)>> {
        for _ in 0..PASSED_OVER {
            match self.step(family, buf)? {
                Step::Datagram(meta, len) => return Ok(Some((meta, len))),
                Step::Empty => break,
                Step::Dropped | Step::Again => {}
            }
        }
        Ok(None)
    }

    /// As [`recv`](Self::recv), telling "nothing there" from "enough for one call".
    pub(crate) fn receive(&mut self, room: &mut (impl Room + ?Sized)) -> io::Result<Receipt> {
        let mut empty = 0;
        for _ in 0..PASSED_OVER {
            match self.step(self.next, room)? {
                Step::Datagram(meta, len) => {
                    self.next = self.next.other();
                    return Ok(Receipt::Datagram(meta, len));
                }
                Step::Dropped => {
                    self.next = self.next.other();
                    empty = 0;
                }
                Step::Again => {}
                Step::Empty => {
                    self.next = self.next.other();
                    empty += 1;
                    if empty == 2 {
                        return Ok(Receipt::Empty);
                    }
                }
            }
        }
        Ok(Receipt::PassedOver)
    }

    /// One system call on the socket of `family`.
    fn step(&mut self, family: Family, room: &mut (impl Room + ?Sized)) -> io::Result<Step> {
        let Some(socket) = self.sockets.of(family) else { return Ok(Step::Empty) };
        let stats = &mut self.reports.stats;
        let received = match room.receive(socket) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stats.receive_empty += 1;
                return Ok(Step::Empty);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Step::Again),
            Err(error) if path::is_about_path(&error) => {
                self.reports.drain(socket, None);
                return Ok(Step::Again);
            }
            Err(error) => return Err(error),
        };
        stats.receive_calls += 1;
        if received.truncated {
            stats.truncated += 1;
            room.take_back(received.len);
            return Ok(Step::Dropped);
        }
        let (Some(from), Ok(len)) = (received.from, u16::try_from(received.len)) else {
            room.take_back(received.len);
            return Ok(Step::Dropped);
        };
        let stride = stride_of(received.stride, len);
        let records = if stride < len { len.div_ceil(stride) } else { 1 };
        stats.received_records += u64::from(records);
        stats.received_trains += u64::from(records > 1);
        Ok(Step::Datagram(RecvMeta::new(from, stride).with_ecn(received.ecn), received.len))
    }
}

impl Receipt {
    fn datagram(self) -> Option<(RecvMeta, usize)> {
        match self {
            Self::Datagram(meta, len) => Some((meta, len)),
            Self::Empty | Self::PassedOver => None,
        }
    }
}

/// The stride of `len` bytes of which the kernel says `said`. What makes no sense counts as one record: the core then
/// finds that it is none.
fn stride_of(said: Option<i32>, len: u16) -> u16 {
    said.and_then(|said| u16::try_from(said).ok()).filter(|stride| (1..=len).contains(stride)).unwrap_or(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stride_is_believed_only_within_the_datagram() {
        assert_eq!(stride_of(Some(1_472), 3_000), 1_472);
        assert_eq!(stride_of(Some(3_000), 3_000), 3_000);
        for nonsense in [None, Some(0), Some(-1), Some(3_001), Some(65_536 + 1_472)] {
            assert_eq!(stride_of(nonsense, 3_000), 3_000, "{nonsense:?}");
        }
        assert_eq!(stride_of(Some(1), 0), 0);
    }
}
