//! The shell around [`Lifecycle`]: feeds it with what happens to the processes and in the store,
//! and carries out what it decides. Decides nothing itself.

use super::lifecycle::{Generation, Input, Lifecycle, Output, Policy};
use super::machine::MachineShared;
use super::progress::{Observer, Progress};
use super::registration::{Books, Entry, Registration, Wish};
use super::supervision::{StopWish, Supervision, Up};
use super::toolchain::Toolchain;
use super::tree;
use crate::config::{Config, LiveConfig};
use crate::model::{WorkerId, WorkerKey, WorkerRecord, WorkerStatus, unix_millis};
use crate::store::{Event, Store};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

/// How often time itself is looked at: pauses, timeouts and ages are this precise.
const TICK: Duration = Duration::from_millis(250);
/// What may wait to be taken in. Whoever sends more waits.
const BACKLOG: usize = 64;

/// Whether a worker is to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shutdown {
    #[default]
    None,
    /// Take no more sessions, end with the last one or at the drain timeout.
    Drain,
    /// End at once.
    Now,
}

/// One worker: a browser server that is kept alive, fresh and on the store's books.
pub struct Agent {
    shared: Arc<Shared>,
    inputs: mpsc::Receiver<Input>,
    store: Arc<dyn Store>,
    start_over: bool,
}

/// What the tasks of one agent share.
pub struct Shared {
    pub config: LiveConfig,
    pub toolchain: Toolchain,
    pub advertise: String,
    pub machine: Arc<MachineShared>,
    pub observer: Observer,
    inputs: mpsc::Sender<Input>,
}

impl Shared {
    /// The agent being gone is no error: its tasks end with it.
    pub async fn tell(&self, input: Input) {
        self.inputs.send(input).await.ok();
    }
}

impl Agent {
    /// A worker whose browser servers are made of `toolchain` and reached by proxies under the
    /// name or address `advertise`.
    pub fn new(
        config: LiveConfig,
        toolchain: Toolchain,
        store: Arc<dyn Store>,
        advertise: impl Into<String>,
        machine: Arc<MachineShared>,
        observer: Observer,
    ) -> Agent {
        let (sender, inputs) = mpsc::channel(BACKLOG);
        let shared = Shared {
            config,
            toolchain,
            advertise: advertise.into(),
            machine,
            observer,
            inputs: sender,
        };
        Agent {
            shared: Arc::new(shared),
            inputs,
            store,
            start_over: false,
        }
    }

    /// With `recycle.mode: exit`, starts a fresh browser after the old one is gone instead of
    /// returning from [`Agent::run`]: there is no orchestrator that would.
    pub fn starting_over(mut self) -> Agent {
        self.start_over = true;
        self
    }

    /// Runs the worker until `shutdown` says otherwise, or, with `recycle.mode: exit`, until its
    /// browser has been recycled. When it returns, no process of it is left. Dropping the future
    /// kills them. A `shutdown` whose sender is dropped means [`Shutdown::Now`].
    pub async fn run(self, mut shutdown: watch::Receiver<Shutdown>) {
        let (ups_sender, mut ups) = mpsc::channel(BACKLOG);
        let mut events = Some(self.store.events());
        let mut inputs = self.inputs;
        let mut shell = Shell::new(self.shared, self.store, self.start_over, ups_sender);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Shutdown::None;
        while !shell.finished {
            tokio::select! {
                wish = changed(&mut shutdown, told) => {
                    told = wish;
                    shell.take_in(match wish {
                        Shutdown::None => Input::Tick,
                        Shutdown::Drain => Input::Drain,
                        Shutdown::Now => Input::Stop,
                    });
                }
                Some(up) = ups.recv() => shell.up(up),
                Some(input) = inputs.recv() => shell.take_in(input),
                Some(ended) = shell.servers.join_next_with_id() => shell.server_ended(ended),
                Some(_) = shell.entries.join_next() => {}
                event = next_event(&mut events) => shell.event(event),
                _ = tick.tick() => {
                    tree::bury_adopted();
                    shell.take_in(Input::Tick);
                }
            }
        }
        // Taking the last ones off the books.
        while shell.entries.join_next().await.is_some() {}
    }
}

/// The next wish that differs from the last one.
async fn changed(shutdown: &mut watch::Receiver<Shutdown>, told: Shutdown) -> Shutdown {
    if told == Shutdown::Now {
        std::future::pending::<()>().await;
    }
    match shutdown.wait_for(|wish| *wish != told).await {
        Ok(wish) => *wish,
        Err(_) => Shutdown::Now,
    }
}

/// `None` when some were missed.
async fn next_event(events: &mut Option<broadcast::Receiver<Event>>) -> Option<Event> {
    use broadcast::error::RecvError;
    let Some(receiver) = events else {
        return std::future::pending().await;
    };
    match receiver.recv().await {
        Ok(event) => Some(event),
        Err(RecvError::Lagged(_)) => None,
        Err(RecvError::Closed) => {
            *events = None;
            None
        }
    }
}

/// A generation as the shell knows it.
struct Life {
    key: WorkerKey,
    stop: watch::Sender<StopWish>,
    /// Set once it is up.
    up: Option<Up>,
    /// Set once it is to be on the books.
    wish: Option<watch::Sender<Wish>>,
}

struct Shell {
    shared: Arc<Shared>,
    books: Arc<Books>,
    lifecycle: Lifecycle,
    start_over: bool,
    lives: HashMap<Generation, Life>,
    servers: JoinSet<String>,
    generations: HashMap<Id, Generation>,
    entries: JoinSet<()>,
    ups: mpsc::Sender<Up>,
    finished: bool,
}

impl Shell {
    fn new(
        shared: Arc<Shared>,
        store: Arc<dyn Store>,
        start_over: bool,
        ups: mpsc::Sender<Up>,
    ) -> Shell {
        let books = Books::new(Arc::clone(&shared.config), store, shared.inputs.clone());
        Shell {
            shared,
            books: Arc::new(books),
            lifecycle: Lifecycle::default(),
            start_over,
            lives: HashMap::new(),
            servers: JoinSet::new(),
            generations: HashMap::new(),
            entries: JoinSet::new(),
            ups,
            finished: false,
        }
    }

    fn take_in(&mut self, input: Input) {
        if let Input::Registered(generation) = input {
            self.tell_ready(generation);
        }
        let policy = policy(&self.shared.config.load(), self.start_over);
        for output in self.lifecycle.step(Instant::now(), input, &policy) {
            self.carry_out(output);
        }
    }

    fn up(&mut self, up: Up) {
        let generation = up.generation;
        let took = up.took;
        if let Some(life) = self.lives.get_mut(&generation) {
            life.up = Some(up);
            self.take_in(Input::Answered { generation, took });
        }
    }

    fn server_ended(&mut self, ended: Result<(Id, String), tokio::task::JoinError>) {
        let (task, why) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), format!("its supervision failed: {error}")),
        };
        if let Some(generation) = self.generations.remove(&task) {
            self.take_in(Input::Exited(generation, why));
            self.lives.remove(&generation);
        }
    }

    fn event(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Counts(key, counts)) => {
                if let Some(generation) = self.generation_of(&key) {
                    self.take_in(Input::Counts(generation, counts));
                }
            }
            // A heartbeat tells the order together with the counts that explain it, and registers
            // again who is still there.
            Some(Event::Recycle(key) | Event::Gone(key)) => {
                if let Some(generation) = self.generation_of(&key) {
                    self.ask_for_beat(generation);
                }
            }
            Some(Event::Worker(_) | Event::Reachable(false)) => {}
            Some(Event::Resync | Event::Reachable(true)) | None => {
                let all: Vec<Generation> = self.lives.keys().copied().collect();
                all.into_iter()
                    .for_each(|generation| self.ask_for_beat(generation));
            }
        }
    }

    fn generation_of(&self, key: &WorkerKey) -> Option<Generation> {
        let found = self.lives.iter().find(|(_, life)| life.key == *key);
        found.map(|(generation, _)| *generation)
    }

    fn ask_for_beat(&mut self, generation: Generation) {
        if let Some(wish) = self
            .lives
            .get(&generation)
            .and_then(|life| life.wish.as_ref())
        {
            wish.send_modify(|wish| wish.asked += 1);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Spawn(generation) => self.spawn(generation),
            Output::Register(generation) => self.register(generation),
            Output::SetStatus(generation, status) => {
                if status == WorkerStatus::Draining && self.shutting_down() {
                    self.observe(generation, |id| Progress::Draining { id });
                }
                self.wish(generation, Entry::Status(status));
            }
            Output::Deregister(generation) => self.wish(generation, Entry::None),
            Output::Stop { generation, now } => {
                let wish = if now {
                    StopWish::Now
                } else {
                    StopWish::Politely
                };
                if let Some(life) = self.lives.get(&generation) {
                    life.stop.send_modify(|stop| *stop = wish.max(*stop));
                }
            }
            Output::Recycling(generation, reason) => {
                self.observe(generation, |id| Progress::Recycling { id, reason });
            }
            Output::Crashed {
                generation,
                why,
                retry_in,
            } => self.observe(generation, |id| Progress::Crashed { id, why, retry_in }),
            Output::Drained {
                generation,
                evicted,
            } => self.observe(generation, |id| Progress::Drained { id, evicted }),
            Output::Finished => self.finished = true,
        }
    }

    fn spawn(&mut self, generation: Generation) {
        let id = format!("{:016x}", rand::random::<u64>());
        let key = WorkerKey::new(self.shared.toolchain.browser, id);
        let (stop, stop_receiver) = watch::channel(StopWish::Run);
        let supervision = Supervision {
            shared: Arc::clone(&self.shared),
            generation,
            id: key.id.clone(),
            stop: stop_receiver,
            ups: self.ups.clone(),
        };
        let task = self.servers.spawn(supervision.run());
        self.generations.insert(task.id(), generation);
        let life = Life {
            key,
            stop,
            up: None,
            wish: None,
        };
        self.lives.insert(generation, life);
        self.observe(generation, |id| Progress::Starting { id });
    }

    fn register(&mut self, generation: Generation) {
        let config = self.shared.config.load();
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        let up = life.up.as_ref().expect("only what is up is registered");
        let now = unix_millis();
        let record = WorkerRecord {
            key: life.key.clone(),
            endpoint: up.endpoint.clone(),
            status: WorkerStatus::Available,
            version: Some(up.toolchain.version),
            replaces_itself: config.recycle.mode == crate::config::RecycleMode::MakeBeforeBreak,
            started_at: now,
            last_heartbeat: now,
            memory: None,
        };
        let (sender, wish) = watch::channel(Wish {
            entry: Entry::Status(WorkerStatus::Available),
            asked: 0,
        });
        life.wish = Some(sender);
        let registration = Registration {
            books: Arc::clone(&self.books),
            generation,
            record,
            node: up.node,
            wish,
        };
        self.entries.spawn(registration.run());
    }

    fn wish(&mut self, generation: Generation, entry: Entry) {
        if let Some(wish) = self
            .lives
            .get(&generation)
            .and_then(|life| life.wish.as_ref())
        {
            wish.send_modify(|wish| wish.entry = entry);
        }
    }

    fn tell_ready(&mut self, generation: Generation) {
        let up = self
            .lives
            .get(&generation)
            .and_then(|life| life.up.as_ref());
        if let Some(up) = up {
            let authority = up.endpoint.authority();
            let (browser, release) = (up.toolchain.browser, up.toolchain.release.clone());
            let took = up.took;
            self.observe(generation, |id| Progress::Ready {
                id,
                authority,
                browser,
                release,
                took,
            });
        }
    }

    fn observe(&self, generation: Generation, progress: impl FnOnce(WorkerId) -> Progress) {
        if let Some(life) = self.lives.get(&generation) {
            let progress = progress(life.key.id.clone());
            progress.log();
            (self.shared.observer)(progress);
        }
    }

    fn shutting_down(&self) -> bool {
        self.lifecycle.is_ending()
    }
}

/// The rules in force, as the life cycle wants them.
fn policy(config: &Config, start_over: bool) -> Policy {
    let limit = config.limits.max_lifetime_sessions;
    Policy {
        mode: config.recycle.mode,
        max_lifetime: (limit > 0).then_some(limit),
        max_memory: config.recycle.max_memory,
        max_age: config.recycle.max_age,
        max_failures: config.recycle.max_failures,
        drain_timeout: config.worker.drain_timeout,
        start_over,
    }
}
