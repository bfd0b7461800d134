//! One generation's entry on the store's books: registers it, keeps it alive with heartbeats,
//! tells changes of status at once, and takes it off again. Never gives up while the store is
//! away, and decides nothing.

use super::door::Visitors;
use super::lifecycle::{Generation, Input};
use super::{leftovers, tree};
use crate::config::{LiveConfig, RecycleMode};
use crate::model::{Counts, Reason, WorkerRecord, WorkerStatus, unix_millis};
use crate::store::{Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Tries to take a worker off the books before its record is left to expire.
const FAREWELL_TRIES: u32 = 3;
const FAREWELL_PAUSE: Duration = Duration::from_millis(500);

/// How long nobody may have been connected to a draining server until it counts as empty whatever
/// the store says: longer than a proxy takes to dial after it reserved a seat.
const QUIET: Duration = Duration::from_secs(10);

/// What the store is to know of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Status(WorkerStatus),
    /// Not on the books, and not to come back.
    None,
}

/// What is wanted of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub entry: Entry,
    /// No session for the time being: the store is told that it drains.
    pub suspended: bool,
    /// Why its sessions are to end, if it is not that their time is up.
    pub end_reason: Option<String>,
    /// Rises when a heartbeat is wanted at once.
    pub asked: u64,
    /// Ask for its turn to be out of service.
    pub turn: bool,
    /// It is being recycled: to be counted.
    pub recycled: Option<Reason>,
}

/// What the registrations of one agent have in common.
pub struct Books {
    pub config: LiveConfig,
    pub store: Arc<dyn Store>,
    pub inputs: mpsc::Sender<Input>,
}

impl Books {
    pub fn new(config: LiveConfig, store: Arc<dyn Store>, inputs: mpsc::Sender<Input>) -> Books {
        Books {
            config,
            store,
            inputs,
        }
    }

    pub fn replaces_itself(&self) -> bool {
        self.config.load().recycle.mode == RecycleMode::MakeBeforeBreak
    }

    /// Counts processes that the kernel ended for want of memory. A store that is away does not hear
    /// of them.
    pub async fn count_oom_kills(&self, kills: u64) {
        self.note(self.store.count_oom_kills(kills).await);
    }

    /// Passes a result on. Who keeps the connection says when the store goes away and comes back;
    /// here it only means to carry on without it.
    fn note<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        result
            .inspect_err(|error| log::debug!(error:% = error; "the store did not take it"))
            .ok()
    }
}

/// One generation on the books.
pub struct Registration {
    books: Arc<Books>,
    generation: Generation,
    record: WorkerRecord,
    /// Node's process id, to measure its tree.
    node: i32,
    /// Its server's folder, with what sessions leave there.
    folder: PathBuf,
    /// Since when it has had no session, and how many it had had by then.
    empty: Option<(SystemTime, u32)>,
    visitors: Visitors,
    wish: watch::Receiver<Wish>,
    /// Whether the store knows why it is being recycled.
    reason_told: bool,
}

impl Registration {
    pub fn new(
        books: Arc<Books>,
        generation: Generation,
        record: WorkerRecord,
        node: i32,
        folder: PathBuf,
        visitors: Visitors,
        wish: watch::Receiver<Wish>,
    ) -> Registration {
        Registration {
            books,
            generation,
            record,
            node,
            folder,
            empty: None,
            visitors,
            wish,
            reason_told: false,
        }
    }

    /// Keeps the entry as wished until it is wished away.
    pub async fn run(mut self) {
        let mut registered = false;
        let mut quiet_since = None;
        while let Some(status) = self.wanted() {
            if !registered && self.register(status).await {
                registered = true;
                self.tell(Input::Registered(self.generation)).await;
            }
            if registered {
                if status == WorkerStatus::Available && self.wish.borrow().turn {
                    self.ask_for_turn().await;
                }
                if self.record.end_reason != self.wish.borrow().end_reason {
                    self.tell_end_reason(status).await;
                }
                self.beat(status).await;
                self.tell_reason().await;
            }
            if status == WorkerStatus::Available || self.visitors.count() > 0 {
                quiet_since = None;
            } else if quiet_since.get_or_insert_with(Instant::now).elapsed() >= QUIET {
                self.tell(Input::Quiet(self.generation)).await;
            }
            self.pause().await;
        }
        self.tell_reason().await;
        self.say_farewell().await;
    }

    fn wanted(&mut self) -> Option<WorkerStatus> {
        match self.wish.borrow_and_update().entry {
            Entry::Status(status) => Some(status),
            Entry::None => None,
        }
    }

    /// The status as proxies are to see it.
    fn shown(&self, status: WorkerStatus) -> WorkerStatus {
        match status {
            WorkerStatus::Available if self.wish.borrow().suspended => WorkerStatus::Draining,
            status => status,
        }
    }

    /// Proxies end its sessions when they see the record, and tell the reason that stands in it.
    async fn tell_end_reason(&mut self, status: WorkerStatus) {
        let before = self.record.end_reason.take();
        self.record.end_reason = self.wish.borrow().end_reason.clone();
        if !self.register(status).await {
            self.record.end_reason = before;
        }
    }

    async fn register(&mut self, status: WorkerStatus) -> bool {
        self.record.status = self.shown(status);
        self.record.replaces_itself = self.books.replaces_itself();
        self.record.last_heartbeat = unix_millis();
        let ttl = self.books.config.load().worker.key_ttl;
        let result = self.books.store.register(&self.record, ttl).await;
        self.books.note(result).is_some()
    }

    async fn beat(&mut self, status: WorkerStatus) {
        let memory = self.measure().await;
        let ttl = self.books.config.load().worker.key_ttl;
        let key = &self.record.key;
        let shown = self.shown(status);
        let result = self.books.store.heartbeat(key, shown, memory, ttl).await;
        let Some(beat) = self.books.note(result) else {
            return;
        };
        let generation = self.generation;
        if beat.unknown {
            log::info!(worker:% = key; "the store has lost this worker, registering again");
            self.record.memory = memory;
            if self.register(status).await {
                self.tell(Input::Relisted(generation)).await;
            }
            return;
        }
        self.tidy(beat.counts).await;
        self.tell(Input::Beat {
            generation,
            status,
            counts: beat.counts,
            recycle: beat.recycle,
        })
        .await;
        if self.record.replaces_itself != self.books.replaces_itself() {
            self.register(status).await;
        }
    }

    /// Removes what ended sessions left on the disk, when none is open that could have written it:
    /// what is from before a heartbeat at which there was none, if none has come since.
    async fn tidy(&mut self, counts: Counts) {
        let before = self
            .empty
            .filter(|(_, lifetime)| *lifetime == counts.lifetime);
        self.empty = match (counts.active, before) {
            (0, None) => Some((SystemTime::now(), counts.lifetime)),
            (0, before) => before,
            _ => None,
        };
        // The store may have lost its counters.
        let moment = match self.empty.and(before) {
            Some((since, _)) if self.visitors.count() == 0 => Some(since),
            _ => None,
        };
        let folder = self.folder.clone();
        let left = tokio::task::spawn_blocking(move || match moment {
            Some(moment) => leftovers::remove_before(&folder, moment),
            None => leftovers::size(&folder),
        });
        if let Ok(bytes) = left.await {
            self.tell(Input::Disk(self.generation, bytes)).await;
        }
    }

    /// The answer, if it is yes, comes with a heartbeat.
    async fn ask_for_turn(&self) {
        let config = self.books.config.load_full();
        let (ttl, max_out) = (config.recycle.command_ttl, config.recycle.max_unavailable);
        let turn = config.worker.drain_timeout + config.worker.start_timeout;
        let store = &self.books.store;
        let asked = store
            .order_recycle_in_turn(&self.record.key, ttl, max_out, turn)
            .await;
        self.books.note(asked);
    }

    /// Tells why it is being recycled, until the store has taken it.
    async fn tell_reason(&mut self) {
        let reason = self.wish.borrow().recycled;
        if let Some(reason) = reason.filter(|_| !self.reason_told) {
            let told = self
                .books
                .store
                .count_recycle(&self.record.key, reason)
                .await;
            self.reason_told = self.books.note(told).is_some();
        }
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

    /// Waits for the next heartbeat's time, at most until the wish changes.
    async fn pause(&mut self) {
        let interval = self.books.config.load().worker.heartbeat_interval;
        let changed = self.wish.changed();
        if let Ok(Err(_)) = tokio::time::timeout(interval, changed).await {
            // The agent is gone, and this task about to be.
            std::future::pending::<()>().await;
        }
    }

    /// The agent being gone is no error: this task ends with it.
    async fn tell(&self, input: Input) {
        self.books.inputs.send(input).await.ok();
    }
}
