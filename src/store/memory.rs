//! The store of one process: a map behind a mutex. Proxy and workers of `playhouse up` share it
//! through an `Arc`, so nothing here ever goes away and no call waits.

use super::{Beat, Candidate, Event, Reserved, Store, StoreError, WorkerView};
use crate::model::{Counts, SessionId, WorkerKey, WorkerRecord, WorkerStatus, unix_millis};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// Events that a listener may be behind before it has to read the fleet anew.
const EVENT_BACKLOG: usize = 4096;

/// State in this process's memory.
pub struct MemoryStore {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct State {
    workers: HashMap<WorkerKey, Entry>,
    /// Which worker's seat a session holds. The sum of these is the sum of all `active`.
    leases: HashMap<SessionId, WorkerKey>,
    revision: u64,
}

struct Entry {
    record: WorkerRecord,
    counts: Counts,
    expires: Instant,
    /// Until when a request to recycle stands.
    recycle_until: Option<Instant>,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore {
            state: Mutex::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock; were it to, the maps are whole between calls.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Nobody listening is no error: events are hints, the state is the truth.
    fn tell(&self, event: Event) {
        self.events.send(event).ok();
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl State {
    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Removes a worker and every lease on it.
    fn drop_worker(&mut self, key: &WorkerKey) -> bool {
        let known = self.workers.remove(key).is_some();
        if known {
            self.leases.retain(|_, worker| worker != key);
        }
        known
    }
}

#[async_trait]
impl Store for MemoryStore {
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

    async fn reserve(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError> {
        let reserved = {
            let mut state = self.state();
            let now = Instant::now();
            let mut full = Vec::new();
            let mut seat = None;
            for candidate in candidates {
                let Some(entry) = state.workers.get(&candidate.key) else {
                    continue;
                };
                if entry.expires <= now || entry.record.status != WorkerStatus::Available {
                    continue;
                }
                let counts = entry.counts;
                let lifetime_left = candidate
                    .max_lifetime
                    .is_none_or(|limit| counts.lifetime < limit);
                if counts.active < candidate.max_active && lifetime_left {
                    seat = Some(candidate.key.clone());
                    break;
                }
                full.push((candidate.key.clone(), counts));
            }
            match seat {
                Some(worker) => {
                    let revision = state.next_revision();
                    let counts = {
                        let entry = state.workers.get_mut(&worker).expect("just found");
                        entry.counts.active += 1;
                        entry.counts.lifetime += 1;
                        entry.counts.revision = revision;
                        entry.counts
                    };
                    state.leases.insert(session, worker.clone());
                    Reserved::Seat { worker, counts }
                }
                None if full.is_empty() => Reserved::Gone,
                None => Reserved::Full { counts: full },
            }
        };
        Ok(reserved)
    }

    async fn release(&self, session: SessionId, refund: bool) -> Result<(), StoreError> {
        let changed = {
            let mut state = self.state();
            let Some(worker) = state.leases.remove(&session) else {
                return Ok(());
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
            self.tell(event);
        }
        Ok(())
    }

    async fn order_recycle(&self, worker: &WorkerKey, ttl: Duration) -> Result<(), StoreError> {
        let known = self
            .state()
            .workers
            .get_mut(worker)
            .map(|entry| entry.recycle_until = Some(Instant::now() + ttl))
            .is_some();
        if known {
            self.tell(Event::Recycle(worker.clone()));
        }
        Ok(())
    }

    async fn register(&self, record: &WorkerRecord, ttl: Duration) -> Result<(), StoreError> {
        let view = {
            let mut state = self.state();
            let expires = Instant::now() + ttl;
            let entry = state
                .workers
                .entry(record.key.clone())
                .or_insert_with(|| Entry {
                    record: record.clone(),
                    counts: Counts::default(),
                    expires,
                    recycle_until: None,
                });
            entry.record = record.clone();
            entry.expires = expires;
            WorkerView {
                record: entry.record.clone(),
                counts: entry.counts,
            }
        };
        self.tell(Event::Worker(view));
        Ok(())
    }

    async fn heartbeat(
        &self,
        worker: &WorkerKey,
        status: WorkerStatus,
        memory: Option<u64>,
        ttl: Duration,
    ) -> Result<Beat, StoreError> {
        let (beat, changed) = {
            let mut state = self.state();
            let now = Instant::now();
            let Some(entry) = state.workers.get_mut(worker) else {
                return Ok(Beat {
                    unknown: true,
                    ..Beat::default()
                });
            };
            let changed = entry.record.status != status || entry.record.memory != memory;
            entry.record.status = status;
            entry.record.memory = memory;
            entry.record.last_heartbeat = unix_millis();
            entry.expires = now + ttl;
            let beat = Beat {
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
            self.tell(Event::Worker(view));
        }
        Ok(beat)
    }

    async fn deregister(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        if self.state().drop_worker(worker) {
            self.tell(Event::Gone(worker.clone()));
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
                state.drop_worker(key);
            }
            expired
        };
        for key in expired {
            self.tell(Event::Gone(key));
        }
        Ok(())
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        Ok(self.state().leases.len() as u64)
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}
