//! The lifetime limit: workers are replaced one after another, never together.

use crate::support::{Driver, Grid, Language};
use std::collections::BTreeSet;
use std::time::Duration;

const WORKERS: usize = 3;
const LIMIT: u32 = 10;
const SESSIONS: usize = 60;

#[tokio::test]
async fn sixty_sessions_replace_three_workers_one_after_another() {
    let grid = Grid::new().workers(WORKERS).lifetime(LIMIT).start().await;
    let mut fewest_serving = WORKERS;
    let mut replaced_at = Vec::new();

    let sessions = async {
        let mut client = Driver::start(Language::Python, &grid.url());
        let mut seen: BTreeSet<String> = ids(&grid).await;
        println!("session  lifetimes");
        for session in 1..=SESSIONS {
            let opened = client.open("a").await;
            opened.unwrap_or_else(|error| panic!("session {session}: {error}"));
            client.close("a").await.unwrap();
            let now = ids(&grid).await;
            if now.difference(&seen).next().is_some() {
                replaced_at.push(session);
            }
            seen.extend(now);
            println!("{session:>7}  {}", stairs(&grid).await);
        }
        client.quit().await;
        seen
    };
    // Looks on all the while, more often than a browser can be replaced.
    let watch = async {
        loop {
            let workers = grid.workers().await;
            let serving = workers.iter().filter(|worker| worker.serves()).count();
            fewest_serving = fewest_serving.min(serving);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let seen = tokio::select! {
        seen = sessions => seen,
        () = watch => unreachable!("it looks on for ever"),
    };

    println!("replacements after sessions {replaced_at:?}; at least {fewest_serving} serving");
    assert!(
        fewest_serving >= WORKERS - 1,
        "two workers were out at once"
    );
    // Sixty sessions on browsers of ten fill at least three of them to the brim.
    assert!(
        seen.len() >= WORKERS + 3,
        "too few replacements: {replaced_at:?}"
    );
    for pair in replaced_at.windows(2) {
        assert!(pair[1] - pair[0] > 1, "two in a row: {replaced_at:?}");
    }
    grid.idle().await;
}

async fn ids(grid: &Grid) -> BTreeSet<String> {
    let workers = grid.workers().await;
    workers.into_iter().map(|worker| worker.id).collect()
}

/// The lifetimes as bars, oldest worker first.
async fn stairs(grid: &Grid) -> String {
    let mut workers = grid.workers().await;
    workers.sort_by_key(|worker| std::cmp::Reverse(worker.lifetime_sessions));
    let bar = |lifetime: u32| format!("{lifetime:>2} {:<10}", "#".repeat(lifetime as usize));
    let bars = workers.iter().map(|worker| bar(worker.lifetime_sessions));
    bars.collect::<Vec<_>>().join("  ")
}
