//! The table of translated flows: bounded, found from both directions, expired in constant time.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    lists::{Links, List, MAX_PLACES},
    shares::{KINDS, Shares},
};
use crate::{
    crypto::PeerId,
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

/// Of an owner's flows one in so many may be unconfirmed before they are pushed out ahead of confirmed ones: new flows
/// have the time to be answered although nothing is free, and a flood of them ends no more than that.
const UNCONFIRMED_PART: usize = 8;

/// Of two translations that exclude each other and were told of within this time, every lane keeps the same one.
const SIMULTANEOUS: Duration = Duration::from_secs(1);

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

/// In which list a flow is: how long it may be idle, and how early it is pushed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// TCP that is opening or closing.
    Transitory,
    /// TCP that both sides have taken up.
    Established,
    /// Another protocol, nothing has come back yet.
    Unanswered,
    /// Another protocol, both directions seen.
    Answered,
}

impl Phase {
    const ALL: [Self; KINDS] = [Self::Transitory, Self::Established, Self::Unanswered, Self::Answered];
    const UNCONFIRMED: [Self; 2] = [Self::Transitory, Self::Unanswered];
    /// In the order in which they are pushed out.
    const CONFIRMED: [Self; 2] = [Self::Answered, Self::Established];

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
    /// Number of the share that it counts for: that of the peer which began it, or the pod's own.
    share: u32,
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

    fn update(&self, client: Option<PeerId>, state: Option<FlowState>) -> FlowUpdate {
        let Self { original, translated, .. } = *self;
        FlowUpdate { client, original, translated, state }
    }
}

#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: BTreeMap<(Hook, Flow), u32>,
    /// By [`Phase`], each ordered by last use, and so by expiry.
    lists: [List; KINDS],
    links: Links,
    /// The same lists again for each owner of flows.
    shares: Shares,
    /// Flows by their forward hook: Serve, Call.
    counts: [usize; 2],
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
            lists: [List::EMPTY; KINDS],
            links: Links::default(),
            shares: Shares::new(capacity.clamp(1, MAX_PLACES)),
            counts: [0; 2],
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
        let entry = &mut self.slots[slot as usize];
        let (before, phase) = (entry.state(), entry.phase);
        entry.note(hook.is_forward(), tcp_flags);
        let (changed, half) = (before != entry.state(), entry.phase.idle() / 2);
        self.relink(slot, phase, now);
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
            updates.push(entry.update(self.shares.owner(entry.share), Some(entry.state())));
        }
    }

    /// Takes what another lane tells. It counts for the same owner as there.
    pub(super) fn learn(&mut self, update: &FlowUpdate, now: Instant) {
        let hook = forward_hook(update.client);
        let ours = self.index.get(&(hook, update.original)).copied();
        let rival = self.index.get(&(hook.opposite(), update.translated.reverse())).copied();
        let same = ours.filter(|_| ours == rival);
        let slot = match (same, update.state) {
            (Some(slot), None) => return self.remove(slot),
            (None, None) => return,
            (Some(slot), Some(_)) => {
                self.unlink(slot);
                slot
            }
            (None, Some(_)) => {
                let others = [ours, rival];
                if others.iter().flatten().any(|slot| self.holds_against(*slot, update, now)) {
                    return;
                }
                others.into_iter().flatten().for_each(|slot| self.remove(slot));
                self.make_room(update.client);
                self.add(update.client, update.original, update.translated, now)
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
    }

    /// Tells if a flow stays although another lane tells of one that excludes it.
    fn holds_against(&self, slot: u32, update: &FlowUpdate, now: Instant) -> bool {
        let entry = &self.slots[slot as usize];
        self.updates.as_ref().is_some_and(|updates| updates.is_fresh(slot, SIMULTANEOUS, now))
            && (entry.original, entry.translated) < (update.original, update.translated)
    }

    /// Forgets a flow before its time, in all lanes.
    pub(super) fn forget(&mut self, slot: u32) {
        let entry = &self.slots[slot as usize];
        if let Some(updates) = &mut self.updates {
            updates.push(entry.update(self.shares.owner(entry.share), None));
        }
        self.remove(slot);
    }

    /// Adds the translation of a flow that this peer began, or the pod itself, whose packet with these flags is its
    /// first. Neither of its directions may be in the table. Where there is no room, another flow ends.
    pub(super) fn insert(
        &mut self,
        client: Option<PeerId>,
        original: Flow,
        translated: Flow,
        tcp_flags: Option<u8>,
        now: Instant,
    ) {
        self.make_room(client);
        let slot = self.add(client, original, translated, now);
        self.slots[slot as usize].note(true, tcp_flags);
        self.link(slot, now);
        self.tell(slot, now);
    }

    /// Pushes out a flow if `client` could not have another one otherwise.
    fn make_room(&mut self, client: Option<PeerId>) {
        let Some(payer) = self.shares.payer(client) else { return };
        let lists = self.shares.lists(payer);
        let of = |phases: [Phase; 2]| phases.map(|phase| lists[phase as usize]);
        let (unconfirmed, confirmed) = (of(Phase::UNCONFIRMED), of(Phase::CONFIRMED));
        let [unconfirmed_len, confirmed_len] =
            [&unconfirmed, &confirmed].map(|lists| lists.iter().map(List::len).sum::<usize>());
        let pushed_out = if unconfirmed_len * UNCONFIRMED_PART > unconfirmed_len + confirmed_len {
            let heads = unconfirmed.iter().filter_map(List::first);
            heads.min_by_key(|slot| self.slots[*slot as usize].last)
        } else {
            confirmed.iter().find_map(List::first)
        };
        if let Some(slot) = pushed_out {
            self.remove(slot);
        }
    }

    /// A new slot, in no list yet.
    fn add(&mut self, client: Option<PeerId>, original: Flow, translated: Flow, now: Instant) -> u32 {
        let hook = forward_hook(client);
        let entry = Slot {
            hook,
            original,
            translated,
            answered: false,
            established: false,
            closing: false,
            phase: Phase::Unanswered,
            last: now,
            share: self.shares.add(client),
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
        let Slot { hook, original, translated, share, .. } = self.slots[slot as usize];
        self.shares.remove(share);
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
        let heads = phases.iter().filter_map(|phase| self.lists[*phase as usize].first());
        heads.min_by_key(|head| time(&self.slots[*head as usize]))
    }

    /// Appends a slot to the lists of its phase.
    fn link(&mut self, slot: u32, now: Instant) {
        let Slot { phase, share, .. } = self.slots[slot as usize];
        let list = &mut self.lists[phase as usize];
        // Keeps the list sorted should time ever run backwards.
        let before = list.last().map(|last| self.slots[last as usize].last);
        self.slots[slot as usize].last = before.map_or(now, |before| before.max(now));
        self.links.append(list, slot);
        self.shares.append(share, phase as usize, slot);
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { phase, .. } = self.slots[slot as usize];
        self.unlink_from(slot, phase);
    }

    fn unlink_from(&mut self, slot: u32, phase: Phase) {
        self.links.take_out(&mut self.lists[phase as usize], slot);
        self.shares.take_out(self.slots[slot as usize].share, phase as usize, slot);
    }

    /// Moves a slot, which was in the lists of phase `before`, to the end of those of the phase it has now.
    fn relink(&mut self, slot: u32, before: Phase, now: Instant) {
        let entry = &mut self.slots[slot as usize];
        if entry.phase == before && self.lists[before as usize].last() == Some(slot) {
            // Last of all is last of its owner's, too.
            entry.last = entry.last.max(now);
            return;
        }
        self.unlink_from(slot, before);
        self.link(slot, now);
    }
}

/// The hook at which a flow's packets to the VIP are found: a peer's at a VIP that this pod serves, or the pod's own.
pub(super) fn forward_hook(client: Option<PeerId>) -> Hook {
    if client.is_some() { Hook::Serve } else { Hook::Call }
}

fn side(hook: Hook) -> usize {
    usize::from(matches!(hook, Hook::Call | Hook::Answer))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{packet::samples::cases, testing::start};

    impl Table {
        /// Index, lists and counts say the same, and every list is sorted.
        fn assert_consistent(&self) {
            assert_eq!(self.index.len(), 2 * self.len());
            assert_eq!(self.counts[0] + self.counts[1], self.len());
            let mut shares: BTreeMap<u32, [Vec<u32>; KINDS]> = BTreeMap::new();
            for phase in Phase::ALL {
                let places = self.links.places_of(&self.lists[phase as usize]);
                assert!(places.is_sorted_by_key(|place| self.slots[*place as usize].last));
                for place in places {
                    let slot = &self.slots[place as usize];
                    assert_eq!(slot.phase, phase);
                    assert_eq!(self.index[&(slot.hook, slot.original)], place);
                    assert_eq!(self.index[&(slot.hook.opposite(), slot.translated.reverse())], place);
                    assert_eq!(forward_hook(self.shares.owner(slot.share)), slot.hook);
                    shares.entry(slot.share).or_default()[phase as usize].push(place);
                }
            }
            assert_eq!(shares.values().flatten().map(Vec::len).sum::<usize>(), self.len());
            let mut lists = self.shares.check();
            lists.retain(|_, lists| lists.iter().any(|list| !list.is_empty()));
            let by_owner = shares.into_iter().map(|(share, lists)| (self.shares.owner(share), lists));
            assert_eq!(lists, by_owner.collect());
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

    /// The owner of flows of this number: the pod itself, and three peers.
    fn owner(number: u8) -> Option<PeerId> {
        (number > 0).then(|| PeerId::from_bytes([number; 32]))
    }

    /// The table beside a list of everything in it, through random calls.
    #[derive(Debug, Clone, Copy)]
    struct Entry {
        owner: u8,
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

        /// Its place in the order in which flows of one owner go.
        fn worth(&self) -> (u8, Instant) {
            let worth = match (self.flow.protocol == TCP, self.established && !self.closing, self.answered) {
                (true, true, _) => 2,
                (false, _, true) => 1,
                _ => 0,
            };
            (worth, self.last)
        }

        fn note(&mut self, forward: bool, flags: u8, now: Instant) {
            self.last = now;
            self.answered |= !forward;
            match flags {
                _ if flags & (FIN | RST) != 0 => self.closing = true,
                _ if forward && flags & SYN != 0 && flags & ACK == 0 => {
                    (self.answered, self.established, self.closing) = (false, false, false);
                }
                _ => self.established |= forward && self.answered && flags & ACK != 0,
            }
        }
    }

    const ROOM: usize = 6;

    /// The owners of whom one has to make room for another flow of `owner`.
    fn payers(model: &[Entry], owner: u8) -> Vec<u8> {
        let flows = |owner: u8| model.iter().filter(|entry| entry.owner == owner).count();
        if owner > 0 && flows(owner) >= ROOM / 2 {
            return vec![owner];
        }
        if model.len() < ROOM {
            return vec![];
        }
        let most = (1..=3).map(flows).max().unwrap_or_default();
        if flows(0) + usize::from(owner == 0) > ROOM / 2 || most == 0 {
            return vec![0];
        }
        (1..=3).filter(|peer| flows(*peer) == most).collect()
    }

    proptest! {
        #![proptest_config(cases(3000))]

        #[test]
        fn the_table_does_what_a_plain_list_does(
            steps in prop::collection::vec(
                (0u16..12, any::<bool>(), any::<bool>(), 0u8..32, 0u64..300, 0u8..20, 0u8..4),
                1..120,
            ),
        ) {
            let mut now = start();
            let mut table = Table::new(ROOM);
            let mut model: Vec<Entry> = Vec::new();
            for (port, tcp, forward, flags, wait, jump, by) in steps {
                now += Duration::from_millis(wait * 100 + if jump == 0 { 7_000_000 } else { 1 });
                model.retain(|entry| entry.last + entry.idle() > now);
                let flow = flow(if tcp { TCP } else { 17 }, port);
                let to_vip = forward_hook(owner(by));
                let hook = if forward { to_vip } else { to_vip.opposite() };
                let seen = if forward { flow } else { translated(flow).reverse() };
                let same_side = |entry: &Entry| (entry.owner > 0) == (by > 0);
                let known = model.iter().position(|entry| entry.flow == flow && same_side(entry));
                match (table.find(hook, seen, now), known) {
                    (Some(found), Some(at)) => {
                        prop_assert_eq!(found.to, if forward { translated(flow) } else { flow.reverse() });
                        table.note(found.slot, hook, Some(flags), now);
                        model[at].note(forward, flags, now);
                    }
                    (None, None) if forward => {
                        // Expired ones still take room until they are removed.
                        table.expire(now, usize::MAX);
                        let payers = payers(&model, by);
                        table.insert(owner(by), flow, translated(flow), Some(flags), now);
                        let is_gone = |entry: &Entry| {
                            !table.index.contains_key(&(forward_hook(owner(entry.owner)), entry.flow))
                        };
                        let gone: Vec<usize> = (0..model.len()).filter(|at| is_gone(&model[*at])).collect();
                        prop_assert_eq!(gone.len(), usize::from(!payers.is_empty()));
                        for at in gone {
                            let entry = model.remove(at);
                            prop_assert!(payers.contains(&entry.owner), "{entry:?} is none of {payers:?}");
                            let mut others = model.iter().filter(|other| other.owner == entry.owner);
                            prop_assert!(others.all(|other| entry.worth() <= other.worth()));
                        }
                        let closing = flags & (FIN | RST) != 0;
                        let new = Entry { owner: by, flow, last: now, answered: false, established: false, closing };
                        model.push(new);
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
