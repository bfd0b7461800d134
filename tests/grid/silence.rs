//! Sessions that say nothing for long, through a middlebox that cuts connections in which nothing
//! moves: our pings keep them, at the client's side and at the worker's.

use crate::support::{Dial, Driver, FakePlaywright, Grid, Language, Middlebox, eventually_equal};
use std::time::Duration;

/// `PLAYHOUSE_SILENCE_SECONDS=60` and `PLAYHOUSE_IDLE_SECONDS=600` for the long version.
fn seconds(variable: &str, default: u64) -> Duration {
    let set = std::env::var(variable).ok();
    let seconds = set.map_or(default, |text| text.parse().expect("a number"));
    Duration::from_secs(seconds)
}

/// How long a connection may be silent, how long sessions are idle, and a configuration with five
/// pings in the first: a busy machine may be late with one.
fn times() -> (Duration, Duration, String) {
    let silence = seconds("PLAYHOUSE_SILENCE_SECONDS", 5);
    let idle = seconds("PLAYHOUSE_IDLE_SECONDS", 12);
    let ping = silence.as_millis() / 5;
    (
        silence,
        idle,
        format!("session: {{ ping_interval: {ping}ms }}"),
    )
}

#[tokio::test]
async fn idle_sessions_of_real_clients_live_on() {
    let (silence, idle, config) = times();
    let grid = Grid::new().workers(1).config(&config).start().await;
    let network = Middlebox::start(grid.address(), silence).await;
    let mut users = Language::BOTH.map(|language| Driver::start(language, &network.url()));
    for user in &mut users {
        user.open("idle").await.unwrap();
    }
    tokio::time::sleep(idle).await;
    assert_eq!(network.cut(), 0);
    for user in &mut users {
        user.works("idle").await.unwrap();
    }
    for user in users {
        user.quit().await;
    }
}

#[tokio::test]
async fn idle_sessions_live_on_whichever_side_the_middlebox_is() {
    let (silence, idle, config) = times();
    let fake = FakePlaywright::start().await;
    let inner = Middlebox::start(fake.address(), silence).await;
    let endpoint = format!("ws://{}{}", inner.address(), fake.path());
    let grid = Grid::new()
        .static_workers(1)
        .config(&config)
        .config(&format!(
            "workers: [ {{ endpoint: \"{endpoint}\", browser: chromium }} ]"
        ))
        .start()
        .await;
    let outer = Middlebox::start(grid.address(), silence).await;
    let before = inner.cut();
    let mut client = Dial::new(outer.address()).connect().await.unwrap();
    client.echo("before").await;
    tokio::time::timeout(idle, client.text())
        .await
        .expect_err("nobody says anything but pings");
    client.echo("after").await;
    assert_eq!((outer.cut(), inner.cut()), (0, before));
    client.close().await;
}

/// The proof that the middlebox is one: without pings the session is lost.
#[tokio::test]
async fn without_pings_they_do_not() {
    let silence = Duration::from_secs(1);
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .config("session: { ping_interval: never }")
        .start()
        .await;
    let network = Middlebox::start(grid.address(), silence).await;
    let mut client = Dial::new(network.address()).connect().await.unwrap();
    client.echo("before").await;
    eventually_equal("connections cut", 1, async || network.cut()).await;
    eventually_equal("sessions", 0, async || grid.active().await).await;
}
