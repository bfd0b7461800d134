//! What keeps the seats of a grid: a seeded simulation of workers that are filled and recycled,
//! from 10 to 10,000 of them, under bursty load near saturation.
//!
//! `cargo bench --bench simulation` prints the tables and draws `target/simulation.svg`;
//! `-- --svg FILE` draws elsewhere. What it printed is kept in `benches/results/simulation.txt`,
//! what it drew in `docs/simulation.svg`. Without `--bench`, as tests run it, only the small fleets.

mod grid;
mod load;
mod plot;

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use grid::{Grid, Order, Outcome, Recycling, Setup};
use load::{Arrival, Load};
use playhouse::config::Strategy;
use plot::Panel;
use std::error::Error;
use std::path::PathBuf;

const SEED: u64 = 1;
const SEATS: u32 = 5;
const LIMIT: u32 = 50;
/// Browsers that each worker of a fleet uses up in a run, more or less.
const GENERATIONS: usize = 8;

/// What is compared: a name, the order, and what happens at the limit.
const RIVALS: [(&str, Order, Recycling); 7] = {
    use Order::{Ranked, RoundRobin};
    use Recycling::{AtOnce, ByPermit, MakeBeforeBreak, Never};
    use Strategy::{LeastActive, LifetimeFirst};
    const ONE: usize = 1;
    let unlimited = MakeBeforeBreak {
        max_parallel: usize::MAX,
    };
    let one = MakeBeforeBreak { max_parallel: ONE };
    let permit = ByPermit {
        max_unavailable: ONE,
    };
    [
        ("make before break", Ranked(LifetimeFirst), unlimited),
        ("the same, 1 warms up at a time", Ranked(LifetimeFirst), one),
        ("by permit, 1 out at a time", Ranked(LifetimeFirst), permit),
        ("lifetime-first alone", Ranked(LifetimeFirst), AtOnce),
        ("round robin", RoundRobin, AtOnce),
        ("least active", Ranked(LeastActive), AtOnce),
        ("no recycling", Ranked(LifetimeFirst), Never),
    ]
};

/// Simulates all fleets, or, as tests run it, the small ones.
#[derive(Parser)]
struct Options {
    /// File that gets the picture.
    #[arg(long, default_value = "target/simulation.svg")]
    svg: PathBuf,
    /// Cargo says so when a bench is to be run as one, and not when it is built as a test.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Options { svg, bench: whole } = Options::parse();

    println!(
        "{SEATS} seats a worker, limit {LIMIT}, 10 s to come back, 1 s to warm up a replacement, \
         clients wait 5 s, seed {SEED}.\n\
         Seats: those of workers that take sessions, used or free. What \"no recycling\" refuses is \
         the load's own doing.\n\
         Oldest: most sessions that one browser had.\n"
    );
    staircase();
    println!("\nFleets of all sizes, sessions of 10 s, 90 % load");
    let fleets = if whole {
        &[10, 100, 1_000, 10_000][..]
    } else {
        &[10]
    };
    let mut table = table("workers");
    for &workers in fleets {
        compare(&mut table, &workers.to_string(), workers, 0.9, 10.0);
    }
    println!("{table}");

    println!("\n20 workers, other loads");
    let mut table = self::table("load");
    for (length, share) in [
        (10.0, 0.3),
        (10.0, 0.6),
        (10.0, 0.9),
        (2.0, 0.3),
        (2.0, 0.6),
        (2.0, 0.9),
    ] {
        let name = format!("{length} s, {:.0} %", share * 100.0);
        compare(&mut table, &name, 20, share, length);
    }
    println!("{table}");

    if let Some(folder) = svg.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&svg, picture())?;
    println!("\nSeats over time: {}", svg.display());
    Ok(())
}

fn arrivals(workers: usize, share: f64, length: f64) -> Vec<Arrival> {
    let load = Load {
        seats: workers as u32 * SEATS,
        share,
        length,
        sessions: workers * LIMIT as usize * GENERATIONS,
    };
    load.arrivals(SEED)
}

fn table(first: &str) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        first,
        "policy",
        "seats at worst",
        "seats on average",
        "two or more out",
        "refused",
        "oldest",
    ]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn compare(table: &mut Table, case: &str, workers: usize, share: f64, length: f64) {
    let arrivals = arrivals(workers, share, length);
    for (name, order, recycling) in RIVALS {
        let setup = Setup {
            workers,
            seats: SEATS,
            limit: LIMIT,
            order,
            recycling,
        };
        let outcome = Grid::new(setup, &arrivals).run(|_| {});
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let Outcome { time, .. } = outcome;
        let of_time = |part: u64| part as f64 / time as f64;
        table.add_row([
            case.to_owned(),
            name.to_owned(),
            percent(1.0 - outcome.most_out as f64 / workers as f64),
            percent(1.0 - of_time(outcome.time_out) / workers as f64),
            percent(of_time(outcome.time_two_out)),
            percent(outcome.refused as f64 / outcome.sessions as f64),
            outcome.oldest.to_string(),
        ]);
    }
}

/// Sixty sessions of 5 s in a row on three workers with a limit of 10: the lifetime of each worker
/// after each session, `-` while it is out.
fn staircase() {
    let arrivals: Vec<Arrival> = (0..60)
        .map(|n| Arrival {
            at: n * 5_000,
            length: 4_900,
        })
        .collect();
    let walk = |order| {
        let setup = Setup {
            workers: 3,
            seats: SEATS,
            limit: 10,
            order,
            recycling: Recycling::AtOnce,
        };
        let mut steps = Vec::new();
        let outcome = Grid::new(setup, &arrivals).run(|grid| {
            // The last look before the next session is the one that stays.
            steps.truncate((grid.now() / 5_000) as usize);
            let lifetimes = grid.lifetimes().into_iter();
            let shown = lifetimes.map(|n| n.map_or("  -".into(), |n| format!("{n:3}")));
            steps.push(shown.collect::<String>());
        });
        (steps, outcome)
    };
    let (staggered, lifetime_first) = walk(Order::Ranked(Strategy::LifetimeFirst));
    let (together, round_robin) = walk(Order::RoundRobin);
    println!("Sixty sessions of 5 s in a row on three workers with a limit of 10\n");
    println!("session  lifetime-first  round robin");
    for (n, (left, right)) in staggered.iter().zip(&together).enumerate() {
        println!("{:7}  {left:<14}  {right}", n + 1);
    }
    for (name, outcome) in [
        ("lifetime-first", lifetime_first),
        ("round robin", round_robin),
    ] {
        println!(
            "{name}: at most {} out at once, {} refused",
            outcome.most_out, outcome.refused
        );
    }
}

/// The seats of 20 workers over ten minutes.
fn picture() -> String {
    const WORKERS: usize = 20;
    const SECONDS: f64 = 600.0;
    let arrivals = arrivals(WORKERS, 0.9, 10.0);
    let panel = |(name, order, recycling): (&str, _, _)| {
        let setup = Setup {
            workers: WORKERS,
            seats: SEATS,
            limit: LIMIT,
            order,
            recycling,
        };
        let mut seats = Vec::new();
        let outcome = Grid::new(setup, &arrivals).run(|grid| {
            let share = 1.0 - grid.out() as f64 / WORKERS as f64;
            if seats.last().is_none_or(|(_, last)| *last != share) {
                seats.push((grid.now() as f64 / 1000.0, share));
            }
        });
        let refused = outcome.refused as f64 / outcome.sessions as f64 * 100.0;
        Panel {
            name: name.to_owned(),
            remark: format!("{refused:.1} % refused"),
            seats,
        }
    };
    let panels: Vec<Panel> = RIVALS.map(panel).into();
    let title = "Seats of 20 workers over time, 90 % load, sessions of 10 s, limit 50";
    plot::svg(title, &panels, SECONDS)
}
