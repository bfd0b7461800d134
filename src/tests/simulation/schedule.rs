//! One schedule, as its [`Plan`] has it: what happens when. What has to hold is in `settling`.

mod death;
mod settling;

pub use death::time_until_seats_are_free;

use super::chance;
use super::database::{Data, Database};
use super::lua::Vm;
use super::network::{Condition, Network};
use super::plan::{Action, Memory, Plan};
use super::processes::{Common, Proxy, Worker};
use super::truth::{Coverage, Truth};
use super::watch;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

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
    in_simulated_time(plan.seed, async || Schedule::new(plan, vm).run(plan).await)
}

/// Does something in a thread of its own, in which time passes only when everybody waits, and all chance
/// is the seed's.
fn in_simulated_time<T: Send>(
    seed: u64,
    act: impl AsyncFnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            // Before anything asks for chance in this thread, which is new for that.
            chance::seed(seed);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(act())
        });
        match acting.join() {
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
    /// States of the database, for one that comes back old; none when none does.
    snapshots: Option<Vec<(Instant, Database)>>,
    /// What is put right later: when, and what.
    pending: Vec<(Instant, Repair)>,
    /// When the last fault began or ended.
    disturbed: Instant,
    /// Until when there was no proxy that could give a dead one's seats back.
    alone_until: Instant,
}

enum Repair {
    Link(String, Condition),
    /// A process that was stopped goes on.
    Resume(String),
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
            plan.traced,
            Box::new(move |database, caller| observer.check(database, caller)),
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
        let comes_back_old = |it: &Action| matches!(it, Action::Restart(Memory::Old(_), _));
        let comes_back_old = plan.actions.values().any(comes_back_old);
        let mut schedule = Schedule {
            common,
            proxies: Vec::new(),
            workers: Vec::new(),
            started: 0,
            snapshots: comes_back_old.then(Vec::new),
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
            if plan.traced {
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
        if let Some(snapshots) = &mut self.snapshots
            && self.common.network.is_up()
        {
            let now = self.common.network.inspect(|database| database.clone());
            snapshots.push((Instant::now(), now));
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
            Action::Stop(place, ms) => {
                if let Some(process) = self.process(place) {
                    network.change(&process, |it| it.stopped = true);
                    self.common.truth.proxy_stopped(&process, true);
                    self.later(ms, Repair::Resume(process));
                }
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
                network.inspect(Database::clear);
            }
            Action::HoldServer(ms) => {
                network.change_server(|it| it.requests_held = true);
                self.later(ms, Repair::Release);
            }
            // There is nobody who would take a command.
            Action::Damage(_) if !network.is_up() => {}
            Action::Damage(kind) => network.inspect(|database| {
                self.common.truth.disturbed(database);
                damage(database, kind);
            }),
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
                    stopped: it.stopped,
                    ..good
                };
            }),
            Repair::Resume(process) => {
                network.change(&process, |it| it.stopped = false);
                self.common.truth.proxy_stopped(&process, false);
            }
            // Another fault has brought it back already.
            Repair::Server(_) if network.is_up() => {}
            Repair::Server(memory) => {
                match memory {
                    Memory::Whole => {}
                    Memory::Empty => {
                        self.common.truth.wiped();
                        network.inspect(Database::clear);
                    }
                    Memory::Old(age) => {
                        let then = Instant::now() - Duration::from_millis(age);
                        let mut snapshots = self.snapshots.iter().flatten().rev();
                        let old = snapshots.find(|(at, _)| *at <= then);
                        self.common.truth.wiped();
                        network.inspect(|database| match old {
                            Some((_, old)) => database.go_back(old),
                            None => database.clear(),
                        });
                    }
                }
                network.vm.restart();
                self.common.truth.server_is_back(true);
                network.change_server(|it| it.closed = false);
            }
            Repair::Release => {
                self.common.truth.server_is_back(false);
                network.change_server(|it| it.requests_held = false);
            }
            Repair::Start(place) => self.start(place),
        }
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
            let words = ["HSET", "cluster:active_connections", worker, "many"];
            database.execute(&words).ok();
        }
        _ => database.put("playhouse:proxies", Data::Text("mine".to_owned())),
    }
}
