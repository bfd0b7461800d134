//! Playwright's own test runner against a grid: traces, videos, screenshots, uploads, downloads,
//! retries, and pages in the scripts of the world.

use crate::support::{Grid, SuiteRun};
use std::path::{Path, PathBuf};

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
    let ran = SuiteRun::of("first-day", &grid, output.path()).await;
    assert_eq!((ran.passed, ran.flaky), (7, 1), "{ran}");
    // Of each test, and of the one that was tried twice, two.
    for kind in [".webm", "trace.zip", ".png"] {
        assert_eq!(files(output.path(), kind).len(), 9, "{kind}");
    }
}
