//! A grid as a container runs it: process 1, not root, no capability, nothing to write to but `/tmp`; sealed,
//! and with Chromium's own sandbox. The images themselves, and the seccomp profile, are `make containers`.

use crate::support::{
    Driver, Kind, Language, Process, Share, Tree, eventually, free_port, get, repository, room,
};
use nix::sys::signal::Signal;
use std::process::Stdio;
use tokio::process::Command;

/// The grid; root puts it into namespaces, and anybody else cannot.
fn command() -> Command {
    let program = env!("CARGO_BIN_EXE_playhouse");
    if !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child"])
        .args(["--propagation", "private"])
        .arg(repository().join("tests/support/confined.sh"))
        .args([repository().as_os_str(), program.as_ref()]);
    command
}

/// A line of what the kernel tells of a process.
fn status(process: &Process, name: &str) -> String {
    let file = format!("/proc/{}/status", process.pid);
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(":\t"));
    let found = lines.find(|(key, _)| *key == name);
    found.map_or(String::new(), |(_, value)| value.to_owned())
}

#[tokio::test]
async fn it_serves_sealed_and_in_a_sandbox_where_it_may_do_nothing() {
    let _room = room(Share::Whole).await;
    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let [data, admin] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let mut grid = command()
        .args(["up", "--workers", "1"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LISTEN_ADDR", &data)
        .env("ADMIN_ADDR", &admin)
        .env("PLAYHOUSE_WORKER_SEAL", "required")
        .env("PLAYHOUSE_WORKER_SANDBOX", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    let pid = grid.id().unwrap();
    eventually("the worker takes sessions", async || {
        assert!(grid.try_wait().unwrap().is_none(), "{}", said());
        said().contains("worker joined").then_some(())
    })
    .await;
    assert_eq!(get(&format!("http://{admin}/readyz")).await.status, 200);
    let mut user = Driver::start(Language::Node, &format!("ws://{data}"));
    user.open("confined").await.unwrap();

    let tree = Tree::below(&[pid]);
    let playhouse = tree.of_kind(Kind::Playhouse)[0];
    if nix::unistd::geteuid().is_root() {
        assert!(status(playhouse, "NSpid").ends_with("\t1"));
        for (name, value) in [
            ("Uid", "10042\t10042\t10042\t10042"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("NoNewPrivs", "1"),
        ] {
            assert_eq!(status(playhouse, name), value, "{name}");
        }
    }
    let browsers = tree.of_kind(Kind::BrowserChild);
    let is_renderer = |it: &&&Process| it.command.contains("--type=renderer");
    let renderers: Vec<_> = browsers.iter().filter(is_renderer).collect();
    assert!(!renderers.is_empty(), "{browsers:?}");
    let depth = |it| status(it, "NSpid").split('\t').count();
    for renderer in renderers {
        // A filter of system calls, and a namespace of processes below the grid's own.
        let (filter, inside) = (status(renderer, "Seccomp"), depth(renderer));
        if renderer.exists() {
            assert_eq!(filter, "2", "{renderer:?}");
            assert!(inside > depth(playhouse), "{renderer:?}");
        }
    }
    user.works("confined").await.unwrap();
    user.quit().await;

    playhouse.signal(Signal::SIGTERM);
    let ended = grid.wait().await.unwrap();
    assert!(ended.success(), "{ended}: {}", said());
    tree.gone().await;
}
