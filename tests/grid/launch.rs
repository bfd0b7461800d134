//! Launch options of clients: those that ask for nothing take a shared seat, others an own one that is
//! started with them, and what reaches beyond the browser is refused by its name.

use crate::support::{
    FakePlaywright, Grid, GridBuilder, Kind, Language, RedisServer, SuiteRun, eventually,
    eventually_equal, run_client,
};
use serde_json::{Value, json};
use std::time::Duration;

const HEADER: &str = "x-playwright-launch-options";
const GERMAN: &str = r#"{"args":["--lang=de-DE"],"slowMo":20}"#;

/// A grid that is patient with a slow machine.
fn patient() -> GridBuilder {
    Grid::new()
        .env("PLAYHOUSE_SELECTION_DIAL_TIMEOUT", "60")
        .queue_timeout(Duration::from_secs(60))
}

/// A worker with shared seats, and one with own ones.
fn mixed(redis: &RedisServer) -> GridBuilder {
    patient()
        .redis(redis)
        .capacity(3)
        .worker_process(&[])
        .worker_process(&[("PLAYHOUSE_WORKER_SEAT", "own")])
}

/// Sessions that were ever on shared seats, and on own ones.
async fn served(grid: &Grid) -> (u32, u32) {
    let workers = grid.workers().await;
    let of = |seat: &str| {
        let such = workers.iter().filter(|it| it.seat == seat);
        such.map(|it| it.lifetime_sessions).sum()
    };
    (of("shared"), of("own"))
}

/// What a client says who connects with these options in the header, if there are any.
async fn visit(language: Language, address: &str, options: Option<&str>) -> Value {
    let arguments: Vec<&str> = [address].into_iter().chain(options).collect();
    let said = run_client(language, "launch", &arguments).await;
    serde_json::from_str(&said).unwrap()
}

/// The error that such a client reads.
async fn error(language: Language, address: &str, options: &str) -> String {
    let said = visit(language, address, Some(options)).await;
    let error = said["error"].as_str();
    error.unwrap_or_else(|| panic!("{said}")).to_owned()
}

fn in_query(grid: &Grid, options: &str) -> String {
    let encoded: String = options.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("{}/?launch-options={encoded}", grid.url())
}

#[tokio::test]
async fn options_that_ask_for_something_take_a_browser_that_has_them() {
    let redis = RedisServer::start().await;
    let grid = mixed(&redis).start().await;
    let german = json!({"language": "de-DE"});
    for (n, language) in Language::BOTH.into_iter().enumerate() {
        let served_before = 2 * n as u32;
        let seen = visit(language, &grid.url(), Some(GERMAN)).await;
        assert_eq!(seen, german, "{language:?}");
        let seen = visit(language, &in_query(&grid, GERMAN), None).await;
        assert_eq!(seen, german, "{language:?}");
        // As Playwright's test runner sends them when nobody configured anything, and not at all.
        for nothing in [Some(r#"{"handleSIGINT":false,"headless":true}"#), None] {
            let seen = visit(language, &grid.url(), nothing).await;
            assert_ne!(seen, german, "{language:?}");
        }
        let expected = (served_before + 2, served_before + 2);
        eventually_equal("shared and own seats served", expected, async || {
            served(&grid).await
        })
        .await;
        for refused in [
            r#"{"executablePath":"/bin/sh"}"#,
            r#"{"downloadsPath":"/tmp"}"#,
        ] {
            let name = refused.split('"').nth(1).unwrap();
            let error = error(language, &grid.url(), refused).await;
            assert!(error.contains("400") && error.contains(name), "{error}");
        }
    }
    grid.idle().await;
    eventually("the shared browser and a spare are left", async || {
        (grid.tree().of_kind(Kind::Browser).len() == 2).then_some(())
    })
    .await;
}

/// A configuration as the users of the test runner write it.
#[tokio::test]
async fn the_test_runner_gets_what_its_configuration_says() {
    let redis = RedisServer::start().await;
    let grid = mixed(&redis).start().await;
    let output = tempfile::tempdir().unwrap();
    let run = async |options: &str, language: &str| {
        let environment = [("LAUNCH_OPTIONS", options), ("LANGUAGE_EXPECTED", language)];
        SuiteRun::with("launch", &grid, output.path(), &environment).await
    };
    let german = run(GERMAN, "de-DE").await;
    assert_eq!((german.passed, german.flaky), (1, 0), "{german}");
    eventually_equal("an own seat was taken", (0, 1), async || {
        served(&grid).await
    })
    .await;
    let plain = run("{}", "en-US").await;
    assert_eq!((plain.passed, plain.flaky), (1, 0), "{plain}");
    eventually_equal("a shared seat was taken", (1, 1), async || {
        served(&grid).await
    })
    .await;
    let refused = run(r#"{"executablePath":"/usr/bin/chromium"}"#, "en-US").await;
    assert_eq!(refused.passed, 0, "{refused}");
    let report = refused.to_string();
    assert!(
        report.contains("The launch option executablePath is not allowed on this grid."),
        "{report}"
    );
    grid.idle().await;
    assert_eq!(served(&grid).await, (1, 1));
}

/// The client's trouble and nobody else's: the worker serves on, and is not suspected.
#[tokio::test]
async fn options_that_no_browser_starts_with_are_their_clients_trouble() {
    let grid = patient()
        .workers(1)
        .capacity(3)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .start()
        .await;
    // It is not on the machine, which is known before anything is started.
    let channel = error(Language::Python, &grid.url(), r#"{"channel":"msedge-dev"}"#).await;
    assert!(
        channel.contains("400") && channel.contains("channel"),
        "{channel}"
    );
    // Playwright itself knows no browser that can do that.
    let proxy = r#"{"proxy":{"server":"socks5://127.0.0.1:9","username":"u","password":"hidden"}}"#;
    for language in Language::BOTH {
        let proxy = error(language, &grid.url(), proxy).await;
        assert!(proxy.contains("socks5 proxy authentication"), "{proxy}");
    }
    grid.idle().await;
    let metrics = grid.admin("GET", "/metrics").await.body;
    let mut failures = metrics.lines().filter(|line| {
        line.starts_with("playhouse_worker_dial_failures_total") && !line.ends_with(" 0")
    });
    assert_eq!(failures.next(), None);
    let workers = grid.workers().await;
    assert!(workers.len() == 1 && workers[0].serves(), "{workers:?}");
    let log = grid.log();
    assert!(
        !log.contains("hidden") && !log.contains("panicked"),
        "{log}"
    );
    let seen = visit(Language::Node, &grid.url(), Some(r#"{"slowMo":1}"#)).await;
    assert!(seen["language"].is_string(), "{seen}");
    let shell = r#"{"channel":"chromium-headless-shell"}"#;
    let seen = visit(Language::Node, &grid.url(), Some(shell)).await;
    assert!(seen["language"].is_string(), "{seen}");
}

#[tokio::test]
async fn who_leaves_while_its_browser_starts_leaves_nothing() {
    let grid = patient()
        .workers(1)
        .capacity(2)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .start()
        .await;
    for _ in 0..6 {
        let dial = grid.dial().playwright("1.65.1").header(HEADER, GERMAN);
        // It has its answer when the browser is up, or is about to be.
        drop(dial.connect().await.ok().unwrap());
        grid.idle().await;
    }
    eventually("one spare is left", async || {
        (grid.tree().of_kind(Kind::Browser).len() == 1).then_some(())
    })
    .await;
    eventually_equal("and nobody is left unburied", 0, async || {
        grid.tree().zombies()
    })
    .await;
}

#[tokio::test]
async fn where_there_are_no_own_seats_the_client_is_told() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let notes = async |options: &str| {
        let dial = grid.dial().playwright("1.65.1").header(HEADER, options);
        let session = dial.connect().await.ok().unwrap();
        let notes: Vec<String> = session
            .answer
            .headers
            .get_all("x-playwright-debug-log")
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .filter(|line| line.contains("launch options"))
            .collect();
        session.close().await;
        notes
    };
    let expected =
        "playhouse launch options not served: args, slowMo (the grid has no own seats for them)";
    assert_eq!(notes(GERMAN).await, [expected]);
    assert_eq!(notes(r#"{"headless":false}"#).await, [""; 0]);
    let heads = fake.heads().join("");
    assert!(!heads.contains("x-playhouse-launch-options"), "{heads}");
}

#[tokio::test]
async fn what_reaches_beyond_the_browser_is_refused_before_a_seat_is_asked_for() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let upgrades = fake.upgrades();
    let args = |argument: &str| json!({"args": ["--lang=de", argument]}).to_string();
    for (options, named) in [
        (
            args("--remote-debugging-port=9222"),
            "--remote-debugging-port",
        ),
        (args("-remote-debugging-port"), "-remote-debugging-port"),
        (args("--no-sandbox"), "--no-sandbox"),
        (args("--user-data-dir=/tmp"), "--user-data-dir"),
        (args("--load-extension=/tmp"), "--load-extension"),
        (args("--renderer-cmd-prefix=sh"), "--renderer-cmd-prefix"),
        (args("--proxy-pac-url=file:///x"), "--proxy-pac-url"),
        (args("9222"), "9222"),
        (json!({"env": {"LD_PRELOAD": "x"}}).to_string(), "env"),
        (
            json!({"ignoreDefaultArgs": true}).to_string(),
            "ignoreDefaultArgs",
        ),
        (json!({"cdpPort": 9222}).to_string(), "cdpPort"),
        (json!({"slowMo": "fast"}).to_string(), "slowMo"),
        ("[".repeat(5000), "JSON"),
        (
            "{\"args\":[\"--lang=\u{e4}\u{0}\"]}".replace('\0', "\\u0000"),
            "args",
        ),
        ("nothing".to_owned(), "JSON"),
    ] {
        let dial = grid.dial().playwright("1.65.1").header(HEADER, &options);
        let refused = dial
            .connect()
            .await
            .err()
            .unwrap_or_else(|| panic!("{options}"));
        assert_eq!(refused.status, 400, "{options}");
        assert!(refused.body.contains(named), "{options}: {}", refused.body);
        let encoded: String = options.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let target = format!("/?launch-options={encoded}");
        let refused = grid.dial().target(&target).refused().await;
        assert_eq!(refused.status, 400, "{options}");
        assert_eq!(refused.json::<Value>()["error"]["code"], "launch_options");
    }
    assert_eq!(fake.upgrades(), upgrades);
    let log = grid.log();
    assert!(
        log.contains("launch_options") && !log.contains("9222"),
        "{log}"
    );
}

/// Options that a worker's browsers have of themselves ask for nothing, and the configuration decides what
/// others are allowed, while it runs.
#[tokio::test]
async fn the_workers_own_options_are_nothing_special() {
    let grid = Grid::new()
        .workers(1)
        .config("worker: { args: [ \"--lang=fr-FR\" ] }\nsession: { launch_options: [ args ] }")
        .start()
        .await;
    let answer = async |options: &str| {
        let dial = grid.dial().playwright("1.65.1").header(HEADER, options);
        match dial.connect().await {
            Ok(session) => {
                let notes = session.answer.headers.get_all("x-playwright-debug-log");
                let notes = notes
                    .iter()
                    .filter(|it| it.to_str().unwrap().contains("launch"));
                let told = notes.count();
                session.close().await;
                Ok(told)
            }
            Err(refusal) => Err(refusal.status),
        }
    };
    assert_eq!(answer(r#"{"args":["--lang=fr-FR"]}"#).await, Ok(0));
    assert_eq!(answer(r#"{"args":["--lang=de-DE"]}"#).await, Ok(1));
    assert_eq!(answer(r#"{"slowMo":5}"#).await, Err(400));
    let seen = visit(
        Language::Node,
        &grid.url(),
        Some(r#"{"args":["--lang=fr-FR"]}"#),
    )
    .await;
    assert_eq!(seen, json!({"language": "fr-FR"}));
}
