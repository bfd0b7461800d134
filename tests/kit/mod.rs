//! The test kit keeps its own promises: a fake that differs from the real thing proves nothing.

use crate::support::{
    Behaviour, Connected, Dial, Driver, FakePlaywright, Language, RedisServer, eventually_equal,
    get, tools, version,
};
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Playwright's own server with Debian's Chromium, and its address.
async fn real_server() -> (Child, tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("launch.json");
    let chromium = "/usr/lib/chromium/chromium-headless-shell";
    let json = format!(r#"{{"executablePath":"{chromium}","host":"127.0.0.1","port":0}}"#);
    std::fs::write(&config, json).unwrap();
    let driver = tools(&format!(
        "playwright-{}/playwright/driver",
        version("PLAYWRIGHT_VERSION")
    ));
    let mut server = Command::new(driver.join("node"))
        .arg(driver.join("package/cli.js"))
        .args(["launch-server", "--browser", "chromium", "--config"])
        .arg(&config)
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url = lines
        .next_line()
        .await
        .unwrap()
        .expect("it prints its address");
    (server, folder, url)
}

/// How a server answers everything that a grid asks of it.
async fn answers(url: &str) -> Vec<String> {
    let uri: http::Uri = url.parse().unwrap();
    let address: SocketAddr = uri.authority().unwrap().as_str().parse().unwrap();
    let path = uri.path();
    let root = get(&format!("http://{address}/")).await;
    let json = get(&format!("http://{address}/json")).await;
    let right = Dial::new(address).target(path).connect().await;
    let wrong = Dial::new(address).target("/wrong").connect().await;
    let upgraded = |answer: &Result<Connected, _>| answer.as_ref().map_or(0, |it| it.answer.status);
    vec![
        format!("root: {} {}", root.status, root.body),
        format!("json: {} {}", json.status, json.body.replace(path, "PATH")),
        format!("right path: {}", upgraded(&right)),
        format!("wrong path: {}", wrong.err().unwrap().status),
    ]
}

#[tokio::test]
async fn the_fake_server_answers_like_the_real_one() {
    let (_server, _folder, real) = real_server().await;
    let fake = FakePlaywright::start().await;
    assert_eq!(answers(&fake.endpoint()).await, answers(&real).await);
}

#[tokio::test]
async fn the_fake_server_misbehaves_as_told_and_counts_what_is_open() {
    let mut fake = FakePlaywright::start().await;
    let dial = || Dial::new(fake.address()).target(fake.path());
    let mut session = dial().connect().await.ok().unwrap();
    session.echo("hello").await;
    assert_eq!((fake.open(), fake.upgrades()), (1, 1));

    session.send("bye 4001 enough").await;
    let close = session.closed().await.unwrap();
    assert_eq!(
        (u16::from(close.code), close.reason.as_str()),
        (4001, "enough")
    );
    eventually_equal("open sessions", 0, async || fake.open()).await;

    fake.behave(Behaviour::Refuse(428));
    assert_eq!(dial().refused().await.status, 428);

    fake.behave(Behaviour::Serve);
    let mut session = dial().connect().await.ok().unwrap();
    fake.crash().await;
    assert_eq!(session.closed().await, None);
    eventually_equal("open sessions", 0, async || fake.open()).await;
}

#[tokio::test]
async fn both_drivers_tell_what_they_did() {
    let (_server, _folder, url) = real_server().await;
    for language in Language::BOTH {
        let mut client = Driver::start(language, &url);
        assert_eq!(client.open("a").await.unwrap().title, "Playhouse");
        client.works("a").await.unwrap();
        client.close("a").await.unwrap();
        client.quit().await;

        let mut stranger = Driver::start(language, &format!("{url}-wrong"));
        let error = stranger.open("a").await.unwrap_err();
        assert!(error.contains("400"), "{error}");
        stranger.quit().await;
    }
}

#[tokio::test]
async fn a_killed_redis_comes_back_empty() {
    let mut redis = RedisServer::start().await;
    assert_eq!(redis.cli(&["set", "seat", "taken"]), "OK");
    redis.kill();
    redis.restart().await;
    assert_eq!(redis.cli(&["get", "seat"]), "");
}
