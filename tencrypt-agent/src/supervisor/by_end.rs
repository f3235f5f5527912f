//! Values in the order in which they end, beside the order of their keys.

use std::collections::{BTreeMap, BTreeSet};

/// Values by key; each has a rank, and the least of all ranks is found without a search. Every operation takes as many steps
/// as the logarithm of their number.
#[derive(Debug)]
pub(super) struct ByEnd<K, R, V> {
    values: BTreeMap<K, (R, V)>,
    order: BTreeSet<(R, K)>,
}

impl<K: Ord + Clone, R: Ord + Copy, V> ByEnd<K, R, V> {
    /// Makes one without values.
    pub(super) const fn new() -> Self {
        Self { values: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// Returns the number of values.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Adds a value, in place of the one of that key.
    pub(super) fn insert(&mut self, key: K, rank: R, value: V) {
        if let Some((before, _)) = self.values.insert(key.clone(), (rank, value)) {
            self.order.remove(&(before, key.clone()));
        }
        self.order.insert((rank, key));
    }

    /// Removes the value of `key`.
    pub(super) fn remove(&mut self, key: &K) {
        if let Some((rank, _)) = self.values.remove(key) {
            self.order.remove(&(rank, key.clone()));
        }
    }

    /// Removes the value of the least rank, if that rank is one that is `wanted`.
    pub(super) fn pop_first(&mut self, wanted: impl FnOnce(R) -> bool) -> Option<V> {
        let (rank, _) = self.order.first()?;
        if !wanted(*rank) {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.values.remove(&key).map(|(_, value)| value)
    }

    /// Returns the values from the least rank on.
    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        self.order.iter().filter_map(|(_, key)| self.values.get(key)).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, cmp::Ordering};

    use super::*;

    thread_local! {
        static COMPARED: Cell<u64> = const { Cell::new(0) };
    }

    /// A number that counts how often it is compared.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Counted(u32);

    impl PartialOrd for Counted {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Counted {
        fn cmp(&self, other: &Self) -> Ordering {
            COMPARED.set(COMPARED.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    #[test]
    fn the_first_to_end_goes_first_and_a_new_end_counts() {
        let mut values = ByEnd::new();
        for (key, rank) in [("a", 3), ("b", 1), ("c", 2), ("b", 4)] {
            values.insert(key, rank, key);
        }
        assert_eq!((values.len(), values.iter().copied().collect::<Vec<_>>()), (3, vec!["c", "a", "b"]));
        assert_eq!(values.pop_first(|rank| rank < 2), None);
        assert_eq!(values.pop_first(|rank| rank < 3), Some("c"));
        values.remove(&"a");
        assert_eq!((values.len(), values.iter().copied().collect::<Vec<_>>()), (1, vec!["b"]));
    }

    /// A scan of 65,536 values for each one too many stalled whoever did it for half a second an answer.
    #[test]
    fn one_value_too_many_costs_a_few_comparisons_however_many_there_are() {
        const MANY: u32 = 65_536;
        let mut values = ByEnd::new();
        let spread = |number: u32| number.wrapping_mul(0x9e37_79b1);
        (0..MANY).for_each(|number| values.insert(Counted(spread(number)), Counted(spread(!number)), number));
        COMPARED.set(0);
        for number in MANY..MANY + 1_024 {
            values.insert(Counted(spread(number)), Counted(spread(!number)), number);
            assert!(values.pop_first(|_| true).is_some());
        }
        let each = COMPARED.get() / 1_024;
        assert!(each < 400, "{each}");
        assert_eq!(values.len(), MANY as usize);
    }
}
