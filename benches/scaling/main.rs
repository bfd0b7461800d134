//! How a pool of workers grows and shrinks in a cluster, simulated: which sessions a scale-in costs with
//! the deletion costs that proxies keep and without them, and how long clients of a burst wait.
//!
//! `make scaling` writes `benches/results/scaling.txt`. Simulated are the cluster, KEDA and the
//! HorizontalPodAutoscaler; real are the selection of workers and the code that decides the costs.

mod autoscaler;
#[allow(dead_code, reason = "the tests use the rest")]
mod cluster;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/support/replica_set.rs"]
mod replica_set;

use autoscaler::{Autoscaler, LOOKS_EVERY, Settings};
use cluster::{Cluster, Outcome, Rules};
use comfy_table::{CellAlignment, Table, presets};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::error::Error;
use std::fmt::Write;
use std::path::PathBuf;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAYS: u64 = 5;

/// The chart's defaults, for pods with so many seats.
fn settings(seats: u32, min: usize) -> Settings {
    Settings {
        target: f64::from(seats) * 0.8,
        min,
        max: 50,
        cooldown: 300,
        down_window: 300,
        down_per_minute: 2,
    }
}

fn rules(seats: u32) -> Rules {
    Rules {
        seats,
        drain: 5 * MINUTE,
        start: 20,
        patience: 3 * MINUTE,
        keeps_costs: true,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut output, mut whole) = (PathBuf::from("target/scaling.txt"), false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--output" => output = args.next().ok_or("--output wants a file")?.into(),
            "--bench" => whole = true,
            _ => {}
        }
    }
    let days = if whole { DAYS } else { 1 };
    let text = format!("{}\n{}", scale_ins(days)?, bursts()?);
    print!("{text}");
    std::fs::write(&output, text)?;
    Ok(())
}

/// Working days of suites and of people, with the chart's autoscaler.
fn scale_ins(days: u64) -> Result<String, Box<dyn Error>> {
    let mut text = format!(
        "Scale-in with and without deletion costs: {days} days of 10 hours. Each hour two suites of 20 to 60 sessions of\n\
         1 to 5 minutes, and 12 sessions of 5 to 55 minutes. 5 seats a pod, target 4, pods serve 20 s after they are wanted.\n\n"
    );
    let mut table = table(&[
        "drain timeout",
        "deletion costs",
        "pods taken",
        "busy ones",
        "while an idle one was spared",
        "sessions",
        "cut",
        "refused",
    ]);
    for drain in [5 * MINUTE, 15 * MINUTE, HOUR] {
        for keeps_costs in [true, false] {
            let rules = Rules {
                drain,
                keeps_costs,
                ..rules(5)
            };
            let mut sum = Outcome::default();
            for seed in 0..days {
                let day = working_day(rules, seed);
                sum.taken += day.taken;
                sum.taken_busy += day.taken_busy;
                sum.taken_wrongly += day.taken_wrongly;
                sum.served += day.served;
                sum.cut += day.cut;
                sum.refused += day.refused;
            }
            table.add_row([
                format!("{} min", drain / MINUTE),
                if keeps_costs { "kept" } else { "none" }.to_owned(),
                sum.taken.to_string(),
                sum.taken_busy.to_string(),
                sum.taken_wrongly.to_string(),
                (sum.served + sum.cut).to_string(),
                sum.cut.to_string(),
                sum.refused.to_string(),
            ]);
        }
    }
    writeln!(text, "{table}")?;
    Ok(text)
}

fn working_day(rules: Rules, seed: u64) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed);
    let mut clients: Vec<(u64, u64)> = Vec::new();
    for hour in 0..10 {
        for _ in 0..2 {
            let begins = hour * HOUR + random.random_range(0..HOUR);
            for _ in 0..random.random_range(20..=60) {
                let at = begins + random.random_range(0..10);
                clients.push((at, random.random_range(MINUTE..=5 * MINUTE)));
            }
        }
        for _ in 0..12 {
            let at = hour * HOUR + random.random_range(0..HOUR);
            clients.push((at, random.random_range(5 * MINUTE..=55 * MINUTE)));
        }
    }
    clients.sort_unstable();
    let mut clients = clients.into_iter().peekable();
    let mut cluster = Cluster::new(rules);
    let mut autoscaler = Autoscaler::new(settings(rules.seats, 1));
    for now in 0..12 * HOUR {
        while let Some((_, lasts)) = clients.next_if(|(at, _)| *at <= now) {
            cluster.arrive(lasts);
        }
        pass(&mut cluster, &mut autoscaler);
    }
    cluster.outcome
}

fn pass(cluster: &mut Cluster, autoscaler: &mut Autoscaler) {
    if cluster.now.is_multiple_of(LOOKS_EVERY) {
        let wish = autoscaler.look(cluster.now, cluster.demand(), cluster.replicas());
        cluster.scale(wish);
    }
    cluster.second();
}

/// docker-selenium's published run of `.keda/results_test_k8s_autoscaling_deployment_count.md`: sessions
/// asked for in each iteration, and after how many iterations all are closed.
const ASKED: [usize; 20] = [1, 3, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 3, 3, 3, 2, 1, 1, 2, 2];
const CLOSED_AFTER: [usize; 3] = [6, 11, 16];
/// Seconds until the sessions of each iteration were there, in the same file; once one of two failed,
/// after 800 s. The first, which failed at once, is left out.
const PUBLISHED: [f64; 19] = [
    42.11, 38.92, 41.55, 8.69, 38.24, 19.52, 5.37, 5.23, 5.04, 15.62, 16.90, 41.47, 11.03, 20.94,
    800.08, 4.47, 4.10, 21.38, 15.39,
];
/// Its test waits that long for the number of pods to fit, and asks for the next sessions then.
const BETWEEN: u64 = 10;

fn bursts() -> Result<String, Box<dyn Error>> {
    let mut text = String::from(
        "Seconds from a burst of 1 to 3 clients to the last one's session, from no pod at all: the 20 iterations that\n\
         docker-selenium publishes (one seat a pod, measured by its authors), and the same asked of this grid (simulated).\n\n",
    );
    let mut table = table(&[
        "grid",
        "pod serves after",
        "least",
        "median",
        "most",
        "failed",
    ]);
    let mut row = |grid: &str, start: &str, mut waits: Vec<f64>, failed: usize| {
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
        let shown = [at(0.0), at(0.5), at(1.0)].map(|it| format!("{it:.0}"));
        let cells = [grid.to_owned(), start.to_owned()].into_iter().chain(shown);
        table.add_row(cells.chain([failed.to_string()]));
    };
    row("docker-selenium", "not told", PUBLISHED.to_vec(), 2);
    for seats in [1, 5] {
        for start in [10, 20, 40] {
            let rules = Rules {
                start,
                ..rules(seats)
            };
            let (waits, refused) = replay(rules);
            row(
                &format!("playhouse, {seats} seats a pod"),
                &format!("{start} s"),
                waits,
                refused,
            );
        }
    }
    writeln!(text, "{table}")?;
    Ok(text)
}

/// Seconds that each iteration took, and clients that were refused.
fn replay(rules: Rules) -> (Vec<f64>, usize) {
    let mut cluster = Cluster::new(rules);
    let mut autoscaler = Autoscaler::new(settings(rules.seats, 0));
    let mut waits = Vec::new();
    for (n, asked) in ASKED.into_iter().enumerate() {
        let came = cluster.now;
        for _ in 0..asked {
            cluster.arrive(24 * HOUR);
        }
        while cluster.waiting() > 0 {
            pass(&mut cluster, &mut autoscaler);
        }
        waits.push(cluster.now.saturating_sub(came + 1) as f64);
        if CLOSED_AFTER.contains(&(n + 1)) {
            cluster.end_all_sessions();
        }
        for _ in 0..BETWEEN {
            pass(&mut cluster, &mut autoscaler);
        }
    }
    (waits, cluster.outcome.refused)
}

fn table(names: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(names);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
