//! What a session costs in the unit that services for browsers publish: the medians of its stages and their
//! sum, one session at a time and ten at the same time, on seats of each kind; and memory for each seat.
//! `lifecycle.js` is the client, this starts what it needs.
//!
//! Before each session everything is at rest: as many browsers are warm as there are to be.

use crate::browser::{CHROMIUM, Tools, start_server};
use crate::process::Process;
use crate::process::free_port;
use crate::proxies::PLAYHOUSE;
use crate::report::{Report, digits, median};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout};

/// Sessions of each kind in one repeat, one after the other.
const ALONE: usize = 8;
/// Sessions at the same time.
const AT_ONCE: usize = 10;
/// Sessions that are held while memory is measured.
const HELD: u64 = 8;
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(300);
/// Processes are at rest when all of them take less of a processor than this between two looks.
const AT_REST: Duration = Duration::from_millis(6);
/// For so many looks in a row.
const LOOKS: u32 = 2;
/// Nobody waits longer for that: another program may keep them from it.
const PATIENCE: Duration = Duration::from_secs(60);

const STAGES: [&str; 5] = ["create", "connect", "page", "goto", "release"];

/// What others publish: sums of the medians of the stages in ms, one and ten at a time.
const PUBLISHED: [(&str, f64, Option<f64>); 8] = [
    ("BaseLayer, self-hosted", 224.0, None),
    ("Notte", 354.0, Some(689.0)),
    ("Browser Use", 377.0, Some(415.0)),
    ("Kernel", 459.0, Some(527.0)),
    ("Browserbase", 726.0, Some(752.0)),
    ("Hyperbrowser", 858.0, Some(1088.0)),
    ("Steel", 1479.0, Some(1668.0)),
    ("Anchor", 2388.0, Some(2536.0)),
];
const SOURCE: &str = "\
Others: BrowserArena's medians of 2026-08-22, create + connect + goto + release, and what BaseLayer says of itself
(its README, run of 2026-06-01). They are not comparable in earnest: those clients are a network away from their
services and open a page of the web, and most of those browsers are virtual machines of their own. Here client, grid
and page are on one machine, and a session gets a place in a browser, or a process. It shows what the grid itself adds.

create is the request for an address to connect to, where there is one; page is the first page, which a session
over CDP finds open.
";

/// Sessions of one kind.
struct Seats {
    name: &'static str,
    /// How the client comes.
    kind: &'static str,
    url: String,
    process: usize,
}

/// The client, which does what it is told to.
struct Client {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

type Times = BTreeMap<String, f64>;

/// What is to be compared, and the processes that it takes.
struct Lab {
    seats: Vec<Seats>,
    processes: Vec<Process>,
    client: Client,
    _folder: TempDir,
}

pub async fn measure(repeats: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut lab = Lab::start().await?;
    let mut raw = String::new();
    let mut all: BTreeMap<(usize, bool), Vec<Times>> = BTreeMap::new();
    // The first sessions of a process are slower than all others.
    for at in 0..lab.seats.len() {
        lab.run(at, 2).await?;
    }
    for repeat in 0..repeats {
        for round in 0..ALONE {
            for n in 0..lab.seats.len() {
                let at = (n + repeat + round) % lab.seats.len();
                all.entry((at, false))
                    .or_default()
                    .extend(lab.run(at, 1).await?);
            }
        }
        for n in 0..lab.seats.len() {
            let at = (n + repeat) % lab.seats.len();
            all.entry((at, true))
                .or_default()
                .extend(lab.run(at, AT_ONCE).await?);
        }
        eprintln!("lifecycle: {} of {repeats} repeats", repeat + 1);
    }
    let mut memory = Vec::new();
    for at in 0..lab.seats.len() {
        memory.push(lab.memory(at).await?);
    }
    for ((at, at_once), sessions) in &all {
        let many = if *at_once { AT_ONCE } else { 1 };
        for (times, stage) in sessions
            .iter()
            .flat_map(|it| STAGES.map(|stage| (it, stage)))
        {
            if let Some(time) = times.get(stage) {
                let name = lab.seats[*at].name;
                let _ = writeln!(raw, "-\t{name}, {many} at once\t{stage}, ms\t{time:.3}");
            }
        }
    }
    report.add_table(table(&lab.seats, &all, &memory), &raw);
    Ok(())
}

fn table(seats: &[Seats], all: &BTreeMap<(usize, bool), Vec<Times>>, memory: &[f64]) -> String {
    let mut table = String::from(
        "A session's stages, medians in ms:\n\n\
         | | create | connect | page | goto | release | sum | slowest connect | memory a session, MiB |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for at_once in [false, true] {
        for (at, seat) in seats.iter().enumerate() {
            let Some(sessions) = all.get(&(at, at_once)) else {
                continue;
            };
            let many = if at_once { AT_ONCE } else { 1 };
            let _ = write!(table, "| {}, {many} at once |", seat.name);
            let of = |stage| -> Vec<f64> {
                sessions
                    .iter()
                    .filter_map(|it| it.get(stage).copied())
                    .collect()
            };
            let mut sum = 0.0;
            for stage in STAGES {
                let values = of(stage);
                if values.is_empty() {
                    table.push_str(" |");
                    continue;
                }
                sum += median(&values);
                let _ = write!(table, " {} |", digits(median(&values)));
            }
            let slowest = of("connect").into_iter().fold(0.0, f64::max);
            let _ = write!(table, " {} | {} |", digits(sum), digits(slowest));
            match at_once {
                false => {
                    let _ = writeln!(table, " {} |", digits(memory[at]));
                }
                true => table.push_str(" |\n"),
            }
        }
    }
    table.push_str(
        "\n| published by others, ms | one at a time | ten at a time |\n|---|---:|---:|\n",
    );
    for (name, alone, together) in PUBLISHED {
        let together = together.map_or(String::new(), |it| format!("{it:.0}"));
        let _ = writeln!(table, "| {name} | {alone:.0} | {together} |");
    }
    format!("{table}\n{SOURCE}")
}

impl Lab {
    async fn start() -> anyhow::Result<Lab> {
        let tools = Tools::find()?;
        let folder = tempfile::tempdir()?;
        let (server, address) = start_server(&tools, folder.path()).await?;
        let (plain, plain_address) = start_plain(folder.path()).await?;
        let (shared, of_shared) = start_grid(folder.path(), "shared").await?;
        let (own, of_own) = start_grid(folder.path(), "own").await?;
        let seats = |name, kind, url: String, process| Seats {
            name,
            kind,
            url,
            process,
        };
        let direct = format!("ws://{address}{}", crate::browser::PATH);
        Ok(Lab {
            seats: vec![
                seats("direct, a Playwright server", "playwright", direct, 0),
                seats("direct, a browser's CDP port", "port", plain_address, 1),
                seats("shared seats", "playwright", format!("ws://{of_shared}"), 2),
                seats("own seats", "playwright", format!("ws://{of_own}"), 3),
                seats("CDP seats", "cdp", format!("http://{of_own}"), 3),
            ],
            processes: vec![server, plain, shared, own],
            client: Client::start(&tools)?,
            _folder: folder,
        })
    }

    /// So many sessions at the same time, when all is quiet.
    async fn run(&mut self, at: usize, at_once: usize) -> anyhow::Result<Vec<Times>> {
        self.rest().await;
        let Seats {
            name, kind, url, ..
        } = &self.seats[at];
        let order = json!({"run": kind, "url": url, "atOnce": at_once});
        let answer = self.client.ask(order).await;
        answer.with_context(|| format!("{at_once} sessions: {name}"))
    }

    /// MiB for each session that is held.
    async fn memory(&mut self, at: usize) -> anyhow::Result<f64> {
        self.rest().await;
        let Seats {
            kind, url, process, ..
        } = &self.seats[at];
        let before = self.processes[*process].shared_out_memory();
        let order = json!({"hold": kind, "url": url, "atOnce": HELD});
        self.client.ask(order).await?;
        self.rest().await;
        let process = self.seats[at].process;
        let after = self.processes[process].shared_out_memory();
        self.client.ask(json!({"drop": true})).await?;
        let each = after.saturating_sub(before) / HELD;
        Ok(each as f64 / f64::from(1 << 20))
    }

    /// Waits until no process has anything to do.
    async fn rest(&self) {
        let began = Instant::now();
        let used = || -> Duration { self.processes.iter().map(Process::cpu_if_told).sum() };
        let (mut before, mut quiet) = (used(), 0);
        while quiet < LOOKS && began.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK).await;
            let now = used();
            // Browsers that have ended take their time with them.
            let is_quiet = now.abs_diff(before) < AT_REST * self.processes.len() as u32;
            quiet = if is_quiet { quiet + 1 } else { 0 };
            before = now;
        }
    }
}

/// A browser with a port of its own, as without any grid.
async fn start_plain(folder: &Path) -> anyhow::Result<(Process, String)> {
    let port = free_port()?;
    let profile = folder.join("plain");
    let mut command = std::process::Command::new(CHROMIUM);
    command
        .args(["--no-sandbox", "--no-first-run", "--hide-scrollbars"])
        .arg(format!("--remote-debugging-port={port}"))
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("about:blank")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process::start(command, Signal::SIGTERM)?;
    let address = format!("127.0.0.1:{port}");
    answers(&address, "/json/version").await?;
    Ok((process, format!("http://{address}")))
}

/// A grid with seats of this kind on this machine, and its address.
async fn start_grid(folder: &Path, seat: &str) -> anyhow::Result<(Process, String)> {
    let folder = folder.join(seat);
    std::fs::create_dir(&folder)?;
    let file = folder.join("playhouse.yaml");
    let address = format!("127.0.0.1:{}", free_port()?);
    let most = AT_ONCE + HELD as usize;
    std::fs::write(
        &file,
        format!(
            "listen: {address}\nadmin: {{ listen: 127.0.0.1:{} }}\n\
             limits: {{ max_concurrent_sessions: {most}, max_lifetime_sessions: 0 }}\n\
             selection: {{ dial_timeout: 20s }}\n\
             worker: {{ seat: {seat}, spares: {AT_ONCE} }}\nlog: {{ level: warn }}\n",
            free_port()?
        ),
    )?;
    let mut command = std::process::Command::new(PLAYHOUSE);
    command
        .args(["up", "--workers", "1", "--config"])
        .arg(file)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PLAYHOUSE_RUNTIME_DIR", &folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("log"))?);
    let process = Process::start(command, Signal::SIGTERM)?;
    answers(&address, "/readyz").await?;
    Ok((process, address))
}

/// Waits until a GET is answered with 200.
async fn answers(address: &str, path: &str) -> anyhow::Result<()> {
    let ask = async || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        Ok(status.ends_with(b"200"))
    };
    let deadline = Instant::now() + START;
    while !ask().await.unwrap_or(false) {
        if Instant::now() > deadline {
            bail!("nobody answers at {address}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

impl Client {
    fn start(tools: &Tools) -> anyhow::Result<Client> {
        let mut child = tokio::process::Command::new(&tools.node)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/datapath/lifecycle.js"))
            .env("NODE_PATH", tools.folder.join("node_modules"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("it is piped")?;
        let output = child.stdout.take().context("it is piped")?;
        let output = BufReader::new(output).lines();
        Ok(Client {
            child,
            input,
            output,
        })
    }

    async fn ask(&mut self, order: Value) -> anyhow::Result<Vec<Times>> {
        let order = format!("{order}\n");
        self.input.write_all(order.as_bytes()).await?;
        match self.output.next_line().await? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => bail!("the client has ended: {}", self.child.wait().await?),
        }
    }
}
