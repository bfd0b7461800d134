//! Redis' clock as it stands beside this process's own: by it the clients of all proxies are told
//! apart by when they came. Pure; it is told what Redis showed, and when it was asked.
//!
//! Redis reads its clock some time after a question set out and some time before the answer is there.
//! Each answer so gives the least and the most by which its clock is ahead of ours. What is kept is
//! the least upper bound, which is that of the quickest question: a later one, which met a busy
//! machine, changes nothing. So a moment is never told too early by this clock, and too late by no
//! more than the quickest question took.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// In the place of a difference of clocks.
const UNKNOWN: i64 = i64::MIN;

/// How far Redis' clock is ahead of this process'.
pub struct ServerClock {
    /// Where our own clock begins.
    zero: Instant,
    /// By how many microseconds Redis' clock is ahead of ours at most; [`UNKNOWN`]
    /// before the first answer.
    ahead: AtomicI64,
}

impl ServerClock {
    /// Knows nothing yet; this process' time counts from `zero`.
    pub fn new(zero: Instant) -> ServerClock {
        ServerClock {
            zero,
            ahead: AtomicI64::new(UNKNOWN),
        }
    }

    /// Redis was `asked` for its time, which it `showed` in microseconds, and `heard` to answer. A bound that
    /// this contradicts is dropped: one of the clocks was set, or it is another Redis.
    pub fn observe(&self, asked: Instant, heard: Instant, showed: i64) {
        let (least, most) = (showed - self.micros(heard), showed - self.micros(asked));
        let better = |ahead| (!(least..=most).contains(&ahead)).then_some(most);
        // An error says that what is known holds.
        self.ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, better)
            .ok();
    }

    /// What Redis' clock showed at this moment, in microseconds; at the latest.
    pub fn at(&self, moment: Instant) -> Option<i64> {
        let ahead = self.ahead.load(Ordering::Relaxed);
        (ahead != UNKNOWN).then(|| self.micros(moment) + ahead)
    }

    /// Negative before the beginning.
    fn micros(&self, moment: Instant) -> i64 {
        let after = moment.saturating_duration_since(self.zero);
        let before = self.zero.saturating_duration_since(moment);
        after.as_micros() as i64 - before.as_micros() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    /// Far from zero, as a clock's time is.
    const AHEAD: i64 = 1_700_000_000_000_000;

    fn after(zero: Instant, micros: u64) -> Instant {
        zero + Duration::from_micros(micros)
    }

    #[test]
    fn nothing_is_known_before_the_first_answer() {
        let zero = Instant::now();
        assert_eq!(ServerClock::new(zero).at(zero), None);
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let zero = Instant::now();
        let clock = ServerClock::new(zero);
        clock.observe(after(zero, 100), after(zero, 300), AHEAD + 200);
        for by in [-3_600_000_000, 7_200_000_000] {
            clock.observe(after(zero, 1000), after(zero, 1300), AHEAD + 1100 + by);
            assert_eq!(clock.at(after(zero, 1000)), Some(AHEAD + 1100 + by));
        }
    }

    #[test]
    fn a_moment_before_the_beginning_is_one_too() {
        let zero = Instant::now();
        let begun = after(zero, 5000);
        let clock = ServerClock::new(begun);
        clock.observe(begun, begun, AHEAD);
        assert_eq!(clock.at(zero), Some(AHEAD - 5000));
    }

    proptest! {
        /// However slow some questions and answers are.
        #[test]
        fn a_moment_is_never_too_early_and_too_late_by_the_quickest_question_at_most(
            ways in proptest::collection::vec((0..1_000_000u64, 0..1_000_000u64), 1..20),
            moment in 0..10_000_000u64,
        ) {
            let zero = Instant::now();
            let clock = ServerClock::new(zero);
            let mut now = 0;
            for (there, back) in &ways {
                let showed = AHEAD + (now + there) as i64;
                clock.observe(after(zero, now), after(zero, now + there + back), showed);
                now += there + back;
            }
            let quickest = ways.iter().map(|(there, _)| *there).min().unwrap() as i64;
            let off = clock.at(after(zero, moment)).unwrap() - (AHEAD + moment as i64);
            prop_assert_eq!(off, quickest);
        }
    }
}
