//! Signals that come on top of each other, successors that fail, and what an operator can do while a
//! process drains.

use crate::support::{FakePlaywright, Grid, RedisServer, eventually, eventually_equal, free_port};
use nix::sys::signal::Signal;
use std::net::TcpListener;

#[tokio::test]
async fn the_admin_port_tells_and_obeys_until_the_last_session_has_ended() {
    let fake = FakePlaywright::start().await;
    let mut grid = Grid::new().fakes(&[&fake]).start().await;
    let mut session = grid.connect().await;
    grid.signal(Signal::SIGTERM);
    eventually("the data port is closed", async || {
        TcpListener::bind(grid.address()).ok()
    })
    .await;
    session.echo("still there").await;
    assert_eq!(grid.sessions().await.len(), 1);
    assert_eq!(grid.admin("GET", "/metrics").await.status, 200);
    assert_eq!(grid.admin("GET", "/readyz").await.status, 503);
    let id = session.session().to_owned();
    let killed = grid.command(&["kill", &id]).await;
    assert!(killed.status.success(), "{killed:?}");
    assert!(session.closed().await.is_some());
    grid.ended("proxy 0").await;
}

#[tokio::test]
async fn a_drain_timeout_that_is_raised_during_a_drain_holds() {
    let fake = FakePlaywright::start().await;
    let short = "session: { drain_timeout: 15s }\n";
    let mut grid = Grid::new().config(short).fakes(&[&fake]).start().await;
    let before = std::fs::read_to_string(grid.config_file()).unwrap();
    let mut session = grid.connect().await;
    grid.signal(Signal::SIGTERM);
    grid.logs("asked to end").await;
    grid.configure(&before.replace("15s", "1h"));
    grid.logs("configuration changed").await;
    let old = |it: &serde_json::Value| it["sessions"][0]["ageSeconds"].as_f64() > Some(20.0);
    eventually("the session is older than that", async || {
        let sessions = grid.admin("GET", "/v1/sessions").await.json();
        old(&sessions).then_some(())
    })
    .await;
    session.echo("still there").await;
    session.close().await;
    grid.ended("proxy 0").await;
}

/// A hand-over, then a drain: the sessions of the replaced process go on.
#[tokio::test]
async fn signals_have_ranks() {
    let fake = FakePlaywright::start().await;
    let mut grid = Grid::new()
        .env("PLAYHOUSE_SERVER_UPGRADE_SOCKET", "/nowhere/at all.sock")
        .fakes(&[&fake])
        .start()
        .await;
    let mut session = grid.connect().await;
    grid.signal(Signal::SIGQUIT);
    grid.logs("nobody takes over").await;

    grid.signal(Signal::SIGTERM);
    grid.logs("signal=Drain").await;
    grid.signal(Signal::SIGQUIT);
    grid.logs("the signal changes nothing").await;
    session.echo("still there").await;
    grid.signal(Signal::SIGTERM);
    assert!(session.closed().await.is_some());
    grid.ended("proxy 0").await;
}

#[tokio::test]
async fn a_drain_after_a_hand_over_goes_on_draining() {
    let fake = FakePlaywright::start().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("with a space.sock");
    let mut grid = Grid::new()
        .env("PLAYHOUSE_SERVER_UPGRADE_SOCKET", socket.to_str().unwrap())
        .fakes(&[&fake])
        .start()
        .await;
    let mut session = grid.connect().await;
    let successor = grid.start_successor();
    grid.signal(Signal::SIGQUIT);
    grid.logs("a new process serves").await;
    for signal in [Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGQUIT] {
        grid.signal(signal);
    }
    grid.logs("was=Replaced").await;
    session.echo("still there").await;
    grid.connect().await.close().await;
    session.close().await;
    grid.ended("proxy 0").await;
    successor.signal(Signal::SIGTERM);
    assert!(successor.ends().await.success());
}

#[tokio::test]
async fn a_successor_that_cannot_listen_changes_nothing() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let mut session = grid.connect().await;
    let taken = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let successor = grid.start_successor_with(&[("LISTEN_ADDR", &address)]);
    grid.signal(Signal::SIGQUIT);
    grid.logs("stays in service").await;
    let status = successor.ends().await;
    assert_eq!(status.code(), Some(1));
    session.echo("still there").await;
    grid.connect().await.close().await;
}

/// One that hangs and one that dies, before and after it has taken over.
#[tokio::test]
async fn a_successor_that_hangs_or_dies_changes_nothing() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let mut session = grid.connect().await;
    let socket = grid.folder().join("upgrade-0.sock");
    let hangs = grid.start_successor();
    eventually("it waits to be handed the listeners", async || {
        socket.exists().then_some(())
    })
    .await;
    hangs.signal(Signal::SIGSTOP);
    grid.signal(Signal::SIGQUIT);
    grid.logs("asked to end").await;
    grid.connect().await.close().await;
    drop(hangs);
    grid.logs("stays in service").await;
    grid.connect().await.close().await;

    let dies = grid.start_successor();
    grid.signal(Signal::SIGQUIT);
    grid.logs("a new process serves").await;
    drop(dies);
    grid.logs("this one serves again").await;
    grid.connect().await.close().await;
    // The admin port too. The client that has just left is off the list soon.
    eventually_equal("listed sessions", 1, async || grid.sessions().await.len()).await;
    session.echo("still there").await;
    session.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn while_redis_hangs_the_process_that_knows_the_workers_serves() {
    let fake = FakePlaywright::start().await;
    let redis = RedisServer::start().await;
    let grid = Grid::new().fakes(&[&fake]).redis(&redis).start().await;
    redis.pause();
    let successor = grid.start_successor();
    grid.signal(Signal::SIGQUIT);
    grid.logs("asked to end").await;
    eventually("a session without the store", async || {
        grid.dial().connect().await.ok()
    })
    .await
    .close()
    .await;
    assert!(!successor.log().contains("serving"));
    redis.resume();
    grid.logs("a new process serves").await;
    eventually_equal("sessions", true, async || {
        grid.dial().connect().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_process_with_a_word() {
    let taken = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let fake = FakePlaywright::start().await;
    for (variable, key) in [("LISTEN_ADDR", "listen"), ("ADMIN_ADDR", "admin.listen")] {
        let grid = Grid::new().fakes(&[&fake]).env(variable, &address);
        let (status, said) = grid.start_in_vain().await;
        assert_eq!(status.code(), Some(1));
        assert!(
            said.contains("cannot listen on") && said.contains(key),
            "{said}"
        );
    }
}
