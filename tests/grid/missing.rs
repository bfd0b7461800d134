//! A machine on which something is missing: the program names it and how to get it.

use crate::support::{Grid, GridBuilder, eventually};
use playhouse::config::{Config, Role};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[tokio::test]
async fn up_names_what_is_missing_and_how_to_get_it() {
    for (name, value, needed) in [
        (
            "PLAYHOUSE_PLAYWRIGHT",
            "/nowhere/playwright-core",
            "/nowhere/playwright-core",
        ),
        (
            "PLAYHOUSE_BROWSER_PATH",
            "/nowhere/chromium",
            "/nowhere/chromium",
        ),
        ("BROWSER_TYPE", "webkit", "npx playwright install"),
    ] {
        let (status, log) = Grid::new().env(name, value).start_in_vain().await;
        assert!(!status.success(), "{name}: {log}");
        assert!(log.contains(needed), "{name}: {log}");
        assert!(!log.contains("panicked"), "{name}: {log}");
        assert!(log.lines().count() < 10, "{name}: {log}");
    }
}

#[tokio::test]
async fn a_broken_configuration_is_refused_before_anything_is_bound() {
    let yaml = "queue: { timeout: 5 parsecs }\nwarkers: []";
    let (status, log) = Grid::new().config(yaml).start_in_vain().await;
    assert_eq!(status.code(), Some(78), "{log}");
    for told in [
        "playhouse.yaml:1",
        "queue.timeout",
        "playhouse.yaml:2",
        "warkers",
    ] {
        assert!(log.contains(told), "{told} is not named: {log}");
    }
}

fn executable(path: PathBuf, content: &[u8]) -> String {
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.into_os_string().into_string().unwrap()
}

/// A program that lacks a library: a shell, which asks for another one than it was built for.
fn lacks_a_library(folder: &Path) -> String {
    let (there, missing) = (b"libc.so.6\0", b"libq.so.6\0");
    let mut program = std::fs::read("/bin/sh").unwrap();
    let position = program.windows(there.len()).position(|it| it == there);
    let position = position.expect("it is linked to the C library");
    program[position..][..missing.len()].copy_from_slice(missing);
    executable(folder.join("browser"), &program)
}

fn node() -> PathBuf {
    let worker = Config::defaults(Role::Up).worker;
    playhouse::worker::locate(&worker).unwrap().node
}

/// Node, after this has happened.
fn node_after(folder: &Path, happens: &str) -> String {
    let text = format!(
        "#!/bin/sh\nnode={}\n{happens}\nexec $node \"$@\"\n",
        node().display()
    );
    executable(folder.join("node"), text.as_bytes())
}

/// Waits until two browsers did not start for this reason, and each time the pause is longer.
async fn says(builder: GridBuilder, why: &[&str]) {
    const LINE: &str = "browser did not start";
    let grid = builder.workers(1).launch().await;
    let log = eventually("it tries again", async || {
        let log = grid.log();
        let tells = |line: &&str| line.contains(LINE) && why.iter().all(|it| line.contains(it));
        (log.lines().filter(tells).count() >= 2).then_some(log)
    })
    .await;
    let pauses = grid.logged(LINE, "retry_in_ms");
    assert!(pauses.is_sorted() && pauses[..2] == [500, 1000], "{log}");
}

#[tokio::test]
async fn a_browser_that_does_not_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let browser = lacks_a_library(folder);
    let grid = Grid::new().env("PLAYHOUSE_BROWSER_PATH", &browser);
    says(grid, &["libq.so.6", &browser, "install-deps"]).await;

    let full = node_after(
        folder,
        "exec $node -e \"fs.writeSync(fs.openSync('/dev/full', 'w'), 'x')\"",
    );
    // Node itself lies elsewhere than what stands in its place.
    let readable = format!("worker: {{ readable: [ {} ] }}", node().display());
    let grid = Grid::new()
        .env("PLAYHOUSE_WORKER_NODE", &full)
        .config(&readable);
    says(
        grid,
        &["the disk with the temporary files is full", "TMPDIR"],
    )
    .await;

    // Whether anybody else can have a sandbox depends on the machine.
    if nix::unistd::geteuid().is_root() {
        let grid = Grid::new().env("PLAYHOUSE_WORKER_SANDBOX", "true");
        says(grid, &["sandbox does not work here", "worker.sandbox"]).await;
    }
}
