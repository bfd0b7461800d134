//! How long a session lasts, and how a process ends.

use super::Changing;
use crate::support::{Connected, FakePlaywright, Grid, eventually, eventually_equal};
use futures_util::StreamExt;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Far beyond what any of the keys says.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the grid says when it ends a session.
async fn farewell(session: &mut Connected) -> CloseFrame {
    let closed = timeout(PATIENCE, session.closed()).await;
    closed.expect("it is ended").expect("with a close frame")
}

#[tokio::test]
pub async fn sessions_end_when_their_time_is_up() {
    let fake = FakePlaywright::start().await;
    let changing = Changing::start(Grid::new(), &[&fake], "").await;
    let grid = &changing.grid;
    let mut untouched = grid.connect().await;

    for (limit, why) in [
        ("idle_timeout: 200ms", "idle"),
        ("max_duration: 200ms", "exceeded"),
    ] {
        changing.now(&format!("session: {{ {limit} }}")).await;
        let close = farewell(&mut grid.connect().await).await;
        assert_eq!(u16::from(close.code), 1008);
        assert!(close.reason.contains(why), "{close:?}");
    }

    changing.now("session: { ping_interval: 50ms }").await;
    let mut silent = grid.connect().await;
    let pinged = timeout(PATIENCE, silent.socket.next()).await;
    assert!(
        matches!(pinged, Ok(Some(Ok(Message::Ping(_))))),
        "{pinged:?}"
    );
    silent.close().await;

    let gone = async |session: &Connected, why: &str| {
        let id = session.session().to_owned();
        eventually("it is ended", async || {
            let log = grid.log();
            let mut lines = log.lines().filter(|it| it.contains("session ended"));
            let line = lines.find(|line| line.contains(&id))?.to_owned();
            assert!(line.contains(&format!("why={why} ")), "{line}");
            Some(())
        })
        .await;
    };
    changing
        .now("session: { ping_interval: 50ms, ping_timeout: 5s }")
        .await;
    // Nobody reads here, so nobody answers the pings; but that machine is there.
    let mut deaf = grid.connect().await;
    let mut hushed = grid.connect().await;
    hushed.send("hush").await;
    gone(&hushed, "worker_silent").await;
    deaf.echo("at a breakpoint, and on").await;
    deaf.close().await;

    changing.now("session: { write_timeout: 300ms }").await;
    let mut full = grid.connect().await;
    full.send("flood").await;
    gone(&full, "client_slow").await;

    untouched.echo("none of this is for me").await;
    untouched.close().await;
    grid.idle().await;
}

#[tokio::test]
pub async fn a_process_ends_as_told() {
    const GRACE: Duration = Duration::from_secs(6);
    let fake = FakePlaywright::start().await;
    let grace = "server: { shutdown_grace: 6s }";
    let mut changing = Changing::start(Grid::new(), &[&fake], grace).await;
    changing
        .now(&format!("{grace}\nsession: {{ drain_timeout: 100ms }}"))
        .await;
    let mut session = changing.grid.connect().await;
    let told = Instant::now();
    changing.grid.signal(Signal::SIGTERM);
    eventually_equal("the answer to newcomers", 503, async || {
        changing.grid.get("/readyz", &[]).await.status
    })
    .await;
    // Without it the default of five minutes would have to pass.
    let close = farewell(&mut session).await;
    assert!(close.reason.contains("drain"), "{close:?}");
    assert!(
        told.elapsed() >= GRACE,
        "the listener stays open for that long"
    );
    changing.grid.ended("proxy 0").await;
}

#[tokio::test]
pub async fn the_data_port_has_as_many_threads_as_told() {
    for threads in [1, 5] {
        let fake = FakePlaywright::start().await;
        let grid = Grid::new()
            .fakes(&[&fake])
            .config(&format!("server: {{ threads: {threads} }}"))
            .start()
            .await;
        let pid = grid.process("proxy 0").processes[0].pid;
        // A thread has its name when it has run for the first time.
        eventually_equal("threads of the data port", threads, async || {
            let all = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let names = all
                .flatten()
                .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
            names.filter(|name| name.contains("data")).count()
        })
        .await;
    }
}

#[tokio::test]
pub async fn launch_options_are_allowed_as_told() {
    let fake = FakePlaywright::start().await;
    let changing = Changing::start(Grid::new(), &[&fake], "").await;
    let grid = &changing.grid;
    let slow = async || {
        let dial = grid.dial();
        let asking = dial.header("x-playwright-launch-options", r#"{"slowMo":20}"#);
        asking.connect().await
    };
    for _ in 0..2 {
        changing.now("").await;
        let session = slow().await.map_err(|refusal| refusal.body).unwrap();
        session.close().await;

        changing.now("session: { launch_options: [ args ] }").await;
        let refusal = slow().await.err().expect("it is not allowed");
        assert_eq!(refusal.status, 400);
        assert!(refusal.body.contains("slowMo"), "{}", refusal.body);
    }
    grid.idle().await;
}
