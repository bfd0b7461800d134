//! The life cycle against a world that does whatever it likes: a store, processes and clients, in
//! any order, with time that jumps.

mod draining;
mod ending;
mod failing;
mod replacing;
mod room;
mod stories;

use super::*;
use crate::model::{Counts, RecycleReason, WorkerStatus};
use proptest::prelude::*;

const LIMIT: u32 = 20;

fn rules(mode: RecycleMode) -> Rules {
    Rules {
        mode,
        max_lifetime_sessions: Some(LIMIT),
        ceiling: 2 * LIMIT,
        max_memory: Some(1000),
        max_age: Some(Duration::from_secs(600)),
        max_failures: 3,
        recycle_timeout: None,
        drain_timeout: Duration::from_secs(60),
        max_draining: 2,
        room: Room::UNLIMITED,
        start_over: true,
    }
}

/// A generation as the world sees it.
#[derive(Clone, Debug, Default)]
struct Server {
    up: bool,
    told_to_register: bool,
    status: Option<WorkerStatus>,
    deregistered: bool,
    suspended: bool,
    evicted: Option<String>,
    stopping: bool,
    killed: bool,
    gone: bool,
    counts: Counts,
}

/// Everything around the life cycle. It carries out what it is told, and checks that it may.
struct World {
    cycle: Lifecycle,
    rules: Rules,
    now: Instant,
    servers: BTreeMap<Generation, Server>,
    revision: u64,
    finished: bool,
    asked: Vec<Generation>,
    recycled: Vec<(Generation, RecycleReason)>,
    crashes: Vec<Option<Duration>>,
    /// Which were started without a turn.
    at_once: Vec<Generation>,
    no_room: u32,
    /// How long a server takes to start.
    took: Duration,
}

impl World {
    fn new(rules: Rules) -> World {
        World {
            cycle: Lifecycle::default(),
            rules,
            now: Instant::now(),
            servers: BTreeMap::new(),
            revision: 0,
            finished: false,
            asked: Vec::new(),
            recycled: Vec::new(),
            crashes: Vec::new(),
            at_once: Vec::new(),
            no_room: 0,
            took: Duration::from_secs(1),
        }
    }

    fn feed(&mut self, input: Input) {
        let outputs = self.cycle.step(self.now, input, &self.rules);
        for output in outputs {
            assert!(!self.finished, "nothing follows the end: {output:?}");
            self.carry_out(output);
        }
        let coming = |s: &&Server| !s.stopping && !s.gone && s.status.is_none();
        assert!(
            self.servers.values().filter(coming).count() <= 1,
            "never two replacements"
        );
        assert!(self.available().count() <= 1, "never two that serve");
    }

    fn carry_out(&mut self, output: Output) {
        if let Output::Spawn {
            generation,
            at_once,
            ..
        } = output
        {
            assert!(!self.cycle.is_ending());
            self.at_once.extend(at_once.then_some(generation));
            let before = self.servers.insert(generation, Server::default());
            assert!(before.is_none(), "every generation is a new one");
            return;
        }
        match output {
            Output::Register(generation) => {
                let server = self.server(generation);
                assert!(server.up && !server.told_to_register && !server.stopping);
                server.told_to_register = true;
            }
            Output::SetStatus(generation, status) => {
                let server = self.server(generation);
                assert!(server.told_to_register && !server.deregistered);
                assert_ne!(status, WorkerStatus::Available, "nobody comes back");
                server.status = Some(status);
            }
            Output::Deregister(generation) => {
                let server = self.server(generation);
                assert!(server.told_to_register && !server.deregistered);
                server.deregistered = true;
            }
            Output::Suspend(generation, suspended) => {
                let server = self.server(generation);
                assert_ne!(server.suspended, suspended);
                server.suspended = suspended;
            }
            Output::Evict(generation, why) => {
                let server = self.server(generation);
                assert!(server.told_to_register && !server.deregistered);
                server.status = Some(WorkerStatus::ShuttingDown);
                server.evicted = why;
            }
            Output::NoRoom { .. } => self.no_room += 1,
            Output::Stop { generation, now } => {
                let server = self.server(generation);
                assert!(!server.gone);
                server.killed |= now;
                assert!(server.deregistered || !server.told_to_register);
                server.stopping = true;
            }
            Output::Drained {
                generation,
                evicted,
            } => {
                let server = self.server(generation);
                let time_is_up = server.status == Some(WorkerStatus::ShuttingDown);
                let empty = server.counts.active == 0 && evicted == 0;
                assert!(empty || time_is_up, "nobody is cut before: {server:?}");
            }
            Output::Recycling(generation, reason) => self.recycled.push((generation, reason)),
            Output::Crashed { retry_in, .. } => self.crashes.push(retry_in),
            Output::RequestRecyclePermit(generation) => {
                assert_eq!(self.rules.mode, RecycleMode::Exit);
                self.asked.push(generation);
            }
            Output::Ready(_) => {}
            Output::Finished => {
                assert!(self.servers.values().all(|server| server.gone));
                self.finished = true;
            }
            Output::Spawn { .. } => unreachable!("handled above"),
        }
    }

    fn server(&mut self, generation: Generation) -> &mut Server {
        self.servers.get_mut(&generation).expect("it was spawned")
    }

    fn alive(&self) -> Vec<Generation> {
        let alive = self.servers.iter().filter(|(_, server)| !server.gone);
        alive.map(|(generation, _)| *generation).collect()
    }

    /// Those that proxies may seat sessions on.
    fn available(&self) -> impl Iterator<Item = Generation> {
        let limited = self.rules.max_lifetime_sessions.is_some();
        let ceiling = self.rules.ceiling;
        self.servers
            .iter()
            .filter(move |(_, s)| {
                let open = s.status == Some(WorkerStatus::Available) && !s.suspended;
                let has_seats = !limited || s.counts.lifetime < ceiling;
                open && has_seats && !s.deregistered && !s.gone
            })
            .map(|(generation, _)| *generation)
    }

    fn answer(&mut self, generation: Generation) {
        let server = self.server(generation);
        if !server.up && !server.stopping {
            server.up = true;
            let took = self.took;
            self.feed(Input::Answered { generation, took });
        }
    }

    fn register(&mut self, generation: Generation) {
        let server = self.server(generation);
        if server.told_to_register && !server.deregistered {
            server.status.get_or_insert(WorkerStatus::Available);
            self.feed(Input::Registered(generation));
        }
    }

    fn exit(&mut self, generation: Generation) {
        self.server(generation).gone = true;
        self.feed(Input::Exited(generation, "because".to_owned()));
    }

    fn seat(&mut self, generation: Generation) {
        if self.available().any(|available| available == generation) {
            self.change(generation, 1, 1);
        }
    }

    fn leave(&mut self, generation: Generation) {
        if self.server(generation).counts.active > 0 {
            self.change(generation, -1, 0);
        }
    }

    fn change(&mut self, generation: Generation, active: i32, lifetime: u32) {
        self.revision += 1;
        let revision = self.revision;
        let counts = &mut self.server(generation).counts;
        counts.active = counts.active.saturating_add_signed(active);
        counts.lifetime += lifetime;
        counts.revision = revision;
    }

    fn tell_counts(&mut self, generation: Generation) {
        let counts = self.server(generation).counts;
        self.feed(Input::Counts(generation, counts));
    }

    fn beat(&mut self, generation: Generation, recycle: bool) {
        let server = self.server(generation);
        if let (Some(status), false) = (server.status, server.deregistered) {
            let counts = server.counts;
            self.feed(Input::Heartbeat {
                generation,
                status,
                counts,
                recycle,
            });
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.feed(Input::Tick);
    }

    /// The world behaves for a while: what starts comes up, what is stopped ends, sessions end.
    fn behave(&mut self) {
        self.behave_while(|_| true);
    }

    /// The same, where sessions end only on the servers whose sessions `end`.
    fn behave_while(&mut self, end: impl Fn(&Server) -> bool) {
        for _ in 0..40 {
            self.pass(Duration::from_secs(5));
            for generation in self.alive() {
                if self.server(generation).stopping {
                    self.exit(generation);
                    continue;
                }
                self.answer(generation);
                if self.server(generation).status.is_none() {
                    self.register(generation);
                }
                self.feed(Input::Checked(generation, Health::Well));
                match end(self.server(generation)) {
                    true => self.empty(generation),
                    false => self.beat(generation, false),
                }
            }
        }
    }

    /// Clients take all seats of the one that serves.
    fn fill_up(&mut self) {
        let serving = self.available().next().expect("one serves");
        while self.available().any(|available| available == serving) {
            self.seat(serving);
            self.tell_counts(serving);
        }
    }

    /// Its sessions end, and it hears of it.
    fn empty(&mut self, generation: Generation) {
        while self.server(generation).counts.active > 0 {
            self.leave(generation);
        }
        self.beat(generation, false);
    }

    fn first_is_up(&mut self) -> Generation {
        self.feed(Input::Tick);
        let first = self.alive()[0];
        self.answer(first);
        self.register(first);
        first
    }
}

/// Recycles the one that serves while a session of it goes on.
fn leave_a_long_session(world: &mut World) -> Generation {
    let old = world.available().next().expect("one serves");
    world.seat(old);
    world.tell_counts(old);
    world.beat(old, true);
    if let Some(new) = world.alive().into_iter().find(|it| !world.servers[it].up) {
        world.answer(new);
        world.register(new);
    }
    old
}
