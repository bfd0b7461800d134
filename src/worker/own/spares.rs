//! How many browsers have to be warm before anybody asks for one: as many as the configuration wants
//! in any case, and as many as are likely to be asked for while one starts. Pure.

use crate::worker::fill::{FillRate, Lead};
use std::time::{Duration, Instant};

/// How long there may be more of them than are wanted, until the first one is ended: arrivals come in
/// waves.
const SURPLUS_STAYS: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the start of a spare waits after a session came, as long as another one is warm: a start takes a processor
/// for a second, and the session's first page had better not wait for it.
const AFTER_ARRIVAL: Duration = Duration::from_millis(250);

/// What there is of one worker's browsers at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Most processes that there may be.
    pub most: u32,
    /// Warm, and nobody's.
    pub idle: u32,
    /// On their way.
    pub starting: u32,
    /// With sessions, or about to be gone.
    pub taken: u32,
    /// Sessions that have a seat and no browser yet: one of those that are idle or on their way is meant for each.
    pub pending: u32,
}

/// What to do about the spares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    Start,
    /// End one that nobody is likely to want.
    End,
    Nothing,
}

/// See the module's description.
#[derive(Debug)]
pub struct Spares {
    fill: FillRate,
    lead: Lead,
    /// Starts that failed in a row.
    failures: u32,
    /// No spare is started before this.
    not_before: Option<Instant>,
    surplus_since: Option<Instant>,
    last_asked: Option<Instant>,
}

impl Spares {
    /// After a first start that took so long.
    pub fn new(lead: Duration) -> Spares {
        Spares {
            fill: FillRate::default(),
            lead: Lead::first(lead),
            failures: 0,
            not_before: None,
            surplus_since: None,
            last_asked: None,
        }
    }

    /// Somebody asked for a browser.
    pub fn asked(&mut self, now: Instant) {
        self.fill.observe(now, 1);
        self.last_asked = Some(now);
    }

    /// A browser is warm, after so long.
    pub fn started(&mut self, took: Duration) {
        self.lead.measured(took);
        self.failures = 0;
    }

    /// One did not start. Returns how many have not in a row.
    pub fn failed(&mut self, now: Instant) -> u32 {
        self.failures += 1;
        let doubled = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(16));
        self.not_before = Some(now + doubled.min(LONGEST_PAUSE));
        self.failures
    }

    /// Whether the last one did not start.
    pub fn fails(&self) -> bool {
        self.failures > 0
    }

    /// How many are to be idle or on their way, of which `least` in any case.
    pub fn wanted(&self, now: Instant, least: u32, stock: Stock) -> u32 {
        let expected = self.fill.expected(now, self.lead.with_margin());
        least
            .max(expected)
            .min(stock.most.saturating_sub(stock.taken + stock.pending))
    }

    /// Whether more are likely to be asked for while one starts than are warm: a spare that waited for its turn
    /// would come too late for somebody.
    pub fn are_short(&self, now: Instant, stock: Stock) -> bool {
        self.fill.expected(now, self.lead.time()) > stock.idle
    }

    /// What to do next, with `least` spares in any case.
    pub fn advice(&mut self, now: Instant, least: u32, stock: Stock) -> Advice {
        let wanted = self.wanted(now, least, stock);
        let there = stock.idle + stock.starting;
        if there <= wanted {
            self.surplus_since = None;
        }
        let has_time = stock.idle > stock.pending && !self.are_short(now, stock);
        let too_soon = has_time && self.last_asked.is_some_and(|at| now < at + AFTER_ARRIVAL);
        if there < wanted && !too_soon && self.not_before.is_none_or(|time| now >= time) {
            return Advice::Start;
        }
        // Beyond the most there may be, nobody waits for it to become usual.
        let too_many = there + stock.taken > stock.most;
        let stays = *self.surplus_since.get_or_insert(now) + SURPLUS_STAYS > now;
        let has_surplus = stock.idle > stock.pending;
        if has_surplus && (too_many || (there > wanted && !stays)) {
            return Advice::End;
        }
        Advice::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stock(most: u32, idle: u32, starting: u32, taken: u32) -> Stock {
        Stock {
            most,
            idle,
            starting,
            taken,
            pending: 0,
        }
    }

    #[test]
    fn one_is_started_for_each_that_is_taken() {
        let mut spares = Spares::new(SECOND);
        let now = Instant::now();
        assert_eq!(spares.advice(now, 1, stock(8, 0, 0, 1)), Advice::Start);
        assert_eq!(spares.advice(now, 1, stock(8, 0, 1, 1)), Advice::Nothing);
        assert_eq!(spares.advice(now, 1, stock(8, 1, 0, 7)), Advice::Nothing);
        assert_eq!(
            spares.advice(now, 1, stock(8, 0, 0, 8)),
            Advice::Nothing,
            "all are taken"
        );
        assert_eq!(
            spares.advice(now, 0, stock(8, 0, 0, 1)),
            Advice::Nothing,
            "none is wanted"
        );
    }

    #[test]
    fn a_stream_of_arrivals_has_as_many_as_come_while_one_starts() {
        let mut spares = Spares::new(SECOND);
        let start = Instant::now();
        for tenth in 0..50 {
            spares.asked(start + SECOND / 10 * tenth);
        }
        let now = start + SECOND * 5;
        let wanted = spares.wanted(now, 1, stock(100, 0, 0, 0));
        assert!((13..=17).contains(&wanted), "{wanted}");
        assert_eq!(
            spares.wanted(now, 1, stock(20, 0, 0, 15)),
            5,
            "and no more than there may be"
        );
        let later = now + SECOND * 60;
        assert!(spares.wanted(later, 1, stock(100, 0, 0, 0)) <= 2);
        assert_eq!(
            spares.advice(later, 1, stock(100, 9, 0, 0)),
            Advice::Nothing
        );
        let much_later = later + SURPLUS_STAYS;
        assert_eq!(
            spares.advice(much_later, 1, stock(100, 9, 0, 0)),
            Advice::End
        );
    }

    #[test]
    fn they_are_short_when_fewer_are_warm_than_come_while_one_starts() {
        let mut spares = Spares::new(SECOND);
        let start = Instant::now();
        assert!(!spares.are_short(start, stock(20, 0, 0, 0)), "nobody comes");
        for tenth in 0..50 {
            spares.asked(start + SECOND / 10 * tenth);
        }
        let now = start + SECOND * 5;
        assert!(spares.are_short(now, stock(100, 5, 0, 0)));
        assert!(!spares.are_short(now, stock(100, 13, 0, 0)));
        let later = now + SECOND * 60;
        assert!(!spares.are_short(later, stock(100, 2, 0, 0)));
    }

    #[test]
    fn what_does_not_start_is_tried_again_later_and_later() {
        let mut spares = Spares::new(SECOND);
        let now = Instant::now();
        spares.failed(now);
        assert_eq!(spares.advice(now, 1, stock(8, 0, 0, 0)), Advice::Nothing);
        let later = now + FIRST_PAUSE;
        assert_eq!(spares.advice(later, 1, stock(8, 0, 0, 0)), Advice::Start);
        assert_eq!(spares.failed(later), 2);
        assert_eq!(
            spares.advice(later + FIRST_PAUSE, 1, stock(8, 0, 0, 0)),
            Advice::Nothing
        );
        spares.started(SECOND);
        assert!(!spares.fails());
    }

    #[test]
    fn spares_that_are_meant_for_somebody_are_not_too_many() {
        let mut spares = Spares::new(SECOND);
        let now = Instant::now();
        let meant = Stock {
            pending: 2,
            ..stock(18, 2, 8, 8)
        };
        assert_eq!(spares.advice(now, 10, meant), Advice::Nothing);
        assert_eq!(spares.advice(now, 10, stock(18, 2, 8, 10)), Advice::End);
    }

    #[test]
    fn a_session_that_has_come_is_not_slowed_by_a_start_that_has_time() {
        let mut spares = Spares::new(SECOND);
        let now = Instant::now();
        spares.asked(now);
        assert_eq!(spares.advice(now, 2, stock(8, 1, 0, 1)), Advice::Nothing);
        assert_eq!(
            spares.advice(now, 2, stock(8, 0, 0, 1)),
            Advice::Start,
            "none is warm"
        );
        let later = now + AFTER_ARRIVAL;
        assert_eq!(spares.advice(later, 2, stock(8, 1, 0, 1)), Advice::Start);
    }

    proptest! {
        #[test]
        fn nobody_loses_the_spare_that_is_meant_for_them(
            most in 1u32..20, least in 0u32..20, idle in 0u32..20, starting in 0u32..20, taken in 0u32..20,
            pending in 0u32..20, later in 0u32..100,
        ) {
            let mut spares = Spares::new(SECOND);
            let now = Instant::now();
            let mut stock = stock(most, idle, starting, taken);
            stock.pending = pending;
            spares.advice(now, least, stock);
            let advice = spares.advice(now + SECOND * later, least, stock);
            prop_assert!(advice != Advice::End || idle > pending);
            prop_assert!(advice != Advice::Start || idle + starting + taken < most);
        }

        /// Following the advice comes to rest, with no more processes than there may be, unless
        /// sessions have them.
        #[test]
        fn advice_comes_to_rest(
            most in 1u32..20, least in 0u32..5, idle in 0u32..20, taken in 0u32..20, asked in 0u32..40,
        ) {
            let mut spares = Spares::new(SECOND);
            let start = Instant::now();
            (0..asked).for_each(|n| spares.asked(start + SECOND / 20 * n));
            let mut now = start + SECOND * 3;
            let mut stock = stock(most, idle, 0, taken);
            for _ in 0..200 {
                match spares.advice(now, least, stock) {
                    Advice::Start => stock.starting += 1,
                    Advice::End => stock.idle -= 1,
                    Advice::Nothing => {}
                }
                stock.idle += std::mem::take(&mut stock.starting);
                now += SECOND;
            }
            prop_assert_eq!(stock.idle, least.min(most.saturating_sub(taken)));
        }
    }
}
