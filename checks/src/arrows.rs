//! Arrows between the files of a crate, and the circles that they make.
//!
//! An arrow goes from a file to another one of the same crate in which an item is *defined* that the first names: in a `use`
//! of its own, in a path anywhere in its code, or in the arguments of a macro. These are no arrows:
//!
//! - `mod x;`, and a re-export (`use` with any `pub` before it): a name that a module hands on is followed to its
//!   definition, so who names it depends on the file of the definition and not on those between;
//! - a path that ends at a module (`use crate::sys;`): what is named through it afterwards is (`sys::open()`);
//! - what is compiled for tests alone;
//! - calls of methods: which file an `impl` is in cannot be seen from the call.
//!
//! A circle is a set of files each of which can be reached from each other along arrows. So a child may name a type that its
//! parent defines only if nothing in the parent names what the child, or a file that the child leads to, defines. A circle
//! is undone by moving what both need into a file of its own, which the parent may re-export.

mod resolve;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use crate::{Offence, sources::Room};

/// The files of a crate and the arrows between them.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "for the tests of this repository alone")]
pub struct Plan {
    /// The files, without those of tests alone, relative to the root.
    pub rooms: Vec<PathBuf>,
    /// From which to which, by place in `rooms`, with the first line that shows it and the path that is named there.
    pub arrows: BTreeMap<(usize, usize), (usize, String)>,
}

impl Plan {
    /// Draws the plan of a crate, given all of its files.
    #[must_use]
    pub fn of(rooms: &[Room]) -> Self {
        let rooms: Vec<&Room> = rooms.iter().filter(|room| !room.is_test_only).collect();
        Self { rooms: rooms.iter().map(|room| room.path.clone()).collect(), arrows: resolve::arrows(&rooms) }
    }

    /// The circles: each a set of two files or more, by place in `rooms`.
    #[must_use]
    pub fn circles(&self) -> Vec<BTreeSet<usize>> {
        let reached: Vec<BTreeSet<usize>> = (0..self.rooms.len()).map(|from| self.reached(from)).collect();
        let mut circles: Vec<BTreeSet<usize>> = Vec::new();
        for from in 0..self.rooms.len() {
            if !reached[from].contains(&from) || circles.iter().any(|circle| circle.contains(&from)) {
                continue;
            }
            circles.push(reached[from].iter().copied().filter(|&to| reached[to].contains(&from)).collect());
        }
        circles
    }

    /// The files that arrows lead to from `from`; itself only if it is in a circle.
    fn reached(&self, from: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut left = vec![from];
        while let Some(at) = left.pop() {
            for (&(_, to), _) in self.arrows.range((at, 0)..=(at, usize::MAX)) {
                if reached.insert(to) {
                    left.push(to);
                }
            }
        }
        reached
    }

    /// An offence for each circle, with the arrows that are in it.
    #[must_use]
    pub fn offences(&self) -> Vec<Offence> {
        let offence = |circle: BTreeSet<usize>| {
            let inside = |(from, to): &(usize, usize)| circle.contains(from) && circle.contains(to);
            let arrows =
                self.arrows.iter().filter(|(ends, _)| inside(ends)).map(|(&(from, to), (line, name))| {
                    format!(
                        "\n    {}:{line}: `{name}` of {}",
                        self.rooms[from].display(),
                        self.rooms[to].display()
                    )
                });
            let text = format!("a circle of {} files:{}", circle.len(), arrows.collect::<String>());
            let file = circle.first().map(|&at| self.rooms[at].clone()).unwrap_or_default();
            Offence { file, line: 1, text }
        };
        self.circles().into_iter().map(offence).collect()
    }

    /// The numbers of files, arrows and circles, in words.
    #[must_use]
    pub fn summary(&self) -> String {
        let circles: Vec<String> = self.circles().iter().map(|circle| circle.len().to_string()).collect();
        let of =
            if circles.is_empty() { String::new() } else { format!(" (of {} files)", circles.join(", ")) };
        format!("{} files, {} arrows, {} circles{of}", self.rooms.len(), self.arrows.len(), circles.len())
    }
}

#[cfg(test)]
mod tests;
