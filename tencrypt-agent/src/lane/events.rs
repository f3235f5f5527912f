//! The way of events from the lanes to the control plane: one word a destination, the last that counts, and none lost that
//! closes a way around the tunnel.
//!
//! A queue would be full at the worst time: while the control plane is behind, and destinations outside keep coming. So what
//! is said of a destination is kept by destination. Opening one may be refused; the lane then says so again with the
//! destination's next packet. Closing one that is open never is: there are as many at most as were opened.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tencrypt::Event;
use tokio::sync::Notify;

/// Destinations that are open, or are to be: as many as the kernel is given (`Capture::allow_external`).
const OPEN: usize = 16_384;
/// Destinations that wait to be opened. Beyond that opening is refused.
const OPENING: usize = 1_024;
/// Destinations that wait to be told internal though they are not open: other lanes are told then. Beyond that they find
/// out by themselves.
const NOT_OPEN: usize = 1_024;
/// Events that go to the log alone. Beyond that they are dropped.
const OTHERS: usize = 256;

/// A word of the lanes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LaneEvent {
    /// A destination passes around the tunnel, until then; `None`: for good.
    External { destination: IpAddr, until: Option<Instant> },
    /// A destination is of the tenant: it has answered.
    Internal(IpAddr),
    /// A destination passes no longer, on the word of facts, which all lanes have.
    Closed(IpAddr),
    /// For the log.
    Other(Event),
}

/// The word that stands of a destination. A later one takes the place of an earlier one only if it is greater, or is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    External(Option<Instant>),
    Closed,
    Internal,
}

/// Both ends of it: lanes put words in, the control plane takes them out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    words: Mutex<Words>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Words {
    /// Destinations that the control plane was told to open and not to close.
    open: BTreeSet<IpAddr>,
    said: BTreeMap<IpAddr, Word>,
    /// The destinations in `said`, in the order in which the first word of each came.
    order: VecDeque<IpAddr>,
    /// Those in `said` that wait to be opened, and those that are internal and not open.
    opening: usize,
    not_open: usize,
    others: VecDeque<Event>,
}

impl Events {
    /// Has a destination led around the tunnel. False: there is no room, or it is to be closed.
    #[must_use]
    pub(crate) fn open(&self, destination: IpAddr, until: Option<Instant>) -> bool {
        let taken = self.words().open(destination, until);
        self.0.wake.notify_one();
        taken
    }

    /// Tells that a destination is of the tenant.
    pub(crate) fn internal(&self, destination: IpAddr) {
        self.words().close(destination, Word::Internal);
        self.0.wake.notify_one();
    }

    /// Tells that by the facts a destination is led around the tunnel no longer.
    pub(crate) fn close(&self, destination: IpAddr) {
        self.words().close(destination, Word::Closed);
        self.0.wake.notify_one();
    }

    /// Tells that by the facts no destinations are led around the tunnel but those of which `stays` says so. To be called when
    /// all lanes have these facts: what they said before by others is withdrawn.
    pub(crate) fn close_unless(&self, stays: impl Fn(IpAddr) -> bool) {
        let mut words = self.words();
        let closed: Vec<_> = words.open.iter().copied().filter(|destination| !stays(*destination)).collect();
        closed.into_iter().for_each(|destination| words.close(destination, Word::Closed));
        self.0.wake.notify_one();
    }

    /// Tells what is for the log.
    pub(crate) fn other(&self, event: Event) {
        let mut words = self.words();
        if words.others.len() < OTHERS {
            words.others.push_back(event);
            self.0.wake.notify_one();
        }
    }

    /// Notes that the control plane has closed a destination of its own accord.
    pub(crate) fn ended(&self, destination: IpAddr) {
        self.words().ended(destination);
    }

    /// Waits for the next word. May be cancelled. One caller at a time.
    pub(crate) async fn next(&self) -> LaneEvent {
        loop {
            if let Some(event) = self.take() {
                return event;
            }
            self.0.wake.notified().await;
        }
    }

    fn take(&self) -> Option<LaneEvent> {
        self.words().take()
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.0.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Words {
    fn open(&mut self, destination: IpAddr, until: Option<Instant>) -> bool {
        let is_open = self.open.contains(&destination);
        if !is_open && self.open.len() >= OPEN {
            return false;
        }
        match self.said.get_mut(&destination) {
            Some(Word::External(known)) => *known = until,
            // Another lane knows more.
            Some(Word::Closed | Word::Internal) => return false,
            None if self.opening >= OPENING => return false,
            None => {
                self.opening += 1;
                self.said.insert(destination, Word::External(until));
                self.order.push_back(destination);
            }
        }
        self.open.insert(destination);
        true
    }

    fn close(&mut self, destination: IpAddr, word: Word) {
        let is_open = self.open.contains(&destination);
        match self.said.get_mut(&destination) {
            Some(known) => {
                self.opening -= usize::from(matches!(known, Word::External(_)));
                *known = word.max(*known);
            }
            None if is_open => {
                self.said.insert(destination, word);
                self.order.push_back(destination);
            }
            None if word == Word::Internal && self.not_open < NOT_OPEN => {
                self.not_open += 1;
                self.said.insert(destination, word);
                self.order.push_back(destination);
            }
            None => {}
        }
    }

    fn ended(&mut self, destination: IpAddr) {
        match self.said.get(&destination) {
            Some(Word::External(_)) => {}
            Some(Word::Internal) => {
                self.not_open += usize::from(self.open.remove(&destination));
            }
            Some(Word::Closed) | None => drop(self.open.remove(&destination)),
        }
    }

    fn take(&mut self) -> Option<LaneEvent> {
        while let Some(destination) = self.order.pop_front() {
            match self.said.remove(&destination) {
                Some(Word::External(until)) => {
                    self.opening -= 1;
                    return Some(LaneEvent::External { destination, until });
                }
                Some(Word::Internal) => {
                    let was_open = self.open.remove(&destination);
                    self.not_open -= usize::from(!was_open);
                    return Some(LaneEvent::Internal(destination));
                }
                Some(Word::Closed) => {
                    self.open.remove(&destination);
                    return Some(LaneEvent::Closed(destination));
                }
                None => {}
            }
        }
        self.others.pop_front().map(LaneEvent::Other)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tencrypt::crypto::PeerId;

    use super::*;

    fn address(number: usize) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap()).into()
    }

    fn external(number: usize) -> LaneEvent {
        LaneEvent::External { destination: address(number), until: None }
    }

    fn all(events: &Events) -> Vec<LaneEvent> {
        std::iter::from_fn(|| events.take()).collect()
    }

    /// As many destinations as may be, open.
    fn with_all_open() -> Events {
        let events = Events::default();
        for number in 0..OPEN {
            assert!(events.open(address(number), None));
            assert_eq!(events.take(), Some(external(number)));
        }
        events
    }

    #[test]
    fn however_far_behind_the_control_plane_is_no_open_destination_that_is_internal_is_lost() {
        let events = with_all_open();
        // What else the lanes have to say takes no room from it.
        for number in 0..10 * OTHERS {
            events.other(Event::PeerDown { peer: PeerId::from_bytes([1; 32]) });
            events.internal(address(OPEN + number));
        }
        for _ in 0..3 {
            (0..OPEN).for_each(|number| events.internal(address(number)));
        }
        let said = all(&events);
        let told = |number| said.contains(&LaneEvent::Internal(address(number)));
        assert!([0, 1, OPEN / 2, OPEN - 1].into_iter().all(told));
        assert_eq!(said.len(), OPEN + NOT_OPEN + OTHERS, "each once");
        let words = events.words();
        assert!(words.open.is_empty() && words.said.is_empty() && (words.opening, words.not_open) == (0, 0));
    }

    #[test]
    fn facts_that_changed_withdraw_what_was_opened_and_what_was_about_to_be() {
        let events = Events::default();
        for number in 0..4 {
            assert!(events.open(address(number), None));
        }
        assert_eq!([events.take(), events.take()], [Some(external(0)), Some(external(1))]);
        // Of two that are open and two that wait for it, one each stays.
        events.close_unless(|destination| [address(1), address(3)].contains(&destination));
        let said = all(&events);
        assert_eq!(said.len(), 3, "{said:?}");
        for event in [LaneEvent::Closed(address(0)), LaneEvent::Closed(address(2)), external(3)] {
            assert!(said.contains(&event), "{event:?} is not in {said:?}");
        }
        events.close_unless(|_| true);
        assert_eq!(events.take(), None);
        let words = events.words();
        assert_eq!(words.open, BTreeSet::from([address(1), address(3)]));
        assert_eq!((words.opening, words.not_open), (0, 0));
    }

    #[test]
    fn beyond_its_bounds_opening_is_refused_and_may_be_asked_for_again() {
        let events = Events::default();
        let opened = (0..2 * OPENING).filter(|number| events.open(address(*number), None)).count();
        assert_eq!(opened, OPENING);
        assert_eq!(events.take(), Some(external(0)));
        assert!(events.open(address(OPENING), None) && !events.open(address(OPENING + 1), None));
        let events = with_all_open();
        assert!(!events.open(address(OPEN), None));
        events.ended(address(7));
        assert!(events.open(address(OPEN), None));
    }

    #[test]
    fn the_last_word_counts_and_no_lane_opens_what_another_closes() {
        let (events, at) = (Events::default(), address(1));
        let later = Some(Instant::now() + Duration::from_secs(1));
        assert!(events.open(at, None) && events.open(at, later));
        assert_eq!(all(&events), [LaneEvent::External { destination: at, until: later }]);
        // Internal before it was opened: it never is.
        assert!(events.open(address(2), None));
        events.internal(address(2));
        assert!(!events.open(address(2), None));
        assert_eq!(all(&events), [LaneEvent::Internal(address(2))]);
        // What a handshake found says more than facts do.
        events.close(at);
        events.internal(at);
        events.close(at);
        assert_eq!(all(&events), [LaneEvent::Internal(at)]);
        // Of what is not open nobody needs to hear by facts.
        events.close(at);
        assert_eq!(all(&events), []);
        assert!(events.open(at, None), "and later again");
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_from_another_thread() {
        let events = Events::default();
        let lane = events.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            lane.internal(address(1));
        });
        let word = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
        assert_eq!(word, Ok(LaneEvent::Internal(address(1))));
        thread.join().unwrap();
    }
}
