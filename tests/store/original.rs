//! A worker of the original system, played with `redis-cli`: the schema of the contract and nothing
//! of ours.

use crate::model::audit;
use crate::stores::*;
use crate::support::{RedisServer, eventually_equal};
use playhouse::model::{WorkerKey, WorkerStatus};
use playhouse::store::redis::RedisStore;
use playhouse::store::{Event, SeatStore, StoreRole, WorkerStore};
use std::time::Duration;

const RECORD: &str = "worker:chromium:by-hand";
const ORDER: &str = "worker:cmd:chromium:by-hand";

/// What a worker of playwright-distributed v0.3 does when it starts.
fn register_by_hand(redis: &RedisServer, ttl: &str) {
    let written = redis.cli(&[
        "HSET",
        RECORD,
        "id",
        "by-hand",
        "browserType",
        "chromium",
        "endpoint",
        "ws://10.0.0.9:3131/playwright",
        "status",
        "available",
        "startedAt",
        "1700000000000",
        "lastHeartbeat",
        "1700000000000",
    ]);
    assert_eq!(written, "6");
    assert_eq!(redis.cli(&["EXPIRE", RECORD, ttl]), "1");
}

fn by_hand() -> WorkerKey {
    key("by-hand")
}

fn counters(redis: &RedisServer) -> [String; 2] {
    let hash = |name| redis.cli(&["HGETALL", name]).replace('\n', " ");
    [
        hash("cluster:active_connections"),
        hash("cluster:lifetime_connections"),
    ]
}

async fn grid() -> (RedisServer, RedisStore) {
    let redis = RedisServer::start().await;
    let proxy = store(&redis, StoreRole::Proxy).await;
    (redis, proxy)
}

/// The counts as `redis-cli` shows them, of this one worker.
async fn shows(redis: &RedisServer, active: u32, lifetime: u32) {
    let line = |n| format!("chromium:by-hand {n}");
    eventually_equal("the counters", [line(active), line(lifetime)], async || {
        counters(redis)
    })
    .await;
}

async fn is_forgotten(redis: &RedisServer, proxy: &RedisStore) {
    eventually_equal("the fleet", vec![], async || proxy.fleet().await.unwrap()).await;
    let nothing = [String::new(), String::new()];
    eventually_equal("the counters", nothing, async || counters(redis)).await;
    assert_eq!(redis.cli(&["EXISTS", RECORD]), "0");
}

#[tokio::test]
async fn it_is_found_and_gets_sessions() {
    let (redis, proxy) = grid().await;
    let mut events = proxy.events();
    register_by_hand(&redis, "60");
    let view = event(&mut events, |event| match event {
        Event::Worker(view) => Some(*view),
        _ => None,
    })
    .await;
    assert_eq!(view.record.key, by_hand());
    assert_eq!(view.record.version, None);
    assert!(!view.record.replaces_itself);
    assert_eq!(view.record.status, WorkerStatus::Available);
    assert_eq!(proxy.fleet().await.unwrap()[0].record, view.record);
    shows(&redis, 0, 0).await;

    let order = [candidate(&by_hand(), 5, Some(2))];
    let (first, ..) = seat(&proxy, &order).await;
    seat(&proxy, &order).await;
    shows(&redis, 2, 2).await;
    release(&proxy, first, false).await;
    shows(&redis, 1, 2).await;
    audit(&redis);
}

#[tokio::test]
async fn it_is_ordered_to_shut_down() {
    let (redis, proxy) = grid().await;
    register_by_hand(&redis, "60");
    shows(&redis, 0, 0).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut channel = connection.as_pubsub();
    channel.subscribe(ORDER).unwrap();

    let minute = Duration::from_secs(60);
    proxy.order_recycle(&by_hand(), minute).await.unwrap();
    assert_eq!(redis.cli(&["GET", ORDER]), "shutdown");
    let ttl: u64 = redis.cli(&["TTL", ORDER]).parse().unwrap();
    assert!((55..=60).contains(&ttl), "{ttl}");
    let message = channel.get_message().unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "shutdown");

    // It drains, says so with HSET, and leaves as the original does: with DEL and HDEL.
    redis.cli(&["HSET", RECORD, "status", "draining"]);
    let order = [candidate(&by_hand(), 5, None)];
    let reserved = proxy
        .reserve(playhouse::model::SessionId::random(), &order)
        .await;
    assert_eq!(reserved.unwrap(), playhouse::store::Reserved::Gone);
    redis.cli(&["DEL", RECORD]);
    for hash in ["cluster:active_connections", "cluster:lifetime_connections"] {
        redis.cli(&["HDEL", hash, "chromium:by-hand"]);
    }
    is_forgotten(&redis, &proxy).await;
}

#[tokio::test]
async fn it_lives_as_long_as_somebody_extends_its_key() {
    let (redis, proxy) = grid().await;
    let mut events = proxy.events();
    // Long enough to be found on a busy machine.
    register_by_hand(&redis, "15");
    shows(&redis, 0, 0).await;
    // Its heartbeat goes past us: EXPIRE, and the score in our index stays behind.
    let score = || redis.cli(&["ZSCORE", "playhouse:workers", "chromium:by-hand"]);
    let first = score();
    eventually_equal("its deadline was looked up again", true, async || {
        redis.cli(&["EXPIRE", RECORD, "15"]);
        score() != first
    })
    .await;
    shows(&redis, 0, 0).await;

    let gone = event(&mut events, |event| match event {
        Event::Gone(worker) => Some(worker),
        _ => None,
    });
    assert_eq!(gone.await, by_hand());
    is_forgotten(&redis, &proxy).await;
}

#[tokio::test]
async fn it_is_dead_without_a_ttl() {
    let (redis, proxy) = grid().await;
    register_by_hand(&redis, "60");
    shows(&redis, 0, 0).await;
    redis.cli(&["PERSIST", RECORD]);
    let order = [candidate(&by_hand(), 5, None)];
    let reserved = proxy
        .reserve(playhouse::model::SessionId::random(), &order)
        .await;
    assert_eq!(reserved.unwrap(), playhouse::store::Reserved::Gone);
    is_forgotten(&redis, &proxy).await;
}

#[tokio::test]
async fn it_survives_a_flush() {
    let (redis, proxy) = grid().await;
    register_by_hand(&redis, "60");
    shows(&redis, 0, 0).await;
    proxy.fleet().await.unwrap();
    let order = [candidate(&by_hand(), 5, None)];
    let (session, ..) = seat(&proxy, &order).await;
    let (other, ..) = seat(&proxy, &order).await;
    release(&proxy, other, false).await;
    redis.cli(&["FLUSHALL"]);
    shows(&redis, 1, 2).await;
    // Its next heartbeat, which would leave a fragment in an empty Redis, finds the whole record.
    redis.cli(&["HSET", RECORD, "lastHeartbeat", "1700000005000"]);
    redis.cli(&["EXPIRE", RECORD, "60"]);
    assert_eq!(redis.cli(&["HLEN", RECORD]), "7");
    release(&proxy, session, false).await;
    shows(&redis, 0, 2).await;
    audit(&redis);
}

#[tokio::test]
async fn counters_that_somebody_touched_are_mended() {
    let (redis, proxy) = grid().await;
    register_by_hand(&redis, "60");
    shows(&redis, 0, 0).await;
    let order = [candidate(&by_hand(), 5, None)];
    let (session, ..) = seat(&proxy, &order).await;
    redis.cli(&[
        "HSET",
        "cluster:active_connections",
        "chromium:by-hand",
        "-3",
    ]);
    release(&proxy, session, false).await;
    redis.cli(&[
        "HSET",
        "cluster:active_connections",
        "chromium:by-hand",
        "77",
        "chromium:nobody",
        "4",
    ]);
    shows(&redis, 0, 1).await;
    audit(&redis);
}
