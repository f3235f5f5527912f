//! Remarks for people about what could not be said.

/// Most remarks that are kept: one a Service, of a cluster in which something is wrong with all of them, would be read by nobody.
const MOST: usize = 100;

/// Remarks, each a line.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Those that are kept, each once.
    lines: Vec<String>,
    /// Number of those that are not.
    more: usize,
}

impl Notes {
    /// Adds a line, unless it is there already.
    pub(super) fn add(&mut self, line: String) {
        if self.lines.contains(&line) {
            return;
        }
        if self.lines.len() < MOST {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    /// Returns the lines, and one more with the number of those that were not kept.
    pub(super) fn finish(self) -> Vec<String> {
        let Self { mut lines, more } = self;
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_kept_once_and_what_is_beyond_the_bound_is_counted() {
        let mut notes = Notes::default();
        for number in 0..MOST + 3 {
            notes.add(format!("note {number}"));
            notes.add("note 0".to_owned());
        }
        let lines = notes.finish();
        assert_eq!(lines.len(), MOST + 1);
        assert_eq!((lines[0].as_str(), lines[MOST].as_str()), ("note 0", "and 3 more"));
    }
}
