//! The data path under load: what a session, a message and a gigabyte cost through Playhouse,
//! through HAProxy and nginx, and without any of them.
//!
//! `make bench` runs it; `make soak` and `make storm` run the same load for endurance. All traffic
//! is on loopback, with clients and a backend of our own:
//!
//! * [`wire`]: handshakes and frames, made by hand.
//! * [`client`], [`echo`]: the two ends of a session.
//! * [`process`], [`proxies`]: what is between them.
//! * [`redis`]: where workers are registered, for the rows with Redis.
//! * [`together`]: what one session costs Redis, and all proxies that share it.
//! * [`measure`], [`browser`], [`lifecycle`], [`report`]: the measurements and their tables.
//! * [`soak`]: sessions that come and go for an hour, every byte verified; connects by the million.

mod browser;
mod client;
mod echo;
mod lifecycle;
mod measure;
mod process;
mod proxies;
mod redis;
mod report;
mod soak;
mod together;
mod wire;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use echo::Echo;
use measure::Measure;
use process::free_port;
use proxies::{Kind, Proxy};
use report::Report;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Without a subcommand: measures, and prints the table.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    endure: Option<Endure>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Subcommand)]
enum Endure {
    /// Sessions that come and go and move data of all sizes, every byte verified.
    Soak(soak::Soak),
    /// Connects, as fast as they go; how many are lost.
    Storm(soak::Storm),
}

#[derive(Parser)]
struct Compare {
    /// How often each measurement is repeated, interleaved.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// What to measure; everything, if not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Names of what to compare, or their beginnings; everything, if not given.
    #[arg(long, value_delimiter = ',')]
    through: Vec<String>,
    /// HAProxy's program; may be given more than once for several versions.
    #[arg(long, default_value = "/usr/sbin/haproxy")]
    haproxy: Vec<PathBuf>,
    /// Another build of Playhouse, to compare with the one built with this bench.
    #[arg(long)]
    other: Vec<PathBuf>,
    /// File that gets the table and the raw numbers.
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Cargo says so when a bench is to be run as one, and not when it is built as a test.
    let mut words: Vec<String> = std::env::args().collect();
    let as_bench = words.iter().any(|word| word == "--bench");
    words.retain(|word| word != "--bench");
    if !as_bench {
        eprintln!("this is a bench: run `make bench`");
        return ExitCode::SUCCESS;
    }
    match run(Arguments::parse_from(words)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    playhouse::app::limits::raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match arguments.endure {
            None => compare(arguments.compare).await,
            Some(Endure::Soak(soak)) => soak.run().await,
            Some(Endure::Storm(storm)) => storm.run().await,
        }
    })
}

async fn compare(wanted: Compare) -> anyhow::Result<()> {
    let mut kinds = match wanted.only[..] {
        // Seats of the grid, with nobody beside it.
        [Measure::Lifecycle] => vec![Kind::playhouse()],
        _ => Kind::all(&wanted.haproxy, &wanted.other)?,
    };
    kinds.retain(|kind| {
        let name = kind.name().to_lowercase();
        let starts = |start: &String| name.starts_with(&start.to_lowercase());
        wanted.through.is_empty() || wanted.through.iter().any(starts)
    });
    let mut measures: Vec<Measure> = Measure::value_variants().to_vec();
    measures.retain(|measure| wanted.only.is_empty() || wanted.only.contains(measure));
    let mut report = Report::new(kinds.iter().map(Kind::name).collect());

    let echo = Echo::start(free_port()?)?;
    let mut running = Vec::new();
    for kind in &kinds {
        running.push(kind.start(echo.address).await?);
    }
    for measure in measures {
        match measure {
            Measure::Lifecycle => lifecycle::measure(wanted.repeats, &mut report).await?,
            Measure::Browser => browser::measure(&kinds, wanted.repeats, &mut report).await?,
            Measure::Idle => {
                for repeat in 0..wanted.repeats {
                    for kind in turned(&kinds, repeat) {
                        // What sessions before it left behind would hide what these take.
                        let fresh = kind.start(echo.address).await?;
                        one(measure, &fresh, repeat, &mut report).await?;
                    }
                }
            }
            Measure::Together => together::measure(&wanted, echo.address, &mut report).await?,
            _ => {
                for proxy in &running {
                    measure.run(proxy).await?;
                }
                for repeat in 0..wanted.repeats {
                    for proxy in turned(&running, repeat) {
                        one(measure, proxy, repeat, &mut report).await?;
                    }
                }
            }
        }
    }
    drop(running);
    let text = format!(
        "{}\n{}\nRaw: repeat, through, what, value.\n\n{}",
        circumstances(&kinds)?,
        report.tables(),
        report.raw()
    );
    println!("{text}");
    if let Some(file) = wanted.output {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        fs::write(&file, &text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

async fn one(
    measure: Measure,
    proxy: &Proxy,
    repeat: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let name = &proxy.door.name;
    let values = measure.run(proxy).await;
    let values = values.with_context(|| format!("{measure:?} through {name}"))?;
    eprintln!("{repeat} {measure:?} {name}: {values:.1?}");
    report.add(repeat, name, values);
    Ok(())
}

/// The same things, beginning with another one each time: nobody is always first.
pub fn turned<T>(things: &[T], by: usize) -> impl Iterator<Item = &T> {
    let count = things.len();
    (0..count).map(move |at| &things[(at + by) % count])
}

/// How to run this again.
fn command() -> String {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    words.retain(|word| word != "--bench");
    if let Some(at) = words.iter().position(|word| word == "--output") {
        words.drain(at..words.len().min(at + 2));
    }
    match words.join(" ") {
        none if none.is_empty() => "make bench".into(),
        some => format!("make bench ARGS=\"{some}\""),
    }
}

/// Where and when this was measured, with what.
fn circumstances(kinds: &[Kind]) -> anyhow::Result<String> {
    let say = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default().trim().to_owned()
    };
    let mut versions = String::new();
    for kind in kinds.iter().filter(|kind| **kind != Kind::Direct) {
        versions += &format!("  {}: {}\n", kind.name(), kind.version()?);
    }
    let cores = std::thread::available_parallelism()?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let model = fs::read_to_string("/proc/cpuinfo")?;
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(format!(
        "Command: {}\nDate: {}\nMachine: {cores} cores shared with others ({}), {}, load {}\n\
         Versions:\n{versions}",
        command(),
        say("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        model.map_or("", |(_, model)| model),
        say("uname", &["-sr"]),
        load.trim(),
    ))
}
