//! A grid of everything: shared browsers of two Playwright versions, browsers of one session each, Firefox,
//! workers of different sizes; clients of every kind at once, while browsers are recycled, the configuration
//! is written anew, and a worker dies. `MIXED_SECONDS` says how long (`make mixed`: 600). It takes the machine for
//! itself: where a dozen browsers get no processor for minutes, its clients give up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{
    Books, Crowd, Driver, Grid, Kind, Language, Proxy, RedisServer, Scrape, Visit, eventually,
    eventually_equal, patient, tools, version,
};

/// The process that dies. Its size tells its workers from the others', and the other worker of its kind has
/// fewer seats than there are users.
const DOOMED: &str = "worker 4";
const DOOMED_SIZE: u32 = 4;
const OWN_SEATS: u32 = 3;
/// Workers of which one browser is enough.
const SHARED_WORKERS: usize = 4;
/// Lifetimes that the configuration names in turns: low, so that browsers are recycled all the time.
const LIFETIMES: [u32; 2] = [20, 30];
/// A test of so many seconds sees recycles.
const LONG: u64 = 60;
const RELOAD_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[tokio::test]
async fn everything_at_once_fails_nobody_but_those_on_the_worker_that_dies() {
    let seconds = std::env::var("MIXED_SECONDS").map_or(0, |text| text.parse().unwrap());
    let (time, is_long) = (Duration::from_secs(seconds), seconds >= LONG);
    let redis = RedisServer::start().await;
    let mut grid = start(&redis).await;
    let crowds = crowds(&grid, is_long);
    let leave = Arc::new(AtomicBool::new(false));
    let devtools = [0, 1].map(|n| {
        let (proxy, leave) = (grid.proxy(n).clone(), Arc::clone(&leave));
        tokio::spawn(devtools(proxy, leave))
    });
    let began = Instant::now();
    let mut watch = Watch::default();

    watch.until(&grid, &redis, time / 2).await;
    let mut doomed = eventually("somebody uses the worker that is to die", async || {
        let such = such(&grid, DOOMED_SIZE).await;
        such.values().any(|sessions| *sessions > 0).then_some(such)
    })
    .await;
    grid.kill(DOOMED);
    watch.until(&grid, &redis, time / 8).await;
    // A successor may have come in the last moment.
    doomed.extend(such(&grid, DOOMED_SIZE).await);
    grid.start_again(DOOMED);
    eventually("another one serves in its place", async || {
        let workers = grid.workers().await;
        let serves = workers.iter().any(|it| {
            it.serves() && it.max_concurrent_sessions == DOOMED_SIZE && !doomed.contains_key(&it.id)
        });
        serves.then_some(())
    })
    .await;
    watch.until(&grid, &redis, time * 3 / 8).await;
    if is_long {
        // However slow the machine is.
        eventually("a browser was recycled", async || {
            watch.look(&grid, &redis).await;
            (watch.recycles() > 0).then_some(())
        })
        .await;
    }

    leave.store(true, Ordering::Relaxed);
    let took = began.elapsed();
    let mut visits = BTreeMap::new();
    for (name, crowd) in crowds {
        visits.insert(name, crowd.leave().await);
    }
    let mut cdp = 0;
    for client in devtools {
        cdp += client.await.unwrap();
    }
    for proxy in grid.proxies() {
        proxy.idle().await;
    }
    let lost = lost(&grid, &doomed, visits.values().flatten());
    let report = report(&visits, cdp, lost, &watch, took);
    println!("{report}");
    if let Ok(file) = std::env::var("MIXED_OUTPUT") {
        std::fs::write(file, report).unwrap();
    }

    let served = visits.values().map(Vec::len).sum::<usize>() + cdp;
    assert_eq!(counted(&grid), served, "every session is counted once");
    eventually_equal("seats, leases, clients in line", (0, 0, 0), async || {
        let books = Books::read(&redis);
        books.assert_right();
        (books.active(), books.leases, books.waiting)
    })
    .await;
    eventually("no more processes than seats", async || {
        let tree = grid.tree();
        let most = SHARED_WORKERS + OWN_SEATS as usize;
        (tree.of_kind(Kind::Node).len() <= most && tree.zombies() == 0).then_some(())
    })
    .await;
    assert!(!grid.log().contains("panicked"), "{}", grid.log());
    grid.stop(Signal::SIGTERM).await;
}

async fn start(redis: &RedisServer) -> Grid {
    let previous = tools(&format!(
        "playwright-{}/playwright/driver/package",
        version("PLAYWRIGHT_PREVIOUS")
    ));
    let previous = ("PLAYHOUSE_PLAYWRIGHT", previous.to_str().unwrap());
    let size = |seats: u32| seats.to_string();
    let [two, three, one, doomed] = [2, OWN_SEATS, 1, DOOMED_SIZE].map(size);
    const SIZE: &str = "PLAYHOUSE_WORKER_MAX_CONCURRENT_SESSIONS";
    Grid::new()
        .redis(redis)
        .proxies(2)
        .worker_process(&[(SIZE, &two)])
        .worker_process(&[previous, (SIZE, &two)])
        .worker_process(&[("PLAYHOUSE_WORKER_SEAT", "own"), (SIZE, &three)])
        .worker_process(&[previous, ("BROWSER_TYPE", "firefox"), (SIZE, &one)])
        .worker_process(&[(SIZE, &doomed)])
        .config(&configuration(0))
        .env("HEARTBEAT_INTERVAL", "1")
        // Browsers start while all others are at work.
        .env("PLAYHOUSE_WORKER_START_TIMEOUT", "600")
        .start()
        .await
}

/// What the file says after so many changes.
fn configuration(changes: usize) -> String {
    let lifetime = LIFETIMES[changes % 2];
    let strategy = ["lifetime_first", "least_active"][changes / 2 % 2];
    format!(
        "limits: {{ max_lifetime_sessions: {lifetime}, header_timeout: 1m }}\n\
         selection: {{ strategy: {strategy}, dial_timeout: 1m }}\n\
         queue: {{ timeout: 10m }}\n"
    )
}

/// Users of Playwright, by what they want; in a long test with somebody to wait for.
fn crowds(grid: &Grid, is_long: bool) -> BTreeMap<&'static str, Crowd> {
    let (current, previous) = (
        version("PLAYWRIGHT_VERSION"),
        version("PLAYWRIGHT_PREVIOUS"),
    );
    let german = r#"x-playwright-launch-options={"args":["--lang=de-DE"]}"#;
    let firefox = &["--browser", "firefox"][..];
    let more = usize::from(is_long);
    let wanted = [
        ("shared, current Playwright", current, "", &[][..], 3 + more),
        ("shared, previous Playwright", previous, "", &[], 1 + more),
        ("own", current, "/?seat=own", &[], 1),
        ("own, launch options", current, "", &["--header", german], 1),
        ("Firefox", previous, "", firefox, 1 + more),
    ];
    let crowd = |(name, version, path, options, users)| {
        let drivers = (0..users).map(|n| {
            let address = format!("{}{path}", grid.proxy(n % 2).url());
            Driver::start_as(Language::BOTH[(n / 2) % 2], version, &address, options)
        });
        (name, Crowd::of(drivers, usize::MAX))
    };
    wanted.into_iter().map(crowd).collect()
}

/// A client of the DevTools protocol that comes and goes; how many sessions it had.
async fn devtools(proxy: Proxy, leave: Arc<AtomicBool>) -> usize {
    let mut sessions = 0;
    while !leave.load(Ordering::Relaxed) {
        let session = proxy.dial().target("/cdp").connect().await;
        let mut session = session.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
        let ask =
            json!({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}});
        session.send(&ask.to_string()).await;
        loop {
            let said: Value = serde_json::from_str(&session.text().await).unwrap();
            if said["id"] == 1 {
                assert!(said["result"]["targetId"].is_string(), "{said}");
                break;
            }
        }
        session.close().await;
        sessions += 1;
    }
    sessions
}

/// Workers of this size, with how many sessions they have.
async fn such(grid: &Grid, size: u32) -> BTreeMap<String, u32> {
    let workers = grid.workers().await.into_iter();
    let such = workers.filter(|it| it.max_concurrent_sessions == size);
    such.map(|it| (it.id, it.active_sessions)).collect()
}

/// What is seen of the grid while it is used.
#[derive(Default)]
struct Watch {
    looks: usize,
    changes: usize,
    changed: Option<Instant>,
    /// How many sessions each worker may have, for all there ever were.
    sizes: BTreeMap<String, u32>,
    most_waiting: i64,
    most_lifetime: i64,
}

impl Watch {
    /// Looks now and then, for so long, and writes the configuration anew.
    async fn until(&mut self, grid: &Grid, redis: &RedisServer, time: Duration) {
        let began = Instant::now();
        loop {
            self.look(grid, redis).await;
            if self.changed.is_none_or(|at| at.elapsed() > RELOAD_EVERY) {
                self.changed = Some(Instant::now());
                self.changes += 1;
                grid.configure(&patient(&configuration(self.changes)));
            }
            if began.elapsed() > time {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// No worker has more sessions than it takes, and all counts are those of the seats.
    async fn look(&mut self, grid: &Grid, redis: &RedisServer) {
        for worker in grid.workers().await {
            self.sizes.insert(worker.id, worker.max_concurrent_sessions);
        }
        let books = Books::read(redis);
        books.assert_right();
        for (worker, account) in &books.workers {
            let id = worker.split_once(':').map_or("", |(_, id)| id);
            if let Some(size) = self.sizes.get(id) {
                assert!(account.active <= i64::from(*size), "{worker}: {books:#?}");
            }
            self.most_lifetime = self.most_lifetime.max(account.lifetime);
        }
        self.most_waiting = self.most_waiting.max(books.waiting);
        self.looks += 1;
    }

    /// Workers beyond those of the processes that were started.
    fn recycles(&self) -> usize {
        self.sizes.len().saturating_sub(SHARED_WORKERS + 2)
    }
}

/// How many of the sessions did not come to a good end. All of them were on the worker that died, unless the
/// machine was so slow that a browser seemed to hang.
fn lost<'a>(
    grid: &Grid,
    doomed: &BTreeMap<String, u32>,
    all: impl Iterator<Item = &'a Visit>,
) -> usize {
    let log = grid.log();
    let errors: Vec<&String> = all.filter_map(|it| it.outcome.as_ref().err()).collect();
    for error in &errors {
        let id = error
            .split_once("(session ")
            .and_then(|(_, rest)| rest.split_once(')'));
        let (id, _) = id.unwrap_or_else(|| panic!("{error}"));
        let started = log.lines().find(|line| {
            line.contains("session started") && line.contains(&format!(" session={id} "))
        });
        let started = started.unwrap_or_else(|| panic!("{error}"));
        let there = doomed
            .keys()
            .any(|worker| started.contains(&format!(" worker={worker} ")));
        let late = error.contains("the browser does not answer") && grid.was_late();
        assert!(
            late || there && error.contains("worker lost"),
            "{error}: {started}"
        );
    }
    errors.len()
}

/// Sessions that the proxies have counted.
fn counted(grid: &Grid) -> usize {
    let of = |proxy: &Proxy| {
        let scrape = Scrape::of(&proxy.metrics_url(), &[]);
        let counts = scrape.all("sessions_total");
        counts
            .iter()
            .map(|count| count.value as usize)
            .sum::<usize>()
    };
    grid.proxies().iter().map(of).sum()
}

fn report(
    visits: &BTreeMap<&str, Vec<Visit>>,
    cdp: usize,
    lost: usize,
    watch: &Watch,
    took: Duration,
) -> String {
    let mut table = format!(
        "{:<32}{:>9}{:>18}\n",
        "clients", "sessions", "longest session"
    );
    for (name, visits) in visits {
        let longest = visits.iter().map(|it| it.ended - it.began).max();
        let longest = longest.unwrap_or_default().as_secs_f64();
        let _ = writeln!(table, "{name:<32}{:>9}{longest:>16.1} s", visits.len());
    }
    let _ = writeln!(table, "{:<32}{cdp:>9}", "CDP");
    let _ = write!(
        table,
        "\n{:.0} s, two proxies, five workers; {} recycles, {} reloads, one worker killed and started again.\n\
         {lost} sessions lost, all on the worker that was killed. Looked at {} times: no worker over its size,\n\
         every count that of its seats. At most {} clients in line, {} sessions in a worker's life.\n",
        took.as_secs_f64(),
        watch.recycles(),
        watch.changes,
        watch.looks,
        watch.most_waiting,
        watch.most_lifetime,
    );
    table
}
