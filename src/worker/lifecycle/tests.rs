//! The life cycle against a world that does whatever it likes: a store, processes and clients, in
//! any order, with time that jumps.

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

/// Something that may happen at any time; the number picks one of the living generations.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u64),
    Answer,
    Register,
    Crash,
    End,
    Seat,
    Leave,
    Counts,
    Beat,
    Order,
    Memory(u64),
    Checked(Health),
    Drain,
    Stop,
}

impl Happening {
    fn takes_away(&self) -> bool {
        use Happening::{Crash, Drain, Seat, Stop};
        let unwell = matches!(self, Happening::Checked(health) if *health != Health::Well);
        // A session may take the last seat of a browser.
        unwell || matches!(self, Crash | Drain | Stop | Seat)
    }
}

fn recycling() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0u64..20_000).prop_map(Happening::Pass),
        3 => Just(Happening::Answer),
        3 => Just(Happening::Register),
        2 => Just(Happening::End),
        8 => Just(Happening::Seat),
        5 => Just(Happening::Leave),
        5 => Just(Happening::Counts),
        3 => Just(Happening::Beat),
        1 => Just(Happening::Order),
        1 => (0u64..1500).prop_map(Happening::Memory),
        1 => prop_oneof![Just(Health::Well), Just(Health::Suspect)].prop_map(Happening::Checked),
    ]
}

fn anything() -> impl Strategy<Value = Happening> {
    prop_oneof![
        30 => recycling(),
        3 => Just(Happening::Crash),
        1 => Just(Happening::Checked(Health::Broken("it is".to_owned()))),
        1 => prop_oneof![Just(Happening::Drain), Just(Happening::Stop)],
    ]
}

fn happen(world: &mut World, happening: &Happening, which: usize) {
    if let Happening::Pass(millis) = happening {
        return world.pass(Duration::from_millis(*millis));
    }
    match happening {
        Happening::Drain => return world.feed(Input::Drain),
        Happening::Stop => return world.feed(Input::Stop),
        _ => {}
    }
    let alive = world.alive();
    if alive.is_empty() {
        return;
    }
    let generation = alive[which % alive.len()];
    match happening {
        Happening::Answer => world.answer(generation),
        Happening::Register => world.register(generation),
        Happening::Crash => world.exit(generation),
        Happening::End if world.server(generation).stopping => world.exit(generation),
        Happening::Seat => world.seat(generation),
        Happening::Leave => world.leave(generation),
        Happening::Counts => world.tell_counts(generation),
        Happening::Beat => world.beat(generation, false),
        Happening::Order => world.beat(generation, true),
        Happening::Memory(bytes) => world.feed(Input::Memory(generation, *bytes)),
        Happening::Checked(health) if world.server(generation).told_to_register => {
            world.feed(Input::Checked(generation, health.clone()));
        }
        _ => {}
    }
}

fn story(
    happening: impl Strategy<Value = Happening>,
) -> impl Strategy<Value = Vec<(Happening, usize)>> {
    prop::collection::vec((happening, 0usize..4), 0..250)
}

proptest! {
    #[test]
    fn make_before_break_never_costs_the_seats(story in story(anything())) {
        let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
        for (happening, which) in story {
            let before = world.available().count();
            happen(&mut world, &happening, which);
            if !happening.takes_away() {
                prop_assert!(world.available().count() >= before, "{:?}", happening);
            }
        }
    }

    #[test]
    fn whatever_happened_a_worker_comes_back_to_one_browser(story in story(anything())) {
        for mode in [RecycleMode::MakeBeforeBreak, RecycleMode::Exit] {
            let mut world = World::new(rules(mode));
            for (happening, which) in &story {
                happen(&mut world, happening, *which);
            }
            world.behave();
            if world.cycle.is_ending() {
                prop_assert!(world.finished);
            } else {
                prop_assert_eq!(world.available().count(), 1);
                prop_assert_eq!(world.alive().len(), 1, "{:?}", world.servers);
            }
        }
    }

    #[test]
    fn sessions_that_stay_on_old_browsers_keep_nobody_out(story in story(recycling())) {
        let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
        for (happening, which) in story {
            happen(&mut world, &happening, which);
        }
        for _ in 0..2 {
            world.behave_while(|server| server.status != Some(WorkerStatus::Draining));
            prop_assert_eq!(world.available().count(), 1, "{:?}", world.servers);
            world.fill_up();
        }
    }

    #[test]
    fn a_seat_is_given_up_only_for_a_reason(story in story(recycling())) {
        let mut lenient = rules(RecycleMode::MakeBeforeBreak);
        lenient.max_lifetime_sessions = None;
        lenient.max_memory = None;
        lenient.max_age = None;
        lenient.max_failures = 0;
        let mut world = World::new(lenient);
        let mut ordered = false;
        for (happening, which) in story {
            ordered |= matches!(happening, Happening::Order);
            happen(&mut world, &happening, which);
            prop_assert!(ordered || world.recycled.is_empty());
        }
    }
}

#[test]
fn the_old_one_drains_only_after_the_new_one_is_registered() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    for _ in 0..LIMIT {
        world.pass(Duration::from_secs(10));
        world.seat(old);
        world.tell_counts(old);
    }
    let [_, new] = world.alive()[..] else {
        panic!("the replacement is on its way: {:?}", world.servers);
    };
    world.answer(new);
    assert_eq!(world.available().collect::<Vec<_>>(), [old]);
    world.register(new);
    assert_eq!(world.available().collect::<Vec<_>>(), [new]);
    assert_eq!(world.recycled, [(old, RecycleReason::Lifetime)]);
    for _ in 0..LIMIT {
        assert!(!world.server(old).stopping, "sessions end by themselves");
        world.leave(old);
        world.beat(old, false);
    }
    assert!(world.server(old).stopping && world.server(old).deregistered);
}

/// How many sessions its browser has had when the replacement is started: one comes every `pause`
/// milliseconds, and a browser takes `took` to start.
fn started_at(pause: u64, took: Duration, rules: Rules) -> u32 {
    let mut world = World::new(rules);
    world.took = took;
    let old = world.first_is_up();
    for sessions in 1.. {
        world.pass(Duration::from_millis(pause));
        world.seat(old);
        world.tell_counts(old);
        if world.alive().len() > 1 {
            return sessions;
        }
    }
    unreachable!()
}

#[test]
fn the_replacement_is_started_earlier_the_faster_the_worker_fills() {
    let rules = rules(RecycleMode::MakeBeforeBreak);
    let started_at = |pause| started_at(pause, Duration::from_secs(1), rules);
    assert_eq!(started_at(20_000), LIMIT, "a slow one reaches its limit");
    let fast = started_at(150);
    assert!((LIMIT / 2..LIMIT).contains(&fast), "{fast}");
    assert_eq!(started_at(1), LIMIT / 2, "not before half a life");
}

#[test]
fn the_replacement_is_started_before_half_a_life_if_seats_were_lost_otherwise() {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    let slow = Duration::from_secs(3);
    let early = started_at(100, slow, rules);
    assert!((2..LIMIT / 2).contains(&early), "{early}");
    rules.ceiling = 10 * LIMIT;
    assert_eq!(started_at(100, slow, rules), LIMIT / 2, "it can go on");
}

#[test]
fn the_pace_of_a_worker_and_a_slow_start_are_not_forgotten_with_its_browser() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.took = Duration::from_secs(4);
    let mut serving = world.first_is_up();
    let mut started_at = Vec::new();
    for start in [4, 1, 1] {
        let come = |world: &mut World| {
            world.pass(Duration::from_millis(100));
            world.seat(serving);
            world.tell_counts(serving);
        };
        let mut sessions = 0;
        while world.alive().len() == 1 {
            come(&mut world);
            sessions += 1;
        }
        started_at.push(sessions);
        let new = world.alive()[1];
        (0..start * 10).for_each(|_| come(&mut world));
        world.answer(new);
        world.register(new);
        world.empty(serving);
        world.exit(serving);
        serving = new;
    }
    // The first browser of a worker has to find out how fast it fills.
    assert!(started_at[0] > 1, "{started_at:?}");
    assert_eq!(started_at[1..], [1, 1]);
}

#[test]
fn with_a_limit_of_one_it_serves_its_one_session() {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.max_lifetime_sessions = Some(1);
    let mut world = World::new(rules);
    let first = world.first_is_up();
    (0..100).for_each(|_| world.pass(Duration::from_secs(1)));
    assert_eq!(world.alive(), [first], "an idle browser is not replaced");
    world.seat(first);
    world.tell_counts(first);
    assert_eq!(world.alive().len(), 2);
}

#[test]
fn an_idle_count_from_before_the_drain_was_known_does_not_end_it() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.feed(Input::Drain);
    world.tell_counts(old);
    assert!(!world.server(old).stopping, "a session may just have come");
    world.beat(old, false);
    assert!(world.server(old).stopping);
}

#[test]
fn when_the_store_lost_the_counters_only_silence_or_time_ends_a_drain() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.feed(Input::Relisted(old));
    world.feed(Input::Drain);
    world.beat(old, false);
    assert!(!world.server(old).stopping);
    world.feed(Input::Quiet(old));
    assert!(world.server(old).stopping);
}

#[test]
fn after_the_drain_timeout_proxies_get_a_moment_and_then_it_ends() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.feed(Input::Drain);
    world.beat(old, false);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.server(old).status, Some(WorkerStatus::ShuttingDown));
    assert!(!world.server(old).stopping);
    world.pass(EVICTION_GRACE);
    assert!(world.server(old).stopping);
}

#[test]
fn a_second_word_ends_at_once() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.seat(old);
    world.feed(Input::Drain);
    world.feed(Input::Stop);
    assert!(world.server(old).stopping);
    world.exit(old);
    assert!(world.finished);
}

#[test]
fn crashes_in_a_row_wait_longer_and_longer_and_a_sound_life_is_forgiven() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.feed(Input::Tick);
    for _ in 0..10 {
        let generation = world.alive()[0];
        world.exit(generation);
        world.pass(LONGEST_BACKOFF);
    }
    let pauses: Vec<_> = world.crashes.iter().flatten().copied().collect();
    assert_eq!(pauses.len(), 10);
    assert!(pauses.is_sorted() && pauses[0] == FIRST_BACKOFF);
    assert_eq!(pauses[9], LONGEST_BACKOFF);

    let generation = world.alive()[0];
    world.answer(generation);
    world.register(generation);
    world.pass(SOUND_AFTER);
    world.exit(generation);
    assert_eq!(world.crashes.last(), Some(&Some(Duration::ZERO)));
    assert_eq!(world.alive().len(), 1, "replaced at once");
}

/// The pauses before the successors of browsers of which each serves for `time` and then dies.
fn pauses_when_each_serves(time: Duration) -> Vec<Duration> {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.feed(Input::Tick);
    for _ in 0..10 {
        let generation = world.alive()[0];
        world.answer(generation);
        world.register(generation);
        world.pass(time);
        world.exit(generation);
        world.pass(LONGEST_BACKOFF);
    }
    world.crashes.into_iter().flatten().collect()
}

#[test]
fn one_that_served_and_died_is_replaced_soon_however_often() {
    assert_eq!(pauses_when_each_serves(SETTLED_AFTER), [FIRST_BACKOFF; 10]);
    let young = pauses_when_each_serves(Duration::from_millis(100));
    assert_eq!(young.len(), 10);
    assert!(young.is_sorted() && young[0] == FIRST_BACKOFF);
    assert_eq!(young[9], Duration::from_secs(2));
}

#[test]
fn starts_that_fail_wait_longer_again_after_one_that_served() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.feed(Input::Tick);
    for serves in [false, false, false, false, true, false] {
        let generation = world.alive()[0];
        if serves {
            world.answer(generation);
            world.register(generation);
        }
        world.exit(generation);
        world.pass(LONGEST_BACKOFF);
    }
    let millis: Vec<_> = world
        .crashes
        .iter()
        .flatten()
        .map(Duration::as_millis)
        .collect();
    assert_eq!(millis, [500, 1000, 2000, 4000, 2000, 4000]);
}

#[test]
fn one_that_breaks_after_a_check_found_it_well_has_served() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.first_is_up();
    for _ in 0..10 {
        let serving = *world.alive().last().unwrap();
        world.answer(serving);
        world.register(serving);
        world.feed(Input::Checked(serving, Health::Well));
        let why = "it hangs".to_owned();
        world.feed(Input::Checked(serving, Health::Broken(why)));
        world.pass(EVICTION_GRACE);
        world.exit(serving);
        world.pass(Duration::ZERO);
        assert_eq!(world.alive().len(), 1, "its successor is on its way");
    }
}

#[test]
fn mode_exit_drains_and_ends_or_starts_over() {
    for start_over in [false, true] {
        let mut rules = rules(RecycleMode::Exit);
        rules.start_over = start_over;
        let mut world = World::new(rules);
        let only = world.first_is_up();
        for _ in 0..2 * LIMIT {
            world.seat(only);
            world.tell_counts(only);
        }
        assert!(world.recycled.is_empty(), "it waits for its turn");
        assert_eq!(world.asked, [only], "and asked for it once");
        world.beat(only, true);
        assert_eq!(world.recycled, [(only, RecycleReason::Lifetime)]);
        assert_eq!(world.alive(), [only], "nothing is started before");
        while world.server(only).counts.active > 0 {
            world.leave(only);
        }
        world.beat(only, false);
        world.exit(only);
        assert_eq!(world.finished, !start_over);
        assert_eq!(world.alive().len(), usize::from(start_over));
    }
}

#[test]
fn each_reason_is_told_and_in_mode_exit_takes_its_turn() {
    let reasons = |change: fn(&mut World, Generation)| {
        let mut told = Vec::new();
        for mode in [RecycleMode::MakeBeforeBreak, RecycleMode::Exit] {
            let mut world = World::new(rules(mode));
            let old = world.first_is_up();
            world.seat(old);
            world.tell_counts(old);
            change(&mut world, old);
            if mode == RecycleMode::Exit && world.recycled.is_empty() {
                assert_eq!(world.asked, [old]);
                world.beat(old, true);
            }
            world.behave();
            told.push(world.recycled[0].1);
        }
        assert_eq!(told[0], told[1]);
        told[0]
    };
    assert_eq!(
        reasons(|world, old| world.feed(Input::Memory(old, 1001))),
        RecycleReason::Memory
    );
    assert_eq!(
        reasons(|world, _| world.pass(Duration::from_secs(601))),
        RecycleReason::Age
    );
    assert_eq!(
        reasons(|world, old| (0..3).for_each(|_| {
            world.feed(Input::Checked(old, Health::Suspect));
            world.feed(Input::Checked(old, Health::Well));
        })),
        RecycleReason::Failures
    );
    assert_eq!(
        reasons(|world, old| world.beat(old, true)),
        RecycleReason::Operator
    );
}

#[test]
fn a_suspect_gets_no_session_until_it_is_found_well() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let only = world.first_is_up();
    world.feed(Input::Checked(only, Health::Suspect));
    assert_eq!(world.available().count(), 0);
    world.feed(Input::Checked(only, Health::Well));
    assert_eq!(world.available().collect::<Vec<_>>(), [only]);
    assert_eq!(
        world.alive(),
        [only],
        "nothing was started for a moment's doubt"
    );
}

#[test]
fn the_sessions_of_a_broken_one_learn_why_and_it_is_killed_whether_it_serves_or_drains() {
    for drains in [false, true] {
        let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
        let old = world.first_is_up();
        world.seat(old);
        world.tell_counts(old);
        world.pass(SOUND_AFTER);
        if drains {
            world.beat(old, true);
            let new = world.alive()[1];
            world.answer(new);
            world.register(new);
        }
        world.feed(Input::Checked(old, Health::Broken("it hangs".to_owned())));
        let server = world.server(old).clone();
        assert_eq!(server.status, Some(WorkerStatus::ShuttingDown));
        assert_eq!(server.evicted.as_deref(), Some("it hangs"));
        assert!(!server.stopping, "its sessions are told first");
        assert_eq!(
            world.alive().len(),
            2,
            "another one serves or comes at once"
        );
        world.pass(EVICTION_GRACE);
        assert!(world.server(old).killed);
        let told = if drains {
            RecycleReason::Operator
        } else {
            RecycleReason::Failures
        };
        assert_eq!(world.recycled, [(old, told)]);
    }
}

#[test]
fn what_breaks_young_again_and_again_is_started_less_and_less_often() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.first_is_up();
    for _ in 0..20 {
        for generation in world.alive() {
            world.answer(generation);
            world.register(generation);
            world.feed(Input::Checked(
                generation,
                Health::Broken("again".to_owned()),
            ));
        }
        world.pass(EVICTION_GRACE);
        for generation in world.alive() {
            if world.server(generation).stopping {
                world.exit(generation);
            }
        }
    }
    let started = world.servers.len();
    assert!((2..8).contains(&started), "{started} in 40 s");
}

#[test]
fn a_recycle_ends_no_session_however_long_it_takes() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.beat(old, true);
    let new = world.alive()[1];
    world.answer(new);
    world.register(new);
    world.pass(Duration::from_secs(500));
    assert_eq!(world.server(old).status, Some(WorkerStatus::Draining));
    // Once the worker is to end, its time counts for all.
    world.feed(Input::Drain);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.server(old).status, Some(WorkerStatus::ShuttingDown));
    assert_eq!(
        world.server(old).evicted,
        None,
        "that is no fault of its browser"
    );
}

#[test]
fn who_wants_it_gets_a_bound_for_recycles() {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.recycle_timeout = Some(Duration::from_secs(20));
    let mut world = World::new(rules);
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.beat(old, true);
    let new = world.alive()[1];
    world.answer(new);
    world.register(new);
    world.pass(Duration::from_secs(19));
    assert_eq!(world.server(old).status, Some(WorkerStatus::Draining));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.server(old).status, Some(WorkerStatus::ShuttingDown));
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

#[test]
fn only_so_many_drain_and_then_the_one_that_serves_goes_on() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.first_is_up();
    let first = leave_a_long_session(&mut world);
    let second = leave_a_long_session(&mut world);
    let third = leave_a_long_session(&mut world);
    assert_eq!(world.alive(), [first, second, third]);
    assert_eq!(world.available().collect::<Vec<_>>(), [third]);
    world.leave(first);
    world.beat(first, false);
    world.exit(first);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.alive().len(), 3, "there is a place to drain in again");
}

#[test]
fn one_that_is_used_up_makes_place_for_its_successor_while_others_drain() {
    for has_memory in [true, false] {
        let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
        world.rules.max_memory = None;
        world.first_is_up();
        let first = leave_a_long_session(&mut world);
        let mut draining = vec![first];
        if has_memory {
            draining.push(leave_a_long_session(&mut world));
        } else {
            let serving = world.available().next().unwrap();
            world.feed(Input::Memory(serving, 500));
            world.rules.room = Room {
                limit: 1000,
                free: 100,
            };
        }
        let last = world.available().next().unwrap();
        world.fill_up();
        assert_eq!(
            world.server(last).status,
            Some(WorkerStatus::Available),
            "its sessions go on"
        );
        world.empty(last);
        world.beat(last, false);
        assert!(world.server(last).stopping, "{:?}", world.servers);
        world.exit(last);
        world.rules.room = Room::UNLIMITED;
        world.pass(Duration::from_secs(1));
        let new = *world.alive().last().unwrap();
        world.answer(new);
        world.register(new);
        assert_eq!(world.available().collect::<Vec<_>>(), [new]);
        assert_eq!(world.at_once, [new], "without a seat it waits for nobody");
        for generation in draining {
            assert_eq!(world.server(generation).counts.active, 1, "nobody is ended");
            assert!(!world.server(generation).stopping);
        }
    }
}

#[test]
fn a_replacement_that_does_not_fit_waits_for_the_last_session_and_then_breaks_before_it_makes() {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.max_memory = None;
    rules.room = Room {
        limit: 1000,
        free: 100,
    };
    let mut world = World::new(rules);
    let old = world.first_is_up();
    world.feed(Input::Memory(old, 500));
    for _ in 0..LIMIT {
        world.pass(Duration::from_secs(10));
        world.seat(old);
        world.tell_counts(old);
    }
    assert_eq!(world.alive(), [old]);
    assert_eq!(
        world.available().count(),
        1,
        "it goes on: {:?}",
        world.servers
    );
    assert_eq!(world.no_room, 1, "said once");
    world.empty(old);
    world.beat(old, false);
    assert!(
        world.server(old).deregistered,
        "empty, it costs nobody a session"
    );
    world.exit(old);
    assert_eq!(world.alive().len(), 1);
    assert_eq!(
        world.at_once,
        world.alive(),
        "without a seat it waits for nobody"
    );
    assert_eq!(world.no_room, 1);
}

#[test]
fn a_replacement_that_does_not_fit_waits_no_longer_than_there_are_seats() {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.max_memory = None;
    rules.room = Room {
        limit: 1000,
        free: 100,
    };
    let mut world = World::new(rules);
    let old = world.first_is_up();
    world.feed(Input::Memory(old, 500));
    for _ in 0..2 * LIMIT {
        world.seat(old);
        world.tell_counts(old);
    }
    assert_eq!(world.server(old).status, Some(WorkerStatus::Draining));
    world.rules.room.free = 600;
    world.pass(Duration::from_secs(1));
    assert_eq!(
        world.alive().len(),
        2,
        "as soon as there is room: {:?}",
        world.servers
    );
}

#[test]
fn one_that_goes_on_growing_while_it_drains_is_ended_when_memory_is_short() {
    const MIB: u64 = 1 << 20;
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.max_memory = Some(1000 * MIB);
    let mut world = World::new(rules);
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.feed(Input::Memory(old, 1001 * MIB));
    let new = world.alive()[1];
    world.answer(new);
    world.register(new);
    assert_eq!(world.recycled, [(old, RecycleReason::Memory)]);
    world.feed(Input::Memory(old, 1500 * MIB));
    assert_eq!(
        world.server(old).evicted,
        None,
        "its sessions go on, and so may it, a little"
    );
    world.feed(Input::Memory(old, 1600 * MIB));
    let why = world.server(old).evicted.clone().unwrap();
    assert!(why.contains("1600 MiB of 1000 MiB"), "{why}");
    world.pass(EVICTION_GRACE);
    assert!(world.server(old).killed);
    assert_eq!(world.available().collect::<Vec<_>>(), [new]);
}

#[test]
fn who_fills_the_disk_is_replaced_and_ended_if_it_goes_on() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.feed(Input::Disk(old, life::MAX_DISK + 1));
    let new = world.alive()[1];
    world.answer(new);
    world.register(new);
    assert_eq!(world.recycled, [(old, RecycleReason::Disk)]);
    world.feed(Input::Disk(old, 2 * life::MAX_DISK));
    assert_eq!(world.server(old).evicted, None);
    world.feed(Input::Disk(old, 2 * life::MAX_DISK + 1));
    assert!(world.server(old).evicted.is_some());
}

#[test]
fn a_bound_on_memory_holds_for_all_browsers_of_a_worker_together() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.first_is_up();
    let old = leave_a_long_session(&mut world);
    world.feed(Input::Memory(old, 300));
    let serving = world.available().next().unwrap();
    world.seat(serving);
    world.tell_counts(serving);
    world.feed(Input::Memory(serving, 690));
    assert_eq!(world.alive(), [old, serving]);
    world.feed(Input::Memory(serving, 701));
    assert_eq!(world.alive().len(), 3);
}
