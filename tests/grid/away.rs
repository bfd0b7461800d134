//! Workers that are off the books for a moment, because they recycle or their browser crashed: who can
//! only be served there waits for them, and is told what is true when they do not come.

use super::operations::keys::register;
use crate::support::{FakePlaywright, Grid, RedisServer, eventually_equal};
use std::time::Duration;

/// Nobody who is to be served waits this long, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(600);

struct Books {
    redis: RedisServer,
    grid: Grid,
    fakes: [FakePlaywright; 2],
}

/// A worker of 1.64 and one of 1.65 on the books, which replace their browser first or not.
async fn books(queue_timeout: Duration, replaces_itself: bool) -> Books {
    let redis = RedisServer::start().await;
    let fakes = [FakePlaywright::start().await, FakePlaywright::start().await];
    for (id, fake) in ["1.64", "1.65"].into_iter().zip(&fakes) {
        register(&redis, id, fake, replaces_itself);
        set(&redis, id, "playwrightVersion", id);
    }
    let grid = Grid::new()
        .redis(&redis)
        .foreign_workers(2)
        .config("store: { poll_interval: 200ms }")
        .queue_timeout(queue_timeout)
        .start()
        .await;
    versions(&grid, 2).await;
    Books { redis, grid, fakes }
}

/// A worker's id is its version.
fn set(redis: &RedisServer, worker: &str, field: &str, value: &str) {
    redis.cli(&["HSET", &format!("worker:chromium:{worker}"), field, value]);
}

/// Waits until so many workers are known with the version that they tell.
async fn versions(grid: &Grid, expected: usize) {
    eventually_equal("workers of a known version", expected, async || {
        let workers = grid.workers().await;
        let known = workers.iter().filter(|it| it.playwright_version.is_some());
        known.count()
    })
    .await;
}

async fn leaves(books: &Books, worker: &str) {
    books
        .redis
        .cli(&["DEL", &format!("worker:chromium:{worker}")]);
    versions(&books.grid, 1).await;
}

#[tokio::test]
async fn a_worker_that_recycles_is_waited_for() {
    for replaces_itself in [true, false] {
        let books = books(PATIENCE, replaces_itself).await;
        let Books { redis, grid, fakes } = &books;
        if !replaces_itself {
            // It drains before it ends, and starts over.
            set(redis, "1.65", "status", "draining");
            eventually_equal("its status", true, async || {
                let workers = grid.workers().await;
                workers.iter().any(|it| it.status == "draining")
            })
            .await;
        }
        leaves(&books, "1.65").await;
        // Others are served, and told, as before.
        let elsewhere = grid.dial().playwright("1.64.0").connect().await;
        elsewhere.ok().unwrap().close().await;
        let nobodys = grid.dial().playwright("1.63.0").connect().await;
        assert_eq!(nobodys.err().unwrap().status, 428);

        let waiting = tokio::spawn(grid.dial().playwright("1.65.0").connect());
        grid.queued(1).await;
        register(redis, "1.65", &fakes[1], replaces_itself);
        set(redis, "1.65", "playwrightVersion", "1.65");
        let mut session = waiting.await.unwrap().expect("it is back");
        session.echo("as before").await;
        session.close().await;
        grid.idle().await;
    }
}

#[tokio::test]
async fn who_waited_in_vain_for_a_worker_to_come_back_is_told_so() {
    let books = books(Duration::from_secs(1), true).await;
    leaves(&books, "1.65").await;
    let refused = books.grid.dial().playwright("1.65.0").connect().await;
    let refusal = refused.err().unwrap();
    assert_eq!(refusal.status, 503, "{refusal:?}");
    assert!(refusal.body.contains("may be back"), "{}", refusal.body);
    let log = books.grid.log();
    assert!(log.contains("reason=workers_left_just_now"), "{log}");
}

/// One that replaces its browser first and drains to its end has been told to go.
#[tokio::test]
async fn a_worker_that_was_told_to_go_is_not_waited_for() {
    let books = books(PATIENCE, true).await;
    set(&books.redis, "1.65", "status", "draining");
    eventually_equal("its status", true, async || {
        let workers = books.grid.workers().await;
        workers.iter().any(|it| it.status == "draining")
    })
    .await;
    leaves(&books, "1.65").await;
    let refused = books.grid.dial().playwright("1.65.0").connect().await;
    let refusal = refused.err().unwrap();
    assert_eq!(refusal.status, 428, "{refusal:?}");
    assert!(refusal.body.contains("1.64"), "{}", refusal.body);
}
