//! When browsers are replaced, and how.

use super::{never, seconds, time};
use crate::config::{Limits, Role};
use crate::model::words;
use crate::settings::forms::{choice, decimal, number, optional, size};
use crate::settings::section;
use std::time::Duration;

section! {
    /// When browsers are replaced, and how.
    #[derive(Copy)]
    pub struct Recycle: hot "recycle" (_role: Role)

    /// How a browser at its lifetime limit is replaced: the replacement is warm before the old one
    /// drains, or the process drains, exits 0 and is started anew by its orchestrator.
    mode: RecycleMode = RecycleMode::MakeBeforeBreak, choice(RecycleMode::WORDS);

    /// How far beyond its limit a worker goes while its replacement is not ready, as a multiple of
    /// the limit; 1 makes the limit hard, even when that costs a seat.
    // A replacement takes a second to warm, so at twice the limit something is wrong with it.
    ceiling: f64 = 2.0, decimal(1.0..=1000.0);

    /// Browsers warming up at once in one process: its first ones, and replacements. A worker that
    /// has lost its seats waits for nobody.
    // A starting browser takes a whole core for a second; one at a time keeps sessions quick.
    max_parallel: usize = 1, number(1..=1000);

    /// Replacements warming up at once in the whole grid; 0 = no limit. Small numbers make large
    /// grids lose seats: with 1, simulated, 1,000 busy workers refuse more than half of their
    /// sessions.
    // Machines do not slow each other down.
    max_parallel_grid: usize = 0, number(0..=1_000_000);

    /// With `mode: exit`: workers of one browser out of service at once in the whole grid.
    // Capacity never dips by more than one worker.
    max_unavailable: usize = 1, number(1..=1_000_000);

    /// Old browsers of one worker that wait for their last session. While there are so many, the
    /// one that serves goes on to its ceiling.
    // One that has long sessions, and the next one with the same fate; each costs some 200 MB.
    max_draining: usize = 2, number(1..=1000);

    /// How long the sessions of a browser that was replaced may go on; never = to their end.
    drain_timeout: Option<Duration> = None, never();

    /// Recycles a browser when it and the old ones of its worker use more than this, and ends an
    /// old one that then goes on growing.
    max_memory: Option<u64> = None, optional("none", size(64 << 20..=1 << 44));

    /// Recycles a browser older than this.
    max_age: Option<Duration> = None, never();

    /// Recycles a browser after this many checks in a row that failed at first; 0 = never. One that
    /// fails a second time is ended at once.
    // One failed check may be a busy moment, three in a row are the browser's doing.
    max_failures: u32 = 3, number(0..=1_000_000);

    /// How long the order to recycle stands.
    // The original's.
    command_ttl: Duration = seconds(60), time(), .env(&["SHUTDOWN_COMMAND_TTL"]);
}

impl Recycle {
    /// Sessions that a worker which replaces itself takes at most while its replacement is not
    /// there, if `limits` has its life.
    pub fn ceiling_of(&self, limits: &Limits) -> u32 {
        let limit = limits.max_lifetime_sessions;
        if limits.isolate() {
            return limit;
        }
        stretched(limit, self.ceiling)
    }
}

/// A limit of sessions times `recycle.ceiling`.
pub fn stretched(limit: u32, ceiling: f64) -> u32 {
    // Rounded down; the cast saturates.
    limit.max((f64::from(limit) * ceiling) as u32)
}

words! {
    /// How a browser at its limit is replaced.
    pub enum RecycleMode ("mode") {
        /// The replacement is warm before the old browser drains.
        MakeBeforeBreak = "make_before_break",
        /// Drain, exit 0, and let the orchestrator start a new one.
        Exit = "exit",
    }
}
