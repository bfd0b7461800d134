//! A new process takes over the listeners while clients come and go.

use super::load::{Load, all_work};
use crate::support::{FakePlaywright, Grid, RedisServer, eventually, eventually_equal};
use nix::sys::signal::Signal;

const UPGRADES: usize = 5;

/// Upgrades under load; sessions of every generation stay open throughout.
async fn upgrade_under_load(mut grid: Grid) {
    let load = Load::start(grid.dial(), 6);
    let mut open = Vec::new();
    for _ in 0..UPGRADES {
        open.push(grid.connect().await);
        open.push(grid.connect().await);
        let before = load.served();
        grid.upgrade().await;
        all_work(&mut open).await;
        eventually("the load goes on", async || {
            (load.served() > before + 20).then_some(())
        })
        .await;
    }
    assert_eq!(grid.predecessors(), UPGRADES, "each has sessions to finish");
    let served = load.finish().await;
    all_work(&mut open).await;
    for session in open {
        session.close().await;
    }
    eventually_equal("processes that were replaced", 0, async || {
        grid.predecessors()
    })
    .await;
    grid.idle().await;
    grid.connect().await.close().await;
    assert!(served > 200, "{served} sessions are no load");
}

#[tokio::test]
async fn five_upgrades_in_a_row_fail_no_connect_and_cut_no_session() {
    let fakes = (FakePlaywright::start().await, FakePlaywright::start().await);
    let grid = Grid::new().fakes(&[&fakes.0, &fakes.1]).capacity(20);
    upgrade_under_load(grid.lifetime(0).start().await).await;
}

#[tokio::test]
async fn five_upgrades_in_a_row_with_redis() {
    let redis = RedisServer::start().await;
    let fakes = (FakePlaywright::start().await, FakePlaywright::start().await);
    let grid = Grid::new()
        .redis(&redis)
        .fakes(&[&fakes.0, &fakes.1])
        .capacity(20)
        .lifetime(0);
    upgrade_under_load(grid.start().await).await;
}

#[tokio::test]
async fn without_a_successor_the_old_process_stays_in_service() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    grid.signal(Signal::SIGQUIT);
    eventually("it says why it stays", async || {
        grid.log().contains("nobody takes over").then_some(())
    })
    .await;
    grid.connect().await.close().await;
    grid.idle().await;
}
