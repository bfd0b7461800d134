//! A client that waits for a seat, as its proxy tells a store that keeps the line of all proxies.

use super::{SeatKind, SessionId, Version, WorkerKey};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client that waits for a seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The session that the seat will be for.
    pub session: SessionId,
    /// Playwright's version; without one, every worker of the browser will do.
    pub version: Option<Version>,
    pub seat: SeatKind,
    /// Name of its token; empty without.
    pub tenant: Arc<str>,
    /// Its tenant's share of the turns.
    pub priority: u32,
    /// Workers that it was offered already.
    pub offered: Vec<WorkerKey>,
    pub came: Instant,
    /// For how long it goes on waiting.
    pub left: Duration,
    /// The place in line that the store gave it before, if it did.
    pub place: Option<u64>,
}
