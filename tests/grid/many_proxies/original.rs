//! A worker that somebody registers with `redis-cli`, in the schema of the original.

use crate::support::{FakePlaywright, Grid, RedisServer, eventually, eventually_equal};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

const RECORD: &str = "worker:chromium:by-hand";
const ORDER: &str = "worker:cmd:chromium:by-hand";
const FIELD: &str = "chromium:by-hand";

fn register(redis: &RedisServer, fake: &FakePlaywright, ttl: &str) {
    let endpoint = fake.endpoint();
    let fields = [
        ["id", "by-hand"],
        ["browserType", "chromium"],
        ["endpoint", &endpoint],
        ["status", "available"],
        ["startedAt", "1700000000000"],
        ["lastHeartbeat", "1700000000000"],
    ];
    let command = [&["HSET", RECORD], fields.as_flattened()].concat();
    assert_eq!(redis.cli(&command), "6");
    assert_eq!(redis.cli(&["EXPIRE", RECORD, ttl]), "1");
}

async fn one_proxy(redis: &RedisServer) -> Grid {
    Grid::new()
        .redis(redis)
        .queue_timeout(Duration::from_secs(4))
        .lifetime(3)
        .config("store: { proxy_ttl: 3s, poll_interval: 250ms }")
        .start()
        .await
}

async fn serving(grid: &Grid, workers: usize) {
    eventually_equal("serving workers", workers, async || {
        let known = grid.workers().await;
        known.iter().filter(|worker| worker.serves()).count()
    })
    .await;
}

/// `redis-cli SUBSCRIBE`, as somebody at a terminal would.
struct Listener {
    child: Child,
    heard: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    fn to(redis: &RedisServer, channel: &str) -> Listener {
        let port = redis.port().to_string();
        let mut child = Command::new("redis-cli")
            .args(["-p", &port, "SUBSCRIBE", channel])
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli is installed");
        let stdout = child.stdout.take().unwrap();
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        assert_eq!(lines.next().as_deref(), Some("subscribe"));
        let (tell, heard) = mpsc::unbounded_channel();
        std::thread::spawn(move || lines.try_for_each(|line| tell.send(line)));
        Listener { child, heard }
    }

    /// Waits until it hears this word.
    async fn hears(&mut self, word: &str) {
        let heard = async { while self.heard.recv().await.expect("it listens") != word {} };
        let heard = timeout(Duration::from_secs(60), heard).await;
        heard.unwrap_or_else(|_| panic!("{word} was not heard"));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn it_gets_sessions_and_at_its_limit_the_order_to_shut_down() {
    let redis = RedisServer::start().await;
    let grid = one_proxy(&redis).await;
    let fake = FakePlaywright::start().await;
    register(&redis, &fake, "60");
    serving(&grid, 1).await;
    let mut listener = Listener::to(&redis, ORDER);

    let mut sessions = Vec::new();
    for n in 1..=3 {
        assert_eq!(redis.cli(&["EXISTS", ORDER]), "0", "before session {n}");
        let mut session = grid.connect().await;
        session.echo("hello").await;
        sessions.push(session);
    }
    assert_eq!(fake.open(), 3);
    for hash in ["cluster:active_connections", "cluster:lifetime_connections"] {
        assert_eq!(redis.cli(&["HGETALL", hash]), format!("{FIELD}\n3"));
    }
    eventually_equal("the order", "shutdown".to_owned(), async || {
        redis.cli(&["GET", ORDER])
    })
    .await;
    let ttl: i64 = redis.cli(&["TTL", ORDER]).parse().unwrap();
    assert!((1..=60).contains(&ttl), "{ttl}");
    for word in ["message", ORDER, "shutdown"] {
        listener.hears(word).await;
    }

    // It says that it drains, as the original's does, and gets no more.
    redis.cli(&["HSET", RECORD, "status", "draining"]);
    eventually("nobody is seated any more", async || {
        let refused = grid.dial().connect().await.err()?;
        (refused.status == 503).then_some(())
    })
    .await;
    for session in &mut sessions {
        session.echo("still here").await;
    }
}

async fn is_forgotten(redis: &RedisServer, grid: &Grid) {
    eventually_equal("known workers", 0, async || grid.workers().await.len()).await;
    for hash in ["cluster:active_connections", "cluster:lifetime_connections"] {
        eventually_equal(hash, String::new(), async || redis.cli(&["HGETALL", hash])).await;
    }
    eventually_equal("its record", "0".to_owned(), async || {
        redis.cli(&["EXISTS", RECORD])
    })
    .await;
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 503);
}

#[tokio::test]
async fn it_is_dropped_when_its_key_expires() {
    let redis = RedisServer::start().await;
    let grid = one_proxy(&redis).await;
    let fake = FakePlaywright::start().await;
    register(&redis, &fake, "60");
    serving(&grid, 1).await;
    grid.connect().await.close().await;
    redis.cli(&["PEXPIRE", RECORD, "1"]);
    is_forgotten(&redis, &grid).await;
}

#[tokio::test]
async fn it_is_dropped_when_its_key_loses_its_ttl() {
    let redis = RedisServer::start().await;
    let grid = one_proxy(&redis).await;
    let fake = FakePlaywright::start().await;
    register(&redis, &fake, "60");
    serving(&grid, 1).await;
    grid.connect().await.close().await;
    redis.cli(&["PERSIST", RECORD]);
    is_forgotten(&redis, &grid).await;
}
