//! Random interleavings from several proxies, against a model of what must be true in between.
//!
//! After every step the fleet is what the model says, and Redis itself is audited: the counters are
//! the sums of the seats, every seat is somebody's lease, nothing is negative.

use crate::stores::*;
use crate::support::{Books, RedisServer, eventually_equal};
use playhouse::model::{Heartbeat, SessionId, WorkerKey, WorkerStatus};
use playhouse::store::{Candidate, HeartbeatReply, Reserved, Store, StoreError};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const PROXIES: usize = 3;
const WORKERS: usize = 3;
const SESSIONS: usize = 10;
/// Between two questions to a store whose connection was cut.
const AGAIN: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
enum Step {
    Reserve {
        proxy: usize,
        session: usize,
        order: Vec<(usize, u32, Option<u32>)>,
    },
    /// Like `Reserve`, but the caller may lose patience.
    Abandon {
        proxy: usize,
        worker: usize,
        patience: u32,
    },
    Release {
        session: usize,
        refund: bool,
    },
    Adopt {
        proxy: usize,
        session: usize,
        worker: usize,
    },
    Register(usize),
    Beat(usize, WorkerStatus),
    Expire(usize),
    Reap(usize),
    Deregister(usize),
    /// A proxy dies with what it holds, and another one starts.
    Crash(usize),
    /// Redis cuts every connection.
    Cut,
    /// Redis loses everything.
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let order = prop::collection::vec(
        (0..WORKERS, 1..4u32, prop::option::of(1..12u32)),
        0..WORKERS + 1,
    );
    prop_oneof![
        12 => (0..PROXIES, 0..SESSIONS, order)
            .prop_map(|(proxy, session, order)| Step::Reserve { proxy, session, order }),
        2 => (0..PROXIES, 0..WORKERS, 0..12u32)
            .prop_map(|(proxy, worker, patience)| Step::Abandon { proxy, worker, patience }),
        8 => (0..SESSIONS, any::<bool>())
            .prop_map(|(session, refund)| Step::Release { session, refund }),
        2 => (0..PROXIES, 0..SESSIONS, 0..WORKERS)
            .prop_map(|(proxy, session, worker)| Step::Adopt { proxy, session, worker }),
        4 => (0..WORKERS).prop_map(Step::Register),
        2 => (0..WORKERS, prop::sample::select(&WorkerStatus::ALL[..]))
            .prop_map(|(worker, status)| Step::Beat(worker, status)),
        1 => (0..WORKERS).prop_map(Step::Expire),
        1 => (0..PROXIES).prop_map(Step::Reap),
        1 => (0..WORKERS).prop_map(Step::Deregister),
        1 => (0..PROXIES).prop_map(Step::Crash),
        1 => Just(Step::Cut),
        1 => Just(Step::Flush),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Most interleavings are dull without workers.
    prop::collection::vec(step(), 1..50).prop_map(|steps| {
        let registered = (0..WORKERS).map(Step::Register);
        registered.chain(steps).collect()
    })
}

struct Worker {
    key: WorkerKey,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unknown,
    Alive {
        status: WorkerStatus,
        /// `None` where more than one answer is right: after it expired.
        lifetime: Option<u32>,
    },
    /// Silent for too long; whether it has been reaped is nobody's promise.
    Expired,
}

/// What must be true, and the stores to check it on.
struct World<G> {
    grid: G,
    proxies: Vec<Arc<dyn Store>>,
    agent: Arc<dyn Store>,
    workers: Vec<Worker>,
    /// The id of each session's latest incarnation, and on which proxy it lives.
    sessions: Vec<(SessionId, usize)>,
    seats: HashMap<SessionId, WorkerKey>,
    generation: u32,
    /// Whether a lifetime was ever given back.
    refunded: bool,
}

impl<G: Grid> World<G> {
    async fn new() -> World<G> {
        let grid = G::start().await;
        let mut proxies = Vec::new();
        for _ in 0..PROXIES {
            proxies.push(grid.proxy().await);
        }
        World {
            agent: grid.agent().await,
            proxies,
            grid,
            workers: (0..WORKERS)
                .map(|i| Worker {
                    key: key(&format!("{i}-0")),
                    state: State::Unknown,
                })
                .collect(),
            sessions: vec![(SessionId::random(), 0); SESSIONS],
            seats: HashMap::new(),
            generation: 0,
            refunded: false,
        }
    }

    fn active(&self, worker: &WorkerKey) -> u32 {
        self.seats.values().filter(|key| *key == worker).count() as u32
    }

    fn worker(&mut self, key: &WorkerKey) -> &mut Worker {
        let found = self.workers.iter_mut().find(|worker| worker.key == *key);
        found.expect("the store named a worker that there is")
    }

    fn count_lifetime(&mut self, key: &WorkerKey, by: i32) {
        if let State::Alive {
            lifetime: Some(lifetime),
            ..
        } = &mut self.worker(key).state
        {
            *lifetime = lifetime.checked_add_signed(by).expect("never negative");
        }
    }

    /// Into an empty Redis everybody writes the lifetimes it remembers, and the highest stays. Who
    /// has not heard of a refund yet remembers too much.
    fn forget_lifetimes(&mut self) {
        for worker in &mut self.workers {
            if let State::Alive { lifetime, .. } = &mut worker.state {
                *lifetime = None;
            }
        }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Reserve {
                proxy,
                session,
                order,
            } => self.reserve(proxy, session, order).await,
            Step::Abandon {
                proxy,
                worker,
                patience,
            } => self.abandon(proxy, worker, patience).await,
            Step::Release { session, refund } => {
                let (id, proxy) = self.sessions[session];
                release(&*self.proxies[proxy], id, refund).await;
                let Some(worker) = self.seats.remove(&id) else {
                    return;
                };
                self.refunded |= refund;
                if refund && self.workers.iter().any(|known| known.key == worker) {
                    self.count_lifetime(&worker, -1);
                }
            }
            Step::Adopt {
                proxy,
                session,
                worker,
            } => {
                if self.seats.contains_key(&self.sessions[session].0) {
                    return;
                }
                let id = SessionId::random();
                self.sessions[session] = (id, proxy);
                let key = self.workers[worker].key.clone();
                if !matches!(self.workers[worker].state, State::Alive { .. }) {
                    return;
                }
                self.proxies[proxy].adopt(id, &key);
                self.count_lifetime(&key, 1);
                self.seats.insert(id, key);
            }
            Step::Register(worker) => self.register(worker).await,
            Step::Beat(worker, status) => {
                let key = self.workers[worker].key.clone();
                let beat = self.beat(&key, status, TTL).await;
                match &mut self.workers[worker].state {
                    State::Alive { status: known, .. } => {
                        assert!(!beat.unknown);
                        *known = status;
                    }
                    State::Unknown => assert!(beat.unknown),
                    // What every agent does then.
                    State::Expired if beat.unknown => self.register(worker).await,
                    // A reconnect has restored the record of an agent that lives after all.
                    state => {
                        *state = State::Alive {
                            status,
                            lifetime: None,
                        }
                    }
                }
            }
            Step::Expire(worker) => {
                let State::Alive { status, .. } = self.workers[worker].state else {
                    return;
                };
                let key = self.workers[worker].key.clone();
                let soon = Duration::from_millis(1);
                self.beat(&key, status, soon).await;
                self.workers[worker].state = State::Expired;
            }
            Step::Reap(proxy) => heard(async || self.proxies[proxy].reap().await).await,
            Step::Deregister(worker) => self.deregister(worker).await,
            Step::Crash(proxy) => {
                if self.grid.redis().is_none() {
                    return;
                }
                self.proxies[proxy] = self.grid.proxy().await;
                let sessions = &self.sessions;
                self.seats
                    .retain(|session, _| !sessions.contains(&(*session, proxy)));
            }
            Step::Cut => {
                if let Some(redis) = self.grid.redis() {
                    query::<u64>(redis, &["CLIENT", "KILL", "TYPE", "pubsub"]);
                }
            }
            Step::Flush => {
                // A proxy that does not know yet that a worker expired would restore it.
                for worker in 0..WORKERS {
                    if self.workers[worker].state == State::Expired {
                        self.deregister(worker).await;
                    }
                }
                self.check().await;
                if let Some(redis) = self.grid.redis() {
                    query::<()>(redis, &["FLUSHALL"]);
                    if self.refunded {
                        self.forget_lifetimes();
                    }
                    self.everybody_noticed().await;
                }
            }
        }
    }

    async fn reserve(
        &mut self,
        proxy: usize,
        session: usize,
        order: Vec<(usize, u32, Option<u32>)>,
    ) {
        let (id, holder) = self.sessions[session];
        let held = self.seats.get(&id).cloned();
        let (id, proxy) = match &held {
            Some(_) => (id, holder),
            None => (SessionId::random(), proxy),
        };
        let order: Vec<Candidate> = order
            .into_iter()
            .map(|(worker, active, lifetime)| {
                candidate(&self.workers[worker].key, active, lifetime)
            })
            .collect();
        if let Some(held) = &held {
            let worker = self.workers.iter().find(|worker| worker.key == *held);
            if !worker.is_some_and(|worker| matches!(worker.state, State::Alive { .. })) {
                return;
            }
        }
        let unsure = order.iter().any(|candidate| {
            let worker = self.workers.iter().find(|known| known.key == candidate.key);
            matches!(worker.unwrap().state, State::Alive { lifetime: None, .. })
                && candidate.lifetime_cap.is_some()
        });
        let store = &self.proxies[proxy];
        let mut answer = store.reserve(id, &order).await;
        let (mut id, mut repeated) = (id, false);
        while let Err(StoreError::Away(_)) = answer {
            // What the question may have taken is given back: it is another session that asks again.
            if held.is_none() {
                id = SessionId::random();
                (self.refunded, repeated) = (true, true);
            }
            tokio::time::sleep(AGAIN).await;
            answer = store.reserve(id, &order).await;
        }
        let reserved = answer.unwrap();
        self.sessions[session] = (id, proxy);
        if let Some(held) = held {
            assert!(
                matches!(&reserved, Reserved::Seat { worker, .. } if *worker == held),
                "{reserved:?} and not {held}"
            );
            return;
        }
        if !unsure && !repeated {
            self.compare(&reserved, &order);
        }
        if let Reserved::Seat { worker, counts } = reserved {
            self.count_lifetime(&worker, 1);
            self.seats.insert(id, worker.clone());
            // The seat of the question that had no answer may not be back yet.
            assert!(
                repeated || counts.active == self.active(&worker),
                "{counts:?}"
            );
        }
    }

    fn compare(&self, reserved: &Reserved, order: &[Candidate]) {
        let mut there = Vec::new();
        for candidate in order {
            let found = self.workers.iter().find(|known| known.key == candidate.key);
            let State::Alive { status, lifetime } = found.unwrap().state else {
                continue;
            };
            if status != WorkerStatus::Available {
                continue;
            }
            there.push(candidate.key.clone());
            let lifetime_left = match (candidate.lifetime_cap, lifetime) {
                (Some(limit), Some(lifetime)) => lifetime < limit,
                _ => true,
            };
            if self.active(&candidate.key) < candidate.max_concurrent_sessions && lifetime_left {
                assert!(
                    matches!(reserved, Reserved::Seat { worker, .. } if *worker == candidate.key),
                    "{reserved:?} and not {}",
                    candidate.key
                );
                return;
            }
        }
        match reserved {
            Reserved::Gone => assert!(there.is_empty(), "gone, but there are {there:?}"),
            Reserved::Full { counts } => {
                for (worker, counts) in counts {
                    assert_eq!(counts.active, self.active(worker));
                }
                let told: Vec<_> = counts.iter().map(|(worker, _)| worker.clone()).collect();
                assert_eq!(told, there);
            }
            Reserved::Seat { worker, .. } => panic!("a seat on {worker}, which is full"),
        }
    }

    async fn deregister(&mut self, worker: usize) {
        let key = self.workers[worker].key.clone();
        heard(async || self.agent.deregister(&key).await).await;
        self.seats.retain(|_, held| *held != key);
        self.generation += 1;
        self.workers[worker] = Worker {
            key: crate::stores::key(&format!("{worker}-{}", self.generation)),
            state: State::Unknown,
        };
    }

    async fn abandon(&mut self, proxy: usize, worker: usize, patience: u32) {
        self.refunded = true;
        let id = SessionId::random();
        let order = [candidate(&self.workers[worker].key, 99, None)];
        let store = self.proxies[proxy].clone();
        let reserved = tokio::select! {
            biased;
            reserved = store.reserve(id, &order) => match reserved {
                Err(StoreError::Away(_)) => return,
                told => told.unwrap(),
            },
            _ = async { for _ in 0..patience { tokio::task::yield_now().await } } => return,
        };
        if let Reserved::Seat { worker, .. } = reserved {
            release(&*store, id, true).await;
            assert_eq!(worker, order[0].key);
        }
    }

    async fn beat(&self, key: &WorkerKey, status: WorkerStatus, ttl: Duration) -> HeartbeatReply {
        let heartbeat = || Heartbeat::new(status, None);
        heard(async || self.agent.heartbeat(key, heartbeat(), ttl).await).await
    }

    async fn register(&mut self, worker: usize) {
        let key = self.workers[worker].key.clone();
        heard(async || self.agent.register(&record(&key), TTL).await).await;
        let lifetime = match self.workers[worker].state {
            State::Unknown => Some(self.active(&key)),
            State::Alive { lifetime, .. } => lifetime,
            State::Expired => None,
        };
        self.workers[worker].state = State::Alive {
            status: WorkerStatus::Available,
            lifetime,
        };
    }

    /// Until every proxy has written down again what it holds, calls may still meet the emptiness.
    async fn everybody_noticed(&self) {
        let redis = self.grid.redis().unwrap();
        eventually_equal("all proxies said hello", true, async || {
            query::<usize>(redis, &["SCARD", "playhouse:proxies"]) >= PROXIES
        })
        .await;
        self.check().await;
    }

    /// Compares the fleet with the model, and audits Redis.
    async fn check(&self) {
        for proxy in &self.proxies {
            eventually_equal("the fleet is as modelled", Ok(()), async || {
                self.compare_fleet(&**proxy).await
            })
            .await;
        }
        if let Some(redis) = self.grid.redis() {
            audit(redis);
        }
    }

    async fn compare_fleet(&self, store: &dyn Store) -> Result<(), String> {
        let fleet = store.fleet().await.map_err(|error| error.to_string())?;
        let mut seen = BTreeMap::new();
        for view in fleet {
            let counts = (view.counts.active, view.counts.lifetime);
            seen.insert(view.record.key, (view.record.status, counts));
        }
        let mut total = 0;
        for worker in &self.workers {
            let State::Alive { status, lifetime } = worker.state else {
                continue;
            };
            let active = self.active(&worker.key);
            total += u64::from(active);
            let Some((seen_status, (seen_active, seen_lifetime))) = seen.remove(&worker.key) else {
                return Err(format!("{} is missing", worker.key));
            };
            let right = seen_status == status
                && seen_active == active
                && lifetime.is_none_or(|lifetime| seen_lifetime == lifetime)
                && seen_lifetime >= seen_active;
            holds(
                right,
                (
                    &worker.key,
                    (seen_status, seen_active, seen_lifetime),
                    (status, active, lifetime),
                ),
            )?;
        }
        holds(seen.is_empty(), ("workers that are not there", &seen))?;
        let expired = |worker: &Worker| worker.state == State::Expired;
        if !self.workers.iter().any(expired) {
            let sessions = store.active_sessions().await;
            let sessions = sessions.map_err(|error| error.to_string())?;
            holds(sessions == total, ("active sessions", sessions, total))?;
        }
        Ok(())
    }
}

fn holds(condition: bool, why: impl std::fmt::Debug) -> Result<(), String> {
    condition.then_some(()).ok_or_else(|| format!("{why:?}"))
}

/// What must hold in Redis at every moment, read in one go.
pub fn audit(redis: &RedisServer) {
    Books::read(redis).assert_right();
}

fn run<G: Grid>(steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::<G>::new().await;
        for step in steps {
            world.take(step).await;
            world.check().await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_follows_the_model(steps in steps()) {
        run::<Memory>(steps);
    }
}

proptest! {
    // Each case is a server of its own, and crashes wait for a TTL.
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn redis_follows_the_model(steps in steps()) {
        run::<Redis>(steps);
    }
}
