//! A primary and a replica with three sentinels: the primary dies under load, and the replica takes
//! its place.

use super::outage::store_up;
use super::{all_live, everybody_counts, stay};
use crate::support::{FakePlaywright, Grid, Sentinels, Visitors, eventually};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_failover_ends_no_session_and_refuses_none() {
    let mut sentinels = Sentinels::start().await;
    let fakes = [FakePlaywright::start().await, FakePlaywright::start().await];
    let grid = Grid::new()
        .redis_at(sentinels.url())
        .proxies(2)
        .fakes(&[&fakes[0], &fakes[1]])
        .capacity(20)
        .lifetime(0)
        // Whoever comes at a bad moment waits rather than fails.
        .queue_timeout(Duration::from_secs(60))
        .start()
        .await;
    let mut staying = stay(&grid, 4).await;
    let mut visitors = Visitors::start(grid.proxies(), 6, usize::MAX);
    let served = |more: usize| {
        let before = visitors.served();
        let visitors = &visitors;
        async move {
            eventually("new sessions are served", async || {
                (visitors.served() > before + more).then_some(())
            })
            .await;
        }
    };
    served(40).await;

    sentinels.servers[0].kill();
    let died = Instant::now();
    let (mut count, mut at, mut gap) = (visitors.served(), Instant::now(), Duration::ZERO);
    eventually("the replica is the primary", async || {
        gap = gap.max(at.elapsed());
        if visitors.served() > count {
            (count, at) = (visitors.served(), Instant::now());
        }
        let role = sentinels.servers[1].cli(&["ROLE"]);
        role.starts_with("master").then_some(())
    })
    .await;
    let promoted = died.elapsed();
    for proxy in grid.proxies() {
        store_up(proxy, "1").await;
    }
    println!(
        "a replica was the primary {promoted:?} after the old one died, the grid was on it after \
         {:?}; the longest time without a new session was {gap:?}",
        died.elapsed()
    );
    served(40).await;
    visitors.leave().await;
    assert_eq!(visitors.failures(), [] as [String; 0]);
    all_live(&mut staying).await;
    let open = staying.len() as i64;
    everybody_counts(&grid, &sentinels.servers[1], open).await;
    for session in staying {
        session.close().await;
    }
    everybody_counts(&grid, &sentinels.servers[1], 0).await;
}
