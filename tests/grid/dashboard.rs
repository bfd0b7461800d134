//! The operator's page in a browser of the grid that it shows.

use crate::support::{Grid, GridBuilder, SuiteRun};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::time::Duration;

/// Longer than anything that is looked at while a client waits.
const PATIENT: Duration = Duration::from_secs(600);

#[tokio::test]
async fn operators_see_and_end_what_there_is() {
    let grid = Grid::new().workers(1).capacity(2).queue_timeout(PATIENT);
    let grid = grid.start().await;
    let output = tempfile::tempdir().unwrap();
    // `make pictures` keeps what the page looks like, and of a grid with more to see too.
    let kept = std::env::var_os("PLAYHOUSE_PICTURES").map(PathBuf::from);
    let folder = kept.as_deref().unwrap_or(output.path());
    let ran = SuiteRun::of("dashboard", &grid, &folder.join("run")).await;
    assert_eq!((ran.passed, ran.flaky), (6, 0), "{ran}");
    grid.idle().await;
    if let Some(folder) = kept {
        drop(grid);
        let grid = busy().start().await;
        let ran = SuiteRun::of("pictures", &grid, &folder.join("run")).await;
        assert_eq!(ran.passed, 1, "{ran}");
    }
}

fn busy() -> GridBuilder {
    let tokens = ["alpha", "beta"].map(|name| {
        let hash = Sha256::digest(name);
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{{ name: {name}, sha256: \"{hash}\" }}")
    });
    let tokens = format!("auth: {{ tokens: [ {} ] }}", tokens.join(", "));
    Grid::new()
        .workers(3)
        .capacity(3)
        .lifetime(50)
        .queue_timeout(PATIENT)
        .env("PLAYHOUSE_ADMIN_LIVE_VIEW", "true")
        .config(&tokens)
}
