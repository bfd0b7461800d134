//! Several proxies and one Redis: one grid.
//!
//! * [`counts`]: thousands of sessions through all proxies; what everybody counts is what is open.
//! * [`deaths`]: a proxy is killed, again and again; what it held comes free.
//! * [`line`]: clients wait at all of them, and are served as they came.
//! * [`outage`]: Redis dies, freezes, forgets, refuses; the grid goes on.
//! * [`operator`]: what one of them is asked is asked of all.
//! * [`quota`]: a tenant has no more sessions than it may have, wherever they go.
//! * [`rights`]: what the users of Redis that the documents name can do, and what not.
//! * [`sentinel`]: the primary dies and a replica takes its place.
//! * [`original`]: a worker that somebody registers by hand.
//!
//! Workers are fakes where only counts matter, registered as the original's are.

mod counts;
mod deaths;
mod line;
mod operator;
mod original;
mod outage;
mod quota;
mod rights;
mod sentinel;

use crate::support::{Books, Connected, Grid, GridBuilder, OriginalWorker, RedisServer};
use std::time::Duration;

const PROXIES: usize = 3;
/// A proxy that is silent for this long is dead. Short, for tests wait for it, and long for a
/// machine with a lot to do.
const PROXY_TTL: Duration = Duration::from_secs(5);

/// Three proxies about to be started that meet in this Redis, where so many workers are known.
fn grid(redis: &RedisServer, workers: usize) -> GridBuilder {
    Grid::new()
        .redis(redis)
        .proxies(PROXIES)
        .foreign_workers(workers)
        // Whoever comes at a bad moment waits rather than fails.
        .queue_timeout(Duration::from_secs(60))
        .config("store: { proxy_ttl: 5s, poll_interval: 500ms }")
}

async fn original_workers(redis: &RedisServer, workers: usize) -> Vec<OriginalWorker> {
    let mut started = Vec::new();
    for n in 0..workers {
        started.push(OriginalWorker::start(redis, &format!("original-{n}")).await);
    }
    started
}

/// Sessions that stay: so many through each proxy.
async fn stay(grid: &Grid, through_each: usize) -> Vec<Connected> {
    let mut sessions = Vec::new();
    for proxy in grid.proxies() {
        for _ in 0..through_each {
            sessions.push(proxy.connect().await);
        }
    }
    sessions
}

async fn all_live(sessions: &mut [Connected]) {
    for session in sessions {
        assert!(
            session.answers_a_ping().await,
            "{} ended",
            session.session()
        );
    }
}

/// Waits until everybody counts just so many open sessions.
async fn everybody_counts(grid: &Grid, redis: &RedisServer, sessions: i64) {
    crate::support::eventually_equal("open sessions", sessions, async || {
        Books::read(redis).active()
    })
    .await;
    for proxy in grid.proxies() {
        crate::support::eventually_equal("sessions that a proxy tells", sessions, async || {
            i64::from(proxy.active().await)
        })
        .await;
    }
    let books = Books::read(redis);
    books.assert_right();
    assert_eq!(books.leases, sessions, "{books:#?}");
}
