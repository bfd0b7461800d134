//! The store that many proxies and workers share: Redis 7 or newer, or Valkey.
//!
//! * `seats`, `workers`, `permits`, `peers`: one of the [`Store`](super::Store)'s traits each, and what proxies ask each other.
//! * `keys`: every key and channel. `lua/`: every change, as one atomic script each, which `scripts` compiles in. `constants`: the figures in them.
//! * `connection`: what a connection is. `link`: the present one and calls on it. `keeper`: opens it, and after a loss opens it anew
//!   and writes down again (`flush`) what this process answers for, which the [`ledger`](super::ledger) knows.
//! * `presence`: who is there, as far as this process knows. `revisions`: up to where it was told of every change.
//! * `upkeep`: signs of life, reaping, and the slow poll that repairs what was missed (`changes`). `mistyped`: keys that somebody overwrote.
//! * `clock`: when something was, by Redis' clock. `location`: what a URL says, Sentinel's too. `wire`: hashes, messages and answers, to and from the model.
//!
//! One connection serves calls and messages alike (RESP3), so that they arrive in order and one
//! loss is one loss. `docs/redis.md` has the keys, the guarantees and the bounds.

mod changes;
mod clock;
mod connection;
mod constants;
mod flush;
mod keeper;
mod keys;
mod link;
mod location;
mod mistyped;
mod peers;
mod permits;
mod presence;
mod revisions;
mod scripts;
mod seats;
mod upkeep;
mod wire;
mod workers;

use super::ledger::Ledger;
use super::{Event, Grantee, StoreError, StoreOptions, StoreRole};
use crate::model::{Counts, WorkerKey};
#[cfg(test)]
use crate::tests::simulation::watch as rounds;
use clock::ServerClock;
#[cfg(test)]
pub(crate) use constants::{GHOSTS_TTL, GRACE};
use keys::Keys;
use link::Link;
use location::Location;
use peers::{PeerQueries, PeerQuery};
use presence::Presence;
use redis::{Script, ScriptInvocation};
use revisions::Revisions;
use scripts::Scripts;
#[cfg(test)]
pub(crate) use seats::confirmed_within;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
#[cfg(not(test))]
use tokio::sync::watch as rounds;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Events that a listener may be behind before it has to read the fleet anew; few in the simulation, which makes
/// room for them in each of its processes.
const EVENT_BACKLOG: usize = if cfg!(test) { 512 } else { 16 * 1024 };
/// How long a start waits to learn whether Redis can serve at all.
const FIRST_ATTEMPT: Duration = Duration::from_secs(2);
/// How long a process that ends may take to say so.
const BYE_TIMEOUT: Duration = Duration::from_millis(500);
/// Orders to recycle that may wait to be looked up. What comes on top is told by a heartbeat.
const ORDER_BACKLOG: usize = 64;

/// State in Redis. Dropping it ends its tasks and its connection without a word, as a crash would;
/// the shutdown signal given to [`RedisStore::connect`] ends it politely.
pub struct RedisStore {
    inner: Arc<Inner>,
    /// Aborted when dropped.
    _tasks: JoinSet<()>,
}

struct Inner {
    location: Location,
    /// Where Redis is, without user and password.
    address: String,
    role: StoreRole,
    /// This process's name among the proxies: new at every start.
    proxy: String,
    identity_key: String,
    leases_key: String,
    grants_channel: String,
    keys: Keys,
    scripts: Arc<Scripts>,
    proxy_ttl: Duration,
    poll_interval: Duration,
    link: Link,
    ledger: Mutex<Ledger>,
    grid: Mutex<GridIdentity>,
    /// Wakes the task that tells Redis what could not be told at once.
    outbox: Notify,
    /// Wakes the task that tells Redis of sessions that ended.
    ended: Notify,
    /// How the last call that did so ended.
    release_rounds: rounds::Sender<Result<(), StoreError>>,
    /// Wakes the task that gives back what the dead left behind.
    reaping: Notify,
    /// Orders to recycle that were announced, to be looked up.
    announced: mpsc::Sender<WorkerKey>,
    events: broadcast::Sender<Event>,
    peer_queries: PeerQueries,
    /// Hears of sessions of this proxy that others give a seat.
    grantee: OnceLock<Grantee>,
    epoch: AtomicU64,
    /// The connection on which changes are heard: the last one that became live.
    listening: AtomicU64,
    reachable: AtomicBool,
    said_away: AtomicBool,
    /// What came of the first attempt to connect: why this Redis can never serve, if it cannot.
    tried: watch::Sender<Option<Result<(), StoreError>>>,
    presence: Mutex<Presence>,
    revisions: Mutex<Revisions>,
    /// Wakes the task that reads what this process was not told of.
    missed: Notify,
    /// By which clients of all proxies are told apart.
    clock: ServerClock,
}

/// Which grid Redis holds. The name is lost when Redis is emptied.
#[derive(Default)]
struct GridIdentity {
    /// The one that this process has written its ledger to.
    known: Option<Arc<str>>,
    /// Until when those who knew an earlier one come to it.
    young_until: Option<Instant>,
    /// The one that was last announced on the present connection.
    announced: Option<Arc<str>>,
    /// When this process wrote its ledger down because another one was there.
    renewed: Option<Instant>,
    /// Whether Redis is to hear that this process has told it all that it knew of an earlier grid.
    untold: bool,
}

/// How long [`GridIdentity::is_being_restored`]: as long as there are ghosts, and the time to the next sign of life, which gives them back.
const RESTORATION: Duration = constants::GHOSTS_TTL.saturating_add(Duration::from_secs(2));

impl GridIdentity {
    /// Whether Redis was emptied since we wrote our ledger to it.
    fn stale(&self) -> bool {
        self.known.is_some() && self.announced.is_some() && self.known != self.announced
    }

    /// How many proxies are awaited where another grid than the known one is found, of which so many are known. Of those
    /// who were still on their way to the known one nobody knows: they are awaited for as long as anybody is.
    fn awaited(&self, proxies: usize, now: Instant) -> usize {
        match self.young_until {
            Some(until) if now < until => u32::MAX as usize,
            _ => proxies,
        }
    }

    /// Whether seats may be taken in the name of those who have not spoken since Redis came back empty or
    /// old.
    fn is_being_restored(&self, now: Instant) -> bool {
        self.renewed.is_some_and(|at| now < at + RESTORATION)
    }
}

impl RedisStore {
    /// Starts to connect, and returns at once: a Redis that is not there yet is waited for. Calls
    /// wait for the first attempt and fail with [`StoreError::Away`] after that.
    ///
    /// Tasks run on the current Tokio runtime until the store is dropped or `shutdown` turns true.
    /// Signs of life end with it, so it should be the last thing that is told to stop, after the
    /// last session has ended.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] when there is no URL, or one that is none of Redis.
    pub fn connect(
        options: &StoreOptions,
        role: StoreRole,
        shutdown: watch::Receiver<bool>,
    ) -> Result<RedisStore, StoreError> {
        let (peer_queries, questions) = PeerQueries::new();
        let (announced, orders) = mpsc::channel(ORDER_BACKLOG);
        let inner = Arc::new(Inner::new(options, role, peer_queries, announced)?);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(inner.clone(), questions, orders, shutdown));
        Ok(RedisStore {
            inner,
            _tasks: tasks,
        })
    }

    /// Whether [`RedisStore::connect`] can make something of a URL.
    pub fn accepts_url(url: &str) -> bool {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| SCHEMES.contains(&scheme)) && Location::parse(url).is_ok()
    }

    /// Waits for the first attempt to connect, for a moment at most.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] when what answers can never serve, such as a Redis Cluster. A Redis
    /// that is away is no error: it is waited for.
    pub async fn usable(&self) -> Result<(), StoreError> {
        let mut tried = self.inner.tried.subscribe();
        let first = tried.wait_for(Option::is_some);
        match tokio::time::timeout(FIRST_ATTEMPT, first).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Ok(())),
            _ => Ok(()),
        }
    }
}

/// All background work of one store, until it is told to stop or dropped.
async fn serve(
    inner: Arc<Inner>,
    questions: mpsc::Receiver<PeerQuery>,
    orders: mpsc::Receiver<WorkerKey>,
    mut shutdown: watch::Receiver<bool>,
) {
    let stopped = async {
        // A sender that was dropped tells nobody to stop.
        if shutdown.wait_for(|stop| *stop).await.is_err() {
            std::future::pending().await
        }
    };
    let keep = keeper::keep(inner.clone());
    let deliver = upkeep::deliver(inner.clone());
    let release = seats::send_releases(inner.clone());
    let answer = peers::serve(inner.clone(), questions);
    let deliver_orders = upkeep::look_up_orders(inner.clone(), orders);
    let mend = mistyped::mend(inner.clone());
    let duties = async {
        match inner.role {
            // Each on its own: the sign of life waits for nothing.
            StoreRole::Proxy => {
                let beat = upkeep::beat(inner.clone());
                let reap = upkeep::reap_when_due(inner.clone());
                let rounds = upkeep::rounds(inner.clone());
                let read = changes::catch_up_when_due(inner.clone());
                tokio::join!(beat, reap, rounds, read).0
            }
            StoreRole::Worker => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = async { tokio::join!(keep, deliver, release, answer, deliver_orders, mend, duties) } => {}
        _ = stopped => inner.bye().await,
    }
}

/// The schemes of URLs that [`RedisStore::connect`] takes.
const SCHEMES: [&str; 5] = [
    "redis",
    "rediss",
    "redis+unix",
    "redis+sentinel",
    "rediss+sentinel",
];

impl Inner {
    fn new(
        options: &StoreOptions,
        role: StoreRole,
        peer_queries: PeerQueries,
        announced: mpsc::Sender<WorkerKey>,
    ) -> Result<Inner, StoreError> {
        // rediss:// needs a process-wide provider; ring is the one that Pingora uses.
        pingora::tls::install_default_crypto_provider();
        let unusable = |error: redis::RedisError| StoreError::Refused(error.category().to_owned());
        let url = options.url.as_deref().unwrap_or_default();
        let location = Location::parse(url).map_err(unusable)?;
        let keys = Keys::new(options.namespace.as_deref(), location.database());
        let proxy = format!("{:016x}", rand::random::<u64>());
        Ok(Inner {
            address: location.address(),
            location,
            role,
            identity_key: keys.identity(&proxy),
            leases_key: keys.leases(&proxy),
            grants_channel: keys.grants(&proxy),
            scripts: Scripts::of(&keys),
            keys,
            proxy,
            proxy_ttl: options.proxy_ttl,
            poll_interval: options.poll_interval,
            link: Link::new(),
            ledger: Mutex::default(),
            grid: Mutex::default(),
            outbox: Notify::new(),
            ended: Notify::new(),
            release_rounds: rounds::Sender::new(Ok(())),
            reaping: Notify::new(),
            announced,
            events: broadcast::channel(EVENT_BACKLOG).0,
            peer_queries,
            grantee: OnceLock::new(),
            epoch: AtomicU64::new(0),
            listening: AtomicU64::new(0),
            reachable: AtomicBool::new(false),
            said_away: AtomicBool::new(false),
            tried: watch::Sender::new(None),
            presence: Mutex::new(Presence::new()),
            revisions: Mutex::default(),
            missed: Notify::new(),
            clock: ServerClock::new(Instant::now().into_std()),
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing panics while holding it; were it to, its maps are whole between calls.
        self.ledger
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn grid(&self) -> MutexGuard<'_, GridIdentity> {
        self.grid
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// So many proxies were counted.
    fn counted_proxies(&self, proxies: usize) {
        let ttl = self.proxy_ttl;
        self.presence().counted(proxies, Instant::now(), ttl);
    }

    /// Nobody listening is no error: events are hints, the state is the truth.
    fn emit(&self, event: Event) {
        self.events.send(event).ok();
    }

    /// Takes in the counts of an answer. Those of a grid that this process has not written its ledger to are
    /// too low: it would forget what it has to tell there.
    fn hear_counts(&self, worker: &WorkerKey, counts: Counts) {
        if !self.grid().stale() {
            self.ledger().hear(worker, counts);
        }
    }

    fn revisions(&self) -> MutexGuard<'_, Revisions> {
        self.revisions
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A call of a script that is fenced and begins with identity, leases, proxy and epoch.
    fn fenced<'a>(&self, script: &'a Script, epoch: u64) -> ScriptInvocation<'a> {
        let mut call = script.key(&self.identity_key);
        call.key(&self.leases_key).arg(&self.proxy).arg(epoch);
        call
    }

    async fn bye(&self) {
        let Some(mut live) = self.link.live() else {
            return;
        };
        if self.role == StoreRole::Proxy {
            let bye = self.fenced(&self.scripts.bye, live.epoch);
            let said = bye.invoke_async::<u8>(&mut live.connection);
            // Unsaid, the TTL of the identity says it a little later.
            tokio::time::timeout(BYE_TIMEOUT, said).await.ok();
        }
        self.link.lose(live.epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_anew_for_a_while_after_redis_was_emptied() {
        let at = Instant::now();
        let first = GridIdentity::default();
        assert!(!first.is_being_restored(at));
        let emptied = GridIdentity {
            renewed: Some(at),
            ..first
        };
        assert!(emptied.is_being_restored(at));
        assert!(!emptied.is_being_restored(at + RESTORATION));
    }
}
