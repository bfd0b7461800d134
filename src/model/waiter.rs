//! A client that waits for a seat, as its proxy tells a store that keeps the line of all proxies.

use super::{SeatKind, SessionId, Version, WorkerKey};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A turn of a tenant of priority 1 in the line, in the unit in which it is told when the next one is due: the
/// same for the line of one proxy (`admission/turns.rs`) and that of all proxies (`line.lua`).
pub const STRIDE: u64 = 1_000_000;

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

impl Waiter {
    /// A client without a token that came at this moment, and would take a shared seat of any version.
    pub fn new(session: SessionId, left: Duration) -> Waiter {
        Waiter {
            session,
            version: None,
            seat: SeatKind::Shared,
            tenant: Arc::from(""),
            priority: 1,
            offered: Vec::new(),
            came: Instant::now(),
            left,
            place: None,
        }
    }
}
