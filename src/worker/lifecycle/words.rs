//! What the life cycle is told, what it answers, and the rules that it is given.

use crate::config::RecycleMode;
use crate::model::{Counts, Reason, WorkerStatus};
use std::time::Duration;

/// One browser server in the line of a worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// The rules in force. Handed in with every step, since all of them may change at any time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    pub mode: RecycleMode,
    /// Sessions of a life; `None` = no limit.
    pub max_lifetime: Option<u32>,
    /// Sessions from which on proxies give it none, replaced or not.
    pub ceiling: u32,
    /// Bytes.
    pub max_memory: Option<u64>,
    pub max_age: Option<Duration>,
    /// Failed checks in a row; 0 = any number.
    pub max_failures: u32,
    pub drain_timeout: Duration,
    /// With [`RecycleMode::Exit`]: start over instead of ending when the browser has drained.
    pub start_over: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time passed. The first one starts the worker.
    Tick,
    /// A server that was to be spawned answers and is warm; `took` does not include waiting for
    /// its turn to start.
    Answered {
        generation: Generation,
        took: Duration,
    },
    /// The store has it on its books.
    Registered(Generation),
    /// A server is gone, with what is known of the cause; nothing of it is left.
    Exited(Generation, String),
    /// The store took a heartbeat that said `status`, and told these counts.
    Beat {
        generation: Generation,
        status: WorkerStatus,
        counts: Counts,
        /// It has been asked to recycle.
        recycle: bool,
    },
    /// The counters changed.
    Counts(Generation, Counts),
    /// The store had lost it, and has it on its books again, with fresh counters.
    Relisted(Generation),
    /// Although it drains, nobody has been connected to it for a while, whatever the counters say.
    Quiet(Generation),
    /// Memory of the process tree, in bytes.
    Memory(Generation, u64),
    /// A check of the browser passed or failed.
    Checked(Generation, bool),
    /// Take no more sessions, end with the last one.
    Drain,
    /// End at once.
    Stop,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Spawn(Generation),
    /// Put it on the store's books as available, however long it takes.
    Register(Generation),
    /// Tell the store at once.
    SetStatus(Generation, WorkerStatus),
    /// Take it off the books, and tell the store nothing more of it.
    Deregister(Generation),
    /// End the server, politely unless `now`.
    Stop {
        generation: Generation,
        now: bool,
    },
    /// Ask the store for its turn to be out of service, again and again; it comes as an order to
    /// recycle.
    AskForTurn(Generation),
    /// For people: it takes sessions from now on.
    Ready(Generation),
    /// For people and metrics: it is being recycled. Its sessions run to their end.
    Recycling(Generation, Reason),
    /// For people and metrics: it died. `retry_in`: when another is started in its place, if one
    /// is needed that is not on its way yet.
    Crashed {
        generation: Generation,
        why: String,
        retry_in: Option<Duration>,
    },
    /// For people: its last session has ended, or its time is up (`evicted` sessions were left).
    Drained {
        generation: Generation,
        evicted: u32,
    },
    /// All is done; no more steps.
    Finished,
}
