//! The file changes all the time, for better and for worse, while clients come and go.

use super::keys::entries;
use super::load::{Load, all_work};
use crate::support::{Driver, FakePlaywright, Grid, Language, Proxy, eventually_equal};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// `PLAYHOUSE_RELOADS=200` and `PLAYHOUSE_RELOAD_SECONDS=60` for the long version.
fn number(variable: &str, default: u32) -> u32 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |text| text.parse().expect("a number"))
}

/// `GET /v1/config`.
pub async fn reload_status(grid: &Proxy) -> Value {
    grid.admin("GET", "/v1/config").await.json()
}

/// What is in force of one key.
pub async fn in_force(grid: &Proxy, key: &str) -> String {
    let status = reload_status(grid).await;
    let settings = status["settings"].as_array().expect("a list");
    let setting = settings.iter().find(|setting| setting["key"] == key);
    let setting = setting.unwrap_or_else(|| panic!("{key} is not shown"));
    setting["value"].as_str().expect("a text").to_owned()
}

/// The `n`th version of the file. Every third is wrong, and every third is cut off as if somebody
/// were still writing it.
fn version(n: u32, workers: &str) -> (String, bool) {
    let seats = 60 + n;
    let level = if n.is_multiple_of(2) { "info" } else { "debug" };
    let valid = format!(
        "limits: {{ max_concurrent_sessions: {seats}, max_lifetime_sessions: 0 }}\n\
         queue: {{ timeout: {}s }}\nlog: {{ level: {level} }}\n{workers}",
        300 + n
    );
    match n % 3 {
        0 => (valid, true),
        1 => (valid.replace("queue:", "quueue:"), false),
        // In the middle of an entry of `workers:`.
        _ => (valid[..valid.len() - 20].to_owned(), false),
    }
}

/// Its sessions go on meanwhile, and are not forgotten when it comes back.
#[tokio::test]
async fn a_worker_taken_out_and_put_back_keeps_its_sessions_counts() {
    let fakes = (FakePlaywright::start().await, FakePlaywright::start().await);
    let grid = Grid::new().fakes(&[&fakes.0, &fakes.1]).start().await;
    let with = |fakes: &[&FakePlaywright]| {
        let entry =
            |fake: &&FakePlaywright| format!("  - {{ endpoint: \"{}\" }}\n", fake.endpoint());
        let entries: String = fakes.iter().map(entry).collect();
        format!(
            "limits: {{ max_concurrent_sessions: 2, max_lifetime_sessions: 0 }}\nworkers:\n{entries}"
        )
    };
    grid.configure(&with(&[&fakes.0, &fakes.1]));
    eventually_equal("seats in force", "2".to_owned(), async || {
        in_force(&grid, "limits.max_concurrent_sessions").await
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(grid.connect().await);
    }
    let counts = async || {
        let mut workers = grid.workers().await;
        workers.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
        let counts = workers.iter().map(|it| (it.serves(), it.active_sessions));
        counts.collect::<Vec<_>>()
    };
    eventually_equal("counts", vec![(true, 2), (true, 2)], counts).await;
    grid.configure(&with(&[&fakes.1]));
    eventually_equal("workers that serve", 1, async || {
        counts().await.iter().filter(|(serves, _)| *serves).count()
    })
    .await;
    let held: u32 = counts().await.iter().map(|(_, active)| active).sum();
    assert_eq!(held, 4);
    grid.configure(&with(&[&fakes.0, &fakes.1]));
    eventually_equal("counts", vec![(true, 2), (true, 2)], counts).await;
    all_work(&mut open).await;
    for session in open {
        session.close().await;
    }
    grid.idle().await;
    // With nobody on it, it goes for good.
    grid.configure(&with(&[&fakes.1]));
    eventually_equal("workers", 1, async || grid.workers().await.len()).await;
}

#[tokio::test]
async fn reloads_under_load_end_no_session_and_fail_no_connect() {
    let reloads = number("PLAYHOUSE_RELOADS", 60);
    let pause = Duration::from_secs(number("PLAYHOUSE_RELOAD_SECONDS", 15).into()) / reloads;
    let fakes = (FakePlaywright::start().await, FakePlaywright::start().await);
    let workers = format!(
        "workers:\n  - {{ endpoint: \"{}\", browser: chromium }}\n  \
         - {{ endpoint: \"{}\", browser: chromium }}\n",
        fakes.0.endpoint(),
        fakes.1.endpoint()
    );
    let grid = Grid::new().fakes(&[&fakes.0, &fakes.1]).start().await;
    grid.configure(&version(0, &workers).0);
    eventually_equal("seats in force", "60".to_owned(), async || {
        in_force(&grid, "limits.max_concurrent_sessions").await
    })
    .await;

    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(grid.connect().await);
    }
    let load = Load::start(grid.dial(), 8);
    let begun = Instant::now();
    let mut last_valid = 0;
    for n in 1..=reloads {
        let (text, valid) = version(n, &workers);
        if valid {
            last_valid = n;
        }
        if n.is_multiple_of(2) {
            grid.configure(&text);
        } else {
            // In place, and in two halves: somebody looks in between.
            let (one, other) = text.split_at(text.len() / 2);
            std::fs::write(grid.config_file(), one).unwrap();
            tokio::task::yield_now().await;
            std::fs::write(grid.config_file(), format!("{one}{other}")).unwrap();
        }
        if n.is_multiple_of(5) {
            grid.signal(Signal::SIGHUP);
        }
        all_work(&mut open).await;
        // The pace of the load, not a wait for something to happen.
        let next = begun + pause * n;
        tokio::time::sleep_until(next.into()).await;
    }
    // A version that is never valid comes last: the last valid one stays in force.
    let (text, _) = version(last_valid, &workers);
    grid.configure(&text);
    let seats = (60 + last_valid).to_string();
    eventually_equal("seats in force", seats.clone(), async || {
        in_force(&grid, "limits.max_concurrent_sessions").await
    })
    .await;
    grid.configure(&version(1, &workers).0);
    eventually_equal("the outcome", Value::from("invalid"), async || {
        reload_status(&grid).await["outcome"].clone()
    })
    .await;
    let error = reload_status(&grid).await["errors"][0].to_string();
    assert!(
        error.contains("playhouse.yaml:2") && error.contains("quueue"),
        "{error}"
    );
    assert_eq!(
        in_force(&grid, "limits.max_concurrent_sessions").await,
        seats
    );

    all_work(&mut open).await;
    load.reaches(100).await;
    let served = load.finish().await;
    println!(
        "{reloads} reloads in {:?}, {served} sessions served",
        begun.elapsed()
    );
    for session in open {
        session.close().await;
    }
    grid.idle().await;
    grid.logs("configuration changed").await;
}

#[tokio::test]
async fn reloads_are_nothing_to_real_clients() {
    let grid = Grid::new().workers(1).capacity(10).start().await;
    let mut drivers = Vec::new();
    for language in Language::BOTH {
        let mut driver = Driver::start(language, &grid.url());
        driver.open("stays").await.unwrap();
        drivers.push(driver);
    }
    let reloads = number("PLAYHOUSE_RELOADS", 12);
    let pause = Duration::from_secs(number("PLAYHOUSE_RELOAD_SECONDS", 3).into()) / reloads;
    let done = Cell::new(false);
    let reloading = async {
        for n in 0..reloads {
            let text = match n % 3 {
                0 => format!("queue: {{ timeout: {}s }}\n", 100 + n),
                1 => "queue: { timeout: soon }\n".to_owned(),
                _ => "queue: { timeout: 1".to_owned(),
            };
            grid.configure(&text);
            grid.signal(Signal::SIGHUP);
            // The pace of the changes, not a wait for something to happen.
            tokio::time::sleep(pause).await;
        }
        done.set(true);
    };
    let visiting = async {
        let mut visits = 0;
        while !done.get() {
            for driver in &mut drivers {
                driver.works("stays").await.unwrap();
                let name = format!("guest-{visits}");
                driver.open(&name).await.unwrap();
                driver.close(&name).await.unwrap();
                visits += 1;
            }
        }
        visits
    };
    let ((), visits) = tokio::join!(reloading, visiting);
    println!("{reloads} reloads, {visits} sessions of real clients came and went");
    for mut driver in drivers {
        driver.works("stays").await.unwrap();
        assert!(!driver.lost("stays"));
        driver.quit().await;
    }
    grid.idle().await;
}

/// Kubernetes mounts a folder whose `..data` is a link, and swaps that link.
#[tokio::test]
async fn a_swapped_link_is_a_changed_file() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let workers = entries(&[&fake]);
    let folder = grid.folder();
    for (generation, seats) in [("one", 7), ("two", 8)] {
        std::fs::create_dir(folder.join(generation)).unwrap();
        let text = format!("limits: {{ max_concurrent_sessions: {seats} }}\n{workers}");
        std::fs::write(folder.join(generation).join("playhouse.yaml"), text).unwrap();
    }
    let swap = |to: &str| {
        std::os::unix::fs::symlink(folder.join(to), folder.join("..new")).unwrap();
        std::fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    };
    swap("one");
    std::os::unix::fs::symlink(folder.join("..data/playhouse.yaml"), folder.join("link")).unwrap();
    std::fs::rename(folder.join("link"), grid.config_file()).unwrap();
    let seats = async || in_force(&grid, "limits.max_concurrent_sessions").await;
    eventually_equal("seats in force", "7".to_owned(), seats).await;
    swap("two");
    eventually_equal("seats in force", "8".to_owned(), seats).await;
}

#[tokio::test]
pub async fn a_worker_over_its_new_limit_just_takes_no_more() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .queue_timeout(Duration::from_secs(600))
        .start()
        .await;
    let workers = entries(&[&fake]);
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(grid.connect().await);
    }
    grid.configure(&format!(
        "limits: {{ max_concurrent_sessions: 2 }}\n{workers}"
    ));
    eventually_equal("seats in force", "2".to_owned(), async || {
        in_force(&grid, "limits.max_concurrent_sessions").await
    })
    .await;
    all_work(&mut open).await;
    let waiting = tokio::spawn(grid.dial().connect());
    grid.queued(1).await;
    for _ in 0..3 {
        open.pop().unwrap().close().await;
    }
    eventually_equal("sessions", 2, async || grid.active().await).await;
    assert!(!waiting.is_finished(), "the worker is at its new limit");
    all_work(&mut open).await;
    open.pop().unwrap().close().await;
    let seated = waiting.await.unwrap().expect("one below the limit again");
    seated.close().await;
    open.pop().unwrap().close().await;
    grid.idle().await;
}
