//! Stores that share one state, and what is done with them over and over.

use crate::support::{RedisServer, eventually, eventually_equal};
use playhouse::model::{Browser, Counts, SessionId, WorkerKey, WorkerRecord, unix_millis};
use playhouse::store::memory::MemoryStore;
use playhouse::store::redis::RedisStore;
use playhouse::store::{
    Candidate, Event, Peers, Reserved, Store, StoreError, StoreOptions, StoreRole,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Long enough for a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(180);
/// A worker's TTL in tests that do not let it run out.
pub const TTL: Duration = Duration::from_secs(600);
/// A proxy's TTL in tests: short, for they wait for it, yet nothing that a busy machine runs out of.
pub const PROXY_TTL: Duration = Duration::from_millis(1500);

/// Where stores come from that share one state.
pub trait Grid: Sized {
    async fn start() -> Self;
    /// The store as one more proxy has it.
    async fn proxy(&self) -> Arc<dyn Store>;
    /// The store as a worker's agent has it.
    async fn agent(&self) -> Arc<dyn Store>;
    /// The server, when there is one.
    fn redis(&self) -> Option<&RedisServer>;
}

/// In memory.
pub struct Memory(Arc<MemoryStore>);

impl Grid for Memory {
    async fn start() -> Memory {
        Memory(Arc::new(MemoryStore::new()))
    }

    async fn proxy(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    async fn agent(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    fn redis(&self) -> Option<&RedisServer> {
        None
    }
}

pub struct Redis(RedisServer);

impl Grid for Redis {
    async fn start() -> Redis {
        Redis(RedisServer::start().await)
    }

    async fn proxy(&self) -> Arc<dyn Store> {
        Arc::new(store(&self.0, StoreRole::Proxy).await)
    }

    async fn agent(&self) -> Arc<dyn Store> {
        Arc::new(store(&self.0, StoreRole::Worker).await)
    }

    fn redis(&self) -> Option<&RedisServer> {
        Some(&self.0)
    }
}

/// Runs one command, with a typed answer.
pub fn query<T: redis::FromRedisValue>(redis: &RedisServer, command: &[&str]) -> T {
    redis.try_query(command).unwrap()
}

/// A store that has connected.
pub async fn store(redis: &RedisServer, role: StoreRole) -> RedisStore {
    let store = connect(&store_config(redis.url()), role);
    eventually_equal("the store is reachable", true, async || store.reachable()).await;
    store
}

pub fn store_config(url: String) -> StoreOptions {
    StoreOptions {
        url: Some(url),
        namespace: None,
        proxy_ttl: PROXY_TTL,
        poll_interval: Duration::from_millis(250),
    }
}

/// A store that never hears of a shutdown.
pub fn connect(config: &StoreOptions, role: StoreRole) -> RedisStore {
    RedisStore::connect(config, role, watch::channel(false).1).unwrap()
}

pub fn key(id: &str) -> WorkerKey {
    WorkerKey::new(Browser::Chromium, id)
}

pub fn record(worker: &WorkerKey) -> WorkerRecord {
    WorkerRecord {
        version: "1.65".parse().ok(),
        replaces_itself: true,
        ..WorkerRecord::new(
            worker.clone(),
            "ws://127.0.0.1:3131/secret".parse().unwrap(),
            unix_millis(),
        )
    }
}

pub fn candidate(
    worker: &WorkerKey,
    max_concurrent_sessions: u32,
    lifetime_cap: Option<u32>,
) -> Candidate {
    Candidate {
        key: worker.clone(),
        max_concurrent_sessions,
        lifetime_cap,
    }
}

/// Reserves for a new session, which must get a seat.
pub async fn seat(store: &dyn Store, candidates: &[Candidate]) -> (SessionId, WorkerKey, Counts) {
    eventually("the store has an answer", async || {
        let session = SessionId::random();
        match store.reserve(session, candidates).await {
            Ok(Reserved::Seat { worker, counts }) => Some((session, worker, counts)),
            // A machine with a lot to do lets Redis look as if it were away. What the question may
            // have taken is given back.
            Err(StoreError::Away(_)) => None,
            other => panic!("no seat: {other:?}"),
        }
    })
    .await
}

/// Repeats what may be repeated, until the store has heard: one that is away, or whose connection was cut this moment, says so.
pub async fn heard<T>(call: impl AsyncFn() -> Result<T, StoreError>) -> T {
    eventually("the store has an answer", async || {
        let told = call().await;
        let away = matches!(told, Err(StoreError::Away(_)));
        (!away).then_some(told)
    })
    .await
    .unwrap()
}

/// Tells the store that a session ended, until it has heard: a store that is away keeps the word, and says so.
pub async fn release(store: &dyn Store, session: SessionId, refund: bool) {
    heard(async || store.release(session, refund).await).await;
}

/// A worker's counts as the fleet has them.
pub async fn counts(store: &dyn Store, worker: &WorkerKey) -> Option<(u32, u32)> {
    let fleet = eventually("the store has an answer", async || {
        match store.fleet().await {
            Err(StoreError::Away(_)) => None,
            answer => Some(answer.unwrap()),
        }
    })
    .await;
    let view = fleet.into_iter().find(|view| view.record.key == *worker)?;
    Some((view.counts.active, view.counts.lifetime))
}

/// The next event that `pick` takes.
pub async fn event<T>(
    events: &mut broadcast::Receiver<Event>,
    mut pick: impl FnMut(Event) -> Option<T>,
) -> T {
    let picked = async {
        loop {
            if let Some(picked) = pick(events.recv().await.unwrap()) {
                return picked;
            }
        }
    };
    tokio::time::timeout(DEADLINE, picked)
        .await
        .expect("the event never came")
}
