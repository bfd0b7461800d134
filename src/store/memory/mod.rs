//! The store of one process: a map behind a mutex. Proxy and workers of `playhouse up` share it
//! through an `Arc`, so nothing here ever goes away and no call waits.

mod permits;
mod seats;
mod workers;

use super::{Event, Peers, StoreError};
use crate::model::{Counts, RecycleReason, SessionId, WorkerKey, WorkerRecord};
use async_trait::async_trait;
use permits::Permits;
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
    permits: Permits,
    recycles: HashMap<RecycleReason, u64>,
    oom_kills: u64,
    revision: u64,
}

struct StoredWorker {
    record: WorkerRecord,
    counts: Counts,
    expires: Instant,
    /// Until when an order to recycle stands.
    recycle_until: Option<Instant>,
    /// It was counted as recycled.
    recycled: bool,
}

impl MemoryStore {
    /// A store without workers and seats.
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
