//! The life of a worker as a pure state machine: what to do next, given what happened and the time.
//!
//! A worker is a line of *generations*, each a browser server with an id of its own:
//!
//! ```text
//! Starting ──answered──> Announcing ──registered──> Available ──replaced, told to──> Draining
//!     │                      │                          │        leave               │    │
//!     │ fails                │ dies                     │ dies           last session│    │time
//!     v                      v                          v                 has ended  v    v is up
//!   (gone) <─────────────────┴──────────────────────────┴────exited──────────── Stopping <─ Evicting
//! ```
//!
//! Up to three kinds live at once: the one that serves, its replacement, and those that drain.
//! Make before break: the serving one drains only after its replacement is registered, so that the
//! worker's seats are there at all times. Processes, store and clock are at the edge, in
//! [`agent`](super::agent).

use super::fill::FillRate;
use crate::config::RecycleMode;
use crate::model::{Counts, WorkerStatus};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How long a replacement takes to be warm, until the first one has been measured.
const FIRST_LEAD: Duration = Duration::from_secs(2);
/// The replacement is started this much earlier than the expected need.
const LEAD_MARGIN: f64 = 1.5;
/// A browser that lived this long was sound: what happened before it is forgiven.
const SOUND_AFTER: Duration = Duration::from_secs(30);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// What proxies get, after the drain timeout, to tell the clients why their sessions end.
const EVICTION_GRACE: Duration = Duration::from_secs(2);

/// One browser server in the line of a worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// Why a browser is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It has had the sessions of a life.
    Lifetime,
    /// Its process tree uses too much memory.
    Memory,
    /// It is old.
    Age,
    /// It failed its checks, or sessions, several times in a row.
    Failures,
    /// Somebody asked for it.
    Operator,
}

impl Reason {
    pub const ALL: [Reason; 5] = [
        Reason::Lifetime,
        Reason::Memory,
        Reason::Age,
        Reason::Failures,
        Reason::Operator,
    ];

    /// The value of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Lifetime => "lifetime",
            Reason::Memory => "memory",
            Reason::Age => "age",
            Reason::Failures => "failures",
            Reason::Operator => "operator",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The rules in force. Handed in with every step, since all of them may change at any time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    pub mode: RecycleMode,
    /// Sessions of a life; `None` = no limit.
    pub max_lifetime: Option<u32>,
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
    /// For people and metrics: it is being recycled. Its sessions run to their end.
    Recycling(Generation, Reason),
    /// For people and metrics: it died. `retry_in` when the next one starts after a pause.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Announcing,
    Available,
    Draining {
        until: Instant,
        /// Revision of the first counts told after the store knew that no session may be added.
        sealed: Option<u64>,
    },
    /// Its drain timeout has passed; proxies end its sessions.
    Evicting {
        until: Instant,
    },
    Stopping,
}

#[derive(Debug)]
struct Life {
    phase: Phase,
    spawned: Instant,
    answered: Option<Instant>,
    counts: Counts,
    fill: FillRate,
    memory: u64,
    failures: u32,
    ordered: bool,
    /// Why it is to be replaced. Stays once set: the replacement may be on its way.
    leaving: Option<Reason>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Lifecycle {
    lives: BTreeMap<Generation, Life>,
    next: u64,
    /// From the order to start a server until it was warm, the last time.
    lead: Duration,
    /// Starts and young browsers that failed in a row.
    setbacks: u32,
    /// No server is started before this.
    not_before: Option<Instant>,
    ending: Option<Ending>,
    /// With [`RecycleMode::Exit`]: a browser was recycled, the worker ends with it.
    recycled: bool,
    finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Drain,
    Now,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Lifecycle {
            lives: BTreeMap::new(),
            next: 1,
            lead: FIRST_LEAD,
            setbacks: 0,
            not_before: None,
            ending: None,
            recycled: false,
            finished: false,
        }
    }
}

impl Lifecycle {
    /// Takes in what happened and returns what to do, in this order.
    pub fn step(&mut self, now: Instant, input: Input, policy: &Policy) -> Vec<Output> {
        let mut todo = Vec::new();
        if self.finished {
            return todo;
        }
        self.take_in(now, input, policy, &mut todo);
        self.end_drained(now, &mut todo);
        if self.ending.is_none() {
            self.decide_who_leaves(now, policy);
            match policy.mode {
                RecycleMode::MakeBeforeBreak => self.make_before_break(now, &mut todo),
                RecycleMode::Exit => self.break_before_make(now, policy, &mut todo),
            }
        }
        let exits = policy.mode == RecycleMode::Exit && self.recycled && !policy.start_over;
        let over = self.ending.is_some() || exits;
        if over && self.lives.is_empty() {
            self.finished = true;
            todo.push(Output::Finished);
        }
        todo
    }

    /// Whether it has been told to end.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    fn take_in(&mut self, now: Instant, input: Input, policy: &Policy, todo: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Answered { generation, took } => self.answered(now, generation, took, todo),
            Input::Registered(generation) => self.registered(now, generation, policy, todo),
            Input::Exited(generation, why) => self.exited(now, generation, why, todo),
            Input::Beat {
                generation,
                status,
                counts,
                recycle,
            } => {
                self.counted(now, generation, counts);
                if let Some(life) = self.lives.get_mut(&generation) {
                    life.ordered |= recycle;
                    if let Phase::Draining { sealed, .. } = &mut life.phase
                        && status != WorkerStatus::Available
                    {
                        sealed.get_or_insert(counts.revision);
                    }
                }
            }
            Input::Counts(generation, counts) => self.counted(now, generation, counts),
            Input::Memory(generation, bytes) => {
                if let Some(life) = self.lives.get_mut(&generation) {
                    life.memory = bytes;
                }
            }
            Input::Checked(generation, passed) => {
                if let Some(life) = self.lives.get_mut(&generation) {
                    life.failures = if passed { 0 } else { life.failures + 1 };
                }
            }
            Input::Drain => self.drain(now, policy, todo),
            Input::Stop => self.stop(todo),
        }
    }

    fn answered(
        &mut self,
        now: Instant,
        generation: Generation,
        took: Duration,
        todo: &mut Vec<Output>,
    ) {
        let first = generation == Generation(1);
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        if life.phase == Phase::Starting {
            life.phase = Phase::Announcing;
            life.answered = Some(now);
            // The first ones of a machine all start together and wait longer than later ones.
            self.lead = if first {
                took
            } else {
                now.duration_since(life.spawned)
            };
            todo.push(Output::Register(generation));
        }
    }

    fn registered(
        &mut self,
        now: Instant,
        generation: Generation,
        policy: &Policy,
        todo: &mut Vec<Output>,
    ) {
        match self.lives.get_mut(&generation) {
            Some(life) if life.phase == Phase::Announcing => life.phase = Phase::Available,
            _ => return,
        }
        let replaced: Vec<Generation> = self
            .in_phase(Phase::Available)
            .filter(|other| *other != generation)
            .collect();
        for old in replaced {
            self.retire(now, old, policy, todo);
        }
    }

    fn exited(
        &mut self,
        now: Instant,
        generation: Generation,
        why: String,
        todo: &mut Vec<Output>,
    ) {
        let Some(life) = self.lives.remove(&generation) else {
            return;
        };
        let served = match life.phase {
            Phase::Stopping => return,
            Phase::Starting => false,
            Phase::Announcing | Phase::Available => {
                todo.push(Output::Deregister(generation));
                true
            }
            Phase::Draining { .. } | Phase::Evicting { .. } => {
                todo.push(Output::Deregister(generation));
                todo.push(Output::Crashed {
                    generation,
                    why,
                    retry_in: None,
                });
                return;
            }
        };
        let sound = life
            .answered
            .is_some_and(|since| now.duration_since(since) >= SOUND_AFTER);
        self.setbacks = if served && sound {
            0
        } else {
            self.setbacks + 1
        };
        let pause = backoff(self.setbacks);
        self.not_before = Some(now + pause);
        todo.push(Output::Crashed {
            generation,
            why,
            retry_in: Some(pause),
        });
    }

    fn counted(&mut self, now: Instant, generation: Generation, counts: Counts) {
        if let Some(life) = self.lives.get_mut(&generation)
            && counts.revision >= life.counts.revision
        {
            life.counts = counts;
            life.fill.observe(now, counts.lifetime);
        }
    }

    fn drain(&mut self, now: Instant, policy: &Policy, todo: &mut Vec<Output>) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Ending::Drain);
        let all: Vec<Generation> = self.lives.keys().copied().collect();
        for generation in all {
            match self.lives[&generation].phase {
                Phase::Starting => self.end(generation, true, todo),
                // It may be on the books already, with a session on it.
                Phase::Announcing | Phase::Available => {
                    self.set_draining(now, generation, policy, todo)
                }
                Phase::Draining { .. } | Phase::Evicting { .. } | Phase::Stopping => {}
            }
        }
    }

    fn stop(&mut self, todo: &mut Vec<Output>) {
        if self.ending == Some(Ending::Now) {
            return;
        }
        self.ending = Some(Ending::Now);
        let all: Vec<Generation> = self.lives.keys().copied().collect();
        for generation in all {
            self.end(generation, true, todo);
        }
    }

    /// Ends those whose last session is gone, and those whose time is up.
    fn end_drained(&mut self, now: Instant, todo: &mut Vec<Output>) {
        let all: Vec<Generation> = self.lives.keys().copied().collect();
        for generation in all {
            let life = self.lives.get_mut(&generation).expect("just listed");
            let idle = life.counts.active == 0;
            let evicted = life.counts.active;
            match life.phase {
                // Until the store has sealed it, a proxy may still seat a session on it.
                Phase::Draining {
                    sealed: Some(revision),
                    ..
                } if idle && life.counts.revision >= revision => {}
                Phase::Draining { until, .. } if now >= until => {
                    life.phase = Phase::Evicting {
                        until: now + EVICTION_GRACE,
                    };
                    todo.push(Output::SetStatus(generation, WorkerStatus::ShuttingDown));
                    continue;
                }
                Phase::Evicting { until } if now >= until || idle => {}
                _ => continue,
            }
            todo.push(Output::Drained {
                generation,
                evicted,
            });
            self.end(generation, false, todo);
        }
    }

    fn decide_who_leaves(&mut self, now: Instant, policy: &Policy) {
        let lead = self.lead.mul_f64(LEAD_MARGIN);
        for life in self.lives.values_mut() {
            if life.phase == Phase::Available && life.leaving.is_none() {
                life.leaving = reason_to_leave(life, now, lead, policy);
            }
            let since = life.answered.filter(|_| life.phase == Phase::Available);
            if since.is_some_and(|since| now.duration_since(since) >= SOUND_AFTER) {
                self.setbacks = 0;
            }
        }
    }

    fn make_before_break(&mut self, now: Instant, todo: &mut Vec<Output>) {
        self.recycled = false;
        let coming = self.coming();
        let serving = self
            .lives
            .values()
            .find(|life| life.phase == Phase::Available);
        let needed = serving.is_none_or(|life| life.leaving.is_some());
        if needed && !coming {
            self.spawn(now, todo);
        }
    }

    /// The original's way: drain first, and only when nothing is left start anew, or end.
    fn break_before_make(&mut self, now: Instant, policy: &Policy, todo: &mut Vec<Output>) {
        let leaving: Vec<Generation> = self
            .in_phase(Phase::Available)
            .filter(|generation| self.lives[generation].leaving.is_some())
            .collect();
        for generation in leaving {
            self.recycled = true;
            self.retire(now, generation, policy, todo);
        }
        let ends = self.recycled && !policy.start_over;
        if self.lives.is_empty() && !ends {
            self.recycled = false;
            self.spawn(now, todo);
        }
    }

    fn spawn(&mut self, now: Instant, todo: &mut Vec<Output>) {
        if self.not_before.is_some_and(|time| now < time) {
            return;
        }
        self.not_before = None;
        let generation = Generation(self.next);
        self.next += 1;
        self.lives.insert(generation, Life::new(now));
        todo.push(Output::Spawn(generation));
    }

    /// Drains one that has been replaced or is to leave.
    fn retire(
        &mut self,
        now: Instant,
        generation: Generation,
        policy: &Policy,
        todo: &mut Vec<Output>,
    ) {
        let reason = self.lives[&generation].leaving.unwrap_or(Reason::Operator);
        todo.push(Output::Recycling(generation, reason));
        self.set_draining(now, generation, policy, todo);
    }

    fn set_draining(
        &mut self,
        now: Instant,
        generation: Generation,
        policy: &Policy,
        todo: &mut Vec<Output>,
    ) {
        let life = self
            .lives
            .get_mut(&generation)
            .expect("listed by the caller");
        life.phase = Phase::Draining {
            until: now + policy.drain_timeout,
            sealed: None,
        };
        todo.push(Output::SetStatus(generation, WorkerStatus::Draining));
    }

    /// Takes one off the books and ends its server; it is gone when that has exited.
    fn end(&mut self, generation: Generation, now: bool, todo: &mut Vec<Output>) {
        let life = self
            .lives
            .get_mut(&generation)
            .expect("listed by the caller");
        // A second word to a server that is being stopped only makes it faster.
        if !matches!(life.phase, Phase::Starting | Phase::Stopping) {
            todo.push(Output::Deregister(generation));
        }
        life.phase = Phase::Stopping;
        todo.push(Output::Stop { generation, now });
    }

    /// Whether a browser that may serve soon is on its way.
    fn coming(&self) -> bool {
        self.lives
            .values()
            .any(|life| matches!(life.phase, Phase::Starting | Phase::Announcing))
    }

    fn in_phase(&self, phase: Phase) -> impl Iterator<Item = Generation> {
        self.lives
            .iter()
            .filter(move |(_, life)| life.phase == phase)
            .map(|(generation, _)| *generation)
    }
}

impl Life {
    fn new(now: Instant) -> Life {
        Life {
            phase: Phase::Starting,
            spawned: now,
            answered: None,
            counts: Counts::default(),
            fill: FillRate::default(),
            memory: 0,
            failures: 0,
            ordered: false,
            leaving: None,
        }
    }
}

/// Why a serving browser should be replaced, if it should; `lead` is the time that takes.
fn reason_to_leave(life: &Life, now: Instant, lead: Duration, policy: &Policy) -> Option<Reason> {
    let due = |limit: u32| {
        // At most half a life early, so that one that fills at once is not replaced at once.
        let early = life.fill.expected(now, lead).min(limit / 2);
        life.counts.lifetime >= limit - early && life.counts.lifetime > 0
    };
    let age = life.answered.map(|since| now.duration_since(since));
    let spent = |limit: u32| life.counts.lifetime >= limit;
    // Without make before break it is the proxies that say whose turn it is to be out.
    let decides = policy.mode == RecycleMode::MakeBeforeBreak;
    // A fresh browser would not use less than one that has had no session.
    let used = life.counts.lifetime > 0;
    if decides && policy.max_lifetime.is_some_and(due)
        || life.ordered && policy.max_lifetime.is_some_and(spent)
    {
        Some(Reason::Lifetime)
    } else if used && policy.max_memory.is_some_and(|limit| life.memory > limit) {
        Some(Reason::Memory)
    } else if policy.max_failures > 0 && life.failures >= policy.max_failures {
        Some(Reason::Failures)
    } else if policy.max_age.is_some_and(|limit| age > Some(limit)) {
        Some(Reason::Age)
    } else {
        life.ordered.then_some(Reason::Operator)
    }
}

/// The pause after the `setbacks`-th failure in a row; none after none.
fn backoff(setbacks: u32) -> Duration {
    match setbacks {
        0 => Duration::ZERO,
        n => FIRST_BACKOFF
            .saturating_mul(1 << (n - 1).min(16))
            .min(LONGEST_BACKOFF),
    }
}
