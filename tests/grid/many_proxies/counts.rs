//! However many come through however many doors, the books are right at every moment.

use super::{PROXIES, everybody_counts, grid, original_workers};
use crate::support::{Books, Connected, Grid, RedisServer, Visitors, eventually_equal};
use std::collections::BTreeMap;
use std::time::Duration;

const SESSIONS: usize = 2000;
const CONCURRENT: i64 = 5;
const LIFETIME: i64 = 100;

/// Six workers: four fakes that are run as the original's are, two with Chromium that replace
/// themselves. All of them are recycled several times on the way.
#[tokio::test]
async fn two_thousand_sessions_through_three_proxies_exceed_no_limit_at_any_moment() {
    let redis = RedisServer::start().await;
    let originals = original_workers(&redis, 4).await;
    let grid = grid(&redis, 4)
        .worker_process(&[])
        .worker_process(&[])
        .capacity(CONCURRENT as u32)
        .lifetime(LIFETIME as u32)
        // A limit that nobody may go beyond, not even for want of a seat.
        .config("recycle: { ceiling: 1.0, max_unavailable: 2 }")
        .env("HEARTBEAT_INTERVAL", "1")
        .start()
        .await;
    let mut visitors = Visitors::start(grid.proxies(), 40, SESSIONS);

    let mut seen = BTreeMap::<String, i64>::new();
    let (mut samples, mut most) = (0, 0);
    while !visitors.are_gone() {
        let books = Books::read(&redis);
        books.assert_right();
        assert_eq!(books.active(), books.leases, "{books:#?}");
        for (worker, account) in &books.workers {
            assert!(account.active <= CONCURRENT, "{worker}: {account:?}");
            assert!(account.lifetime <= LIFETIME, "{worker}: {account:?}");
            seen.insert(worker.clone(), account.lifetime);
        }
        samples += 1;
        most = most.max(books.active());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    assert_eq!(visitors.failures(), [] as [String; 0]);
    assert_eq!(visitors.served(), SESSIONS);
    everybody_counts(&grid, &redis, 0).await;
    let shutdowns: usize = originals.iter().map(|it| it.shutdowns()).sum();
    println!(
        "{SESSIONS} sessions, {samples} samples: at most {most} at once, {} workers in all",
        seen.len()
    );
    assert!(samples > 50, "{samples} samples say little");
    assert!(shutdowns > 4 && seen.len() > 2 * 6, "{shutdowns}: {seen:?}");
    for n in 0..PROXIES {
        grid.proxy(n).idle().await;
    }
}

/// What the tutorial looks at.
#[tokio::test]
async fn redis_cli_and_metrics_tell_the_sessions_that_are_open() {
    let redis = RedisServer::start().await;
    let originals = original_workers(&redis, 3).await;
    let grid = grid(&redis, 3).capacity(5).start().await;
    let mut open: Vec<Connected> = Vec::new();
    // Each session of the grid goes through the next proxy.
    for target in [0, 1, 7, 15, 4, 9, 0] {
        while open.len() < target {
            open.push(grid.proxy(open.len() % PROXIES).connect().await);
        }
        while open.len() > target {
            open.swap_remove(0).close().await;
        }
        everybody_counts(&grid, &redis, target as i64).await;
        eventually_equal("open at the workers", target, async || {
            originals.iter().map(|it| it.fake().open()).sum()
        })
        .await;
        let active = redis.cli(&["HGETALL", "cluster:active_connections"]);
        assert_eq!(
            by_worker(&active),
            at_each(&grid, &originals).await,
            "{active}"
        );
    }
}

/// A hash as `redis-cli` prints it into a pipe: a line for each field, and one for its value.
fn by_worker(printed: &str) -> BTreeMap<String, usize> {
    let lines: Vec<&str> = printed.lines().collect();
    let pairs = lines.chunks_exact(2);
    pairs
        .map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap()))
        .collect()
}

/// What is open at each worker, by the worker itself.
async fn at_each(
    grid: &Grid,
    originals: &[crate::support::OriginalWorker],
) -> BTreeMap<String, usize> {
    let mut open = BTreeMap::new();
    for worker in grid.workers().await {
        let fake = originals
            .iter()
            .map(|it| it.fake())
            .find(|fake| worker.endpoint.contains(&fake.address().to_string()));
        let key = format!("{}:{}", worker.browser, worker.id);
        open.insert(key, fake.unwrap().open());
    }
    open
}
