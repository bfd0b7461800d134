//! A new release comes out: every worker and every proxy is restarted in turn, under load, and
//! clients that try nothing twice notice nothing.

use crate::support::{Crowd, Driver, Grid, Language, RedisServer, eventually, eventually_equal};
use std::collections::BTreeSet;
use std::time::Duration;

const WORKERS: usize = 3;
const PROXIES: usize = 2;
const SEATS: usize = 5;

#[tokio::test]
async fn a_rolling_restart_of_three_workers_and_two_proxies_fails_no_session() {
    let redis = RedisServer::start().await;
    let mut grid = Grid::new()
        .redis(&redis)
        .proxies(PROXIES)
        .worker_process(&[])
        .worker_process(&[])
        .worker_process(&[])
        .capacity(SEATS as u32)
        // No browser is to be replaced besides: the test knows how many there are.
        .lifetime(0)
        // Who comes while a worker is away may have to wait for a seat.
        .queue_timeout(Duration::from_secs(60))
        .env("HEARTBEAT_INTERVAL", "1")
        .start()
        .await;
    let urls: Vec<String> = (0..PROXIES).map(|n| grid.proxy(n).url()).collect();
    let crowd = Crowd::start(&[&urls[..], &urls[..]].concat(), usize::MAX);

    for n in 0..WORKERS {
        let mut staying = Staying::on_every_worker(&urls).await;
        let known = ids(&grid).await;
        let name = format!("worker {n}");
        let old = grid.process(&name);
        grid.restart_worker(&name);
        eventually("the new worker serves, the old one drains", async || {
            let workers = grid.workers().await;
            let new = workers
                .iter()
                .any(|it| it.serves() && !known.contains(&it.id));
            let draining = workers.iter().any(|it| it.status == "draining");
            (new && draining).then_some(())
        })
        .await;
        staying.all_work().await;
        assert_eq!(grid.predecessors(), 1, "it waits for its sessions");
        staying.leave().await;
        finished(&mut grid).await;
        old.gone().await;
        go_on(&crowd).await;
    }

    for (n, url) in urls.iter().enumerate() {
        let mut staying = Staying::over(std::slice::from_ref(url), 1).await;
        grid.upgrade_proxy(&format!("proxy {n}")).await;
        go_on(&crowd).await;
        staying.all_work().await;
        assert_eq!(grid.predecessors(), 1, "it waits for its session");
        staying.leave().await;
        finished(&mut grid).await;
        go_on(&crowd).await;
    }

    for visit in crowd.leave().await {
        visit.outcome.unwrap();
    }
    for n in 0..PROXIES {
        grid.proxy(n).idle().await;
    }
}

async fn ids(grid: &Grid) -> BTreeSet<String> {
    let workers = grid.workers().await;
    workers.into_iter().map(|worker| worker.id).collect()
}

/// Waits until the process that was replaced has ended, cleanly.
async fn finished(grid: &mut Grid) {
    eventually_equal("processes that were replaced", 0, async || {
        grid.predecessors()
    })
    .await;
}

/// Waits until the crowd has had more sessions than those that were open.
async fn go_on(crowd: &Crowd) {
    let before = crowd.visits();
    eventually("the crowd goes on", async || {
        (crowd.visits() > before + 2 * PROXIES).then_some(())
    })
    .await;
}

/// Sessions that go on for as long as it takes.
struct Staying(Vec<(Driver, Vec<String>)>);

impl Staying {
    /// So many, through these proxies, that wherever they sit none of the workers has none.
    async fn on_every_worker(proxies: &[String]) -> Staying {
        Staying::over(proxies, (WORKERS - 1) * SEATS + 1).await
    }

    async fn over(proxies: &[String], sessions: usize) -> Staying {
        let mut drivers = Vec::new();
        for (n, proxy) in proxies.iter().enumerate() {
            let mut driver = Driver::start(Language::Node, proxy);
            let names = (n..sessions).step_by(proxies.len());
            let names: Vec<String> = names.map(|n| n.to_string()).collect();
            driver.open_all(&names).await;
            drivers.push((driver, names));
        }
        Staying(drivers)
    }

    async fn all_work(&mut self) {
        for (driver, names) in &mut self.0 {
            for name in names {
                driver.works(name).await.unwrap();
            }
        }
    }

    async fn leave(mut self) {
        self.all_work().await;
        for (mut driver, names) in self.0 {
            for name in names {
                driver.close(&name).await.unwrap();
            }
            driver.quit().await;
        }
    }
}
