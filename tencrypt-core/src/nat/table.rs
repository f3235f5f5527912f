//! A bounded map from flows to what they are rewritten to, with expiry.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::packet::Flow;

/// Flows of one table: about 160 bytes each, 2.6 MB.
pub(super) const MAX_FLOWS: usize = 16_384;

/// An idle TCP connection (RFC 5382 REQ-5: at least 2 h 4 min).
const TCP_ESTABLISHED: Duration = Duration::from_secs(7_440);
/// TCP that is being set up or closed (RFC 5382 REQ-5: at least 4 min).
const TCP_TRANSITORY: Duration = Duration::from_secs(240);
/// Everything else (RFC 4787 REQ-5: at least 2 min).
const OTHER: Duration = Duration::from_secs(120);

const TCP: u8 = 6;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;

/// Expired flows removed a call.
const WORK: usize = 64;

/// What an address and port become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: IpAddr,
    /// `None`: stays as it is.
    pub(super) port: Option<u16>,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    used: Instant,
    life: Duration,
    closing: bool,
    /// The key in `order`, which may lag behind `used`: the data path does not move it.
    due: Instant,
}

#[derive(Debug, Default)]
pub(super) struct FlowTable {
    flows: BTreeMap<Flow, Entry>,
    order: BTreeMap<(Instant, Flow), ()>,
}

impl FlowTable {
    pub(super) fn find(&self, flow: &Flow) -> Option<Target> {
        self.flows.get(flow).map(|entry| entry.target)
    }

    /// Notes that the flow is in use; `tcp_flags` of the packet, in either direction.
    pub(super) fn touch(&mut self, flow: &Flow, tcp_flags: Option<u8>, now: Instant) {
        if let Some(entry) = self.flows.get_mut(flow) {
            entry.used = now;
            let flags = tcp_flags.unwrap_or(0);
            if flow.protocol == TCP {
                entry.closing |= flags & (FIN | RST) != 0;
                entry.closing &= flags & SYN == 0;
                entry.life = if entry.closing || flags & SYN != 0 { TCP_TRANSITORY } else { TCP_ESTABLISHED };
            }
        }
    }

    /// Adds a flow, or changes where it leads. False if the table is full of connections that are in use.
    pub(super) fn insert(&mut self, flow: Flow, target: Target, now: Instant) -> bool {
        if let Some(entry) = self.flows.get_mut(&flow) {
            entry.target = target;
            entry.used = now;
            return true;
        }
        if self.flows.len() >= MAX_FLOWS && !self.make_room(now) {
            return false;
        }
        let life = if flow.protocol == TCP { TCP_TRANSITORY } else { OTHER };
        let due = now + life;
        self.flows.insert(flow, Entry { target, used: now, life, closing: false, due });
        self.order.insert((due, flow), ());
        true
    }

    pub(super) fn remove(&mut self, flow: &Flow) {
        if let Some(entry) = self.flows.remove(flow) {
            self.order.remove(&(entry.due, *flow));
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..WORK {
            match self.order.first_key_value() {
                Some((&(due, flow), ())) if due <= now => {
                    if !self.reschedule(due, flow, now) {
                        self.flows.remove(&flow);
                    }
                }
                _ => return,
            }
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.first_key_value().map(|((due, _), ())| *due)
    }

    /// Takes the flow out of the order; puts it back at its real time if that is still to come.
    fn reschedule(&mut self, due: Instant, flow: Flow, now: Instant) -> bool {
        self.order.remove(&(due, flow));
        let Some(entry) = self.flows.get_mut(&flow) else { return true };
        let real = entry.used + entry.life;
        if real <= now {
            return false;
        }
        entry.due = real;
        self.order.insert((real, flow), ());
        true
    }

    /// Drops the flow that has been idle longest among those that would end first, sparing established connections.
    fn make_room(&mut self, now: Instant) -> bool {
        for _ in 0..WORK {
            let Some((&(due, flow), ())) = self.order.first_key_value() else { return false };
            let current = self.flows.get(&flow).is_some_and(|entry| entry.used + entry.life == due);
            let transitory = self.flows.get(&flow).is_some_and(|entry| entry.life < TCP_ESTABLISHED);
            if due <= now || current && transitory {
                self.remove(&flow);
                return true;
            }
            if current || !self.reschedule(due, flow, now) {
                return false;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn flow(protocol: u8, number: u32) -> Flow {
        Flow {
            protocol,
            source: IpAddr::V4((0x0a00_0000 | number >> 16).into()),
            destination: IpAddr::from([10, 1, 0, 1]),
            source_port: number as u16,
            destination_port: 80,
        }
    }

    fn target() -> Target {
        Target { address: IpAddr::from([10, 96, 0, 1]), port: None }
    }

    #[test]
    fn a_flow_ends_after_its_idle_time_and_not_before() {
        let mut table = FlowTable::default();
        let now = start();
        assert!(table.insert(flow(17, 1), target(), now));
        table.touch(&flow(17, 1), None, now + Duration::from_secs(60));
        table.handle_timeout(now + Duration::from_secs(179));
        assert!(table.find(&flow(17, 1)).is_some());
        table.handle_timeout(now + Duration::from_secs(180));
        assert!(table.find(&flow(17, 1)).is_none());
        assert_eq!(table.next_due(), None);
    }

    #[test]
    fn an_established_connection_lives_two_hours_and_a_closed_one_four_minutes() {
        let mut table = FlowTable::default();
        let now = start();
        for number in [1, 2] {
            table.insert(flow(TCP, number), target(), now);
            table.touch(&flow(TCP, number), Some(SYN), now);
            table.touch(&flow(TCP, number), Some(16), now);
        }
        table.touch(&flow(TCP, 2), Some(FIN), now);
        for seconds in (0..7_400).step_by(10) {
            table.handle_timeout(now + Duration::from_secs(seconds));
            assert!(table.find(&flow(TCP, 1)).is_some());
            assert_eq!(table.find(&flow(TCP, 2)).is_some(), seconds < 240, "at {seconds} s");
        }
    }

    #[test]
    fn a_full_table_gives_up_transitory_flows_and_spares_established_ones() {
        let mut table = FlowTable::default();
        let now = start();
        for number in 0..MAX_FLOWS as u32 {
            assert!(table.insert(flow(TCP, number), target(), now));
            table.touch(&flow(TCP, number), Some(16), now);
        }
        assert!(!table.insert(flow(TCP, 1 << 20), target(), now), "an established connection was given up");
        let mut table = FlowTable::default();
        for number in 0..MAX_FLOWS as u32 + 10 {
            assert!(table.insert(flow(17, number), target(), now + Duration::from_millis(number.into())));
        }
        assert_eq!(table.flows.len(), MAX_FLOWS);
        assert_eq!(table.order.len(), MAX_FLOWS);
        assert!(table.find(&flow(17, 0)).is_none());
        assert!(table.find(&flow(17, 10)).is_some());
    }
}
