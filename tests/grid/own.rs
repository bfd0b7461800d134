//! Seats that are browsers: each session has a process tree of its own, warm before it came, and
//! nothing of it is left behind.

use crate::support::{
    Crowd, Driver, Grid, Kind, Language, RedisServer, eventually, eventually_equal, run_client,
    run_example,
};
use nix::sys::signal::Signal;
use playhouse::config::{Config, Role};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Browsers that a grid has at this moment.
fn browsers(grid: &Grid) -> usize {
    grid.tree().of_kind(Kind::Browser).len()
}

/// What the workers of a grid have on the disk for their browsers.
fn folders(grid: &Grid) -> usize {
    let ours = grid.leftovers().into_iter();
    let ours = ours.filter(|path| path.is_dir());
    ours.flat_map(|path| std::fs::read_dir(path).into_iter().flatten().flatten())
        .filter(|entry| entry.path().is_dir())
        .count()
}

async fn spares(grid: &Grid, expected: usize) {
    eventually_equal("the spares are there", (expected, expected), async || {
        (browsers(grid), folders(grid))
    })
    .await;
}

#[tokio::test]
pub async fn each_session_has_a_browser_and_nothing_is_left() {
    let grid = Grid::new()
        .workers(1)
        .capacity(4)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .env("PLAYHOUSE_WORKER_SPARES", "2")
        .start()
        .await;
    let worker = grid.workers().await.remove(0);
    assert_eq!(
        (worker.seat.as_str(), worker.max_concurrent_sessions),
        ("own", 4)
    );
    spares(&grid, 2).await;
    let mut driver = Driver::start(Language::Python, &grid.url());
    for (name, processes) in [("a", 3), ("b", 4), ("c", 4)] {
        driver.open(name).await.unwrap();
        // Sessions and spares, and never more in all than seats.
        spares(&grid, processes).await;
    }
    eventually_equal("used, free seats", (3, 1), async || {
        let seats = grid.capacity().await.slots;
        (seats.used, seats.free)
    })
    .await;
    for name in ["a", "b", "c"] {
        driver.works(name).await.unwrap();
        driver.close(name).await.unwrap();
    }
    driver.quit().await;
    // As a new user does it.
    for language in Language::BOTH {
        let said = run_example(language, "at_once", &grid.url(), &[], &[]).await;
        let done = said.lines().filter(|line| line.ends_with(": done"));
        assert_eq!(done.count(), 3, "{language:?}: {said}");
    }
    grid.idle().await;
    eventually(
        "as many spares as are wanted, once the rush is over",
        async || (browsers(&grid) == folders(&grid) && browsers(&grid) >= 2).then_some(()),
    )
    .await;

    // A client that dies takes its browser along.
    let mut doomed = Driver::start(Language::Node, &grid.url());
    doomed.open("a").await.unwrap();
    doomed.kill().await;
    grid.idle().await;
    let lifetimes = grid.workers().await;
    assert_eq!(
        lifetimes.len(),
        1,
        "no session recycles the worker: {lifetimes:?}"
    );
    assert_eq!(lifetimes[0].id, worker.id);
}

/// What its workers are the grid knows from its configuration, until the first of them is there.
#[tokio::test]
async fn who_comes_before_the_first_worker_waits_for_its_seat() {
    let grid = Grid::new()
        .workers(1)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .queue_timeout(Duration::from_secs(120))
        .launch()
        .await;
    let is_open = async || TcpStream::connect(grid.address()).await.is_ok();
    eventually_equal("the port is open", true, is_open).await;
    let mut driver = Driver::start(Language::Node, &grid.url());
    driver.open("early").await.unwrap();
    driver.works("early").await.unwrap();
    driver.quit().await;
    grid.idle().await;
}

/// What a browser has once, each session has for itself.
#[tokio::test]
async fn sessions_share_neither_clipboard_nor_tracing_nor_a_context() {
    let grid = Grid::new()
        .workers(1)
        .capacity(2)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .start()
        .await;
    let said = run_client(Language::Node, "apart", &[&grid.url()]).await;
    let seen: Value = serde_json::from_str(&said).unwrap();
    let expected = json!({
        "clipboards": ["of 0", "of 1", ""],
        "traces": [true, true, true],
        "names": ["second", "first again"],
        "remembered": [null, null, null],
    });
    assert_eq!(seen, expected);
    grid.idle().await;
}

fn set(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// `OWN_SESSIONS` says how many there are, `OWN_AT_ONCE` how many at a time (`make own`: 200, 8).
#[tokio::test]
async fn sessions_that_come_at_once_leave_nothing() {
    let at_once = set("OWN_AT_ONCE", 6);
    let sessions = set("OWN_SESSIONS", 30);
    let mut grid = Grid::new()
        .workers(1)
        .capacity(at_once as u32)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .queue_timeout(Duration::from_secs(120))
        .start()
        .await;
    let crowd = Crowd::start(&vec![grid.url(); at_once], sessions);
    let began = Instant::now();
    let mut most = 0;
    while !crowd.is_gone() {
        most = most.max(browsers(&grid));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let visits = crowd.gone().await;
    let took = began.elapsed();
    assert_eq!(visits.len(), sessions);
    for visit in &visits {
        visit.outcome.as_ref().unwrap();
    }
    grid.idle().await;
    eventually(
        "a folder for each browser, and no more browsers than seats",
        async || {
            let browsers = browsers(&grid);
            (browsers == folders(&grid) && browsers <= at_once).then_some(())
        },
    )
    .await;
    eventually_equal("nobody is left unburied", 0, async || grid.tree().zombies()).await;
    grid.stop(Signal::SIGTERM).await;
    assert_eq!(grid.leftovers(), [""; 0].map(std::path::PathBuf::from));
    println!(
        "{sessions} sessions, {at_once} at once, in {took:.1?}; at most {most} browsers at a time"
    );
}

/// The worker itself knows how many browsers it has: nobody has to ask the store.
#[tokio::test]
async fn without_redis_no_seat_is_given_twice() {
    let mut redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .capacity(2)
        .worker_process(&[("PLAYHOUSE_WORKER_SEAT", "own")])
        .queue_timeout(Duration::from_secs(2))
        .start()
        .await;
    let first = grid.proxy(0).connect().await;
    redis.kill();
    let mut sessions = vec![first];
    for n in 0..6 {
        let dial = grid.proxy(n % 2).dial();
        sessions.extend(dial.connect().await.ok());
    }
    assert!(
        sessions.len() <= 2,
        "{} sessions on two seats",
        sessions.len()
    );
    let log = grid.log_of("worker 0");
    assert!(!log.contains("panicked"), "{log}");
    for session in sessions {
        session.close().await;
    }
}

#[tokio::test]
async fn a_drained_worker_is_replaced_and_its_sessions_run_on() {
    let grid = Grid::new()
        .workers(1)
        .capacity(3)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .start()
        .await;
    let old = grid.workers().await.remove(0);
    let mut driver = Driver::start(Language::Python, &grid.url());
    driver.open("a").await.unwrap();
    let drained = grid.command(&["drain", &old.id]).await;
    assert!(drained.status.success(), "{drained:?}");
    eventually("another one serves", async || {
        let workers = grid.workers().await;
        let serves = |it: &&crate::support::WorkerView| it.id != old.id && it.serves();
        workers.iter().find(serves).map(|_| ())
    })
    .await;
    driver.works("a").await.unwrap();
    driver.open("b").await.unwrap();
    driver.works("a").await.unwrap();
    for name in ["a", "b"] {
        driver.close(name).await.unwrap();
    }
    driver.quit().await;
    eventually_equal("the old one is gone with its session", 1, async || {
        grid.workers().await.len()
    })
    .await;
    spares(&grid, 1).await;
}

/// The processes of a session that is killed, and those of a spare.
#[tokio::test]
async fn a_browser_that_dies_ends_its_session_alone() {
    let grid = Grid::new()
        .workers(1)
        .capacity(3)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .start()
        .await;
    spares(&grid, 1).await;
    let before = grid.tree();
    let spare = before.of_kind(Kind::Browser)[0].clone();
    let mut driver = Driver::start(Language::Node, &grid.url());
    driver.open("a").await.unwrap();
    driver.open("b").await.unwrap();
    // The first one had the spare.
    spare.kill();
    eventually("its client is told", async || {
        driver.lost("a").then_some(())
    })
    .await;
    driver.works("b").await.unwrap();
    driver.close("b").await.unwrap();
    driver.quit().await;
    grid.idle().await;
    eventually("a spare is idle", async || {
        (browsers(&grid) >= 1).then_some(())
    })
    .await;
    let before = grid.tree();
    let spares = before.of_kind(Kind::Browser);
    spares.iter().for_each(|it| it.kill());
    let killed: Vec<i32> = spares.iter().map(|it| it.pid).collect();
    eventually("others take their place", async || {
        let tree = grid.tree();
        let browsers = tree.of_kind(Kind::Browser);
        (!browsers.is_empty() && browsers.iter().all(|it| !killed.contains(&it.pid))).then_some(())
    })
    .await;
    let mut driver = Driver::start(Language::Python, &grid.url());
    driver.open("a").await.unwrap();
    driver.works("a").await.unwrap();
    driver.close("a").await.unwrap();
    driver.quit().await;
    grid.idle().await;
}

/// Of each start but the first comes a line in a file, and no browser.
#[tokio::test]
async fn who_asks_and_leaves_again_and_again_has_no_more_started_than_there_are_seats() {
    const SEATS: usize = 2;
    let folder = tempfile::tempdir().unwrap();
    let [program, starts] = ["browser.sh", "starts"].map(|name| folder.path().join(name));
    let worker = Config::defaults(Role::Worker).worker;
    let browser = playhouse::worker::locate(&worker)
        .unwrap()
        .executable
        .unwrap();
    let text = format!(
        "#!/bin/sh\necho >> {starts}\n[ $(wc -l < {starts}) = 1 ] && exec {browser} \"$@\"\nexec sleep 1000000\n",
        starts = starts.display(),
        browser = browser.display(),
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let grid = Grid::new()
        .workers(1)
        .capacity(SEATS as u32)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .env("PLAYHOUSE_WORKER_START_TIMEOUT", "3600")
        .env("PLAYHOUSE_BROWSER_PATH", program.to_str().unwrap())
        // The script writes where no browser may.
        .env("PLAYHOUSE_WORKER_SEAL", "off")
        .env("PLAYHOUSE_SELECTION_DIAL_TIMEOUT", "60")
        .queue_timeout(Duration::from_secs(60))
        .start()
        .await;
    let started = || std::fs::read_to_string(&starts).unwrap().lines().count();
    let kept = grid.connect().await;
    for _ in 0..8 {
        // The worker learns that a client has gone a moment after the proxy does.
        let visit = async || grid.dial().connect().await.ok();
        drop(eventually("a client is taken", visit).await);
        eventually_equal("it has left", 1, async || grid.sessions().await.len()).await;
    }
    eventually_equal(
        "a start for each seat, and the first one",
        SEATS + 1,
        async || started(),
    )
    .await;
    kept.close().await;
}
