//! The users of Redis that the documents name: a grid works with their rights, and they reach nothing
//! else.

use crate::support::{Driver, Grid, Language, RedisServer, RedisUser, eventually};
use std::time::Duration;

/// What neither user may do. None of it waits for anything, should it be allowed after all.
const FORBIDDEN: [&[&str]; 21] = [
    &["GET", "others"],
    &["SET", "others", "taken"],
    &["EVAL", "return redis.call('GET', 'others')", "0"],
    &["PUBLISH", "others", "word"],
    &["KEYS", "*"],
    &["FLUSHALL"],
    &["FLUSHDB"],
    &["CONFIG", "GET", "*"],
    &["CLIENT", "LIST"],
    &["CLIENT", "KILL", "TYPE", "pubsub"],
    &["CLIENT", "TRACKING", "ON", "BCAST"],
    &["ACL", "LIST"],
    &["PUBSUB", "CHANNELS"],
    &["SCRIPT", "FLUSH"],
    &["FUNCTION", "FLUSH"],
    &["MODULE", "LIST"],
    &["SLOWLOG", "GET"],
    &["INFO"],
    &["SAVE"],
    &["REPLICAOF", "NO", "ONE"],
    &["SHUTDOWN", "NOSAVE"],
];

/// What is for proxies alone: names of keys, and what they keep of clients and of each other.
const FOR_PROXIES: [&[&str]; 11] = [
    &["SCAN", "0"],
    &["RANDOMKEY"],
    &["DBSIZE"],
    &["GET", "playhouse:secret"],
    &["SET", "playhouse:used:ticket", "1"],
    &["SMEMBERS", "playhouse:proxies"],
    &["SET", "playhouse:proxy:mine", "1"],
    &["HGETALL", "playhouse:waiting:another"],
    &["ZRANGE", "playhouse:lane:chromium/1.65/ci", "0", "-1"],
    &["HGETALL", "playhouse:permits:sessions:ci"],
    &["HGETALL", "playhouse:answers:inquiry"],
];

#[tokio::test]
async fn the_documented_users_can_what_a_grid_needs_and_no_more() {
    let redis = RedisServer::start().await;
    let [proxy, worker] = ["proxy", "worker"].map(RedisUser::documented);
    a_grid_works(&redis, proxy.enter(&redis), &worker.enter(&redis)).await;
    assert_eq!(
        redis.cli(&["ACL", "LOG"]),
        "",
        "something was not permitted"
    );

    redis.cli(&["SET", "others", "untouched"]);
    for (name, user) in [("proxy", &proxy), ("worker", &worker)] {
        for command in FORBIDDEN {
            is_refused(&redis, name, user, command);
        }
        let script = "return redis.call('GET', 'others')";
        let loaded = user.cli(&redis, &["SCRIPT", "LOAD", script]);
        is_refused(&redis, name, user, &["EVALSHA", &loaded, "0"]);
    }
    for command in FOR_PROXIES {
        is_refused(&redis, "worker", &worker, command);
    }
    assert_eq!(redis.cli(&["GET", "others"]), "untouched");
}

/// Redis notes who was refused, in the same way for commands, keys, channels, and in scripts.
fn is_refused(redis: &RedisServer, name: &str, user: &RedisUser, command: &[&str]) {
    redis.cli(&["ACL", "LOG", "RESET"]);
    let said = user.cli(redis, command);
    assert!(!said.contains("untouched"), "{name} {command:?}: {said}");
    let noted = redis.cli(&["ACL", "LOG"]);
    let refused = noted.lines().any(|line| line == name);
    assert!(refused, "{name} {command:?}: {said}; {noted:?}");
}

/// Two proxies and a worker with a browser: sessions, a recycle, an order, questions of operators.
async fn a_grid_works(redis: &RedisServer, proxies: String, worker: &str) {
    let grid = Grid::new()
        .redis_at(proxies)
        .proxies(2)
        .worker_process(&[("REDIS_URL", worker)])
        .capacity(2)
        .lifetime(2)
        .queue_timeout(Duration::from_secs(600))
        .env("HEARTBEAT_INTERVAL", "1")
        .config("store: { poll_interval: 500ms }\nselection: { dial_timeout: 20s }")
        .start()
        .await;
    let serves = async |after: &[String]| {
        eventually("a new browser serves", async || {
            let workers = grid.proxy(1).workers().await;
            let mut new = workers.into_iter().filter(|it| !after.contains(&it.id));
            new.find(|it| it.serves()).map(|it| it.id)
        })
        .await
    };
    let first = serves(&[]).await;
    let mut client = Driver::start(Language::Node, &grid.proxy(1).url());
    for name in ["a", "b", "c"] {
        client.open(name).await.unwrap();
        client.works(name).await.unwrap();
        eventually("the other proxy tells of it", async || {
            (grid.proxy(0).sessions().await.len() == 1).then_some(())
        })
        .await;
        client.close(name).await.unwrap();
    }
    client.quit().await;
    let second = serves(std::slice::from_ref(&first)).await;
    let drain = format!("/v1/workers/{second}/drain");
    assert_eq!(grid.admin("POST", &drain).await.status, 202);
    serves(&[first, second]).await;
    grid.idle().await;
    assert_eq!(grid.admin("GET", "/metrics").await.status, 200);
    eventually("the slow rounds are done too", async || {
        (redis.cli(&["EXISTS", "playhouse:scan"]) == "1").then_some(())
    })
    .await;
}
