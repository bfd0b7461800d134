//! One schedule: what happens when, drawn from a seed, and what has to hold while it does and when it
//! is over.

use super::chance;
use super::database::{Data, Database};
use super::lua::Vm;
use super::network::{Condition, Network};
use super::processes::{Common, Proxy, Visit, Worker};
use super::truth::{Coverage, Truth};
use super::watch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// After the last fault everything agrees within this time: a proxy's TTL and the grace before it,
/// two polls, and a worker's record.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);
/// Within which seats of a dead proxy are free after its TTL, and a look here and there.
const IN_TIME: Duration = Duration::from_millis(1300);
const LOOK: Duration = Duration::from_millis(250);

/// How a Redis comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Whole,
    /// As it was so many milliseconds before.
    Old(u64),
    Empty,
}

#[derive(Clone, Copy, Debug)]
enum Action {
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

/// What is drawn from a seed.
pub struct Plan {
    pub seed: u64,
    proxies: usize,
    workers: usize,
    seats: u32,
    proxy_ttl: Duration,
    poll_interval: Duration,
    actions: BTreeMap<(u64, usize), Action>,
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
    pub fn of(seed: u64) -> Plan {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut plan = Plan {
            seed,
            proxies: chance.random_range(1..=3),
            workers: chance.random_range(1..=2),
            seats: chance.random_range(1..=3),
            proxy_ttl: Duration::from_millis([2000, 3000][chance.random_range(0..2)]),
            poll_interval: Duration::from_secs(chance.random_range(2..=5)),
            actions: BTreeMap::new(),
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

/// Runs a schedule from its seed to its end.
///
/// # Errors
/// What was violated.
pub fn run(plan: &Plan, vm: &Arc<Vm>) -> Result<Coverage, String> {
    // What is made once in a process takes some of the chance of whoever comes first.
    static FIRST: Once = Once::new();
    FIRST.call_once(|| drop(run_once(&Plan::of(0), &Arc::new(Vm::new(None)))));
    run_once(plan, vm)
}

fn run_once(plan: &Plan, vm: &Arc<Vm>) -> Result<Coverage, String> {
    std::thread::scope(|scope| {
        let schedule = scope.spawn(|| {
            // Before anything asks for chance in this thread, which is new for that.
            chance::seed(plan.seed);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async { Schedule::new(plan, vm).run(plan).await })
        });
        match schedule.join() {
            Ok(outcome) => outcome,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
                Err(format!("panicked: {}", text.unwrap_or_default()))
            }
        }
    })
}

struct Schedule {
    common: Arc<Common>,
    proxies: Vec<Option<Proxy>>,
    workers: Vec<Worker>,
    started: usize,
    /// States of the database, for one that comes back old.
    snapshots: Vec<(Instant, Database)>,
    /// What is put right later: when, and what.
    pending: Vec<(Instant, Repair)>,
    /// When the last fault began or ended.
    disturbed: Instant,
    /// Until when there was no proxy that could give a dead one's seats back.
    alone_until: Instant,
}

enum Repair {
    Link(String, Condition),
    Server(Memory),
    Release,
    Start(usize),
}

impl Schedule {
    fn new(plan: &Plan, vm: &Arc<Vm>) -> Schedule {
        let truth = Truth::new(plan.seats, plan.proxy_ttl);
        let observer = truth.clone();
        let answered = truth.clone();
        let network = Network::install(
            vm.clone(),
            Box::new(move |database, caller| observer.look(database, caller)),
            Box::new(move |process| answered.answered(process)),
        );
        let common = Arc::new(Common {
            network,
            truth,
            seats: plan.seats,
            proxy_ttl: plan.proxy_ttl,
            poll_interval: plan.poll_interval,
            workers: Mutex::default(),
            deaths: watch::Sender::new(0),
            closing: watch::Sender::new(false),
        });
        let mut schedule = Schedule {
            common,
            proxies: Vec::new(),
            workers: Vec::new(),
            started: 0,
            snapshots: Vec::new(),
            pending: Vec::new(),
            disturbed: Instant::now(),
            alone_until: Instant::now(),
        };
        for n in 0..plan.workers {
            let worker = Worker::start(&schedule.common, &format!("w{n}"));
            schedule.workers.push(worker);
        }
        for _ in 0..plan.proxies {
            schedule.proxies.push(None);
            schedule.start(schedule.proxies.len() - 1);
        }
        schedule
    }

    fn start(&mut self, place: usize) {
        let process = format!("p{}", self.started);
        self.started += 1;
        self.proxies[place] = Some(Proxy::start(&self.common, &process));
    }

    /// The process at a place, proxies first; none when it is dead.
    fn process(&self, place: usize) -> Option<String> {
        match place.checked_sub(self.proxies.len()) {
            None => self.proxies[place].as_ref().map(|it| it.process.clone()),
            Some(place) => self.workers.get(place).map(|it| it.process.clone()),
        }
    }

    async fn run(mut self, plan: &Plan) -> Result<Coverage, String> {
        let began = Instant::now();
        let actions: Vec<(u64, Action)> = plan
            .actions
            .iter()
            .map(|((at, _), action)| (*at, *action))
            .collect();
        for (at, action) in actions {
            self.until(began + Duration::from_millis(at)).await?;
            if std::env::var_os("SIMULATE_TRACE").is_some() {
                println!("{at:>7} {action:?}");
            }
            self.act(action);
        }
        // All repairs that are due, however late.
        while let Some(next) = self.pending.iter().map(|(at, _)| *at).min() {
            self.until(next).await?;
        }
        self.settled("with open sessions", |schedule| schedule.agrees())
            .await?;
        self.common.closing.send_replace(true);
        self.settled("without sessions", |schedule| schedule.agrees())
            .await?;
        self.check_lifetimes()?;
        Ok(self.common.truth.coverage())
    }

    async fn until(&mut self, then: Instant) -> Result<(), String> {
        loop {
            let due = self
                .pending
                .iter()
                .map(|(at, _)| *at)
                .filter(|at| *at <= then)
                .min();
            sleep_until(due.unwrap_or(then)).await;
            self.take_snapshot();
            let now = Instant::now();
            let (due_now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
                .into_iter()
                .partition(|(at, _)| *at <= now);
            self.pending = later;
            for (_, repair) in due_now {
                if !matches!(repair, Repair::Start(_)) {
                    self.disturbed = now;
                }
                self.repair(repair);
            }
            self.check()?;
            if due.is_none() {
                return Ok(());
            }
        }
    }

    fn take_snapshot(&mut self) {
        if self.common.network.is_up() {
            let now = self.common.network.look(|database| database.clone());
            self.snapshots.push((Instant::now(), now));
        }
    }

    fn later(&mut self, ms: u64, repair: Repair) {
        self.pending
            .push((Instant::now() + Duration::from_millis(ms), repair));
    }

    fn act(&mut self, action: Action) {
        let network = self.common.network.clone();
        if !matches!(action, Action::Visit(..) | Action::Crash(..) | Action::Join) {
            self.disturbed = Instant::now();
        }
        match action {
            Action::Visit(place, visit) => {
                if let Some(proxy) = &mut self.proxies[place] {
                    proxy.visit(visit);
                }
            }
            Action::Cut(place, ms) => self.disturb(place, ms, |it| {
                it.breaks += 1;
                it.closed = true;
            }),
            Action::Hold {
                process,
                requests,
                answers,
                ms,
            } => self.disturb(process, ms, |it| {
                it.requests_held |= requests;
                it.answers_held |= answers;
            }),
            Action::Slow(place, latency, ms) => {
                self.disturb(place, ms, |it| it.latency = Duration::from_millis(latency));
            }
            Action::Crash(place, ms) => {
                if self.proxies[place].take().is_some() {
                    self.later(ms, Repair::Start(place));
                }
            }
            Action::Join => {
                self.proxies.push(None);
                self.start(self.proxies.len() - 1);
            }
            Action::CrashWorker(place) => {
                let process = format!("w{}-{}", place, self.started);
                self.started += 1;
                self.workers[place] = Worker::start(&self.common, &process);
            }
            Action::Restart(memory, ms) => {
                network.change_server(|it| {
                    it.breaks += 1;
                    it.closed = true;
                });
                self.later(ms, Repair::Server(memory));
            }
            Action::Flush => {
                self.common.truth.wiped();
                network.look(Database::clear);
            }
            Action::HoldServer(ms) => {
                network.change_server(|it| it.requests_held = true);
                self.later(ms, Repair::Release);
            }
            Action::Damage(kind) => network.look(|database| damage(database, kind)),
        }
    }

    fn disturb(&mut self, place: usize, ms: u64, change: impl FnOnce(&mut Condition)) {
        let Some(process) = self.process(place) else {
            return;
        };
        self.common.network.change(&process, change);
        self.later(ms, Repair::Link(process, Condition::good()));
    }

    fn repair(&mut self, repair: Repair) {
        let network = self.common.network.clone();
        match repair {
            Repair::Link(process, good) => network.change(&process, |it| {
                *it = Condition {
                    breaks: it.breaks,
                    ..good
                };
            }),
            // Another fault has brought it back already.
            Repair::Server(_) if network.is_up() => {}
            Repair::Server(memory) => {
                match memory {
                    Memory::Whole => {}
                    Memory::Empty => {
                        self.common.truth.wiped();
                        network.look(Database::clear);
                    }
                    Memory::Old(age) => {
                        let then = Instant::now() - Duration::from_millis(age);
                        let old = self.snapshots.iter().rev().find(|(at, _)| *at <= then);
                        self.common.truth.wiped();
                        network.look(|database| match old {
                            Some((_, old)) => database.go_back(old),
                            None => database.clear(),
                        });
                    }
                }
                network.vm.restart();
                self.common.truth.server_is_back();
                network.change_server(|it| it.closed = false);
            }
            Repair::Release => {
                self.common.truth.server_is_back();
                network.change_server(|it| it.requests_held = false);
            }
            Repair::Start(place) => self.start(place),
        }
    }

    /// What has to hold at any time: nothing was violated, and seats of the dead are free in time.
    fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.common.truth.violation() {
            return Err(violation);
        }
        let faults = self
            .pending
            .iter()
            .any(|(_, it)| !matches!(it, Repair::Start(_)));
        let somebody = self.proxies.iter().flatten().any(Proxy::reachable);
        if !somebody {
            // Whoever comes then begins with a grace.
            self.alone_until = Instant::now() + self.common.proxy_ttl;
        }
        if faults || !somebody {
            return Ok(());
        }
        let (now, ttl) = (Instant::now(), self.common.proxy_ttl);
        for (name, died) in self.common.truth.dead() {
            // After a disturbance nobody is judged for a while.
            let grace = if self.disturbed + ttl > died {
                ttl
            } else {
                Duration::ZERO
            };
            let free_by = died.max(self.disturbed).max(self.alone_until) + ttl + grace + IN_TIME;
            let key = format!("playhouse:leases:{name}");
            let held = self
                .common
                .network
                .look(|database| database.get(&key).is_some());
            if held && now > free_by {
                return Err(format!("{name} is dead for {:?} and has seats", now - died));
            }
        }
        Ok(())
    }

    /// Waits until something holds.
    async fn settled(
        &mut self,
        when: &str,
        holds: impl Fn(&Schedule) -> Result<(), String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            sleep(LOOK).await;
            self.check()?;
            match holds(self) {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > deadline => {
                    return Err(format!(
                        "{when}, {SETTLED_WITHIN:?} after the last fault: {why}"
                    ));
                }
                Err(_) => {}
            }
        }
    }

    /// Counts, leases, seats, the sessions that run and what everybody believes are the same, and
    /// nobody waits while there is a seat.
    fn agrees(&self) -> Result<(), String> {
        let (truth, seats) = (&self.common.truth, self.common.seats);
        let proxies: Vec<&Proxy> = self.proxies.iter().flatten().collect();
        let keys: BTreeSet<String> = self.workers.iter().map(|it| it.key.to_string()).collect();
        let mut free = 0;
        for worker in &self.workers {
            let open = truth.open(&worker.key);
            free += seats.saturating_sub(open);
            let name = worker.key.to_string();
            let (active, held) = self.common.network.look(|database| {
                let counted = database.hash("cluster:active_connections").ok().flatten();
                let active = counted.and_then(|it| it.get(&name).cloned());
                let held = database.hash(&format!("playhouse:seats:{name}"));
                (active, held.ok().flatten().map_or(0, BTreeMap::len) as u32)
            });
            if active.as_deref() != Some(open.to_string().as_str()) || held != open {
                return Err(format!(
                    "{name} has {open} sessions, {held} seats, and {active:?} counted"
                ));
            }
            for proxy in &proxies {
                let believed = proxy.believes().into_iter().find(|it| it.0 == worker.key);
                if believed.as_ref().map(|it| it.1) != Some(open) {
                    return Err(format!(
                        "{} believes {believed:?}, it is {open}",
                        proxy.process
                    ));
                }
            }
        }
        for proxy in &proxies {
            if !proxy.reachable() || (proxy.waiting() > 0 && free > 0) {
                let (process, waiting) = (&proxy.process, proxy.waiting());
                return Err(format!(
                    "{waiting} wait at {process}, {free} seats are free"
                ));
            }
        }
        let counted = self.common.network.look(|database| {
            let counted = database.hash("cluster:active_connections").ok().flatten();
            counted.map(|it| it.keys().cloned().collect::<BTreeSet<_>>())
        });
        if counted.unwrap_or_default() != keys {
            return Err("workers that are gone are counted".to_owned());
        }
        Ok(())
    }

    fn check_lifetimes(&self) -> Result<(), String> {
        for worker in &self.workers {
            let name = worker.key.to_string();
            let lifetime: u32 = self.common.network.look(|database| {
                let counted = database.hash("cluster:lifetime_connections").ok().flatten();
                counted
                    .and_then(|it| it.get(&name)?.parse().ok())
                    .unwrap_or(0)
            });
            let least = self.common.truth.least_lifetime(&worker.key);
            if lifetime < least {
                return Err(format!(
                    "{name} has a lifetime of {lifetime} and served {least}"
                ));
            }
        }
        Ok(())
    }
}

/// What somebody with a command line does.
fn damage(database: &mut Database, kind: usize) {
    let worker = "chromium:w0";
    match kind {
        0 => drop(database.remove("playhouse:proxies")),
        1 => drop(database.remove(&format!("playhouse:seats:{worker}"))),
        2 => drop(database.remove("playhouse:workers")),
        3 => drop(database.remove("cluster:active_connections")),
        4 => {
            let set = |value: &str| format!("HSET cluster:active_connections {worker} {value}");
            let words: Vec<String> = set("many").split(' ').map(str::to_owned).collect();
            database.execute(&words).ok();
        }
        _ => database.put("playhouse:proxies", Data::Text("mine".to_owned())),
    }
}
