//! A new release comes out: every worker and every proxy is restarted in turn, under load, and
//! clients that try nothing twice notice nothing. On one machine by handing over, in a cluster in the
//! order and with the settings of the chart.

use crate::support::{
    Balancer, Chart, Crowd, Driver, Grid, Language, RedisServer, eventually, eventually_equal,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::sleep;

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

/// What a rollout of the chart does to the pods of a Deployment, as far as their processes notice.
struct Rollout {
    /// Between two looks whether a pod is ready.
    period: Duration,
    /// How long a pod goes on before it is told to end; a tenth of what the chart says.
    pre_stop: Duration,
}

impl Rollout {
    fn of(chart: &Chart, name: &str) -> Rollout {
        let spec = &chart.manifest("Deployment", name)["spec"];
        let strategy = &spec["strategy"]["rollingUpdate"];
        assert_eq!(
            (&strategy["maxSurge"], &strategy["maxUnavailable"]),
            (&1.into(), &0.into())
        );
        let pod = &spec["template"]["spec"];
        let container = &pod["containers"][0];
        let probe = &container["readinessProbe"];
        let (http, exec) = (&probe["httpGet"]["path"], &probe["exec"]["command"]);
        let asks = http == "/readyz" || *exec == serde_json::json!(["playhouse", "healthcheck"]);
        assert!(asks, "{probe}");
        let seconds = |value: &Value| Duration::from_secs(value.as_u64().unwrap_or(0));
        let pre_stop = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
        Rollout {
            period: seconds(&probe["periodSeconds"]) / 10,
            pre_stop: pre_stop / 10,
        }
    }

    async fn until_ready(&self, mut is_ready: impl AsyncFnMut() -> bool) {
        eventually("the new pod is ready", async || {
            sleep(self.period).await;
            is_ready().await.then_some(())
        })
        .await;
    }
}

/// A pod that ends is still reached for a while: its endpoint goes at the same moment at which it is told,
/// and whoever leads clients to it hears of that later.
async fn endpoint_goes(balancer: &Balancer, address: SocketAddr) {
    let before = balancer.led_to(address);
    eventually("one more client is led to a pod that ends", async || {
        (balancer.led_to(address) > before).then_some(())
    })
    .await;
    balancer.remove(address);
}

#[tokio::test]
async fn a_rollout_of_the_chart_fails_no_session() {
    let redis = RedisServer::start().await;
    let chart = Chart::render("config: { queue: { timeout: 1h } }");
    let of_proxies = Rollout::of(&chart, "grid-playhouse-proxy");
    let of_workers = Rollout::of(&chart, "grid-playhouse-worker-chromium");
    let replicas = |name: &str| chart.manifest("Deployment", name)["spec"]["replicas"].as_u64();
    assert_eq!(replicas("grid-playhouse-proxy"), Some(PROXIES as u64));
    assert_eq!(replicas("grid-playhouse-worker-chromium"), Some(2));
    assert!(of_proxies.pre_stop > Duration::ZERO);

    let mut grid = Grid::new()
        .redis(&redis)
        .proxies(PROXIES)
        .worker_process(&[])
        .worker_process(&[])
        .config(chart.configuration())
        .start()
        .await;
    let service = Balancer::start().await;
    for proxy in grid.proxies() {
        service.add(proxy.address());
    }
    let url = service.url();
    let crowd = Crowd::start(&[url.clone(), url.clone()], usize::MAX);

    for n in 0..PROXIES {
        // More than one worker, and more than one proxy, seats.
        let staying = Staying::over(std::slice::from_ref(&url), SEATS + 1).await;
        let new = grid.start_proxy();
        of_proxies
            .until_ready(async || {
                let answer = grid.proxy(new).admin_if_it_listens("/readyz").await;
                answer.is_some_and(|it| it.status == 200)
            })
            .await;
        service.add(grid.proxy(new).address());
        let old = grid.proxy(n).address();
        tokio::join!(sleep(of_proxies.pre_stop), endpoint_goes(&service, old));
        let name = format!("proxy {n}");
        grid.signal_to(&name, Signal::SIGTERM);
        go_on(&crowd).await;
        staying.leave().await;
        grid.ended(&name).await;
    }

    for worker in ["worker 0", "worker 1"] {
        let mut staying = Staying::over(std::slice::from_ref(&url), SEATS + 1).await;
        let new = grid.start_worker(&[]);
        of_workers
            .until_ready(async || grid.is_healthy(&new).await)
            .await;
        grid.signal_to(worker, Signal::SIGTERM);
        go_on(&crowd).await;
        staying.all_work().await;
        staying.leave().await;
        grid.ended(worker).await;
    }

    for visit in crowd.leave().await {
        visit.outcome.unwrap();
    }
    assert_eq!(service.lost(), 0);
    for n in PROXIES..2 * PROXIES {
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
