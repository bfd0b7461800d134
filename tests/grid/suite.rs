//! Playwright's own test runner against a grid: traces, videos, screenshots, uploads, downloads,
//! retries, and pages in the scripts of the world.

use crate::support::{Grid, repository, tools, version};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Generous: a loaded machine is not a failure.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the suite; the runner's report.
async fn run(grid: &str, output: &Path) -> Value {
    let version = version("PLAYWRIGHT_VERSION");
    let modules = tools(&format!("runner-{version}")).join("node_modules");
    let node = tools(&format!("playwright-{version}")).join("playwright/driver/node");
    let suite = repository().join("tests/clients/suite");
    let command = Command::new(node)
        .arg(modules.join("playwright/cli.js"))
        .args(["test", "--config"])
        .arg(suite.join("playwright.config.js"))
        .env("NODE_PATH", &modules)
        .env("GRID", grid)
        .env("SUITE_OUTPUT", output)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(PATIENCE, command).await;
    let ran = ran.expect("it ends").expect("Node starts");
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| {
        let errors = String::from_utf8_lossy(&ran.stderr);
        panic!("no report ({error}): {errors}")
    })
}

/// Everything of this kind below a folder, none of it empty.
fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, name));
        } else if entry.file_name().to_string_lossy().ends_with(name) {
            assert!(entry.metadata().unwrap().len() > 0, "{}", path.display());
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn a_suite_with_everything_on_runs_as_it_does_at_home() {
    let grid = Grid::new().workers(2).start().await;
    let output = tempfile::tempdir().unwrap();
    let report = run(&grid.url(), output.path()).await;
    let stats = &report["stats"];
    let counted = ["expected", "flaky", "unexpected", "skipped"].map(|it| stats[it].as_u64());
    assert_eq!(counted, [Some(7), Some(1), Some(0), Some(0)], "{report:#}");
    // Of each test, and of the one that was tried twice, two.
    for kind in [".webm", "trace.zip", ".png"] {
        assert_eq!(files(output.path(), kind).len(), 9, "{kind}");
    }
}
