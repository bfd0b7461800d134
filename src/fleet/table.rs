//! The state of the fleet: the workers that are known, the kinds of those that left, and the selection's index
//! made from what is known. Whatever comes in or goes is written into all of them at once, here, and there is
//! one order of the two locks: the table's, and within it the index'.

use super::Target;
use super::departed::Departed;
use super::outage::Share;
use super::shown_version::ShownVersion;
use super::suspicion::{Suspicion, Trust};
use super::unreachable::{Obstacles, Unreachable};
use crate::model::{Counts, Pool, WorkerKey, WorkerRecord, WorkerStatus};
use crate::selection::{Facts, Index, Policy, SharedIndex};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// All workers, behind their lock.
pub(super) struct WorkerTable {
    workers: Mutex<Workers>,
    index: SharedIndex,
}

#[derive(Default)]
struct Workers {
    known: HashMap<WorkerKey, Known>,
    departed: Departed,
}

/// The table, locked: a map of the workers that are known. Selection sees a change of one of them once its
/// facts are [put](LockedTable::put) again.
pub(super) struct LockedTable<'a> {
    workers: MutexGuard<'a, Workers>,
    index: &'a SharedIndex,
}

/// What facts are to selection, beside those that it had of the worker.
pub(super) struct Put {
    /// Nothing, or another address.
    pub is_new: bool,
    /// It has a seat for somebody for whom it had none.
    pub gained_seat: bool,
}

impl WorkerTable {
    pub(super) fn new(index: SharedIndex) -> WorkerTable {
        WorkerTable {
            workers: Mutex::default(),
            index,
        }
    }

    pub(super) fn lock(&self) -> LockedTable<'_> {
        LockedTable {
            workers: self.workers.lock().unwrap_or_else(PoisonError::into_inner),
            index: &self.index,
        }
    }

    /// The index alone. Who holds it does not lock the table.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}

impl LockedTable<'_> {
    /// Writes the facts of a worker into the index. Two changes of one worker reach it in the order in which
    /// they were made, because the table stays locked meanwhile.
    pub(super) fn put(&self, facts: Facts) -> Put {
        let mut index = self.index.lock();
        let (before, policy) = (index.facts(&facts.key), index.policy());
        let had_seat = |it: &Facts| {
            policy.has_seat(it) && it.version == facts.version && it.suspected == facts.suspected
        };
        let put = Put {
            is_new: before.is_none_or(|it| it.address != facts.address),
            gained_seat: policy.has_seat(&facts) && !before.is_some_and(had_seat),
        };
        index.put(facts);
        put
    }

    /// Takes a worker out, which may come back.
    pub(super) fn depart(&mut self, key: &WorkerKey, now: Instant) -> Option<Known> {
        let worker = self.workers.known.remove(key)?;
        self.workers
            .departed
            .left(&worker.record, worker.pool(), now);
        self.index.lock().remove(key);
        Some(worker)
    }

    pub(super) fn departed(&self) -> &Departed {
        &self.workers.departed
    }

    /// The index, as it is while the table is locked.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}

impl Deref for LockedTable<'_> {
    type Target = HashMap<WorkerKey, Known>;

    fn deref(&self) -> &Self::Target {
        &self.workers.known
    }
}

impl DerefMut for LockedTable<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.workers.known
    }
}

/// One worker as this proxy knows it.
pub(super) struct Known {
    pub(super) record: WorkerRecord,
    pub(super) counts: Counts,
    pub(super) target: Arc<Target>,
    pub(super) obstacles: Obstacles,
    pub(super) suspicion: Suspicion,
    /// Its version of Playwright, where it does not tell.
    pub(super) shown_version: Option<ShownVersion>,
    /// A task asks it what [`Known::suspicion`] wants to know.
    pub(super) on_trial: bool,
    /// When it was last asked whether it answers, or answered a session.
    pub(super) asked_at: Option<Instant>,
    /// It stands in this proxy's configuration.
    pub(super) configured: bool,
    /// What this proxy may give of it while the store is away.
    pub(super) share: Option<Share>,
    /// This proxy has asked it to recycle itself, which it may take a while to do.
    pub(super) asked_to_recycle: bool,
}

impl Known {
    /// The worker as the store has it; `None` as long as its name has no address.
    pub(super) fn facts(&self) -> Option<Facts> {
        let address = self.target.addresses().first().copied()?;
        Some(Facts {
            key: self.record.key.clone(),
            address,
            version: self.version(),
            seat: self.record.seat,
            size: self.record.size,
            active: self.counts.active,
            lifetime: self.lifetime(),
            started_at: self.record.started_at,
            takes_sessions: self.takes_sessions(),
            suspected: self.suspicion.trust() == Trust::Suspected,
            replaces_itself: self.record.replaces_itself,
        })
    }

    /// Sessions that it would take.
    pub(super) fn free(&self, policy: &Policy) -> u32 {
        if self.takes_sessions() {
            self.left(policy)
        } else {
            0
        }
    }

    /// Sessions that it would take if it were reached: never more than its life has left.
    pub(super) fn left(&self, policy: &Policy) -> u32 {
        let bounds = policy.bounds(self.record.size);
        let of_its_life = bounds
            .lifetime_cap(self.record.replaces_itself)
            .map_or(u32::MAX, |cap| cap.saturating_sub(self.lifetime()));
        of_its_life.min(
            bounds
                .max_concurrent_sessions
                .saturating_sub(self.counts.active),
        )
    }

    /// Whether it takes no more sessions in its life, while it has fewer than it may have at once.
    pub(super) fn is_at_ceiling(&self, policy: &Policy) -> bool {
        let bounds = policy.bounds(self.record.size);
        let cap = bounds.lifetime_cap(self.record.replaces_itself);
        self.counts.active < bounds.max_concurrent_sessions
            && cap.is_some_and(|cap| self.lifetime() >= cap)
    }

    /// Sessions of its life so far. Nobody recycles a fixed worker: it is always young.
    pub(super) fn lifetime(&self) -> u32 {
        if self.fixed() {
            0
        } else {
            self.counts.lifetime
        }
    }

    /// It stands in somebody's configuration: nobody recycles it.
    pub(super) fn fixed(&self) -> bool {
        self.record.fixed || self.configured
    }

    /// Why it is not reached, if it is not.
    pub(super) fn unreachable(&self) -> Option<&Unreachable> {
        self.obstacles.first().or(self.suspicion.why())
    }

    /// The pool that it belongs to, by what it has shown of its version.
    pub(super) fn pool(&self) -> Pool {
        Pool {
            version: self.version(),
            ..self.record.pool()
        }
    }

    /// Whether it is available and reached: see [`Facts::takes_sessions`].
    pub(super) fn takes_sessions(&self) -> bool {
        self.record.status == WorkerStatus::Available
            && self.unreachable().is_none()
            && !self.target.addresses().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Strategy;
    use crate::model::{Browser, SeatKind, Size, Version};

    fn facts(active: u32) -> Facts {
        Facts {
            key: WorkerKey::new(Browser::Chromium, "w"),
            address: ([127, 0, 0, 1], 3131).into(),
            version: None,
            seat: SeatKind::Shared,
            size: Size::default(),
            active,
            lifetime: 0,
            started_at: 0,
            takes_sessions: true,
            suspected: false,
            replaces_itself: false,
        }
    }

    /// Else each reservation and each release of a grid with seats wakes whoever serves the line.
    #[test]
    fn a_seat_is_gained_by_whom_there_was_none_for() {
        let table = WorkerTable::new(SharedIndex::new(Policy {
            strategy: Strategy::LifetimeFirst,
            max_concurrent_sessions: 2,
            max_lifetime_sessions: None,
            ceiling: None,
        }));
        let gains = |facts| table.lock().put(facts).gained_seat;
        assert!(gains(facts(0)), "the first that is known of it");
        assert!(!gains(facts(1)), "there was one before");
        assert!(!gains(facts(2)), "the last one was taken");
        assert!(gains(facts(1)), "one came free");
        assert!(!gains(facts(0)), "another one");
        let version = Some(Version {
            major: 1,
            minor: 65,
        });
        let told = Facts {
            version,
            ..facts(0)
        };
        assert!(gains(told.clone()), "for clients of this version");
        let closed = Facts {
            takes_sessions: false,
            ..told.clone()
        };
        assert!(!gains(closed));
        assert!(gains(told), "it is open again");
    }
}
