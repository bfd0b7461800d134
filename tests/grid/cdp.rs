//! Clients of the DevTools protocol: discovery with its tickets, a browser of their own over a pipe, and
//! nothing of it left.

use crate::support::{
    Answer, Dial, Grid, Kind, Language, eventually, eventually_equal, get, run_client,
};
use serde_json::{Value, json};

async fn grid(more: &str) -> Grid {
    Grid::new()
        .workers(1)
        .capacity(3)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .config(more)
        .start()
        .await
}

/// Browsers that are driven over a pipe.
fn piped(grid: &Grid) -> usize {
    let tree = grid.tree();
    let browsers = tree.of_kind(Kind::Browser).into_iter();
    let piped = browsers
        .filter(|it| it.command.contains("--user-data-dir=") && it.command.contains("/profile"));
    piped.count()
}

fn sha256(token: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn http(grid: &Grid) -> String {
    grid.url().replace("ws://", "http://")
}

async fn page(grid: &Grid, path: &str) -> Answer {
    get(&format!("{}{path}", http(grid))).await
}

/// What discovery answers.
async fn discover(grid: &Grid, path: &str) -> Value {
    let answer = page(grid, path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn target(told: &Value) -> String {
    let address = told["webSocketDebuggerUrl"].as_str().unwrap();
    let rest = address.strip_prefix("ws://").unwrap();
    rest[rest.find('/').unwrap()..].to_owned()
}

#[tokio::test]
async fn playwright_drives_a_browser_over_cdp() {
    let grid = grid("").await;
    for language in Language::BOTH {
        for address in [http(&grid), format!("{}/cdp", grid.url())] {
            let said = run_client(language, "cdp", &[&address]).await;
            let seen: Value = serde_json::from_str(&said).unwrap();
            let expected = json!({
                "titles": ["Playhouse", "Second"], "picture": true, "pdf": "%PDF", "back": 8 << 20,
            });
            assert_eq!(seen, expected, "{language:?} {address}");
            grid.idle().await;
        }
    }
    eventually("no more than the spare is left", async || {
        (piped(&grid) <= 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_ticket_is_for_one_connection_and_carries_the_token() {
    let token = format!(
        "auth: {{ tokens: [ {{ name: ci, sha256: \"{}\" }} ] }}",
        sha256("secret")
    );
    let grid = grid(&token).await;
    for path in ["/json/version", "/json/version/"] {
        let stranger = page(&grid, path).await;
        assert_eq!(stranger.status, 401, "{}", stranger.body);
        let told = discover(&grid, &format!("{path}?token=secret")).await;
        assert!(
            told["Browser"].as_str().unwrap().starts_with("Chrome/"),
            "{told}"
        );
        let target = target(&told);
        let mut session = grid.dial().target(&target).connect().await.ok().unwrap();
        let version = json!({"id": 7, "method": "Browser.getVersion"}).to_string();
        session.send(&version).await;
        let answer: Value = serde_json::from_str(&session.text().await).unwrap();
        assert_eq!(answer["id"], 7, "{answer}");
        assert!(session.answers_a_ping().await);
        let again = grid.dial().target(&target).connect().await.err().unwrap();
        assert_eq!(again.status, 401, "{}", again.body);
        session.close().await;
        grid.idle().await;
    }
    for target in [
        "/cdp",
        "/devtools/browser/own?ticket=x",
        "/devtools/browser/x",
    ] {
        let refused = grid.dial().target(target).connect().await.err().unwrap();
        assert_eq!(refused.status, 401, "{target}");
    }
    let session = grid.dial().target("/cdp?token=secret").connect().await;
    session.ok().unwrap().close().await;
    assert!(!grid.log().contains("ticket="), "{}", grid.log());
    grid.idle().await;
}

#[tokio::test]
async fn who_comes_to_the_wrong_door_is_told_the_right_one() {
    let grid = grid("").await;
    let refused = async |dial: Dial| dial.connect().await.err().unwrap();
    let playwright = refused(grid.dial().target("/cdp").playwright("1.65.1")).await;
    assert_eq!(playwright.status, 400);
    assert!(
        playwright.body.contains("connectOverCDP"),
        "{}",
        playwright.body
    );
    for agent in [
        "Puppeteer 24.1.0",
        "Playwright/1.65.1 (x64; debian 12) node/20",
    ] {
        let deflate = ("Sec-WebSocket-Extensions", "permessage-deflate");
        let dial = grid.dial().header("User-Agent", agent);
        let cdp = refused(dial.header(deflate.0, deflate.1)).await;
        assert_eq!(cdp.status, 400);
        assert!(cdp.body.contains("/cdp"), "{}", cdp.body);
    }
    let asked = page(&grid, "/cdp").await;
    assert_eq!(asked.status, 426);
}

#[tokio::test]
async fn a_browser_ends_with_its_client_and_a_client_hears_of_its_browsers_end() {
    let grid = grid("").await;
    let open = async || grid.dial().target("/cdp").connect().await.ok().unwrap();
    let version = json!({"id": 1, "method": "Browser.getVersion"}).to_string();
    let mut gone = open().await;
    gone.send(&version).await;
    gone.text().await;
    assert!(piped(&grid) >= 1);
    // No close frame: its process was killed.
    drop(gone);
    grid.idle().await;
    eventually("its browser is gone, and a spare is there", async || {
        (piped(&grid) == 1).then_some(())
    })
    .await;

    let mut session = open().await;
    session
        .send(&json!({"id": 2, "method": "Browser.close"}).to_string())
        .await;
    let close = session.closed().await.expect("a reason is given");
    assert!(close.reason.contains("browser has ended"), "{close:?}");

    let mut talker = open().await;
    talker.send(&version).await;
    talker.text().await;
    let killed = grid.command(&["kill", talker.session()]).await;
    assert!(killed.status.success(), "{killed:?}");
    let close = talker.closed().await.expect("a reason is given");
    assert_eq!(u16::from(close.code), 1008, "{close:?}");
    grid.idle().await;
    eventually_equal("one spare is left", 1, async || piped(&grid)).await;
}

#[tokio::test]
async fn puppeteer_drives_browsers_and_leaves_nothing() {
    const SESSIONS: usize = 6;
    let grid = grid("").await;
    let ways = [
        ("browserURL", http(&grid)),
        ("browserWSEndpoint", format!("{}/cdp", grid.url())),
    ];
    for (how, address) in ways.iter().cycle().take(SESSIONS) {
        let said = run_client(Language::Node, "puppeteer", &[how, address]).await;
        let seen: Value = serde_json::from_str(&said).unwrap();
        let expected = json!({
            "titles": ["Playhouse", "Second"], "picture": true, "pdf": "%PDF", "downloaded": "from there",
        });
        assert_eq!(seen, expected, "{how}");
        grid.idle().await;
    }
    eventually("no more than the spare is left", async || {
        (piped(&grid) <= 1).then_some(())
    })
    .await;
    eventually_equal("nobody is left unburied", 0, async || grid.tree().zombies()).await;
}
