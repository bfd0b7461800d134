//! The operator's page in a browser of the grid that it shows.

use crate::support::{Grid, SuiteRun};
use std::time::Duration;

/// Longer than anything that is looked at while a client waits.
const PATIENT: Duration = Duration::from_secs(600);

#[tokio::test]
async fn operators_see_and_end_what_there_is() {
    let grid = Grid::new().workers(1).capacity(2).queue_timeout(PATIENT);
    let grid = grid.start().await;
    let output = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("PLAYHOUSE_PICTURES").map(std::path::PathBuf::from);
    let folder = kept.unwrap_or_else(|| output.path().to_owned());
    let ran = SuiteRun::of("dashboard", &grid, &folder.join("run")).await;
    assert_eq!((ran.passed, ran.flaky), (6, 0), "{ran}");
    grid.idle().await;
}
