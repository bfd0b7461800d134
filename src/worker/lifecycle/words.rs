//! What the life cycle is told, what it answers, and the rules that it is given.

use crate::config::RecycleMode;
use crate::model::{Counts, RecycleReason, WorkerStatus};
use std::time::Duration;

/// One browser server in the series of a worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// The rules in force. Handed in with every step, since all of them may change at any time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub mode: RecycleMode,
    /// Sessions of a life; `None` = no limit.
    pub max_lifetime_sessions: Option<u32>,
    /// Sessions from which on proxies give it none, replaced or not.
    pub ceiling: u32,
    /// Bytes.
    pub max_memory: Option<u64>,
    pub max_age: Option<Duration>,
    /// Checks in a row that failed at first; 0 = any number.
    pub max_failures: u32,
    /// How long the sessions of a browser that was replaced may go on; `None` = to their end.
    pub recycle_timeout: Option<Duration>,
    /// How long sessions may go on once the worker is to end.
    pub drain_timeout: Duration,
    /// Browsers that drain at once; while there are so many, none is replaced.
    pub max_draining: usize,
    /// What memory there is for one more browser.
    pub room: Room,
    /// With [`RecycleMode::Exit`]: start over, and do not end, when the browser has drained.
    pub start_over: bool,
}

/// Memory as it is at this moment, in bytes. Without a limit there is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Of this worker's container, or of the machine.
    pub limit: u64,
    /// What is left of it, less what browsers that are starting will need.
    pub free: u64,
}

impl Room {
    /// As much as anybody wants.
    pub const UNLIMITED: Room = Room {
        limit: u64::MAX,
        free: u64::MAX,
    };

    /// Whether so little is left that the kernel may soon end processes.
    pub fn is_short(&self) -> bool {
        self.free < self.limit / SHORT_PART
    }
}

/// Memory is short when less than this part of it is free: 5 %.
const SHORT_PART: u64 = 20;

/// What a check of a browser came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Well,
    /// The check failed; another one decides in a moment.
    Suspect,
    /// It failed twice, and why.
    Broken(String),
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
    Heartbeat {
        generation: Generation,
        status: WorkerStatus,
        counts: Counts,
        /// An order to recycle stands.
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
    /// What its sessions, open ones and ended ones, have on its disk, in bytes.
    Disk(Generation, u64),
    /// A check of the browser came to its end.
    Checked(Generation, Health),
    /// Take no more sessions, end with the last one.
    Drain,
    /// End at once.
    Stop,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start a server; without waiting for a permit to warm up if `at_once`, and with this much memory
    /// in mind.
    Spawn {
        generation: Generation,
        at_once: bool,
        memory: u64,
    },
    /// Put it on the store's books as available, however long it takes.
    Register(Generation),
    /// Tell the store at once.
    SetStatus(Generation, WorkerStatus),
    /// Give it no session for the time being, or again.
    Suspend(Generation, bool),
    /// Have its sessions ended, for this reason if it is not that their time is up.
    Evict(Generation, Option<String>),
    /// For people, once in a worker's life: a replacement needs more memory than is left.
    NoRoom { needed: u64, room: Room },
    /// Take it off the books, and tell the store nothing more of it.
    Deregister(Generation),
    /// End the server, politely unless `now`.
    Stop { generation: Generation, now: bool },
    /// Ask the store for a permit to be out of service, again and again; it comes as an order to
    /// recycle.
    RequestRecyclePermit(Generation),
    /// For people: it takes sessions from here on.
    Ready(Generation),
    /// For people and metrics: it is being recycled. Its sessions run to their end.
    Recycling(Generation, RecycleReason),
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
