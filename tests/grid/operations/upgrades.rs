//! A new process takes over the listeners while clients come and go.

use super::load::{Load, all_work};
use crate::support::{
    FakePlaywright, Grid, GridBuilder, RedisServer, eventually, eventually_equal,
};
use nix::sys::signal::Signal;
use std::time::Duration;

const UPGRADES: usize = 5;
/// Seats on each of two workers: fewer than there are sessions and clients.
const CAPACITY: u32 = 6;

/// A proxy in front of two workers whose seats are too few.
fn grid(fakes: &[&FakePlaywright]) -> GridBuilder {
    let grid = Grid::new().fakes(fakes).capacity(CAPACITY).lifetime(0);
    // Who waits for a seat gets one: sessions come and go.
    grid.queue_timeout(Duration::from_secs(120))
}

/// Upgrades under load; sessions of every generation stay open throughout.
async fn upgrade_under_load(grid: GridBuilder) {
    let mut grid = grid.start().await;
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
    eventually_equal("held seats, as the newest knows", true, async || {
        let workers = grid.workers().await;
        let held: u32 = workers.iter().map(|it| it.active_sessions).sum();
        held as usize >= open.len()
    })
    .await;
    load.reaches(200).await;
    load.finish().await;
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
}

#[tokio::test]
pub async fn five_upgrades_in_a_row_fail_no_connect_and_cut_no_session() {
    let (one, two) = (FakePlaywright::start().await, FakePlaywright::start().await);
    let fakes = [&one, &two];
    upgrade_under_load(grid(&fakes)).await;
}

#[tokio::test]
pub async fn five_upgrades_in_a_row_with_redis() {
    let redis = RedisServer::start().await;
    let (one, two) = (FakePlaywright::start().await, FakePlaywright::start().await);
    let fakes = [&one, &two];
    upgrade_under_load(grid(&fakes).redis(&redis)).await;
    for fake in fakes {
        assert_eq!(fake.most_open(), CAPACITY as usize, "the limit");
    }
}

/// A process that was replaced and is killed takes its seats along.
#[tokio::test]
async fn the_seats_of_a_replaced_process_that_dies_are_free() {
    let fake = FakePlaywright::start().await;
    let mut grid = Grid::new()
        .fakes(&[&fake])
        .capacity(2)
        .queue_timeout(Duration::from_secs(600))
        .start()
        .await;
    let mut lost = grid.connect().await;
    let mut also_lost = grid.connect().await;
    grid.upgrade().await;
    let waiting = tokio::spawn(grid.dial().connect());
    grid.queued(1).await;
    eventually_equal("used seats", 2, async || grid.capacity().await.slots.used).await;
    grid.kill_predecessors();
    lost.closed().await;
    also_lost.closed().await;
    // Both listen for a while after an upgrade: who waited at the one that was killed comes again.
    let seated = match waiting.await {
        Ok(seated) => seated,
        Err(_cut) => grid.dial().connect().await,
    };
    seated.expect("a seat").close().await;
    grid.idle().await;
}

/// Neither one that cannot read its configuration nor one that dies while it waits.
#[tokio::test]
async fn a_failed_start_of_the_successor_leaves_the_old_process_in_service() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let mut open = grid.connect().await;
    let valid = std::fs::read_to_string(grid.config_file()).unwrap();

    grid.configure("limits: { max_concurrent_sessions: many }\n");
    let status = grid.start_successor().ends().await;
    assert_eq!(status.code(), Some(78));
    grid.configure(&valid);

    let waits = grid.start_successor();
    let socket = grid.folder().join("upgrade-0.sock");
    eventually("it waits to be handed the listeners", async || {
        socket.exists().then_some(())
    })
    .await;
    drop(waits);

    grid.signal(Signal::SIGQUIT);
    eventually("it says why it stays", async || {
        grid.log().contains("nobody takes over").then_some(())
    })
    .await;
    open.echo("still there").await;
    grid.connect().await.close().await;
    open.close().await;
    grid.idle().await;
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
