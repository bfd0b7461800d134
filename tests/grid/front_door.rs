//! What both ports bear from strangers: silence, half heads, plain text where TLS is spoken, names
//! that are not the grid's, and requests that do not wait for their turn.

use crate::support::{
    Authority, FakePlaywright, Grid, Proxy, eventually, eventually_equal, raw, read_to_close,
};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A WebSocket handshake with these headers beside its own.
pub fn handshake(target: &str, headers: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
    .into_bytes()
}

async fn silent(port: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..connections {
        silent.push(TcpStream::connect(port).await.expect("it listens"));
    }
    silent
}

/// How many of these the other side has closed.
fn closed(connections: &[TcpStream]) -> usize {
    let is_closed = |stream: &&TcpStream| {
        let mut bytes = [0; 1024];
        loop {
            match stream.try_read(&mut bytes) {
                Ok(1..) => {}
                Ok(0) => return true,
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    };
    connections.iter().filter(is_closed).count()
}

#[tokio::test]
async fn half_a_head_and_silence_have_their_time_on_both_ports() {
    let fake = FakePlaywright::start().await;
    let yaml = "limits: { header_timeout: 3s }";
    let grid = Grid::new().fakes(&[&fake]).config(yaml).start().await;
    for port in [grid.address(), grid.admin_address()] {
        let mut half = TcpStream::connect(port).await.unwrap();
        half.write_all(b"GET /v1/work").await.unwrap();
        let mut nothing = TcpStream::connect(port).await.unwrap();
        let answer = read_to_close(&mut half).await;
        let told = answer.starts_with("HTTP/1.1 408 ");
        assert_eq!(told, port == grid.address(), "{answer}");
        assert_eq!(read_to_close(&mut nothing).await, "");
    }
    grid.connect().await.close().await;
    grid.idle().await;
}

/// They hold a port's descriptors and nobody else's, and give way to whoever comes after them.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let fake = FakePlaywright::start().await;
    let yaml = "limits: { header_timeout: 1h, max_connections: 50 }";
    let grid = Grid::new().fakes(&[&fake]).config(yaml).start().await;
    // Some places may be taken by the questions of this test itself.
    let admin = silent(grid.admin_address(), 300).await;
    eventually("the admin port is full", async || {
        (closed(&admin) >= 200).then_some(())
    })
    .await;
    assert_eq!(grid.admin("GET", "/v1/workers").await.status, 200);
    grid.connect().await.close().await;
    drop(admin);

    no_connections(&grid).await;
    let data = silent(grid.address(), 300).await;
    eventually_equal("closed connections", 250, async || closed(&data)).await;
    eventually("those that are left are counted", async || {
        let metrics = grid.admin("GET", "/metrics").await.body;
        metrics.contains("playhouse_connections 50\n").then_some(())
    })
    .await;
    let check = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = raw(grid.address(), check).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    grid.connect().await.close().await;
    drop(data);
    grid.idle().await;
}

/// Waits until those that ended give their places on the data port back, which is after their end.
async fn no_connections(grid: &Grid) {
    eventually("nobody is connected", async || {
        let metrics = grid.admin_if_it_listens("/metrics").await?.body;
        metrics.contains("playhouse_connections 0\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn more_connections_than_descriptors_are_said_at_start() {
    let fake = FakePlaywright::start().await;
    let yaml = "limits: { max_connections: 10000000 }";
    let grid = Grid::new().fakes(&[&fake]).config(yaml).start().await;
    grid.logs("limits.max_connections").await;
    let log = grid.log();
    let line = log.lines().find(|it| it.contains("limits.max_connections"));
    let line = line.expect("it is said");
    assert!(
        line.contains("WARN") && line.contains(" allowed="),
        "{line}"
    );
}

#[tokio::test]
async fn a_connection_counts_and_has_its_time_before_it_shakes_hands() {
    let authority = Authority::new();
    let certificate = authority.issue("grid", 30);
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .tls(&authority, &certificate)
        .env("PLAYHOUSE_LIMITS_HEADER_TIMEOUT", "3")
        .env("PLAYHOUSE_LIMITS_MAX_CONNECTIONS", "20")
        .start()
        .await;
    for port in [grid.address(), grid.admin_address()] {
        let mut waiting = silent(port, 100).await;
        // The beginning of a handshake, and nothing more.
        for half in &mut waiting {
            half.write_all(b"\x16\x03\x01").await.ok();
        }
        eventually_equal("closed connections", 100, async || closed(&waiting)).await;
    }
    no_connections(&grid).await;
    grid.connect().await.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn plain_text_where_tls_is_spoken_is_told_so() {
    let authority = Authority::new();
    let certificate = authority.issue("grid", 30);
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]);
    let grid = grid.tls(&authority, &certificate).start().await;
    let agent = "User-Agent: Playwright/1.65.1 (x64) node/20\r\n";
    for (port, headers) in [
        (grid.address(), ""),
        (grid.address(), agent),
        (grid.admin_address(), ""),
    ] {
        let answer = raw(port, &handshake("/", headers)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("wss://"), "{answer}");
        assert_eq!(
            answer.contains("tls_expected"),
            headers.is_empty(),
            "{answer}"
        );
    }
    grid.connect().await.close().await;
}

/// Requests that are none, and some that readers of HTTP differ about.
fn strange_requests() -> Vec<(u16, Vec<u8>)> {
    let of_lines = |lines: &str| format!("{lines}\r\n\r\n").replace('|', "\r\n").into_bytes();
    let mut all: Vec<(u16, Vec<u8>)> = [
        "nonsense",
        "GET / HTTP/3.7|Host: localhost",
        "GET /\u{1} HTTP/1.1|Host: localhost",
        "GET /healthz HTTP/1.1|Host: localhost|Host: localhost",
        "GET /healthz HTTP/1.1|Host: localhost|Content-Length: 1, 2",
        "GET /healthz HTTP/1.1|Host: localhost|Content-Length: -1",
        "GET /healthz HTTP/1.1|Host: localhost|Transfer-Encoding: gzip",
        "GET /healthz HTTP/1.0|Host: localhost|Transfer-Encoding: chunked",
        "GET /healthz HTTP/1.1|Host: localhost|No colon",
        "CONNECT localhost:1 HTTP/1.1|Host: localhost:1",
        "GET http://localhost/ HTTP/1.1|Host: localhost",
    ]
    .map(|lines| (400, of_lines(lines)))
    .into();
    // No name of the grid's, whatever else it may be.
    for host in ["local host", "user@localhost", "localhost:port"] {
        all.push((
            403,
            of_lines(&format!("GET /healthz HTTP/1.1|Host: {host}")),
        ));
    }
    let many = format!("GET / HTTP/1.1|Host: localhost{}", "|a: b".repeat(300));
    all.push((431, of_lines(&many)));
    let large = format!(
        "GET / HTTP/1.1|Host: localhost|a: {}",
        "b".repeat(70 * 1024)
    );
    all.push((431, of_lines(&large)));
    all
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_is_told_in_the_shape_of_every_refusal() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    for port in [grid.address(), grid.admin_address()] {
        for (status, request) in strange_requests() {
            let start = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
            let answer = raw(port, &request).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{start:?}: {answer}"
            );
            assert!(
                head.contains(&format!("Content-Length: {}", body.len())),
                "{start:?}: {head}"
            );
            let told: serde_json::Value = serde_json::from_str(body).expect(&start);
            assert_eq!(told["error"]["message"], told["message"], "{start:?}");
            assert!(told["error"]["code"].is_string(), "{start:?}: {body}");
        }
    }
    // Its user is shown the body as it is.
    let agent = b"\r\nUser-Agent: Playwright/1.65.1 (x64) node/20\r\n";
    for (status, request) in strange_requests() {
        let Some(end) = request.windows(2).position(|it| it == b"\r\n") else {
            continue;
        };
        let request = [&request[..end], agent, &request[end + 2..]].concat();
        let answer = raw(grid.address(), &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains("Content-Type: text/plain"), "{answer}");
    }
    grid.connect().await.close().await;
    grid.idle().await;
}

/// The status line of an upgrade or a plain request under this name.
async fn status(port: SocketAddr, request: &str, headers: &str) -> String {
    let bytes = match request.strip_prefix("upgrade ") {
        Some(target) => handshake(target, &format!("{headers}Content-Length: 1\r\n")),
        None => format!("{request} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").into_bytes(),
    };
    let answer = raw(port, &bytes).await;
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
pub async fn a_name_that_is_not_the_grids_is_refused_on_loopback() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let (data, admin) = (grid.address(), grid.admin_address());
    let drain = format!("POST /v1/workers/{}/drain", grid.workers().await[0].id);
    let asked = async |host: &str| {
        let page = format!("Host: {host}\r\nOrigin: http://{host}\r\n");
        let host = format!("Host: {host}\r\n");
        [
            // With a body, which is refused after the name: a session would not end by itself.
            status(data, "upgrade /", &page).await,
            status(data, "GET /json", &host).await,
            status(admin, "GET /v1/sessions", &host).await,
            status(admin, &drain.replace("/drain", "x/drain"), &page).await,
        ]
    };
    let refused = asked("rebound.example:8080").await;
    assert!(refused.iter().all(|it| it.contains(" 403 ")), "{refused:?}");
    for host in ["127.0.0.1:8080", "localhost", "[::1]:8080"] {
        let answers = asked(host).await;
        let codes = answers.each_ref().map(|it| &it[9..12]);
        assert_eq!(codes, ["400", "200", "200", "404"], "{host}");
    }
    let yaml = format!(
        "auth: {{ allowed_hosts: [ Rebound.example ] }}\nworkers: [ {{ endpoint: \"{}\" }} ]",
        fake.endpoint()
    );
    grid.configure(&yaml);
    eventually_equal(
        "answers",
        ["400", "200", "200", "404"].map(str::to_owned),
        async || {
            asked("rebound.example:8080")
                .await
                .map(|it| it[9..12].to_owned())
        },
    )
    .await;
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    for port in [grid.address(), grid.admin_address()] {
        let requests = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n\
                        HEAD /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n\
                        GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answers = raw(port, requests.as_bytes()).await;
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
        assert!(answers.ends_with("ready\n"), "{answers}");
    }
    // A handshake behind an answered request is one like another.
    let mut both = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    both.extend(handshake("/", "Host: localhost\r\n"));
    let mut stream = TcpStream::connect(grid.address()).await.unwrap();
    stream.write_all(&both).await.unwrap();
    eventually_equal("sessions", 1, async || grid.sessions().await.len()).await;
    drop(stream);
    grid.idle().await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_another_request() {
    let fake = FakePlaywright::start().await;
    let yaml = "limits: { header_timeout: 2s }";
    let grid = Grid::new().fakes(&[&fake]).config(yaml).start().await;
    for port in [grid.address(), grid.admin_address()] {
        let mut kept = TcpStream::connect(port).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        kept.write_all(request).await.unwrap();
        // Others come and go, and their time for a head is over, more than once.
        for _ in 0..2 {
            let mut half = TcpStream::connect(port).await.unwrap();
            half.write_all(b"GET").await.unwrap();
            read_to_close(&mut half).await;
        }
        let last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        kept.write_all(last).await.unwrap();
        let answers = read_to_close(&mut kept).await;
        assert_eq!(answers.matches("200 OK").count(), 2, "{answers}");
    }
}

/// Tokens in a URL's user or password, as clients send them.
#[tokio::test]
async fn a_token_may_stand_in_the_url() {
    use crate::grid::operations::tenants::token;
    use base64::Engine;
    let fake = FakePlaywright::start().await;
    let yaml = format!("auth: {{ tokens: [ {} ] }}", token("ci", "sesame", ""));
    let grid = Grid::new().fakes(&[&fake]).config(&yaml).start().await;
    let connect = async |grid: &Proxy, userinfo: &str| {
        let encoded = base64::prelude::BASE64_STANDARD.encode(userinfo);
        let dial = grid
            .dial()
            .header("Authorization", &format!("Basic {encoded}"));
        dial.connect().await
    };
    for userinfo in [":sesame", "sesame:", "sesame:x", "ci:sesame"] {
        connect(&grid, userinfo).await.unwrap().close().await;
    }
    for userinfo in [":wrong", "ci:", ":"] {
        let refusal = connect(&grid, userinfo).await.err().unwrap();
        assert_eq!(refusal.status, 401, "{userinfo}");
    }
    grid.idle().await;
}
