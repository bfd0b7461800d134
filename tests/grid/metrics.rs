//! What curl and Prometheus are told at `/metrics`.

use crate::support::{FakePlaywright, Grid, Scrape, eventually, eventually_equal};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// What the contract promises of a proxy, without prefix: name, type, and the labels of each series.
const PROMISED: [(&str, &str, &[&str]); 19] = [
    ("sessions_active", "gauge", &["browser"]),
    ("sessions_total", "counter", &["browser", "outcome"]),
    ("session_duration_seconds", "histogram", &[]),
    ("connect_duration_seconds", "histogram", &["phase"]),
    ("queue_depth", "gauge", &["browser"]),
    ("queue_wait_seconds", "histogram", &[]),
    ("rejections_total", "counter", &["reason"]),
    ("workers", "gauge", &["browser", "status"]),
    ("slots", "gauge", &["browser", "state"]),
    ("demand", "gauge", &["browser", "version", "seat"]),
    ("worker_active_sessions", "gauge", &["worker"]),
    ("worker_lifetime_sessions", "gauge", &["worker"]),
    ("worker_recycles_total", "counter", &["reason"]),
    ("worker_dial_failures_total", "counter", &[]),
    ("relay_bytes_total", "counter", &["direction"]),
    ("store_up", "gauge", &[]),
    ("store_operation_duration_seconds", "histogram", &["op"]),
    ("config_reloads_total", "counter", &["result"]),
    ("build_info", "gauge", &["version"]),
];

#[tokio::test]
async fn curl_is_told_the_number_of_sessions_and_nothing_else() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    assert_eq!(curl(&grid), r#"{"activeConnections":0}"#);
    let sessions = (grid.connect().await, grid.connect().await);
    assert_eq!(curl(&grid), r#"{"activeConnections":2}"#);
    sessions.0.close().await;
    sessions.1.close().await;
    grid.idle().await;
    assert_eq!(curl(&grid), r#"{"activeConnections":0}"#);
}

#[tokio::test]
async fn prometheus_reads_every_promised_series() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    grid.connect().await.close().await;
    grid.idle().await;
    let session = grid.connect().await;
    grid.dial().target("/?browser=netscape").refused().await;

    let data_port = grid.url().replace("ws://", "http://") + "/metrics";
    for url in [data_port, grid.admin_url("/metrics")] {
        let scrape = eventually("the session is counted", async || {
            let scrape = Scrape::of(&url, &[]);
            let active = scrape.value("sessions_active", &[("browser", "chromium")]);
            (active == Some(1.0)).then_some(scrape)
        })
        .await;
        for (name, r#type, labels) in PROMISED {
            assert_family(&scrape, name, r#type, labels);
        }
        let refused: f64 = scrape
            .all("rejections_total")
            .iter()
            .map(|it| it.value)
            .sum();
        assert_eq!(refused, 1.0, "{url}");
        assert_eq!(scrape.value("store_up", &[]), Some(1.0));
        let labels = scrape.families.values().flat_map(|family| &family.samples);
        for sample in labels {
            let values: Vec<&String> = sample.labels.values().collect();
            let secret =
                |value: &&&String| value.contains(session.session()) || value.contains(fake.path());
            assert!(
                !values.iter().any(|value| secret(&value)),
                "{}: {values:?}",
                sample.name
            );
        }
    }
    session.close().await;
    grid.idle().await;

    eventually_equal("ended, open sessions", (2.0, Some(0.0)), async || {
        let after = Scrape::of(&grid.metrics_url(), &[]);
        let ended = after.all("sessions_total").iter().map(|it| it.value).sum();
        let active = after.value("sessions_active", &[("browser", "chromium")]);
        (ended, active)
    })
    .await;
}

#[tokio::test]
async fn both_formats_of_prometheus_are_spoken_to_who_asks_for_them() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let url = grid.url().replace("ws://", "http://") + "/metrics";
    for accept in ["text/plain", "application/openmetrics-text"] {
        let scrape = Scrape::of(&url, &[accept]);
        assert!(
            !scrape.content_type.starts_with("application/json"),
            "{accept}"
        );
        assert_eq!(scrape.value("store_up", &[]), Some(1.0), "{accept}");
    }
}

fn assert_family(scrape: &Scrape, name: &str, r#type: &str, labels: &[&str]) {
    let family = scrape.family(name);
    assert_eq!(family.r#type, r#type, "{name}");
    assert!(!family.samples.is_empty(), "{name} has no series");
    let promised: BTreeSet<&str> = labels.iter().copied().collect();
    for sample in &family.samples {
        let found: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
        let found: BTreeSet<&str> = found.into_iter().filter(|label| *label != "le").collect();
        assert_eq!(found, promised, "labels of {}", sample.name);
    }
}

fn curl(grid: &Grid) -> String {
    let url = grid.url().replace("ws://", "http://") + "/metrics";
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", &url])
        .output();
    let output = output.expect("curl is installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What dashboards and alerts ask Prometheus for is there to be asked for.
#[tokio::test]
async fn dashboards_and_alerts_name_metrics_that_exist() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    grid.connect().await.close().await;
    grid.idle().await;
    let scrape = Scrape::of(&grid.admin_url("/metrics"), &[]);
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm/playhouse/files");
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(files.join(file)).unwrap();
        let mut names = BTreeSet::new();
        for (at, _) in text.match_indices("playhouse_") {
            let name = text[at..].split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            names.insert(name.into_iter().next().unwrap());
        }
        assert!(names.len() > 5, "{file}: {names:?}");
        for name in names {
            let base = name.trim_start_matches("playhouse_");
            let base = base.strip_suffix("_bucket").unwrap_or(base);
            assert!(!scrape.family(base).samples.is_empty(), "{file}: {name}");
        }
    }
}
