//! A Redis that came back empty gives no new seat before those who held some have said so.

use crate::stores::*;
use crate::support::{RedisServer, eventually, eventually_equal};
use playhouse::model::{Browser, SessionId, Waiter};
use playhouse::store::redis::RedisStore;
use playhouse::store::{Candidate, Peers, SeatStore, Served, StoreRole, WorkerStore};
use std::time::Duration;

/// Two proxies that know of each other, and a worker of two seats, in a grid that is old enough for all to have come to it.
async fn grid(redis: &RedisServer) -> (RedisStore, RedisStore, RedisStore, Candidate) {
    let agent = store(redis, StoreRole::Worker).await;
    let worker = key("w");
    agent.register(&record(&worker), LONG).await.unwrap();
    let one = store(redis, StoreRole::Proxy).await;
    let two = store(redis, StoreRole::Proxy).await;
    for proxy in [&one, &two] {
        eventually_equal("it knows of both", 2, async || proxy.proxies()).await;
    }
    let is_old = async || (now(redis) >= pulse(redis, "counted")).then_some(());
    eventually("all who knew an earlier grid would be there", is_old).await;
    (agent, one, two, candidate(&worker, 2, None))
}

const LONG: Duration = Duration::from_secs(600);

/// Asks until a client that waits is given a seat.
async fn seated_in_line(proxy: &RedisStore, candidate: &Candidate) -> SessionId {
    let waiter = Waiter::new(SessionId::random(), LONG);
    let (coming, seats) = (
        std::slice::from_ref(&waiter),
        std::slice::from_ref(candidate),
    );
    eventually("it has a seat", async || {
        let asked = proxy.serve_line(Browser::Chromium, true, coming, seats);
        match asked.await {
            Ok(Served::Line(line)) => line.granted.first().map(|granted| granted.session),
            _ => None,
        }
    })
    .await
}

fn pulse(redis: &RedisServer, field: &str) -> u64 {
    let value = redis.cli(&["HGET", "playhouse:pulse", field]);
    value.parse().unwrap_or(0)
}

/// By Redis' clock, in milliseconds.
fn now(redis: &RedisServer) -> u64 {
    let [seconds, micros]: [u64; 2] = query(redis, &["TIME"]);
    seconds * 1000 + micros / 1000
}

#[tokio::test]
async fn who_does_not_come_back_is_waited_for_until_his_time_is_over() {
    let mut redis = RedisServer::start().await;
    let (_agent, one, two, seats) = grid(&redis).await;
    redis.kill();
    drop(two);
    redis.restart().await;
    seated_in_line(&one, &seats).await;
    assert_eq!((pulse(&redis, "awaited"), pulse(&redis, "told")), (2, 1));
    let counted = pulse(&redis, "counted");
    assert!(counted > 0 && now(&redis) >= counted, "{counted}");
}

#[tokio::test]
async fn nobody_is_waited_for_when_all_are_back() {
    let redis = RedisServer::start().await;
    let (_agent, one, two, seats) = grid(&redis).await;
    let (held, ..) = seat(&two, std::slice::from_ref(&seats)).await;
    assert_eq!(redis.cli(&["FLUSHALL"]), "OK");
    let session = seated_in_line(&one, &seats).await;
    let over = now(&redis) >= pulse(&redis, "counted");
    assert!(pulse(&redis, "told") == 2 || over, "one has not spoken");
    // Both are counted, whoever came first.
    eventually_equal("its seats", Some(2), async || {
        counts(&one, &seats.key).await.map(|(active, _)| active)
    })
    .await;
    release(&one, session, false).await;
    release(&two, held, false).await;
}
