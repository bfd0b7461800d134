//! The whole protocol in simulated time: proxies, workers and Redis under seeded faults.
//!
//! What is simulated is the product's own code: the store with its keeper, its ledger and its upkeep, the
//! fleet with its shares and its line, seats and their releases, and the Lua scripts, which run in
//! the Lua that Redis embeds, over a database of our own ([`database`]). What is not: the client
//! library's wire, Redis' own durability, dials, tunnels and browsers, and the health of workers.
//!
//! Time passes only when everybody waits, and chance comes from the seed ([`chance`]), so a schedule is
//! the same each time. [`truth`] says what must hold, [`schedule`] what happens.

mod chance;
mod database;
mod lua;
mod miscounted;
mod network;
mod plan;
mod processes;
mod schedule;
mod truth;
pub mod watch;

pub use network::{Connection, open};

use crate::config::{Config, Role};
use lua::{Bug, Vm};
use plan::Plan;
use schedule::{run, time_until_seats_are_free};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use truth::Coverage;

/// A schedule makes and drops small things by the ten thousand, in a thread of its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many schedules a test run tries, and how many a thorough one: `SIMULATE_SCHEDULES`.
const SCHEDULES: u64 = 40;

/// Seeds that found something once, before there were crowds.
const KEPT: [u64; 27] = [
    2, 13, 60, 86, 118, 338, 474, 549, 628, 682, 716, 768, 1093, 1540, 2012, 2586, 2613, 2776,
    3868, 4946, 5342, 5660, 6288, 8745, 11370, 11517, 11733,
];

/// The same since then.
const KEPT_CROWDS: [u64; 37] = [
    11901, 18717, 20810, 25493, 107204, 114997, 117046, 119030, 137543, 147139, 149690, 150089,
    153249, 168207, 183473, 204415, 236811, 249483, 411775, 413715, 432206, 457574, 461451, 547201,
    632039, 1036719, 1055508, 1069729, 1083901, 1131162, 1189290, 2035310, 2036426, 2043494,
    2044640, 2055105, 2068283,
];

/// Bugs that are put into the scripts to show that they are found.
const BUGS: [Bug; 6] = [
    Bug {
        name: "nobody is awaited, and no seat is kept, when Redis comes back empty",
        from: "if ARGV[3] ~= '' and ARGV[3] ~= grid then",
        to: "if false then",
    },
    Bug {
        name: "the lifetime of a worker that fell silent is forgotten",
        from: "if lifetime > 0 then call('SET', K.silent .. worker",
        to: "if false then call('SET', K.silent .. worker",
    },
    Bug {
        name: "a connection that was given up still speaks for its proxy",
        from: "return call('GET', K.proxy .. proxy) ~= epoch",
        to: "return false",
    },
    Bug {
        name: "the silent are judged at once when Redis was away",
        from: "return time >= tonumber(judged) and",
        to: "return",
    },
    Bug {
        name: "every proxy believes to be alone",
        from: "return alive, dead",
        to: "return math.min(alive, 1), dead",
    },
    Bug {
        name: "what is taken up is taken back all the same",
        from: "    call('HDEL', unconfirmed, session)\n    granted(",
        to: "    granted(",
    },
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What is left of a plan that fails when all is taken out of it that it fails without.
fn shortened(plan: &Plan, vm: &Arc<Vm>) -> Plan {
    let mut shortest = plan.clone();
    for key in plan.actions.keys() {
        let mut shorter = shortest.clone();
        shorter.actions.remove(key);
        if run(&shorter, vm).is_err() {
            shortest = shorter;
        }
    }
    shortest
}

/// What is said of a plan that failed, for whoever looks into it: with `SIMULATE_TRACE`, all that happens
/// in its shortest form.
fn report(plan: &Plan, why: &str, vm: &Arc<Vm>) -> String {
    let mut shortest = shortened(plan, vm);
    shortest.traced = std::env::var_os("SIMULATE_TRACE").is_some();
    let outcome = run(&shortest, vm);
    let left = outcome.err().unwrap_or_default();
    let seed = plan.seed;
    format!("{why}\n{plan}shortest: {left}\n{shortest}SIMULATE_SEED={seed} runs it again")
}

/// Tries seeds from `first` on, on all processors, until one fails or `count` did not.
fn simulate(first: u64, count: u64, bug: Option<Bug>) -> Result<Coverage, String> {
    simulate_plans(first, count, Plan::of, bug)
}

fn simulate_plans(
    first: u64,
    count: u64,
    plan_of: fn(u64) -> Plan,
    bug: Option<Bug>,
) -> Result<Coverage, String> {
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = number("SIMULATE_THREADS").map_or(threads, |it| it as usize);
    let outcomes = std::thread::scope(|scope| {
        let work = || {
            let vm = Arc::new(Vm::new(bug));
            let mut all = Coverage::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return Ok(all);
                }
                let plan = plan_of(seed);
                match run(&plan, &vm) {
                    Ok(coverage) => all.add(coverage),
                    Err(why) => {
                        next.store(first + count, Ordering::Relaxed);
                        return Err(report(&plan, &why, &vm));
                    }
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let outcomes = threads.into_iter().map(|thread| thread.join().unwrap());
        outcomes.collect::<Vec<_>>()
    });
    let mut all = Coverage::default();
    for outcome in outcomes {
        all.add(outcome?);
    }
    Ok(all)
}

#[test]
fn nothing_is_violated_under_seeded_faults() {
    let (first, count) = match number("SIMULATE_SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("SIMULATE_FIRST").unwrap_or(0),
            number("SIMULATE_SCHEDULES").unwrap_or(SCHEDULES),
        ),
    };
    let begun = Instant::now();
    let coverage = simulate(first, count, None).unwrap_or_else(|why| panic!("{why}"));
    println!("{count} schedules in {:.1?}: {coverage:?}", begun.elapsed());
    assert!(coverage.served > 0, "{coverage:?}");
}

#[test]
fn what_was_found_once_stays_mended() {
    for seed in KEPT {
        let outcome = simulate_plans(seed, 1, Plan::without_crowds, None);
        outcome.unwrap_or_else(|why| panic!("{why}"));
    }
    for seed in KEPT_CROWDS {
        simulate(seed, 1, None).unwrap_or_else(|why| panic!("{why}"));
    }
}

/// Within the bound of `docs/redis.md`: a TTL of 10 s and a second.
#[test]
fn seats_of_a_dead_proxy_are_free_in_time_at_the_defaults() {
    for seed in 0..20 {
        let took = time_until_seats_are_free(seed).unwrap_or_else(|why| panic!("{seed}: {why}"));
        let ttl = Config::defaults(Role::Proxy).store.proxy_ttl;
        assert!(took <= ttl + Duration::from_secs(1), "{seed}: {took:?}");
    }
}

#[test]
fn a_seed_is_the_same_schedule_each_time() {
    for seed in 0..10 {
        let runs = [(); 2].map(|()| simulate(seed, 1, None).map(|coverage| coverage.commands));
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}

#[test]
fn bugs_that_are_put_in_are_found() {
    for bug in BUGS {
        let begun = Instant::now();
        let found = simulate(0, number("SIMULATE_SCHEDULES").unwrap_or(20_000), Some(bug));
        let found = found.expect_err(bug.name);
        let found = found.lines().next().unwrap_or_default();
        println!("{}: found after {:.1?}: {found}", bug.name, begun.elapsed());
    }
}
