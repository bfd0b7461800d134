//! Workers that a proxy does not reach, although they may be well: it says which one, where, and
//! what that usually comes from, once, and when it reaches it again.

use super::operations::keys::{Changing, register};
use crate::support::{Behaviour, FakePlaywright, Grid, RedisServer, eventually, eventually_equal};

const LOST: &str = "worker is not reached from here";
const FOUND: &str = "worker is reached again";

fn lines(grid: &Grid, about: &str) -> Vec<String> {
    let log = grid.log();
    let lines = log.lines().filter(|line| line.contains(about));
    lines.map(str::to_owned).collect()
}

/// Why the one worker is not reached, as the admin port tells.
async fn why(grid: &Grid) -> Option<String> {
    let mut workers = grid.workers().await;
    assert_eq!(workers.len(), 1);
    let worker = workers.remove(0);
    assert_eq!(worker.healthy, worker.unreachable.is_none());
    worker.unreachable
}

#[tokio::test]
async fn one_that_heartbeats_is_reported_by_name_and_address_with_the_likely_cause() {
    let redis = RedisServer::start().await;
    let fake = FakePlaywright::start().await;
    register(&redis, "elsewhere", &fake, true);
    let often = "selection: { health_interval: 50ms }\nstore: { poll_interval: 200ms }";
    let grid = Grid::new()
        .redis(&redis)
        .foreign_workers(1)
        .config(often)
        .start()
        .await;
    fake.behave(Behaviour::NotFound);
    let told = eventually("the admin port tells why", async || {
        why(&grid).await.filter(|it| it.contains("404"))
    })
    .await;
    // Each of these checks fails like the first ones; nobody is told again.
    let before = fake.probes();
    eventually("it is asked again and again", async || {
        (fake.probes() > before + 10).then_some(())
    })
    .await;
    grid.logs(LOST).await;
    let lost = lines(&grid, LOST);
    let [line] = &lost[..] else {
        panic!("once: {lost:#?}");
    };
    let address = fake.address().to_string();
    for part in [
        "chromium:elsewhere",
        &address,
        "although it heartbeats",
        " likely=",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(told.contains("PRIVATE_HOSTNAME"), "{told}");
    let status = grid.command(&["status"]).await;
    let table = String::from_utf8(status.stdout).unwrap();
    assert!(
        table.contains(&told) && table.contains("elsewhere"),
        "{table}"
    );

    fake.behave(Behaviour::Serve);
    eventually_equal("why it is not reached", None, async || why(&grid).await).await;
    grid.logs(FOUND).await;
    assert_eq!(lines(&grid, FOUND).len(), 1);
    grid.connect().await.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn one_that_cannot_be_dialled_is_out_until_it_answers() {
    let fake = FakePlaywright::start().await;
    let never = "selection: { health_interval: 1day }\nqueue: { timeout: 4s }";
    let changing = Changing::start(Grid::new(), &[&fake], never).await;
    let grid = &changing.grid;
    // Nor do the probes go well.
    fake.behave(Behaviour::NotFound);
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 502, "{refusal:?}");
    let told = why(grid).await.expect("its dial failed");
    assert!(
        told.contains("404") && told.contains("`workers:`"),
        "{told}"
    );
    grid.logs(LOST).await;
    let lost = lines(grid, LOST);
    assert!(
        lost.len() == 1 && lost[0].contains(&fake.address().to_string()),
        "{lost:#?}"
    );

    fake.behave(Behaviour::Serve);
    eventually_equal("why it is not reached", None, async || why(grid).await).await;
    grid.connect().await.close().await;

    // To answer those who only ask does not let it in again: it is asked for an upgrade.
    fake.behave(Behaviour::HangUp);
    assert!(grid.dial().connect().await.is_err());
    let (asked, probed) = (fake.upgrades(), fake.probes());
    eventually("it is asked again and again", async || {
        (fake.upgrades() >= asked + 3).then_some(())
    })
    .await;
    assert_eq!(fake.probes(), probed);
    assert!(why(grid).await.is_some());
    fake.behave(Behaviour::Serve);
    eventually_equal("why it is not reached", None, async || why(grid).await).await;
    grid.connect().await.close().await;
    eventually_equal("lines about it", (2, 2), async || {
        (lines(grid, LOST).len(), lines(grid, FOUND).len())
    })
    .await;
    eventually_equal("connections left at the worker", 0, async || fake.open()).await;
    grid.idle().await;
}

#[tokio::test]
async fn one_whose_name_is_not_known_here_is_told_once() {
    // Too long for a name: nobody has to be asked.
    let name = "x".repeat(64);
    let yaml = format!(
        "store: {{ poll_interval: 50ms }}\nqueue: {{ timeout: 100ms }}\nworkers:\n  \
         - {{ endpoint: \"ws://{name}:3131/x\", browser: chromium }}\n"
    );
    let grid = Grid::new().static_workers(1).config(&yaml).launch().await;
    let told = eventually("the admin port tells why", async || {
        let answer = grid.admin_if_it_listens("/readyz").await?;
        if answer.status != 200 || grid.workers().await.is_empty() {
            return None;
        }
        why(&grid).await
    })
    .await;
    assert!(told.contains("`workers:` is a name"), "{told}");
    // Looked up each time that the fleet is read: after a session was refused ten times it was.
    for _ in 0..10 {
        let refusal = grid.dial().refused().await;
        assert_eq!(refusal.status, 503, "{refusal:?}");
    }
    grid.logs(LOST).await;
    assert_eq!(lines(&grid, LOST).len(), 1);
}
