//! From a wish to a seat: the best few candidates go to the store, which gives one of them.

use super::{Fleet, Target, policy};
use crate::metrics::ObserveTime;
use crate::model::{Counts, WorkerKey, WorkerRecord, WorkerStatus};
use crate::proxy::refusal::NoSeat;
use crate::selection::{Policy, Wanted, candidates};
use crate::session::seat::Seat;
use crate::store::{Candidate, Reserved, Turn};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Candidates that go to the store in one question. Enough that with several proxies one of them
/// still has a seat, few enough for a constant cost.
const CANDIDATES: usize = 8;
/// Questions to the store for one attempt: each one that comes back full has taught the index the
/// counts of its candidates, so the next asks about others.
const MAX_ROUNDS: usize = 4;

/// Why there is no seat at this moment.
#[derive(Debug)]
pub enum NoGrant {
    /// No worker has one.
    NoneFree,
    /// The store could not say.
    StoreAway,
}

impl Fleet {
    /// Takes a seat for `seat`'s session on the best worker that has one, unless it is for somebody
    /// who has waited longer elsewhere. Somebody who only comes has waited for no time at all.
    pub async fn reserve(
        self: &Arc<Self>,
        seat: &mut Seat,
        wanted: &Wanted,
        waited: Duration,
    ) -> Result<Arc<Target>, NoGrant> {
        let turn = Turn {
            browser: wanted.browser,
            version: wanted.version,
            waited,
        };
        for round in 0..MAX_ROUNDS {
            let policy = policy(&self.config);
            let begun = Instant::now();
            let best = self.best(wanted, &policy);
            self.metrics.phases.select.observe_time(begun.elapsed());
            // Who waits asks in any case: that is how other proxies know.
            let stands_in_line = round == 0 && self.store.is_shared() && !waited.is_zero();
            if best.is_empty() && !stands_in_line {
                return Err(NoGrant::NoneFree);
            }
            let begun = Instant::now();
            let session = seat.session();
            let reserved = self.store.reserve_in_turn(session, &best, &turn).await;
            let took = begun.elapsed();
            self.metrics.phases.reserve.observe_time(took);
            self.metrics.store_reserve.observe_time(took);
            match reserved {
                Ok(Reserved::Seat { worker, counts }) => {
                    seat.taken(worker.clone());
                    self.count(&worker, counts);
                    self.order_recycle_at_limit(&worker, counts, &policy);
                    if let Some(target) = self.target(&worker) {
                        return Ok(target);
                    }
                    // It left between the two looks: the dropped seat is given back, try anew.
                    return Err(NoGrant::NoneFree);
                }
                Ok(Reserved::Full { counts }) => {
                    for (worker, counts) in counts {
                        self.count(&worker, counts);
                    }
                }
                Ok(Reserved::Behind) => return Err(NoGrant::NoneFree),
                Ok(Reserved::Gone) => {
                    for candidate in &best {
                        self.no_longer_open(&candidate.key);
                    }
                }
                Err(error) => {
                    log::debug!(session:% = seat.session(), error:% = error; "no reservation");
                    return Err(NoGrant::StoreAway);
                }
            }
        }
        Err(NoGrant::NoneFree)
    }

    fn best(&self, wanted: &Wanted, policy: &Policy) -> Vec<Candidate> {
        // What is known of a store of our own is never behind: its first answer stands.
        let wish = if self.store.is_shared() {
            CANDIDATES
        } else {
            1
        };
        let best = candidates(&self.balancer, wanted, wish);
        let known = self.known();
        best.into_iter()
            .filter_map(|key| {
                let worker = known.get(&key)?;
                let max_lifetime = if worker.fixed {
                    None
                } else {
                    policy.lifetime_cap(worker.record.replaces_itself)
                };
                Some(Candidate {
                    key,
                    max_active: policy.max_active,
                    max_lifetime,
                })
            })
            .collect()
    }

    /// Asks a worker that has reached its lifetime limit to recycle itself. Whoever gives the
    /// session that reaches it asks; the watch loop asks again.
    fn order_recycle_at_limit(self: &Arc<Self>, key: &WorkerKey, counts: Counts, policy: &Policy) {
        if policy.max_lifetime != Some(counts.lifetime) {
            return;
        }
        let known = self.known();
        let worker = known.get(key).filter(|worker| !worker.fixed);
        if let Some(replaces_itself) = worker.map(|worker| worker.record.replaces_itself) {
            let (fleet, key) = (self.clone(), key.clone());
            tokio::spawn(async move { fleet.order_recycle(&key, replaces_itself).await });
        }
    }

    /// Asks the workers that are due to recycle themselves, in the background. Those that replace
    /// themselves first cost no seats and all may; of the others as many as may be out at a time.
    pub(super) fn order_overdue(self: &Arc<Self>) {
        let overdue = self.overdue();
        if overdue.is_empty() {
            return;
        }
        let fleet = self.clone();
        tokio::spawn(async move {
            for (key, replaces_itself) in overdue {
                fleet.order_recycle(&key, replaces_itself).await;
            }
        });
    }

    async fn order_recycle(&self, key: &WorkerKey, replaces_itself: bool) {
        let config = self.config.load_full();
        let (ttl, max_out) = (config.recycle.command_ttl, config.recycle.max_unavailable);
        let ordered = if replaces_itself {
            self.store.order_recycle(key, ttl).await.map(|()| true)
        } else {
            let turn = config.worker.drain_timeout + config.worker.start_timeout;
            self.store
                .order_recycle_in_turn(key, ttl, max_out, turn)
                .await
        };
        match ordered {
            Ok(true) => log::info!(worker:% = key; "worker asked to recycle at its lifetime limit"),
            Ok(false) => log::debug!(worker:% = key; "worker goes on until its turn to recycle"),
            Err(error) => {
                log::debug!(worker:% = key, error:% = error; "worker could not be asked to recycle");
            }
        }
    }

    /// Available workers at or beyond their limit, the one that is furthest first, and whether they
    /// replace themselves.
    fn overdue(&self) -> Vec<(WorkerKey, bool)> {
        let Some(limit) = policy(&self.config).max_lifetime else {
            return Vec::new();
        };
        let mut overdue: Vec<_> = self
            .known()
            .values()
            .filter(|worker| {
                worker.record.status == WorkerStatus::Available
                    && worker.counts.lifetime >= limit
                    && !worker.fixed
            })
            .map(|worker| {
                let record = &worker.record;
                (
                    worker.counts.lifetime,
                    record.key.clone(),
                    record.replaces_itself,
                )
            })
            .collect();
        overdue.sort_unstable_by_key(|(lifetime, ..)| std::cmp::Reverse(*lifetime));
        let overdue = overdue.into_iter();
        overdue.map(|(_, key, replaces)| (key, replaces)).collect()
    }

    /// Why a client got no seat, for its message.
    pub fn why_no_seat(&self, wanted: &Wanted) -> NoSeat {
        let known = self.known();
        let fits = |record: &WorkerRecord| {
            record.key.browser == wanted.browser && wanted.accepts(record.version)
        };
        let mut fitting = known
            .values()
            .filter(|worker| fits(&worker.record))
            .peekable();
        if fitting.peek().is_none() {
            NoSeat::NoWorker
        } else if fitting.any(|worker| worker.open()) {
            NoSeat::AllTaken
        } else {
            NoSeat::AllDraining
        }
    }
}
