//! What the gateway and the seal cost a session: the same browser server and the same clients, by three ways
//! in turns. `benches/datapath/browser.js` is the client that measures.

use crate::support::{
    Driver, Grid, Language, RedisServer, Tree, eventually, free_port, repository, version,
};
use anyhow::{Context, Result, ensure};
use playhouse::config::{Config, Role};
use playhouse::worker::locate;
use procfs::process::Process;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

const WAYS: [&str; 3] = ["server alone", "gateway", "gateway and seal"];
/// Idle sessions with a page each, and how long their processor time is counted.
const IDLE: usize = 20;
const IDLE_TIME: Duration = Duration::from_secs(15);
/// After sessions have come or gone.
const SETTLED: Duration = Duration::from_secs(5);

/// What the client tells of one repeat.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    name: String,
    first_page: f64,
    evaluate: f64,
    sessions_per_second: f64,
}

/// One way to a browser, and the processes of the worker's side.
struct Way {
    name: &'static str,
    url: String,
    root: u32,
}

/// A browser server as Playwright starts it, on a TCP port; ends with this.
struct Server {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Server {
    fn start() -> Result<Server> {
        let toolchain = locate(&Config::defaults(Role::Worker).worker)?;
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let launch = json!({
            "executablePath": toolchain.executable, "headless": true, "chromiumSandbox": false,
            "host": "127.0.0.1", "port": port, "wsPath": "/alone",
        });
        let file = folder.path().join("launch.json");
        std::fs::write(&file, launch.to_string())?;
        let child = Command::new(&toolchain.node)
            .arg(toolchain.playwright.join("cli.js"))
            .args(["launch-server", "--browser", "chromium", "--config"])
            .arg(file)
            .env("TMPDIR", folder.path())
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Server {
            child,
            url: format!("ws://127.0.0.1:{port}/alone"),
            _folder: folder,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in Tree::below(&[self.child.id()]).processes {
            process.kill();
        }
        self.child.wait().ok();
    }
}

/// Measures, and says what came of it.
pub async fn measure(repeats: usize) -> Result<String> {
    let redis = RedisServer::start().await;
    let builder = Grid::new().redis(&redis);
    let grid = builder
        .worker_process(&[("PLAYHOUSE_WORKER_SEAL", "off")])
        .worker_process(&[("PLAYHOUSE_WORKER_SEAL", "required")])
        .start()
        .await;
    let server = Server::start()?;
    let mut ways = vec![Way {
        name: WAYS[0],
        url: server.url.clone(),
        root: server.child.id(),
    }];
    for (name, worker) in [(WAYS[1], "worker 0"), (WAYS[2], "worker 1")] {
        let log = grid.log_of(worker);
        let workers = grid.workers().await;
        let known = workers.iter().find(|it| log.contains(&it.id));
        let known = known.context("each worker's log names it")?;
        let sealed = known.seal.as_deref() != Some("off");
        ensure!(sealed == (name == WAYS[2]), "the seal is {:?}", known.seal);
        let key = format!("worker:chromium:{}", known.id);
        let url = redis.cli(&["HGET", &key, "endpoint"]);
        let root = grid.process(worker).processes[0].pid as u32;
        ways.push(Way { name, url, root });
    }
    let mut first = Driver::start(Language::Node, &server.url);
    eventually("the server alone answers", async || {
        first.open("first").await.ok()
    })
    .await;
    first.quit().await;

    let told = sessions(&ways, repeats).await?;
    let mut idle = BTreeMap::new();
    for way in &ways {
        idle.insert(way.name, idle_sessions(way).await);
    }
    Ok(report(repeats, &told, &idle))
}

async fn sessions(ways: &[Way], repeats: usize) -> Result<Vec<Told>> {
    let mut command = Language::Node.command(version("PLAYWRIGHT_VERSION"));
    command
        .arg(repository().join("benches/datapath/browser.js"))
        .arg(repeats.to_string())
        .args(ways.iter().map(|it| format!("{}={}", it.name, it.url)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut client = command.spawn()?;
    let output = client.stdout.take().context("it is piped")?;
    let mut lines = BufReader::new(output).lines();
    let mut told = Vec::new();
    while let Some(line) = lines.next_line().await? {
        eprintln!("{line}");
        told.push(serde_json::from_str(&line)?);
    }
    ensure!(client.wait().await?.success(), "the clients failed");
    Ok(told)
}

/// Memory in KiB and processor time in milliseconds a minute, of one idle session.
async fn idle_sessions(way: &Way) -> (f64, f64) {
    tokio::time::sleep(SETTLED).await;
    let (memory, idle) = (memory(way.root), time_in(way.root).await);
    let names: Vec<String> = (0..IDLE).map(|n| format!("idle-{n}")).collect();
    let mut user = Driver::start(Language::Node, &way.url);
    for name in &names {
        user.open(name).await.expect("there is room for it");
    }
    tokio::time::sleep(SETTLED).await;
    let (more, busy) = (self::memory(way.root), time_in(way.root).await);
    user.quit().await;
    let each = |all: f64| all / IDLE as f64;
    let minutes = IDLE_TIME.as_secs_f64() / 60.0;
    (
        each(more as f64 - memory as f64) / 1024.0,
        each((busy - idle) * 1000.0) / minutes,
    )
}

/// Proportional memory of a process and all below it, in bytes.
fn memory(root: u32) -> u64 {
    let of = |pid: i32| {
        let rollup = Process::new(pid).ok()?.smaps_rollup().ok()?;
        let map = rollup.memory_map_rollup.into_iter().next()?;
        map.extension.map.get("Pss").copied()
    };
    let tree = Tree::below(&[root]);
    tree.processes.iter().filter_map(|it| of(it.pid)).sum()
}

/// Seconds of processor time that they take in a while.
async fn time_in(root: u32) -> f64 {
    let ticks = || -> u64 {
        let stats = Tree::below(&[root]).processes.into_iter();
        let stats = stats.filter_map(|it| Process::new(it.pid).ok()?.stat().ok());
        stats.map(|it| it.utime + it.stime).sum()
    };
    let before = ticks();
    tokio::time::sleep(IDLE_TIME).await;
    ticks().saturating_sub(before) as f64 / procfs::ticks_per_second() as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(repeats: usize, told: &[Told], idle: &BTreeMap<&str, (f64, f64)>) -> String {
    let mut text = format!(
        "Chromium behind Playwright's server, clients in Node, {repeats} repeats in turns, medians. Server alone: on a TCP\n\
         port, without the seal, as proxies reached browsers before there was a gateway.\n\n\
         | | {} | {} | {} | to the server alone |\n|---|---:|---:|---:|---|\n",
        WAYS[0], WAYS[1], WAYS[2]
    );
    type Value = fn(&Told) -> f64;
    let rows: [(&str, Value, Option<f64>); 3] = [
        ("first page, ms", |it| it.first_page, Some(0.3)),
        ("evaluate, ms", |it| it.evaluate, Some(0.05)),
        ("sessions/s", |it| it.sessions_per_second, None),
    ];
    for (what, value, budget) in rows {
        let of = |way: &str| {
            let values = told.iter().filter(|it| it.name == way);
            median(values.map(value).collect())
        };
        let [alone, gateway, sealed] = WAYS.map(of);
        let verdict = match budget {
            Some(budget) => format!(
                "{:+.3}, {:+.3} (at most +{budget})",
                gateway - alone,
                sealed - alone
            ),
            None => format!("{:.2}, {:.2}", gateway / alone, sealed / alone),
        };
        let _ = writeln!(
            text,
            "| {what} | {alone:.3} | {gateway:.3} | {sealed:.3} | {verdict} |"
        );
    }
    let names = [
        "memory of an idle session with a page, MiB",
        "processor time of it, ms a minute",
    ];
    for (row, what) in names.into_iter().enumerate() {
        let [alone, gateway, sealed] = WAYS.map(|way| match row {
            0 => idle[way].0 / 1024.0,
            _ => idle[way].1,
        });
        let ratios = format!("{:.2}, {:.2}", gateway / alone, sealed / alone);
        let _ = writeln!(
            text,
            "| {what} | {alone:.2} | {gateway:.2} | {sealed:.2} | {ratios} |"
        );
    }
    text.push_str("\nRaw: through, first page in ms, evaluate in ms, sessions/s.\n\n");
    for it in told {
        let _ = writeln!(
            text,
            "{}\t{:.3}\t{:.4}\t{:.2}",
            it.name, it.first_page, it.evaluate, it.sessions_per_second
        );
    }
    text
}
