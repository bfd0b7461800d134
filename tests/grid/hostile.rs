//! Clients that die, stall, or never were clients: each is answered or closed, no seat is lost,
//! and the grid goes on serving everybody else.

use crate::support::{
    Driver, FakePlaywright, Grid, Kind, Language, eventually_equal, raw, read_to_close,
};
use futures_util::SinkExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, interval, timeout};
use tokio_tungstenite::tungstenite::Message;

/// Two seats in all, and little patience.
async fn small_grid(fake: &FakePlaywright) -> Grid {
    let yaml = "limits: { header_timeout: 2s }\nsession: { write_timeout: 2s }";
    Grid::new()
        .fakes(&[fake])
        .capacity(2)
        .config(yaml)
        .start()
        .await
}

/// Both seats are free and both work.
async fn serves_all_its_seats(grid: &Grid) {
    grid.idle().await;
    let mut pair = (grid.connect().await, grid.connect().await);
    pair.0.echo("one").await;
    pair.1.echo("two").await;
    pair.0.close().await;
    pair.1.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn a_client_killed_in_the_middle_of_its_sessions_gives_them_back() {
    let grid = Grid::new().workers(1).capacity(2).start().await;
    for language in Language::BOTH {
        let mut client = Driver::start(language, &grid.url());
        client.open_all(&["a".to_owned(), "b".to_owned()]).await;
        assert_eq!(grid.active().await, 2);
        client.kill().await;
        grid.idle().await;
    }
    let mut client = Driver::start(Language::Python, &grid.url());
    client.open_all(&["a".to_owned(), "b".to_owned()]).await;
    client.quit().await;
    // A process that a browser has just started looks like it for a moment.
    eventually_equal("browsers", 1, async || {
        grid.tree().of_kind(Kind::Browser).len()
    })
    .await;
}

#[tokio::test]
async fn a_client_that_stops_reading_is_ended_and_slows_nobody_down() {
    let fake = FakePlaywright::start().await;
    let grid = small_grid(&fake).await;
    let mut deaf = grid.connect().await;
    deaf.send("flood").await;

    let mut other = grid.connect().await;
    for n in 0..100 {
        other.echo(&format!("message {n}")).await;
    }
    eventually_equal("sessions", 1, async || grid.active().await).await;
    eventually_equal("sessions at the worker", 1, async || fake.open()).await;
    other.echo("still here").await;
    other.close().await;
    drop(deaf);
    serves_all_its_seats(&grid).await;
}

#[tokio::test]
async fn garbage_is_answered_or_closed() {
    let fake = FakePlaywright::start().await;
    let grid = small_grid(&fake).await;
    let hello_of_tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let zeros = [0; 4096];
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let no_version = b"GET /\r\n\r\n";
    let words = b"hello, is this the grid?\r\n\r\n";
    let all: [&[u8]; 5] = [hello_of_tls, &zeros, http2, no_version, words];
    for bytes in all {
        let said = raw(grid.address(), bytes).await;
        let fine = said.is_empty() || said.starts_with("HTTP/1.1 4");
        assert!(
            fine,
            "{:?} was answered {said:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    serves_all_its_seats(&grid).await;
}

#[tokio::test]
async fn a_header_of_70_kb_is_refused() {
    let fake = FakePlaywright::start().await;
    let grid = small_grid(&fake).await;
    let large = "x".repeat(70 * 1024);
    let head = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         X-Large: {large}\r\n\r\n"
    );
    let said = raw(grid.address(), head.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 431 "), "{said:?}");
    assert_eq!(fake.upgrades(), 0);
    serves_all_its_seats(&grid).await;
}

#[tokio::test]
async fn a_head_that_comes_a_byte_a_second_is_cut_off() {
    let fake = FakePlaywright::start().await;
    let grid = small_grid(&fake).await;
    let mut stream = TcpStream::connect(grid.address()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut pace = interval(Duration::from_secs(1));
    let drip = async {
        for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n".repeat(10) {
            pace.tick().await;
            if write.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    };
    let end = async {
        let mut said = Vec::new();
        // A reset is an end like another.
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut said)
            .await
            .ok();
        String::from_utf8_lossy(&said).into_owned()
    };
    let said = timeout(Duration::from_secs(60), async {
        tokio::select! {
            said = end => said,
            () = drip => panic!("it took the whole head"),
        }
    });
    let said = said.await.expect("a slow head is not read for ever");
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 408 "),
        "{said:?}"
    );
    serves_all_its_seats(&grid).await;
}

#[tokio::test]
async fn an_upgrade_without_a_key_is_refused() {
    let fake = FakePlaywright::start().await;
    let grid = small_grid(&fake).await;
    let head =
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\n\r\n";
    let said = raw(grid.address(), head).await;
    assert!(said.starts_with("HTTP/1.1 400 "), "{said:?}");
    assert_eq!(fake.upgrades(), 0);
    serves_all_its_seats(&grid).await;
}

#[tokio::test]
async fn a_thousand_connections_that_never_speak_are_closed_and_keep_nobody_out() {
    let fake = FakePlaywright::start().await;
    let grid = small_grid(&fake).await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(TcpStream::connect(grid.address()).await.unwrap());
    }
    serves_all_its_seats(&grid).await;
    for mut stream in silent {
        let said = read_to_close(&mut stream).await;
        assert!(
            said.is_empty() || said.starts_with("HTTP/1.1 408 "),
            "{said:?}"
        );
    }
    serves_all_its_seats(&grid).await;
}

/// What is no message of Playwright's: no JSON, no object, or one that its server does not expect.
const NO_MESSAGES: [&str; 11] = [
    "garbage",
    "",
    "null",
    "1",
    "\"text\"",
    "[]",
    "{}",
    "{\"id\":1}",
    "{\"id\":1,\"guid\":\"\",\"method\":\"nothing\"}",
    "{\"method\":\"__abort__\"}",
    "{\"guid\":\"\",\"method\":\"__waitInfo__\"}",
];

#[tokio::test]
async fn what_is_no_message_ends_nobody_elses_session() {
    let grid = Grid::new().workers(1).capacity(2).start().await;
    let before = grid.workers().await.remove(0).id;
    let mut bystander = Driver::start(Language::Python, &grid.url());
    bystander.open("a").await.unwrap();
    for text in NO_MESSAGES {
        for message in [Message::text(text), Message::binary(text)] {
            let mut session = grid.connect().await;
            session.socket.send(message).await.unwrap();
            // Its server has heard it by then.
            session.answers_a_ping().await;
            session.close().await;
            eventually_equal("sessions", 1, async || grid.sessions().await.len()).await;
            bystander.works("a").await.unwrap();
        }
    }
    bystander.close("a").await.unwrap();
    bystander.quit().await;
    grid.idle().await;
    let workers = grid.workers().await;
    assert_eq!(workers.len(), 1, "{workers:?}");
    assert_eq!(workers[0].id, before);
}

/// Nobody waits for an answer to the goodbye that its server says to it.
#[tokio::test]
async fn the_seat_of_a_client_that_sends_what_is_no_message_is_free() {
    let grid = Grid::new()
        .workers(1)
        .capacity(1)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .start()
        .await;
    let mut deaf = Vec::new();
    for _ in 0..3 {
        let mut session = grid.connect().await;
        session.send("garbage").await;
        // It reads nothing, and stays.
        deaf.push(session);
    }
    grid.idle().await;
    for mut session in deaf {
        let close = session.closed().await.expect("its server said goodbye");
        assert_eq!(u16::from(close.code), 1007, "{close:?}");
    }
}
