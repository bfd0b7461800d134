//! What a strategy decides, and all that it decides: by what workers below their limits are compared,
//! and from where on they are the last of them. [`policy`](super::policy) and [`index`](super::index)
//! rank by it; another strategy is another member of [`Strategy`] and its arms here.

use super::policy::Facts;
use crate::config::Strategy;

/// By what two workers below their lifetime limits are compared, first and second; the lower one is
/// filled first. `left` are the sessions that the worker has left until its limit.
pub fn order(strategy: Strategy, worker: &Facts, left: u32) -> (u32, u32) {
    match strategy {
        Strategy::LifetimeFirst => (left, worker.active),
        Strategy::LeastActive => (worker.active, worker.lifetime),
    }
}

/// Up to how many sessions left a worker with this limit is behind the others below their limits,
/// when `workers` workers of its browser and seat take sessions; `None` puts nobody behind.
pub fn margin(strategy: Strategy, limit: u32, workers: usize) -> Option<u32> {
    match strategy {
        Strategy::LifetimeFirst => Some(restart_margin(limit, workers)),
        Strategy::LeastActive => None,
    }
}

/// The distance that keeps one worker's restart clear of the next one's: `max(1, limit / workers)`.
/// Closed workers do not count, because they share none of the load.
pub(super) fn restart_margin(limit: u32, workers: usize) -> u32 {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
    (limit / workers).max(1)
}
