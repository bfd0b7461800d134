//! More clients than seats: they wait in order, and are told when it was in vain.

use crate::grid::operations::tenants::{token, with_token};
use crate::support::{
    Behaviour, Connected, Dial, Driver, FakePlaywright, Grid, Language, eventually,
    eventually_equal,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;

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

    let refusal = grid.dial().refused().await;
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
    eventually_equal("a failed dial gives its lifetime back", 5, async || {
        let workers = grid.workers().await;
        let lifetimes = workers.iter().map(|worker| worker.lifetime_sessions);
        lifetimes.sum::<u32>()
    })
    .await;
    for session in sessions {
        session.close().await;
    }
    grid.idle().await;
}

/// A line must not be served one handshake after the other.
#[tokio::test]
async fn those_who_wait_are_dialled_for_at_once() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(5)
        .queue_timeout(FOR_EVER)
        .config("selection: { dial_timeout: 60s }")
        .start()
        .await;
    let mut seated = Vec::new();
    for _ in 0..5 {
        seated.push(grid.connect().await);
    }
    let mut waiting = JoinSet::new();
    for _ in 0..5 {
        waiting.spawn(grid.dial().connect());
    }
    grid.queued(5).await;
    fake.behave(Behaviour::HangAtUpgrades);
    for session in seated {
        session.close().await;
    }
    eventually_equal("dials at once", 10, async || fake.upgrades()).await;
    grid.queued(0).await;
    assert_eq!(fake.open(), 0, "none of them was answered");
    waiting.shutdown().await;
    grid.idle().await;
}

#[tokio::test]
async fn a_grant_is_not_cut_by_the_time_for_waiting() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(1)
        .config("queue: { timeout: 3s }\nselection: { dial_timeout: 60s }")
        .start()
        .await;
    let seated = grid.connect().await;
    let late = tokio::spawn(grid.dial().connect());
    grid.queued(1).await;
    // Longer than it may wait.
    fake.behave(Behaviour::Slow(Duration::from_secs(4)));
    seated.close().await;
    let mut late = late.await.unwrap().ok().unwrap();
    late.echo("it was worth the wait").await;
    late.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn workers_that_hang_at_upgrades_cost_time_and_no_session() {
    let fakes = [
        FakePlaywright::start().await,
        FakePlaywright::start().await,
        FakePlaywright::start().await,
    ];
    let grid = Grid::new()
        .fakes(&fakes.each_ref())
        .config("selection: { dial_timeout: 2s }")
        .start()
        .await;
    // Whichever it is that a client is offered first and second.
    fakes
        .iter()
        .for_each(|fake| fake.behave(Behaviour::HangAtUpgrades));
    let client = tokio::spawn(grid.dial().connect());
    eventually("two workers are dialled in vain", async || {
        let untried = fakes.iter().filter(|fake| fake.upgrades() == 0);
        let untried: Vec<&FakePlaywright> = untried.collect();
        let [last] = untried[..] else { return None };
        last.behave(Behaviour::Serve);
        Some(())
    })
    .await;
    let mut session = client.await.unwrap().ok().unwrap();
    session.echo("the third one").await;
    session.close().await;
    grid.idle().await;
}

/// Versions do not make lines of their own: who names another one passes nobody.
#[tokio::test]
async fn whoever_came_first_is_seated_first_whatever_the_version() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(1)
        .queue_timeout(FOR_EVER)
        .start()
        .await;
    let seated = grid.connect().await;
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut clients = JoinSet::new();
    for (n, version) in ["1.65.1", "1.65.0", "1.66.0", "1.64.0", "1.65.1"]
        .into_iter()
        .enumerate()
    {
        let (dial, order) = (grid.dial().playwright(version), Arc::clone(&order));
        clients.spawn(async move {
            let connected = dial.connect().await.ok().unwrap();
            order.lock().unwrap().push(n);
            connected.close().await;
        });
        grid.queued(n as u32 + 1).await;
    }
    seated.close().await;
    clients.join_all().await;
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
    grid.idle().await;
}

#[tokio::test]
async fn a_browser_that_nobody_has_fills_no_line_for_the_others() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(1)
        .config("queue: { timeout: 10m, max_waiting: 3 }")
        .start()
        .await;
    let seated = grid.connect().await;
    let mut others = JoinSet::new();
    for n in 1..=3 {
        others.spawn(grid.dial().target("/?browser=webkit").connect());
        grid.queued(n).await;
    }
    let wanted = tokio::spawn(grid.dial().connect());
    let full = others.join_next().await.unwrap().unwrap().err().unwrap();
    assert_eq!(full.status, 429, "{full:?}");
    seated.close().await;
    wanted.await.unwrap().ok().unwrap().close().await;
    let one_more = grid.dial().target("/?browser=webkit").connect();
    others.spawn(one_more);
    grid.queued(3).await;
    let refused = grid.dial().target("/?browser=webkit").connect().await;
    assert_eq!(refused.err().unwrap().status, 429);
    others.shutdown().await;
    grid.idle().await;
}

#[tokio::test]
async fn who_dialled_in_vain_is_not_told_that_all_seats_are_taken() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .config("queue: { timeout: 5s }\nselection: { dial_timeout: 1s }")
        .start()
        .await;
    fake.behave(Behaviour::HangAtUpgrades);
    let refusal = grid.dial().refused().await;
    let told: serde_json::Value = refusal.json();
    assert_eq!(told["error"]["code"], "no_worker_reachable", "{refusal:?}");
    assert_eq!(refusal.status, 502);
    grid.idle().await;
}

/// One seat, a line of so many, and two tenants: how a client of either connects.
async fn two_tenants(
    max_waiting: usize,
    priorities: [u32; 2],
) -> (FakePlaywright, Grid, impl Fn(usize) -> Dial) {
    let fake = FakePlaywright::start().await;
    let names = ["one", "two"];
    let tokens = names.iter().zip(priorities);
    let tokens = tokens.map(|(name, of)| token(name, name, &format!(", priority: {of}")));
    let tokens: Vec<String> = tokens.collect();
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(1)
        .config(&format!(
            "auth: {{ tokens: [ {} ] }}\nqueue: {{ timeout: 10m, max_waiting: {max_waiting} }}",
            tokens.join(", ")
        ))
        .start()
        .await;
    let dial = grid.dial();
    (fake, grid, move |of| with_token(dial.clone(), names[of]))
}

#[tokio::test]
async fn who_fills_the_line_gives_a_place_to_a_tenant_that_has_none() {
    let (_fake, grid, dial) = two_tenants(3, [100, 1]).await;
    let seated = dial(0).connect().await.unwrap();
    let mut large = JoinSet::new();
    for n in 1..=3 {
        large.spawn(dial(0).connect());
        grid.queued(n).await;
    }
    let small = tokio::spawn(dial(1).connect());
    let gave_way = large.join_next().await.unwrap().unwrap().err().unwrap();
    assert_eq!(gave_way.status, 429, "{gave_way:?}");
    for of in [0, 1, 0] {
        assert_eq!(dial(of).refused().await.status, 429);
    }
    seated.close().await;
    small.await.unwrap().unwrap().close().await;
    large.shutdown().await;
    grid.idle().await;
}

#[tokio::test]
async fn two_tenants_have_the_one_place_in_turn() {
    let (_fake, grid, dial) = two_tenants(1, [1, 1]).await;
    let mut seated = dial(0).connect().await.unwrap();
    for (has, has_not) in [(0, 1), (1, 0), (0, 1), (1, 0)] {
        let again = tokio::spawn(dial(has).connect());
        grid.queued(1).await;
        let next = tokio::spawn(dial(has_not).connect());
        let gave_way = again.await.unwrap().err().unwrap();
        assert_eq!(gave_way.status, 429, "{gave_way:?}");
        assert_eq!(dial(has).refused().await.status, 429);
        seated.close().await;
        seated = next.await.unwrap().unwrap();
    }
    seated.close().await;
    grid.idle().await;
}
