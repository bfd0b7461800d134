//! A pool that grows from nothing and shrinks to nothing, asked for its demand as KEDA asks: by what the
//! chart writes into a `ScaledObject`.

use crate::support::{
    Chart, Driver, Grid, Language, Prometheus, Proxy, RedisServer, eventually, eventually_equal,
};
use serde_json::Value;

const POOL: &str = "grid-playhouse-worker-chromium";
/// Clients wait and are dialled for as long as a slow machine takes: nobody is offered a worker twice.
const FROM_ZERO: &str = "\
workerDefaults: { autoscaling: { enabled: true, minReplicas: 0, maxReplicas: 9 } }
config: { queue: { timeout: 1h }, selection: { dial_timeout: 20s } }";

/// What KEDA makes of a `ScaledObject` with one trigger.
struct Scaler {
    metadata: Value,
    target: f64,
    least: u64,
    most: u64,
}

impl Scaler {
    fn of(chart: &Chart, kind: &str) -> Scaler {
        let spec = &chart.manifest("ScaledObject", POOL)["spec"];
        assert_eq!(spec["scaleTargetRef"]["name"], POOL);
        chart.manifest("Deployment", POOL);
        let triggers = spec["triggers"].as_array().expect("it is a list");
        assert_eq!(triggers.len(), 1);
        let trigger = &triggers[0];
        assert_eq!(
            (&trigger["type"], &trigger["metricType"]),
            (&kind.into(), &"AverageValue".into())
        );
        let metadata = trigger["metadata"].clone();
        let target = metadata["targetValue"]
            .as_str()
            .or(metadata["threshold"].as_str());
        Scaler {
            target: target.expect("it has one").parse().expect("a number"),
            metadata,
            least: spec["minReplicaCount"].as_u64().expect("a number"),
            most: spec["maxReplicaCount"].as_u64().expect("a number"),
        }
    }

    fn text(&self, key: &str) -> &str {
        self.metadata[key]
            .as_str()
            .unwrap_or_else(|| panic!("there is no {key}"))
    }

    /// `metrics-api`: a GET of the URL with the token, and a value by its path in the JSON. The name of
    /// the service stands for the admin port of one of the proxies.
    async fn ask_proxy(&self, proxy: &Proxy) -> f64 {
        let path = self
            .text("url")
            .strip_prefix("http://grid-playhouse-admin.browsers.svc:8081");
        let path = path.expect("the chart's own service");
        assert_eq!(self.text("authMode"), "bearer");
        let answer = proxy.admin("GET", path).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let found = self
            .text("valueLocation")
            .split('.')
            .fold(answer.json::<Value>(), |at, key| {
                at.get(key).cloned().unwrap_or_default()
            });
        found
            .as_f64()
            .unwrap_or_else(|| panic!("no number at valueLocation: {}", answer.body))
    }

    /// `prometheus`: one query, which has to come to one series.
    async fn ask_prometheus(&self, prometheus: &Prometheus) -> Option<f64> {
        assert_eq!(self.text("ignoreNullValues"), "false");
        match prometheus.query(self.text("query")).await[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// What the HorizontalPodAutoscaler wants for a demand, and KEDA where there is none.
    fn pods(&self, demand: f64) -> u64 {
        ((demand / self.target).ceil() as u64).clamp(self.least, self.most)
    }
}

/// A grid of the chart, asked over both ways.
struct Asked {
    grid: Grid,
    by_proxy: Scaler,
    by_prometheus: Scaler,
    prometheus: Prometheus,
}

impl Asked {
    /// Waits until every proxy and Prometheus tell this demand, and checks how many pods that makes.
    async fn tells(&self, demand: u32, pods: u64) {
        let demand = f64::from(demand);
        let told = (vec![demand; 2], Some(demand));
        eventually_equal("demand by proxy, by Prometheus", told, async || {
            let mut by_proxy = Vec::new();
            for proxy in self.grid.proxies() {
                by_proxy.push(self.by_proxy.ask_proxy(proxy).await);
            }
            (
                by_proxy,
                self.by_prometheus.ask_prometheus(&self.prometheus).await,
            )
        })
        .await;
        for scaler in [&self.by_proxy, &self.by_prometheus] {
            assert_eq!(scaler.pods(demand), pods, "pods for {demand}");
        }
    }
}

#[tokio::test]
async fn from_no_worker_to_two_and_back_keda_is_told_the_demand() {
    let redis = RedisServer::start().await;
    let chart = Chart::render(FROM_ZERO);
    let values = format!("{FROM_ZERO}\nscaling: {{ source: prometheus }}");
    let with_prometheus = Chart::render(&values);
    let grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .workers_later()
        .admin_token("token-of-the-operators")
        .config(chart.configuration())
        .start()
        .await;
    let prometheus = Prometheus::start(grid.proxies(), "namespace: browsers").await;
    let mut asked = Asked {
        by_proxy: Scaler::of(&chart, "metrics-api"),
        by_prometheus: Scaler::of(&with_prometheus, "prometheus"),
        grid,
        prometheus,
    };
    asked.tells(0, 0).await;

    let url = asked.grid.url();
    let first = tokio::spawn(async move {
        let mut client = Driver::start(Language::Node, &url);
        client.open("first").await.map(|_| client)
    });
    asked.tells(1, 1).await;
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..5 {
        waiting.spawn(
            asked
                .grid
                .proxy(n % 2)
                .dial()
                .playwright("1.65.1")
                .connect(),
        );
    }
    asked.tells(6, 2).await;
    assert_eq!(asked.grid.capacity().await.workers, 0);

    // The first worker is there, some time later; one of six clients goes on waiting.
    asked.grid.start_worker(&[]);
    let mut client = first.await.unwrap().unwrap();
    eventually_equal("used and queued", (5, 1), async || {
        let capacity = asked.grid.capacity().await;
        (capacity.slots.used, capacity.queued)
    })
    .await;
    asked.tells(6, 2).await;
    let second = asked.grid.start_worker(&[]);
    let mut sessions = Vec::new();
    while let Some(served) = waiting.join_next().await {
        sessions.push(served.unwrap().unwrap());
    }
    asked.tells(6, 2).await;
    client.works("first").await.unwrap();

    for session in sessions {
        session.close().await;
    }
    asked.tells(1, 1).await;
    asked
        .grid
        .signal_to(&second, nix::sys::signal::Signal::SIGTERM);
    client.works("first").await.unwrap();
    client.close("first").await.unwrap();
    client.quit().await;
    asked.tells(0, 0).await;
    asked.grid.idle().await;
}

/// What Prometheus does not know is an error for KEDA, and not a demand of nothing.
#[tokio::test]
async fn a_series_that_is_missing_is_no_demand_of_nothing() {
    let chart = Chart::render(&format!("{FROM_ZERO}\nscaling: {{ source: prometheus }}"));
    let scaler = Scaler::of(&chart, "prometheus");
    let grid = Grid::new().config(chart.configuration());
    let redis = RedisServer::start().await;
    let grid = grid.redis(&redis).start().await;
    let elsewhere = Prometheus::start(grid.proxies(), "namespace: elsewhere").await;
    eventually("it has scraped", async || {
        let up = elsewhere.query("playhouse_demand").await;
        (!up.is_empty()).then_some(())
    })
    .await;
    assert_eq!(scaler.ask_prometheus(&elsewhere).await, None);
}
