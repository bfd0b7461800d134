//! What an agent tells whoever watches it: a terminal, metrics, tests.

use crate::model::{Browser, RecycleReason, WorkerId};
use std::sync::Arc;
use std::time::Duration;

/// A step in the life of a worker. `id` is the browser server's, which changes when it is
/// recycled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A browser server is about to be started; it may have to wait for its turn.
    Starting { id: WorkerId },
    /// It answers, and opens its first page.
    Warming { id: WorkerId },
    /// It is registered and takes sessions.
    Ready {
        id: WorkerId,
        /// `host:port`. The path is a secret and not told.
        authority: String,
        browser: Browser,
        /// Playwright's full version.
        release: String,
        /// From its start until it was warm, without the wait for its turn.
        took: Duration,
    },
    /// It takes no more sessions because it is to be replaced (or, with `recycle.mode: exit`, to
    /// end); those it has run to their end.
    Recycling { id: WorkerId, reason: RecycleReason },
    /// It is not fit to go on: its sessions are ended, and it is killed.
    Condemned { id: WorkerId, why: String },
    /// It died, or did not start.
    Crashed {
        id: WorkerId,
        /// Whether it was up before.
        was_up: bool,
        why: String,
        /// When the next one is started, if one is needed.
        retry_in: Option<Duration>,
    },
    /// It takes no more sessions because the worker is to end.
    Draining { id: WorkerId },
    /// Its last session has ended, or its time was up with `evicted` sessions left.
    Drained { id: WorkerId, evicted: u32 },
}

/// Is called with every step, from within the agent: quick, and not blocking.
pub type Observer = Arc<dyn Fn(Progress) + Send + Sync>;

impl Progress {
    /// The line in the log. Who watches a terminal sees the same from the observer.
    pub(super) fn log(&self) {
        match self {
            Progress::Starting { id } => log::debug!(worker:% = id; "browser starting"),
            Progress::Warming { id } => log::debug!(worker:% = id; "browser warming up"),
            Progress::Ready {
                id,
                authority,
                browser,
                release,
                took,
            } => log::info!(
                worker:% = id, address = authority, browser:% = browser, playwright = release,
                took_ms = took.as_millis() as u64;
                "worker ready"
            ),
            Progress::Recycling { id, reason } => {
                log::info!(worker:% = id, reason:% = reason; "worker recycling");
            }
            Progress::Condemned { id, why } => {
                log::error!(worker:% = id, why = why; "ending a browser and its sessions");
            }
            Progress::Crashed {
                id,
                was_up,
                why,
                retry_in,
            } => {
                let pause = retry_in.map(|pause| pause.as_millis() as u64);
                let what = if *was_up {
                    "browser died"
                } else {
                    "browser did not start"
                };
                log::warn!(worker:% = id, why = why, retry_in_ms = pause; "{what}");
            }
            Progress::Draining { id } => log::info!(worker:% = id; "worker draining"),
            Progress::Drained { id, evicted: 0 } => log::info!(worker:% = id; "worker drained"),
            Progress::Drained { id, evicted } => log::warn!(
                worker:% = id, sessions = evicted;
                "worker drained: time was up, sessions were ended"
            ),
        }
    }
}
