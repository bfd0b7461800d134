//! What the two ports of a running grid say.

use super::super::tenants::{token, with_token};
use super::Row;
use crate::support::{Answer, Dial, FakePlaywright, Grid, raw};
use std::time::Duration;
use tokio::net::TcpStream;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Status and message of an answer as it came over the wire.
fn said(answer: &str) -> String {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        assert_eq!(answer, "", "half an answer");
        return "the connection is closed".to_owned();
    };
    let status = head.split(' ').nth(1).unwrap();
    show(status, body)
}

fn show(status: &str, body: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    match json["message"].as_str() {
        Some(message) => format!("{status} {message}"),
        None => format!("{status} {}", body.trim()),
    }
}

fn refused(refusal: &Answer) -> String {
    assert!(refusal.is_whole(), "{refusal:?}");
    show(&refusal.status.to_string(), &refusal.body)
}

pub async fn http() -> Vec<Row> {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .config("limits: { header_timeout: 3s, max_header_bytes: 4KiB }")
        .fakes(&[&fake])
        .start()
        .await;
    let host = "Host: localhost\r\nConnection: close\r\n\r\n";
    let long = "x".repeat(5000);
    let inputs = [
        ("`GET /nothing`", format!("GET /nothing HTTP/1.1\r\n{host}")),
        (
            "`GET /../../etc/passwd`",
            format!("GET /../../etc/passwd HTTP/1.1\r\n{host}"),
        ),
        ("`GET /%00`", format!("GET /%00 HTTP/1.1\r\n{host}")),
        (
            "`GET /` without an upgrade",
            format!("GET / HTTP/1.1\r\n{host}"),
        ),
        (
            "`POST /`",
            format!("POST / HTTP/1.1\r\nContent-Length: 0\r\n{host}"),
        ),
        ("`DELETE /json`", format!("DELETE /json HTTP/1.1\r\n{host}")),
        ("`TRACE /`", format!("TRACE / HTTP/1.1\r\n{host}")),
        (
            "`CONNECT example.com:443`",
            format!("CONNECT example.com:443 HTTP/1.1\r\n{host}"),
        ),
        (
            "`GET http://example.com/`",
            format!("GET http://example.com/ HTTP/1.1\r\n{host}"),
        ),
        ("`BREW /`", format!("BREW / HTTP/1.1\r\n{host}")),
        (
            "a head of 5 KB where `limits.max_header_bytes` is 4KiB",
            format!("GET / HTTP/1.1\r\nX: {long}\r\n{host}"),
        ),
        (
            "half a head, and then nothing",
            "GET / HTTP/1.1\r\nHost: lo".to_owned(),
        ),
        ("nothing at all", String::new()),
        (
            "a header without a colon",
            format!("GET / HTTP/1.1\r\nnonsense\r\n{host}"),
        ),
        (
            "a header with a NUL",
            format!("GET / HTTP/1.1\r\nX: a\0b\r\n{host}"),
        ),
        ("`GET / HTTP/9.9`", format!("GET / HTTP/9.9\r\n{host}")),
        ("no version", "GET /\r\n\r\n".to_owned()),
        (
            "the preface of HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        ),
        (
            "a TLS hello to a port that speaks none",
            "\x16\x03\x01\x02\r\n\r\n".to_owned(),
        ),
        (
            "`Content-Length: -1`",
            format!("POST / HTTP/1.1\r\nContent-Length: -1\r\n{host}"),
        ),
        (
            "`Content-Length` and `Transfer-Encoding`",
            format!("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n{host}"),
        ),
    ];
    let mut rows = Vec::new();
    for (input, bytes) in inputs {
        rows.push(Row {
            input: input.to_owned(),
            answer: said(&raw(grid.address(), bytes.as_bytes()).await),
        });
    }
    grid.connect().await.close().await;
    grid.idle().await;
    rows
}

/// An upgrade as it goes over the wire, with these headers besides.
fn upgrade(method: &str, target: &str, headers: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         {headers}\r\n"
    )
}

pub async fn websocket() -> Vec<Row> {
    let fake = FakePlaywright::start().await;
    let tokens = [
        token("ci", "right", ""),
        token("one", "only-one", ", max_sessions: 1"),
    ];
    let config = format!(
        "auth: {{ tokens: [ {} ] }}\nqueue: {{ timeout: 3s, max_waiting: 1 }}\n\
         limits: {{ max_concurrent_sessions: 2, max_connections_per_ip: 4 }}",
        tokens.join(", ")
    );
    let grid = Grid::new()
        .config(&config)
        .fakes_of_version("1.65", &[&fake])
        .start()
        .await;
    let good = format!("{KEY}Sec-WebSocket-Version: 13\r\nAuthorization: Bearer right\r\n");
    let wires = [
        (
            "an upgrade without a token",
            upgrade("GET", "/", &format!("{KEY}Sec-WebSocket-Version: 13\r\n")),
        ),
        (
            "a wrong token",
            upgrade("GET", "/", &good.replace("right", "guessed")),
        ),
        (
            "a wrong token in the query",
            upgrade(
                "GET",
                "/?token=guessed",
                &good.replace("Authorization: Bearer right\r\n", ""),
            ),
        ),
        (
            "a right token that is not a Bearer",
            upgrade("GET", "/", &good.replace("Bearer", "Basic")),
        ),
        (
            "no `Sec-WebSocket-Key`",
            upgrade("GET", "/", &good.replace(KEY, "")),
        ),
        (
            "`Sec-WebSocket-Version: 12`",
            upgrade("GET", "/", &good.replace("13", "12")),
        ),
        (
            "a handshake with a body",
            upgrade("GET", "/", &format!("{good}Content-Length: 3\r\n")),
        ),
        (
            "`Origin: https://evil.example`",
            upgrade(
                "GET",
                "/",
                &format!("{good}Origin: https://evil.example\r\n"),
            ),
        ),
        (
            "`Origin: null`",
            upgrade("GET", "/", &format!("{good}Origin: null\r\n")),
        ),
        (
            "`?browser=netscape`",
            upgrade("GET", "/?browser=netscape", &good),
        ),
        (
            "`x-playwright-browser: opera`",
            upgrade(
                "GET",
                "/",
                &format!("{good}x-playwright-browser: opera\r\n"),
            ),
        ),
        (
            "an upgrade at another path",
            upgrade("GET", "/session", &good),
        ),
        ("an upgrade by POST", upgrade("POST", "/", &good)),
        (
            "an upgrade to `h2c`",
            upgrade("GET", "/", &good).replace("websocket", "h2c"),
        ),
    ];
    let mut rows = Vec::new();
    for (input, bytes) in wires {
        rows.push(Row {
            input: input.to_owned(),
            answer: said(&raw(grid.address(), bytes.as_bytes()).await),
        });
    }
    let dial = || with_token(grid.dial(), "right");
    let mut refuse = async |input: &str, dial: Dial| {
        let refusal = dial.refused().await;
        rows.push(Row {
            input: input.to_owned(),
            answer: without_time(&refused(&refusal)),
        });
    };
    refuse(
        "a client of Playwright 1.60 where there is 1.65",
        dial().playwright("1.60.0"),
    )
    .await;
    refuse(
        "`?browser=firefox` where there is none",
        dial().target("/?browser=firefox"),
    )
    .await;
    let held = with_token(grid.dial(), "only-one").connect().await.unwrap();
    refuse(
        "a second session of a token with `max_sessions: 1`",
        with_token(grid.dial(), "only-one"),
    )
    .await;
    let second = dial().connect().await.unwrap();
    refuse("a session where all seats are taken", dial()).await;
    // Both have to come while neither has waited for as long as it may: until they do.
    let full = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let (one, other) = tokio::join!(dial().connect(), dial().connect());
            let refusals = [one.err().unwrap(), other.err().unwrap()];
            if let Some(full) = refusals.iter().find(|refusal| refusal.status == 429) {
                break refused(full);
            }
        }
    });
    let full = full.await.expect("one waits, the other may not");
    // Connections are counted from the moment they are accepted until they are closed, and which of
    // several is the fifth nobody can say: until it is the one that asks, it waits for a seat.
    let mut idle = Vec::new();
    let fifth = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            for _ in 0..2 {
                idle.push(TcpStream::connect(grid.address()).await.unwrap());
            }
            let answer = refused(&dial().refused().await);
            if !answer.contains("seats are taken") {
                break answer;
            }
        }
    });
    rows.push(Row {
        input: "a fifth connection where `limits.max_connections_per_ip` is 4".to_owned(),
        answer: fifth.await.expect("four are the most"),
    });
    drop(idle);
    rows.push(Row {
        input: "one more client than `queue.max_waiting`".to_owned(),
        answer: full,
    });
    held.close().await;
    second.close().await;
    grid.idle().await;
    rows
}

/// How long somebody waited is not the same twice.
fn without_time(text: &str) -> String {
    match text.split_once("(waited ") {
        Some((before, rest)) => {
            let after = rest.split_once(')').expect("it closes").1;
            format!("{before}(waited …){after}")
        }
        None => text.to_owned(),
    }
}

pub async fn admin() -> Vec<Row> {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let mut rows = Vec::new();
    for (method, path) in [
        ("GET", "/v1"),
        ("GET", "/v2/workers"),
        ("GET", "/v1/workers/../config"),
        ("GET", "/v1/workers/nobody"),
        ("POST", "/v1/workers"),
        ("PUT", "/v1/config"),
        ("GET", "/v1/workers/nobody/drain"),
        ("POST", "/v1/workers/nobody/drain"),
        ("POST", "/v1/workers/%2e%2e%2f%00/drain"),
        ("GET", "/v1/sessions/0123456789abcdef"),
        ("DELETE", "/v1/sessions/everything"),
        ("DELETE", "/v1/sessions/0123456789abcdef"),
        ("DELETE", "/v1/sessions"),
    ] {
        rows.push(Row {
            input: format!("`{method} {path}`"),
            answer: refused(&grid.admin(method, path).await),
        });
    }
    let worker = &grid.workers().await[0].id;
    let wire = |headers: &str| {
        format!(
            "POST /v1/workers/{worker}/drain HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\
             Connection: close\r\n{headers}\r\n",
            grid.admin_address()
        )
    };
    let evil = wire("Origin: https://evil.example\r\n");
    rows.push(Row {
        input: "`POST /v1/workers/ID/drain` by a web page of another origin".to_owned(),
        answer: said(&raw(grid.admin_address(), evil.as_bytes()).await),
    });
    rows.push(Row {
        input: "what is no HTTP".to_owned(),
        answer: said(&raw(grid.admin_address(), b"\x01\x02\x03\r\n\r\n").await),
    });
    drop(grid);

    let locked = Grid::new()
        .fakes(&[&fake])
        .admin_token("operator")
        .start()
        .await;
    for (input, headers) in [
        ("`GET /v1/sessions` without the token", &[][..]),
        (
            "`GET /v1/sessions` with another token",
            &[("Authorization", "Bearer guessed")][..],
        ),
        (
            "`GET /v1/sessions` with the token as Basic",
            &[("Authorization", "Basic operator")][..],
        ),
    ] {
        let answer = locked.admin_with("GET", "/v1/sessions", headers).await;
        rows.push(Row {
            input: input.to_owned(),
            answer: refused(&answer),
        });
    }
    let answer = locked
        .admin_with("GET", "/v1/sessions?token=operator", &[])
        .await;
    rows.push(Row {
        input: "`GET /v1/sessions?token=TOKEN`: addresses are logged by too many".to_owned(),
        answer: refused(&answer),
    });
    rows
}
