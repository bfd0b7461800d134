//! A worker as the store records it: one browser server with an id of its own.

use super::{Browser, DevToolsVersion, Endpoint, Pod, Pool, SeatKind, Version, unix_millis, words};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The id of one browser server. A recycled worker comes back under a new one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// The id as the store has it.
    pub fn new(id: impl Into<Arc<str>>) -> WorkerId {
        WorkerId(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What names a worker in the store: `{browser}:{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerKey {
    pub browser: Browser,
    pub id: WorkerId,
}

impl WorkerKey {
    /// The worker of this browser and id.
    pub fn new(browser: Browser, id: impl Into<Arc<str>>) -> WorkerKey {
        WorkerKey {
            browser,
            id: WorkerId::new(id),
        }
    }
}

impl fmt::Display for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.browser, self.id)
    }
}

impl FromStr for WorkerKey {
    type Err = ();

    /// Reads `{browser}:{id}`; the id may itself hold colons.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (browser, id) = text.split_once(':').ok_or(())?;
        if id.is_empty() {
            return Err(());
        }
        Ok(WorkerKey::new(browser.parse().map_err(|_| ())?, id))
    }
}

words! {
    /// Whether a worker takes sessions: the record's field `status`.
    #[derive(Serialize, Deserialize)]
    pub enum WorkerStatus ("worker status") {
        /// Takes sessions.
        Available = "available",
        /// Takes no new sessions; those it has run to their end.
        Draining = "draining",
        /// About to be gone.
        ShuttingDown = "shutting-down",
    }
}

/// How many sessions a worker takes, where it says so itself. What it leaves open is as the grid's
/// `limits` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Size {
    /// At once.
    pub max_concurrent_sessions: Option<u32>,
    /// In the life of one of its browsers; 0 = any number.
    pub max_lifetime_sessions: Option<u32>,
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub key: WorkerKey,
    pub endpoint: Endpoint,
    pub status: WorkerStatus,
    /// Playwright's version; unknown for workers of the original system, which do not tell.
    pub version: Option<Version>,
    /// The browser's own version, such as `156.0.8078.79`, when the worker knows it.
    pub browser_version: Option<String>,
    /// What its browsers tell clients of the DevTools protocol, where it takes such.
    #[serde(default)]
    pub devtools: Option<DevToolsVersion>,
    /// Whether it replaces its browser before it drains the old one (make before break). Such a
    /// worker may go past its lifetime limit while the replacement warms up.
    pub replaces_itself: bool,
    /// Kind of its seats.
    #[serde(default)]
    pub seat: SeatKind,
    #[serde(default)]
    pub size: Size,
    /// Whether it stands in a proxy's configuration: it has no agent, and nobody recycles it.
    #[serde(default)]
    pub fixed: bool,
    /// When this browser was started, in milliseconds since the epoch.
    pub started_at: u64,
    /// Its last sign of life, in milliseconds since the epoch.
    pub last_heartbeat: u64,
    /// Memory of the browser's process tree in bytes, when the worker measures it.
    pub memory: Option<u64>,
    /// Of one that is [shutting down](WorkerStatus::ShuttingDown): why its sessions have to end, if
    /// it is not that their time is up.
    pub end_reason: Option<String>,
    /// The pod it runs in.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// Of one with shared seats: the digest of the launch options that
    /// its browser has of itself, if it has any.
    #[serde(default)]
    pub launch_options: Option<String>,
    /// How far its browsers are kept from what is not theirs, when the worker says it: `full`,
    /// `partial` with what sessions can do, or `off`.
    pub seal: Option<String>,
}

impl WorkerRecord {
    /// The pool that the worker belongs to.
    pub fn pool(&self) -> Pool {
        Pool {
            browser: self.key.browser,
            version: self.version,
            seat: self.seat,
        }
    }

    /// An available worker of which no more is known than where it is and since when.
    pub fn new(key: WorkerKey, endpoint: Endpoint, started_at: u64) -> WorkerRecord {
        WorkerRecord {
            key,
            endpoint,
            status: WorkerStatus::Available,
            version: None,
            browser_version: None,
            devtools: None,
            replaces_itself: false,
            seat: SeatKind::Shared,
            size: Size::default(),
            fixed: false,
            started_at,
            last_heartbeat: started_at,
            memory: None,
            end_reason: None,
            pod: None,
            launch_options: None,
            seal: None,
        }
    }
}

/// A worker's sign of life: what it rewrites of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub status: WorkerStatus,
    /// Memory of the browser's process tree in bytes, when the worker measures it.
    pub memory: Option<u64>,
    /// In milliseconds since the epoch.
    pub at: u64,
}

impl Heartbeat {
    /// One of this moment.
    pub fn new(status: WorkerStatus, memory: Option<u64>) -> Heartbeat {
        Heartbeat {
            status,
            memory,
            at: unix_millis(),
        }
    }

    /// Rewrites the record, and says whether it tells anything but that the worker lives.
    pub fn rewrite(&self, record: &mut WorkerRecord) -> bool {
        let before = (record.status, record.memory);
        record.status = self.status;
        record.memory = self.memory;
        record.last_heartbeat = self.at;
        before != (self.status, self.memory)
    }
}

/// A worker's two counters, as the store has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Open or reserved sessions.
    pub active: u32,
    /// Sessions ever given to this worker.
    pub lifetime: u32,
    /// Rises with every change of the two, so that an older pair never overwrites a newer one.
    pub revision: u64,
}
