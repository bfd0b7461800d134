//! What one session costs Redis as the fleet grows, and all proxies together as they become more:
//! real proxies that share one Redis, and clients that open and close sessions at all of them.
//!
//! What they cost while nobody comes is measured before, and taken off.

use crate::Compare;
use crate::client::{Door, Session};
use crate::measure::in_lanes;
use crate::process::{Cpu, Process, free_port};
use crate::proxies::{PLAYHOUSE, playhouse};
use crate::redis::{Redis, Work};
use crate::report::{Report, digits, median};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::cell::Cell;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Workers and proxies of each line.
const SIZES: [(usize, usize); 5] = [(10, 1), (1000, 1), (10_000, 1), (1000, 4), (1000, 16)];
/// Sessions that are opened and closed.
const SESSIONS: usize = 6000;
/// Clients that do so at the same time.
const CROWD: usize = 32;
/// For how long nobody comes.
const QUIET: Duration = Duration::from_secs(5);
/// How long the proxies may take to learn of all workers.
const START: Duration = Duration::from_secs(60);
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// What Redis' time for one session has to stay below, in µs.
const REDIS_TARGET: f64 = 25.0;

/// Proxies that share one Redis.
struct Crew {
    proxies: Vec<Process>,
    doors: Vec<Door>,
    redis: Redis,
    _folder: TempDir,
}

/// What was used so far.
struct Used {
    at: Instant,
    proxies: Vec<Cpu>,
    redis: Work,
}

/// What was used in a stretch of time.
#[derive(Clone, Copy)]
struct Spent {
    seconds: f64,
    /// Seconds of all proxies' processor time.
    proxies: f64,
    redis: f64,
    commands: f64,
    bytes: f64,
}

impl Crew {
    async fn start(
        program: &Path,
        (workers, proxies): (usize, usize),
        backend: SocketAddr,
    ) -> anyhow::Result<Crew> {
        let redis = Redis::start().await?;
        redis.register(workers, backend, "/").await?;
        let folder = tempfile::tempdir()?;
        let mut crew = Crew {
            proxies: Vec::new(),
            doors: Vec::new(),
            redis,
            _folder: folder,
        };
        for n in 0..proxies {
            crew.add(program, n)?;
        }
        crew.until_ready().await?;
        Ok(crew)
    }

    fn add(&mut self, program: &Path, n: usize) -> anyhow::Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let file = self._folder.path().join(format!("{n}.yaml"));
        let store = format!("store: {{ url: \"{}\" }}", self.redis.url());
        fs::write(&file, playhouse(address, free_port()?, &store))?;
        let mut command = Command::new(program);
        command
            .arg("proxy")
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.proxies.push(Process::start(command, Signal::SIGINT)?);
        self.doors
            .push(Door::new(format!("proxy {n}"), address, "/"));
        Ok(())
    }

    async fn until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        for door in &self.doors {
            loop {
                let Err(lost) = Session::open(door).await else {
                    break;
                };
                if Instant::now() > deadline {
                    bail!("no session through {}: {lost}", door.name);
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
        Ok(())
    }

    async fn used(&self) -> anyhow::Result<Used> {
        let proxies = self.proxies.iter().map(Process::cpu);
        Ok(Used {
            at: Instant::now(),
            proxies: proxies.collect::<anyhow::Result<_>>()?,
            redis: self.redis.work().await?,
        })
    }

    async fn spent_since(&self, before: &Used) -> anyhow::Result<Spent> {
        let now = self.used().await?;
        let each = now.proxies.iter().zip(&before.proxies);
        let proxies: Duration = each.map(|(now, before)| now.since(*before)).sum();
        Ok(Spent {
            seconds: (now.at - before.at).as_secs_f64(),
            proxies: proxies.as_secs_f64(),
            redis: now.redis.cpu.since(before.redis.cpu).as_secs_f64(),
            commands: (now.redis.commands - before.redis.commands) as f64,
            bytes: (now.redis.bytes - before.redis.bytes) as f64,
        })
    }

    async fn open_and_close(&self, sessions: usize) -> anyhow::Result<()> {
        let doors: Rc<[Door]> = self.doors.clone().into();
        let next = Rc::new(Cell::new(0));
        in_lanes(CROWD, sessions, move || {
            let door = doors[next.get() % doors.len()].clone();
            next.set(next.get() + 1);
            async move { Session::open(&door).await?.close().await }
        })
        .await
        .context("a session was lost")
    }
}

impl Spent {
    /// The same without what nobody's coming costs in that time.
    fn beyond(self, quiet: Spent) -> Spent {
        let part = self.seconds / quiet.seconds;
        Spent {
            seconds: self.seconds,
            proxies: self.proxies - quiet.proxies * part,
            redis: self.redis - quiet.redis * part,
            commands: self.commands - quiet.commands * part,
            bytes: self.bytes - quiet.bytes * part,
        }
    }

    fn columns(&self, quiet: Spent) -> [f64; 7] {
        let session = |all: f64| all / SESSIONS as f64;
        [
            session(1e6 * self.proxies),
            session(1e6 * self.redis),
            session(self.commands),
            session(self.bytes),
            SESSIONS as f64 / self.seconds,
            quiet.proxies / quiet.seconds * 100.0,
            quiet.redis / quiet.seconds * 100.0,
        ]
    }
}

const COLUMNS: &str = "| | workers | proxies | CPU of all proxies per session, µs | Redis' CPU per session, µs \
    | commands per session | bytes per session | sessions/s | all proxies, quiet, % of a core | Redis, quiet, % of a core |\n\
    |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";

/// Measures every size, with the build of this bench and the others in turns.
pub async fn measure(
    wanted: &Compare,
    backend: SocketAddr,
    report: &mut Report,
) -> anyhow::Result<()> {
    let built = PathBuf::from(PLAYHOUSE);
    let programs: Vec<&PathBuf> = std::iter::once(&built).chain(&wanted.other).collect();
    let (mut table, mut raw) = (COLUMNS.to_owned(), String::new());
    let mut most = 0.0_f64;
    for (workers, proxies) in SIZES {
        let mut values = vec![Vec::new(); programs.len()];
        for repeat in 0..wanted.repeats.min(3) {
            for at in 0..programs.len() {
                let at = (at + repeat) % programs.len();
                let crew = Crew::start(programs[at], (workers, proxies), backend).await?;
                crew.open_and_close(SESSIONS / 4).await?;
                let before = crew.used().await?;
                tokio::time::sleep(QUIET).await;
                let quiet = crew.spent_since(&before).await?;
                let before = crew.used().await?;
                crew.open_and_close(SESSIONS).await?;
                let spent = crew.spent_since(&before).await?.beyond(quiet);
                let columns = spent.columns(quiet);
                eprintln!("{repeat} Together {workers} x {proxies}: {columns:.1?}");
                let name = programs[at].display();
                let _ = writeln!(
                    raw,
                    "{repeat}\t{name}\t{workers} x {proxies}\t{columns:.3?}"
                );
                values[at].push(columns);
            }
        }
        for (at, of_program) in values.iter().enumerate() {
            let name = match at {
                0 => "Playhouse".to_owned(),
                _ => format!("other {}", programs[at].display()),
            };
            let _ = write!(table, "| {name} | {workers} | {proxies} |");
            for column in 0..of_program[0].len() {
                let of_column: Vec<f64> = of_program.iter().map(|it| it[column]).collect();
                let middle = median(&of_column);
                if at == 0 && column == 1 {
                    most = most.max(middle);
                }
                let _ = write!(table, " {} |", digits(middle));
            }
            table.push('\n');
        }
    }
    let verdict = if most <= REDIS_TARGET {
        "met"
    } else {
        "**missed**"
    };
    let _ = writeln!(
        table,
        "\nRedis' CPU per session, target ≤ {REDIS_TARGET} µs with any number of workers: {verdict} (at most {}).",
        digits(most)
    );
    report.add_table(table, &raw);
    Ok(())
}
