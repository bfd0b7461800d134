//! Processes are killed, one or all of them, at any stage. The worker comes back, or nothing of it
//! is left behind.

use super::bench::{Bench, Gate, all_gone, folders, processes, turn};
use super::support::{Kind, Process, Tree, eventually, eventually_equal, free_port};
use nix::sys::signal::Signal;
use playhouse::model::WorkerStatus;
use playhouse::store::WorkerStore;
use playhouse::worker::{MachineShared, Shutdown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_browser_or_server_is_replaced() {
    let bench = Bench::start(|_| ()).await;
    let mut key = bench.available().await.record.key;
    bench.one_server_runs().await;
    let mut victims = Vec::new();
    for kind in [Kind::Browser, Kind::Node] {
        processes().of_kind(kind)[0].kill();
        victims.push(key.id.clone());
        key = bench.replaced(&key).await;
    }
    assert_eq!(bench.lost(), victims);
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_browser_is_killed_when_its_worker_ends() {
    let bench = Bench::start(|_| ()).await;
    bench.available().await;
    processes().of_kind(Kind::Browser)[0].signal(Signal::SIGSTOP);
    bench.end(Shutdown::Drain).await;
}

/// At each stage of a recycle, one of the two servers is killed; there is one again afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_during_a_recycle_leaves_one_browser_that_serves() {
    let mut gate = None;
    let bench = Bench::start(|config| gate = Some(Gate::before_browsers(config))).await;
    let gate = gate.unwrap();
    for victim in [
        "old while the new one starts",
        "new while it starts",
        "old while it drains",
    ] {
        let old = bench.available().await.record.key;
        bench.one_server_runs().await;
        let old_node = processes().of_kind(Kind::Node)[0].clone();
        let (session, ..) = bench.seat().await.unwrap();
        gate.closes();
        let minute = Duration::from_secs(60);
        bench.store.order_recycle(&old, minute).await.unwrap();
        let new_node = eventually("the replacement starts", async || {
            let tree = processes();
            let nodes = tree.of_kind(Kind::Node);
            nodes.into_iter().find(|node| **node != old_node).cloned()
        })
        .await;
        match victim {
            "old while the new one starts" => old_node.kill(),
            "new while it starts" => new_node.kill(),
            _ => {
                gate.opens();
                eventually("the old one drains", async || {
                    let draining = bench.in_status(WorkerStatus::Draining).await;
                    draining.contains(&old).then_some(())
                })
                .await;
                old_node.kill();
            }
        }
        if victim == "new while it starts" {
            // The old one serves on, until another replacement has come.
            assert_eq!(
                bench.in_status(WorkerStatus::Available).await,
                std::slice::from_ref(&old)
            );
        }
        if victim != "old while it drains" {
            gate.opens();
        }
        eventually_equal("one serves, another than before", true, async || {
            let available = bench.in_status(WorkerStatus::Available).await;
            available.len() == 1 && available[0] != old
        })
        .await;
        bench.leave(session).await;
        bench.replaced(&old).await;
    }
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_dropped_takes_its_processes_along() {
    let bench = Bench::start(|_| ()).await;
    bench.available().await;
    bench.abort().await;
}

/// `playhouse up` with one worker.
struct Up(Child);

impl Up {
    fn start(temporary: &Path) -> Up {
        let free = || format!("127.0.0.1:{}", free_port());
        let child = Command::new(env!("CARGO_BIN_EXE_playhouse"))
            .args(["up", "--workers", "1"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("TMPDIR", temporary)
            .env("LISTEN_ADDR", free())
            .env("ADMIN_ADDR", free())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // Its orphans come to this process, whatever the init of this machine does.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        Up(child)
    }

    async fn first(&self, kind: Kind) -> Process {
        eventually("it runs", async || {
            let tree = Tree::below(&[self.0.id()]);
            tree.of_kind(kind).first().map(|process| (*process).clone())
        })
        .await
    }

    /// Its guard, once it is another one than this.
    async fn guard(&self, not: Option<&Process>) -> Process {
        eventually("a guard", async || {
            let tree = Tree::below(&[self.0.id()]);
            let guards = tree.processes.into_iter();
            let mut guards = guards.filter(|it| it.command.starts_with("playhouse-guard"));
            guards.find(|it| Some(it) != not)
        })
        .await
    }

    fn kill(mut self) -> Tree {
        let tree = Tree::below(&[self.0.id()]);
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        tree
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_killed_worker_process() {
    let _turn = turn().await;
    // Killed before there is a browser, while there is one, and while the browser hangs.
    for stage in ["starting", "running", "hung"] {
        let temporary = tempfile::tempdir().unwrap();
        let up = Up::start(temporary.path());
        up.first(Kind::Node).await;
        if stage != "starting" {
            let browser = up.first(Kind::Browser).await;
            if stage == "hung" {
                browser.signal(Signal::SIGSTOP);
            }
        }
        all_gone(&up.kill()).await;
        eventually_equal("no file is left", 0, async || folders(temporary.path())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_killed_is_replaced() {
    let _turn = turn().await;
    let temporary = tempfile::tempdir().unwrap();
    let up = Up::start(temporary.path());
    up.first(Kind::Node).await;
    let first = up.guard(None).await;
    first.kill();
    let _second = up.guard(Some(&first)).await;
    all_gone(&up.kill()).await;
    eventually_equal("no file is left", 0, async || folders(temporary.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_and_its_guard_leave_the_next_one_cleans_up() {
    let _turn = turn().await;
    let temporary = tempfile::tempdir().unwrap();
    let up = Up::start(temporary.path());
    let browser = up.first(Kind::Browser).await;
    // Killed, it would be replaced.
    let guard = up.guard(None).await;
    guard.signal(Signal::SIGSTOP);
    browser.signal(Signal::SIGSTOP);
    let tree = up.kill();
    guard.kill();
    assert!(browser.exists(), "it cannot die of its server's death");
    assert_eq!(folders(temporary.path()), 1);

    let next = MachineShared::below(temporary.path()).unwrap();
    all_gone(&tree).await;
    assert_eq!(folders(temporary.path()), 1, "only the next one's own");
    drop(next);
    assert_eq!(folders(temporary.path()), 0);
}
