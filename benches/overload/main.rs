//! What a grid serves when more comes than it has seats for, and after that: fake workers whose
//! handshake takes its time, one proxy, seats in memory or in Redis, and all of it on one machine.
//!
//! * A burst fills all seats for two seconds, while clients go on to come at half of what the seats
//!   can serve: how many are served before, during and in each second after.
//! * 600 clients at once on 1,000 free seats, with Redis.
//! * One sick worker of twenty: it answers probes, and hangs at upgrades or refuses them.
//! * Ten malformed handshakes a second: what the others notice of them.
//!
//! `make overload` writes `benches/results/overload.txt`. Without `--bench`, as tests run it, only
//! the least of it.
#![allow(
    clippy::unwrap_used,
    reason = "it is written with what tests are written with"
)]

mod load;
#[path = "../../tests/support/mod.rs"]
mod support;

use clap::Parser;
use load::{Outcome, burst, closed_loop, open_loop, percentile, served_share};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;
use support::{Behaviour, FakePlaywright, Grid, OriginalWorker, RedisServer};

const SEATS: u32 = 5;
const WORKERS: usize = 20;
const HANDSHAKES: [u64; 4] = [1, 20, 100, 300];
/// How long a session of the steady load lasts.
const SESSION: Duration = Duration::from_secs(1);
/// Seconds of the steady load before the burst, and after it ends.
const BEFORE: u64 = 4;
const FULL: u64 = 2;
const AFTER: u64 = 8;

#[derive(Clone, Copy, PartialEq)]
enum Store {
    Memory,
    Redis,
}

/// Who waits for longer was offered a seat that was none.
const LONG: Duration = Duration::from_secs(1);

/// A grid with its fake workers.
struct Lab {
    grid: Grid,
    fakes: Vec<FakePlaywright>,
    originals: Vec<OriginalWorker>,
    _redis: Option<RedisServer>,
}

impl Lab {
    async fn start(store: Store, workers: usize) -> Lab {
        // The times are the defaults, which tests stretch.
        let config = "limits: { max_concurrent_sessions: 5, max_lifetime_sessions: 0 }\n\
                      queue: { timeout: 5s }\nselection: { dial_timeout: 2s }";
        if store == Store::Redis {
            let redis = RedisServer::start().await;
            let mut originals = Vec::new();
            for n in 0..workers {
                originals.push(OriginalWorker::start(&redis, &format!("w{n}")).await);
            }
            let grid = Grid::new()
                .redis(&redis)
                .foreign_workers(workers)
                .config(config);
            return Lab {
                grid: grid.start().await,
                fakes: Vec::new(),
                originals,
                _redis: Some(redis),
            };
        }
        let mut fakes = Vec::new();
        for _ in 0..workers {
            fakes.push(FakePlaywright::start().await);
        }
        let all: Vec<&FakePlaywright> = fakes.iter().collect();
        let grid = Grid::new().fakes(&all).config(config).start().await;
        Lab {
            grid,
            fakes,
            originals: Vec::new(),
            _redis: None,
        }
    }

    fn fakes(&self) -> impl Iterator<Item = &FakePlaywright> {
        self.fakes
            .iter()
            .chain(self.originals.iter().map(OriginalWorker::fake))
    }

    fn behave(&self, behaviour: Behaviour) {
        self.fakes().for_each(|fake| fake.behave(behaviour));
    }
}

/// Measures all of it, or, as tests run it, one case with each store.
#[derive(Parser)]
struct Options {
    /// File that gets the figures.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Cargo says so when a bench is to be run as one, and not when it is built as a test.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let Options {
        output,
        bench: whole,
    } = Options::parse();
    let mut report = String::from(
        "20 workers of 5 seats, sessions of 1 s, clients come at half of what the seats can serve.\n\
         A burst of 110 clients fills all seats for two seconds. Share of the steady clients that\n\
         were served, by the second in which they came.\n\n",
    );
    let handshakes = if whole {
        &HANDSHAKES[..]
    } else {
        &HANDSHAKES[..1]
    };
    for store in [Store::Memory, Store::Redis] {
        for handshake in handshakes {
            say(&mut report, &after_a_burst(store, *handshake).await);
        }
    }
    if whole {
        say(&mut report, &all_at_once().await);
        say(&mut report, &one_is_sick().await);
        say(&mut report, &some_are_malformed(false).await);
        say(&mut report, &some_are_malformed(true).await);
    }
    match output {
        Some(file) => std::fs::write(file, report),
        None => Ok(()),
    }
}

fn say(report: &mut String, line: &str) {
    println!("{line}");
    report.push_str(line);
    report.push('\n');
}

async fn after_a_burst(store: Store, handshake: u64) -> String {
    let lab = Lab::start(store, WORKERS).await;
    let handshake = Duration::from_millis(handshake);
    lab.behave(Behaviour::Slow(handshake));
    let seats = f64::from(SEATS) * WORKERS as f64;
    let rate = seats / (SESSION + handshake).as_secs_f64() / 2.0;
    let length = Duration::from_secs(BEFORE + FULL + AFTER);
    let dial = lab.grid.proxy(0).dial();
    let steady = tokio::spawn(open_loop(dial.clone(), rate, length, SESSION));
    tokio::time::sleep(Duration::from_secs(BEFORE)).await;
    let burst = burst(dial, 110, Duration::from_secs(FULL)).await;
    let steady = steady.await.unwrap();
    let share = |from: u64, to: u64| served_share(&steady, from, to);
    let mut line = format!(
        "{:<6} handshake {:>3} ms: before {}, during {}, after",
        if store == Store::Redis {
            "redis"
        } else {
            "memory"
        },
        handshake.as_millis(),
        share(0, BEFORE),
        share(BEFORE, BEFORE + FULL),
    );
    for second in BEFORE + FULL..BEFORE + FULL + AFTER {
        let _ = write!(line, " {}", share(second, second + 1));
    }
    let served = burst.iter().filter(|it| it.served).count();
    let _ = write!(line, "; of the burst {served} of {}", burst.len());
    line
}

async fn all_at_once() -> String {
    let lab = Lab::start(Store::Redis, 200).await;
    lab.behave(Behaviour::Slow(Duration::from_millis(20)));
    let all = burst(lab.grid.proxy(0).dial(), 600, Duration::from_secs(2)).await;
    let served = all.iter().filter(|it| it.served).count();
    format!(
        "\nredis, handshake 20 ms: 600 clients at once on 1,000 free seats: {served} served, the \
         slowest after {:.0} ms, the median after {:.0} ms",
        percentile(&all, 1.0),
        percentile(&all, 0.5)
    )
}

/// A hang costs as many clients as the worker has seats one `dial_timeout` each, once: the run is long enough to
/// show what it costs after that.
async fn one_is_sick() -> String {
    let length = Duration::from_secs(20);
    let mut lines = String::from(
        "\nmemory, 20 workers, 40 clients that come again and again for 20 s, 50 ms a session:",
    );
    let mut healthy = 0.0;
    for (name, behaviour) in [
        ("all healthy", Behaviour::Serve),
        ("one hangs at upgrades", Behaviour::HangAtUpgrades),
        ("one refuses upgrades with 500", Behaviour::Refuse(500)),
        ("one hangs up at upgrades", Behaviour::HangUp),
        ("all healthy, again", Behaviour::Serve),
    ] {
        let lab = Lab::start(Store::Memory, WORKERS).await;
        lab.behave(Behaviour::Slow(Duration::from_millis(5)));
        if behaviour != Behaviour::Serve {
            lab.fakes().next().unwrap().behave(behaviour);
        }
        let dial = lab.grid.proxy(0).dial();
        let all = closed_loop(dial, 40, length, Duration::from_millis(50)).await;
        let served = all.iter().filter(|it| it.served).count();
        let rate = served as f64 / length.as_secs_f64();
        if healthy == 0.0 {
            healthy = rate;
        }
        let long = all.iter().filter(|it| it.took > LONG).count();
        let _ = write!(
            lines,
            "\n  {name:<30} {rate:>7.1} sessions/s, ratio {:.3}, {} refused, {long} waited longer than a second",
            rate / healthy,
            all.len() - served
        );
    }
    lines
}

/// With fake workers, or with real ones in front of Chromium.
async fn some_are_malformed(real: bool) -> String {
    let lab;
    let grid;
    let proxy = if real {
        grid = Grid::new()
            .workers(2)
            .config("limits: { max_concurrent_sessions: 50, max_lifetime_sessions: 0 }")
            .start()
            .await;
        grid.proxy(0)
    } else {
        lab = Lab::start(Store::Memory, WORKERS).await;
        lab.behave(Behaviour::Slow(Duration::from_millis(5)));
        lab.grid.proxy(0)
    };
    let dial = proxy.dial();
    let (rate, length) = (if real { 10.0 } else { 40.0 }, Duration::from_secs(15));
    let session = Duration::from_millis(200);
    let without = open_loop(dial.clone(), rate, length, session).await;
    let bad = tokio::spawn(load::malformed(proxy.address(), 10.0, length));
    let with = open_loop(dial, rate, length, session).await;
    let statuses = bad.await.unwrap();
    let refused = |all: &[Outcome]| all.iter().filter(|it| !it.served).count();
    format!(
        "\n{}: p99 of connecting {:.1} ms without malformed handshakes, {:.1} ms with ten a second, \
         ratio {:.2}; refused {} and {} of {}; the malformed were answered {statuses:?}",
        if real {
            "2 real workers with Chromium"
        } else {
            "20 fake workers"
        },
        percentile(&without, 0.99),
        percentile(&with, 0.99),
        percentile(&with, 0.99) / percentile(&without, 0.99),
        refused(&without),
        refused(&with),
        with.len(),
    )
}
