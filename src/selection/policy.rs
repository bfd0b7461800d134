//! The order in which workers are filled, as a pure function: the specification.
//!
//! Owns eligibility, the order, and the words of a question ([`Wanted`]). Looks at every worker
//! each time; [`super::index`] answers the same question quickly and is tested against this.

use crate::config::{Limits, Recycle, Selection, Strategy};
use crate::model::{Browser, Version, WorkerKey};
use std::cmp::Reverse;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// One worker as selection sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub key: WorkerKey,
    /// Where it is dialled. Two workers may share an address and differ in the path only.
    pub address: SocketAddr,
    /// Playwright's version; a worker that does not tell is offered to every client.
    pub version: Option<Version>,
    /// Open or reserved sessions.
    pub active: u32,
    /// Sessions ever given to it.
    pub lifetime: u32,
    /// When its browser was started, in milliseconds since the epoch.
    pub started_at: u64,
    /// Available, alive and healthy, as far as this proxy knows.
    pub open: bool,
    /// Sessions failed there, and whether it works is not known yet: the last choice.
    pub suspected: bool,
    /// Whether it warms up its replacement before it drains. Then it goes on past its lifetime
    /// limit up to the ceiling rather than cost a seat; others go on until their turn to recycle.
    pub replaces_itself: bool,
}

/// How far workers are filled, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub strategy: Strategy,
    /// Sessions at once on one worker.
    pub max_active: u32,
    /// Sessions until a worker is recycled; `None` = never recycled.
    pub max_lifetime: Option<u32>,
    /// Sessions that a worker which [replaces itself](Facts::replaces_itself) takes at most while
    /// its replacement is not there. `None` makes `max_lifetime` hard for all.
    pub ceiling: Option<u32>,
}

impl Policy {
    /// The policy that a configuration asks for.
    pub fn new(limits: &Limits, selection: &Selection, recycle: &Recycle) -> Policy {
        let limit = limits.max_lifetime_sessions;
        Policy {
            strategy: selection.strategy,
            max_active: limits.max_concurrent_sessions,
            max_lifetime: (limit > 0).then_some(limit),
            ceiling: (recycle.ceiling > 1.0 && !limits.isolate())
                .then(|| recycle.ceiling_of(limits)),
        }
    }

    /// The number of lifetime sessions from which on a worker takes no more; `None` = no end.
    pub fn lifetime_cap(&self, replaces_itself: bool) -> Option<u32> {
        let limit = self.max_lifetime?;
        match self.ceiling {
            None => Some(limit),
            Some(ceiling) if replaces_itself => Some(limit.max(ceiling)),
            // It goes on until its turn to recycle comes; a bound would cost its seats before.
            Some(_) => Some(u32::MAX),
        }
    }

    /// Whether a worker has a seat for one more session, whoever asks.
    pub fn has_seat(&self, worker: &Facts) -> bool {
        worker.open
            && worker.active < self.max_active
            && self
                .lifetime_cap(worker.replaces_itself)
                .is_none_or(|cap| worker.lifetime < cap)
    }

    /// The lifetime below which a worker is among the first choice, `limit - margin`, when `open`
    /// workers of its browser are open, whatever their version, full ones included. `None` when
    /// the order knows no such line: no limit, or another strategy.
    ///
    /// The margin, `max(1, limit / open)`, is the distance that keeps one worker's restart clear of
    /// the next one's. Closed workers do not count, because they share none of the load.
    pub fn threshold(&self, open: usize) -> Option<u32> {
        let limit = self.max_lifetime?;
        match self.strategy {
            Strategy::LeastActive => None,
            Strategy::LifetimeFirst => {
                let open = u32::try_from(open).unwrap_or(u32::MAX).max(1);
                Some(limit.saturating_sub((limit / open).max(1)))
            }
        }
    }
}

/// What a client asks for. As bytes, the key of a selection: `chromium/1.65`, or `chromium` from a
/// client that does not tell its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub browser: Browser,
    /// Playwright's version; without one, every worker of the browser will do.
    pub version: Option<Version>,
}

impl Wanted {
    /// Whether a worker of this version can serve the client; the browser is compared elsewhere.
    pub fn accepts(&self, version: Option<Version>) -> bool {
        version.is_none() || self.version.is_none() || version == self.version
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}/{version}", self.browser),
            None => write!(f, "{}", self.browser),
        }
    }
}

impl FromStr for Wanted {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (browser, version) = match text.split_once('/') {
            Some((browser, version)) => (browser, Some(version.parse().map_err(|_| ())?)),
            None => (text, None),
        };
        Ok(Wanted {
            browser: browser.parse().map_err(|_| ())?,
            version,
        })
    }
}

/// The workers that can take one more session of this client, best first.
///
/// 1. Below the [threshold](Policy::threshold): highest lifetime first.
/// 2. The rest below the limit, in the same order.
/// 3. Past the limit and below the ceiling: lowest lifetime first, so that the excess is shared.
///
/// Suspected workers come after all others, in the same order among themselves.
///
/// Ties: fewest active, then the oldest, then by id. [`Strategy::LeastActive`] puts those of 1 and
/// 2 together: fewest active first, then lowest lifetime, oldest, id. Without a limit all are in 1.
pub fn rank<'a>(workers: &'a [Facts], policy: &Policy, wanted: &Wanted) -> Vec<&'a Facts> {
    let of_browser = |worker: &&Facts| worker.key.browser == wanted.browser;
    let open = workers.iter().filter(of_browser).filter(|w| w.open).count();
    let threshold = policy.threshold(open);

    let tier = |worker: &Facts| match (policy.max_lifetime, threshold) {
        (Some(limit), _) if worker.lifetime >= limit => 3,
        (_, Some(threshold)) if worker.lifetime >= threshold => 2,
        _ => 1,
    };
    let mut ranked: Vec<&Facts> = workers
        .iter()
        .filter(of_browser)
        .filter(|worker| wanted.accepts(worker.version))
        .filter(|worker| policy.has_seat(worker))
        .collect();
    ranked.sort_by(|a, b| {
        let by_tier = (a.suspected, tier(a)).cmp(&(b.suspected, tier(b)));
        let by_load = || match (policy.strategy, tier(a)) {
            (_, 3) => (a.lifetime, a.active).cmp(&(b.lifetime, b.active)),
            (Strategy::LifetimeFirst, _) => {
                (Reverse(a.lifetime), a.active).cmp(&(Reverse(b.lifetime), b.active))
            }
            (Strategy::LeastActive, _) => (a.active, a.lifetime).cmp(&(b.active, b.lifetime)),
        };
        let by_age = || (a.started_at, &a.key.id).cmp(&(b.started_at, &b.key.id));
        by_tier.then_with(by_load).then_with(by_age)
    });
    ranked
}

#[cfg(test)]
mod tests;
