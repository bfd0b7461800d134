//! The state in Redis: what happens without it, and how often it is looked at.

use super::register;
use crate::support::{FakePlaywright, Grid, RedisServer, eventually_equal};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
pub async fn without_its_store_a_strict_grid_seats_nobody() {
    for (strict, status) in [(false, 101), (true, 503)] {
        let mut redis = RedisServer::start().await;
        let fake = FakePlaywright::start().await;
        let grid = Grid::new()
            .redis(&redis)
            .fakes(&[&fake])
            .config(&format!("store: {{ strict: {strict} }}"))
            .start()
            .await;
        grid.connect().await.close().await;
        redis.kill();
        let answer = match grid.dial().connect().await {
            Ok(session) => {
                let status = session.answer.status;
                session.close().await;
                status
            }
            Err(refusal) => refusal.status,
        };
        assert_eq!(answer, status, "strict: {strict}");
    }
}

#[tokio::test]
pub async fn a_dead_proxys_seats_are_swept_up() {
    let redis = RedisServer::start().await;
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .fakes(&[&fake])
        .config("store: { proxy_ttl: 4s, reap_interval: 200ms, poll_interval: 200ms }")
        .start()
        .await;
    let mut lost = grid.proxy(1).connect().await;
    eventually_equal("sessions", 1, async || grid.active().await).await;
    let life: i64 = redis
        .cli(&[
            "--raw",
            "EVAL",
            "local k = redis.call('KEYS', 'playhouse:proxy:*'); return redis.call('PTTL', k[1])",
            "0",
        ])
        .parse()
        .unwrap();
    assert!((1..=4000).contains(&life), "{life} ms");
    // Sweeping takes five minutes by default.
    grid.process("proxy 1").processes[0].kill();
    lost.closed().await;
    eventually_equal("sessions", 0, async || grid.active().await).await;
}

#[tokio::test]
pub async fn the_fleet_is_read_often() {
    let redis = RedisServer::start().await;
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .config("store: { poll_interval: 100ms }")
        .start()
        .await;
    // Nobody tells of these: they are found by looking. At the default each takes ten seconds.
    let found = async {
        for n in 1..=12 {
            register(&redis, &format!("by-hand-{n}"), &fake, false);
            eventually_equal("workers", n, async || grid.workers().await.len()).await;
        }
    };
    timeout(Duration::from_secs(60), found)
        .await
        .expect("it looks often");
}

#[tokio::test]
pub async fn grids_of_different_namespaces_do_not_meet() {
    let redis = RedisServer::start().await;
    let mut grids = Vec::new();
    for (namespace, workers) in [("none", 2), ("ci", 1), ("ci.nightly", 1)] {
        let mut fakes = Vec::new();
        for _ in 0..workers {
            fakes.push(FakePlaywright::start().await);
        }
        let grid = Grid::new()
            .redis(&redis)
            .fakes(&fakes.iter().collect::<Vec<_>>())
            .config(&format!(
                "store: {{ namespace: {namespace}, poll_interval: 200ms }}"
            ))
            .start()
            .await;
        grids.push((grid, fakes, workers));
    }
    for (grid, fakes, workers) in &grids {
        assert_eq!(grid.workers().await.len(), *workers);
        grid.connect().await.close().await;
        assert_eq!(fakes.iter().map(|fake| fake.upgrades()).sum::<usize>(), 1);
    }
    let names = redis.cli(&["KEYS", "*"]);
    for name in names.lines() {
        let plain = ["worker:", "cluster:", "playhouse:"];
        let name = name
            .strip_prefix("ci:")
            .or(name.strip_prefix("ci.nightly:"))
            .unwrap_or(name);
        assert!(plain.iter().any(|it| name.starts_with(it)), "{name}");
    }
}
