//! What this proxy believes about the workers: who they are, whether they answer, how full they
//! are.
//!
//! The belief is fed by the store's events and, where some may be missing, by reading the store; by health
//! checks; and by what reservations and dials teach. It is written into the selection's index at
//! once. The store decides who gets a seat; a belief that is behind costs one more question, never
//! a wrong seat.

pub mod demand;
mod departed;
mod dial;
pub mod events;
mod failure;
mod first_answers;
mod health;
mod live;
mod outage;
mod seating;
mod shared_line;
mod shown_version;
mod suspicion;
mod table;
mod target;
mod trials;
mod unreachable;
mod view;
mod watch;

/// How a worker is told which protocol its client speaks, and what its browser is to be started with.
pub use crate::worker::{CDP, LAUNCH_HEADER, PROTOCOL_HEADER};
pub use dial::{Dialled, Handshake};
pub use failure::{DialFailure, Shortage, WorkerAnswer};
pub use live::{LiveView, NoLiveView};
pub use seating::{Grant, NoSeat, PlaceGuard, Queue};
pub use target::Target;
pub use unreachable::{Obstacle, Unreachable};

use crate::config::LiveConfig;
use crate::launch::LaunchOptions;
use crate::metrics::Metrics;
use crate::model::{
    Browser, Counts, DevToolsVersion, Pool, SeatKind, Version, WorkerKey, WorkerRecord,
};
use crate::selection::{Facts, IndexSelection, Policy, SharedIndex};
use crate::session::registry::Registry;
use crate::session::seat::Releaser;
use crate::store::Store;
use async_trait::async_trait;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use table::{Known, WorkerTable};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The workers as this proxy sees them.
pub struct Fleet {
    config: LiveConfig,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    queue: Arc<Queue>,
    registry: Arc<Registry>,
    releaser: Releaser,
    table: WorkerTable,
    balancer: LoadBalancer<IndexSelection>,
    /// The set of workers changed: Pingora's balancer has to discover it.
    membership: Notify,
    /// A worker was learned of, or has an address.
    learned: Notify,
    /// The configuration changed.
    reconfigured: Notify,
    /// The same, for the health checks: their interval may have changed.
    interval_changed: Notify,
    /// The store was read whole at least once.
    has_view: AtomicBool,
    store_up: AtomicBool,
    /// A worker was forgotten that the store has not said to be gone.
    forgot: AtomicBool,
    /// When memory and signs of life were read last.
    freshened: Mutex<Option<watch::Reading>>,
    /// Until when the shares may be spent; `None` for as long as it takes.
    shares_until: Mutex<Option<Instant>>,
}

/// One worker for the admin API and the metrics.
#[derive(Clone, Debug)]
pub struct WorkerState {
    pub record: WorkerRecord,
    pub counts: Counts,
    /// Why this proxy does not reach it, and what that usually comes from; `None` when it does.
    pub unreachable: Option<String>,
    /// Seats it offers.
    pub free: u32,
}

/// What there is for a client that cannot have what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instead {
    /// Such seats, of these versions of Playwright.
    Versions(Vec<Version>),
    /// No such seats, but these.
    Seats(Vec<SeatKind>),
}

impl Fleet {
    /// A fleet without workers; [`Fleet::run`] fills it.
    pub fn new(
        config: LiveConfig,
        store: Arc<dyn Store>,
        queue: Arc<Queue>,
        registry: Arc<Registry>,
        releaser: Releaser,
        metrics: Arc<Metrics>,
    ) -> Arc<Fleet> {
        let index = SharedIndex::new(policy(&config));
        let discovery = Box::new(Discovery(index.clone()));
        Arc::new_cyclic(|fleet: &Weak<Fleet>| {
            let grantee = fleet.clone();
            store.grant_with(Box::new(move |session| {
                if let Some(fleet) = grantee.upgrade() {
                    fleet.take_up(session);
                }
            }));
            let observer = fleet.clone();
            releaser.observe(move |worker| {
                if let Some(fleet) = observer.upgrade() {
                    fleet.seat_given_back(worker);
                }
            });
            Fleet {
                balancer: index.balancer(Backends::new(discovery)),
                config,
                store,
                metrics,
                queue,
                registry,
                releaser,
                table: WorkerTable::new(index),
                membership: Notify::new(),
                learned: Notify::new(),
                reconfigured: Notify::new(),
                interval_changed: Notify::new(),
                has_view: AtomicBool::new(false),
                store_up: AtomicBool::new(true),
                forgot: AtomicBool::new(false),
                freshened: Mutex::default(),
                shares_until: Mutex::default(),
            }
        })
    }

    /// Whether this proxy has ever seen the fleet whole: before that it cannot serve.
    pub fn has_view(&self) -> bool {
        self.has_view.load(Ordering::Acquire)
    }

    /// Whether the store answers, as far as is known.
    pub fn store_up(&self) -> bool {
        self.store_up.load(Ordering::Acquire)
    }

    /// All workers, sorted by browser and age.
    pub fn workers(&self) -> Vec<WorkerState> {
        let policy = policy(&self.config);
        let mut workers: Vec<WorkerState> = self
            .table
            .lock()
            .values()
            .map(|known| WorkerState {
                record: WorkerRecord {
                    version: known.version(),
                    ..known.record.clone()
                },
                counts: known.counts,
                unreachable: known.unreachable().map(|why| {
                    let likely = why.likely_cause(known.fixed());
                    format!("{why}; likely {likely}")
                }),
                free: known.free(&policy),
            })
            .collect();
        workers.sort_by_cached_key(|worker| {
            let record = &worker.record;
            (record.key.browser, record.started_at, record.key.id.clone())
        });
        workers
    }

    /// What a client could have had in the place of what it wants. `None` when it can be served, at once or
    /// by workers that are expected, or when there is nothing of the browser.
    pub fn instead_of(&self, wanted: &Pool) -> Option<Instead> {
        let config = self.config.load();
        let expected = config.pools.iter();
        let expected: Vec<&Pool> = expected.filter(|it| it.browser == wanted.browser).collect();
        let serves = |pool: &&Pool| wanted.accepts(pool);
        let now = Instant::now();
        let table = self.table.lock();
        let (departed, index) = (table.departed(), table.index());
        if index.knows(wanted) || expected.iter().any(serves) || departed.serves(wanted, now) {
            return None;
        }
        let versions = |seat: SeatKind| {
            let mut versions = index.versions(wanted.browser, seat);
            let expected = expected.iter().filter(|pool| pool.seat == seat);
            versions.extend(expected.map(|pool| pool.version));
            versions.extend(departed.versions(wanted.browser, seat, now));
            versions
        };
        let of_seat: Vec<Version> = versions(wanted.seat).into_iter().flatten().collect();
        if !of_seat.is_empty() {
            return Some(Instead::Versions(of_seat));
        }
        let seats = SeatKind::ALL.into_iter();
        let seats: Vec<SeatKind> = seats.filter(|seat| !versions(*seat).is_empty()).collect();
        (!seats.is_empty()).then_some(Instead::Seats(seats))
    }

    /// Whether there are workers, or some are expected, from which this client may get what it wants.
    pub fn serves(&self, wanted: &Pool) -> bool {
        let config = self.config.load();
        // Let go of before the next lock: a guard in the first operand would live to the end.
        let knows = self.table.index().knows(wanted);
        let now = Instant::now();
        knows
            || config.pools.iter().any(|pool| wanted.accepts(pool))
            || self.table.lock().departed().serves(wanted, now)
    }

    /// Whether every browser that this client may get has these launch options of itself.
    pub fn has_launch_options(&self, wanted: &Pool, options: &LaunchOptions) -> bool {
        let digest = options.digest();
        let table = self.table.lock();
        let mut records = table
            .values()
            .map(|worker| &worker.record)
            .filter(|record| wanted.accepts(&record.pool()))
            .peekable();
        records.peek().is_some()
            && records.all(|it| it.launch_options.as_deref() == Some(digest.as_str()))
    }

    /// What a browser that this client may get tells clients of the DevTools protocol, if a worker knows.
    pub fn devtools_version(&self, wanted: &Pool) -> Option<DevToolsVersion> {
        let table = self.table.lock();
        let mut records = table.values().map(|worker| &worker.record);
        records.find_map(|it| {
            let fits = wanted.accepts(&it.pool());
            it.devtools.clone().filter(|_| fits)
        })
    }

    /// The kind of seat for somebody who does not say: a shared one, unless there are only others. While nobody has
    /// said what there is, that of the configuration's own workers.
    pub fn usual_seat(&self, browser: Browser) -> SeatKind {
        let config = self.config.load();
        let now = Instant::now();
        let table = self.table.lock();
        let (departed, index) = (table.departed(), table.index());
        let expected = |pool: &Pool, seat| pool.browser == browser && pool.seat == seat;
        let has = |seat| {
            index.registered(browser, seat) > 0
                || config.pools.iter().any(|pool| expected(pool, seat))
                || departed.versions(browser, seat, now).next().is_some()
        };
        let mut seats = SeatKind::ALL.into_iter();
        seats.find(|seat| has(*seat)).unwrap_or(config.worker.seat)
    }

    /// The worker as selection sees it; `None` as long as its name has no address.
    fn facts(&self, worker: &Known) -> Option<Facts> {
        let mut facts = worker.facts()?;
        if let Some(share) = &worker.share {
            let held = self.releaser.held(&facts.key);
            share.apply(&mut facts, held, &policy(&self.config));
        }
        Some(facts)
    }

    fn target(&self, key: &WorkerKey) -> Option<Arc<Target>> {
        self.table.lock().get(key).map(|known| known.target.clone())
    }
}

fn policy(config: &LiveConfig) -> Policy {
    let config = config.load();
    Policy::new(&config.limits, &config.selection, &config.recycle)
}

/// What the fleet knows is what there is to discover.
struct Discovery(SharedIndex);

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        Ok((self.0.lock().backends(), HashMap::new()))
    }
}
