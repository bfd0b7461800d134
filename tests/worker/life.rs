//! A worker starts, serves, is recycled without a gap, drains and ends.

use super::bench::{Bench, nothing_runs, processes};
use super::support::{Kind, Process, eventually, eventually_equal};
use nix::sys::signal::Signal;
use playhouse::config::RecycleMode;
use playhouse::model::{RecycleReason, WorkerStatus};
use playhouse::store::{Event, WorkerStore};
use playhouse::worker::Shutdown;
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_registers_tells_its_memory_and_ends_when_told() {
    let bench = Bench::start(|_| ()).await;
    let record = bench.available().await.record;
    assert!(record.replaces_itself && record.version.is_some());
    assert_eq!(record.endpoint.host, "127.0.0.1");
    eventually("its memory is known", async || {
        bench.available().await.record.memory
    })
    .await;

    assert!(record.endpoint.path.len() > 32, "a path nobody guesses");
    let everything = format!("{:?}", processes());
    assert!(everything.contains("launch-server"));
    assert!(!everything.contains(&record.endpoint.path), "nor reads");
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recycle_costs_no_seat_and_cuts_no_session() {
    let bench = Bench::start(|config| config.limits.max_lifetime_sessions = 10).await;
    bench.available().await;
    let mut sessions = Vec::new();
    let mut samples = 0;
    while bench.recycled().len() < 3 {
        let (session, worker, _) = bench.seat().await.expect("there is always a seat");
        sessions.push((session, worker));
        if sessions.len() > 5 {
            let (session, worker) = sessions.remove(0);
            let fleet = bench.fleet().await;
            assert!(fleet.iter().any(|it| it.record.key == worker), "cut");
            bench.leave(session).await;
        }
        let available = bench.in_status(WorkerStatus::Available).await;
        assert!(!available.is_empty(), "sample {samples}");
        samples += 1;
        // The pace of a busy worker, and of the samples.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(samples > 30);
    assert!(
        bench
            .recycled()
            .iter()
            .all(|it| *it == RecycleReason::Lifetime)
    );
    assert_eq!(bench.crashes(), [] as [String; 0]);
    for (session, _) in sessions {
        bench.leave(session).await;
    }
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_eats_memory_is_replaced_once_it_has_served() {
    let bench = Bench::start(|config| config.recycle.max_memory = Some(1)).await;
    let key = bench.available().await.record.key;
    let (session, on, _) = bench.seat().await.unwrap();
    assert_eq!(on, key);
    eventually_equal("the next one serves", 1, async || {
        let available = bench.in_status(WorkerStatus::Available).await;
        available.iter().filter(|it| **it != key).count()
    })
    .await;
    eventually_equal("the old one drains", vec![key.clone()], async || {
        bench.in_status(WorkerStatus::Draining).await
    })
    .await;
    bench.leave(session).await;
    bench.replaced(&key).await;
    assert_eq!(bench.recycled(), [RecycleReason::Memory]);
    bench.end(Shutdown::Drain).await;
}

/// What may be wrong with a browser whose server still answers.
const HURT: [&str; 3] = ["browser stopped", "zygotes stopped", "zygotes killed"];

fn hurt(how: &str) {
    let all = processes();
    let zygotes = || {
        all.processes
            .iter()
            .filter(|it| it.command.contains("--type=zygote"))
    };
    match how {
        "browser stopped" => all.of_kind(Kind::Browser)[0].signal(Signal::SIGSTOP),
        "zygotes stopped" => zygotes().for_each(|zygote| zygote.signal(Signal::SIGSTOP)),
        "zygotes killed" => zygotes().for_each(Process::kill),
        other => panic!("nobody knows how to do this: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_opens_no_page_gets_no_session_and_its_sessions_learn_why() {
    for how in HURT {
        let bench = Bench::start(|_| ()).await;
        let key = bench.available().await.record.key;
        let (session, ..) = bench.seat().await.unwrap();
        let mut events = bench.store.events();
        hurt(how);
        let mut story = Vec::new();
        let reason = eventually(how, async || {
            let event = timeout(Duration::from_secs(1), events.recv()).await.ok()?;
            let Event::Worker(worker) = event.expect("few events, all read at once") else {
                return None;
            };
            let record = worker.record;
            if record.key == key && story.last() != Some(&record.status) {
                story.push(record.status);
            }
            record.end_reason.filter(|_| record.key == key)
        })
        .await;
        assert!(reason.contains("browser"), "{reason}");
        assert_eq!(story.last(), Some(&WorkerStatus::ShuttingDown), "{how}");
        assert!(
            story.contains(&WorkerStatus::Draining),
            "first it is suspected: {how} {story:?}"
        );
        bench.leave(session).await;
        bench.replaced(&key).await;
        assert_eq!(bench.recycled(), [RecycleReason::Failures]);
        bench.end(Shutdown::Drain).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_stumbles_serves_again() {
    let bench = Bench::start(|_| ()).await;
    let key = bench.available().await.record.key;
    let browser = processes().of_kind(Kind::Browser)[0].clone();
    browser.signal(Signal::SIGSTOP);
    eventually_equal("it is suspected", vec![key.clone()], async || {
        bench.in_status(WorkerStatus::Draining).await
    })
    .await;
    browser.signal(Signal::SIGCONT);
    eventually_equal("it serves again", vec![key], async || {
        bench.in_status(WorkerStatus::Available).await
    })
    .await;
    assert_eq!(bench.recycled(), []);
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_while_it_drains_is_not_waited_for() {
    let bench = Bench::start(|_| ()).await;
    let old = bench.available().await.record.key;
    let browser = processes().of_kind(Kind::Browser)[0].clone();
    bench.seat().await.unwrap();
    let minute = Duration::from_secs(60);
    bench.store.order_recycle(&old, minute).await.unwrap();
    eventually_equal("it drains", vec![old.clone()], async || {
        bench.in_status(WorkerStatus::Draining).await
    })
    .await;
    browser.signal(Signal::SIGSTOP);
    bench.replaced(&old).await;
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_the_last_session() {
    let bench = Bench::start(|_| ()).await;
    let key = bench.available().await.record.key;
    let (session, ..) = bench.seat().await.unwrap();
    bench.shutdown.send(Shutdown::Drain).unwrap();
    eventually_equal("it drains", vec![key], async || {
        bench.in_status(WorkerStatus::Draining).await
    })
    .await;
    assert!(bench.seat().await.is_none(), "no new sessions");
    assert!(bench.is_running());
    bench.leave(session).await;
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_timeout_after_a_word_to_the_proxies() {
    let bench = Bench::start(|config| config.worker.drain_timeout = Duration::ZERO).await;
    let key = bench.available().await.record.key;
    bench.seat().await.unwrap();
    // Not looked for in the store: it stands there for half a second only.
    let mut events = bench.store.events();
    bench.shutdown.send(Shutdown::Drain).unwrap();
    eventually("proxies are told", async || {
        let event = timeout(Duration::from_secs(1), events.recv()).await.ok()?;
        let Event::Worker(worker) = event.expect("few events, all read at once") else {
            return None;
        };
        let record = worker.record;
        (record.key == key && record.status == WorkerStatus::ShuttingDown).then_some(())
    })
    .await;
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_word_ends_at_once() {
    let bench = Bench::start(|_| ()).await;
    bench.available().await;
    bench.seat().await.unwrap();
    bench.shutdown.send(Shutdown::Drain).unwrap();
    bench.end(Shutdown::Now).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_mode_exit_it_drains_and_ends() {
    let bench = Bench::start(|config| {
        config.recycle.mode = RecycleMode::Exit;
        config.limits.max_lifetime_sessions = 1;
    })
    .await;
    let record = bench.available().await.record;
    assert!(!record.replaces_itself);
    let (session, ..) = bench.seat().await.unwrap();
    let minute = Duration::from_secs(60);
    bench
        .store
        .order_recycle(&record.key, minute)
        .await
        .unwrap();
    eventually_equal("it drains", vec![record.key], async || {
        bench.in_status(WorkerStatus::Draining).await
    })
    .await;
    bench.leave(session).await;
    eventually_equal("it ends", false, async || bench.is_running()).await;
    assert_eq!(bench.recycled(), [RecycleReason::Lifetime]);
    nothing_runs().await;
}
