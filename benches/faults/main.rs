//! A grid of real processes on machines of their own (network namespaces), and what happens to them:
//! links that lose packets one way or both, or are slow; Redis frozen, killed, emptied, back with
//! old data; proxies and workers killed and frozen. Clients come all the while, at every proxy.
//!
//! `make faults` takes half an hour and root, and writes `benches/results/faults.txt`. After each
//! fault the grid has to be itself again: every count at zero, every worker at every proxy.
//! Without `--bench`, as tests run it, nothing happens.
#![allow(
    clippy::unwrap_used,
    reason = "it is written with what tests are written with"
)]

mod fault;
mod lab;
mod load;
mod machine;
#[path = "../../tests/support/mod.rs"]
mod support;

use anyhow::{Result, bail};
use clap::Parser;
use fault::{ALL, Fault};
use lab::{Lab, Loss};
use load::{Account, Load};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// At each proxy: together a few more than there are seats, so that there is a line.
const CLIENTS: usize = 4;
/// Before a fault, and after it.
const CALM: Duration = Duration::from_secs(5);
const AFTERWARDS: Duration = Duration::from_secs(8);

/// A campaign of faults, one after the other in any order.
#[derive(Parser)]
struct Options {
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// File that gets the table.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The order of the faults; another one each time, if not given.
    #[arg(long, default_value_t = rand::rng().random())]
    seed: u64,
    /// Part of a fault's name; the others are left out.
    #[arg(long)]
    only: Option<String>,
    /// Cargo says so when a bench is to be run as one, and not when it is built as a test.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one fault cost, all its rounds together.
#[derive(Default)]
struct Row {
    rounds: usize,
    served: usize,
    refused: usize,
    /// Taken by the fault itself.
    taken: usize,
    most_open: usize,
    longest_without: Duration,
    longest_recovery: Duration,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if !options.bench {
        return Ok(());
    }
    machine::leave_network()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(campaign(&options))
}

async fn campaign(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut lab = Lab::start(folder.path()).await?;
    let mut random = rand::rngs::StdRng::seed_from_u64(options.seed);
    let wanted = |fault: &Fault| match &options.only {
        Some(part) => fault.name().contains(part),
        None => true,
    };
    let faults: Vec<Fault> = ALL.into_iter().filter(wanted).collect();
    let mut rows: Vec<(Fault, Row)> = faults
        .iter()
        .map(|fault| (*fault, Row::default()))
        .collect();
    let mut violations = Vec::new();
    let begun = Instant::now();
    let mut order: Vec<usize> = Vec::new();
    while begun.elapsed().as_secs() < options.seconds {
        if order.is_empty() {
            order = (0..rows.len()).collect();
            order.shuffle(&mut random);
        }
        let Some((fault, row)) = order.pop().and_then(|next| rows.get_mut(next)) else {
            bail!("no fault has that name");
        };
        let n = random.random_range(0..6);
        let (account, at_stake) = round(&mut lab, *fault, n).await?;
        let recovery = lab.is_itself().await;
        let wrong = judge(*fault, &account, &at_stake, &recovery);
        println!(
            "{:>5} s  {}: {} served, {} refused {:?}, {} lost, at most {} on a worker{}",
            begun.elapsed().as_secs(),
            fault.name(),
            account.served,
            account.refused(),
            account.refused,
            account.lost.len(),
            account.most_open,
            if wrong.is_empty() { "" } else { "  VIOLATION" },
        );
        for text in &wrong {
            println!("         {text}");
        }
        row.add(&account, recovery.as_ref().copied().unwrap_or_default());
        let broken = recovery.is_err();
        violations.extend(
            wrong
                .into_iter()
                .map(|text| format!("{}: {text}", fault.name())),
        );
        if broken {
            break;
        }
    }
    let report = report(options, begun.elapsed(), &rows, &violations);
    println!("{report}");
    if let Some(file) = &options.output {
        std::fs::write(file, report)?;
    }
    if violations.is_empty() {
        return Ok(());
    }
    println!("the logs are in {}", folder.keep().display());
    bail!("{} violations", violations.len())
}

/// Clients come, the fault happens and ends, clients go on a while and leave. With what they saw, the browsers whose
/// sessions a worker's death takes.
async fn round(lab: &mut Lab, fault: Fault, n: usize) -> Result<(Account, Vec<String>)> {
    if fault == Fault::OldRedis {
        lab.redis_command(&["SAVE"])?;
    }
    let load = Load::start(&lab.proxy_addresses(), CLIENTS);
    tokio::time::sleep(CALM).await;
    // A worker's old browsers go with it.
    let at_stake = match fault.takes() {
        Loss::OfWorker => lab.browsers_of(n)?,
        _ => Vec::new(),
    };
    fault.begin(lab, n)?;
    tokio::time::sleep(fault.length()).await;
    fault.end(lab, n)?;
    tokio::time::sleep(AFTERWARDS).await;
    Ok((load.end().await, at_stake))
}

/// What must not have been.
fn judge(
    fault: Fault,
    account: &Account,
    at_stake: &[String],
    recovery: &Result<Duration>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let taken = |lost: &load::Lost| match fault.takes() {
        Loss::None => false,
        // One of them died: all that was lost was there.
        Loss::OfProxy => account.lost.iter().all(|other| other.proxy == lost.proxy),
        Loss::OfWorker => at_stake.contains(&lost.worker),
    };
    for lost in account.lost.iter().filter(|lost| !taken(lost)) {
        wrong.push(format!("a session was lost: {lost}"));
    }
    if let Some(bound) = fault.bound()
        && account.most_open > lab::SEATS + bound
    {
        wrong.push(format!(
            "{} sessions on a worker of {} seats, {bound} more may be",
            account.most_open,
            lab::SEATS
        ));
    }
    if let Err(error) = recovery {
        wrong.push(format!("{error:#}"));
    }
    wrong
}

impl Row {
    fn add(&mut self, account: &Account, recovery: Duration) {
        self.rounds += 1;
        self.served += account.served;
        self.refused += account.refused();
        self.taken += account.lost.len();
        self.most_open = self.most_open.max(account.most_open);
        self.longest_without = self.longest_without.max(account.longest_without());
        self.longest_recovery = self.longest_recovery.max(recovery);
    }
}

fn report(
    options: &Options,
    lasted: Duration,
    rows: &[(Fault, Row)],
    violations: &[String],
) -> String {
    let mut text = format!(
        "{} proxies, {} workers of {} seats with Chromium, one Redis, each in a network namespace of its own;\n\
         {CLIENTS} clients at each proxy, sessions of 0.05 to 4 s; {} s, seed {}.\n\n\
         without: the longest time in which one of the proxies admitted nobody, the fault's own length with it\n\
         itself: from the last client's end until every count was zero and every proxy had every worker\n\
         most: sessions on one worker at a time, as the clients saw it\n\n\
         {:<48} {:>6} {:>7} {:>8} {:>6} {:>5} {:>8} {:>7}\n",
        lab::PROXIES,
        lab::WORKERS,
        lab::SEATS,
        lasted.as_secs(),
        options.seed,
        "fault",
        "rounds",
        "served",
        "refused",
        "ended",
        "most",
        "without",
        "itself",
    );
    for (fault, row) in rows {
        let _ = writeln!(
            text,
            "{:<48} {:>6} {:>7} {:>8} {:>6} {:>5} {:>6.1} s {:>5.1} s",
            fault.name(),
            row.rounds,
            row.served,
            row.refused,
            row.taken,
            row.most_open,
            row.longest_without.as_secs_f64(),
            row.longest_recovery.as_secs_f64(),
        );
    }
    let _ = writeln!(
        text,
        "\n{} violations (a session lost that the fault did not take, a bound passed, a grid that was not itself again)",
        violations.len()
    );
    for violation in violations {
        let _ = writeln!(text, "  {violation}");
    }
    text
}
