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
    WorkerStatus,
};
use crate::selection::{Facts, IndexSelection, Policy, SharedIndex, Wanted};
use crate::session::registry::Registry;
use crate::session::seat::Releaser;
use crate::store::Store;
use async_trait::async_trait;
use departed::Departed;
use outage::Share;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use shown_version::ShownVersion;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use suspicion::{Suspicion, Trust};
use tokio::sync::Notify;
use tokio::time::Instant;
use unreachable::Obstacles;

/// The workers as this proxy sees them.
pub struct Fleet {
    config: LiveConfig,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    queue: Arc<Queue>,
    registry: Arc<Registry>,
    releaser: Releaser,
    /// Who needs more than one of these three locks takes them in this order.
    known: Mutex<HashMap<WorkerKey, Known>>,
    departed: Mutex<Departed>,
    index: SharedIndex,
    balancer: LoadBalancer<IndexSelection>,
    /// The set of workers changed: Pingora's balancer has to discover it.
    membership: Notify,
    /// A worker was learned of, or has an address.
    learned: Notify,
    /// The configuration changed.
    reconfigured: Notify,
    /// The same, for the health checks.
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

/// One worker as this proxy knows it.
struct Known {
    record: WorkerRecord,
    counts: Counts,
    target: Arc<Target>,
    obstacles: Obstacles,
    suspicion: Suspicion,
    /// Its version of Playwright, where it does not tell.
    shown_version: Option<ShownVersion>,
    /// A task asks it what [`Known::suspicion`] wants to know.
    on_trial: bool,
    /// When it was last asked whether it answers, or answered a session.
    asked_at: Option<Instant>,
    /// It stands in this proxy's configuration.
    configured: bool,
    /// What this proxy may give of it while the store is away.
    share: Option<Share>,
    /// This proxy has asked it to recycle itself, which it may take a while to do.
    asked_to_recycle: bool,
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

impl Known {
    /// The worker as the store has it; `None` as long as its name has no address.
    fn facts(&self) -> Option<Facts> {
        let address = self.target.addresses().first().copied()?;
        Some(Facts {
            key: self.record.key.clone(),
            address,
            version: self.version(),
            seat: self.record.seat,
            size: self.record.size,
            active: self.counts.active,
            lifetime: self.lifetime(),
            started_at: self.record.started_at,
            open: self.open(),
            suspected: self.suspicion.trust() == Trust::Suspected,
            replaces_itself: self.record.replaces_itself,
        })
    }

    /// Sessions that it would take.
    fn free(&self, policy: &Policy) -> u32 {
        if self.open() { self.left(policy) } else { 0 }
    }

    /// Sessions that it would take if it were reached: never more than its life has left.
    fn left(&self, policy: &Policy) -> u32 {
        let bounds = policy.bounds(self.record.size);
        let of_its_life = bounds
            .lifetime_cap(self.record.replaces_itself)
            .map_or(u32::MAX, |cap| cap.saturating_sub(self.lifetime()));
        of_its_life.min(bounds.max_active.saturating_sub(self.counts.active))
    }

    /// Sessions of its life so far. Nobody recycles a fixed worker: it is always young.
    fn lifetime(&self) -> u32 {
        if self.fixed() {
            0
        } else {
            self.counts.lifetime
        }
    }

    /// It stands in somebody's configuration: nobody recycles it.
    fn fixed(&self) -> bool {
        self.record.fixed || self.configured
    }

    /// Why it is not reached, if it is not.
    fn unreachable(&self) -> Option<&Unreachable> {
        self.obstacles.first().or(self.suspicion.why())
    }

    fn open(&self) -> bool {
        self.record.status == WorkerStatus::Available
            && self.unreachable().is_none()
            && !self.target.addresses().is_empty()
    }
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
            store.grant_with(Box::new(move |granted| {
                if let Some(fleet) = grantee.upgrade() {
                    fleet.grant(granted);
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
                known: Mutex::default(),
                departed: Mutex::default(),
                index,
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
            .known()
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
    pub fn instead_of(&self, wanted: &Wanted) -> Option<Instead> {
        let config = self.config.load();
        let expected = config.pools.iter();
        let expected: Vec<&Pool> = expected.filter(|it| it.browser == wanted.browser).collect();
        let serves = |pool: &&Pool| wanted.accepts(pool.seat, pool.version);
        let now = Instant::now();
        let departed = self.departed();
        let index = self.index.lock();
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
    pub fn serves(&self, wanted: &Wanted) -> bool {
        let expected =
            |pool: &Pool| pool.browser == wanted.browser && wanted.accepts(pool.seat, pool.version);
        let config = self.config.load();
        // Let go of before the next lock: a guard in the first operand would live to the end.
        let knows = self.index.lock().knows(wanted);
        knows || config.pools.iter().any(expected) || self.departed().serves(wanted, Instant::now())
    }

    /// Whether every browser that this client may get has these launch options of itself.
    pub fn has_launch_options(&self, wanted: &Wanted, options: &LaunchOptions) -> bool {
        let digest = options.digest();
        let known = self.known();
        let mut records = known
            .values()
            .map(|worker| &worker.record)
            .filter(|it| it.key.browser == wanted.browser && wanted.accepts(it.seat, it.version))
            .peekable();
        records.peek().is_some()
            && records.all(|it| it.launch_options.as_deref() == Some(digest.as_str()))
    }

    /// What a browser that this client may get tells clients of the DevTools protocol, if a worker knows.
    pub fn devtools_version(&self, wanted: &Wanted) -> Option<DevToolsVersion> {
        let known = self.known();
        let mut records = known.values().map(|worker| &worker.record);
        records.find_map(|it| {
            let fits = it.key.browser == wanted.browser && wanted.accepts(it.seat, it.version);
            it.devtools.clone().filter(|_| fits)
        })
    }

    /// The kind of seat for somebody who does not say: a shared one, unless there are only others.
    pub fn usual_seat(&self, browser: Browser) -> SeatKind {
        let config = self.config.load();
        let now = Instant::now();
        let departed = self.departed();
        let index = self.index.lock();
        let expected = |pool: &Pool, seat| pool.browser == browser && pool.seat == seat;
        let has = |seat| {
            index.registered(browser, seat) > 0
                || config.pools.iter().any(|pool| expected(pool, seat))
                || departed.versions(browser, seat, now).next().is_some()
        };
        let mut seats = SeatKind::ALL.into_iter();
        seats.find(|seat| has(*seat)).unwrap_or_default()
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

    fn known(&self) -> MutexGuard<'_, HashMap<WorkerKey, Known>> {
        self.known
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn departed(&self) -> MutexGuard<'_, Departed> {
        self.departed
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn target(&self, key: &WorkerKey) -> Option<Arc<Target>> {
        self.known().get(key).map(|known| known.target.clone())
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
