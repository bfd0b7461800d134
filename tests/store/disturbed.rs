//! Keys that somebody deleted, overwrote or put there by mistake: each is skipped or mended from the
//! leases, and stops nothing else.

use crate::model::audit;
use crate::stores::*;
use crate::support::{RedisServer, eventually_equal};
use playhouse::model::{Heartbeat, SessionId, WorkerKey};
use playhouse::store::redis::RedisStore;
use playhouse::store::{StoreRole, WorkerStore};

/// Two proxies with three sessions on one worker between them.
struct Grid {
    redis: RedisServer,
    agent: RedisStore,
    proxies: [RedisStore; 2],
    worker: WorkerKey,
    sessions: Vec<(usize, SessionId)>,
}

impl Grid {
    async fn start() -> Grid {
        let redis = RedisServer::start().await;
        let mut grid = Grid {
            agent: store(&redis, StoreRole::Worker).await,
            proxies: [
                store(&redis, StoreRole::Proxy).await,
                store(&redis, StoreRole::Proxy).await,
            ],
            redis,
            worker: key("w"),
            sessions: Vec::new(),
        };
        let agent = &grid.agent;
        agent.register(&record(&grid.worker), TTL).await.unwrap();
        for proxy in [0, 1, 1] {
            grid.seat(proxy).await;
        }
        grid
    }

    async fn seat(&mut self, proxy: usize) {
        let order = [candidate(&self.worker, 10, None)];
        let (session, ..) = seat(&self.proxies[proxy], &order).await;
        self.sessions.push((proxy, session));
    }

    /// A heartbeat, as its agent sends it all the time.
    async fn beat(&self) {
        let available = playhouse::model::WorkerStatus::Available;
        let beat = self
            .agent
            .heartbeat(&self.worker, Heartbeat::new(available, None), TTL);
        if beat.await.unwrap().unknown {
            let record = record(&self.worker);
            self.agent.register(&record, TTL).await.unwrap();
        }
    }

    /// Everything is on the books again, goes on, and comes out even.
    async fn comes_out_even(mut self, what: &str) {
        for proxy in 0..2 {
            let open = self.sessions.len() as u32;
            let what = format!("{what}: sessions as proxy {proxy} counts them");
            eventually_equal(&what, Some(open), async || {
                self.beat().await;
                let counts = counts(&self.proxies[proxy], &self.worker).await;
                counts.map(|(active, _)| active)
            })
            .await;
            self.seat(proxy).await;
        }
        eventually_equal(what, true, async || {
            crate::support::Books::read(&self.redis).wrong.is_empty()
        })
        .await;
        for (proxy, session) in std::mem::take(&mut self.sessions) {
            release(&self.proxies[proxy], session, false).await;
        }
        eventually_equal(what, Some(0), async || {
            let counts = counts(&self.proxies[0], &self.worker).await;
            counts.map(|(active, _)| active)
        })
        .await;
        audit(&self.redis);
    }
}

#[tokio::test]
async fn whatever_key_is_lost_is_written_again() {
    for key in [
        "playhouse:workers",
        "playhouse:proxies",
        "playhouse:seats:chromium:w",
        "playhouse:revision",
        "playhouse:pulse",
        "playhouse:grid",
        "cluster:active_connections",
        "cluster:lifetime_connections",
        "worker:chromium:w",
    ] {
        let grid = Grid::start().await;
        assert_eq!(grid.redis.cli(&["DEL", key]), "1", "{key}");
        grid.comes_out_even(key).await;
    }
}

#[tokio::test]
async fn the_leases_of_one_proxy_are_lost() {
    let grid = Grid::start().await;
    let leases = grid.redis.cli(&["KEYS", "playhouse:leases:*"]);
    for key in leases.lines() {
        assert_eq!(grid.redis.cli(&["DEL", key]), "1", "{key}");
    }
    grid.comes_out_even("leases").await;
}

#[tokio::test]
async fn whatever_key_is_of_another_type_is_replaced() {
    for key in [
        "playhouse:workers",
        "playhouse:proxies",
        "playhouse:seats:chromium:w",
        "playhouse:pulse",
        "cluster:active_connections",
        "cluster:lifetime_connections",
        "worker:chromium:w",
    ] {
        let grid = Grid::start().await;
        assert_eq!(grid.redis.cli(&["SET", key, "on monday"]), "OK", "{key}");
        grid.comes_out_even(key).await;
    }
    // Those that are strings, and those of a proxy.
    for pattern in [
        "playhouse:grid",
        "playhouse:revision",
        "playhouse:proxy:*",
        "playhouse:leases:*",
        "playhouse:ghosts",
        "playhouse:silent:chromium:w",
    ] {
        let grid = Grid::start().await;
        let keys = grid.redis.cli(&["KEYS", pattern]);
        // One that is not there may be put there too.
        let keys = if keys.is_empty() { pattern } else { &keys };
        for key in keys.lines() {
            grid.redis.cli(&["DEL", key]);
            assert_eq!(grid.redis.cli(&["ZADD", key, "1", "monday"]), "1", "{key}");
        }
        grid.comes_out_even(pattern).await;
    }
}

#[tokio::test]
async fn a_counter_that_is_no_number_comes_out_even() {
    let counters = ["cluster:active_connections", "cluster:lifetime_connections"];
    for counter in counters {
        for value in ["forty", "-7", "1.5", "99999999999999999999", ""] {
            let grid = Grid::start().await;
            grid.redis.cli(&["HSET", counter, "chromium:w", value]);
            grid.comes_out_even(&format!("{counter} = {value:?}")).await;
        }
    }
    let grid = Grid::start().await;
    grid.redis.cli(&["SET", "playhouse:revision", "many"]);
    grid.comes_out_even("the revision").await;
}

/// A note, a list, a record of another system: none of them is a worker, and the workers that
/// register beside them are found.
#[tokio::test]
async fn keys_that_only_look_like_workers_are_left_alone() {
    let grid = Grid::start().await;
    grid.redis
        .cli(&["SET", "worker:chromium:note", "restart me"]);
    grid.redis
        .cli(&["SET", "worker:chromium:note-2", "me too", "EX", "600"]);
    grid.redis.cli(&["RPUSH", "worker:firefox:list", "a", "b"]);
    grid.redis.cli(&["EXPIRE", "worker:firefox:list", "600"]);
    grid.redis
        .cli(&["HSET", "worker:webkit:half", "status", "available"]);
    grid.redis.cli(&["EXPIRE", "worker:webkit:half", "600"]);
    let by_hand = "worker:chromium:by-hand";
    grid.redis.cli(&[
        "HSET",
        by_hand,
        "endpoint",
        "ws://10.0.0.9:3131/",
        "status",
        "available",
    ]);
    grid.redis.cli(&["EXPIRE", by_hand, "600"]);
    eventually_equal("the workers", vec!["by-hand", "w"], async || {
        let fleet = grid.proxies[0].fleet().await.unwrap();
        let mut ids: Vec<_> = fleet
            .iter()
            .map(|it| it.record.key.id.to_string())
            .collect();
        ids.sort();
        ids.iter()
            .map(|id| if id == "w" { "w" } else { "by-hand" })
            .collect()
    })
    .await;
    let left = grid
        .redis
        .cli(&["EXISTS", "worker:chromium:note", "worker:firefox:list"]);
    assert_eq!(left, "2");
    grid.redis.cli(&["DEL", by_hand]);
    grid.comes_out_even("strays").await;
}

/// A proxy that dies when nobody has it on the list.
#[tokio::test]
async fn the_dead_are_found_by_the_seats_they_hold() {
    let mut grid = Grid::start().await;
    let victim = store(&grid.redis, StoreRole::Proxy).await;
    for _ in 0..4 {
        seat(&victim, &[candidate(&grid.worker, 10, None)]).await;
    }
    drop(victim);
    grid.redis.cli(&["DEL", "playhouse:proxies"]);
    grid.seat(0).await;
    grid.comes_out_even("a dead proxy's seats").await;
}

/// However often proxies come and go, none of which lives as long as a TTL.
#[tokio::test]
async fn seats_of_the_dead_come_free_although_nobody_lives_long() {
    let redis = RedisServer::start().await;
    let agent = store(&redis, StoreRole::Worker).await;
    let worker = key("w");
    agent.register(&record(&worker), TTL).await.unwrap();
    let victim = store(&redis, StoreRole::Proxy).await;
    for _ in 0..20 {
        seat(&victim, &[candidate(&worker, 100, None)]).await;
    }
    drop(victim);
    eventually_equal("seats taken", Some(0), async || {
        let short_lived = store(&redis, StoreRole::Proxy).await;
        tokio::time::sleep(PROXY_TTL / 5).await;
        counts(&short_lived, &worker)
            .await
            .map(|(active, _)| active)
    })
    .await;
    audit(&redis);
}
