//! What an autoscaler is told: seats in use and clients waiting, of the whole grid, from no worker
//! at all to more clients than seats and back.

use crate::support::{
    Connected, FakePlaywright, Grid, OriginalWorker, Proxy, RedisServer, Refusal, Scrape,
    eventually_equal,
};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};

const POOL: &str = "chromium/1.65/shared";
const EXPECTED: &str = "pools: [ { browser: chromium, version: \"1.65\" } ]";
const PATIENT: Duration = Duration::from_secs(120);

fn ask_for(proxy: &Proxy, version: &str) -> JoinHandle<Result<Connected, Refusal>> {
    tokio::spawn(proxy.dial().playwright(version).connect())
}

/// What both an HTTP scaler and Prometheus are told of [`POOL`], once they agree with `demand`.
async fn demands(proxy: &Proxy, demand: u32) {
    let labels = [
        ("browser", "chromium"),
        ("version", "1.65"),
        ("seat", "shared"),
    ];
    let told = (demand, Some(f64::from(demand)));
    eventually_equal("demand as JSON and as a metric", told, async || {
        let scrape = Scrape::of(&proxy.admin_url("/metrics"), &[]);
        let capacity = proxy.capacity_of(POOL).await;
        (capacity.demand, scrape.value("demand", &labels))
    })
    .await;
}

#[tokio::test]
async fn an_expected_pool_grows_from_nothing_and_shrinks_to_nothing() {
    let redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .capacity(1)
        .lifetime(0)
        .queue_timeout(PATIENT)
        .config(EXPECTED)
        .start()
        .await;
    demands(&grid, 0).await;
    let empty = grid.capacity_of(POOL).await;
    assert_eq!((empty.pools.len(), empty.pools[0].expected), (1, true));

    let first = ask_for(&grid, "1.65.1");
    demands(&grid, 1).await;
    let second = ask_for(&grid, "1.65.0");
    demands(&grid, 2).await;
    assert_eq!(grid.capacity().await.workers, 0);

    // A worker comes, for one of the two.
    let fake = FakePlaywright::start().await;
    let worker = format!(
        "{EXPECTED}\nworkers: [ {{ endpoint: \"{}\", browser: chromium, version: \"1.65\" }} ]",
        fake.endpoint()
    );
    grid.configure(&worker);
    let first = first.await.unwrap().unwrap();
    demands(&grid, 2).await;
    eventually_equal("workers, used, queued", (1, 1, 1), async || {
        let pool = grid.capacity_of(POOL).await.pools.remove(0);
        (pool.workers, pool.used, pool.queued)
    })
    .await;
    first.close().await;
    let second = second.await.unwrap().unwrap();
    demands(&grid, 1).await;
    second.close().await;
    demands(&grid, 0).await;
    grid.idle().await;
}

#[tokio::test]
async fn a_pool_that_is_neither_expected_nor_there_is_refused_at_once() {
    let redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .queue_timeout(PATIENT)
        .config(EXPECTED)
        .start()
        .await;
    let refusal = grid.dial().playwright("1.63.0").connect().await;
    let refusal = refusal.err().unwrap();
    assert_eq!(refusal.status, 428);
    assert!(refusal.body.contains("1.65"), "{}", refusal.body);
    assert_eq!(grid.capacity().await.demand, 0);
}

/// Expectations change while a process runs, and whoever waits goes on.
#[tokio::test]
pub async fn a_pool_is_expected_from_the_reload_on() {
    let fakes = [FakePlaywright::start().await, FakePlaywright::start().await];
    let worker = |fake: &FakePlaywright, version: &str| {
        let endpoint = fake.endpoint();
        format!("  - {{ endpoint: \"{endpoint}\", browser: chromium, version: \"{version}\" }}\n")
    };
    let old = format!("workers:\n{}", worker(&fakes[0], "1.64"));
    let grid = Grid::new()
        .static_workers(1)
        .queue_timeout(PATIENT)
        .config(&old)
        .start()
        .await;
    let refused = grid.dial().playwright("1.65.0").connect().await;
    assert_eq!(refused.err().unwrap().status, 428);
    grid.configure(&format!("{EXPECTED}\n{old}"));
    demands(&grid, 0).await;
    let waiting = ask_for(&grid, "1.65.0");
    demands(&grid, 1).await;
    grid.configure(&(old + &worker(&fakes[1], "1.65")));
    waiting.await.unwrap().unwrap().close().await;
    grid.idle().await;
}

#[tokio::test]
async fn every_proxy_tells_the_demand_of_the_whole_grid() {
    let redis = RedisServer::start().await;
    let _worker = OriginalWorker::start(&redis, "only").await;
    let grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .foreign_workers(1)
        .capacity(1)
        .lifetime(0)
        .queue_timeout(PATIENT)
        .start()
        .await;
    let holder = grid.proxy(0).connect().await;
    let mut clients = JoinSet::new();
    for at in [0, 1, 1] {
        let client = ask_for(grid.proxy(at), "1.65.0");
        clients.spawn(async move { client.await.unwrap().unwrap().close().await });
    }
    for proxy in grid.proxies() {
        // An answer that came too late is missing in one look, and there in the next.
        let told = (4, 1, 3, vec![(None, 3)]);
        eventually_equal("demand, used, queued, tenants", told, async || {
            let capacity = proxy.capacity().await;
            let tenants = capacity.tenants.into_iter();
            let tenants = tenants.map(|it| (it.token, it.queued)).collect();
            (
                capacity.demand,
                capacity.slots.used,
                capacity.queued,
                tenants,
            )
        })
        .await;
        eventually_equal("demand as a metric", Some(4.0), async || {
            let scrape = Scrape::of(&proxy.admin_url("/metrics"), &[]);
            scrape.value("demand", &[("version", "unknown")])
        })
        .await;
    }
    holder.close().await;
    while let Some(served) = clients.join_next().await {
        served.unwrap();
    }
    for proxy in grid.proxies() {
        proxy.idle().await;
    }
}

#[tokio::test]
async fn a_pool_that_cannot_be_is_an_error_and_an_unknown_one_is_empty() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes_of_version("1.65", &[&fake]).start().await;
    let answer = grid.admin("GET", "/v1/capacity?pool=netscape").await;
    assert_eq!(answer.status, 400);
    let none = grid.capacity_of("firefox").await;
    assert_eq!((none.workers, none.pools), (0, Vec::new()));
    assert_eq!(grid.capacity_of("chromium").await.workers, 1);
}
