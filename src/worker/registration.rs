//! One generation's entry on the store's books: registers it, keeps it alive with heartbeats,
//! tells changes of status at once, and takes it off again. Never gives up while the store is
//! away, and decides nothing.

use super::gateway::Connections;
use super::leftovers;
use super::lifecycle::{Generation, Input};
use super::own::Processes;
use crate::config::{LiveConfig, RecycleMode};
use crate::model::{
    Counts, Heartbeat, RecycleReason, Size, WorkerRecord, WorkerStatus, unix_millis,
};
use crate::store::{Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Tries to take a worker off the books before its record is left to expire.
const DEREGISTER_ATTEMPTS: u32 = 3;
const DEREGISTER_PAUSE: Duration = Duration::from_millis(500);

/// How long nobody may have been connected to a draining server until it counts as empty whatever
/// the store says: longer than a proxy takes to dial after it reserved a seat.
const QUIET: Duration = Duration::from_secs(10);

/// How a generation is to stand in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DesiredStatus {
    Registered(WorkerStatus),
    /// It is to have no record, for good.
    Unregistered,
}

/// What the record of a generation is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub status: DesiredStatus,
    /// No session for the time being: the store is told that it drains.
    pub suspended: bool,
    /// Why its sessions are to end, if it is not that their time is up.
    pub end_reason: Option<String>,
    /// Rises when a heartbeat is wanted at once.
    pub heartbeats_requested: u64,
    /// Ask for a permit to be out of service.
    pub wants_recycle_permit: bool,
    /// It is being recycled: to be counted.
    pub recycled: Option<RecycleReason>,
}

/// What the registrations of one agent have in common.
pub struct Registrar {
    pub config: LiveConfig,
    pub store: Arc<dyn Store>,
    pub inputs: mpsc::Sender<Input>,
}

impl Registrar {
    /// For an agent that writes to this store, and is told by `inputs`.
    pub fn new(
        config: LiveConfig,
        store: Arc<dyn Store>,
        inputs: mpsc::Sender<Input>,
    ) -> Registrar {
        Registrar {
            config,
            store,
            inputs,
        }
    }

    /// Whether the worker replaces its browser before it drains the old one.
    pub fn replaces_itself(&self) -> bool {
        self.config.load().recycle.mode == RecycleMode::MakeBeforeBreak
    }

    /// How many sessions the worker takes, as far as it says so itself.
    pub fn size(&self) -> Size {
        self.config.load().worker_size()
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

/// One generation's record in the store, kept up to date.
pub struct Registration {
    registrar: Arc<Registrar>,
    generation: Generation,
    record: WorkerRecord,
    processes: Processes,
    /// Its server's folder, with what sessions leave there.
    folder: PathBuf,
    /// Since when it has had no session, and how many it had had by then.
    empty: Option<(SystemTime, u32)>,
    connections: Connections,
    desired: watch::Receiver<Desired>,
    /// Whether the store knows why it is being recycled.
    recycle_counted: bool,
}

impl Registration {
    /// For a generation whose record is to be as `desired` says.
    pub fn new(
        registrar: Arc<Registrar>,
        generation: Generation,
        record: WorkerRecord,
        processes: Processes,
        folder: PathBuf,
        connections: Connections,
        desired: watch::Receiver<Desired>,
    ) -> Registration {
        Registration {
            registrar,
            generation,
            record,
            processes,
            folder,
            empty: None,
            connections,
            desired,
            recycle_counted: false,
        }
    }

    /// Keeps the record as desired until none is.
    pub async fn run(mut self) {
        let mut registered = false;
        let mut quiet_since = None;
        while let Some(status) = self.desired_status() {
            if !registered && self.register(status).await {
                registered = true;
                self.send(Input::Registered(self.generation)).await;
            }
            if registered {
                if status == WorkerStatus::Available && self.desired.borrow().wants_recycle_permit {
                    self.request_recycle_permit().await;
                }
                if self.record.end_reason != self.desired.borrow().end_reason {
                    self.write_end_reason(status).await;
                }
                self.beat(status).await;
                self.count_recycle().await;
            }
            if status == WorkerStatus::Available || self.connections.count() > 0 {
                quiet_since = None;
            } else if quiet_since.get_or_insert_with(Instant::now).elapsed() >= QUIET {
                self.send(Input::Quiet(self.generation)).await;
            }
            self.pause().await;
        }
        self.count_recycle().await;
        self.deregister().await;
    }

    fn desired_status(&mut self) -> Option<WorkerStatus> {
        match self.desired.borrow_and_update().status {
            DesiredStatus::Registered(status) => Some(status),
            DesiredStatus::Unregistered => None,
        }
    }

    /// The status as proxies are to see it.
    fn shown(&self, status: WorkerStatus) -> WorkerStatus {
        match status {
            WorkerStatus::Available if self.desired.borrow().suspended => WorkerStatus::Draining,
            status => status,
        }
    }

    /// Proxies end its sessions when they see the record, and tell the reason that stands in it.
    async fn write_end_reason(&mut self, status: WorkerStatus) {
        let before = self.record.end_reason.take();
        self.record.end_reason = self.desired.borrow().end_reason.clone();
        if !self.register(status).await {
            self.record.end_reason = before;
        }
    }

    async fn register(&mut self, status: WorkerStatus) -> bool {
        self.record.status = self.shown(status);
        self.record.replaces_itself = self.registrar.replaces_itself();
        self.record.size = self.registrar.size();
        self.record.last_heartbeat = unix_millis();
        let ttl = self.registrar.config.load().worker.key_ttl;
        let result = self.registrar.store.register(&self.record, ttl).await;
        self.registrar.note(result).is_some()
    }

    async fn beat(&mut self, status: WorkerStatus) {
        let memory = self.measure().await;
        let ttl = self.registrar.config.load().worker.key_ttl;
        let key = &self.record.key;
        let heartbeat = Heartbeat::new(self.shown(status), memory);
        let result = self.registrar.store.heartbeat(key, heartbeat, ttl).await;
        let Some(beat) = self.registrar.note(result) else {
            return;
        };
        let generation = self.generation;
        if beat.unknown {
            log::info!(worker:% = key; "the store has lost this worker, registering again");
            self.record.memory = memory;
            if self.register(status).await {
                self.send(Input::Relisted(generation)).await;
            }
            return;
        }
        self.tidy(beat.counts).await;
        self.send(Input::Heartbeat {
            generation,
            status,
            counts: beat.counts,
            recycle: beat.recycle,
        })
        .await;
        let changed = self.record.replaces_itself != self.registrar.replaces_itself()
            || self.record.size != self.registrar.size();
        if changed {
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
            Some((since, _)) if self.connections.count() == 0 => Some(since),
            _ => None,
        };
        let folder = self.folder.clone();
        let left = tokio::task::spawn_blocking(move || match moment {
            Some(moment) => leftovers::remove_before(&folder, moment),
            None => leftovers::size(&folder),
        });
        if let Ok(bytes) = left.await {
            self.send(Input::Disk(self.generation, bytes)).await;
        }
    }

    /// The answer, if it is yes, comes with a heartbeat.
    async fn request_recycle_permit(&self) {
        let config = self.registrar.config.load_full();
        let (ttl, max_out) = (config.recycle.command_ttl, config.recycle.max_unavailable);
        let time = config.worker.drain_timeout + config.worker.start_timeout;
        let store = &self.registrar.store;
        let requested = store
            .order_recycle_with_permit(&self.record.key, ttl, max_out, time)
            .await;
        self.registrar.note(requested);
    }

    /// Tells why it is being recycled, until the store has taken it.
    async fn count_recycle(&mut self) {
        let reason = self.desired.borrow().recycled;
        if let Some(reason) = reason.filter(|_| !self.recycle_counted) {
            let counted = self
                .registrar
                .store
                .count_recycle(&self.record.key, reason)
                .await;
            self.recycle_counted = self.registrar.note(counted).is_some();
        }
    }

    async fn measure(&self) -> Option<u64> {
        let processes = self.processes.clone();
        let memory = tokio::task::spawn_blocking(move || processes.memory())
            .await
            .ok()??;
        // Browsers of one session each come and go, and no replacement needs what all of them do.
        if let Processes::Server(_) = self.processes {
            self.send(Input::Memory(self.generation, memory)).await;
        }
        Some(memory)
    }

    async fn deregister(&self) {
        for attempt in 1..=DEREGISTER_ATTEMPTS {
            let result = self.registrar.store.deregister(&self.record.key).await;
            if self.registrar.note(result).is_some() || attempt == DEREGISTER_ATTEMPTS {
                return;
            }
            tokio::time::sleep(DEREGISTER_PAUSE).await;
        }
    }

    /// Waits for the next heartbeat's time, at most until something else is desired.
    async fn pause(&mut self) {
        let interval = self.registrar.config.load().worker.heartbeat_interval;
        let changed = self.desired.changed();
        if let Ok(Err(_)) = tokio::time::timeout(interval, changed).await {
            // The agent is gone, and this task about to be.
            std::future::pending::<()>().await;
        }
    }

    /// The agent being gone is no error: this task ends with it.
    async fn send(&self, input: Input) {
        self.registrar.inputs.send(input).await.ok();
    }
}
