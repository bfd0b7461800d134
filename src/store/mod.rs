//! The state that proxies and workers share: four traits of one meaning each, with two implementations.
//!
//! [`memory`] serves one process, [`redis`] serves many. Both pass the same test suite
//! (`tests/store`). Only this folder knows how the state is kept; only `redis` names Redis.

mod ledger;
pub mod memory;
mod open;
mod permits;
pub mod redis;

pub use open::{StoreOptions, StoreRole, URLS, accepts_url, open};
pub use permits::{Permit, PermitHolder, PermitPool, PermitStore};

use crate::model::{
    Browser, Counts, Heartbeat, RecycleReason, SessionId, Waiter, WorkerKey, WorkerRecord,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// The store did not do what was asked, and nothing is known of whether it happened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time.
    #[error("the store is away: {0}")]
    Away(String),
    /// It answered, and refused or said something that makes no sense.
    #[error("the store refused: {0}")]
    Refused(String),
}

/// A worker together with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    pub record: WorkerRecord,
    pub counts: Counts,
}

/// Most candidates of one question; what comes behind them is not looked at.
pub const MAX_CANDIDATES: usize = 32;

/// One candidate of a reservation: how far this worker may be filled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub key: WorkerKey,
    /// Most sessions at once.
    pub max_concurrent_sessions: u32,
    /// From this many lifetime sessions on it takes no more; `None` for no limit.
    pub lifetime_cap: Option<u32>,
}

/// What came of serving a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// The store does not know, or has forgotten, who of this proxy waits: tell it of all of them
    /// again, in a call that begins anew.
    Unknown,
    Line(LineServed),
}

/// What serving a line did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineServed {
    /// The places in line of those who came without one.
    pub places: Vec<(SessionId, u64)>,
    /// Who of this proxy got a seat, and where.
    pub granted: Vec<Granted>,
    /// The candidates that were looked at, with their counts; `None` for one that is not registered
    /// and available.
    pub looked_at: Vec<(WorkerKey, Option<Counts>)>,
    /// How many clients of other proxies got a seat.
    pub elsewhere: usize,
}

/// A seat that a waiting session got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub session: SessionId,
    pub worker: WorkerKey,
    pub counts: Counts,
}

/// Hears which waiting sessions of this proxy another proxy's call gave a seat. Called on a task of the
/// store, so it must not block.
pub type Grantee = Box<dyn Fn(SessionId) + Send + Sync>;

/// What came of a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reserved {
    /// The first candidate with a seat left took it. Both its counters went up by one and the
    /// session is recorded as holding the seat.
    Seat { worker: WorkerKey, counts: Counts },
    /// Every candidate that is still there is full. With each, its counts as they are, for
    /// the caller to rank anew.
    Full { counts: Vec<(WorkerKey, Counts)> },
    /// No candidate is registered and available.
    Gone,
}

/// What the store tells those who listen, in the order it happened as far as one store can know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker registered or its record changed.
    Worker(Box<WorkerView>),
    /// A worker is gone.
    Gone(WorkerKey),
    /// A worker's counters changed.
    Counts(WorkerKey, Counts),
    /// The worker of this key is ordered to recycle itself.
    Recycle(WorkerKey),
    /// The worker of this key is to check its browser.
    Suspect(WorkerKey),
    /// Something may have been missed: read [`Store::fleet`] again.
    Resync,
    /// The store went away (`false`) or came back (`true`).
    Reachable(bool),
}

impl Event {
    /// The revision of the counts that it tells.
    fn revision(&self) -> Option<u64> {
        match self {
            Event::Worker(view) => Some(view.counts.revision),
            Event::Counts(_, counts) => Some(counts.revision),
            _ => None,
        }
    }
}

/// What a worker learns from its own heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The record had vanished (expired, or the store came back empty): register again.
    pub unknown: bool,
    /// An order to recycle stands.
    pub recycle: bool,
    pub counts: Counts,
}

/// Says what this proxy answers to another one's question. Called on a task of the store.
pub type PeerHandler = Box<dyn Fn(&str) -> String + Send + Sync>;

/// Whether an answer makes all others needless.
pub type EnoughAnswers = fn(&str) -> bool;

/// What came of a question to all other proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAnswers {
    /// Proxies with what they answered.
    pub given: Vec<(String, String)>,
    /// The proxies that are said to be alive and have not answered (yet).
    pub silent: Vec<String>,
}

/// Who holds which seat, and who waits for one.
#[async_trait]
pub trait SeatStore: Send + Sync + 'static {
    /// Gives `session` a seat on the first candidate that is registered, `available` and below
    /// both its limits, as the counters are. The order is the caller's: ranking is the
    /// policy's business, limits are the store's. Atomic: of two reservations at once for one
    /// seat, one gets it.
    ///
    /// A session holds at most one seat. One that already holds a seat keeps it and is told which,
    /// so repeating a reservation whose answer was lost takes nothing twice; to get another worker,
    /// release first. Dropping this future gives back what it may have taken.
    async fn reserve(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError>;

    /// Whether this store keeps the lines of all proxies that share it, so that they are served by
    /// [`Store::serve_line`]. A store of one process leaves the order to its one queue.
    fn keeps_line(&self) -> bool {
        false
    }

    /// Serves the line of a browser: takes in the clients that come to this proxy's part of it, and
    /// gives the candidates' free seats, in the order in which they are named, to those who are first
    /// in turn, at whichever proxy they wait. Those of other proxies are told there, and take the seat up by
    /// being told of again, or it is given to the next.
    ///
    /// Who was taken in waits until it gets a seat, its time is over, or its session is released; and
    /// as long as this is called, with clients or without, once in a second. `anew` says that the
    /// proxy tells of all its clients from here on, in this call and those that follow.
    ///
    /// After an error nobody knows what became of those who came: release their sessions.
    async fn serve_line(
        &self,
        _browser: Browser,
        _anew: bool,
        _coming: &[Waiter],
        _candidates: &[Candidate],
    ) -> Result<Served, StoreError> {
        Ok(Served::Unknown)
    }

    /// Sessions of this proxy that others give a seat are told to this from here on: each is to be told of again in
    /// [`SeatStore::serve_line`], whose answer says which seat it has, if it has it still.
    fn grant_with(&self, _grantee: Grantee) {}

    /// Gives back the seat that `session` holds, or its place in line, if it has one: active goes down by one, and
    /// with `refund` the lifetime too (the session never reached its worker). Repeating it, or
    /// releasing a session that never got a seat, changes nothing. Called on the store that
    /// reserved.
    ///
    /// Never lost: what fails with [`StoreError::Away`] is remembered and done when the store is
    /// back, so a caller may log the error and forget the session.
    async fn release(&self, session: SessionId, refund: bool) -> Result<(), StoreError>;

    /// Records that `session` holds a seat on `worker` although the store was not asked: it was
    /// away, and the caller admitted the session by itself. Both counters go up by one, beyond the
    /// limits if need be, at once or as soon as the store is back. Ended by [`Store::release`]
    /// like any other; adopting a session that already has a seat changes nothing.
    fn adopt(&self, session: SessionId, worker: &WorkerKey);

    /// Open or reserved sessions of the whole grid: the sum of all workers' active counts.
    async fn active_sessions(&self) -> Result<u64, StoreError>;

    /// Until when the others count what this proxy holds as taken, should it not be heard again: a TTL
    /// after its last sign of life that was answered. `None` when there are no others.
    fn holds_seats_until(&self) -> Option<Instant> {
        None
    }
}

/// Who is registered, how each worker is, and what is asked of it.
#[async_trait]
pub trait WorkerStore: Send + Sync + 'static {
    /// All workers that are alive, with their counters.
    async fn fleet(&self) -> Result<Vec<WorkerView>, StoreError>;

    /// Orders a worker to recycle itself. The order lapses after `ttl` if nobody takes it up.
    async fn order_recycle(&self, worker: &WorkerKey, ttl: Duration) -> Result<(), StoreError>;

    /// The same for a worker that is out of service while it recycles, if it is its turn: of the
    /// workers of its browser at most `max_out` are out by such an order at a time. A turn ends
    /// when a new worker of the browser registers after the ordered one has gone, or after
    /// `turn`. Returns whether it was ordered; one that has its turn already is ordered again.
    async fn order_recycle_with_permit(
        &self,
        worker: &WorkerKey,
        ttl: Duration,
        max_out: usize,
        turn: Duration,
    ) -> Result<bool, StoreError>;

    /// Counts that a worker is being recycled, and why. Of one worker only the first word counts.
    async fn count_recycle(
        &self,
        worker: &WorkerKey,
        reason: RecycleReason,
    ) -> Result<(), StoreError>;

    /// How many workers of the whole grid were recycled for each reason, as long as the store
    /// remembers. Those of the original do not tell.
    async fn recycles(&self) -> Result<HashMap<RecycleReason, u64>, StoreError>;

    /// Has a worker check its browser at once: it does not answer a session. A hint that may be
    /// lost; a worker checks it by itself now and then.
    async fn suspect(&self, worker: &WorkerKey) -> Result<(), StoreError>;

    /// Counts processes of workers that a kernel ended for want of memory.
    async fn count_oom_kills(&self, kills: u64) -> Result<(), StoreError>;

    /// How many there were in the whole grid, as long as the store remembers.
    async fn oom_kills(&self) -> Result<u64, StoreError>;

    /// Registers a worker, or, when it is already there, rewrites its record and keeps its
    /// counters. Without a heartbeat it is dropped after `ttl`.
    ///
    /// A new worker starts at zero. One that had been dropped because it was silent for too long
    /// finds the seats that sessions still hold on it counted as active.
    async fn register(&self, record: &WorkerRecord, ttl: Duration) -> Result<(), StoreError>;

    /// A worker's sign of life: extends its record by `ttl` and rewrites it as the
    /// [`Heartbeat`] says.
    async fn heartbeat(
        &self,
        worker: &WorkerKey,
        heartbeat: Heartbeat,
        ttl: Duration,
    ) -> Result<HeartbeatReply, StoreError>;

    /// Takes a worker off the books, with its counters and the seats held on it. Its id does not
    /// come back.
    async fn deregister(&self, worker: &WorkerKey) -> Result<(), StoreError>;

    /// Drops workers whose record expired, with their counters, and gives back the seats that dead
    /// proxies left behind. Safe to call from every proxy at any time; whoever comes first does
    /// the work.
    async fn reap(&self) -> Result<(), StoreError>;

    /// The events from here on. A listener that falls behind sees
    /// [`broadcast::error::RecvError::Lagged`] and has to read [`Store::fleet`] again.
    fn events(&self) -> broadcast::Receiver<Event>;
}

/// The other processes that share the store. The defaults are those of a store that nobody shares.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Whether the store answers at present. [`Event::Reachable`] tells of changes.
    fn reachable(&self) -> bool {
        true
    }

    /// Whether the store came back empty or old a moment ago, so that it takes seats for taken of which
    /// nobody has told it yet.
    fn is_being_restored(&self) -> bool {
        false
    }

    /// Whether other processes share this store, so that the counters known here may be behind.
    fn is_shared(&self) -> bool {
        false
    }

    /// How many proxies share this store, this one included, as last heard: while the store is
    /// away a proxy keeps to its share of each worker's seats.
    fn proxies(&self) -> usize {
        1
    }

    /// The address from which this process reaches the store, as the store sees it: where others
    /// on that network reach this process in turn. `None` when it says nothing of the kind.
    async fn own_address(&self) -> Option<IpAddr> {
        None
    }

    /// A secret that all who share this store have, and nobody else.
    async fn shared_secret(&self) -> Result<[u8; 32], StoreError>;

    /// Notes that something is used, for `ttl`; `false` when somebody has used it already.
    async fn use_once(&self, what: &str, ttl: Duration) -> Result<bool, StoreError>;

    /// Asks all other proxies that share this store, and waits until they have answered, one of the
    /// answers is `enough`, or `patience` is over. A store of one process knows no others.
    async fn query_peers(
        &self,
        _question: &str,
        _patience: Duration,
        _enough: EnoughAnswers,
    ) -> Result<PeerAnswers, StoreError> {
        Ok(PeerAnswers::default())
    }

    /// What others ask is answered with this from here on; until then, they wait in vain.
    fn serve_peers(&self, _answerer: PeerHandler) {}
}

/// The shared state. Every method is safe to repeat; dropping a future leaves either nothing done
/// or all of it, and [`Store::release`] of a session mends either.
pub trait Store: SeatStore + WorkerStore + PermitStore + Peers {}

impl<T: SeatStore + WorkerStore + PermitStore + Peers> Store for T {}
