//! The flood filter: what proves nothing is let in only as often as its work can be borne.
//!
//! Handshake messages of outsiders cost an HMAC each, and records of sessions that nobody has cost a lookup; at full
//! rate either fills the socket's buffer, so that genuine records are lost, and the lane's time. So the lane reports of
//! all that it receives how much of it proved something ([`FloodFilter::note_received`]). What did not is counted by its
//! kind and by a hash of its source; where it comes too fast, a socket filter (`SO_ATTACH_FILTER`, socket(7)) lets in
//! one of two, of four, and so on, at random, and the kernel drops the rest before it takes room or wakes anybody up.
//! Sources of other hashes are not concerned. Records of sessions that have opened something lately pass in any case, and
//! so do answers to handshake messages of this side: a pod in a flood can still ask.
//!
//! The filter stands on the one socket that holds the port. Several sockets in one `SO_REUSEPORT` group would keep kinds
//! apart as well, but any process of the same user in the pod could join the group, and put its own program in place.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tencrypt::{Inbound, record::Head};

use crate::{bind::Family, bpf::Instruction};

/// Bytes of a UDP header (RFC 768).
const UDP_HEADER: u32 = 8;

/// Kinds of datagrams: handshake messages and whatever else is no DATA, and DATA; each over IPv4 and over IPv6.
const KINDS: usize = 4;
/// Hashes of sources a kind, a power of two: whoever shares none with the flood notices nothing.
const BUCKETS: usize = 64;
/// Time over which datagrams are counted.
const WINDOW: Duration = Duration::from_millis(10);
/// Cost of a record, the unit of counting: a handshake message in a train of 64 costs the lane 0.84 microseconds, a
/// record of no session there 0.19, either of them alone 3.6 to 4.4 (the thread's CPU time, release build, virtual
/// machine of two cores).
const RECORD_COST: u64 = 1;
/// The same, of each datagram or train.
const CALL_COST: u64 = 3;
/// Cost that may prove nothing within a [`WINDOW`], beside genuine traffic: 2.5 % of a processor, and between half of
/// that and all of it is let in.
const BUDGET: u64 = 256;
/// The same while there is next to no genuine traffic, so that handshakes get through: nobody misses the time.
const IDLE_BUDGET: u64 = 12 * BUDGET;
/// Genuine records within a [`WINDOW`] from which there is traffic: 70 Mbit/s of full-sized ones.
const TRAFFIC: u64 = 64;
/// Counted at once, without waiting for the end of the window.
const EARLY_END: u64 = 2 * IDLE_BUDGET;
/// One in 2 to the power of this is let in at least.
const MAX_SHIFT: u8 = 16;
/// Sessions that pass in any case: those that opened something last.
const MAX_SESSIONS: usize = 64;
/// Handshakes whose answers pass in any case: those that this side sent something for last.
const MAX_HANDSHAKES: usize = 32;

/// Decides what a filter has to keep out; the sockets are the transport's.
#[derive(Debug)]
pub(crate) struct FloodFilter {
    /// Odd factors of the hash, drawn at random: nobody can pick addresses that share their hash with another's.
    factors: [u32; 4],
    /// Cost of what was let in and proved nothing, since `since`, in [`RECORD_COST`].
    seen: [[u64; BUCKETS]; KINDS],
    total: u64,
    /// Records that were genuine in that time.
    genuine: u64,
    since: Option<Instant>,
    /// Cost of what comes within a window, smoothed.
    rate: [[u64; BUCKETS]; KINDS],
    /// One in 2 to the power of this is let in.
    shift: [[u8; BUCKETS]; KINDS],
    /// Indices of sessions that opened something.
    sessions: Recent<MAX_SESSIONS>,
    /// Indices that this side gave to handshakes.
    handshakes: Recent<MAX_HANDSHAKES>,
    /// Those that the filter lets pass, of sessions and of handshakes; empty without one.
    admitted: [Vec<[u8; 4]>; 2],
}

/// The latest `N` indices, the last one last.
#[derive(Debug, Default)]
struct Recent<const N: usize>(VecDeque<[u8; 4]>);

impl<const N: usize> Recent<N> {
    fn note(&mut self, index: [u8; 4]) {
        if self.0.back() == Some(&index) {
            return;
        }
        if let Some(at) = self.0.iter().position(|known| *known == index) {
            self.0.remove(at);
        } else if self.0.len() == N {
            self.0.pop_front();
        }
        self.0.push_back(index);
    }

    fn is_among(&self, admitted: &[[u8; 4]]) -> bool {
        self.0.iter().all(|index| admitted.contains(index))
    }
}

impl FloodFilter {
    pub(crate) fn new() -> Self {
        let random = RandomState::new();
        Self::with_factors([0, 1, 2, 3].map(|number: u8| random.hash_one(number) as u32 | 1))
    }

    fn with_factors(factors: [u32; 4]) -> Self {
        Self {
            factors,
            seen: [[0; BUCKETS]; KINDS],
            total: 0,
            genuine: 0,
            since: None,
            rate: [[0; BUCKETS]; KINDS],
            shift: [[0; BUCKETS]; KINDS],
            sessions: Recent::default(),
            handshakes: Recent::default(),
            admitted: [Vec::new(), Vec::new()],
        }
    }

    /// Takes note of a datagram that this side sends of its own accord.
    pub(crate) fn note_sent(&mut self, datagram: &[u8]) {
        if let Some(head) = Head::read(datagram).filter(|head| head.is_answered_at_index()) {
            self.handshakes.note(head.index);
        }
    }

    /// Takes note of what became of a datagram or a train. True: it is time for [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn note_received(&mut self, from: SocketAddr, inbound: &Inbound, now: Instant) -> bool {
        // While all is quiet, this costs nothing.
        if let Some(session) = inbound.session
            && self.since.is_some()
        {
            self.sessions.note(session.as_u32().to_le_bytes());
            self.genuine += u64::from(inbound.proven);
        }
        let handshakes = inbound.datagrams().saturating_sub(inbound.records);
        let records = inbound.records.saturating_sub(inbound.proven);
        for (is_data, unproven) in [(false, handshakes), (true, records)] {
            if unproven > 0 {
                self.since.get_or_insert(now);
                let cost = CALL_COST + RECORD_COST * u64::from(unproven);
                self.seen[kind(is_data, Family::of(from))][self.bucket(from.ip())] += cost;
                self.total += cost;
            }
        }
        self.total >= EARLY_END
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due; `None` as long as all is quiet.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.since.map(|since| since + WINDOW)
    }

    /// Ends a window. True if another filter is called for: [`program`](Self::program), or none if that is empty.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        let Some(since) = self.since else { return false };
        let elapsed = now.saturating_duration_since(since).max(WINDOW / 100);
        if elapsed < WINDOW && self.total < EARLY_END {
            return false;
        }
        let to_window = |count: u64| {
            u64::try_from(u128::from(count) * WINDOW.as_nanos() / elapsed.as_nanos()).unwrap_or(u64::MAX)
        };
        let budget = if to_window(self.genuine) < TRAFFIC { IDLE_BUDGET } else { BUDGET };
        let mut heavy = 0;
        for kind in 0..KINDS {
            for bucket in 0..BUCKETS {
                let came = to_window(self.seen[kind][bucket] << self.shift[kind][bucket]);
                let rate = &mut self.rate[kind][bucket];
                // At once up, slowly down: what comes in trains comes in lumps.
                *rate = came.max(*rate - rate.div_ceil(4));
                heavy += u64::from(*rate > budget / (KINDS * BUCKETS) as u64);
            }
        }
        let fits = self.rate.iter().flatten().sum::<u64>() <= budget;
        let share = if fits { budget } else { (budget / heavy.max(1)).max(1) };
        let before = self.shift;
        for (shifts, rates) in self.shift.iter_mut().zip(&self.rate) {
            for (shift, rate) in shifts.iter_mut().zip(rates) {
                let wanted = rate.div_ceil(share).next_power_of_two().ilog2() as u8;
                *shift = wanted.min(MAX_SHIFT).max(shift.saturating_sub(1));
            }
        }
        (self.seen, self.total, self.genuine) = ([[0; BUCKETS]; KINDS], 0, 0);
        let quiet = self.rate.iter().flatten().all(|rate| *rate == 0) && !self.is_active();
        self.since = (!quiet).then_some(now);
        let is_kept_out = |is_data: bool| {
            [Family::V4, Family::V6].iter().any(|family| self.shift[kind(is_data, *family)] != [0; BUCKETS])
        };
        let [sessions, handshakes] = &self.admitted;
        let stale = is_kept_out(true) && !self.sessions.is_among(sessions)
            || is_kept_out(false) && !self.handshakes.is_among(handshakes);
        if before == self.shift && !stale {
            return false;
        }
        let latest = [&self.sessions.0, &self.handshakes.0];
        self.admitted = latest.map(|indices| indices.iter().copied().collect());
        true
    }

    /// Tells if there is to be a filter.
    pub(crate) fn is_active(&self) -> bool {
        self.shift.iter().flatten().any(|shift| *shift > 0)
    }

    /// The filter for the socket of `family`; empty if all may pass. It sees the datagram from its UDP header.
    pub(crate) fn program(&self, family: Family) -> Vec<Instruction> {
        if [false, true].iter().all(|is_data| self.shift[kind(*is_data, family)] == [0; BUCKETS]) {
            return Vec::new();
        }
        let messages = self.of_kind(false, family);
        let mut code = vec![
            Instruction::load_byte(UDP_HEADER + Head::TYPE as u32),
            // At most 20 for the hash, one a bucket, five for each of MAX_SHIFT shifts, and one for each of MAX_HANDSHAKES: 200.
            Instruction::if_equal(u32::from(Head::DATA), messages.len() as u8),
        ];
        code.extend(messages);
        code.extend(self.of_kind(true, family));
        code
    }

    /// The part for one kind.
    fn of_kind(&self, is_data: bool, family: Family) -> Vec<Instruction> {
        let shifts = &self.shift[kind(is_data, family)];
        if shifts.iter().all(|shift| *shift == 0) {
            return vec![Instruction::PASS];
        }
        let [sessions, handshakes] = &self.admitted;
        let (place, admitted) = if is_data { (Head::INDEX, sessions) } else { (Head::RECEIVER, handshakes) };
        let mut code = vec![Instruction::load(UDP_HEADER + place.start as u32)];
        for (number, index) in admitted.iter().enumerate() {
            // To the PASS behind the last, and over the jump that all others take.
            let further = (admitted.len() - number) as u8;
            code.push(Instruction::if_equal(u32::from_be_bytes(*index), further));
        }
        code.extend([Instruction::skip(1), Instruction::PASS]);
        code.extend(self.hash(family));
        for wanted in 1..=MAX_SHIFT {
            let buckets: Vec<usize> = (0..BUCKETS).filter(|bucket| shifts[*bucket] == wanted).collect();
            if buckets.is_empty() {
                continue;
            }
            for (number, bucket) in buckets.iter().enumerate() {
                code.push(Instruction::if_equal(*bucket as u32, (buckets.len() - number) as u8));
            }
            code.extend([
                Instruction::skip(4),
                Instruction::RANDOM,
                Instruction::unless_any((1 << wanted) - 1),
                Instruction::DROP,
                Instruction::PASS,
            ]);
        }
        code.push(Instruction::PASS);
        code
    }

    /// Leaves the bucket of the source in the accumulator.
    fn hash(&self, family: Family) -> Vec<Instruction> {
        // Where the source stands in the IP header: RFC 791 section 3.1, RFC 8200 section 3.
        let (first, words) = match family {
            Family::V4 => (12, 1),
            Family::V6 => (8, 4),
        };
        let mut code = Vec::new();
        for (word, factor) in self.factors.iter().enumerate().take(words) {
            code.push(Instruction::load_network(first + 4 * word as u32));
            code.push(Instruction::multiply(*factor));
            if word > 0 {
                code.extend(Instruction::ADD_KEPT);
            }
            if word + 1 < words {
                code.push(Instruction::KEEP);
            }
        }
        code.push(Instruction::shift_right(32 - BUCKETS.ilog2()));
        code
    }

    /// The same, of an address.
    fn bucket(&self, source: IpAddr) -> usize {
        let words = match source {
            IpAddr::V4(address) => [address.to_bits(), 0, 0, 0],
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
            }
        };
        let products = words.iter().zip(&self.factors).map(|(word, factor)| word.wrapping_mul(*factor));
        let sum = products.fold(0_u32, u32::wrapping_add);
        (sum >> (32 - BUCKETS.ilog2())) as usize
    }
}

/// The number of a kind.
fn kind(is_data: bool, family: Family) -> usize {
    2 * usize::from(is_data) + usize::from(family == Family::V6)
}

#[cfg(test)]
mod wire_tests;

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd as _};

    use tencrypt::record::SessionIndex;

    use super::*;
    use crate::sys;

    const INIT: [u8; 284] = [Head::INIT; 284];
    /// Cost of a datagram of one record.
    const ONE: u64 = CALL_COST + RECORD_COST;

    fn record(index: u8) -> Vec<u8> {
        let mut record = vec![Head::DATA, 0, 0, 0];
        record.extend([index; 60]);
        record
    }

    /// A handshake message to this index.
    fn message(receiver: u8) -> Vec<u8> {
        let mut message = INIT.to_vec();
        message[Head::RECEIVER].fill(receiver);
        message
    }

    /// Outcome for `datagrams` like this one, `proven` of which were genuine.
    pub(super) fn outcome(datagram: &[u8], datagrams: u16, proven: u16) -> Inbound {
        let mut inbound = Inbound::default();
        (inbound.opened, inbound.proven) = (proven, proven);
        inbound.dropped = datagrams - proven;
        if datagram[0] == Head::DATA {
            inbound.records = datagrams;
            let index = Head::read(datagram).map(|head| u32::from_le_bytes(head.index));
            inbound.session = index.and_then(SessionIndex::from_u32).filter(|_| proven > 0);
        }
        inbound
    }

    fn source(number: u32) -> SocketAddr {
        SocketAddr::from((number.to_be_bytes(), 8_362))
    }

    /// A filter whose buckets are the same in each run, where the outcome is counted: of factors drawn at random, a few in a
    /// thousand spread addresses less well, and what they let in varies by half. The factors are xxHash32's first primes.
    fn counted() -> FloodFilter {
        FloodFilter::with_factors([0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f])
    }

    /// A flood of `datagrams` a window from each source, of which the program lets in some, for a while, beside
    /// `genuine` records a window. How many are let in.
    fn flood(
        filter: &mut FloodFilter,
        head: &[u8],
        sources: &[SocketAddr],
        (datagrams, genuine): (u64, u16),
        windows: u32,
    ) -> u64 {
        let start = Instant::now();
        let (mut admitted, mut number) = (0, 0_u64);
        for window in 0..windows {
            for at in 0..datagrams {
                let now = start + WINDOW * window + WINDOW.mul_f64(at as f64 / datagrams as f64);
                if at == datagrams / 2 {
                    filter.note_received(source(9_999), &outcome(&record(7), genuine, genuine), now);
                }
                for from in sources {
                    let kind = kind(head[0] == Head::DATA, Family::V4);
                    let shift = filter.shift[kind][filter.bucket(from.ip())];
                    number += 1;
                    // As even as chance is in the mean.
                    if number.is_multiple_of(1 << shift) {
                        admitted += 1;
                        if filter.note_received(*from, &outcome(head, 1, 0), now) {
                            filter.handle_timeout(now);
                        }
                    }
                }
            }
            filter.handle_timeout(start + WINDOW * (window + 1));
        }
        admitted
    }

    #[test]
    fn a_flood_of_one_source_is_held_to_the_budget_and_others_pass() {
        for head in [&INIT[..], &record(9)] {
            let mut filter = counted();
            let admitted = flood(&mut filter, head, &[source(1)], (30_000, 1_000), 100);
            assert!(
                (100 * BUDGET / 8..100 * BUDGET + 2 * EARLY_END).contains(&(admitted * ONE)),
                "{admitted}"
            );
            let concerned = |shifts: &[u8; BUCKETS]| shifts.iter().filter(|shift| **shift > 0).count();
            let mut expected = [0; KINDS];
            expected[kind(head[0] == Head::DATA, Family::V4)] = 1;
            assert_eq!(filter.shift.each_ref().map(concerned), expected, "other kinds pass");
        }
    }

    #[test]
    fn a_flood_from_everywhere_is_held_to_the_budget_as_well() {
        let mut filter = counted();
        let sources: Vec<SocketAddr> = (1..2_000).map(source).collect();
        let admitted = flood(&mut filter, &INIT, &sources, (5, 1_000), 100);
        assert!((100 * BUDGET / 8..100 * BUDGET + 2 * EARLY_END).contains(&(admitted * ONE)), "{admitted}");
    }

    #[test]
    fn an_idle_lane_lets_in_more() {
        let admitted = flood(&mut counted(), &INIT, &[source(1)], (30_000, 10), 100);
        assert!((100 * BUDGET..100 * IDLE_BUDGET + 2 * EARLY_END).contains(&(admitted * ONE)), "{admitted}");
    }

    #[test]
    fn what_is_slow_is_never_kept_out_and_a_flood_is_forgotten() {
        let mut filter = counted();
        let sources: Vec<SocketAddr> = (1..=16).map(source).collect();
        assert_eq!(flood(&mut filter, &INIT, &sources, (4, 1_000), 100), 16 * 4 * 100);
        assert!(!filter.is_active());
        flood(&mut filter, &INIT, &[source(1)], (30_000, 0), 20);
        assert!(filter.is_active() && filter.poll_timeout().is_some());
        let mut now = Instant::now() + Duration::from_secs(1);
        let mut turns = 0;
        while filter.poll_timeout().is_some() {
            now += WINDOW;
            filter.handle_timeout(now);
            turns += 1;
            assert!(turns < 100, "{filter:?}");
        }
        assert!(!filter.is_active());
    }

    #[test]
    fn genuine_records_count_for_nothing() {
        let mut filter = FloodFilter::new();
        for _ in 0..10_000 {
            assert!(!filter.note_received(source(1), &outcome(&record(1), 44, 44), Instant::now()));
        }
        assert_eq!(filter.poll_timeout(), None);
    }

    #[test]
    fn buckets_are_used_alike() {
        let filter = counted();
        for v6 in [false, true] {
            let mut counts = [0; BUCKETS];
            for number in 0..32_768_u32 {
                let address = match v6 {
                    false => IpAddr::from((0x0a80_0000 + number).to_be_bytes()),
                    true => IpAddr::from(((0xfd00_u128 << 112) + u128::from(number)).to_be_bytes()),
                };
                counts[filter.bucket(address)] += 1;
            }
            assert!(counts.iter().all(|count| (1..=2_048).contains(count)), "{counts:?}");
        }
    }

    /// Sends each of `datagrams` from `from` to a socket with the program; returns which of them arrived.
    pub(super) fn passed(filter: &FloodFilter, from: &str, datagrams: &[&[u8]]) -> Vec<bool> {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        let family = Family::of(socket.local_addr().unwrap());
        let to = socket.local_addr().unwrap();
        sys::attach_filter(socket.as_fd(), &filter.program(family)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let sender = UdpSocket::bind((from, 0)).unwrap();
        let arrives = |datagram: &&[u8]| {
            sender.send_to(datagram, to).unwrap();
            let mut buffer = [0; 2_048];
            socket.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == *datagram)
        };
        let arrived = datagrams.iter().map(arrives).collect();
        sys::detach_filter(socket.as_fd()).unwrap();
        assert!(datagrams.iter().all(arrives), "nothing is kept out without a filter");
        arrived
    }

    #[test]
    fn the_kernel_keeps_out_what_the_filter_says_in_both_families() {
        for from in ["127.0.0.1", "::1"] {
            let (known, unknown) = (record(1), record(2));
            let init = message(0);
            let datagrams: [&[u8]; 5] = [&init, &known, &unknown, &[Head::DATA], &[]];
            let mut filter = FloodFilter::new();
            let bucket = filter.bucket(from.parse().unwrap());
            let indices = |count: usize| (3..=count as u8 + 1).chain([1]).map(|index| [index; 4]).collect();
            filter.admitted = [indices(MAX_SESSIONS), indices(MAX_HANDSHAKES)];
            let family = Family::of(SocketAddr::new(from.parse().unwrap(), 0));
            let [messages, records] = [false, true].map(|is_data| kind(is_data, family));
            // A chance of 1 in 65,536 that one passes all the same, each.
            filter.shift[messages][bucket] = MAX_SHIFT;
            let answers = [message(1), message(2)];
            assert_eq!(
                passed(&filter, from, &answers.each_ref().map(Vec::as_slice)),
                [true, false],
                "{from}"
            );
            assert_eq!(passed(&filter, from, &datagrams), [false, true, true, true, false], "{from}");
            filter.shift[records][bucket] = MAX_SHIFT;
            assert_eq!(passed(&filter, from, &datagrams), [false, true, false, false, false], "{from}");
            filter.shift[messages][bucket] = 0;
            assert_eq!(passed(&filter, from, &datagrams), [true, true, false, false, false], "{from}");
            // Everybody but this source, at every rate.
            for other in 0..BUCKETS {
                filter.shift[messages][other] = 1 + (other % usize::from(MAX_SHIFT)) as u8;
                filter.shift[records][other] = filter.shift[messages][other];
            }
            (filter.shift[messages][bucket], filter.shift[records][bucket]) = (0, 0);
            assert_eq!(passed(&filter, from, &datagrams), [true, true, true, false, false], "{from}");
        }
    }

    #[test]
    fn a_pod_in_a_flood_gets_the_answers_to_what_it_asks() {
        let mut filter = FloodFilter::new();
        let start = Instant::now();
        flood(&mut filter, &INIT, &[source(1)], (30_000, 1_000), 20);
        assert!(filter.is_active() && filter.admitted[1].is_empty());
        let mut sent = INIT;
        for number in 0..100_u8 {
            // DATA, CONF and COOKIE await no answer.
            for kind in [Head::INIT, Head::RESP, Head::CONF, Head::DATA, Head::COOKIE] {
                sent[0] = kind;
                sent[Head::INDEX].fill(if [Head::INIT, Head::RESP].contains(&kind) {
                    number
                } else {
                    100 + number
                });
                filter.note_sent(&sent);
            }
        }
        filter.note_received(source(1), &outcome(&INIT, 1, 0), start + WINDOW * 20);
        assert!(filter.handle_timeout(start + WINDOW * 22), "another filter, for the new answers");
        let latest: Vec<[u8; 4]> = (100 - MAX_HANDSHAKES as u8..100).map(|number| [number; 4]).collect();
        assert_eq!(filter.admitted[1], latest);
    }

    #[test]
    fn one_of_two_passes_at_random() {
        let mut filter = FloodFilter::new();
        let bucket = filter.bucket([127, 0, 0, 1].into());
        filter.shift[kind(false, Family::V4)][bucket] = 1;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        sys::attach_filter(socket.as_fd(), &filter.program(Family::V4)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let arrived = (0..400).filter(|_| {
            sender.send_to(&INIT, socket.local_addr().unwrap()).unwrap();
            socket.recv(&mut [0; 300]).is_ok()
        });
        let arrived = arrived.count();
        // Eight standard deviations of 10.
        assert!((120..=280).contains(&arrived), "{arrived} of 400");
        assert!(sys::kernel_drops(socket.as_fd()).unwrap() as usize >= 400 - arrived);
    }
}
