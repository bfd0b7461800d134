//! Sessions that wait at several proxies: seats are for those who have waited longest, as far as
//! these can use them.

use crate::stores::*;
use crate::support::{RedisServer, eventually};
use playhouse::model::{Browser, SessionId};
use playhouse::store::redis::{RedisStore, Role};
use playhouse::store::{Candidate, Reserved, Store, Turn};
use std::time::Duration;

/// Two proxies and a worker with one seat.
async fn grid() -> (RedisServer, RedisStore, RedisStore, Candidate) {
    let redis = RedisServer::start().await;
    let one = store(&redis, Role::Proxy).await;
    let two = store(&redis, Role::Proxy).await;
    let a = key("a");
    one.register(&record(&a), TTL).await.unwrap();
    (redis, one, two, candidate(&a, 1, None))
}

/// Asks for somebody who wants Playwright of this version and has waited so many milliseconds.
async fn ask(
    store: &RedisStore,
    order: &[Candidate],
    version: &str,
    waited: u64,
) -> (SessionId, Reserved) {
    let turn = Turn {
        browser: Browser::Chromium,
        version: version.parse().ok(),
        waited: Duration::from_millis(waited),
    };
    let session = SessionId::random();
    let reserved = store.reserve_in_turn(session, order, &turn).await.unwrap();
    (session, reserved)
}

fn seated(reserved: &Reserved) -> bool {
    matches!(reserved, Reserved::Seat { .. })
}

#[tokio::test]
async fn who_comes_does_not_pass_those_who_wait() {
    let (_redis, one, two, seat) = grid().await;
    let order = [seat];
    let (holder, _) = ask(&one, &order, "1.65", 0).await;
    let full = ask(&one, &order, "1.65", 50_000).await.1;
    assert!(matches!(full, Reserved::Full { .. }), "{full:?}");
    one.release(holder, false).await.unwrap();

    let came = ask(&two, &order, "1.65", 0).await.1;
    assert_eq!(came, Reserved::Behind, "it only just came");
    let (other, reserved) = ask(&two, &order, "1.64", 0).await;
    assert!(seated(&reserved), "in another line nobody is ahead");
    two.release(other, false).await.unwrap();
    let waited_less = ask(&two, &order, "1.65", 40_000).await.1;
    assert_eq!(waited_less, Reserved::Behind);

    let (first, reserved) = ask(&one, &order, "1.65", 50_000).await;
    assert!(seated(&reserved), "it came first");
    one.release(first, false).await.unwrap();
    let (second, reserved) = ask(&two, &order, "1.65", 0).await;
    assert!(seated(&reserved), "nobody waits elsewhere any more");
    two.release(second, false).await.unwrap();
}

/// A proxy may be ahead in line and unable to reach the worker that has the seat.
#[tokio::test]
async fn a_seat_that_those_ahead_leave_alone_is_not_kept_for_them() {
    let (_redis, one, two, seat) = grid().await;
    let order = [seat];
    assert_eq!(ask(&one, &[], "1.65", 50_000).await.1, Reserved::Gone);
    let behind = ask(&two, &order, "1.65", 10).await.1;
    assert_eq!(behind, Reserved::Behind);
    eventually("it gets the seat", async || {
        // All the while the first one waits on, and does not want it.
        ask(&one, &[], "1.65", 50_000).await;
        let reserved = ask(&two, &order, "1.65", 10).await.1;
        seated(&reserved).then_some(())
    })
    .await;
}
