//! Seats in memory: who holds which, and how full that makes each worker.

use super::{MemoryStore, State};
use crate::model::{Counts, SessionId, WorkerKey, WorkerStatus};
use crate::store::{Candidate, Event, Reserved, SeatStore, StoreError};
use async_trait::async_trait;
use tokio::time::Instant;

#[async_trait]
impl SeatStore for MemoryStore {
    async fn reserve(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError> {
        Ok(self.reserve_now(session, candidates))
    }

    fn adopt(&self, session: SessionId, worker: &WorkerKey) {
        let counts = {
            let mut state = self.state();
            if state.leases.contains_key(&session) {
                return;
            }
            if !state.workers.contains_key(worker) {
                state.leases.insert(session, worker.clone());
                return;
            }
            state.seat(session, worker)
        };
        self.emit(Event::Counts(worker.clone(), counts));
    }

    async fn release(&self, session: SessionId, refund: bool) -> Result<(), StoreError> {
        self.release_now(session, refund);
        Ok(())
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        let state = self.state();
        let active = state.workers.values().map(|entry| entry.counts.active);
        Ok(active.map(u64::from).sum())
    }
}

impl MemoryStore {
    /// Every session that holds a seat, and where.
    pub fn seats(&self) -> Vec<(SessionId, WorkerKey)> {
        let state = self.state();
        let leases = state.leases.iter();
        leases.map(|(id, key)| (*id, key.clone())).collect()
    }

    fn reserve_now(&self, session: SessionId, candidates: &[Candidate]) -> Reserved {
        let (worker, counts) = {
            let mut state = self.state();
            if let Some(worker) = state.leases.remove(&session)
                && let Some(entry) = state.workers.get(&worker)
            {
                let counts = entry.counts;
                state.leases.insert(session, worker.clone());
                return Reserved::Seat { worker, counts };
            }
            let worker = match state.first_eligible(candidates) {
                Ok(worker) => worker,
                Err(reserved) => return reserved,
            };
            let counts = state.seat(session, &worker);
            (worker, counts)
        };
        self.emit(Event::Counts(worker.clone(), counts));
        Reserved::Seat { worker, counts }
    }

    fn release_now(&self, session: SessionId, refund: bool) {
        let changed = {
            let mut state = self.state();
            let Some(worker) = state.leases.remove(&session) else {
                return;
            };
            let revision = state.next_revision();
            state.workers.get_mut(&worker).map(|entry| {
                entry.counts.active = entry.counts.active.saturating_sub(1);
                if refund {
                    entry.counts.lifetime = entry.counts.lifetime.saturating_sub(1);
                }
                entry.counts.revision = revision;
                Event::Counts(worker, entry.counts)
            })
        };
        if let Some(event) = changed {
            self.emit(event);
        }
    }
}

impl State {
    /// Gives `session` a seat on a worker that is on the books.
    fn seat(&mut self, session: SessionId, worker: &WorkerKey) -> Counts {
        let revision = self.next_revision();
        self.leases.insert(session, worker.clone());
        let entry = self.workers.get_mut(worker).expect("the caller found it");
        entry.counts.active += 1;
        entry.counts.lifetime += 1;
        entry.counts.revision = revision;
        entry.counts
    }

    /// The first candidate that is there and not full, or what stands in the way.
    fn first_eligible(&self, candidates: &[Candidate]) -> Result<WorkerKey, Reserved> {
        let now = Instant::now();
        let mut full = Vec::new();
        for candidate in candidates {
            let Some(entry) = self.workers.get(&candidate.key) else {
                continue;
            };
            if entry.expires <= now || entry.record.status != WorkerStatus::Available {
                continue;
            }
            let counts = entry.counts;
            let lifetime_left = candidate
                .lifetime_cap
                .is_none_or(|limit| counts.lifetime < limit);
            if counts.active < candidate.max_concurrent_sessions && lifetime_left {
                return Ok(candidate.key.clone());
            }
            full.push((candidate.key.clone(), counts));
        }
        Err(if full.is_empty() {
            Reserved::Gone
        } else {
            Reserved::Full { counts: full }
        })
    }
}
