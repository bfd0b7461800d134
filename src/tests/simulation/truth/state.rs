//! What is kept of what is really there, and what follows from it by itself.

use super::STALE;
use crate::model::WorkerKey;
use crate::tests::simulation::miscounted::Miscounted;
use std::collections::{BTreeMap, HashMap, VecDeque};
use tokio::time::Instant;

#[derive(Default)]
pub struct State {
    pub running: BTreeMap<u64, Running>,
    pub served: Vec<Served>,
    /// Clients that wait: at which process, and since when.
    pub waiting: BTreeMap<u64, (String, Instant)>,
    pub proxies: BTreeMap<String, Proxy>,
    pub history: VecDeque<Moment>,
    pub wiped: Option<Instant>,
    /// When the server was last reached by nobody, for want of itself.
    pub back: Option<Instant>,
    /// Once somebody has disturbed a key.
    pub miscounted: Option<Miscounted>,
    pub next: u64,
    pub violation: Option<String>,
    /// What this schedule tried, so that nobody takes an idle one for a good one.
    pub coverage: Coverage,
}

/// What happened in a schedule, or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub served: u64,
    pub from_shares: u64,
    pub beyond_limits: u64,
    pub commands: u64,
    /// Seats that were given to processes that were dead or stopped.
    pub in_vain: u64,
}

impl Coverage {
    pub fn add(&mut self, other: Coverage) {
        self.served += other.served;
        self.from_shares += other.from_shares;
        self.beyond_limits += other.beyond_limits;
        self.commands += other.commands;
        self.in_vain += other.in_vain;
    }
}

pub struct Running {
    pub proxy: String,
    pub session: String,
    pub worker: WorkerKey,
    pub begun: Instant,
    /// The lease was seen in the database.
    pub leased: bool,
    /// Of which outage's share it is, by when the proxy had its last answer, and how much that share
    /// may be beyond what was held.
    pub share: Option<(Instant, u32)>,
    /// Its proxy was silent for so long that its seat could be given to others.
    pub outlived: bool,
}

pub struct Served {
    pub proxy: String,
    pub session: String,
    pub worker: WorkerKey,
    pub told: Option<Instant>,
    /// Those who knew of it may all be gone.
    pub uncertain: bool,
}

pub struct Proxy {
    /// Its name in the database, and two keys that have it.
    pub name: String,
    pub identity: String,
    pub lease_key: String,
    pub alive: bool,
    pub joined: bool,
    /// When the server last took a sign of life.
    pub heard: Option<Instant>,
    /// When it took the one before: the first is a hello, behind the second it has written down what it knows.
    pub heard_before: Option<Instant>,
    pub died: Option<Instant>,
    pub stopped: bool,
    pub answered: Instant,
    /// The sessions that have or had a lease, and of those that others gave one while it was dead or stopped, since when.
    pub leases: BTreeMap<String, Option<Instant>>,
}

/// How it was from then on.
pub struct Moment {
    pub at: Instant,
    pub free: HashMap<WorkerKey, u32>,
    pub proxies: u32,
}

impl State {
    pub fn violated(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    pub fn on(&self, worker: &WorkerKey) -> impl Iterator<Item = &Running> {
        self.running.values().filter(move |it| it.worker == *worker)
    }

    /// The sessions of a worker, for people.
    pub fn describe(&self, worker: &WorkerKey) -> String {
        let of = |it: &Running| {
            let share = it.share.map(|(_, most)| most);
            format!(
                "{} {} leased {} share {share:?} outlived {}",
                it.proxy, it.session, it.leased, it.outlived
            )
        };
        self.on(worker).map(of).collect::<Vec<_>>().join("; ")
    }

    pub fn note(&mut self, seats: u32) {
        let mut free: HashMap<WorkerKey, u32> = HashMap::new();
        for running in self.running.values() {
            let left = free.entry(running.worker.clone()).or_insert(seats);
            *left = left.saturating_sub(1);
        }
        let proxies = self
            .proxies
            .values()
            .filter(|it| it.alive && it.joined)
            .count();
        let at = Instant::now();
        self.history.push_back(Moment {
            at,
            free,
            proxies: proxies as u32,
        });
        while self.history.len() > 2 && at - self.history[1].at > STALE * 4 {
            self.history.pop_front();
        }
    }

    /// The most that the share of a proxy which was last answered then may be beyond its own seats.
    pub fn share(&self, worker: &WorkerKey, answered: Instant, seats: u32) -> u32 {
        let (from, to) = (answered - STALE, answered + STALE);
        let of = |moment: &Moment| {
            let free = moment.free.get(worker).copied().unwrap_or(seats);
            free / moment.proxies.max(1)
        };
        let mut most = 0;
        for (at, moment) in self.history.iter().enumerate() {
            let until = self.history.get(at + 1).map_or(to, |next| next.at);
            if until >= from && moment.at <= to {
                most = most.max(of(moment));
            }
        }
        most
    }
}
