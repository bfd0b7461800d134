//! What proxies are told of, and what they read when they were not.

use crate::stores::{Grid, Redis, TTL, connect, event, key, query, record, store_config};
use crate::support::eventually;
use playhouse::model::{Heartbeat, WorkerKey, WorkerRecord, WorkerStatus};
use playhouse::store::{Event, Store, StoreOptions, StoreRole, WorkerView};
use std::sync::Arc;
use tokio::sync::broadcast;

/// A worker in Redis, and a proxy that has read the fleet.
async fn grid() -> (Redis, Arc<dyn Store>, Arc<dyn Store>, WorkerKey) {
    let grid = Redis::start().await;
    let proxy = grid.proxy().await;
    with_worker(grid, proxy).await
}

/// The same with a proxy that does not look by itself whether everything is as it was told.
async fn unlooked() -> (Redis, Arc<dyn Store>, Arc<dyn Store>, WorkerKey) {
    let grid = Redis::start().await;
    let options = StoreOptions {
        poll_interval: TTL,
        ..store_config(grid.redis().unwrap().url())
    };
    let proxy = Arc::new(connect(&options, StoreRole::Proxy));
    with_worker(grid, proxy).await
}

async fn with_worker(
    grid: Redis,
    proxy: Arc<dyn Store>,
) -> (Redis, Arc<dyn Store>, Arc<dyn Store>, WorkerKey) {
    let (agent, worker) = (grid.agent().await, key("a"));
    agent.register(&record(&worker), TTL).await.unwrap();
    eventually("the proxy has read the fleet", async || {
        let fleet = proxy.fleet().await.ok()?;
        (fleet.len() == 1).then_some(())
    })
    .await;
    (grid, agent, proxy, worker)
}

/// The next record that is told.
async fn told(events: &mut broadcast::Receiver<Event>) -> WorkerView {
    event(events, |event| match event {
        Event::Worker(view) => Some(*view),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn signs_of_life_are_told_to_nobody() {
    let (_grid, agent, proxy, worker) = grid().await;
    let mut events = proxy.events();
    for memory in [1, 2, 3] {
        let beat = agent.heartbeat(
            &worker,
            Heartbeat::new(WorkerStatus::Available, Some(memory)),
            TTL,
        );
        beat.await.unwrap();
        let again = WorkerRecord {
            started_at: proxy.fleet().await.unwrap()[0].record.started_at,
            memory: Some(memory),
            ..record(&worker)
        };
        agent.register(&again, TTL).await.unwrap();
    }
    let beat = agent.heartbeat(
        &worker,
        Heartbeat::new(WorkerStatus::Draining, Some(4)),
        TTL,
    );
    beat.await.unwrap();
    // The first that is told is the one that changes somebody's mind.
    let view = told(&mut events).await;
    assert_eq!(view.record.status, WorkerStatus::Draining);
    // Whoever reads sees the rest.
    let read = proxy.fleet().await.unwrap();
    assert_eq!(read[0].record.memory, Some(4));
}

/// Changes a record as a script does whose message is lost.
fn change_untold(grid: &Redis, worker: &WorkerKey, field: &str, value: &str) {
    let redis = grid.redis().unwrap();
    let name = worker.to_string();
    query::<u32>(redis, &["HSET", &format!("worker:{name}"), field, value]);
    let revision: u64 = query(redis, &["INCR", "playhouse:revision"]);
    let revision = revision.to_string();
    query::<u32>(redis, &["ZADD", "playhouse:changed", &revision, &name]);
}

#[tokio::test]
async fn what_was_not_told_is_read_of_those_workers_alone() {
    let (grid, agent, proxy, worker) = unlooked().await;
    let mut events = proxy.events();
    let other = key("b");
    agent.register(&record(&other), TTL).await.unwrap();
    assert_eq!(told(&mut events).await.record.key, other);
    change_untold(&grid, &worker, "status", "draining");
    event(&mut events, |event| match event {
        Event::Worker(view) if view.record.key == worker => Some(*view),
        Event::Worker(view) => panic!("nothing has changed of {}", view.record.key),
        Event::Resync => panic!("the fleet is to be read whole"),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_worker_whose_end_was_not_told_is_gone() {
    let (grid, _agent, proxy, worker) = unlooked().await;
    let mut events = proxy.events();
    let redis = grid.redis().unwrap();
    let name = worker.to_string();
    query::<u32>(redis, &["DEL", &format!("worker:{name}")]);
    query::<u32>(redis, &["ZREM", "playhouse:workers", &name]);
    query::<u32>(redis, &["ZREM", "playhouse:changed", &name]);
    for hash in ["cluster:active_connections", "cluster:lifetime_connections"] {
        query::<u32>(redis, &["HDEL", hash, &name]);
    }
    let revision: u64 = query(redis, &["INCR", "playhouse:revision"]);
    let revision = revision.to_string();
    // Others are there: the list of changes was not lost.
    query::<u32>(redis, &["ZADD", "playhouse:changed", "1", "chromium:b"]);
    query::<u32>(redis, &["ZADD", "playhouse:gone", &revision, &name]);
    let gone = event(&mut events, |event| match event {
        Event::Gone(worker) => Some(worker),
        _ => None,
    });
    assert_eq!(gone.await, worker);
}

#[tokio::test]
async fn what_somebody_wrote_by_hand_is_told_to_all() {
    let (grid, _agent, proxy, worker) = grid().await;
    let others = [grid.proxy().await, grid.proxy().await];
    for other in &others {
        other.fleet().await.unwrap();
    }
    let mut all: Vec<_> = others.iter().map(|it| it.events()).collect();
    all.push(proxy.events());
    let redis = grid.redis().unwrap();
    let record = format!("worker:{worker}");
    query::<u32>(redis, &["HSET", &record, "status", "draining"]);
    for events in &mut all {
        assert_eq!(told(events).await.record.status, WorkerStatus::Draining);
    }
}
