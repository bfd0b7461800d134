//! Recycles in a row leave nothing behind: no process, file descriptor, port, temporary folder or
//! key in Redis more than at the start. `RECYCLES` says how many (`make recycles`: 100).

use crate::support::{Grid, Kind, RedisServer, Stock, eventually};
use std::time::Instant;

const WORKER: &str = "worker 0";

#[tokio::test]
async fn recycles_in_a_row_leave_nothing_behind() {
    let recycles = std::env::var("RECYCLES").map_or(10, |text| text.parse().unwrap());
    let redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .worker_process(&[])
        .env("HEARTBEAT_INTERVAL", "1")
        .start()
        .await;
    // The first ones open what stays open.
    for _ in 0..2 {
        recycle(&grid).await;
    }
    let start = Stock::at_rest(&grid, &redis, 1, 1).await;
    println!("at the start: {start:#?}");
    let began = Instant::now();
    for _ in 0..recycles {
        recycle(&grid).await;
    }
    let took = began.elapsed();
    Stock::returns(&grid, &redis, &start).await;
    println!("nothing more after {recycles} recycles in {took:.1?}");
}

/// One recycle with a session on the old browser, until that is gone.
async fn recycle(grid: &Grid) {
    let session = grid.connect().await;
    let old = grid.workers().await.remove(0).id;
    let path = format!("/v1/workers/{old}/drain");
    assert_eq!(grid.admin("POST", &path).await.status, 202);
    eventually("both are there", async || {
        let workers = grid.workers().await;
        let drains = |id: &str, status: &str| id == old && status == "draining";
        let drains = workers.iter().any(|it| drains(&it.id, &it.status));
        (drains && workers.iter().any(|it| it.serves())).then_some(())
    })
    .await;
    session.close().await;
    eventually("only the new one is there", async || {
        let workers = grid.workers().await;
        let done = workers.len() == 1 && workers[0].id != old;
        let tree = grid.process(WORKER);
        (done && tree.of_kind(Kind::Node).len() == 1).then_some(())
    })
    .await;
}
