//! What the log says, what it never says, and what happens when nobody reads it.

use super::front_door::handshake;
use crate::support::{FakePlaywright, Grid, eventually_equal, raw};
use nix::sys::signal::Signal;
use std::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn no_query_string_is_in_any_line() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .env("LOG_LEVEL", "trace")
        .start()
        .await;
    let requests: [&[u8]; 4] = [
        b"GET /metrics?token=SECRET HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n",
        b"GET /v1/workers?token=SECRET HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /?token=SECRET HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /?token=SECRET HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    ];
    let upgrade = handshake("/?token=SECRET&browser=SECRET", "Host: localhost\r\n");
    for port in [grid.address(), grid.admin_address()] {
        for request in requests.iter().copied().chain([&upgrade[..]]) {
            for n in 0..20 {
                let mut stream = TcpStream::connect(port).await.unwrap();
                stream.write_all(request).await.unwrap();
                if n % 2 == 0 {
                    stream.readable().await.unwrap();
                }
                stream.set_zero_linger().unwrap();
            }
        }
    }
    let session = grid.dial().target("/?token=SECRET").connect().await;
    session.unwrap().close().await;
    grid.idle().await;
    let log = grid.log();
    let told: Vec<_> = log.lines().filter(|it| it.contains("SECRET")).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test]
async fn who_is_refused_or_leaves_has_a_line_and_is_counted() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).capacity(1).start().await;
    let counted = async |reason: &str| {
        let metrics = grid.admin("GET", "/metrics").await.body;
        let name = format!("playhouse_rejections_total{{reason=\"{reason}\"}} ");
        let line = metrics.lines().find_map(|it| it.strip_prefix(&name));
        line.expect("it is there from the start").to_owned()
    };
    for reason in ["unknown_browser", "not_found", "bad_request", "client_gone"] {
        assert_eq!(counted(reason).await, "0");
    }
    let unknown = grid.dial().target("/?browser=netscape").connect().await;
    assert_eq!(unknown.err().unwrap().status, 400);
    assert_eq!(grid.get("/nowhere", &[]).await.status, 404);
    raw(grid.address(), b"nonsense\r\n\r\n").await;

    let session = grid.connect().await;
    let waiting = handshake("/", "Host: localhost\r\n");
    let mut impatient = TcpStream::connect(grid.address()).await.unwrap();
    impatient.write_all(&waiting).await.unwrap();
    grid.queued(1).await;
    drop(impatient);
    eventually_equal("clients that left", "1".to_owned(), async || {
        counted("client_gone").await
    })
    .await;
    session.close().await;
    grid.idle().await;
    for reason in ["unknown_browser", "not_found", "bad_request", "client_gone"] {
        eventually_equal(reason, "1".to_owned(), async || counted(reason).await).await;
        let of_reason = format!("reason={reason}");
        grid.logs(&of_reason).await;
        let log = grid.log();
        let lines: Vec<_> = log.lines().filter(|it| it.contains(&of_reason)).collect();
        assert_eq!(lines.len(), 1, "{reason}: {log}");
        assert!(lines[0].contains("client=127.0.0.1"), "{lines:?}");
    }
}

#[tokio::test]
async fn nobody_reading_the_log_stops_nothing() {
    let (mut unread, writer) = nix::unistd::pipe().unwrap();
    let fake = FakePlaywright::start().await;
    let mut grid = Grid::new()
        .fakes(&[&fake])
        .stderr(File::from(writer))
        .env("LOG_LEVEL", "debug")
        .start()
        .await;
    let mut open = grid.connect().await;
    // Far more than fits into a pipe.
    for n in 0..600 {
        grid.connect().await.close().await;
        if n % 100 == 0 {
            open.echo("still here").await;
        }
    }
    assert_eq!(grid.get("/healthz", &[]).await.status, 200);
    open.close().await;
    grid.idle().await;
    let full = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 1];
        let read = nix::unistd::read(&mut unread, &mut bytes);
        (read.is_ok(), unread)
    });
    // It was written to, and is kept open: a reader that is gone is another matter.
    let (written, _unread) = full.await.unwrap();
    assert!(written);
    let ended = grid.stop(Signal::SIGTERM).await;
    assert!(ended.iter().all(|status| status.success()), "{ended:?}");
}
