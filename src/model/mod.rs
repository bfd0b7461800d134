//! The words everything else is written in: `browser`, `version`, `worker`, `pod`, `pool`, `endpoint`, the name of a
//! session (`session_id`), a client that waits for a seat (`waiter`), the `reason` to recycle, and what a Chromium tells
//! of itself (`devtools`). `word_set` declares closed sets of words.
//!
//! Plain values only. Nothing here does I/O, holds a lock or knows of Pingora, Redis or a process.

mod browser;
mod devtools;
mod endpoint;
mod pod;
mod pool;
mod reason;
mod session_id;
mod version;
mod waiter;
mod word_set;
mod worker;

pub use browser::Browser;
pub use devtools::{DevToolsVersion, GetVersion};
pub use endpoint::{Endpoint, EndpointError};
pub use pod::{NoPod, Pod};
pub use pool::{Pool, PoolFilter, PoolState, SeatKind};
pub use reason::RecycleReason;
pub use session_id::SessionId;
pub use version::Version;
pub use waiter::{STRIDE, Waiter};
pub(crate) use word_set::words;
pub use word_set::{UnknownWord, either};
pub use worker::{Counts, Heartbeat, Size, WorkerId, WorkerKey, WorkerRecord, WorkerStatus};

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, as the store's records carry them.
///
/// Only for records that people and other machines read; durations are measured with
/// [`std::time::Instant`], which a clock that jumps cannot disturb.
pub fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
