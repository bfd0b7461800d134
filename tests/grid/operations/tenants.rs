//! One tenant has a hundred clients that never stop coming, the other has one. What the one waits
//! is counted in seats that others get meanwhile: time depends on what sessions do.

use super::keys::Changing;
use crate::support::{Dial, FakePlaywright, Grid};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

const CLIENTS: u32 = 100;
const SEATS: u32 = 4;
const ROUNDS: usize = 25;
/// Longer than any test waits, in seconds.
const FOR_EVER: &str = "600";

/// An entry of `auth.tokens`.
pub fn token(name: &str, secret: &str, more: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{{ name: {name}, sha256: \"{hash}\"{more} }}")
}

pub fn with_token(dial: Dial, secret: &str) -> Dial {
    dial.header("Authorization", &format!("Bearer {secret}"))
}

/// The large tenant: each client holds its seat until it is told to leave, and comes again.
struct Large {
    clients: JoinSet<()>,
    /// Sends when one of them has got a seat.
    seated: UnboundedReceiver<()>,
    /// One permit lets one of them leave.
    leave: Arc<Semaphore>,
}

impl Large {
    async fn start(grid: &Grid) -> Large {
        let (sender, seated) = unbounded_channel();
        let leave = Arc::new(Semaphore::new(0));
        let mut large = Large {
            clients: JoinSet::new(),
            seated,
            leave,
        };
        let dial = with_token(grid.dial(), "large-secret");
        for _ in 0..CLIENTS {
            let client = client(dial.clone(), sender.clone(), Arc::clone(&large.leave));
            large.clients.spawn(client);
        }
        for _ in 0..SEATS {
            large.gets_a_seat().await;
        }
        grid.queued(CLIENTS - SEATS).await;
        large
    }

    async fn gets_a_seat(&mut self) {
        self.seated.recv().await.expect("they never stop coming");
    }
}

async fn client(dial: Dial, seated: UnboundedSender<()>, leave: Arc<Semaphore>) {
    loop {
        let session = dial.clone().connect().await.expect("it waits for ever");
        if seated.send(()).is_err() {
            return;
        }
        leave.acquire().await.expect("never closed").forget();
        session.close().await;
    }
}

/// How many seats the others get, at most, while the one client waits.
async fn worst_wait(priorities: &str, small_more: &str) -> usize {
    let fake = FakePlaywright::start().await;
    let tokens = [
        token("large", "large-secret", priorities),
        token("small", "small-secret", small_more),
    ];
    let grid = Grid::new()
        .config(&format!("auth: {{ tokens: [ {} ] }}", tokens.join(", ")))
        .fakes(&[&fake])
        .capacity(SEATS)
        .env("WORKER_SELECT_TIMEOUT", FOR_EVER)
        .start()
        .await;
    let mut large = Large::start(&grid).await;
    let mut worst = 0;
    for _ in 0..ROUNDS {
        let (got, mut small) = oneshot::channel();
        let dial = with_token(grid.dial(), "small-secret");
        tokio::spawn(async move { got.send(dial.connect().await) });
        grid.queued(CLIENTS - SEATS + 1).await;
        let mut others = 0;
        let session = loop {
            // One seat comes free, and exactly one client gets it.
            large.leave.add_permits(1);
            tokio::select! {
                session = &mut small => break session.expect("it connects"),
                () = large.gets_a_seat() => others += 1,
            }
            grid.queued(CLIENTS - SEATS + 1).await;
        };
        worst = worst.max(others);
        session.expect("it is seated").close().await;
        large.gets_a_seat().await;
        grid.queued(CLIENTS - SEATS).await;
    }
    worst
}

#[tokio::test]
async fn a_small_tenant_waits_for_one_seat_of_a_large_one() {
    let worst = worst_wait("", "").await;
    assert!(worst <= 1, "{worst} seats went to the other tenant");
}

#[tokio::test]
async fn a_tenant_of_higher_priority_gets_so_many_seats_and_no_more() {
    let worst = worst_wait(", priority: 3", "").await;
    assert!(
        (2..=3).contains(&worst),
        "{worst} seats went to the other tenant"
    );
}

#[tokio::test]
async fn who_waits_with_a_token_that_is_taken_out_gets_no_seat() {
    let fake = FakePlaywright::start().await;
    let tokens = |entries: &[String]| {
        let limits = "limits: { max_concurrent_sessions: 1, max_lifetime_sessions: 0 }";
        format!("auth: {{ tokens: [ {} ] }}\n{limits}", entries.join(", "))
    };
    let (small, large) = (
        token("small", "small-secret", ""),
        token("large", "large-secret", ""),
    );
    let both = tokens(&[small.clone(), large]);
    let builder = Grid::new().env("WORKER_SELECT_TIMEOUT", FOR_EVER);
    let changing = Changing::start(builder, &[&fake], &both).await;
    let grid = &changing.grid;
    let session = with_token(grid.dial(), "small-secret").connect().await;
    let session = session.expect("it has the seat");
    let waiting = tokio::spawn(with_token(grid.dial(), "large-secret").connect());
    grid.queued(1).await;
    changing.now(&tokens(&[small])).await;
    session.close().await;
    let refusal = waiting.await.unwrap().err().expect("it is a stranger");
    assert_eq!(refusal.status, 401, "{refusal:?}");
    let next = with_token(grid.dial(), "small-secret").connect().await;
    next.expect("the seat is free").close().await;
    grid.idle().await;
    assert_eq!(fake.upgrades(), 2, "nobody dialled for it");
}

#[tokio::test]
async fn a_quota_is_the_tenants_own() {
    let fake = FakePlaywright::start().await;
    let tokens = [
        token("large", "large-secret", ", max_sessions: 2"),
        token("small", "small-secret", ""),
    ];
    let grid = Grid::new()
        .config(&format!("auth: {{ tokens: [ {} ] }}", tokens.join(", ")))
        .fakes(&[&fake])
        .capacity(SEATS)
        .start()
        .await;
    let large = || with_token(grid.dial(), "large-secret").connect();
    let (one, two) = (large().await.unwrap(), large().await.unwrap());
    let refusal = large().await.err().expect("two are its all");
    assert_eq!(refusal.status, 429, "{refusal:?}");
    let small = with_token(grid.dial(), "small-secret").connect().await;
    small.unwrap().close().await;
    one.close().await;
    two.close().await;
    grid.idle().await;
    large().await.unwrap().close().await;
    let log = grid.log();
    assert!(!log.contains("-secret"), "a token is logged: {log}");
}
