//! The order in which workers are filled, as a pure function: the specification.
//!
//! Owns eligibility and the order. Looks at every worker each time; [`super::index`] answers the
//! same question quickly and is tested against this.

use super::strategy::{margin, order};
use crate::config::{Limits, Recycle, Selection, Strategy, isolates, stretched};
use crate::model::{Pool, SeatKind, Size, Version, WorkerKey};
use std::net::SocketAddr;

/// One worker as selection sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub key: WorkerKey,
    /// Where it is dialled. Two workers may share an address and differ in the path only.
    pub address: SocketAddr,
    /// Playwright's version; a worker that does not tell is offered to every client.
    pub version: Option<Version>,
    pub seat: SeatKind,
    pub size: Size,
    /// Open or reserved sessions.
    pub active: u32,
    /// Sessions ever given to it.
    pub lifetime: u32,
    /// When its browser was started, in milliseconds since the epoch.
    pub started_at: u64,
    /// Available, alive and healthy, as far as this proxy knows.
    pub takes_sessions: bool,
    /// Sessions failed there, and whether it works is not known yet: the last choice.
    pub suspected: bool,
    /// Whether it warms up its replacement before it drains. Then it goes on past its lifetime
    /// limit up to the ceiling rather than cost a seat; others go on until their turn to recycle.
    pub replaces_itself: bool,
}

/// How far workers are filled, and in which order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    pub strategy: Strategy,
    /// Sessions at once on one worker, where its [size](Facts::size) does not say.
    pub max_concurrent_sessions: u32,
    /// Sessions until a worker is recycled, where its size does not say; `None` = never recycled.
    pub max_lifetime_sessions: Option<u32>,
    /// Sessions that a worker which [replaces itself](Facts::replaces_itself) takes at most while
    /// its replacement is not there, as a multiple of its limit. `None` makes the limit hard for all.
    pub ceiling: Option<f64>,
}

/// How far one worker is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions at once.
    pub max_concurrent_sessions: u32,
    /// Sessions until it is recycled; `None` = never recycled.
    pub max_lifetime_sessions: Option<u32>,
    /// Sessions that it takes at most if it replaces itself; `None` makes `max_lifetime_sessions` hard.
    pub ceiling: Option<u32>,
}

impl Bounds {
    /// The number of lifetime sessions from which on the worker takes no more; `None` = no end.
    pub fn lifetime_cap(&self, replaces_itself: bool) -> Option<u32> {
        let limit = self.max_lifetime_sessions?;
        match self.ceiling {
            None => Some(limit),
            Some(ceiling) if replaces_itself => Some(limit.max(ceiling)),
            // It goes on until its turn to recycle comes; a bound would cost its seats before.
            Some(_) => Some(u32::MAX),
        }
    }

    /// Sessions that are left until the limit. Of workers without one, the one that has had most is
    /// said to have fewest left, and more than any that has a limit.
    pub fn left(&self, lifetime: u32) -> u32 {
        self.max_lifetime_sessions
            .unwrap_or(u32::MAX)
            .saturating_sub(lifetime)
    }

    /// Sessions beyond the limit; `None` below it.
    pub fn excess(&self, lifetime: u32) -> Option<u32> {
        lifetime.checked_sub(self.max_lifetime_sessions?)
    }
}

impl Facts {
    /// The pool that the worker belongs to.
    pub fn pool(&self) -> Pool {
        Pool {
            browser: self.key.browser,
            version: self.version,
            seat: self.seat,
        }
    }
}

impl Policy {
    /// The policy that a configuration asks for.
    pub fn new(limits: &Limits, selection: &Selection, recycle: &Recycle) -> Policy {
        Policy {
            strategy: selection.strategy,
            max_concurrent_sessions: limits.max_concurrent_sessions,
            max_lifetime_sessions: limits.lifetime(),
            ceiling: (recycle.ceiling > 1.0).then_some(recycle.ceiling),
        }
    }

    /// How far a worker of this size is filled.
    pub fn bounds(&self, size: Size) -> Bounds {
        let max_concurrent_sessions = size
            .max_concurrent_sessions
            .unwrap_or(self.max_concurrent_sessions);
        let max_lifetime_sessions = match size.max_lifetime_sessions {
            Some(limit) => (limit > 0).then_some(limit),
            None => self.max_lifetime_sessions,
        };
        let isolates = isolates(max_concurrent_sessions, max_lifetime_sessions);
        let ceiling = self.ceiling.filter(|_| !isolates);
        Bounds {
            max_concurrent_sessions,
            max_lifetime_sessions,
            ceiling: ceiling
                .zip(max_lifetime_sessions)
                .map(|(ceiling, limit)| stretched(limit, ceiling)),
        }
    }

    /// Whether a worker has a seat for one more session, whoever asks.
    pub fn has_seat(&self, worker: &Facts) -> bool {
        let bounds = self.bounds(worker.size);
        worker.takes_sessions
            && worker.active < bounds.max_concurrent_sessions
            && bounds
                .lifetime_cap(worker.replaces_itself)
                .is_none_or(|cap| worker.lifetime < cap)
    }
}

/// The workers that can take one more session of this client, best first.
///
/// 1. With more sessions left than the [`margin`]: fewest left first, which among workers of one
///    limit is the highest lifetime first.
/// 2. The rest below their limits, in the same order.
/// 3. Past the limit and below the ceiling: lowest excess first, so that it is shared.
///
/// Suspected workers come after all others, in the same order among themselves.
///
/// Ties: fewest active, then the oldest, then by id. [`Strategy::LeastActive`] puts those of 1 and
/// 2 together: fewest active first, then lowest lifetime, oldest, id. Those without a limit are
/// in 1.
pub fn rank<'a>(workers: &'a [Facts], policy: &Policy, wanted: &Pool) -> Vec<&'a Facts> {
    let of_kind = |it: &&Facts| it.key.browser == wanted.browser && it.seat == wanted.seat;
    let serving = workers.iter().filter(of_kind).filter(|w| w.takes_sessions);
    let serving = serving.count();

    let tier = |worker: &Facts| {
        let bounds = policy.bounds(worker.size);
        let left = bounds.left(worker.lifetime);
        let Some(limit) = bounds.max_lifetime_sessions else {
            return 1;
        };
        match margin(policy.strategy, limit, serving) {
            _ if worker.lifetime >= limit => 3,
            Some(margin) if left <= margin => 2,
            _ => 1,
        }
    };
    let mut ranked: Vec<&Facts> = workers
        .iter()
        .filter(|worker| wanted.accepts(&worker.pool()))
        .filter(|worker| policy.has_seat(worker))
        .collect();
    ranked.sort_by_cached_key(|worker| {
        let bounds = policy.bounds(worker.size);
        let tier = tier(worker);
        let by_strategy = match bounds.excess(worker.lifetime) {
            Some(excess) => (excess, worker.active),
            None => order(policy.strategy, worker, bounds.left(worker.lifetime)),
        };
        let by_age = (worker.started_at, worker.key.id.clone());
        (worker.suspected, tier, by_strategy, by_age)
    });
    ranked
}

#[cfg(test)]
mod tests;
