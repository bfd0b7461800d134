//! What recycling costs: the seats of one worker over time, while real clients come and go in
//! closed loops and real browsers are replaced, for each way to replace them.
//!
//! `make capacity` runs it whole and writes `capacity.csv` and `capacity.svg` into `docs/`; fails
//! when make-before-break lacks a seat, or a session fails. `cargo bench --bench capacity` writes
//! into `target/`. Without `--bench`, as tests run it, a few sessions only.
#![allow(
    clippy::unwrap_used,
    reason = "it is written with what tests are written with"
)]

mod plot;
#[path = "../../tests/support/mod.rs"]
mod support;

use anyhow::{Context, ensure};
use comfy_table::{CellAlignment, Table, presets};
use plot::Panel;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::{Crowd, Driver, Grid, GridBuilder, Language, Sample, Visit, eventually};

const SEATS: u32 = 5;
const LIMIT: u32 = 20;
const SESSIONS: usize = 300;
const FEW_SESSIONS: usize = 30;
/// Sessions that go on while their browser is replaced several times over.
const LONG: Duration = Duration::from_secs(30);

/// A name, and the configuration. The first is the default.
const POLICIES: [(&str, &str); 3] = [
    ("make before break", ""),
    ("mode: exit", "recycle: { mode: exit }"),
    // A hard limit; every worker leaves when it likes.
    (
        "the original's policy",
        "recycle: { mode: exit, ceiling: 1, max_unavailable: 1000000 }",
    ),
];

/// One policy's run.
struct Run {
    name: &'static str,
    samples: Vec<Sample>,
    visits: Vec<Visit>,
    /// How long each session waited for its seat, in milliseconds.
    waited: Vec<u64>,
    browsers: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut folder = PathBuf::from("target");
    let mut whole = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--output" => folder = args.next().context("--output wants a folder")?.into(),
            "--bench" => whole = true,
            _ => {}
        }
    }
    let sessions = if whole { SESSIONS } else { FEW_SESSIONS };
    let mut runs = Vec::new();
    for (name, yaml) in POLICIES {
        runs.push(run(name, yaml, sessions).await);
    }

    println!(
        "One worker of {SEATS} seats, a fresh browser every {LIMIT} sessions, {SEATS} clients in \
         closed loops,\n{sessions} sessions, Chromium; seats counted every 50 ms.\n\n{}",
        table(&runs)
    );
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("capacity.csv"), csv(&runs))?;
    std::fs::write(folder.join("capacity.svg"), picture(&runs))?;
    println!(
        "\nSeats over time: {}",
        folder.join("capacity.svg").display()
    );
    if whole {
        long_sessions().await?;
    }
    let ours = &runs[0];
    ensure!(ours.failed() == 0, "sessions failed");
    ensure!(ours.fewest_seats() >= SEATS, "seats were missing");
    Ok(())
}

fn grid(yaml: &str) -> GridBuilder {
    Grid::new()
        .workers(1)
        .capacity(SEATS)
        .lifetime(LIMIT)
        .config(yaml)
}

async fn run(name: &'static str, yaml: &str, sessions: usize) -> Run {
    let grid = grid(yaml).start().await;
    let crowd = Crowd::start(&vec![grid.url(); SEATS as usize], sessions);
    let samples = crowd.watch(&grid).await;
    Run {
        name,
        samples,
        visits: crowd.gone().await,
        waited: grid.logged("session started", "waited_ms"),
        browsers: grid.logged("worker ready", "took_ms").len(),
    }
}

/// Sessions that are not touched while the browsers of others come and go.
async fn long_sessions() -> anyhow::Result<()> {
    let grid = grid("").start().await;
    let names = ["one".to_owned(), "two".to_owned()];
    let mut staying = Driver::start(Language::Python, &grid.url());
    staying.open_all(&names).await;
    let opened = Instant::now();
    let crowd = Crowd::start(&vec![grid.url(); 3], usize::MAX);
    while opened.elapsed() < LONG {
        for name in &names {
            staying.works(name).await.map_err(anyhow::Error::msg)?;
        }
    }
    let stayed = "both are still on a browser that was replaced";
    eventually(stayed, async || {
        let workers = grid.workers().await;
        let first = workers.iter().find(|it| it.status == "draining")?;
        (first.active_sessions == 2).then_some(())
    })
    .await;
    for name in &names {
        staying.close(name).await.map_err(anyhow::Error::msg)?;
    }
    staying.quit().await;
    let others = crowd.leave().await;
    let failed = others.iter().filter(|it| it.outcome.is_err()).count();
    println!(
        "\nTwo sessions of {} s went through, while {} browsers served {} others; {failed} failed.",
        LONG.as_secs(),
        grid.logged("worker ready", "took_ms").len(),
        others.len(),
    );
    ensure!(failed == 0, "sessions failed");
    Ok(())
}

impl Run {
    fn failed(&self) -> usize {
        let failed = self.visits.iter().filter(|visit| visit.outcome.is_err());
        failed.count()
    }

    fn fewest_seats(&self) -> u32 {
        let seats = self.samples.iter().map(Sample::seats);
        seats.min().unwrap_or_default()
    }

    /// The share of the looks at it that found seats missing.
    fn short(&self) -> f64 {
        let short = self.samples.iter().filter(|it| it.seats() < SEATS).count();
        short as f64 / self.samples.len() as f64
    }

    fn longest_wait(&self) -> u64 {
        self.waited.iter().copied().max().unwrap_or_default()
    }

    fn lasted(&self) -> f64 {
        let ends = self.visits.iter().map(|visit| visit.ended.as_secs_f64());
        ends.fold(0.0, f64::max)
    }
}

fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "policy",
        "failed",
        "fewest seats",
        "time with seats missing",
        "longest wait",
        "browsers",
        "all done after",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for run in runs {
        table.add_row([
            run.name.to_owned(),
            run.failed().to_string(),
            run.fewest_seats().to_string(),
            format!("{:.0} %", run.short() * 100.0),
            format!("{} ms", run.longest_wait()),
            run.browsers.to_string(),
            format!("{:.0} s", run.lasted()),
        ]);
    }
    table
}

fn csv(runs: &[Run]) -> String {
    let mut csv = "policy,seconds,used,free,waiting\n".to_owned();
    for run in runs {
        for Sample { at, capacity, .. } in &run.samples {
            let (slots, waiting) = (&capacity.slots, capacity.queued);
            let at = at.as_secs_f64();
            writeln!(
                csv,
                "{},{at:.3},{},{},{waiting}",
                run.name, slots.used, slots.free
            )
            .expect("writing to a string does not fail");
        }
    }
    csv
}

fn picture(runs: &[Run]) -> String {
    let panels: Vec<Panel> = runs
        .iter()
        .map(|run| Panel {
            name: run.name,
            remarks: [
                format!("seats missing {:.0} % of the time", run.short() * 100.0),
                format!("longest wait {:.1} s", run.longest_wait() as f64 / 1000.0),
                format!("{} of {} failed", run.failed(), run.visits.len()),
            ],
            seats: run
                .samples
                .iter()
                .map(|it| (it.at.as_secs_f64(), it.capacity.slots.used, it.seats()))
                .collect(),
        })
        .collect();
    let title = format!(
        "Seats of one worker with a fresh browser every {LIMIT} sessions, {SEATS} clients in closed loops"
    );
    plot::svg(&title, &panels, SEATS)
}
