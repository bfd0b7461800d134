//! SIGKILL, wherever it hits: only the sessions on what died fail, their clients learn why, the
//! counts come back to zero, and no process is left behind.

use crate::support::{
    Driver, FakePlaywright, Grid, Kind, Language, Process, RedisServer, Tree, eventually,
    eventually_equal, tools, version,
};
use nix::sys::signal::Signal;
use playhouse::config::{Config, Role};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn ten() -> Vec<String> {
    (1..=10).map(|n| n.to_string()).collect()
}

/// Two workers of five seats, all taken by one client.
async fn full_grid() -> (Grid, Driver) {
    let grid = Grid::new().workers(2).capacity(5).start().await;
    let mut client = Driver::start(Language::Python, &grid.url());
    client.open_all(&ten()).await;
    (grid, client)
}

/// Waits until five of the ten are lost, and checks that those know it and the others do not.
async fn five_are_lost_and_five_work(client: &mut Driver) {
    let lost = |client: &Driver| ten().iter().filter(|name| client.lost(name)).count();
    eventually_equal("lost sessions", 5, async || lost(client)).await;
    for name in ten() {
        if client.lost(&name) {
            let error = client.works(&name).await.unwrap_err();
            let clear = error.contains("playhouse: worker lost");
            assert!(clear, "not a clear error: {error}");
        } else {
            client.works(&name).await.unwrap();
        }
    }
    assert_eq!(lost(client), 5, "only the sessions on what died are lost");
}

async fn all_are_lost(client: &Driver) {
    eventually("the client knows that all is lost", async || {
        ten().iter().all(|name| client.lost(name)).then_some(())
    })
    .await;
}

async fn serving(grid: &Grid) -> usize {
    let workers = grid.workers().await;
    workers.iter().filter(|worker| worker.serves()).count()
}

async fn survives_the_loss_of_a(kind: Kind) {
    let (grid, mut client) = full_grid().await;
    grid.tree().of_kind(kind)[0].kill();
    five_are_lost_and_five_work(&mut client).await;

    eventually_equal("serving workers", 2, async || serving(&grid).await).await;
    let mut another = Driver::start(Language::Node, &grid.url());
    another.open_all(&ten()[..5]).await;
    another.quit().await;
    client.quit().await;
    grid.idle().await;

    eventually_equal("servers, browsers, zombies", (2, 2, 0), async || {
        let tree = grid.tree();
        let count = |kind| tree.of_kind(kind).len();
        (count(Kind::Node), count(Kind::Browser), tree.zombies())
    })
    .await;
}

#[tokio::test]
async fn a_killed_browser_takes_only_its_own_sessions_along() {
    survives_the_loss_of_a(Kind::Browser).await;
}

#[tokio::test]
async fn a_killed_browser_server_takes_only_its_own_sessions_along() {
    survives_the_loss_of_a(Kind::Node).await;
}

#[tokio::test]
async fn a_killed_worker_process_takes_its_browser_and_only_its_own_sessions_along() {
    let redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .worker_process(&[])
        .worker_process(&[])
        .env("HEARTBEAT_INTERVAL", "1")
        .env("REDIS_KEY_TTL", "8")
        .start()
        .await;
    let mut client = Driver::start(Language::Python, &grid.url());
    client.open_all(&ten()).await;

    let doomed: Tree = grid.process("worker 1");
    doomed.of_kind(Kind::Playhouse)[0].kill();
    five_are_lost_and_five_work(&mut client).await;
    let children = Tree {
        processes: doomed.processes[1..].to_vec(),
    };
    assert!(!children.processes.is_empty());
    children.gone().await;

    eventually_equal("known workers", 1, async || grid.workers().await.len()).await;
    client.quit().await;
    let mut another = Driver::start(Language::Node, &grid.url());
    another.open_all(&ten()[..5]).await;
    another.quit().await;
    grid.idle().await;
}

#[tokio::test]
async fn a_killed_grid_leaves_no_process_behind() {
    let (mut grid, client) = full_grid().await;
    let statuses = grid.stop(Signal::SIGKILL).await;
    assert!(!statuses[0].success());
    assert_eq!(grid.leftovers(), [] as [std::path::PathBuf; 0]);
    all_are_lost(&client).await;
}

/// Firefox does not end with the server that started it.
#[tokio::test]
async fn a_killed_grid_leaves_no_firefox_behind() {
    let previous = version("PLAYWRIGHT_PREVIOUS");
    let playwright = tools(&format!("playwright-{previous}"));
    let mut grid = Grid::new()
        .workers(1)
        .browser("firefox")
        .env("PLAYHOUSE_PLAYWRIGHT", playwright.to_str().unwrap())
        .start()
        .await;
    grid.logs(&format!("await firefox.connect('{}')", grid.url()))
        .await;
    assert!(!grid.tree().of_kind(Kind::BrowserChild).is_empty());
    grid.stop(Signal::SIGKILL).await;
    assert_eq!(grid.leftovers(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test]
async fn an_interrupted_grid_ends_cleanly_in_the_middle_of_sessions() {
    let (mut grid, client) = full_grid().await;
    let statuses = grid.stop(Signal::SIGINT).await;
    assert!(statuses[0].success(), "{statuses:?}");
    assert_eq!(grid.leftovers(), [] as [std::path::PathBuf; 0]);
    all_are_lost(&client).await;
}

#[tokio::test]
async fn an_idle_grid_ends_at_once_on_sigterm() {
    let mut grid = Grid::new().workers(1).start().await;
    let statuses = grid.stop(Signal::SIGTERM).await;
    assert!(statuses[0].success(), "{statuses:?}");
    assert_eq!(grid.leftovers(), [] as [std::path::PathBuf; 0]);
}

fn real_node() -> PathBuf {
    let settings = Config::defaults(Role::Worker).worker;
    playhouse::worker::locate(&settings).unwrap().node
}

/// Node, after something that has left its server's environment, session and process tree.
fn node_with_a_stray(folder: &Path) -> PathBuf {
    let node = folder.join("node");
    let real = real_node();
    let real = real.display();
    let text = format!("#!/bin/sh\n(setsid env -i sleep 86399 &)\nexec {real} \"$@\"\n");
    std::fs::write(&node, text).unwrap();
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o755)).unwrap();
    node
}

/// Where root may make control groups, a server's processes cannot leave theirs.
#[tokio::test]
async fn what_has_left_its_server_ends_with_it_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let node = node_with_a_stray(folder.path());
    let real = real_node();
    let config = format!(
        "worker: {{ node: {}, readable: [ {} ] }}\n",
        node.display(),
        real.display()
    );
    let grid = Grid::new().workers(1).config(&config).start().await;
    let strays = || {
        let mut tree = grid.process("up");
        let is_stray = |it: &Process| it.command.contains("sleep 86399");
        tree.processes.retain(is_stray);
        tree
    };
    let has_left = async || {
        let strays = strays();
        let left = |it: &Process| it.command.starts_with("sleep");
        (strays.processes.len() == 1 && strays.processes.iter().all(left)).then_some(strays)
    };
    let first = eventually("it has left", has_left).await;
    let old = grid.workers().await.remove(0).id;
    let drain = format!("/v1/workers/{old}/drain");
    assert_eq!(grid.admin("POST", &drain).await.status, 202);
    eventually("another browser serves alone", async || {
        let workers = grid.workers().await;
        (workers.len() == 1 && workers[0].id != old && workers[0].serves()).then_some(())
    })
    .await;
    if !nix::unistd::geteuid().is_root() {
        return strays().processes.iter().for_each(Process::kill);
    }
    first.gone().await;
    let second = eventually("the next one has left", has_left).await;
    let playhouse = grid.process("up");
    playhouse.of_kind(Kind::Playhouse)[0].kill();
    second.gone().await;
}

/// Else an operator waits for something that nobody does.
#[tokio::test]
async fn a_worker_that_nobody_drains_says_so() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let id = grid.workers().await[0].id.clone();
    for name in [id.clone(), format!("chromium:{id}")] {
        let answer = grid
            .admin("POST", &format!("/v1/workers/{name}/drain"))
            .await;
        assert_eq!(answer.status, 409, "{}", answer.body);
        assert!(answer.body.contains("not_drained"), "{}", answer.body);
    }
    grid.connect().await.close().await;
    grid.idle().await;
}
