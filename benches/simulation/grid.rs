//! An event simulation of one grid: its workers, those who wait, and the seats that are missing
//! while browsers are replaced. Who gets a session is decided by the real [`Index`].

use crate::load::Arrival;
use playhouse::config::Strategy;
use playhouse::model::{Browser, Pool, SeatKind, Size, WorkerKey};
use playhouse::selection::{Facts, Index, Policy, worker_key};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};

/// From the end of the old browser to the first session of the new one, in milliseconds.
const COLD_START: u64 = 10_000;
/// From the decision to replace a browser to the moment its replacement answers.
const WARM_UP: u64 = 1_000;
/// How long a client waits for a seat.
const PATIENCE: u64 = 5_000;

const WANTED: Pool = Pool {
    browser: Browser::Chromium,
    version: None,
    seat: SeatKind::Shared,
};

/// Who gets the next session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ranked(Strategy),
    /// Each in its turn, as a load balancer without knowledge does it, but never a full one.
    RoundRobin,
}

/// What happens to a worker at its lifetime limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recycling {
    Never,
    /// It takes no more sessions, runs to the end those it has, and starts anew.
    AtOnce,
    /// The same, but only so many are out at a time; the others go on until their turn.
    ByPermit {
        max_unavailable: usize,
    },
    /// The replacement is warm before the old browser drains. It is started at the limit, later
    /// than the real worker starts it, so the old one goes on past the limit, to twice the limit
    /// at most. So many warm up at a time in the whole grid.
    MakeBeforeBreak {
        max_parallel: usize,
    },
}

/// One grid to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub workers: usize,
    pub seats: u32,
    pub limit: u32,
    pub order: Order,
    pub recycling: Recycling,
}

impl Setup {
    fn policy(&self) -> Policy {
        Policy {
            strategy: match self.order {
                Order::Ranked(strategy) => strategy,
                Order::RoundRobin => Strategy::LifetimeFirst,
            },
            max_concurrent_sessions: self.seats,
            max_lifetime_sessions: (self.recycling != Recycling::Never).then_some(self.limit),
            ceiling: match self.recycling {
                Recycling::Never | Recycling::AtOnce => None,
                Recycling::ByPermit { .. } => Some(f64::INFINITY),
                Recycling::MakeBeforeBreak { .. } => Some(2.0),
            },
        }
    }

    /// Recycles that may be under way at once.
    fn permits(&self) -> usize {
        match self.recycling {
            Recycling::Never | Recycling::AtOnce => usize::MAX,
            Recycling::ByPermit { max_unavailable } => max_unavailable,
            Recycling::MakeBeforeBreak { max_parallel } => max_parallel,
        }
    }
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub sessions: usize,
    pub refused: usize,
    /// Most workers that were out at one moment.
    pub most_out: usize,
    /// Milliseconds simulated, and those of them with two or more workers out.
    pub time: u64,
    pub time_two_out: u64,
    /// Milliseconds times workers that were out.
    pub time_out: u64,
    /// Most sessions that one browser ever had.
    pub oldest: u32,
}

/// A place for a browser; browsers come and go.
#[derive(Debug, Default)]
struct Slot {
    current: Option<WorkerKey>,
    /// Browsers it has had.
    generation: u32,
    /// Its browser reached the limit and is to be replaced.
    recycling: bool,
    out: bool,
}

#[derive(Debug)]
struct Live {
    facts: Facts,
    slot: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    Ends(WorkerKey),
    /// The browser that was closed before its replacement started is back.
    Up(usize),
    /// The replacement of a browser that is still there answers.
    Warm(usize),
}

pub struct Grid<'a> {
    setup: Setup,
    arrivals: &'a [Arrival],
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
    policy: Policy,
    index: Index,
    live: HashMap<WorkerKey, Live>,
    slots: Vec<Slot>,
    /// Slots with a seat, and the last one served: for round robin.
    seats: BTreeSet<usize>,
    last: usize,
    waiting: VecDeque<usize>,
    to_recycle: VecDeque<usize>,
    recycles: usize,
    out: usize,
    outcome: Outcome,
}

impl<'a> Grid<'a> {
    pub fn new(setup: Setup, arrivals: &'a [Arrival]) -> Grid<'a> {
        let policy = setup.policy();
        let mut grid = Grid {
            setup,
            arrivals,
            now: 0,
            events: BinaryHeap::new(),
            serial: 0,
            policy,
            index: Index::new(policy),
            live: HashMap::new(),
            slots: Vec::new(),
            seats: BTreeSet::new(),
            last: 0,
            waiting: VecDeque::new(),
            to_recycle: VecDeque::new(),
            recycles: 0,
            out: 0,
            outcome: Outcome::default(),
        };
        grid.slots.resize_with(setup.workers, Slot::default);
        for slot in 0..setup.workers {
            grid.start(slot);
        }
        grid
    }

    /// Runs until the last session has arrived; `watch` looks on after every event.
    pub fn run(mut self, mut watch: impl FnMut(&Grid)) -> Outcome {
        self.outcome.sessions = self.arrivals.len();
        self.at(self.arrivals[0].at, Event::Arrives(0));
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            let last = event == Event::Arrives(self.arrivals.len() - 1);
            self.pass_time(at);
            self.happen(event);
            self.seat_those_who_wait();
            self.outcome.most_out = self.outcome.most_out.max(self.out);
            watch(&self);
            if last {
                break;
            }
        }
        self.outcome
    }

    pub fn now(&self) -> u64 {
        self.now
    }

    /// Workers that take no session whatever their seats: drained, starting, or at their cap.
    pub fn out(&self) -> usize {
        self.out
    }

    /// Lifetime sessions of each worker; `None` for one that is out.
    pub fn lifetimes(&self) -> Vec<Option<u32>> {
        let lifetime = |slot: &Slot| {
            let key = slot.current.as_ref().filter(|_| !slot.out)?;
            Some(self.live.get(key)?.facts.lifetime)
        };
        self.slots.iter().map(lifetime).collect()
    }

    fn at(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((at, self.serial, event)));
    }

    fn pass_time(&mut self, now: u64) {
        let passed = now - self.now;
        self.now = now;
        self.outcome.time += passed;
        self.outcome.time_out += passed * self.out as u64;
        if self.out >= 2 {
            self.outcome.time_two_out += passed;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives(session) => {
                self.waiting.push_back(session);
                if let Some(next) = self.arrivals.get(session + 1) {
                    self.at(next.at, Event::Arrives(session + 1));
                }
            }
            Event::Ends(key) => {
                self.change(&key, |facts| facts.active -= 1);
                self.leave_if_drained(&key);
            }
            Event::Up(slot) => {
                self.start(slot);
                self.recycles -= 1;
            }
            Event::Warm(slot) => {
                let old = self.slots[slot].current.take();
                self.start(slot);
                self.recycles -= 1;
                if let Some(old) = old {
                    self.change(&old, |facts| facts.takes_sessions = false);
                    self.leave_if_drained(&old);
                }
            }
        }
        self.recycle_whom_the_permits_allow();
    }

    fn seat_those_who_wait(&mut self) {
        while let Some(&session) = self.waiting.front() {
            let Arrival { at, length } = self.arrivals[session];
            if self.now > at + PATIENCE {
                self.outcome.refused += 1;
            } else if let Some(key) = self.choose() {
                self.change(&key, |facts| {
                    facts.active += 1;
                    facts.lifetime += 1;
                });
                self.at(self.now + length, Event::Ends(key));
                self.recycle_whom_the_permits_allow();
            } else {
                return;
            }
            self.waiting.pop_front();
        }
    }

    fn choose(&mut self) -> Option<WorkerKey> {
        match self.setup.order {
            Order::Ranked(_) => {
                let best = self.index.ranked(&WANTED).next()?;
                worker_key(best).cloned()
            }
            Order::RoundRobin => {
                let mut after = self.seats.range(self.last + 1..);
                self.last = *after.next().or(self.seats.first())?;
                self.slots[self.last].current.clone()
            }
        }
    }

    /// A fresh browser in a slot.
    fn start(&mut self, slot: usize) {
        let Slot {
            current,
            generation,
            recycling,
            ..
        } = &mut self.slots[slot];
        *generation += 1;
        *recycling = false;
        let key = WorkerKey::new(Browser::Chromium, format!("{slot:05}-{generation}"));
        *current = Some(key.clone());
        let facts = Facts {
            key: key.clone(),
            address: ([127, 0, 0, 1], 3131).into(),
            version: None,
            seat: SeatKind::Shared,
            size: Size::default(),
            active: 0,
            lifetime: 0,
            started_at: self.now,
            takes_sessions: true,
            suspected: false,
            replaces_itself: true,
        };
        self.live.insert(key.clone(), Live { facts, slot });
        self.change(&key, |_| {});
    }

    /// Changes a worker, and what follows from it for its slot.
    fn change(&mut self, key: &WorkerKey, change: impl FnOnce(&mut Facts)) {
        let Some(Live { facts, slot }) = self.live.get_mut(key) else {
            return;
        };
        change(facts);
        self.index.put(facts.clone());
        self.outcome.oldest = self.outcome.oldest.max(facts.lifetime);
        let state = &mut self.slots[*slot];
        if state.current.as_ref() != Some(key) {
            return;
        }
        if self.policy.has_seat(facts) {
            self.seats.insert(*slot);
        } else {
            self.seats.remove(slot);
        }
        let bounds = self.policy.bounds(facts.size);
        let cap = bounds.lifetime_cap(facts.replaces_itself);
        let out = !facts.takes_sessions || cap.is_some_and(|cap| facts.lifetime >= cap);
        self.out = self.out + usize::from(out) - usize::from(state.out);
        state.out = out;
        let limit = self.policy.max_lifetime_sessions;
        if !state.recycling && limit.is_some_and(|limit| facts.lifetime >= limit) {
            state.recycling = true;
            self.to_recycle.push_back(*slot);
        }
    }

    fn recycle_whom_the_permits_allow(&mut self) {
        while self.recycles < self.setup.permits()
            && let Some(slot) = self.to_recycle.pop_front()
        {
            self.recycles += 1;
            if let Recycling::MakeBeforeBreak { .. } = self.setup.recycling {
                self.at(self.now + WARM_UP, Event::Warm(slot));
            } else if let Some(key) = self.slots[slot].current.clone() {
                self.change(&key, |facts| facts.takes_sessions = false);
                self.leave_if_drained(&key);
            }
        }
    }

    /// Takes a closed browser without sessions away; a slot that is empty then starts anew.
    fn leave_if_drained(&mut self, key: &WorkerKey) {
        let drained = |live: &&Live| !live.facts.takes_sessions && live.facts.active == 0;
        let Some(Live { slot, .. }) = self.live.get(key).filter(drained) else {
            return;
        };
        let slot = *slot;
        self.live.remove(key);
        self.index.remove(key);
        if self.slots[slot].current.as_ref() == Some(key) {
            self.slots[slot].current = None;
            self.at(self.now + COLD_START, Event::Up(slot));
        }
    }
}
