//! How fast a worker fills: sessions given to it per second, from its lifetime counter. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(10);
/// Observations closer together than this count as one.
const SPACING: Duration = Duration::from_millis(250);

/// The recent course of one worker's lifetime counter.
#[derive(Debug, Default)]
pub struct FillRate {
    seen: VecDeque<(Instant, u32)>,
}

impl FillRate {
    /// Takes note of the counter. It may go back by a session that was refunded.
    pub fn observe(&mut self, now: Instant, lifetime: u32) {
        while self.seen.len() > 1 && now.duration_since(self.seen[1].0) >= WINDOW {
            self.seen.pop_front();
        }
        // The newest is replaced until it is far enough from the one before it.
        let before_last = self.seen.len().checked_sub(2).map(|at| self.seen[at].0);
        if before_last.is_some_and(|at| now.duration_since(at) < SPACING) {
            self.seen.pop_back();
        }
        self.seen.push_back((now, lifetime));
    }

    /// Sessions that are to be expected within `time`, from the rate so far.
    pub fn expected(&self, now: Instant, time: Duration) -> u32 {
        let (Some((since, first)), Some((_, last))) = (self.seen.front(), self.seen.back()) else {
            return 0;
        };
        let span = now.duration_since(*since).max(SPACING).as_secs_f64();
        let rate = f64::from(last.saturating_sub(*first)) / span;
        // The cast saturates, and the rate is finite.
        (rate * time.as_secs_f64()).round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_steady_stream_goes_on() {
        let start = Instant::now();
        let mut rate = FillRate::default();
        for tenth in 0..300 {
            // Ten sessions a second for thirty seconds.
            rate.observe(start + Duration::from_millis(100 * tenth), tenth as u32);
        }
        let now = start + Duration::from_millis(29_900);
        let expected = rate.expected(now, Duration::from_secs(2));
        assert!((19..=21).contains(&expected), "{expected}");
        let later = now + Duration::from_secs(60);
        assert!(
            rate.expected(later, Duration::from_secs(2)) <= 3,
            "it has dried up"
        );
    }

    #[test]
    fn nothing_seen_nothing_expected() {
        let rate = FillRate::default();
        assert_eq!(rate.expected(Instant::now(), Duration::from_secs(9)), 0);
    }

    proptest! {
        #[test]
        fn never_keeps_more_than_the_window(gaps in prop::collection::vec(0u64..2000, 0..300)) {
            let mut rate = FillRate::default();
            let mut now = Instant::now();
            for (lifetime, gap) in gaps.into_iter().enumerate() {
                now += Duration::from_millis(gap);
                rate.observe(now, lifetime as u32);
                let most = WINDOW.as_millis() / SPACING.as_millis() + 3;
                prop_assert!(rate.seen.len() as u128 <= most);
            }
        }
    }
}
