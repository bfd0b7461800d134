//! The life of a worker as a pure state machine: what to do next, given what happened and the time.
//!
//! A worker is a series of *generations*, each a browser server with an id of its own. No arrow leads back: what
//! drains does not serve again.
//!
//! ```text
//! Starting ── answered ─> Announcing ── registered ─> Available ── replaced, or told ─> Draining
//!    │                        │                           │             to leave         │   │
//!    │ fails                  │ dies                      │ dies            last session │   │ time
//!    v                        v                           v                 has ended    v   v is up
//!  (gone) <───────────────────┴───────────────────────────┴──── exited ────── Stopping <─ Evicting
//! ```
//!
//! Up to three kinds live at once: the one that serves, its replacement, and those that drain.
//! Make before break: the serving one drains only after its replacement is registered, so that the
//! worker's seats are there at all times. It is broken before it is made only where memory has no
//! room for two, or where it has no seat left to give and nobody on it while others still drain.
//!
//! A browser whose check fails gets no session until the next one decides. Whoever is broken does
//! not drain: its sessions are told, and it is killed.
//! Processes, store and clock are at the edge, in
//! [`agent`](super::agent).

mod draining;
mod health;
mod life;
mod replacing;
#[cfg(test)]
mod tests;
mod words;

pub use words::{Generation, Health, Input, Output, Room, Rules};

use crate::config::RecycleMode;
use crate::model::Counts;
use crate::worker::fill::{FillRate, Lead};
use life::{Life, Phase};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a replacement takes to be warm, until the first one has been measured.
const FIRST_LEAD: Duration = Duration::from_secs(2);
/// A measured memory counts for this part of what is usual, until others are measured.
const USUAL_FADES: u64 = 8;
/// A browser that lived this long was sound: what happened before it is forgiven.
const SOUND_AFTER: Duration = Duration::from_secs(30);
/// One that served this long before it died is replaced after the first pause.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// One that served less counts for so many setbacks in a row at most: a pause of two seconds.
const MOST_SETBACKS_SERVED: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// What proxies get to tell the clients why their sessions end.
const EVICTION_GRACE: Duration = Duration::from_secs(2);

/// See the module's description.
#[derive(Debug)]
pub struct Lifecycle {
    lives: BTreeMap<Generation, Life>,
    /// How many generations there have been.
    started_generations: u64,
    /// From the order to start a server until it was warm, as it has to be reckoned with.
    lead: Lead,
    fill: FillRate,
    /// What a browser of this worker uses, in bytes: an average over the last ones, of the kind that
    /// forgets; 0 until one has been measured.
    usual: u64,
    /// People know that a replacement does not fit.
    no_room_told: bool,
    /// Starts that failed and browsers that died young, in a row.
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

/// One step: when, by which rules, and what came of it.
struct Step<'a> {
    now: Instant,
    rules: &'a Rules,
    todo: Vec<Output>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Lifecycle {
            lives: BTreeMap::new(),
            started_generations: 0,
            lead: Lead::first(FIRST_LEAD),
            fill: FillRate::default(),
            usual: 0,
            no_room_told: false,
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
    pub fn step(&mut self, now: Instant, input: Input, rules: &Rules) -> Vec<Output> {
        let mut step = Step {
            now,
            rules,
            todo: Vec::new(),
        };
        if !self.finished {
            self.take_in(input, &mut step);
            self.end_growing(&mut step);
            self.end_drained(&mut step);
            if self.ending.is_none() {
                self.reset_setbacks(now);
                self.decide_who_leaves(&mut step);
                match rules.mode {
                    RecycleMode::MakeBeforeBreak => self.make_before_break(&mut step),
                    RecycleMode::Exit => self.break_before_make(&mut step),
                }
            }
            if self.lives.is_empty() && (self.ending.is_some() || self.exits(rules)) {
                self.finished = true;
                step.todo.push(Output::Finished);
            }
        }
        step.todo
    }

    /// Whether it has been told to end.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    fn take_in(&mut self, input: Input, step: &mut Step<'_>) {
        let now = step.now;
        match input {
            Input::Tick => {}
            Input::Answered { generation, took } => self.answered(generation, took, step),
            Input::Registered(generation) => self.registered(generation, step),
            Input::Exited(generation, why) => self.exited(generation, why, step),
            Input::Drain => self.drain(step),
            Input::Stop => self.stop(step),
            Input::Heartbeat {
                generation,
                status,
                counts,
                recycle,
            } => {
                self.count(generation, counts, now);
                self.learn(generation, |life| {
                    life.status_written(status);
                    life.ordered |= recycle;
                });
            }
            Input::Counts(generation, counts) => self.count(generation, counts, now),
            Input::Relisted(generation) => self.learn(generation, Life::relisted),
            Input::Quiet(generation) => self.learn(generation, |life| life.quiet = true),
            Input::Memory(generation, bytes) => self.measured(generation, bytes),
            Input::Disk(generation, bytes) => self.wrote(generation, bytes, step),
            Input::Checked(generation, health) => self.checked(generation, health, step),
        }
    }

    /// What is said of a generation that is gone is too late, and no news.
    fn learn(&mut self, generation: Generation, news: impl FnOnce(&mut Life)) {
        if let Some(life) = self.lives.get_mut(&generation) {
            news(life);
        }
    }

    fn count(&mut self, generation: Generation, counts: Counts, now: Instant) {
        if let Some(life) = self.lives.get_mut(&generation) {
            let sessions = life.count(counts);
            self.fill.observe(now, sessions);
        }
    }

    fn measured(&mut self, generation: Generation, bytes: u64) {
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        life.memory = bytes;
        if life.phase == Phase::Available {
            self.usual = match self.usual {
                0 => bytes,
                usual => usual - usual / USUAL_FADES + bytes / USUAL_FADES,
            };
        }
    }

    fn answered(&mut self, generation: Generation, took: Duration, step: &mut Step<'_>) {
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        if life.phase != Phase::Starting {
            return;
        }
        life.phase = Phase::Announcing;
        life.answered = Some(step.now);
        // The first ones of a machine all start together, and wait longer for their turn than any
        // replacement will.
        match generation {
            Generation(1) => self.lead = Lead::first(took),
            _ => self.lead.measured(step.now.duration_since(life.spawned)),
        }
        step.todo.push(Output::Register(generation));
    }

    fn registered(&mut self, generation: Generation, step: &mut Step<'_>) {
        match self.lives.get_mut(&generation) {
            Some(life) if life.phase == Phase::Announcing => life.phase = Phase::Available,
            _ => return,
        }
        step.todo.push(Output::Ready(generation));
        self.take_over(generation, step);
    }

    /// A browser that takes sessions has those before it drain. One that a check found suspect does so when it is well.
    fn take_over(&mut self, generation: Generation, step: &mut Step<'_>) {
        let fit = |life: &Life| life.phase == Phase::Available && !life.suspect;
        if !self.lives.get(&generation).is_some_and(fit) {
            return;
        }
        for old in self.available() {
            if old < generation {
                self.retire(old, step);
            }
        }
    }

    fn exited(&mut self, generation: Generation, why: String, step: &mut Step<'_>) {
        let Some(life) = self.lives.remove(&generation) else {
            return;
        };
        if life.phase == Phase::Stopping {
            return;
        }
        if life.phase != Phase::Starting {
            step.todo.push(Output::Deregister(generation));
        }
        let is_replaced = life.is_coming() || life.phase == Phase::Available;
        let served = life.phase == Phase::Available;
        let age = life.age(step.now);
        let set_back = is_replaced.then(|| self.set_back(age, served, step.now));
        let retry_in = set_back.filter(|_| {
            let coming = self.lives.values().any(Life::is_coming);
            self.ending.is_none() && !coming
        });
        step.todo.push(Output::Crashed {
            generation,
            why,
            retry_in,
        });
    }

    /// Notes the failure of one that answered `age` ago, and how long to wait because of it and those
    /// before. One that `served` shows that browsers start: any client can end a shared browser, and
    /// that is not to keep the others out for longer and longer.
    fn set_back(&mut self, age: Option<Duration>, served: bool, now: Instant) -> Duration {
        self.setbacks = match age.unwrap_or_default() {
            age if age >= SOUND_AFTER => 0,
            age if served && age >= SETTLED_AFTER => 1,
            _ if served => (self.setbacks + 1).min(MOST_SETBACKS_SERVED),
            _ => self.setbacks + 1,
        };
        let pause = backoff(self.setbacks);
        self.not_before = Some(now + pause);
        pause
    }

    fn reset_setbacks(&mut self, now: Instant) {
        let sound = |life: &Life| {
            life.phase == Phase::Available && life.age(now).is_some_and(|age| age >= SOUND_AFTER)
        };
        if self.lives.values().any(sound) {
            self.setbacks = 0;
        }
    }

    fn decide_who_leaves(&mut self, step: &mut Step<'_>) {
        let expected = self.fill.expected(step.now, self.lead.with_margin());
        let all: u64 = self.lives.values().map(|life| life.memory).sum();
        for (generation, life) in &mut self.lives {
            if life.phase != Phase::Available || life.leaving.is_some() {
                continue;
            }
            let reason = life.reason_to_leave(step.now, expected, all - life.memory, step.rules);
            match step.rules.mode {
                // Being out of service costs seats: it takes its turn, which comes as an order.
                RecycleMode::Exit if reason.is_some() && !life.ordered => {
                    if !life.permit_requested {
                        life.permit_requested = true;
                        step.todo.push(Output::RequestRecyclePermit(*generation));
                    }
                }
                _ => life.leaving = reason,
            }
        }
    }

    /// The original's way: drain first, and only when nothing is left start anew, or end.
    fn break_before_make(&mut self, step: &mut Step<'_>) {
        for generation in self.available() {
            if self.lives[&generation].leaving.is_some() {
                self.recycled = true;
                self.retire(generation, step);
            }
        }
        if self.lives.is_empty() && !self.exits(step.rules) {
            self.recycled = false;
            self.spawn(step);
        }
    }

    /// Whether the worker ends with the browser that it recycled.
    fn exits(&self, rules: &Rules) -> bool {
        self.recycled && rules.mode == RecycleMode::Exit && !rules.start_over
    }

    fn spawn(&mut self, step: &mut Step<'_>) {
        if self.not_before.is_none_or(|time| step.now >= time) {
            self.not_before = None;
            self.started_generations += 1;
            let generation = Generation(self.started_generations);
            // The first ones of a process all start together, and take turns.
            let at_once = self.started_generations > 1 && self.available().is_empty();
            self.lives.insert(generation, Life::new(step.now));
            step.todo.push(Output::Spawn {
                generation,
                at_once,
                memory: self.usual,
            });
        }
    }

    fn generations(&self) -> Vec<Generation> {
        self.lives.keys().copied().collect()
    }

    fn available(&self) -> Vec<Generation> {
        let available = |life: &Life| life.phase == Phase::Available;
        let mut generations = self.generations();
        generations.retain(|generation| available(&self.lives[generation]));
        generations
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
