//! What a worker costs its sessions, and what it takes of its machine, with real browsers and clients.
//!
//! * [`cost`]: first page, `evaluate`, sessions per second, memory and processor time of an idle session: with a
//!   browser server alone, behind the gateway, and in the seal too. `make gateway`.
//! * [`long`]: a long session on each browser and short ones in a loop, for ten minutes. [`small`]: a container of
//!   720 MiB, recycles under load, and pages that take all of it. `make budget`, as root.
//!
//! Without `--bench`, as tests run it, nothing happens.
#![allow(
    clippy::unwrap_used,
    reason = "it is written with what tests are written with"
)]

mod cost;
mod long;
mod small;
#[path = "../../tests/support/mod.rs"]
mod support;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// What to measure, and for how long.
#[derive(Parser)]
struct Options {
    #[arg(value_enum, default_value = "cost")]
    what: What,
    /// How long `long` takes; `small` takes a third of it.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// How often `cost` repeats each measurement, interleaved.
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// File that gets the figures.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Cargo says so when a bench is to be run as one, and not when it is built as a test.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Cost,
    Long,
    Small,
    /// `long` and `small`.
    Budget,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if !options.bench {
        return Ok(());
    }
    let length = Duration::from_secs(options.seconds);
    let (report, outcome) = match options.what {
        What::Cost => (cost::measure(options.repeats).await?, Ok(())),
        What::Long => long::run(length).await,
        What::Small => small::run(length / 3).await,
        What::Budget => {
            let (long, went_well) = long::run(length).await;
            println!("{long}");
            let (small, fitted) = small::run(length / 3).await;
            (format!("{long}\n{small}"), went_well.and(fitted))
        }
    };
    println!("{report}");
    if let Some(file) = &options.output {
        std::fs::write(file, format!("{}{report}", heading()))?;
    }
    outcome
}

/// What the figures were measured with.
fn heading() -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        let text = output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
        text.unwrap_or_default()
    };
    let profile = if cfg!(debug_assertions) {
        "dev"
    } else {
        "release"
    };
    format!(
        "# cargo bench --bench worker -- {} ({profile} profile)\n# {}, {}, {} cores, load {}\n\n",
        std::env::args()
            .skip(1)
            .filter(|it| it != "--bench")
            .collect::<Vec<_>>()
            .join(" "),
        said("date", &["-u", "+%F %R"]),
        said("uname", &["-sr"]),
        said("nproc", &[]),
        said("cat", &["/proc/loadavg"]),
    )
}
