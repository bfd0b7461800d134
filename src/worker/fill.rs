//! How fast a worker fills: sessions given to it per second, whichever of its browsers got them. And how long
//! before a need a browser has to be started. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(10);
/// Observations closer together than this count as one.
const SPACING: Duration = Duration::from_millis(250);
/// A rate is never taken from less time than this: what comes at once is not a stream yet.
const SHORTEST: Duration = Duration::from_secs(1);

/// What is started for an expected need is started this much earlier.
const LEAD_MARGIN: f64 = 1.5;
/// A slow start is forgotten by this part with each one that is not.
const LEAD_FADES: u32 = 8;

/// How long a browser takes to be warm, as it has to be reckoned with.
#[derive(Clone, Copy, Debug)]
pub struct Lead(Duration);

impl Lead {
    /// After a first start that took so long, or is likely to.
    pub fn first(took: Duration) -> Lead {
        Lead(took)
    }

    /// A start took so long. One quick start does not mean that the next one is.
    pub fn measured(&mut self, took: Duration) {
        self.0 = took.max(self.0 - self.0 / LEAD_FADES);
    }

    /// How long a start takes.
    pub fn time(&self) -> Duration {
        self.0
    }

    /// So much before an expected need a start begins.
    pub fn with_margin(&self) -> Duration {
        self.0.mul_f64(LEAD_MARGIN)
    }
}

/// The recent course of the number of sessions that one worker was ever given.
#[derive(Debug, Default)]
pub struct FillRate {
    given: u64,
    seen: VecDeque<(Instant, u64)>,
}

impl FillRate {
    /// Takes note of `sessions` more; 0 says that there are none.
    pub fn observe(&mut self, now: Instant, sessions: u32) {
        self.given += u64::from(sessions);
        while self.seen.len() > 1 && now.duration_since(self.seen[1].0) >= WINDOW {
            self.seen.pop_front();
        }
        // The newest is replaced until it is far enough from the one before it.
        let before_last = self.seen.len().checked_sub(2).map(|at| self.seen[at].0);
        if before_last.is_some_and(|at| now.duration_since(at) < SPACING) {
            self.seen.pop_back();
        }
        self.seen.push_back((now, self.given));
    }

    /// Sessions that are to be expected within `time`, if it goes on as it does: at the highest
    /// rate of any time so far, so that a rush after a long rest is seen as one.
    pub fn expected(&self, now: Instant, time: Duration) -> u32 {
        let rate = |&(since, before): &(Instant, u64)| {
            let span = now.duration_since(since).max(SHORTEST);
            (self.given - before) as f64 / span.as_secs_f64()
        };
        let rate = self.seen.iter().map(rate).fold(0.0, f64::max);
        // The cast saturates, and the rate is finite.
        (rate * time.as_secs_f64()).round() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: Duration = Duration::from_secs(2);

    /// Ten sessions a second for so many seconds; returns when it ended.
    fn stream(rate: &mut FillRate, start: Instant, seconds: u64) -> Instant {
        let at = |tenth| start + Duration::from_millis(100 * tenth);
        (1..=seconds * 10).for_each(|tenth| rate.observe(at(tenth), 1));
        at(seconds * 10)
    }

    #[test]
    fn a_steady_stream_goes_on_until_it_dries_up() {
        let mut rate = FillRate::default();
        let now = stream(&mut rate, Instant::now(), 30);
        let expected = rate.expected(now, TWO);
        assert!((19..=21).contains(&expected), "{expected}");
        let later = now + Duration::from_secs(60);
        assert!(rate.expected(later, TWO) <= 3, "it has dried up");
    }

    #[test]
    fn a_rush_after_a_long_rest_is_seen_at_once() {
        let mut rate = FillRate::default();
        let start = Instant::now();
        rate.observe(start, 0);
        let now = stream(&mut rate, start + Duration::from_secs(3600), 1);
        let expected = rate.expected(now, TWO);
        assert!((18..=21).contains(&expected), "{expected}");
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
            for gap in gaps {
                now += Duration::from_millis(gap);
                rate.observe(now, 1);
                let most = WINDOW.as_millis() / SPACING.as_millis() + 3;
                prop_assert!(rate.seen.len() as u128 <= most);
            }
        }
    }
}
