//! Every end that is ours: its user reads why, in Python and in Node, as the error of what they do
//! next. Which Close frame says so is tested where it is made, in `src/tunnel`.

use super::operations::keys::register;
use super::operations::reloads::in_force;
use crate::support::{
    Driver, FakePlaywright, Grid, Kind, Language, Middlebox, RedisServer, WorkerView, eventually,
    eventually_equal, patient,
};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::net::TcpStream;

/// Far more than what happens at once takes, and far less than the default of any timeout.
const PATIENCE: Duration = Duration::from_secs(60);

/// One user in each language.
fn users(grid: &str) -> [Driver; 2] {
    Language::BOTH.map(|language| Driver::start(language, grid))
}

/// What a user reads whose session is lost.
async fn reads(user: &mut Driver, name: &str) -> String {
    eventually("the session is lost", async || {
        user.lost(name).then_some(())
    })
    .await;
    user.works(name).await.unwrap_err()
}

/// Opens a session that the grid ends by itself, and checks what both users read.
async fn all_read(users: &mut [Driver; 2], name: &str, expected: &str) {
    for user in &mut *users {
        user.start_open(name).await;
    }
    for user in users {
        let error = match user.opened(name).await {
            // On a slow machine the end may come that early.
            Err(error) => error,
            Ok(_) => reads(user, name).await,
        };
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}

async fn set(grid: &Grid, key: &str, value: &str) {
    grid.configure(&patient(&format!("session: {{ {key}: {value} }}\n")));
    let key = format!("session.{key}");
    eventually_equal(&key, value.to_owned(), async || in_force(grid, &key).await).await;
}

/// Waits for the worker in the place of one that died.
async fn serves_again(grid: &Grid, before: &str) {
    eventually("another worker serves", async || {
        let workers = grid.workers().await;
        let new = |it: &&WorkerView| it.id != before && it.serves();
        (workers.iter().filter(new).count() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_loses_a_session_reads_why() {
    let mut grid = Grid::new().workers(1).start().await;
    let mut users = users(&grid.url());

    for user in &mut users {
        user.open("killed").await.unwrap();
        // The one before may be listed for a moment still.
        let id = eventually("the one session", async || {
            let sessions = grid.sessions().await;
            (sessions.len() == 1).then(|| sessions[0].id.clone())
        })
        .await;
        grid.admin("DELETE", &format!("/v1/sessions/{id}")).await;
        let error = reads(user, "killed").await;
        let expected = format!("playhouse: session killed by an operator (session {id})");
        assert!(error.contains(&expected), "{error:?}");
    }
    set(&grid, "idle_timeout", "4s").await;
    all_read(
        &mut users,
        "idle",
        "playhouse: session idle for 4s (session ",
    )
    .await;
    set(&grid, "max_duration", "4s").await;
    all_read(
        &mut users,
        "long",
        "playhouse: session exceeded 4s (session ",
    )
    .await;
    set(&grid, "max_duration", "never").await;

    for user in &mut users {
        user.open("orphan").await.unwrap();
    }
    let before = grid.workers().await.remove(0).id;
    grid.tree().of_kind(Kind::Node)[0].kill();
    for user in &mut users {
        let error = reads(user, "orphan").await;
        assert!(error.contains("playhouse: worker lost"), "{error:?}");
    }

    serves_again(&grid, &before).await;
    let before = grid.workers().await.remove(0).id;
    for user in &mut users {
        user.open("crashed").await.unwrap();
    }
    grid.tree().of_kind(Kind::Browser)[0].kill();
    for user in &mut users {
        let error = reads(user, "crashed").await;
        assert!(error.contains("playhouse: worker lost"), "{error:?}");
        assert!(error.contains("(session "), "{error:?}");
    }
    eventually("all four are counted as what they are", async || {
        let metrics = grid.admin("GET", "/metrics").await.body;
        let lost = r#"playhouse_sessions_total{browser="chromium",outcome="worker_lost"} 4"#;
        metrics.lines().any(|line| line == lost).then_some(())
    })
    .await;
    let ends = grid.log();
    let lost = ends.lines().filter(|line| line.contains("why=worker_lost"));
    assert_eq!(lost.count(), 4, "{ends}");

    serves_again(&grid, &before).await;
    for user in &mut users {
        user.open("interrupted").await.unwrap();
    }
    grid.stop(Signal::SIGINT).await;
    for user in &mut users {
        let error = reads(user, "interrupted").await;
        let expected = "playhouse: the grid is shutting down (session ";
        assert!(error.contains(expected), "{error:?}");
    }
}

#[tokio::test]
async fn who_outlasts_the_drain_reads_why() {
    let mut grid = Grid::new()
        .workers(1)
        .config("session: { drain_timeout: 1s }")
        .start()
        .await;
    let mut users = users(&grid.url());
    for user in &mut users {
        user.open("drained").await.unwrap();
    }
    grid.stop(Signal::SIGTERM).await;
    for user in &mut users {
        let error = reads(user, "drained").await;
        let expected = "playhouse: the grid is draining and the drain timeout is over";
        assert!(error.contains(expected), "{error:?}");
    }
}

/// A worker says so before it ends: here one that is only on the books.
#[tokio::test]
async fn who_outlasts_the_drain_of_a_worker_reads_why() {
    let redis = RedisServer::start().await;
    let fake = FakePlaywright::start().await;
    register(&redis, "one", &fake, true);
    let grid = Grid::new()
        .redis(&redis)
        .foreign_workers(1)
        .config("store: { poll_interval: 200ms }")
        .start()
        .await;
    let mut session = grid.connect().await;
    let status = |status| redis.cli(&["HSET", "worker:chromium:one", "status", status]);
    status("draining");
    eventually_equal("status", "draining".to_owned(), async || {
        grid.workers().await.remove(0).status
    })
    .await;
    session.echo("it goes on").await;
    status("shutting-down");
    let close = tokio::time::timeout(PATIENCE, session.closed()).await;
    let close = close.expect("it is ended").expect("and told why");
    let expected = "playhouse: the worker is draining and the drain timeout is over (session ";
    assert!(close.reason.starts_with(expected), "{close:?}");
}

/// By default it may take five minutes. The process waits for no more than it.
#[tokio::test]
async fn a_proxy_that_is_told_to_end_waits_for_its_last_session_only() {
    let fake = FakePlaywright::start().await;
    let mut grid = Grid::new().fakes(&[&fake]).start().await;
    let mut sessions = [grid.connect().await, grid.connect().await];
    grid.signal(Signal::SIGTERM);
    eventually("its listener is closed", async || {
        let tried = TcpStream::connect(grid.address()).await;
        tried.is_err().then_some(())
    })
    .await;
    for session in &mut sessions {
        session.echo("it goes on").await;
    }
    let [first, mut last] = sessions;
    first.close().await;
    eventually_equal("open sessions", 1, async || fake.open()).await;
    last.echo("and on").await;
    last.close().await;
    grid.ended("proxy 0").await;
}

/// By default either of them would wait five minutes for the session.
#[tokio::test]
async fn a_second_sigterm_ends_a_worker_and_a_proxy_at_once() {
    let redis = RedisServer::start().await;
    let mut grid = Grid::new().redis(&redis).worker_process(&[]).start().await;
    for name in ["worker 0", "proxy 0"] {
        let mut session = grid.connect().await;
        let before = grid.workers().await.remove(0).id;
        let tree = grid.process(name);
        let process = tree.of_kind(Kind::Playhouse)[0].clone();
        process.signal(Signal::SIGTERM);
        eventually("it has heard", async || {
            grid.log_of(name).contains("asked to end").then_some(())
        })
        .await;
        assert!(session.answers_a_ping().await, "it goes on");
        process.signal(Signal::SIGTERM);
        grid.ended(name).await;
        tree.gone().await;
        // Whether there was time to tell why is of no matter.
        session.closed().await;
        if name == "worker 0" {
            grid.start_again(name);
            eventually_equal("new workers that serve", 1, async || {
                let workers = grid.workers().await;
                let new = workers.iter().filter(|it| it.id != before);
                new.filter(|it| it.serves()).count()
            })
            .await;
        }
    }
}

/// A client that takes nothing cannot be told. One that wakes up soon after is.
#[tokio::test]
async fn a_client_that_was_too_slow_reads_so() {
    const TOO_LONG: Duration = Duration::from_secs(3);
    /// More than all buffers on the way hold.
    const MUCH: usize = 32 * 1024 * 1024;
    let grid = Grid::new()
        .workers(1)
        .config("session: { write_timeout: 2s }")
        .start()
        .await;
    for language in Language::BOTH {
        let network = Middlebox::start(grid.address(), Duration::MAX).await;
        let mut user = Driver::start(language, &network.url());
        let mut tries = 0;
        let error = eventually("the client is told that it was too slow", async || {
            tries += 1;
            let name = format!("slow{tries}");
            user.open(&name).await.unwrap();
            network.hold(true);
            user.start_fetch(&name, MUCH).await;
            eventually("it begins to come", async || {
                let sessions = grid.sessions().await;
                sessions
                    .iter()
                    .any(|it| it.bytes_out > 1 << 20)
                    .then_some(())
            })
            .await;
            // The outage itself, neither too short to matter nor so long that nobody waits.
            tokio::time::sleep(TOO_LONG).await;
            network.hold(false);
            let error = reads(&mut user, &name).await;
            error.contains("too slow").then_some(error)
        });
        let error = error.await;
        assert!(
            error.contains("playhouse: client too slow, took no data for 2s (session "),
            "{error:?}"
        );
    }
}
