//! What is drawn from a seed: the size of a grid, who comes, and what goes wrong when.

use super::processes::Visit;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How a Redis comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Whole,
    /// As it was so many milliseconds before.
    Old(u64),
    Empty,
}

#[derive(Clone, Copy, Debug)]
pub enum Action {
    Visit(usize, Visit),
    /// Of a process' link, for some milliseconds.
    Cut(usize, u64),
    Hold {
        process: usize,
        requests: bool,
        answers: bool,
        ms: u64,
    },
    Slow(usize, u64, u64),
    /// A proxy is stopped and goes on after so many milliseconds.
    Stop(usize, u64),
    /// A proxy dies, and another one starts so much later.
    Crash(usize, u64),
    Join,
    CrashWorker(usize),
    /// The server dies and is back after so many milliseconds.
    Restart(Memory, u64),
    Flush,
    HoldServer(u64),
    Damage(usize),
}

/// In milliseconds: a call that waits for longer is given up by the process that made it, which one that is stopped
/// would not do.
const MAX_STOP: u64 = 1400;

/// What is drawn from a seed.
#[derive(Clone)]
pub struct Plan {
    pub seed: u64,
    pub proxies: usize,
    pub workers: usize,
    pub seats: u32,
    pub proxy_ttl: Duration,
    pub poll_interval: Duration,
    pub actions: BTreeMap<(u64, usize), Action>,
    /// All that happens is printed.
    pub traced: bool,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} proxies, {} workers with {} seats, TTL {:?}, poll {:?}",
            self.seed, self.proxies, self.workers, self.seats, self.proxy_ttl, self.poll_interval
        )?;
        for ((at, _), action) in &self.actions {
            writeln!(f, "  {at:>6} ms  {action:?}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// With crowds before a proxy that is stopped or dies, in every other schedule.
    pub fn of(seed: u64) -> Plan {
        let mut plan = Plan::without_crowds(seed);
        let mut chance = StdRng::seed_from_u64(!seed);
        if chance.random() {
            plan.add_crowd(&mut chance);
        }
        plan
    }

    fn add_crowd(&mut self, chance: &mut StdRng) {
        let at = chance.random_range(1000..5000);
        for _ in 0..chance.random_range(6..20) {
            let visit = Visit {
                tenant: chance.random_range(0..2),
                // The seats of those who come early are free again when there is one proxy less.
                hold: Duration::from_millis(chance.random_range(100..1500)),
                ..Visit::to_stay(Duration::from_millis(chance.random_range(2000..20_000)))
            };
            let visit = Action::Visit(chance.random_range(0..self.proxies), visit);
            self.put(at - chance.random_range(0..1000), visit);
        }
        let place = chance.random_range(0..self.proxies);
        let action = match chance.random() {
            true => Action::Stop(place, chance.random_range(200..MAX_STOP)),
            false => Action::Crash(place, chance.random_range(1..8000)),
        };
        self.put(at, action);
    }

    pub fn without_crowds(seed: u64) -> Plan {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut plan = Plan {
            seed,
            proxies: chance.random_range(1..=3),
            workers: chance.random_range(1..=2),
            seats: chance.random_range(1..=3),
            proxy_ttl: Duration::from_millis([2000, 3000][chance.random_range(0..2)]),
            poll_interval: Duration::from_secs(chance.random_range(2..=5)),
            actions: BTreeMap::new(),
            traced: false,
        };
        let length = chance.random_range(1000..8000);
        let everybody = plan.proxies + plan.workers;
        for _ in 0..chance.random_range(3..16) {
            let visit = Action::Visit(chance.random_range(0..plan.proxies), visit(&mut chance));
            plan.put(chance.random_range(0..length), visit);
        }
        for _ in 0..chance.random_range(1..=4) {
            let ms = match chance.random_range(0..3) {
                0 => chance.random_range(1..300),
                1 => chance.random_range(300..2500),
                _ => chance.random_range(2500..8000),
            };
            let process = chance.random_range(0..everybody);
            let action = match chance.random_range(0..100) {
                0..20 => Action::Cut(process, ms),
                20..42 => {
                    let requests: bool = chance.random();
                    let answers = !requests || chance.random();
                    Action::Hold {
                        process,
                        requests,
                        answers,
                        ms,
                    }
                }
                42..50 => Action::Slow(process, chance.random_range(50..900), ms),
                50..62 => Action::Crash(chance.random_range(0..plan.proxies), ms),
                62..66 => Action::Join,
                66..70 => Action::CrashWorker(chance.random_range(0..plan.workers)),
                70..76 => Action::Restart(Memory::Whole, ms),
                76..82 => Action::Restart(Memory::Old(chance.random_range(1..4000)), ms),
                82..88 => Action::Restart(Memory::Empty, ms),
                88..92 => Action::Flush,
                92..96 => Action::HoldServer(ms),
                _ => Action::Damage(chance.random_range(0..6)),
            };
            plan.put(chance.random_range(0..length), action);
        }
        plan
    }

    fn put(&mut self, at: u64, action: Action) {
        // The grid has come up by then.
        self.actions.insert((at + 500, self.actions.len()), action);
    }
}

fn visit(chance: &mut StdRng) -> Visit {
    let long = Duration::from_secs(3600);
    Visit {
        tenant: chance.random_range(0..2),
        patience: Duration::from_millis(chance.random_range(500..20_000)),
        hold: match chance.random_range(0..4) {
            // Until the end.
            0 => long,
            1 => Duration::from_millis(chance.random_range(1..100)),
            _ => Duration::from_millis(chance.random_range(100..6000)),
        },
        failures: u32::from(chance.random_range(0..8) == 0),
        leaves: match chance.random_range(0..6) {
            0 => Duration::from_millis(chance.random_range(0..50)),
            1 => Duration::from_millis(chance.random_range(0..3000)),
            _ => long,
        },
    }
}
