//! The table of translated flows: bounded, found from both directions, expired in constant time.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    lane_update::{FlowState, FlowUpdate},
    packet::Flow,
};

/// Idle time after which a TCP connection in its opening or closing phase is forgotten: 4 minutes (RFC 5382 REQ-5).
pub(crate) const TCP_TRANSITORY: Duration = Duration::from_secs(240);
/// Idle time after which an established TCP connection is forgotten: 2 hours 4 minutes (RFC 5382 REQ-5).
pub(crate) const TCP_ESTABLISHED: Duration = Duration::from_secs(7_440);
/// Idle time after which a flow of any other protocol is forgotten: 2 minutes (RFC 4787 REQ-5 for UDP; RFC 5508 REQ-2
/// asks for at least 60 seconds for ICMP).
pub(crate) const DATAGRAM: Duration = Duration::from_secs(120);

const TCP: u8 = 6;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Of two translations that exclude each other and were told of within this time, every lane keeps the same one.
const SIMULTANEOUS: Duration = Duration::from_secs(1);

/// End of a list.
const NONE: u32 = u32::MAX;

/// Places at which packets are looked at. Each translation is found at two of these: one for packets on their way to
/// the VIP, one for what comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    /// Opened packets to a VIP this pod serves.
    Serve,
    /// Answers of this pod to those.
    Reply,
    /// This pod's packets to a VIP.
    Call,
    /// Answers that come back to those.
    Answer,
}

impl Hook {
    pub(super) fn is_forward(self) -> bool {
        matches!(self, Self::Serve | Self::Call)
    }

    /// The same translation's other hook.
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Serve => Self::Reply,
            Self::Reply => Self::Serve,
            Self::Call => Self::Answer,
            Self::Answer => Self::Call,
        }
    }
}

/// Packets at one hook: what they are, and what they become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) slot: u32,
    pub(super) from: Flow,
    pub(super) to: Flow,
}

/// No room, and nothing that may be pushed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// In which list a flow is: how long it may be idle, and whether it may be pushed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// TCP that is opening or closing; may be pushed out.
    Transitory,
    /// TCP that both sides have taken up.
    Established,
    /// Another protocol, nothing has come back yet; may be pushed out.
    Unanswered,
    /// Another protocol, both directions seen.
    Answered,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Transitory, Self::Established, Self::Unanswered, Self::Answered];
    const EVICTABLE: [Self; 2] = [Self::Transitory, Self::Unanswered];

    fn idle(self) -> Duration {
        match self {
            Self::Transitory => TCP_TRANSITORY,
            Self::Established => TCP_ESTABLISHED,
            Self::Unanswered | Self::Answered => DATAGRAM,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    hook: Hook,
    original: Flow,
    translated: Flow,
    answered: bool,
    established: bool,
    closing: bool,
    phase: Phase,
    last: Instant,
    prev: u32,
    next: u32,
}

impl Slot {
    fn expires(&self) -> Instant {
        self.last + self.phase.idle()
    }

    /// Takes a packet's part in the flow's life into account.
    fn note(&mut self, forward: bool, tcp_flags: Option<u8>) {
        self.answered |= !forward;
        if self.original.protocol == TCP {
            self.note_tcp(forward, tcp_flags);
        }
        self.phase = self.phase_now();
    }

    fn note_tcp(&mut self, forward: bool, tcp_flags: Option<u8>) {
        let flags = tcp_flags.unwrap_or_default();
        let is_syn = flags & (SYN | ACK) == SYN;
        if flags & (FIN | RST) != 0 {
            self.closing = true;
        } else if forward && is_syn {
            (self.answered, self.established, self.closing) = (false, false, false);
        } else if forward && self.answered && flags & ACK != 0 {
            self.established = true;
        }
    }

    fn phase_now(&self) -> Phase {
        match (self.original.protocol, self.established && !self.closing, self.answered) {
            (TCP, true, _) => Phase::Established,
            (TCP, false, _) => Phase::Transitory,
            (.., true) => Phase::Answered,
            (.., false) => Phase::Unanswered,
        }
    }

    fn state(&self) -> FlowState {
        let Self { answered, established, closing, .. } = *self;
        FlowState { answered, established, closing }
    }

    fn update(&self, state: Option<FlowState>) -> FlowUpdate {
        let Self { hook, original, translated, .. } = *self;
        FlowUpdate { serves: hook == Hook::Serve, original, translated, state }
    }
}

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: BTreeMap<(Hook, Flow), u32>,
    /// By [`Phase`], each ordered by last use, and so by expiry.
    lists: [List; 4],
    /// Flows by their forward hook: Serve, Call.
    counts: [usize; 2],
    capacity: usize,
    updates: Option<Updates>,
}

/// Updates for the other lanes. A flow is told of when it begins, when it comes further, and while it is used once in
/// half of the time after which it would be forgotten.
#[derive(Debug, Default)]
struct Updates {
    /// Time at which each slot's flow was last told or heard of; `None`: never, for it is older than the other lanes.
    at: Vec<Option<Instant>>,
    /// Taken out after each call, by who bounds what waits.
    queue: VecDeque<FlowUpdate>,
}

impl Updates {
    fn told(&mut self, slot: u32, now: Instant) {
        let slot = slot as usize;
        if self.at.len() <= slot {
            self.at.resize(slot + 1, None);
        }
        self.at[slot] = Some(now);
    }

    /// Tells if the flow of a slot was told or heard of within the last `time`.
    fn is_fresh(&self, slot: u32, time: Duration, now: Instant) -> bool {
        let at = self.at.get(slot as usize).copied().flatten();
        at.is_some_and(|at| now.saturating_duration_since(at) < time)
    }

    fn push(&mut self, update: FlowUpdate) {
        self.queue.push_back(update);
    }
}

impl Table {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: BTreeMap::new(),
            lists: [List { head: NONE, tail: NONE }; 4],
            counts: [0; 2],
            capacity: capacity.clamp(1, NONE as usize - 1),
            updates: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Tells if nothing can be found at `hook`.
    pub(super) fn is_empty_at(&self, hook: Hook) -> bool {
        self.counts[side(hook)] == 0
    }

    /// The live translation of packets of `flow` at `hook`.
    pub(super) fn find(&mut self, hook: Hook, flow: Flow, now: Instant) -> Option<Found> {
        let slot = *self.index.get(&(hook, flow))?;
        let Slot { original, translated, .. } = self.slots[slot as usize];
        if self.slots[slot as usize].expires() <= now {
            self.remove(slot);
            return None;
        }
        Some(match hook.is_forward() {
            true => Found { slot, from: original, to: translated },
            false => Found { slot, from: translated.reverse(), to: original.reverse() },
        })
    }

    /// Tells if some flow between these two addresses is translated at `hook`.
    pub(super) fn has_pair(&self, hook: Hook, source: IpAddr, destination: IpAddr) -> bool {
        let flow = |protocol, port| Flow {
            source,
            destination,
            protocol,
            source_port: port,
            destination_port: port,
        };
        self.index.range((hook, flow(0, 0))..=(hook, flow(u8::MAX, u16::MAX))).next().is_some()
    }

    /// Counts a packet that was found at `hook`.
    pub(super) fn note(&mut self, slot: u32, hook: Hook, tcp_flags: Option<u8>, now: Instant) {
        self.unlink(slot);
        let entry = &mut self.slots[slot as usize];
        let before = entry.state();
        entry.note(hook.is_forward(), tcp_flags);
        let (changed, half) = (before != entry.state(), entry.phase.idle() / 2);
        self.link(slot, now);
        if let Some(updates) = &self.updates
            && (changed || !updates.is_fresh(slot, half, now))
        {
            self.tell(slot, now);
        }
    }

    /// From now on there is something to tell.
    pub(super) fn start_updates(&mut self) {
        self.updates.get_or_insert_default();
    }

    pub(super) fn poll_update(&mut self) -> Option<FlowUpdate> {
        self.updates.as_mut()?.queue.pop_front()
    }

    fn tell(&mut self, slot: u32, now: Instant) {
        let entry = &self.slots[slot as usize];
        if let Some(updates) = &mut self.updates {
            updates.told(slot, now);
            updates.push(entry.update(Some(entry.state())));
        }
    }

    /// Takes what another lane tells.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) fn learn(&mut self, update: &FlowUpdate, now: Instant) -> Result<(), Full> {
        let hook = if update.serves { Hook::Serve } else { Hook::Call };
        let ours = self.index.get(&(hook, update.original)).copied();
        let rival = self.index.get(&(hook.opposite(), update.translated.reverse())).copied();
        let same = ours.filter(|_| ours == rival);
        let slot = match (same, update.state) {
            (Some(slot), None) => {
                self.remove(slot);
                return Ok(());
            }
            (None, None) => return Ok(()),
            (Some(slot), Some(_)) => {
                self.unlink(slot);
                slot
            }
            (None, Some(_)) => {
                let others = [ours, rival];
                if others.iter().flatten().any(|slot| self.holds_against(*slot, update, now)) {
                    return Ok(());
                }
                others.into_iter().flatten().for_each(|slot| self.remove(slot));
                self.make_room()?;
                self.add(hook, update.original, update.translated, now)
            }
        };
        let entry = &mut self.slots[slot as usize];
        let FlowState { answered, established, closing } = update.state.unwrap_or_default();
        (entry.answered, entry.established, entry.closing) = (answered, established, closing);
        entry.phase = entry.phase_now();
        self.link(slot, now);
        if let Some(updates) = &mut self.updates {
            updates.told(slot, now);
        }
        Ok(())
    }

    /// Tells if a flow stays although another lane tells of one that excludes it.
    fn holds_against(&self, slot: u32, update: &FlowUpdate, now: Instant) -> bool {
        let entry = &self.slots[slot as usize];
        self.updates.as_ref().is_some_and(|updates| updates.is_fresh(slot, SIMULTANEOUS, now))
            && (entry.original, entry.translated) < (update.original, update.translated)
    }

    /// Forgets a flow before its time, in all lanes.
    pub(super) fn forget(&mut self, slot: u32) {
        if let Some(updates) = &mut self.updates {
            updates.push(self.slots[slot as usize].update(None));
        }
        self.remove(slot);
    }

    /// Adds a translation found at the forward `hook`, whose packet with these flags is its first. Neither of its
    /// directions may be in the table.
    pub(super) fn insert(
        &mut self,
        hook: Hook,
        original: Flow,
        translated: Flow,
        tcp_flags: Option<u8>,
        now: Instant,
    ) -> Result<(), Full> {
        self.make_room()?;
        let slot = self.add(hook, original, translated, now);
        self.slots[slot as usize].note(true, tcp_flags);
        self.link(slot, now);
        self.tell(slot, now);
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), Full> {
        if self.len() >= self.capacity {
            let oldest = self.oldest(&Phase::EVICTABLE, |slot| slot.last).ok_or(Full)?;
            self.remove(oldest);
        }
        Ok(())
    }

    /// A new slot, in no list yet.
    fn add(&mut self, hook: Hook, original: Flow, translated: Flow, now: Instant) -> u32 {
        let entry = Slot {
            hook,
            original,
            translated,
            answered: false,
            established: false,
            closing: false,
            phase: Phase::Unanswered,
            last: now,
            prev: NONE,
            next: NONE,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = entry;
                slot
            }
            None => {
                self.slots.push(entry);
                (self.slots.len() - 1) as u32
            }
        };
        self.index.insert((hook, original), slot);
        self.index.insert((hook.opposite(), translated.reverse()), slot);
        self.counts[side(hook)] += 1;
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        let Slot { hook, original, translated, .. } = self.slots[slot as usize];
        self.index.remove(&(hook, original));
        self.index.remove(&(hook.opposite(), translated.reverse()));
        self.counts[side(hook)] -= 1;
        self.free.push(slot);
    }

    /// Removes at most `budget` flows that are due.
    pub(super) fn expire(&mut self, now: Instant, budget: usize) {
        for _ in 0..budget {
            match self.oldest(&Phase::ALL, Slot::expires) {
                Some(slot) if self.slots[slot as usize].expires() <= now => self.remove(slot),
                _ => return,
            }
        }
    }

    /// Returns when the next flow is due.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.oldest(&Phase::ALL, Slot::expires).map(|slot| self.slots[slot as usize].expires())
    }

    /// The first by `time` among the heads of these lists.
    fn oldest(&self, phases: &[Phase], time: impl Fn(&Slot) -> Instant) -> Option<u32> {
        let heads = phases.iter().map(|phase| self.lists[*phase as usize].head).filter(|head| *head != NONE);
        heads.min_by_key(|head| time(&self.slots[*head as usize]))
    }

    /// Appends a slot to the list of its phase.
    fn link(&mut self, slot: u32, now: Instant) {
        let list = &mut self.lists[self.slots[slot as usize].phase as usize];
        let tail = std::mem::replace(&mut list.tail, slot);
        let mut last = now;
        match tail {
            NONE => list.head = slot,
            tail => {
                let tail = &mut self.slots[tail as usize];
                tail.next = slot;
                // Keeps the list sorted should time ever run backwards.
                last = last.max(tail.last);
            }
        }
        let entry = &mut self.slots[slot as usize];
        (entry.prev, entry.next, entry.last) = (tail, NONE, last);
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { phase, prev, next, .. } = self.slots[slot as usize];
        match prev {
            NONE => self.lists[phase as usize].head = next,
            prev => self.slots[prev as usize].next = next,
        }
        match next {
            NONE => self.lists[phase as usize].tail = prev,
            next => self.slots[next as usize].prev = prev,
        }
    }
}

fn side(hook: Hook) -> usize {
    usize::from(matches!(hook, Hook::Call | Hook::Answer))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{packet::samples::cases, testing::start};

    impl Table {
        /// Index, lists and counts say the same, and every list is sorted.
        fn assert_consistent(&self) {
            assert_eq!(self.index.len(), 2 * self.len());
            assert_eq!(self.counts[0] + self.counts[1], self.len());
            let mut seen = BTreeSet::new();
            for phase in Phase::ALL {
                let (mut at, mut prev) = (self.lists[phase as usize].head, NONE);
                while at != NONE {
                    let slot = &self.slots[at as usize];
                    assert_eq!((slot.prev, slot.phase), (prev, phase));
                    assert!(prev == NONE || self.slots[prev as usize].last <= slot.last);
                    assert_eq!(self.index[&(slot.hook, slot.original)], at);
                    assert_eq!(self.index[&(slot.hook.opposite(), slot.translated.reverse())], at);
                    assert!(seen.insert(at));
                    (prev, at) = (at, slot.next);
                }
                assert_eq!(self.lists[phase as usize].tail, prev);
            }
            assert_eq!(seen.len(), self.len());
        }
    }

    fn flow(protocol: u8, port: u16) -> Flow {
        let (source, destination) = ([10, 0, 0, 1].into(), [10, 96, 0, 1].into());
        Flow { source, destination, protocol, source_port: port, destination_port: 80 }
    }

    fn translated(flow: Flow) -> Flow {
        Flow { destination: [10, 0, 0, 2].into(), ..flow }
    }

    #[test]
    fn a_slot_is_as_small_as_documented() {
        assert!(size_of::<Slot>() <= 112, "{}", size_of::<Slot>());
    }

    /// The table beside a list of everything in it, through random calls.
    #[derive(Debug, Clone, Copy)]
    struct Entry {
        flow: Flow,
        last: Instant,
        answered: bool,
        established: bool,
        closing: bool,
    }

    impl Entry {
        fn idle(&self) -> Duration {
            match (self.flow.protocol, self.established && !self.closing) {
                (TCP, true) => TCP_ESTABLISHED,
                (TCP, false) => TCP_TRANSITORY,
                _ => DATAGRAM,
            }
        }

        fn may_go(&self) -> bool {
            if self.flow.protocol == TCP { !self.established || self.closing } else { !self.answered }
        }
    }

    proptest! {
        #![proptest_config(cases(3000))]

        #[test]
        fn the_table_does_what_a_plain_list_does(
            steps in prop::collection::vec((0u16..12, any::<bool>(), any::<bool>(), 0u8..32, 0u64..300, 0u8..20), 1..120),
        ) {
            let mut now = start();
            let mut table = Table::new(6);
            let mut model: Vec<Entry> = Vec::new();
            for (port, tcp, forward, flags, wait, jump) in steps {
                now += Duration::from_millis(wait * 100 + if jump == 0 { 7_000_000 } else { 1 });
                model.retain(|entry| entry.last + entry.idle() > now);
                let flow = flow(if tcp { TCP } else { 17 }, port);
                let hook = if forward { Hook::Serve } else { Hook::Reply };
                let seen = if forward { flow } else { translated(flow).reverse() };
                let known = model.iter().position(|entry| entry.flow == flow);
                match (table.find(hook, seen, now), known) {
                    (Some(found), Some(at)) => {
                        prop_assert_eq!(found.to, if forward { translated(flow) } else { flow.reverse() });
                        table.note(found.slot, hook, Some(flags), now);
                        let entry = &mut model[at];
                        entry.last = now;
                        entry.answered |= !forward;
                        match flags {
                            _ if flags & (FIN | RST) != 0 => entry.closing = true,
                            _ if forward && flags & SYN != 0 && flags & ACK == 0 => {
                                *entry = Entry { answered: false, established: false, closing: false, ..*entry };
                            }
                            _ => entry.established |= forward && entry.answered && flags & ACK != 0,
                        }
                    }
                    (None, None) if forward => {
                        // Expired ones still take room until they are removed.
                        table.expire(now, usize::MAX);
                        let mut fits = true;
                        if model.len() == 6 {
                            let oldest = model.iter().enumerate().filter(|(_, entry)| entry.may_go());
                            match oldest.min_by_key(|(_, entry)| entry.last).map(|(at, _)| at) {
                                Some(at) => drop(model.remove(at)),
                                None => fits = false,
                            }
                        }
                        let inserted = table.insert(hook, flow, translated(flow), Some(flags), now);
                        prop_assert_eq!(inserted, if fits { Ok(()) } else { Err(Full) });
                        if fits {
                            let closing = flags & (FIN | RST) != 0;
                            model.push(Entry { flow, last: now, answered: false, established: false, closing });
                        }
                    }
                    (None, None) => {}
                    (found, known) => prop_assert!(false, "table {found:?}, model {known:?}"),
                }
                table.assert_consistent();
                table.expire(now, usize::MAX);
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.next_expiry(), model.iter().map(|entry| entry.last + entry.idle()).min());
            }
        }
    }
}
