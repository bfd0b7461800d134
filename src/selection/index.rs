//! The order of [`policy`](super::policy), kept up to date instead of computed.
//!
//! Owns what is known of each worker for selection, and an ordered set of those with a seat for
//! each browser and version. A selection or an update walks down one tree: neither looks at, copies
//! or allocates anything that grows with the fleet. Only a change of policy rebuilds. Takes no
//! lock; [`super::lifetime_first`] shares it.

use super::policy::{Facts, Policy, Wanted};
use crate::config::Strategy;
use crate::model::{Browser, Version, WorkerId, WorkerKey};
use pingora_load_balancing::{Backend, Extensions};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, Range};
use std::sync::Arc;

/// All workers, in the order in which they are to be filled.
#[derive(Debug)]
pub struct Index {
    policy: Policy,
    workers: HashMap<WorkerKey, Worker>,
    browsers: [OfBrowser; Browser::ALL.len()],
    /// Backends handed out so far; see [`Index::put`].
    serial: usize,
}

#[derive(Debug)]
struct Worker {
    facts: Facts,
    backend: Arc<Backend>,
}

#[derive(Debug, Default)]
struct OfBrowser {
    /// Workers that are [`Facts::open`]: what the margin is computed from.
    open: usize,
    /// Groups without a worker are dropped.
    versions: BTreeMap<Option<Version>, OfVersion>,
}

#[derive(Debug, Default)]
struct OfVersion {
    workers: usize,
    /// Those that can take one more session.
    seats: BTreeMap<Rank, Arc<Backend>>,
}

/// Where a worker stands among those of its version. The tier before and the one behind the
/// threshold are both stretches of `past == false`: the threshold moves with every worker that
/// opens or closes, and must not move the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Behind all that are not.
    suspected: bool,
    /// At or beyond the lifetime limit.
    past: bool,
    /// What the strategy compares first and second.
    first: u32,
    second: u32,
    started_at: u64,
    /// `None` in the bounds of a stretch.
    id: Option<WorkerId>,
}

impl Rank {
    /// Before every place with this `suspected`, this `past` and at least this `first`.
    fn start(suspected: bool, past: bool, first: u32) -> Rank {
        Rank {
            suspected,
            past,
            first,
            second: 0,
            started_at: 0,
            id: None,
        }
    }

    /// Where a worker stands; nowhere without a seat.
    fn of(worker: &Facts, policy: &Policy) -> Option<Rank> {
        if !policy.has_seat(worker) {
            return None;
        }
        let limit = policy.max_lifetime;
        let past = limit.is_some_and(|limit| worker.lifetime >= limit);
        let (first, second) = match policy.strategy {
            _ if past => (worker.lifetime, worker.active),
            Strategy::LifetimeFirst => (highest_first(worker.lifetime), worker.active),
            Strategy::LeastActive => (worker.active, worker.lifetime),
        };
        Some(Rank {
            suspected: worker.suspected,
            past,
            first,
            second,
            started_at: worker.started_at,
            id: Some(worker.key.id.clone()),
        })
    }
}

/// Turns the order of lifetimes around.
fn highest_first(lifetime: u32) -> u32 {
    u32::MAX - lifetime
}

/// How far one selection has come. It outlives changes of the index between two steps: it carries
/// on behind the place where it stood, so a worker that moved meanwhile may come twice or not at
/// all.
#[derive(Debug)]
pub struct Cursor {
    wanted: Wanted,
    suspected: bool,
    tier: Option<Tier>,
    after: Option<Rank>,
}

#[derive(Clone, Copy, Debug)]
enum Tier {
    BelowThreshold,
    BelowLimit,
    Past,
}

impl Cursor {
    pub fn new(wanted: Wanted) -> Cursor {
        Cursor {
            wanted,
            suspected: false,
            tier: Some(Tier::BelowThreshold),
            after: None,
        }
    }

    fn next_tier(&mut self) {
        self.after = None;
        self.tier = match self.tier {
            Some(Tier::BelowThreshold) => Some(Tier::BelowLimit),
            Some(Tier::BelowLimit) => Some(Tier::Past),
            // The same once more, for those that are suspected.
            Some(Tier::Past) if !self.suspected => {
                self.suspected = true;
                Some(Tier::BelowThreshold)
            }
            Some(Tier::Past) | None => None,
        };
    }
}

impl Index {
    pub fn new(policy: Policy) -> Index {
        Index {
            policy,
            workers: HashMap::new(),
            browsers: Default::default(),
            serial: 0,
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes up another policy. The cost grows with the fleet.
    pub fn set_policy(&mut self, policy: Policy) {
        if policy == self.policy {
            return;
        }
        self.policy = policy;
        self.browsers = Default::default();
        for worker in self.workers.values() {
            self.browsers[worker.facts.key.browser as usize].enter(worker, &policy);
        }
    }

    /// Adds a worker, or replaces what is known of it.
    ///
    /// Each worker is a backend of its own to Pingora, which compares backends by address and
    /// weight only: the weight, of which selection here makes no use, is a serial number. So
    /// workers that share an address stay apart, and a new worker on the port of an old one does
    /// not inherit its health.
    pub fn put(&mut self, facts: Facts) {
        let browser = &mut self.browsers[facts.key.browser as usize];
        let mut backend = || {
            self.serial += 1;
            let mut ext = Extensions::new();
            ext.insert(Arc::new(facts.key.clone()));
            Arc::new(Backend {
                addr: facts.address.into(),
                weight: self.serial,
                ext,
            })
        };
        match self.workers.get_mut(&facts.key) {
            Some(worker) => {
                browser.leave(worker, &self.policy);
                if worker.facts.address != facts.address {
                    worker.backend = backend();
                }
                worker.facts = facts;
                browser.enter(worker, &self.policy);
            }
            None => {
                let backend = backend();
                let key = facts.key.clone();
                let worker = self.workers.entry(key).or_insert(Worker { facts, backend });
                browser.enter(worker, &self.policy);
            }
        }
    }

    /// Forgets a worker, and says what was known of it.
    pub fn remove(&mut self, key: &WorkerKey) -> Option<Facts> {
        let worker = self.workers.remove(key)?;
        self.browsers[key.browser as usize].leave(&worker, &self.policy);
        Some(worker.facts)
    }

    /// What is known of a worker.
    pub fn facts(&self, key: &WorkerKey) -> Option<&Facts> {
        self.workers.get(key).map(|worker| &worker.facts)
    }

    /// All workers, open or not, as backends: what discovery tells Pingora. The cost grows with
    /// the fleet.
    pub fn backends(&self) -> BTreeSet<Backend> {
        let backend = |worker: &Worker| Backend::clone(&worker.backend);
        self.workers.values().map(backend).collect()
    }

    /// Workers of a browser, open or not.
    pub fn registered(&self, browser: Browser) -> usize {
        let versions = self.browsers[browser as usize].versions.values();
        versions.map(|version| version.workers).sum()
    }

    /// Workers of a browser that are open, full ones included.
    pub fn open(&self, browser: Browser) -> usize {
        self.browsers[browser as usize].open
    }

    /// The versions of a browser's workers, open or not, in rising order; `None` comes first and
    /// stands for workers that do not tell.
    pub fn versions(&self, browser: Browser) -> impl Iterator<Item = Option<Version>> + '_ {
        self.browsers[browser as usize].versions.keys().copied()
    }

    /// Whether any worker, open or not, could ever serve this client.
    pub fn knows(&self, wanted: &Wanted) -> bool {
        self.versions(wanted.browser).any(|v| wanted.accepts(v))
    }

    /// Whether a worker has a seat for this client now.
    pub fn has_seat(&self, wanted: &Wanted) -> bool {
        self.next(&mut Cursor::new(*wanted)).is_some()
    }

    /// The backends for one client in the order of [`rank`](super::policy::rank), found one at a
    /// time.
    pub fn ranked(&self, wanted: &Wanted) -> impl Iterator<Item = &Arc<Backend>> {
        let mut cursor = Cursor::new(*wanted);
        std::iter::from_fn(move || self.next(&mut cursor))
    }

    /// One step of a selection that lets go of the index in between.
    pub fn next(&self, cursor: &mut Cursor) -> Option<&Arc<Backend>> {
        let browser = &self.browsers[cursor.wanted.browser as usize];
        while let Some(tier) = cursor.tier {
            let Range { start, end } = self.stretch(cursor.suspected, tier, browser.open);
            // What was the place of the last step may by now lie outside of the tier.
            let from = match &cursor.after {
                Some(after) if *after >= end => {
                    cursor.next_tier();
                    continue;
                }
                Some(after) if *after >= start => Bound::Excluded(after),
                _ => Bound::Included(&start),
            };
            let best = browser
                .versions
                .iter()
                .filter(|(version, _)| cursor.wanted.accepts(**version))
                .filter_map(|(_, of)| of.seats.range((from, Bound::Excluded(&end))).next())
                .min_by_key(|(place, _)| *place);
            if let Some((place, backend)) = best {
                cursor.after = Some(place.clone());
                return Some(backend);
            }
            cursor.next_tier();
        }
        None
    }

    /// The places of a tier. Its start is never behind its end, which [`BTreeMap::range`] needs.
    fn stretch(&self, suspected: bool, tier: Tier, open: usize) -> Range<Rank> {
        let start = |past, first| Rank::start(suspected, past, first);
        let below = start(false, 0);
        let past = start(true, 0);
        let threshold = match self.policy.threshold(open) {
            None | Some(0) => below.clone(),
            Some(lifetime) => start(false, highest_first(lifetime - 1)),
        };
        match tier {
            Tier::BelowThreshold => threshold..past,
            Tier::BelowLimit => below..threshold,
            // Nobody with a seat stands at the end: the lifetime is below a cap.
            Tier::Past => past..start(true, u32::MAX),
        }
    }
}

impl OfBrowser {
    fn enter(&mut self, worker: &Worker, policy: &Policy) {
        self.open += usize::from(worker.facts.open);
        let version = self.versions.entry(worker.facts.version).or_default();
        version.workers += 1;
        if let Some(place) = Rank::of(&worker.facts, policy) {
            version.seats.insert(place, worker.backend.clone());
        }
    }

    /// Undoes [`OfBrowser::enter`]; worker and policy have to be the same as then.
    fn leave(&mut self, worker: &Worker, policy: &Policy) {
        self.open -= usize::from(worker.facts.open);
        let Some(version) = self.versions.get_mut(&worker.facts.version) else {
            return;
        };
        version.workers -= 1;
        if let Some(place) = Rank::of(&worker.facts, policy) {
            version.seats.remove(&place);
        }
        if version.workers == 0 {
            self.versions.remove(&worker.facts.version);
        }
    }
}

#[cfg(test)]
mod tests;
