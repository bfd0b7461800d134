//! What the data port answers to each kind of request, and what of a request reaches a worker.

use crate::support::{Answer, Behaviour, FakePlaywright, Grid, eventually_equal};

#[tokio::test]
async fn every_plain_request_has_its_answer() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    for (method, path, status, body) in [
        ("GET", "/json", 200, Some(r#"{"wsEndpointPath":"/"}"#)),
        ("GET", "/metrics", 200, Some(r#"{"activeConnections":0}"#)),
        ("GET", "/healthz", 200, None),
        ("GET", "/readyz", 200, None),
        ("GET", "/favicon.ico", 204, Some("")),
        ("GET", "/", 426, None),
        ("GET", "/nowhere", 404, None),
        ("GET", "/v1/workers", 404, None),
        ("POST", "/", 405, None),
        ("DELETE", "/json", 405, None),
    ] {
        let answer = grid.request(method, path, &[]).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        if let Some(body) = body {
            assert_eq!(answer.body, body, "{method} {path}");
        }
        if status >= 400 {
            explains_itself(&answer);
        }
    }
}

/// The form of errors for everybody but Playwright.
fn explains_itself(answer: &Answer) {
    let told: serde_json::Value = answer.json();
    assert_eq!(told["message"], told["error"]["message"], "{told}");
    assert!(told["error"]["code"].is_string(), "{told}");
    assert!(
        told["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    assert!(answer.is_whole(), "{answer:?}");
}

#[tokio::test]
async fn a_grid_whose_workers_all_fail_says_so_and_counts_nothing() {
    let (rude, deaf) = (FakePlaywright::start().await, FakePlaywright::start().await);
    let grid = Grid::new().fakes(&[&rude, &deaf]).start().await;
    rude.behave(Behaviour::Refuse(500));
    deaf.behave(Behaviour::HangUp);
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 502, "{refusal:?}");
    explains_itself(&refusal);
    // The proxy hears of what was given back after the client has its answer.
    eventually_equal("what counts", vec![(0, 0); 2], async || {
        let workers = grid.workers().await.into_iter();
        let counts = workers.map(|it| (it.active_sessions, it.lifetime_sessions));
        counts.collect()
    })
    .await;
}

#[tokio::test]
async fn the_worker_is_told_what_it_needs_and_no_secret() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let connected = grid
        .dial()
        .target("/?token=from-the-query&browser=chromium")
        .playwright("1.65.1")
        .header("x-playwright-proxy", "socks")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .header("Authorization", "Bearer from-the-header")
        .header("Cookie", "session=from-the-cookie")
        .connect()
        .await;
    let mut session = connected.ok().unwrap();
    session.echo("it works").await;
    assert_eq!(
        session
            .answer
            .header("x-playwright-debug-log")
            .map(str::is_empty),
        Some(false)
    );

    let head = &fake.heads()[0].to_ascii_lowercase();
    let host = format!("host: {}", fake.address());
    for needed in [
        host.as_str(),
        "user-agent: playwright/1.65.1",
        "x-playwright-browser: chromium",
        "x-playwright-proxy: socks",
        "sec-websocket-extensions: permessage-deflate",
    ] {
        assert!(head.contains(needed), "{needed} is missing: {head}");
    }
    for secret in ["authorization", "cookie", "origin", "from-the-"] {
        assert!(!head.contains(secret), "{secret} is passed on: {head}");
    }
    session.close().await;

    grid.idle().await;
    let log = grid.log();
    for secret in ["from-the-", fake.path()] {
        assert!(!log.contains(secret), "{secret} is logged: {log}");
    }
}
