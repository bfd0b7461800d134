//! Whose fault it is when there is no session: the client's, ours or the worker's. Who is at fault
//! pays, and nobody else.

use crate::support::{
    Behaviour, FakePlaywright, Grid, WorkerView, eventually, eventually_equal, raw,
};
use std::time::Duration;

/// Said of a worker that is held responsible.
const LOST: &str = "worker is not reached from here";

/// Far beyond what a prompt answer takes, and far less than the queue's timeout in these tests.
const PROMPT: Duration = Duration::from_secs(60);

/// A client that is refused must not wait: the tests would take this long.
const PATIENT: &str = "queue: { timeout: 10m }\n";

fn handshake(replaced: &[(&str, &str)]) -> String {
    let own = [
        ("Host", "grid"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let kept = own
        .iter()
        .filter(|(name, _)| replaced.iter().all(|(other, _)| other != name));
    let mut head = "GET / HTTP/1.1\r\n".to_owned();
    for (name, value) in kept.chain(replaced) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// The refusal of a client that sends this.
async fn refused(grid: &Grid, head: &str) -> String {
    let said = tokio::time::timeout(PROMPT, raw(grid.address(), head.as_bytes())).await;
    said.expect("it does not have to wait")
}

async fn nobody_is_blamed(grid: &Grid) {
    // What a refused client held is given back after it has its answer.
    eventually("no session counts", async || {
        let workers = grid.workers().await;
        for worker in &workers {
            assert!(worker.serves(), "{worker:?}");
        }
        let counts = |it: &WorkerView| it.active_sessions + it.lifetime_sessions;
        (workers.iter().map(counts).sum::<u32>() == 0).then_some(())
    })
    .await;
    assert!(!grid.log().contains(LOST), "{}", grid.log());
}

#[tokio::test]
async fn a_malformed_handshake_reaches_no_worker() {
    let fakes = [FakePlaywright::start().await, FakePlaywright::start().await];
    let grid = Grid::new()
        .fakes(&[&fakes[0], &fakes[1]])
        .config(PATIENT)
        .start()
        .await;
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    for (status, headers) in [
        (400, &[("Sec-WebSocket-Key", "SGVsbG8sIHdvcmxkIQ==")][..]),
        (400, &[("Sec-WebSocket-Key", "")]),
        (
            400,
            &[("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Key", KEY)],
        ),
        (426, &[("Sec-WebSocket-Version", "8")]),
        (
            426,
            &[
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Version", "13"),
            ],
        ),
        (400, &[("Connection", "close")]),
        (400, &[("Host", "one"), ("Host", "two")]),
        (400, &[("Host", "")]),
        (400, &[("Content-Length", "1"), ("Content-Length", "2")]),
        (400, &[("Transfer-Encoding", "gzip")]),
        (400, &[("Sec-WebSocket-Protocol", "")]),
        (400, &[("Sec-WebSocket-Protocol", "a, a")]),
        (
            400,
            &[("Sec-WebSocket-Extensions", "permessage-deflate; foo")],
        ),
        (400, &[("Sec-WebSocket-Extensions", ";")]),
    ] {
        let said = refused(&grid, &handshake(headers)).await;
        let start = format!("HTTP/1.1 {status} ");
        assert!(said.starts_with(&start), "{headers:?}: {said}");
        assert!(said.contains("\"message\":"), "{headers:?}: {said}");
        let versions = said.contains("Sec-WebSocket-Version: 13\r\n");
        assert_eq!(versions, status == 426, "{said}");
    }
    assert_eq!(fakes.each_ref().map(FakePlaywright::upgrades), [0, 0]);
    nobody_is_blamed(&grid).await;
    grid.connect().await.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn a_proper_handshake_in_an_unusual_form_is_taken() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    for headers in [
        ("Connection", "close, Upgrade"),
        ("Connection", "Upgrade, close"),
        ("Connection", "keep-alive, upgrade"),
        ("Upgrade", "h2c, websocket"),
        ("Upgrade", "WebSocket"),
        ("Content-Length", "0"),
    ] {
        let head = handshake(&[headers]);
        // The masked Close frame of a client that has nothing to say.
        let farewell = b"\x88\x82\0\0\0\0\x03\xe8";
        let said = raw(grid.address(), &[head.as_bytes(), farewell].concat()).await;
        assert!(said.starts_with("HTTP/1.1 101 "), "{headers:?}: {said}");
    }
    grid.idle().await;
}

/// Workers that do not tell their version are asked; what they say of the client's is the answer.
#[tokio::test]
async fn a_worker_that_knows_better_is_believed_about_the_clients_version() {
    let fakes = [FakePlaywright::start().await, FakePlaywright::start().await];
    let grid = Grid::new()
        .fakes(&[&fakes[0], &fakes[1]])
        .config(PATIENT)
        .start()
        .await;
    for fake in &fakes {
        fake.behave(Behaviour::Only("1.65"));
    }
    let old = grid.dial().playwright("1.60.0").connect();
    let old = tokio::time::timeout(PROMPT, old).await;
    let refusal = old.expect("at once").err().expect("no worker is so old");
    assert_eq!(refusal.status, 428, "{refusal:?}");
    for told in ["1.60", "1.65"] {
        assert!(refusal.body.contains(told), "{told}: {refusal:?}");
    }
    let dialled: usize = fakes.iter().map(FakePlaywright::upgrades).sum();
    assert_eq!(dialled, 2, "one of them might have been of its version");
    nobody_is_blamed(&grid).await;
    let current = grid.dial().playwright("1.65.1").connect().await;
    current.expect("it fits").close().await;
    grid.idle().await;
}

/// It says 428 to everybody, and neither its own version nor anybody's.
#[tokio::test]
async fn one_worker_that_refuses_all_versions_is_not_everybodys_answer() {
    for told in [None, Some("1.65")] {
        let (odd, good) = (FakePlaywright::start().await, FakePlaywright::start().await);
        odd.behave(Behaviour::Refuse(428));
        let builder = Grid::new().config(PATIENT);
        let builder = match told {
            None => builder.fakes(&[&odd, &good]),
            Some(version) => builder.fakes_of_version(version, &[&odd, &good]),
        };
        let grid = builder.start().await;
        for _ in 0..20 {
            let served = grid.dial().playwright("1.65.1").connect().await;
            served.expect("the other one serves").close().await;
        }
        assert!(odd.upgrades() > 0, "nobody asked it: this shows nothing");
        // Where it is the only one, its word is the answer.
        good.behave(Behaviour::Refuse(428));
        let last = grid.dial().playwright("1.65.1").connect();
        let last = tokio::time::timeout(PROMPT, last).await;
        let refusal = last.expect("at once").err().expect("nobody serves it");
        assert_eq!(refusal.status, 428, "{refusal:?}");
    }
}

#[tokio::test]
async fn an_announcement_before_the_answer_is_read_over() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    fake.behave(Behaviour::Announce);
    let mut session = grid.connect().await;
    session.echo("it works").await;
    session.close().await;
    nobody_is_blamed_but_counted(&grid).await;
}

async fn nobody_is_blamed_but_counted(grid: &Grid) {
    grid.idle().await;
    assert!(grid.workers().await.iter().all(|worker| worker.serves()));
    assert!(!grid.log().contains(LOST), "{}", grid.log());
}

/// There are descriptors for the client's connection, and none is left to dial a worker with.
#[tokio::test]
async fn without_a_descriptor_to_dial_with_the_client_hears_so_and_no_worker_is_blamed() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .config(PATIENT)
        .config("selection: { health_interval: 50ms }")
        .start()
        .await;
    // How many go to the client's own connection is not for this test to know.
    let mut left = 0;
    let refusal = eventually("a client is told", async || {
        left = left % 4 + 1;
        let usual = grid.limit_descriptors(left);
        let head = handshake(&[]);
        let asking = raw(grid.address(), head.as_bytes());
        let said = tokio::time::timeout(Duration::from_secs(1), asking).await;
        grid.set_descriptor_limit(usual);
        // A health check may have been faster, and it may have been one too many.
        said.ok().filter(|said| said.contains("file descriptors"))
    })
    .await;
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains("Retry-After: "), "{refusal}");
    // Who came in the last moment of the shortage may have been turned away at the door.
    let farewell = b"\x88\x82\0\0\0\0\x03\xe8";
    let session = [handshake(&[]).as_bytes(), farewell].concat();
    eventually("there is room again", async || {
        let said = raw(grid.address(), &session).await;
        said.starts_with("HTTP/1.1 101 ").then_some(())
    })
    .await;
    nobody_is_blamed_but_counted(&grid).await;
}

/// Workers that answer whoever only asks, and fail at upgrades, each in its own way.
#[tokio::test]
async fn a_worker_whose_upgrades_fail_is_not_everybodys_first_choice() {
    for sick_one in [
        Behaviour::HangAtUpgrades,
        Behaviour::HangUp,
        Behaviour::Refuse(400),
        Behaviour::Refuse(403),
        Behaviour::Refuse(503),
    ] {
        let fakes = [
            FakePlaywright::start().await,
            FakePlaywright::start().await,
            FakePlaywright::start().await,
        ];
        let [sick, ..] = &fakes;
        let grid = Grid::new()
            .fakes(&fakes.each_ref())
            .capacity(4)
            .config("selection: { dial_timeout: 3s, health_interval: 50ms }")
            .start()
            .await;
        sick.behave(sick_one);
        let mut sessions = Vec::new();
        // All seats of the healthy ones: each client is served, whatever the first one met.
        for _ in 0..8 {
            sessions.push(grid.connect().await);
        }
        assert_eq!(fakes[1].open() + fakes[2].open(), 8, "{sick_one:?}");
        let address = sick.address().to_string();
        let out = async || {
            let workers = grid.workers().await;
            let worker = workers
                .into_iter()
                .find(|it| it.endpoint.contains(&address));
            !worker.expect("it is listed").healthy
        };
        eventually("it is out", async || out().await.then_some(())).await;
        let probed = sick.probes();
        eventually("it answers who only asks", async || {
            (sick.probes() > probed + 5).then_some(())
        })
        .await;
        assert!(out().await, "{sick_one:?}");

        sick.behave(Behaviour::Serve);
        eventually("it is back", async || (!out().await).then_some(())).await;
        sessions.push(grid.connect().await);
        eventually_equal("its sessions", 1, async || sick.open()).await;
        for session in sessions {
            session.close().await;
        }
        grid.idle().await;
        eventually_equal("what is left there", 0, async || sick.open()).await;
    }
}

/// A worker with nobody beside it is used for as long as it may work.
#[tokio::test]
async fn the_only_worker_is_not_given_up_for_one_failed_session() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .config("queue: { timeout: 4s }")
        .start()
        .await;
    for _ in 0..3 {
        fake.behave(Behaviour::HangUp);
        let refused = grid.dial().refused().await;
        // A question may have been faster, and then it is not even dialled.
        assert!([502, 503].contains(&refused.status), "{refused:?}");
        fake.behave(Behaviour::Serve);
        // The more often it fell back, the longer it waits for the question that clears it.
        eventually_equal("it serves", true, async || grid.workers().await[0].serves()).await;
        grid.connect().await.close().await;
    }
    grid.idle().await;
}

/// What passes is counted while it does, and once.
#[tokio::test]
async fn relayed_bytes_are_counted_while_sessions_run() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let counted = async || {
        let text = grid.admin("GET", "/metrics").await.body;
        let of = |direction: &str| {
            let name = format!("playhouse_relay_bytes_total{{direction=\"{direction}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&name));
            line.expect("it is there").parse::<u64>().expect("a number")
        };
        (of("in"), of("out"))
    };
    let mut session = grid.connect().await;
    // Two bytes of header, four of a mask on the client's way.
    session.echo("12345678").await;
    assert_eq!(counted().await, (14, 10));
    session.echo("12345678").await;
    assert_eq!(counted().await, (28, 20));
    drop(session);
    grid.idle().await;
    assert_eq!(counted().await, (28, 20));
}
