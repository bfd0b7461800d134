//! A worker of playwright-distributed v0.3 in front of a fake Playwright server. It speaks to Redis
//! in that system's words only: its hash with a TTL, its heartbeat, its order to shut down.

use super::{FakePlaywright, RedisServer};
use redis::aio::MultiplexedConnection;
use redis::{AsyncTypedCommands, RedisResult};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// The original's `REDIS_KEY_TTL`.
const KEY_TTL: i64 = 60;
/// More often than the original's, so that tests need not wait for it.
const HEARTBEAT: Duration = Duration::from_millis(100);

pub struct OriginalWorker {
    fake: Arc<FakePlaywright>,
    shutdowns: Arc<AtomicUsize>,
    agent: JoinHandle<()>,
}

impl OriginalWorker {
    /// Registers under `{name}-0`. When it is ordered to shut down it ends its sessions and itself,
    /// and is started again, as containers are, under the next number.
    pub async fn start(redis: &RedisServer, name: &str) -> Self {
        let fake = Arc::new(FakePlaywright::start().await);
        let shutdowns = Arc::new(AtomicUsize::new(0));
        let agent = Agent {
            name: name.to_owned(),
            url: redis.url(),
            fake: Arc::clone(&fake),
            shutdowns: Arc::clone(&shutdowns),
        };
        let mut connection = agent.connect().await.expect("Redis answers");
        agent
            .register(&mut connection)
            .await
            .expect("Redis answers");
        OriginalWorker {
            fake,
            shutdowns,
            agent: tokio::spawn(agent.run()),
        }
    }

    pub fn fake(&self) -> &FakePlaywright {
        &self.fake
    }

    /// How often it was ordered to shut down, and did.
    pub fn shutdowns(&self) -> usize {
        self.shutdowns.load(Ordering::Relaxed)
    }
}

impl Drop for OriginalWorker {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

struct Agent {
    name: String,
    url: String,
    fake: Arc<FakePlaywright>,
    shutdowns: Arc<AtomicUsize>,
}

impl Agent {
    async fn run(self) {
        let mut ticks = interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        loop {
            ticks.tick().await;
            let mut live = match connection.take() {
                Some(live) => live,
                // Redis may be away.
                None => match self.connect().await {
                    Ok(live) => live,
                    Err(_) => continue,
                },
            };
            if self.beat(&mut live).await.is_ok() {
                connection = Some(live);
            }
        }
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(self.url.as_str())?;
        client.get_multiplexed_async_connection().await
    }

    fn key(&self) -> String {
        let n = self.shutdowns.load(Ordering::Relaxed);
        format!("chromium:{}-{n}", self.name)
    }

    async fn register(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let key = self.key();
        let record = format!("worker:{key}");
        let fields = [
            ("id", key.trim_start_matches("chromium:")),
            ("browserType", "chromium"),
            ("endpoint", &self.fake.endpoint()),
            ("status", "available"),
            ("startedAt", "1700000000000"),
            ("lastHeartbeat", "1700000000000"),
        ];
        redis::pipe()
            .hset_multiple(&record, &fields)
            .expire(&record, KEY_TTL)
            .exec_async(connection)
            .await
    }

    /// One heartbeat. A record that vanished is left a fragment by it, as it was in the original.
    async fn beat(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let key = self.key();
        let (record, order) = (format!("worker:{key}"), format!("worker:cmd:{key}"));
        redis::pipe()
            .hset(&record, "lastHeartbeat", "1700000005000")
            .expire(&record, KEY_TTL)
            .exec_async(connection)
            .await?;
        if connection.get(&order).await?.as_deref() != Some("shutdown") {
            return Ok(());
        }
        connection.hset(&record, "status", "draining").await?;
        let active = connection.hget("cluster:active_connections", &key).await?;
        if self.fake.open() > 0 || active.is_some_and(|n| n != "0") {
            return Ok(());
        }
        redis::pipe()
            .del(&[&record, &order])
            .hdel("cluster:active_connections", &key)
            .hdel("cluster:lifetime_connections", &key)
            .exec_async(connection)
            .await?;
        self.shutdowns.fetch_add(1, Ordering::Relaxed);
        self.register(connection).await
    }
}
