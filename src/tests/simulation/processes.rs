//! The processes of a schedule, made of what the product is made of: a proxy is its store, its fleet,
//! its line and its releaser; a worker is its store and a heartbeat. Only dials, tunnels and browsers
//! are not there: a client that has its grant holds it for a while.

use super::network::Network;
use super::truth::Truth;
use crate::admission::line::{LineTimeouts, SeatRequest};
use crate::config::{Config, LiveConfig, Role};
use crate::fleet::{Fleet, Queue};
use crate::metrics::Metrics;
use crate::model::{Browser, Heartbeat, Pool, SeatKind, WorkerKey, WorkerRecord};
use crate::session::registry::Registry;
use crate::session::seat::Releaser;
use crate::store::redis::RedisStore;
use crate::store::{Peers, StoreOptions, StoreRole, WorkerStore};
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// From the grant to the worker's answer.
const DIAL: Duration = Duration::from_millis(4);
/// Of a worker's record, and between two of its heartbeats.
const KEY_TTL: Duration = Duration::from_secs(6);
const HEARTBEAT: Duration = Duration::from_secs(2);

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Metrics::new(&[]));

/// What all processes of a schedule have in common.
pub struct Common {
    pub network: Arc<Network>,
    pub truth: Arc<Truth>,
    pub seats: u32,
    pub proxy_ttl: Duration,
    pub poll_interval: Duration,
    /// Workers that are there, as their own machines know it.
    pub workers: Mutex<BTreeSet<WorkerKey>>,
    /// Rises when a worker dies.
    pub deaths: super::watch::Sender<u64>,
    /// All sessions are to end.
    pub closing: super::watch::Sender<bool>,
}

impl Common {
    fn store(&self, process: &str) -> StoreOptions {
        StoreOptions {
            url: Some(format!("redis://{process}:1")),
            namespace: None,
            proxy_ttl: self.proxy_ttl,
            poll_interval: self.poll_interval,
        }
    }

    fn config(&self) -> LiveConfig {
        let mut config = Config::defaults(Role::Proxy);
        config.store.proxy_ttl = self.proxy_ttl;
        config.store.poll_interval = self.poll_interval;
        config.limits.max_concurrent_sessions = self.seats;
        config.limits.max_lifetime_sessions = 0;
        // Nothing is there to be dialled.
        config.selection.health_interval = Duration::from_secs(1 << 30);
        Arc::new(ArcSwap::from_pointee(config))
    }
}

/// One proxy. Dropping it is its crash.
pub struct Proxy {
    pub process: String,
    common: Arc<Common>,
    store: Arc<RedisStore>,
    pub fleet: Arc<Fleet>,
    queue: Arc<Queue>,
    tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

/// What a client wants.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    pub tenant: usize,
    pub patience: Duration,
    pub hold: Duration,
    /// Dials that fail.
    pub failures: u32,
    /// It hangs up after that, wherever it is.
    pub leaves: Duration,
}

impl Visit {
    /// Of a client that stays to the end, and waits so long for its seat.
    pub fn to_stay(patience: Duration) -> Visit {
        let long = Duration::from_secs(3600);
        Visit {
            tenant: 0,
            patience,
            hold: long,
            failures: 0,
            leaves: long,
        }
    }
}

impl Proxy {
    pub fn start(common: &Arc<Common>, process: &str) -> Proxy {
        let config = common.config();
        let (stop, stopped) = watch::channel(false);
        let store = RedisStore::connect(&common.store(process), StoreRole::Proxy, stopped.clone());
        let store = Arc::new(store.unwrap());
        common.truth.proxy_started(process, store.name());
        let queue = Queue::new();
        let wake = queue.clone();
        let (releaser, releasing) = Releaser::new(store.clone(), move |browser| wake.wake(browser));
        let fleet = Fleet::new(
            config,
            store.clone(),
            queue.clone(),
            Registry::new(),
            releaser,
            METRICS.clone(),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(releasing);
        tasks.spawn(fleet.clone().run(stopped));
        Proxy {
            process: process.to_owned(),
            common: common.clone(),
            store,
            fleet,
            queue,
            tasks,
            _stop: stop,
        }
    }

    /// A client comes.
    pub fn visit(&mut self, visit: Visit) {
        let (common, fleet, queue) = (self.common.clone(), self.fleet.clone(), self.queue.clone());
        let process = self.process.clone();
        self.tasks.spawn(async move {
            let session = serve(&common, &fleet, &queue, &process, visit);
            timeout(visit.leaves, session).await.ok();
        });
    }

    /// How many of its clients wait.
    pub fn waiting(&self) -> usize {
        self.queue.depth(Browser::Chromium)
    }

    /// How it believes the workers to be: seats taken.
    pub fn believes(&self) -> Vec<(WorkerKey, u32)> {
        let workers = self.fleet.workers().into_iter();
        workers
            .map(|it| (it.record.key, it.counts.active))
            .collect()
    }

    pub fn reachable(&self) -> bool {
        self.store.reachable()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.common.truth.proxy_died(&self.process);
        self.tasks.abort_all();
    }
}

async fn serve(
    common: &Arc<Common>,
    fleet: &Arc<Fleet>,
    queue: &Arc<Queue>,
    process: &str,
    visit: Visit,
) {
    let (browser, version) = (Browser::Chromium, None);
    let request = SeatRequest {
        wanted: Pool {
            browser,
            version,
            seat: SeatKind::Shared,
        },
        tenant: ["one", "two"][visit.tenant].into(),
        priority: 1,
    };
    let patience = LineTimeouts {
        waiting: visit.patience,
        dial: Duration::from_secs(1),
    };
    let mut ticket = queue.arrive(request, patience, Instant::now().into_std());
    ticket.enter();
    let mut waiting = common.truth.waits(process);
    fleet.serve_newcomer(browser).await;
    let mut failures = visit.failures;
    let mut grant = loop {
        let Ok(grant) = ticket.granted().await else {
            return;
        };
        drop(waiting);
        ticket.dial();
        sleep(DIAL).await;
        let there = common.workers.lock().unwrap().contains(&grant.target.key);
        if there && failures == 0 {
            break grant;
        }
        failures = failures.saturating_sub(1);
        drop(grant);
        if ticket.dial_failed().is_err() {
            return;
        }
        waiting = common.truth.waits(process);
        fleet.serve_newcomer(browser).await;
    };
    grant.seat.reached();
    let worker = grant.target.key.clone();
    let session = grant.seat.session().to_string();
    drop(ticket);
    let running = common
        .truth
        .begin(process, session, worker.clone(), !fleet.store_up());
    let (mut deaths, mut closing) = (common.deaths.subscribe(), common.closing.subscribe());
    let died = async {
        while common.workers.lock().unwrap().contains(&worker) {
            deaths.changed().await.unwrap();
        }
    };
    tokio::select! {
        biased;
        () = died => {}
        _ = closing.wait_for(|close| *close) => {}
        () = sleep(visit.hold) => {}
    }
    drop(running);
    drop(grant);
}

/// One worker. Dropping it is its crash.
pub struct Worker {
    pub process: String,
    pub key: WorkerKey,
    common: Arc<Common>,
    tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

impl Worker {
    pub fn start(common: &Arc<Common>, process: &str) -> Worker {
        let key = WorkerKey::new(Browser::Chromium, process);
        let (stop, stopped) = watch::channel(false);
        let store = RedisStore::connect(&common.store(process), StoreRole::Worker, stopped);
        let endpoint = format!("ws://127.0.0.1:1/{process}").parse().unwrap();
        let record = WorkerRecord::new(key.clone(), endpoint, 0);
        common.workers.lock().unwrap().insert(key.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_registered(store.unwrap(), record));
        Worker {
            process: process.to_owned(),
            key,
            common: common.clone(),
            tasks,
            _stop: stop,
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.common.workers.lock().unwrap().remove(&self.key);
        self.common.deaths.send_modify(|deaths| *deaths += 1);
    }
}

/// As `worker/registration.rs` keeps an entry, for a browser that never changes.
async fn keep_registered(store: RedisStore, record: WorkerRecord) {
    while store.register(&record, KEY_TTL).await.is_err() {
        sleep(HEARTBEAT).await;
    }
    loop {
        let beat = store
            .heartbeat(&record.key, Heartbeat::new(record.status, None), KEY_TTL)
            .await;
        if beat.is_ok_and(|beat| beat.unknown) {
            store.register(&record, KEY_TTL).await.ok();
        }
        sleep(HEARTBEAT).await;
    }
}
