//! Playwright's own test runner with a suite of `tests/clients`, its browsers those of a grid.

use super::{Grid, repository, tools, version};
use serde_json::Value;
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Generous: a loaded machine is not a failure.
const PATIENCE: Duration = Duration::from_secs(900);

/// What came of a suite.
pub struct SuiteRun {
    pub passed: u64,
    /// Passed after a failure.
    pub flaky: u64,
    report: Value,
}

impl SuiteRun {
    /// Runs a suite with the files that it makes in `output`. Each of its tests passes in the end.
    pub async fn of(suite: &str, grid: &Grid, output: &Path) -> SuiteRun {
        let ran = SuiteRun::with(suite, grid, output, &[]).await;
        let lost = ran.count("unexpected") + ran.count("skipped");
        assert_eq!(lost, 0, "{ran}");
        ran
    }

    /// Runs a suite with these variables besides, however its tests end.
    pub async fn with(
        suite: &str,
        grid: &Grid,
        output: &Path,
        environment: &[(&str, &str)],
    ) -> SuiteRun {
        let version = version("PLAYWRIGHT_VERSION");
        let modules = tools(&format!("runner-{version}")).join("node_modules");
        let node = tools(&format!("playwright-{version}")).join("playwright/driver/node");
        let folder = repository().join("tests/clients").join(suite);
        let command = Command::new(node)
            .arg(modules.join("playwright/cli.js"))
            .args(["test", "--config"])
            .arg(folder.join("playwright.config.js"))
            .env("NODE_PATH", &modules)
            .env("GRID", grid.url())
            .env("ADMIN", grid.admin_url(""))
            .env("ADMIN_TOKEN", grid.admin_token().unwrap_or_default())
            .env("SUITE_OUTPUT", output)
            .env("NO_COLOR", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ran = tokio::time::timeout(PATIENCE, command).await;
        let ran = ran.expect("it ends").expect("Node starts");
        let report: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| {
            let errors = String::from_utf8_lossy(&ran.stderr);
            panic!("no report ({error}): {errors}")
        });
        let count = |what: &str| report["stats"][what].as_u64().expect("a number");
        SuiteRun {
            passed: count("expected"),
            flaky: count("flaky"),
            report,
        }
    }

    fn count(&self, what: &str) -> u64 {
        self.report["stats"][what].as_u64().expect("a number")
    }
}

impl fmt::Display for SuiteRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.report)
    }
}
