//! Sending: as few system calls as the kernel allows, and record by record where it does not take a train.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
};

use crate::{
    bind::{Family, Sockets},
    path::{self, PathError, PathErrorKind},
    report::Reports,
    slab::{Message, Slab},
    sys::{self, Outgoing},
};

/// Attempts to send one message while reports on earlier datagrams are in the way.
const ATTEMPTS: usize = 3;

/// Destinations remembered as taking no trains. A destination beyond them costs one refused call per train.
const REFUSING: usize = 64;

/// Destinations to which the kernel sends no train as such: the way there leads through a device without checksum
/// offload, or through IPsec (`udp_send_skb` in net/ipv4/udp.c).
pub(crate) struct Refusing(VecDeque<IpAddr>);

impl Refusing {
    pub(crate) fn new() -> Self {
        Self(VecDeque::with_capacity(REFUSING))
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Remembers `address`, in place of the oldest if need be.
    fn insert(&mut self, address: IpAddr) {
        if !self.contains(address) {
            if self.0.len() == REFUSING {
                self.0.pop_front();
            }
            self.0.push_back(address);
        }
    }
}

/// Reason for which a message was not sent.
#[derive(Clone, Copy)]
enum Failure {
    Congested,
    /// The kernel says what the path lacks in its error queue, which is noted already.
    TooBig,
    Path(PathErrorKind),
    /// Not as a train. `lasting`: none will be taken as long as the path stays what it is.
    Train {
        lasting: bool,
    },
    Other,
}

/// The sending half of a transport, for the time of one call.
pub(crate) struct Sender<'t> {
    pub(crate) sockets: &'t Sockets,
    pub(crate) refusing: &'t mut Refusing,
    pub(crate) reports: &'t mut Reports,
    /// Messages in one system call.
    pub(crate) batch: usize,
}

impl Sender<'_> {
    /// Sends everything in `slab`, in its order.
    pub(crate) fn flush(&mut self, slab: &Slab) {
        let mut rest = slab.messages();
        while let Some(first) = rest.first() {
            let family = Family::of(first.to);
            let run = rest.iter().take_while(|message| Family::of(message.to) == family).count();
            let (run, behind) = rest.split_at(run);
            match self.sockets.of(family) {
                Some(socket) => self.send_run(socket, slab, run),
                None => {
                    for message in run {
                        self.fail(message.to, message.records, Failure::Path(PathErrorKind::NoRoute));
                    }
                }
            }
            rest = behind;
        }
    }

    /// Sends one datagram.
    pub(crate) fn send(&mut self, to: SocketAddr, outgoing: Outgoing<'_>) {
        let sent = match self.sockets.of(Family::of(to)) {
            Some(socket) => self.attempt(socket, to, outgoing, 1, None),
            None => Err(Failure::Path(PathErrorKind::NoRoute)),
        };
        if let Err(failure) = sent {
            self.fail(to, 1, failure);
        }
    }

    /// Sends messages of the socket's family.
    fn send_run(&mut self, socket: BorrowedFd<'_>, slab: &Slab, mut messages: &[Message]) {
        while let Some(first) = messages.first() {
            if self.splits(first) {
                self.send_records(socket, slab, first, None);
                messages = &messages[1..];
                continue;
            }
            let together = messages.iter().take(self.batch).take_while(|next| !self.splits(next)).count();
            let now = &messages[..together];
            let (sent, error) = self.send_together(
                socket,
                now.iter().map(|message| (message.records, message.whole(slab))),
                together,
            );
            let mut done = sent;
            if let Some(failed) = now.get(sent) {
                self.send_message(socket, slab, failed, error);
                done += 1;
            }
            messages = &messages[done..];
        }
    }

    /// Tells if the records of `message` go one by one.
    fn splits(&self, message: &Message) -> bool {
        message.records > 1 && self.refusing.contains(message.to.ip())
    }

    /// One system call for `count` messages, each with its number of records. How many messages were sent, and the error
    /// if the first failed.
    fn send_together<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = (u16, Outgoing<'a>)> + Clone,
        count: usize,
    ) -> (usize, Option<io::Error>) {
        let mut outgoing = messages.clone().map(|(_, outgoing)| outgoing);
        let sent = if count > 1 {
            sys::send_many(socket, outgoing)
        } else {
            outgoing.next().map_or(Ok(0), |outgoing| sys::send(socket, outgoing).map(|()| 1))
        };
        match sent {
            Ok(sent) => {
                self.reports.stats.send_calls += 1;
                self.reports.stats.sent_records +=
                    messages.take(sent).map(|(records, _)| u64::from(records)).sum::<u64>();
                (sent, None)
            }
            Err(error) => (0, Some(error)),
        }
    }

    /// Sends a message that failed with `error`, or that was behind others and failed without saying why.
    fn send_message(
        &mut self,
        socket: BorrowedFd<'_>,
        slab: &Slab,
        message: &Message,
        error: Option<io::Error>,
    ) {
        match self.attempt(socket, message.to, message.whole(slab), message.records, error) {
            Ok(()) => {}
            Err(Failure::Train { lasting }) => {
                self.reports.stats.gso_refused += 1;
                self.send_records(socket, slab, message, Some(lasting));
            }
            Err(failure) => self.fail(message.to, message.records, failure),
        }
    }

    /// Sends the records of a train one by one. After a refusal that is `lasting` its destination is remembered, but
    /// only if a full-sized record passes alone: else it was the record that was refused.
    fn send_records(
        &mut self,
        socket: BorrowedFd<'_>,
        slab: &Slab,
        message: &Message,
        refused: Option<bool>,
    ) {
        let stride = usize::from(message.stride);
        let mut rest = slab.bytes_of(message);
        // A refusal may be about the length of the records: the first one alone then says so.
        let mut batch = if refused.is_some() { 1 } else { self.batch };
        while !rest.is_empty() {
            let count = rest.len().div_ceil(stride).min(batch);
            batch = self.batch;
            let records = rest.chunks(stride).take(count).map(|record| (1, message.single(record)));
            let (sent, error) = self.send_together(socket, records, count);
            let mut full_passed = sent * stride <= rest.len() && sent > 0;
            rest = &rest[(sent * stride).min(rest.len())..];
            if sent < count {
                let (record, behind) = rest.split_at(stride.min(rest.len()));
                rest = behind;
                match self.attempt(socket, message.to, message.single(record), 1, error) {
                    Ok(()) => full_passed |= record.len() == stride,
                    Err(failure) => {
                        self.fail(message.to, 1, failure);
                        if matches!(failure, Failure::TooBig) && record.len() == stride {
                            // So are all of its length.
                            let skipped = rest.len() / stride;
                            self.reports.stats.unsent += skipped as u64;
                            rest = &rest[skipped * stride..];
                        }
                    }
                }
            }
            if refused == Some(true) && full_passed {
                self.refusing.insert(message.to.ip());
            }
        }
    }

    /// Sends one message; `error` is that of an attempt already made. An error may be the report on an earlier datagram
    /// to somebody else (Linux gives it to the next call on the socket), so the error queue says which destination is
    /// meant, and the message is tried again.
    fn attempt(
        &mut self,
        socket: BorrowedFd<'_>,
        to: SocketAddr,
        outgoing: Outgoing<'_>,
        records: u16,
        mut error: Option<io::Error>,
    ) -> Result<(), Failure> {
        for attempt in 1..=ATTEMPTS {
            let error = match error.take().map_or_else(|| sys::send(socket, outgoing), Err) {
                Ok(()) => {
                    self.reports.stats.send_calls += 1;
                    self.reports.stats.sent_records += u64::from(records);
                    return Ok(());
                }
                Err(error) => error,
            };
            let is_train = outgoing.segment != 0;
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS) => return Err(Failure::Congested),
                Some(libc::EINTR) => {}
                // EIO: no checksum offload, or IPsec. EINVAL: the checksum is switched off, more records than
                // UDP_MAX_SEGMENTS, or before Linux 6.14 records that are too long.
                Some(libc::EIO | libc::EINVAL) if is_train => return Err(Failure::Train { lasting: true }),
                Some(libc::EMSGSIZE) => {
                    let drained = self.reports.drain(socket, Some(to));
                    if drained.too_big && !is_train {
                        return Err(Failure::TooBig);
                    }
                    // A router's word on an earlier datagram, unless this is the last attempt.
                    if !drained.remote || attempt == ATTEMPTS {
                        return Err(if is_train {
                            Failure::Train { lasting: false }
                        } else {
                            // Without an entry of its own it is longer than any IP packet.
                            Failure::Path(PathErrorKind::TooBig { mtu: u16::MAX })
                        });
                    }
                }
                Some(errno) if path::is_about_path(&error) => {
                    self.reports.drain(socket, Some(to));
                    // A refusal cannot be about this datagram; a lack of routes can.
                    if attempt == ATTEMPTS && errno != libc::ECONNREFUSED {
                        return Err(Failure::Path(PathErrorKind::NoRoute));
                    }
                }
                _ => return Err(Failure::Other),
            }
        }
        Err(Failure::Other)
    }

    fn fail(&mut self, to: SocketAddr, records: u16, failure: Failure) {
        let stats = &mut self.reports.stats;
        match failure {
            Failure::Congested => stats.congested += u64::from(records),
            _ => stats.unsent += u64::from(records),
        }
        if let Failure::Path(kind) = failure {
            self.reports.note(PathError { to, kind });
        }
    }
}

#[cfg(test)]
mod tests {
    use tencrypt::{Train, TrainSlot as _};

    use super::*;
    use crate::slab::SEGMENTS;

    /// Errors of a kernel that sends no trains to a destination, and of one that finds the records too long.
    #[test]
    fn a_refused_train_goes_record_by_record_and_only_a_lasting_refusal_is_remembered() {
        for (errno, lasting) in [(libc::EIO, true), (libc::EINVAL, true), (libc::EMSGSIZE, false)] {
            let sockets = Sockets::bind(0, |_socket| Ok(())).unwrap();
            let to = SocketAddr::from(([127, 0, 0, 1], sockets.port));
            let mut slab = Slab::new(SEGMENTS);
            let mut slot = slab.slot(Train { to, stride: 100, count: 5, last: 9, ecn: 0 }).unwrap();
            slot.buffer().fill(1);
            slot.commit(5, 409);
            let (mut refusing, mut reports) = (Refusing::new(), Reports::new());
            let mut sender =
                Sender { sockets: &sockets, refusing: &mut refusing, reports: &mut reports, batch: 64 };
            let socket = sockets.of(Family::V4).unwrap();
            let error = io::Error::from_raw_os_error(errno);
            sender.send_message(socket, &slab, &slab.messages()[0], Some(error));
            for len in [100, 100, 100, 100, 9] {
                assert_eq!(sys::receive(socket, &mut [0; 999]).unwrap().len, len, "errno {errno}");
            }
            assert_eq!(refusing.contains(to.ip()), lasting, "errno {errno}");
            let stats = reports.stats;
            assert_eq!((stats.gso_refused, stats.sent_records, stats.send_calls), (1, 5, 2));
            assert!(reports.path_errors.is_empty());
        }
    }

    #[test]
    fn only_the_latest_refusing_destinations_are_remembered() {
        let host = |index: usize| IpAddr::from((index as u128).to_be_bytes());
        let mut refusing = Refusing::new();
        for index in 0..=REFUSING {
            refusing.insert(host(index));
            refusing.insert(host(index));
        }
        assert!(!refusing.contains(host(0)) && (1..=REFUSING).all(|index| refusing.contains(host(index))));
        assert_eq!(refusing.0.len(), REFUSING);
        refusing.clear();
        assert!(!refusing.contains(host(1)));
    }
}
