//! Up to which revision this process was told of every change. Pure.
//!
//! Each message of changes names the revisions that it covers: behind which one they begin, and their
//! last. Messages of one connection are complete and in order, so that whoever has seen them all knows
//! the fleet without reading it; where one is missing, what has changed since is read.

/// See the module's description.
#[derive(Debug, Default)]
pub struct Revisions {
    /// Everything up to this one is known; `None` before the fleet was read.
    told: Option<u64>,
    /// The last messages that do not follow on it: behind which revision they begin, and their last.
    ahead: Option<(u64, u64)>,
}

impl Revisions {
    /// Changes behind `before` and up to `last` were told.
    pub fn hear(&mut self, before: u64, last: u64) {
        match self.ahead {
            Some((begin, end)) if before <= end => self.ahead = Some((begin, end.max(last))),
            _ => self.ahead = Some((before, last)),
        }
        self.join();
    }

    /// Whatever changed up to this revision is known.
    pub fn catch_up(&mut self, revision: u64) {
        self.told = self.told.max(Some(revision));
        self.join();
    }

    fn join(&mut self) {
        if let (Some(told), Some((begin, end))) = (self.told, self.ahead)
            && begin <= told
        {
            self.told = Some(told.max(end));
            self.ahead = None;
        }
    }

    /// It is another grid, of which nothing is known.
    pub fn forget(&mut self) {
        *self = Revisions::default();
    }

    /// Up to which revision everything is known; `None` when the fleet has to be read.
    pub fn known_up_to(&self) -> Option<u64> {
        self.told
    }

    /// Whether there were changes, up to this revision of the store, that were not told.
    pub fn misses(&self, revision: u64) -> bool {
        self.told
            .is_some_and(|told| told < revision || self.ahead.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_has_not_read_the_fleet_misses_nothing_and_knows_nothing() {
        let mut revisions = Revisions::default();
        revisions.hear(4, 7);
        assert_eq!(revisions.known_up_to(), None);
        assert!(!revisions.misses(9));
        // The reading ended before what was told meanwhile.
        revisions.catch_up(5);
        assert_eq!(revisions.known_up_to(), Some(7));
        assert!(revisions.misses(8));
        assert!(!revisions.misses(7));
    }

    proptest! {
        /// Some of the messages are lost; what is told is a run without a gap, and a gap is noticed.
        #[test]
        fn everything_up_to_what_is_told_was_heard_or_read(
            sizes in proptest::collection::vec((1..4u64, any::<bool>()), 1..40),
            read_at in 0..40usize,
        ) {
            let (mut revisions, mut heard, mut last) = (Revisions::default(), vec![], 100);
            revisions.catch_up(last);
            for (n, (size, lost)) in sizes.iter().enumerate() {
                let before = last;
                last += size;
                if !lost {
                    revisions.hear(before, last);
                    heard.extend(before + 1..=last);
                }
                if n == read_at {
                    revisions.catch_up(last);
                    heard = (101..=last).collect();
                }
                let told = revisions.known_up_to().unwrap();
                prop_assert!((101..=told).all(|it| heard.contains(&it)));
                let complete = (101..=last).all(|it| heard.contains(&it));
                prop_assert_eq!(revisions.misses(last), !complete);
            }
        }
    }
}
