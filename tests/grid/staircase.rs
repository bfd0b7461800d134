//! The lifetime limit: workers are replaced one after another, never together.

use crate::support::{Driver, Grid, Language, Scrape};
use playhouse::config::Strategy;
use playhouse::model::{Browser, Pool, SeatKind, Size, WorkerKey};
use playhouse::selection::{Facts, Policy, policy};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

const WORKERS: usize = 3;
const LIMIT: u32 = 10;
const SESSIONS: usize = 60;

#[tokio::test]
async fn sixty_sessions_replace_three_workers_one_after_another() {
    let grid = Grid::new().workers(WORKERS).lifetime(LIMIT).start().await;
    let mut fewest_serving = WORKERS;
    let mut replaced_at = Vec::new();

    let sessions = async {
        let mut client = Driver::start(Language::Python, &grid.url());
        let mut seen: BTreeSet<String> = ids(&grid).await;
        show("session  lifetimes of three real workers, the highest first");
        for session in 1..=SESSIONS {
            let opened = client.open("a").await;
            opened.unwrap_or_else(|error| panic!("session {session}: {error}"));
            client.close("a").await.unwrap();
            let now = ids(&grid).await;
            if now.difference(&seen).next().is_some() {
                replaced_at.push(session);
            }
            seen.extend(now);
            let workers = grid.workers().await;
            let mut lifetimes: Vec<u32> = workers.iter().map(|it| it.lifetime_sessions).collect();
            lifetimes.sort_unstable_by_key(|lifetime| std::cmp::Reverse(*lifetime));
            show(&format!("{session:>7}  {}", stairs(&lifetimes)));
        }
        client.quit().await;
        seen
    };
    // Looks on all the while, more often than a browser can be replaced.
    let watch = async {
        loop {
            let workers = grid.workers().await;
            let serving = workers.iter().filter(|worker| worker.serves()).count();
            fewest_serving = fewest_serving.min(serving);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let seen = tokio::select! {
        seen = sessions => seen,
        () = watch => unreachable!("it looks on for ever"),
    };

    show(&format!(
        "replacements after sessions {replaced_at:?}; at least {fewest_serving} serving all the time"
    ));
    assert!(
        grid.was_late() || fewest_serving >= WORKERS - 1,
        "two workers were out at once"
    );
    // Sixty sessions on browsers of ten fill at least three of them to the brim.
    assert!(
        seen.len() >= WORKERS + 3,
        "too few replacements: {replaced_at:?}"
    );
    for pair in replaced_at.windows(2) {
        assert!(pair[1] - pair[0] > 1, "two in a row: {replaced_at:?}");
    }
    let recycles = Scrape::of(&grid.metrics_url(), &[]);
    let for_lifetime = recycles.value("worker_recycles_total", &[("reason", "lifetime")]);
    assert!(
        for_lifetime.is_some_and(|count| count >= 3.0),
        "{for_lifetime:?}"
    );
    grid.idle().await;
}

async fn ids(grid: &Grid) -> BTreeSet<String> {
    let workers = grid.workers().await;
    workers.into_iter().map(|worker| worker.id).collect()
}

/// Shows a line while the test runs, past the test runner that keeps what is printed.
fn show(line: &str) {
    let mut past_capture = std::io::stderr();
    writeln!(past_capture, "{line}").expect("standard error is open");
}

/// Lifetimes as bars.
fn stairs(lifetimes: &[u32]) -> String {
    let bar = |lifetime: &u32| format!("{lifetime:>2} {:<12}", "#".repeat(*lifetime as usize));
    lifetimes.iter().map(bar).collect()
}

/// For how many sessions a simulated worker is away when it is replaced: less than the margin
/// (10 / 3), which is the distance that the order keeps between two replacements.
const AWAY: usize = 2;

#[test]
fn round_robin_replaces_all_three_at_once_where_lifetime_first_replaces_one() {
    let mut turn = 0;
    let round_robin = simulate("round robin", |lifetimes| {
        let next = (turn..turn + WORKERS)
            .map(|n| n % WORKERS)
            .find(|n| lifetimes[*n].is_some())?;
        turn = next + 1;
        Some(next)
    });
    let lifetime_first = simulate("lifetime first", by_policy);
    assert_eq!(round_robin, WORKERS, "all are out at once");
    assert_eq!(lifetime_first, 1, "one is out at a time");
}

/// The product's own order, for sessions that follow one another.
fn by_policy(lifetimes: &[Option<u32>]) -> Option<usize> {
    let facts = lifetimes.iter().enumerate().map(|(n, lifetime)| Facts {
        key: WorkerKey::new(Browser::Chromium, n.to_string()),
        address: ([127, 0, 0, 1], 0).into(),
        version: None,
        seat: SeatKind::Shared,
        size: Size::default(),
        active: 0,
        lifetime: lifetime.unwrap_or_default(),
        started_at: 0,
        takes_sessions: lifetime.is_some(),
        suspected: false,
        replaces_itself: false,
    });
    let facts: Vec<Facts> = facts.collect();
    let policy = Policy {
        strategy: Strategy::LifetimeFirst,
        max_concurrent_sessions: 5,
        max_lifetime_sessions: Some(LIMIT),
        ceiling: None,
    };
    let wanted = Pool {
        browser: Browser::Chromium,
        version: None,
        seat: SeatKind::Shared,
    };
    let first = *policy::rank(&facts, &policy, &wanted).first()?;
    facts.iter().position(|worker| worker == first)
}

/// The same sixty sessions on workers that are away while they are replaced; how many were away
/// at once at worst. `choose` sees the lifetimes, `None` for a worker that is away.
fn simulate(name: &str, mut choose: impl FnMut(&[Option<u32>]) -> Option<usize>) -> usize {
    let mut lifetimes = [0; WORKERS];
    let mut back_at = [0; WORKERS];
    let mut most_away = 0;
    println!("{name}, simulated\nsession  lifetimes");
    let (mut session, mut time) = (0, 0);
    while session < SESSIONS {
        time += 1;
        let here: Vec<Option<u32>> = (0..WORKERS)
            .map(|n| (back_at[n] <= time).then_some(lifetimes[n]))
            .collect();
        // Nobody there: the session waits, and time goes by.
        let Some(chosen) = choose(&here) else {
            continue;
        };
        session += 1;
        lifetimes[chosen] += 1;
        println!("{session:>7}  {}", stairs(&lifetimes));
        if lifetimes[chosen] == LIMIT {
            lifetimes[chosen] = 0;
            back_at[chosen] = time + 1 + AWAY;
        }
        let away = back_at.iter().filter(|at| **at > time).count();
        most_away = most_away.max(away);
    }
    println!("at worst {most_away} of {WORKERS} away at once\n");
    most_away
}
