//! One generation's entry on the store's books: registers it, keeps it alive with heartbeats,
//! tells changes of status at once, and takes it off again. Never gives up while the store is
//! away, and decides nothing.

use super::lifecycle::{Generation, Input};
use super::tree;
use crate::config::LiveConfig;
use crate::model::{WorkerRecord, WorkerStatus, unix_millis};
use crate::store::{Beat, Store, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Tries to take a worker off the books before its record is left to expire.
const FAREWELL_TRIES: u32 = 3;
const FAREWELL_PAUSE: Duration = Duration::from_millis(500);

/// What the store is to know of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Status(WorkerStatus),
    /// Not on the books, and not to come back.
    None,
}

/// The wish for an entry. `asked` rises when a heartbeat is wanted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub entry: Entry,
    pub asked: u64,
}

/// What the registrations of one agent have in common.
pub struct Books {
    pub config: LiveConfig,
    pub store: Arc<dyn Store>,
    pub inputs: mpsc::Sender<Input>,
    /// Whether the last call failed, so that only the change is logged.
    away: AtomicBool,
}

impl Books {
    pub fn new(config: LiveConfig, store: Arc<dyn Store>, inputs: mpsc::Sender<Input>) -> Books {
        Books {
            config,
            store,
            inputs,
            away: AtomicBool::new(false),
        }
    }

    /// Passes a result on and logs when the store goes away or comes back.
    fn note<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => {
                if self.away.swap(false, Ordering::Relaxed) {
                    log::info!("the store is back");
                }
                Some(value)
            }
            Err(error) => {
                if !self.away.swap(true, Ordering::Relaxed) {
                    log::warn!(error:% = error; "the store is away, carrying on without it");
                }
                None
            }
        }
    }
}

/// One generation on the books.
pub struct Registration {
    pub books: Arc<Books>,
    pub generation: Generation,
    pub record: WorkerRecord,
    /// Node's process id, to measure its tree.
    pub node: i32,
    pub wish: watch::Receiver<Wish>,
}

impl Registration {
    /// Keeps the entry as wished until it is wished away.
    pub async fn run(mut self) {
        if self.register_first().await {
            self.keep().await;
        }
        self.say_farewell().await;
    }

    fn wanted(&mut self) -> Option<WorkerStatus> {
        match self.wish.borrow_and_update().entry {
            Entry::Status(status) => Some(status),
            Entry::None => None,
        }
    }

    /// Registers, however long it takes; `false` when the wish went away before.
    async fn register_first(&mut self) -> bool {
        while let Some(status) = self.wanted() {
            if self.register(status).await {
                let registered = Input::Registered(self.generation);
                return self.tell(registered).await;
            }
            self.pause(self.interval()).await;
        }
        false
    }

    async fn register(&mut self, status: WorkerStatus) -> bool {
        self.record.status = status;
        self.record.last_heartbeat = unix_millis();
        let ttl = self.books.config.load().worker.key_ttl;
        let result = self.books.store.register(&self.record, ttl).await;
        self.books.note(result).is_some()
    }

    async fn keep(&mut self) {
        while let Some(status) = self.wanted() {
            if !self.beat(status).await {
                return;
            }
            self.pause(self.interval()).await;
        }
    }

    /// One heartbeat; `false` when nobody is interested any more.
    async fn beat(&mut self, status: WorkerStatus) -> bool {
        let memory = self.measure().await;
        let ttl = self.books.config.load().worker.key_ttl;
        let key = &self.record.key;
        let result = self.books.store.heartbeat(key, status, memory, ttl).await;
        let beat = match self.books.note(result) {
            Some(beat) => beat,
            None => return true,
        };
        if beat.unknown {
            log::info!(worker:% = key; "the store has lost this worker, registering again");
            self.record.memory = memory;
            self.register(status).await;
            return true;
        }
        let Beat {
            counts, recycle, ..
        } = beat;
        self.tell(Input::Beat {
            generation: self.generation,
            status,
            counts,
            recycle,
        })
        .await
    }

    async fn measure(&self) -> Option<u64> {
        let node = self.node;
        let memory = tokio::task::spawn_blocking(move || tree::memory(node))
            .await
            .ok()??;
        self.tell(Input::Memory(self.generation, memory)).await;
        Some(memory)
    }

    async fn say_farewell(&self) {
        for attempt in 1..=FAREWELL_TRIES {
            let result = self.books.store.deregister(&self.record.key).await;
            if self.books.note(result).is_some() || attempt == FAREWELL_TRIES {
                return;
            }
            tokio::time::sleep(FAREWELL_PAUSE).await;
        }
    }

    fn interval(&self) -> Duration {
        self.books.config.load().worker.heartbeat_interval
    }

    /// Waits, at most until the wish changes.
    async fn pause(&mut self, time: Duration) {
        let changed = self.wish.changed();
        if let Ok(Err(_)) = tokio::time::timeout(time, changed).await {
            // The agent is gone, and with it every reason to hurry.
            std::future::pending::<()>().await;
        }
    }

    async fn tell(&self, input: Input) -> bool {
        self.books.inputs.send(input).await.is_ok()
    }
}
