//! The register of workers in memory: who is there, and what is asked of each.

use super::{MemoryStore, State, StoredWorker};
use crate::model::{Counts, Heartbeat, RecycleReason, WorkerKey, WorkerRecord};
use crate::store::{Event, HeartbeatReply, StoreError, WorkerStore, WorkerView};
use async_trait::async_trait;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

#[async_trait]
impl WorkerStore for MemoryStore {
    async fn fleet(&self) -> Result<Vec<WorkerView>, StoreError> {
        let now = Instant::now();
        Ok(self
            .state()
            .workers
            .values()
            .filter(|entry| entry.expires > now)
            .map(|entry| WorkerView {
                record: entry.record.clone(),
                counts: entry.counts,
            })
            .collect())
    }

    async fn order_recycle(&self, worker: &WorkerKey, ttl: Duration) -> Result<(), StoreError> {
        let known = self
            .state()
            .workers
            .get_mut(worker)
            .map(|entry| entry.recycle_until = Some(Instant::now() + ttl))
            .is_some();
        if known {
            self.emit(Event::Recycle(worker.clone()));
        }
        Ok(())
    }

    async fn order_recycle_with_permit(
        &self,
        worker: &WorkerKey,
        ttl: Duration,
        max_out: usize,
        turn: Duration,
    ) -> Result<bool, StoreError> {
        let mine = self.state().take_turn(worker, max_out, turn);
        if mine {
            self.order_recycle(worker, ttl).await?;
        }
        Ok(mine)
    }

    async fn count_recycle(
        &self,
        worker: &WorkerKey,
        reason: RecycleReason,
    ) -> Result<(), StoreError> {
        let state = &mut *self.state();
        let first = |entry: &mut StoredWorker| !std::mem::replace(&mut entry.recycled, true);
        if state.workers.get_mut(worker).is_some_and(first) {
            *state.recycles.entry(reason).or_default() += 1;
        }
        Ok(())
    }

    async fn recycles(&self) -> Result<HashMap<RecycleReason, u64>, StoreError> {
        Ok(self.state().recycles.clone())
    }

    async fn suspect(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        self.emit(Event::Suspect(worker.clone()));
        Ok(())
    }

    async fn count_oom_kills(&self, kills: u64) -> Result<(), StoreError> {
        self.state().oom_kills += kills;
        Ok(())
    }

    async fn oom_kills(&self) -> Result<u64, StoreError> {
        Ok(self.state().oom_kills)
    }

    async fn register(&self, record: &WorkerRecord, ttl: Duration) -> Result<(), StoreError> {
        let view = {
            let mut state = self.state();
            if !state.workers.contains_key(&record.key) {
                state.end_turn(&record.key);
            }
            let expires = Instant::now() + ttl;
            let revision = state.next_revision();
            let State {
                workers, leases, ..
            } = &mut *state;
            let entry = workers.entry(record.key.clone()).or_insert_with(|| {
                let held = leases.values().filter(|key| **key == record.key).count() as u32;
                StoredWorker {
                    record: record.clone(),
                    counts: Counts {
                        active: held,
                        lifetime: held,
                        revision,
                    },
                    expires,
                    recycle_until: None,
                    recycled: false,
                }
            });
            entry.record = record.clone();
            entry.expires = expires;
            WorkerView {
                record: entry.record.clone(),
                counts: entry.counts,
            }
        };
        self.emit(Event::Worker(Box::new(view)));
        Ok(())
    }

    async fn heartbeat(
        &self,
        worker: &WorkerKey,
        heartbeat: Heartbeat,
        ttl: Duration,
    ) -> Result<HeartbeatReply, StoreError> {
        let (beat, changed) = {
            let mut state = self.state();
            let now = Instant::now();
            let alive = |entry: &&mut StoredWorker| entry.expires > now;
            let Some(entry) = state.workers.get_mut(worker).filter(alive) else {
                return Ok(HeartbeatReply {
                    unknown: true,
                    ..HeartbeatReply::default()
                });
            };
            let changed = heartbeat.rewrite(&mut entry.record);
            entry.expires = now + ttl;
            let beat = HeartbeatReply {
                unknown: false,
                recycle: entry.recycle_until.is_some_and(|until| until > now),
                counts: entry.counts,
            };
            let view = WorkerView {
                record: entry.record.clone(),
                counts: entry.counts,
            };
            (beat, changed.then_some(view))
        };
        if let Some(view) = changed {
            self.emit(Event::Worker(Box::new(view)));
        }
        Ok(beat)
    }

    async fn deregister(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        let known = {
            let mut state = self.state();
            state.leases.retain(|_, key| key != worker);
            state.workers.remove(worker).is_some()
        };
        if known {
            self.emit(Event::Gone(worker.clone()));
        }
        Ok(())
    }

    async fn reap(&self) -> Result<(), StoreError> {
        let expired: Vec<WorkerKey> = {
            let mut state = self.state();
            let now = Instant::now();
            let expired: Vec<_> = state
                .workers
                .values()
                .filter(|entry| entry.expires <= now)
                .map(|entry| entry.record.key.clone())
                .collect();
            for key in &expired {
                state.workers.remove(key);
            }
            expired
        };
        for key in expired {
            self.emit(Event::Gone(key));
        }
        Ok(())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

impl State {
    /// Takes a turn to be out of service, if there is one.
    fn take_turn(&mut self, worker: &WorkerKey, max_out: usize, turn: Duration) -> bool {
        let now = Instant::now();
        self.turns.retain(|_, until| *until > now);
        let of_browser = |key: &&WorkerKey| key.browser == worker.browser && *key != worker;
        let out = self.turns.keys().filter(of_browser).count();
        let free = out < max_out;
        if free {
            self.turns.entry(worker.clone()).or_insert(now + turn);
        }
        free
    }

    /// A new worker takes the place of one that had its turn and is gone.
    fn end_turn(&mut self, newcomer: &WorkerKey) {
        let replaced = self
            .turns
            .keys()
            .find(|key| key.browser == newcomer.browser && !self.workers.contains_key(key))
            .cloned();
        if let Some(replaced) = replaced {
            self.turns.remove(&replaced);
        }
    }
}
