//! Admitting sessions while the store is away, from the last view of it.
//!
//! Nobody can ask how full a worker is then, so each proxy keeps to a share that was settled when
//! the store went: the seats it held on the worker, and its part of those that were free, rounded
//! up. With `P` proxies a worker gets at most `P - 1` sessions beyond its concurrent limit, if all
//! of them round up; with one proxy, none. Where each session is to have a browser of its own, they
//! round down. The store hears of these sessions when it is back.

use super::seating::NoGrant;
use super::{Fleet, Target, policy};
use crate::admission::queue::Wanting;
use crate::model::WorkerKey;
use crate::selection::Facts;
use crate::selection::policy::rank;
use crate::session::seat::Seat;
use std::collections::HashMap;
use std::sync::Arc;

/// What this proxy may give while the store is away.
#[derive(Default)]
pub(super) struct Shares {
    /// Most seats that this proxy may hold on each worker.
    most: HashMap<WorkerKey, u32>,
    /// Sessions it gave each worker since.
    given: HashMap<WorkerKey, u32>,
}

impl Fleet {
    /// Settles the shares, as the store goes away.
    pub(super) fn settle_shares(&self) {
        let policy = policy(&self.config);
        let isolate = self.config.load().limits.isolate();
        let proxies = u32::try_from(self.store.proxies().max(1)).unwrap_or(u32::MAX);
        let most = self
            .known()
            .iter()
            .map(|(key, worker)| {
                let free = policy.max_active.saturating_sub(worker.counts.active);
                let part = if isolate {
                    free / proxies
                } else {
                    free.div_ceil(proxies)
                };
                (key.clone(), self.releaser.held(key) + part)
            })
            .collect();
        let given = HashMap::new();
        *self.shares() = Shares { most, given };
    }

    /// The store is back: from here on its word counts. A call of it that fails nevertheless must
    /// not fall back on what was free before the outage.
    pub(super) fn forget_shares(&self) {
        *self.shares() = Shares::default();
    }

    /// Takes a seat without asking the store. The seat's session must be one that the store has
    /// never been asked about, or it could end up with two.
    ///
    /// # Errors
    /// When the share is used up, or the configuration is strict about the store.
    pub(super) fn reserve_from_share(
        &self,
        seat: &mut Seat,
        wanting: &Wanting,
    ) -> Result<Arc<Target>, NoGrant> {
        if self.config.load().store.strict || !self.has_view() {
            return Err(NoGrant::StoreAway);
        }
        let policy = policy(&self.config);
        let target = {
            let known = self.known();
            let mut shares = self.shares();
            let facts: Vec<Facts> = known
                .values()
                .filter_map(|worker| {
                    let key = &worker.record.key;
                    if wanting.offered.contains(key) {
                        return None;
                    }
                    let most = shares.most.get(key)?;
                    let left = most.saturating_sub(self.releaser.held(key));
                    let given = shares.given.get(key).copied().unwrap_or(0);
                    let mut facts = worker.facts()?;
                    facts.active = policy.max_active.saturating_sub(left);
                    facts.lifetime = facts.lifetime.saturating_add(given);
                    Some(facts)
                })
                .collect();
            let best = rank(&facts, &policy, &wanting.wanted)
                .first()
                .map(|best| best.key.clone());
            let key = best.ok_or(NoGrant::NoneFree)?;
            let worker = known.get(&key).ok_or(NoGrant::NoneFree)?;
            *shares.given.entry(key.clone()).or_default() += 1;
            // Under the lock: the next one must see it.
            seat.taken(key);
            worker.target.clone()
        };
        self.store.adopt(seat.session(), &target.key);
        Ok(target)
    }

    fn shares(&self) -> std::sync::MutexGuard<'_, Shares> {
        self.shares
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
