//! Balancers and proxies in front of the data port: whom they speak for, how they ask whether it is
//! well, below which path they have it, and what they swallow.

use super::front_door::handshake;
use crate::support::{FakePlaywright, Grid, Proxy, eventually_equal, raw};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The clients of the open sessions, as the admin port lists them.
async fn clients(grid: &Proxy) -> Vec<String> {
    let sessions = grid.admin("GET", "/v1/sessions").await;
    let sessions: serde_json::Value = sessions.json();
    let sessions = sessions["sessions"].as_array().expect("a list").iter();
    sessions
        .map(|it| it["client"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// A connection that says this and stays.
async fn say(port: SocketAddr, parts: &[&[u8]]) -> TcpStream {
    let mut stream = TcpStream::connect(port).await.expect("it listens");
    stream
        .write_all(&parts.concat())
        .await
        .expect("it is taken");
    stream
}

/// Version 2 of the PROXY protocol, for a client at 192.0.2.2.
const BINARY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x02\xc6\x33\x64\x01\0\x05\0\x06";

#[tokio::test]
pub async fn a_client_is_whom_a_trusted_proxy_names() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .env(
            "PLAYHOUSE_SERVER_TRUSTED_PROXIES",
            "[ 127.0.0.0/8, 10.0.0.0/8 ]",
        )
        .config("limits: { max_connections_per_ip: 1 }")
        .start()
        .await;
    let plain = handshake("/", "Host: localhost\r\n");
    let port = grid.address();
    let forwarded = |list: &str| {
        handshake(
            "/",
            &format!("Host: localhost\r\nX-Forwarded-For: {list}\r\n"),
        )
    };
    for (n, (parts, client)) in [
        (
            vec![&b"PROXY TCP4 192.0.2.1 198.51.100.1 5 6\r\n"[..], &plain],
            "192.0.2.1",
        ),
        (vec![BINARY, &plain], "192.0.2.2"),
        (
            vec![&forwarded("6.6.6.6, 192.0.2.3, 10.1.1.1")[..]],
            "192.0.2.3",
        ),
        // One balancer behind another.
        (
            vec![
                &b"PROXY TCP4 10.2.2.2 198.51.100.1 5 6\r\n"[..],
                &forwarded("192.0.2.4"),
            ],
            "192.0.2.4",
        ),
        // Whom the balancer heard from is no proxy, and may write what it likes.
        (
            vec![
                &b"PROXY TCP4 192.0.2.5 198.51.100.1 5 6\r\n"[..],
                &forwarded("192.0.2.6"),
            ],
            "192.0.2.5",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let session = say(port, &parts).await;
        eventually_equal("clients", vec![client.to_owned()], async || {
            clients(&grid).await
        })
        .await;
        // One connection each: another one of the same client is refused, and one of another not.
        let refused = raw(port, &parts.concat()).await;
        assert!(refused.is_empty() || refused.contains(" 503 "), "{refused}");
        // Somebody new each time: a place is given back after the session's end.
        let other = say(port, &[&forwarded(&format!("192.0.2.9{n}"))]).await;
        eventually_equal("clients", 2, async || clients(&grid).await.len()).await;
        drop((session, other));
        grid.idle().await;
    }
    grid.logs("session started").await;
    grid.logs("client=192.0.2.3").await;
    grid.logs("client=192.0.2.3 reason=too_many_connections")
        .await;
}

#[tokio::test]
async fn nobody_else_can_speak_for_others() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let headers = "Host: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n";
    let session = say(grid.address(), &[&handshake("/", headers)]).await;
    eventually_equal("clients", vec!["127.0.0.1".to_owned()], async || {
        clients(&grid).await
    })
    .await;
    for header in [&b"PROXY TCP4 192.0.2.1 198.51.100.1 5 6\r\n"[..], BINARY] {
        let said = [header, &handshake("/", "Host: localhost\r\n")].concat();
        let answer = raw(grid.address(), &said).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    drop(session);
    grid.idle().await;
}

#[tokio::test]
pub async fn everything_is_below_the_base_path_too() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .env("PLAYHOUSE_SERVER_BASE_PATH", "/grid/")
        .start()
        .await;
    for base in ["", "/grid"] {
        for path in ["/json", "/metrics", "/healthz", "/readyz"] {
            let answer = grid.get(&format!("{base}{path}"), &[]).await;
            assert_eq!(answer.status, 200, "{base}{path}");
        }
        assert_eq!(grid.get(&format!("{base}/"), &[]).await.status, 426);
        let session = grid.dial().target(&format!("{base}/?browser=chromium"));
        session.connect().await.unwrap().close().await;
    }
    let session = grid.dial().target("/grid?browser=chromium").connect().await;
    session.unwrap().close().await;
    for path in ["/gridx", "/grid/grid", "/grid/v1/workers"] {
        assert_eq!(grid.get(path, &[]).await.status, 404, "{path}");
    }
    grid.idle().await;
}

#[tokio::test]
async fn a_balancer_is_told_whether_the_grid_is_well_and_may_hang_up() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    for (request, status) in [
        ("OPTIONS / HTTP/1.0", "204"),
        ("OPTIONS * HTTP/1.0", "204"),
        ("OPTIONS /healthz HTTP/1.1", "204"),
        ("HEAD / HTTP/1.0", "200"),
        ("HEAD /readyz HTTP/1.0", "200"),
        ("GET /readyz HTTP/1.0", "200"),
    ] {
        let said = format!("{request}\r\nConnection: close\r\n\r\n");
        let answer = raw(grid.address(), said.as_bytes()).await;
        assert_eq!(&answer[9..12], status, "{request}: {answer}");
    }
    for port in [grid.address(), grid.admin_address()] {
        for n in 0..100 {
            let check = say(port, &[b"GET /readyz HTTP/1.0\r\n\r\n"]).await;
            if n % 2 == 0 {
                check.readable().await.unwrap();
            }
            // A reset, as balancers end their checks.
            check.set_zero_linger().unwrap();
        }
    }
    grid.connect().await.close().await;
    grid.idle().await;
    let log = grid.log();
    let errors: Vec<_> = log.lines().filter(|it| it.contains(" ERROR ")).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[tokio::test]
async fn a_proxy_that_swallows_the_upgrade_is_named() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let swallowed = b"GET / HTTP/1.0\r\nHost: grid\r\nConnection: close\r\n\
        User-Agent: Playwright/1.65.1 (x64) node/20\r\nx-playwright-browser: chromium\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let answer = raw(grid.address(), swallowed).await;
    assert!(
        answer.starts_with("HTTP/1.1 426 ") || answer.starts_with("HTTP/1.0 426 "),
        "{answer}"
    );
    assert!(
        answer.contains("proxy in front") && answer.contains("Upgrade"),
        "{answer}"
    );
    let plain = grid.get("/", &[]).await;
    assert_eq!(plain.status, 426);
    assert!(!plain.body.contains("in front"), "{}", plain.body);
}
