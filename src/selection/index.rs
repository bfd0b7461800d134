//! The order of [`policy`](super::policy), kept up to date, so that none is computed for a question.
//!
//! Owns what is known of each worker for selection, and an ordered set of those with a seat for
//! each group of workers: browser, kind of seat, version and lifetime limit. A selection or an update
//! walks down one tree for each group that fits: neither looks at, copies or allocates anything that
//! grows with the fleet. Only a change of policy rebuilds. Takes no
//! lock; [`super::balancing`] shares it.

use super::policy::{Facts, Policy};
use super::strategy::{margin, order};
use crate::model::{Browser, Pool, SeatKind, Version, WorkerId, WorkerKey};
use pingora_load_balancing::{Backend, Extensions};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, Range};
use std::sync::Arc;

/// All workers, in the order in which they are to be filled.
#[derive(Debug)]
pub struct Index {
    policy: Policy,
    workers: HashMap<WorkerKey, Worker>,
    kinds: [OfKind; Browser::ALL.len() * SeatKind::ALL.len()],
    /// Backends handed out so far; see [`Index::put`].
    serial: usize,
}

#[derive(Debug)]
struct Worker {
    facts: Facts,
    backend: Arc<Backend>,
}

/// The workers of one browser that have one kind of seats.
#[derive(Debug, Default)]
struct OfKind {
    /// Workers that are [`Facts::takes_sessions`]: what the margin is computed from.
    taking_sessions: usize,
    /// Groups without a worker are dropped.
    groups: BTreeMap<GroupKey, Group>,
}

/// What the workers of a group have in common: their version, and the lifetime limit that says where
/// the tiers end.
type GroupKey = (Option<Version>, Option<u32>);

#[derive(Debug, Default)]
struct Group {
    workers: usize,
    /// Those that can take one more session.
    seats: BTreeMap<Rank, Arc<Backend>>,
}

/// Where a worker stands among those that fit, of whichever group. The tier before and the one behind the
/// threshold are both stretches of `past == false`: the threshold moves with every worker that
/// begins or ceases to take sessions, and must not move the others.
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
    /// Before every rank with this `suspected`, this `past` and at least this `first`.
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
        let bounds = policy.bounds(worker.size);
        let excess = bounds.excess(worker.lifetime);
        let (first, second) = match excess {
            Some(excess) => (excess, worker.active),
            None => order(policy.strategy, worker, bounds.left(worker.lifetime)),
        };
        Some(Rank {
            suspected: worker.suspected,
            past: excess.is_some(),
            first,
            second,
            started_at: worker.started_at,
            id: Some(worker.key.id.clone()),
        })
    }
}

fn kind_of(worker: &Facts) -> usize {
    kind(worker.key.browser, worker.seat)
}

/// Where the workers of a browser with such seats are.
fn kind(browser: Browser, seat: SeatKind) -> usize {
    browser as usize * SeatKind::ALL.len() + seat as usize
}

/// How far one selection has come. It outlives changes of the index between two steps: it carries
/// on behind the rank at which it stood, so a worker that moved meanwhile may come twice or not at
/// all.
#[derive(Debug)]
pub struct Cursor {
    wanted: Pool,
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
    /// At the beginning of a selection for a client that wants this.
    pub fn new(wanted: Pool) -> Cursor {
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
    /// An index without workers.
    pub fn new(policy: Policy) -> Index {
        Index {
            policy,
            workers: HashMap::new(),
            kinds: Default::default(),
            serial: 0,
        }
    }

    /// The policy by which workers are ranked.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes up another policy. The cost grows with the fleet.
    pub fn set_policy(&mut self, policy: Policy) {
        if policy == self.policy {
            return;
        }
        self.policy = policy;
        self.kinds = Default::default();
        for worker in self.workers.values() {
            self.kinds[kind_of(&worker.facts)].enter(worker, &policy);
        }
    }

    /// Adds a worker, or replaces what is known of it.
    ///
    /// Each worker is a backend of its own to Pingora, which compares backends by address and
    /// weight only: the weight, of which selection here makes no use, is a serial number. So
    /// workers that share an address stay apart, and a new worker on the port of an old one does
    /// not inherit its health.
    pub fn put(&mut self, facts: Facts) {
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
                self.kinds[kind_of(&worker.facts)].leave(worker, &self.policy);
                if worker.facts.address != facts.address {
                    worker.backend = backend();
                }
                worker.facts = facts;
                self.kinds[kind_of(&worker.facts)].enter(worker, &self.policy);
            }
            None => {
                let backend = backend();
                let key = facts.key.clone();
                let worker = self.workers.entry(key).or_insert(Worker { facts, backend });
                self.kinds[kind_of(&worker.facts)].enter(worker, &self.policy);
            }
        }
    }

    /// Forgets a worker, and says what was known of it.
    pub fn remove(&mut self, key: &WorkerKey) -> Option<Facts> {
        let worker = self.workers.remove(key)?;
        self.kinds[kind_of(&worker.facts)].leave(&worker, &self.policy);
        Some(worker.facts)
    }

    /// What is known of a worker.
    pub fn facts(&self, key: &WorkerKey) -> Option<&Facts> {
        self.workers.get(key).map(|worker| &worker.facts)
    }

    /// All workers, whether they take sessions or not, as backends: what discovery tells Pingora. The cost grows with
    /// the fleet.
    pub fn backends(&self) -> BTreeSet<Backend> {
        let backend = |worker: &Worker| Backend::clone(&worker.backend);
        self.workers.values().map(backend).collect()
    }

    /// Workers of a browser with such seats, whether they take sessions or not.
    pub fn registered(&self, browser: Browser, seat: SeatKind) -> usize {
        let groups = self.kinds[kind(browser, seat)].groups.values();
        groups.map(|group| group.workers).sum()
    }

    /// Those of them that take sessions, full ones included.
    pub fn taking_sessions(&self, browser: Browser, seat: SeatKind) -> usize {
        self.kinds[kind(browser, seat)].taking_sessions
    }

    /// The versions of a browser's workers with such seats, whether they take sessions or not, in rising order; `None`
    /// comes first and stands for workers that do not tell.
    pub fn versions(&self, browser: Browser, seat: SeatKind) -> BTreeSet<Option<Version>> {
        let groups = self.kinds[kind(browser, seat)].groups.keys();
        groups.map(|(version, _)| *version).collect()
    }

    /// Whether any worker, whether they take sessions or not, could ever serve this client.
    pub fn knows(&self, wanted: &Pool) -> bool {
        let groups = &self.kinds[kind(wanted.browser, wanted.seat)].groups;
        groups.keys().any(|(version, _)| accepts(wanted, *version))
    }

    /// Whether a worker has a seat for this client.
    pub fn has_seat(&self, wanted: &Pool) -> bool {
        self.next(&mut Cursor::new(*wanted)).is_some()
    }

    /// The backends for one client in the order of [`rank`](super::policy::rank), found one at a
    /// time.
    pub fn ranked(&self, wanted: &Pool) -> impl Iterator<Item = &Arc<Backend>> {
        let mut cursor = Cursor::new(*wanted);
        std::iter::from_fn(move || self.next(&mut cursor))
    }

    /// One step of a selection that lets go of the index in between.
    pub fn next(&self, cursor: &mut Cursor) -> Option<&Arc<Backend>> {
        let Pool { browser, seat, .. } = cursor.wanted;
        let of_kind = &self.kinds[kind(browser, seat)];
        while let Some(tier) = cursor.tier {
            let best = of_kind
                .groups
                .iter()
                .filter(|((version, _), _)| accepts(&cursor.wanted, *version))
                .filter_map(|((_, limit), group)| {
                    let stretch =
                        self.stretch(cursor.suspected, tier, *limit, of_kind.taking_sessions);
                    group.first(stretch, cursor.after.as_ref())
                })
                .min_by_key(|(rank, _)| *rank);
            if let Some((rank, backend)) = best {
                cursor.after = Some(rank.clone());
                return Some(backend);
            }
            cursor.next_tier();
        }
        None
    }

    /// The ranks of a tier among workers with this lifetime limit. Its start is never behind its
    /// end, which [`BTreeMap::range`] needs.
    fn stretch(
        &self,
        suspected: bool,
        tier: Tier,
        limit: Option<u32>,
        workers: usize,
    ) -> Range<Rank> {
        let start = |past, first| Rank::start(suspected, past, first);
        let below = start(false, 0);
        let past = start(true, 0);
        let margin = limit.and_then(|limit| margin(self.policy.strategy, limit, workers));
        let threshold = match margin {
            Some(margin) => start(false, margin.saturating_add(1)),
            None => below.clone(),
        };
        match tier {
            Tier::BelowThreshold => threshold..past,
            Tier::BelowLimit => below..threshold,
            // Nobody with a seat stands at the end: the lifetime is below a cap.
            Tier::Past => past..start(true, u32::MAX),
        }
    }
}

impl OfKind {
    fn enter(&mut self, worker: &Worker, policy: &Policy) {
        self.taking_sessions += usize::from(worker.facts.takes_sessions);
        let group = self.groups.entry(group_of(&worker.facts, policy));
        let group = group.or_default();
        group.workers += 1;
        if let Some(rank) = Rank::of(&worker.facts, policy) {
            group.seats.insert(rank, worker.backend.clone());
        }
    }

    /// Undoes [`OfKind::enter`]; worker and policy have to be the same as then.
    fn leave(&mut self, worker: &Worker, policy: &Policy) {
        self.taking_sessions -= usize::from(worker.facts.takes_sessions);
        let key = group_of(&worker.facts, policy);
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        group.workers -= 1;
        if let Some(rank) = Rank::of(&worker.facts, policy) {
            group.seats.remove(&rank);
        }
        if group.workers == 0 {
            self.groups.remove(&key);
        }
    }
}

/// Whether a worker of this version, with the wanted browser and seats, serves the client.
fn accepts(wanted: &Pool, version: Option<Version>) -> bool {
    wanted.accepts(&Pool { version, ..*wanted })
}

fn group_of(worker: &Facts, policy: &Policy) -> GroupKey {
    (
        worker.version,
        policy.bounds(worker.size).max_lifetime_sessions,
    )
}

impl Group {
    /// The first of its ranks in a stretch, behind that of the last step, which may lie
    /// outside of it.
    fn first(&self, stretch: Range<Rank>, after: Option<&Rank>) -> Option<(&Rank, &Arc<Backend>)> {
        let Range { start, end } = stretch;
        let from = match after {
            Some(after) if *after >= end => return None,
            Some(after) if *after >= start => Bound::Excluded(after),
            _ => Bound::Included(&start),
        };
        self.seats.range((from, Bound::Excluded(&end))).next()
    }
}

#[cfg(test)]
mod tests;
