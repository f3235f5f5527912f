//! Limits of the process.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Open files that are assumed where /proc does not tell: a program with 16 lanes has some 200.
const ASSUMED: usize = 256;

/// Returns the number of files that may be opened beside those that are open now (RLIMIT_NOFILE, getrlimit(2)).
pub(crate) fn files_left() -> usize {
    let most = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| most as usize);
    // One of them is the directory itself.
    let open = fs::read_dir("/proc/self/fd").map_or(ASSUMED, |files| files.count().saturating_sub(1));
    most.saturating_sub(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_opened_are_left_no_more() {
        let before = files_left();
        let open: Vec<_> = (0..500).map_while(|_| fs::File::open("/dev/null").ok()).collect();
        // Other tests of this process open and close theirs meanwhile.
        let taken = before.saturating_sub(files_left());
        assert!(taken > open.len() / 2, "{taken} of {}", open.len());
    }
}
