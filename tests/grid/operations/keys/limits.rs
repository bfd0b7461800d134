//! How much of everything: heads, connections, clients that wait; and which worker is next.

use super::{Changing, register};
use crate::support::{
    Behaviour, FakePlaywright, Grid, RedisServer, eventually, eventually_equal, raw, read_to_close,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
pub async fn heads_and_connections() {
    let fake = FakePlaywright::start().await;
    let changing = Changing::start(Grid::new(), &[&fake], "").await;
    let grid = &changing.grid;

    let long = || grid.dial().header("x-long", &"x".repeat(2000));
    long()
        .connect()
        .await
        .expect("32 KiB is room enough")
        .close()
        .await;
    changing.now("limits: { max_header_bytes: 1KiB }").await;
    let refusal = long().refused().await;
    assert_eq!(refusal.status, 431);

    changing.now("limits: { header_timeout: 3s }").await;
    let mut slow = TcpStream::connect(grid.address()).await.unwrap();
    slow.write_all(b"GET / HT").await.unwrap();
    let answer = read_to_close(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");

    // Nobody else is to be that quick.
    changing.now("").await;
    let open = [grid.connect().await, grid.connect().await];
    let one_more = async || {
        raw(
            grid.address(),
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )
        .await
    };
    for key in ["max_connections_per_ip", "max_connections"] {
        let answer = one_more().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        changing.now(&format!("limits: {{ {key}: 2 }}")).await;
        let answer = one_more().await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{key}: {answer}");
        changing.now("").await;
    }
    grid.logs("connections turned away client=127.0.0.1").await;
    for session in open {
        session.close().await;
    }
    grid.idle().await;
}

#[tokio::test]
pub async fn the_queue_is_as_long_as_told() {
    let fake = FakePlaywright::start().await;
    let first = "limits: { max_concurrent_sessions: 1 }\nqueue: { timeout: 1h, max_waiting: ";
    let changing = Changing::start(Grid::new(), &[&fake], &format!("{first} 1 }}")).await;
    let grid = &changing.grid;
    let seated = grid.connect().await;
    let one = tokio::spawn(grid.dial().connect());
    grid.queued(1).await;
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 429);

    changing.now(&format!("{first} 3 }}")).await;
    let two = tokio::spawn(grid.dial().connect());
    grid.queued(2).await;

    changing
        .now("limits: { max_concurrent_sessions: 1 }\nqueue: { timeout: 100ms }")
        .await;
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 503);
    grid.queued(2).await;

    seated.close().await;
    for waiting in [one, two] {
        waiting
            .await
            .unwrap()
            .expect("it waits for an hour")
            .close()
            .await;
    }
    grid.idle().await;
}

#[tokio::test]
pub async fn selection_follows_its_strategy() {
    let redis = RedisServer::start().await;
    let (one, two) = (FakePlaywright::start().await, FakePlaywright::start().await);
    for (id, fake) in [("one", &one), ("two", &two)] {
        register(&redis, id, fake, false);
    }
    let builder = Grid::new().redis(&redis);
    let changing = Changing::start(builder, &[], "store: { poll_interval: 200ms }").await;
    let grid = &changing.grid;
    eventually_equal("workers", 2, async || grid.workers().await.len()).await;
    let open = async || {
        let mut open = [one.open(), two.open()];
        open.sort_unstable();
        open
    };
    // The one that has a session behind it is closer to its limit.
    let mut sessions = vec![grid.connect().await, grid.connect().await];
    assert_eq!(open().await, [0, 2]);
    let poll = "store: { poll_interval: 200ms }";
    changing
        .now(&format!("{poll}\nselection: {{ strategy: least_active }}"))
        .await;
    sessions.push(grid.connect().await);
    assert_eq!(open().await, [1, 2]);

    changing
        .now(&format!(
            "{poll}\nselection: {{ default_browser: firefox }}\nqueue: {{ timeout: 100ms }}"
        ))
        .await;
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 503);
    assert!(refusal.body.contains("firefox"), "{refusal:?}");
    for session in sessions {
        session.close().await;
    }
    grid.idle().await;
}

#[tokio::test]
pub async fn workers_are_asked_and_dialled() {
    let fake = FakePlaywright::start().await;
    let slow = "selection: { dial_timeout: 1day, health_interval: 1day }";
    let changing = Changing::start(Grid::new(), &[&fake], slow).await;
    let grid = &changing.grid;
    // At once: it does not wait for the day to be over.
    changing.now("selection: { health_interval: 50ms }").await;
    let before = fake.probes();
    eventually("it is asked again and again", async || {
        (fake.probes() > before + 20).then_some(())
    })
    .await;

    changing.now(slow).await;
    fake.behave(Behaviour::Hang);
    let patient = tokio::spawn(grid.dial().connect());
    eventually("it is dialled", async || {
        (fake.upgrades() > 0).then_some(())
    })
    .await;
    changing
        .now("selection: { dial_timeout: 100ms, health_interval: 1day }\nqueue: { timeout: 4s }")
        .await;
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 502, "{refusal:?}");
    assert!(!patient.is_finished(), "its dial has a day");
    patient.abort();
    grid.idle().await;
}
