//! What curl and Prometheus are told at `/metrics`.

use crate::support::{Connected, FakePlaywright, Grid, script, tools};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scrape {
    content_type: String,
    families: BTreeMap<String, Family>,
}

#[derive(Deserialize)]
struct Family {
    r#type: String,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What the contract promises, without prefix: name, type, and the labels of each series.
const PROMISED: [(&str, &str, &[&str]); 18] = [
    ("sessions_active", "gauge", &["browser"]),
    ("sessions_total", "counter", &["browser", "outcome"]),
    ("session_duration_seconds", "histogram", &[]),
    ("connect_duration_seconds", "histogram", &["phase"]),
    ("queue_depth", "gauge", &["browser"]),
    ("queue_wait_seconds", "histogram", &[]),
    ("rejections_total", "counter", &["reason"]),
    ("workers", "gauge", &["browser", "status"]),
    ("slots", "gauge", &["browser", "state"]),
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
    let sessions = (connect(&grid).await, connect(&grid).await);
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
    let session = connect(&grid).await;
    grid.dial()
        .target("/?browser=netscape")
        .connect()
        .await
        .err()
        .unwrap();

    let data_port = grid.url().replace("ws://", "http://") + "/metrics";
    for url in [data_port, grid.admin_url("/metrics")] {
        let scrape = scrape(&url, &[]);
        for (name, r#type, labels) in PROMISED {
            assert_family(&scrape, name, r#type, labels);
        }
        let active = scrape.value("sessions_active", &[("browser", "chromium")]);
        assert_eq!(active, Some(1.0), "{url}");
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

    let after = scrape(&grid.admin_url("/metrics"), &[]);
    let ended: f64 = after.all("sessions_total").iter().map(|it| it.value).sum();
    assert_eq!(ended, 1.0);
    assert_eq!(
        after.value("sessions_active", &[("browser", "chromium")]),
        Some(0.0)
    );
}

#[tokio::test]
async fn both_formats_of_prometheus_are_spoken_to_who_asks_for_them() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let url = grid.url().replace("ws://", "http://") + "/metrics";
    for accept in ["text/plain", "application/openmetrics-text"] {
        let scrape = scrape(&url, &[accept]);
        assert!(
            !scrape.content_type.starts_with("application/json"),
            "{accept}"
        );
        assert_eq!(scrape.value("store_up", &[]), Some(1.0), "{accept}");
    }
}

impl Scrape {
    fn family(&self, name: &str) -> &Family {
        // Both parsers name a counter without its suffix.
        let base = name.strip_suffix("_total").unwrap_or(name);
        let family = self.families.get(&format!("playhouse_{base}"));
        family.unwrap_or_else(|| panic!("there is no playhouse_{name}"))
    }

    fn all(&self, name: &str) -> Vec<&Sample> {
        let full = format!("playhouse_{name}");
        let samples = self.family(name).samples.iter();
        samples.filter(|sample| sample.name == full).collect()
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&&Sample| {
            labels
                .iter()
                .all(|(name, value)| sample.labels.get(*name).is_some_and(|it| it == value))
        };
        self.all(name).iter().find(has).map(|sample| sample.value)
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

fn scrape(url: &str, accept: &[&str]) -> Scrape {
    let output = Command::new(tools("python/bin/python"))
        .arg(script("python/scrape.py"))
        .arg(url)
        .args(accept)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{url} cannot be parsed: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn connect(grid: &Grid) -> Connected {
    let connected = grid.dial().connect().await;
    connected.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"))
}
