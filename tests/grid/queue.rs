//! More clients than seats: they wait in order, and are told when it was in vain.

use crate::support::{
    Behaviour, Connected, Driver, FakePlaywright, Grid, Language, eventually_equal,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than any test waits.
const FOR_EVER: Duration = Duration::from_secs(600);

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn of_twelve_clients_ten_run_and_two_wait_for_the_next_free_seat_in_order() {
    let grid = Grid::new()
        .workers(2)
        .capacity(5)
        .queue_timeout(FOR_EVER)
        .start()
        .await;
    let mut seated = Driver::start(Language::Python, &grid.url());
    seated.open_all(&names(10)).await;
    assert_eq!(grid.active().await, 10);

    let mut late = Driver::start(Language::Node, &grid.url());
    late.start_open("eleventh").await;
    grid.queued(1).await;
    late.start_open("twelfth").await;
    grid.queued(2).await;
    assert_eq!(grid.active().await, 10, "no worker takes more than it may");

    seated.close("3").await.unwrap();
    late.opened("eleventh").await.unwrap();
    assert!(!late.is_opened("twelfth"));
    assert_eq!(grid.capacity().await.queued, 1);

    seated.close("8").await.unwrap();
    late.opened("twelfth").await.unwrap();
    grid.queued(0).await;

    late.quit().await;
    seated.quit().await;
    grid.idle().await;
}

#[tokio::test]
async fn a_client_that_waited_in_vain_is_told_why() {
    let grid = Grid::new()
        .workers(1)
        .capacity(1)
        .queue_timeout(Duration::from_secs(1))
        .start()
        .await;
    let mut holder = Driver::start(Language::Python, &grid.url());
    holder.open("seat").await.unwrap();

    for language in Language::BOTH {
        let mut late = Driver::start(language, &grid.url());
        let error = late.open("late").await.unwrap_err();
        assert!(error.contains("503"), "{language:?}: {error}");
        assert!(
            error.contains("no available servers"),
            "{language:?}: {error}"
        );
        assert!(error.contains("seats are taken"), "{language:?}: {error}");
        late.quit().await;
    }

    let refusal = grid.dial().connect().await.err().unwrap();
    assert_eq!(refusal.status, 503);
    assert!(refusal.is_whole(), "{refusal:?}");
    assert!(refusal.header("retry-after").is_some(), "{refusal:?}");
    let told: serde_json::Value = refusal.json();
    assert_eq!(told["message"], told["error"]["message"]);
    assert!(
        told["message"]
            .as_str()
            .unwrap()
            .contains("no available servers")
    );

    holder.works("seat").await.unwrap();
    holder.quit().await;
    grid.idle().await;
}

#[tokio::test]
async fn whoever_came_first_is_seated_first() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(1)
        .queue_timeout(FOR_EVER)
        .start()
        .await;
    let mut seated = grid.connect().await;
    let order: Arc<Mutex<Vec<(usize, Connected)>>> = Arc::default();
    for n in 1..=5 {
        let (dial, order) = (grid.dial(), Arc::clone(&order));
        tokio::spawn(async move {
            let connected = dial.connect().await.ok().unwrap();
            order.lock().unwrap().push((n, connected));
        });
        grid.queued(n as u32).await;
    }
    for n in 1..=5 {
        seated.close().await;
        eventually_equal("seated clients", 1, async || order.lock().unwrap().len()).await;
        let (who, connected) = order.lock().unwrap().pop().unwrap();
        assert_eq!(who, n);
        seated = connected;
    }
    seated.echo("the last one works").await;
    seated.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn a_client_that_stops_waiting_leaves_the_queue() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(1)
        .queue_timeout(FOR_EVER)
        .start()
        .await;
    let seated = grid.connect().await;
    let impatient = tokio::spawn(grid.dial().connect());
    grid.queued(1).await;
    impatient.abort();
    grid.queued(0).await;
    seated.close().await;
    grid.connect().await.echo("next").await;
    assert_eq!(fake.upgrades(), 2, "nobody dialled for the one who left");
}

#[tokio::test]
async fn a_worker_that_cannot_be_dialled_costs_its_client_nothing() {
    let (deaf, rude, good) = (
        FakePlaywright::start().await,
        FakePlaywright::start().await,
        FakePlaywright::start().await,
    );
    let grid = Grid::new().fakes(&[&deaf, &rude, &good]).start().await;
    deaf.behave(Behaviour::HangUp);
    rude.behave(Behaviour::Refuse(500));
    let mut sessions = Vec::new();
    for n in 0..5 {
        let mut session = grid.connect().await;
        session.echo(&format!("session {n}")).await;
        sessions.push(session);
    }
    assert_eq!(good.open(), 5);
    let workers = grid.workers().await;
    let lifetimes: u32 = workers.iter().map(|worker| worker.lifetime_sessions).sum();
    assert_eq!(
        lifetimes, 5,
        "a failed dial gives its lifetime back: {workers:#?}"
    );
    for session in sessions {
        session.close().await;
    }
    grid.idle().await;
}
