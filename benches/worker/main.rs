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

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

struct Options {
    what: String,
    length: Duration,
    repeats: usize,
    output: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(options) = options()? else {
        return Ok(());
    };
    let (report, outcome) = match options.what.as_str() {
        "cost" => (cost::measure(options.repeats).await?, Ok(())),
        "long" => long::run(options.length).await,
        "small" => small::run(options.length).await,
        "budget" => {
            let (long, went_well) = long::run(options.length).await;
            println!("{long}");
            let (small, fitted) = small::run(options.length / 3).await;
            (format!("{long}\n{small}"), went_well.and(fitted))
        }
        other => bail!("{other} is none of cost, long, small, budget"),
    };
    println!("{report}");
    if let Some(file) = &options.output {
        std::fs::write(file, format!("{}{report}", heading()))?;
    }
    outcome
}

/// `None` where this is not meant to run.
fn options() -> Result<Option<Options>> {
    let mut options = Options {
        what: "cost".to_owned(),
        length: Duration::from_secs(600),
        repeats: 9,
        output: None,
    };
    let mut meant = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} takes a value"));
        match arg.as_str() {
            "--bench" => meant = true,
            "--seconds" => options.length = Duration::from_secs(value()?.parse()?),
            "--repeats" => options.repeats = value()?.parse()?,
            "--output" => options.output = Some(value()?.into()),
            what => options.what = what.to_owned(),
        }
    }
    Ok(meant.then_some(options))
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
