//! The demand of a pool, asked for as KEDA asks: by what the chart writes into a `ScaledObject`.

use crate::support::{Chart, Grid, Prometheus, RedisServer, eventually};
use serde_json::Value;

const POOL: &str = "grid-playhouse-worker-chromium";
/// Clients wait for as long as a slow machine takes.
const FROM_ZERO: &str = "\
workerDefaults: { autoscaling: { enabled: true, minReplicas: 0, maxReplicas: 9 } }
config: { queue: { timeout: 1h } }";

/// What KEDA makes of a `ScaledObject` with one trigger.
struct Scaler {
    metadata: Value,
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
        Scaler { metadata }
    }

    fn text(&self, key: &str) -> &str {
        self.metadata[key]
            .as_str()
            .unwrap_or_else(|| panic!("there is no {key}"))
    }

    /// `prometheus`: one query, which has to come to one series.
    async fn ask_prometheus(&self, prometheus: &Prometheus) -> Option<f64> {
        assert_eq!(self.text("ignoreNullValues"), "false");
        match prometheus.query(self.text("query")).await[..] {
            [value] => Some(value),
            _ => None,
        }
    }
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
