//! Doubly linked lists over the places of a table, without an allocation of their own for each.

/// The end of a list.
const NONE: u32 = u32::MAX;

/// Most places that a table with lists can have.
pub(super) const MAX_PLACES: usize = NONE as usize - 1;

/// The ends of one list. Empty at first.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: usize,
}

impl List {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };

    /// The place that was appended first.
    pub(super) fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// The place that was appended last.
    pub(super) fn last(&self) -> Option<u32> {
        (self.tail != NONE).then_some(self.tail)
    }

    /// Number of places in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[derive(Debug, Clone, Copy)]
struct Neighbours {
    prev: u32,
    next: u32,
}

/// The links of any number of lists, of which a place is in one at most.
#[derive(Debug, Default)]
pub(super) struct Links {
    places: Vec<Neighbours>,
}

impl Links {
    /// Appends a place that is in no list.
    pub(super) fn append(&mut self, list: &mut List, place: u32) {
        if self.places.len() <= place as usize {
            self.places.resize(place as usize + 1, Neighbours { prev: NONE, next: NONE });
        }
        list.len += 1;
        let prev = std::mem::replace(&mut list.tail, place);
        match prev {
            NONE => list.head = place,
            prev => self.places[prev as usize].next = place,
        }
        self.places[place as usize] = Neighbours { prev, next: NONE };
    }

    /// Takes a place out of the list it is in.
    pub(super) fn take_out(&mut self, list: &mut List, place: u32) {
        list.len -= 1;
        let Neighbours { prev, next } = self.places[place as usize];
        match prev {
            NONE => list.head = next,
            prev => self.places[prev as usize].next = next,
        }
        match next {
            NONE => list.tail = prev,
            next => self.places[next as usize].prev = prev,
        }
    }

    /// The places of a list, in order.
    #[cfg(test)]
    pub(super) fn places_of(&self, list: &List) -> Vec<u32> {
        let next = |place: &u32| match self.places[*place as usize].next {
            NONE => None,
            next => Some(next),
        };
        std::iter::successors(list.first(), next).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::samples::cases;

    proptest! {
        #![proptest_config(cases(1000))]

        #[test]
        fn two_lists_over_the_same_places_are_what_two_queues_are(
            steps in prop::collection::vec((0u32..12, any::<bool>()), 1..80),
        ) {
            let (mut links, mut lists) = (Links::default(), [List::EMPTY; 2]);
            let mut model = [VecDeque::new(), VecDeque::new()];
            for (place, second) in steps {
                match model.iter().position(|queue: &VecDeque<u32>| queue.contains(&place)) {
                    Some(at) => {
                        links.take_out(&mut lists[at], place);
                        model[at].retain(|other| *other != place);
                    }
                    None => {
                        links.append(&mut lists[usize::from(second)], place);
                        model[usize::from(second)].push_back(place);
                    }
                }
                for (list, queue) in lists.iter().zip(&model) {
                    prop_assert_eq!(links.places_of(list), queue.iter().copied().collect::<Vec<_>>());
                    prop_assert_eq!(list.len(), queue.len());
                    prop_assert_eq!((list.first(), list.last()), (queue.front().copied(), queue.back().copied()));
                }
            }
        }
    }
}
