//! The store of one process: a map behind a mutex. Proxy and workers of `playhouse up` share it
//! through an `Arc`, so nothing here ever goes away and no call waits.

use super::{
    Candidate, Event, HeartbeatReply, Peers, PermitStore, Reserved, SeatStore, StoreError,
    WorkerStore, WorkerView,
};
use crate::model::{
    Counts, RecycleReason, SessionId, WorkerKey, WorkerRecord, WorkerStatus, unix_millis,
};
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
    secret: [u8; 32],
}

#[derive(Default)]
struct State {
    /// What may be used once and was, and until when that is remembered.
    used: HashMap<String, Instant>,
    workers: HashMap<WorkerKey, StoredWorker>,
    /// Which worker's seat a session holds. A worker's `active` is the number of its leases; those
    /// of an expired worker stay, because it may come back and the sessions may still be open.
    leases: HashMap<SessionId, WorkerKey>,
    /// Workers that were told to recycle and have not been replaced yet, and until when they count
    /// as out.
    turns: HashMap<WorkerKey, Instant>,
    /// Browsers that are warming up, and until when they count as such.
    warming: HashMap<WorkerKey, Instant>,
    recycles: HashMap<RecycleReason, u64>,
    oom_kills: u64,
    revision: u64,
}

struct StoredWorker {
    record: WorkerRecord,
    counts: Counts,
    expires: Instant,
    /// Until when a request to recycle stands.
    recycle_until: Option<Instant>,
    /// It was counted as recycled.
    recycled: bool,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore {
            state: Mutex::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            secret: rand::random(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock; were it to, the maps are whole between calls.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Nobody listening is no error: events are hints, the state is the truth.
    fn emit(&self, event: Event) {
        self.events.send(event).ok();
    }

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
                .max_lifetime
                .is_none_or(|limit| counts.lifetime < limit);
            if counts.active < candidate.max_active && lifetime_left {
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
        status: WorkerStatus,
        memory: Option<u64>,
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
            let changed = entry.record.status != status || entry.record.memory != memory;
            entry.record.status = status;
            entry.record.memory = memory;
            entry.record.last_heartbeat = unix_millis();
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

#[async_trait]
impl PermitStore for MemoryStore {
    async fn order_recycle_in_turn(
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

    async fn take_warm_up(
        &self,
        worker: &WorkerKey,
        most: usize,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let now = Instant::now();
        let warming = &mut self.state().warming;
        warming.retain(|_, until| *until > now);
        let has = warming.contains_key(worker) || warming.len() < most;
        if has {
            warming.insert(worker.clone(), now + ttl);
        }
        Ok(has)
    }

    async fn end_warm_up(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        self.state().warming.remove(worker);
        Ok(())
    }
}

#[async_trait]
impl Peers for MemoryStore {
    async fn shared_secret(&self) -> Result<[u8; 32], StoreError> {
        Ok(self.secret)
    }

    async fn use_once(&self, what: &str, ttl: Duration) -> Result<bool, StoreError> {
        let now = Instant::now();
        let mut state = self.state();
        state.used.retain(|_, until| *until > now);
        Ok(state.used.insert(what.to_owned(), now + ttl).is_none())
    }
}
