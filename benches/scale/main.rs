//! What a large grid costs Redis and its proxies while nobody comes, and what sessions add: measured with up to
//! 50,000 workers and 20 proxies, and computed for more from what the parts cost.
//!
//! `make scale` writes `benches/results/scale.txt`. The workers are their records and their signs of life, and
//! one server that answers for all of them; some of the proxies are real processes, the others are the store of
//! one with all it does and hears. Without `--bench`, as tests run it, nothing happens.

mod grid;
mod model;
#[path = "../datapath/process.rs"]
#[allow(dead_code, reason = "the data path's bench uses all of it")]
mod process;
#[path = "../datapath/redis.rs"]
#[allow(dead_code, reason = "the data path's bench uses all of it")]
mod redis;

use clap::Parser;
use grid::{Grid, HEARTBEAT, Rates};
use model::Units;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Workers and proxies that are measured.
const MEASURED: [(usize, usize); 3] = [(1_000, 10), (10_000, 22), (50_000, 22)];
/// Of those proxies, the ones that are real processes.
const REAL: usize = 2;
/// Workers and proxies that the model is asked for.
const ASKED: [(usize, usize); 3] = [(1_000, 10), (10_000, 30), (100_000, 100)];
/// Proxies with hardly any workers, to tell what one costs from what it costs that there are others.
const FEW: usize = 4;
const MANY: usize = 40;
const HARDLY_ANY: usize = 100;
/// Workers of which the signs of life, and the rows of a reading, are measured by themselves.
const SOME: usize = 5_000;
/// Connections of which the cost is measured.
const CONNECTIONS: usize = 8_000;
/// Sessions a second in all, where some come.
const SESSIONS: f64 = 1_000.0;
/// The first seconds, in which everybody comes, are not measured.
const SETTLE: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Options {
    #[arg(long)]
    bench: bool,
    /// For how long each thing is measured.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The largest number of workers that is measured.
    #[arg(long, default_value_t = 50_000)]
    most: usize,
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What was measured of a grid.
struct Point {
    workers: usize,
    proxies: usize,
    idle: Rates,
    session: Rates,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !options.bench {
        return Ok(());
    }
    playhouse::app::limits::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let report = runtime.block_on(report(&options))?;
    if let Some(path) = &options.output {
        std::fs::write(path, &report)?;
    }
    Ok(())
}

async fn report(options: &Options) -> anyhow::Result<String> {
    let time = Duration::from_secs(options.seconds);
    let mut out = circumstances(options)?;
    let mut points = Vec::new();
    for (workers, proxies) in MEASURED.into_iter().filter(|it| it.0 <= options.most) {
        let mut grid = Grid::start().await?;
        grid.add_workers(workers, HEARTBEAT).await?;
        grid.add_proxies(REAL, proxies - REAL).await?;
        tokio::time::sleep(SETTLE).await;
        let idle = grid.idle(time).await?;
        let session = of_a_session(&grid, time, idle).await?;
        grid.is_whole().await?;
        eprintln!("{workers} x {proxies}: {idle:?}, a session {session:?}");
        points.push(Point {
            workers,
            proxies,
            idle,
            session,
        });
    }
    let units = units(time, &points).await?;
    print_units(&mut out, &units)?;
    writeln!(out, "\n{HEAD}")?;
    for point in &points {
        let (workers, proxies) = (point.workers, point.proxies);
        line(&mut out, (workers, proxies), "measured", &point.idle)?;
        let computed = units.idle(workers, proxies, 0);
        line(&mut out, (workers, proxies), "computed", &computed)?;
    }
    for (workers, proxies) in ASKED {
        let computed = units.idle(workers, proxies, workers);
        line(&mut out, (workers, proxies), "computed", &computed)?;
    }
    print_shares(&mut out, &units)?;
    print_sessions(&mut out, &units, &points)?;
    print!("{out}");
    Ok(out)
}

/// What one session costs while many come, beyond what it costs that nobody does.
async fn of_a_session(grid: &Grid, time: Duration, idle: Rates) -> anyhow::Result<Rates> {
    let (busy, a_second) = grid.busy(time, SESSIONS).await?;
    Ok(busy.beyond(idle, a_second))
}

/// Measures what the parts cost, each on a Redis of its own.
async fn units(time: Duration, points: &[Point]) -> anyhow::Result<Units> {
    let empty = Grid::start().await?.idle(time).await?;

    let (mut alone, mut sessions) = (Vec::new(), Vec::new());
    for proxies in [FEW, MANY] {
        let mut grid = Grid::start().await?;
        grid.add_workers(HARDLY_ANY, HEARTBEAT * 8).await?;
        grid.add_proxies(0, proxies).await?;
        tokio::time::sleep(SETTLE / 3).await;
        let idle = grid.idle(time).await?;
        alone.push(idle.beyond(empty, proxies as f64));
        sessions.push(of_a_session(&grid, time, idle).await?);
    }
    let more = (MANY - FEW) as f64;
    let (proxy, proxy_by_proxies) = line_through(alone[0], alone[1], more);
    let (session, session_by_proxies) = line_through(sessions[0], sessions[1], more);

    let mut grid = Grid::start().await?;
    grid.add_connections(CONNECTIONS).await?;
    let connection = grid.idle(time).await?.beyond(empty, CONNECTIONS as f64);
    drop(grid);

    let mut grid = Grid::start().await?;
    grid.add_workers(SOME, HEARTBEAT).await?;
    let beats = SOME as f64 / HEARTBEAT.as_secs_f64();
    let heartbeat = grid.idle(time).await?.beyond(empty, beats);
    grid.add_proxies(0, 1).await?;
    let row = grid.read(20).await?;
    drop(grid);

    let mut units = Units {
        empty,
        heartbeat,
        proxy,
        proxy_by_proxies,
        connection,
        row,
        look: Rates::default(),
        most_looks: Rates::default(),
        real: (0.0, 0.0),
        session,
        session_by_proxies,
    };
    // What is left of a grid when everything else is taken off. A real proxy's time is counted below.
    let look = |of: &Point| Rates {
        proxy: 0.0,
        ..of.idle.beyond(units.idle(of.workers, of.proxies, 0), 1.0)
    };
    if let (Some(small), Some(large)) = (points.first(), points.last()) {
        let looks = small.workers as f64 / model::LOOK_AGAIN;
        (units.look, units.most_looks) = (look(small).times(1.0 / looks), look(large));
        let more = (large.workers - small.workers).max(1) as f64;
        let by_worker = (large.idle.proxy - small.idle.proxy).max(0.0) / more;
        units.real = (
            small.idle.proxy - by_worker * small.workers as f64,
            by_worker,
        );
    }
    Ok(units)
}

/// What something costs by itself, and for each of a number of things, from what it costs with FEW of them and
/// with so many `more`.
fn line_through(few: Rates, many: Rates, more: f64) -> (Rates, Rates) {
    let each = many.beyond(few, more);
    (few.beyond(each.times(FEW as f64), 1.0), each)
}

/// Where and when this was measured, with what.
fn circumstances(options: &Options) -> anyhow::Result<String> {
    let say = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default().trim().to_owned()
    };
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "# make scale ARGS=\"--seconds {}\"\n# {}, {}, {} cores that others may use too, load {}\n# {}\n\n",
        options.seconds,
        say("date", "-u"),
        say("uname", "-sr"),
        std::thread::available_parallelism()?,
        load.trim(),
        say("redis-server", "--version"),
    ))
}

const HEAD: &str = "Nobody comes. The last three lines count a connection for each worker, those above have 500 in all.\n\n \
 workers x proxies            commands/s      MB/s   cores of Redis   of one proxy's core";

fn line(
    out: &mut String,
    (workers, proxies): (usize, usize),
    how: &str,
    rates: &Rates,
) -> std::fmt::Result {
    writeln!(
        out,
        "{workers:>8} x {proxies:<7} {how:>9} {:>13.0} {:>9.2} {:>16.3} {:>20.2}%",
        rates.commands,
        rates.bytes / 1e6,
        rates.redis,
        rates.proxy * 100.0,
    )
}

fn print_units(out: &mut String, units: &Units) -> std::fmt::Result {
    writeln!(
        out,
        "What the parts cost Redis: its processor, commands (those in scripts too), bytes\n"
    )?;
    let parts = [
        ("a Redis at which nobody is, in a second", units.empty),
        ("a worker's sign of life", units.heartbeat),
        ("a proxy, in a second", units.proxy),
        ("the same, for each proxy there is", units.proxy_by_proxies),
        (
            "a connection on which nothing is said, in a second",
            units.connection,
        ),
        ("a row, when a proxy reads the fleet whole", units.row),
        (
            "a worker, when one proxy looks for what was not told",
            units.look,
        ),
        ("the most of that, in a second", units.most_looks),
        ("a session", units.session),
        (
            "the same, for each proxy there is",
            units.session_by_proxies,
        ),
    ];
    for (name, part) in parts {
        let micros = part.redis * 1e6;
        let (commands, bytes) = (part.commands, part.bytes);
        writeln!(
            out,
            "{name:<53} {micros:>10.2} us {commands:>9.1} {bytes:>11.0} B"
        )?;
    }
    let (base, by_worker) = (units.real.0 * 100.0, units.real.1 * 100_000.0);
    writeln!(
        out,
        "\nA proxy's own processor: {base:.2}% of a core, and {by_worker:.3}% for each 1,000 workers; \
         {:.2} us for a row that it reads",
        units.row.proxy * 1e6
    )
}

/// What the largest grid that is computed consists of.
fn print_shares(out: &mut String, units: &Units) -> std::fmt::Result {
    let (workers, proxies) = ASKED[ASKED.len() - 1];
    let (n, p) = (workers as f64, proxies as f64);
    writeln!(
        out,
        "\nOf that, {workers} x {proxies}, in cores of Redis:\n"
    )?;
    for (name, rates) in [
        ("the workers' signs of life", units.of_heartbeats(n)),
        ("their connections", units.connection.times(n)),
        ("the proxies", units.of_proxies(p)),
        ("looking for what was not told", units.of_looking(n)),
        ("readings of the whole fleet", units.of_readings(n, p)),
    ] {
        writeln!(out, "{name:<40} {:>8.3}", rates.redis)?;
    }
    Ok(())
}

fn print_sessions(out: &mut String, units: &Units, points: &[Point]) -> std::fmt::Result {
    writeln!(
        out,
        "\nOne session of {SESSIONS} a second, each asked for by itself: Redis' processor, commands, bytes, and how \
         many a second take a core\n"
    )?;
    let measured = points
        .iter()
        .map(|it| (it.workers, it.proxies, "measured", it.session));
    let computed = ASKED
        .iter()
        .map(|(workers, proxies)| (*workers, *proxies, "computed", units.one_session(*proxies)));
    for (workers, proxies, how, session) in measured.chain(computed) {
        writeln!(
            out,
            "{workers:>8} x {proxies:<7} {how:>9} {:>8.1} us {:>7.1} {:>9.0} B {:>9.0}",
            session.redis * 1e6,
            session.commands,
            session.bytes,
            1.0 / session.redis.max(1e-9),
        )?;
    }
    Ok(())
}
