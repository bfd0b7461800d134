//! Playwright versions and browsers: everybody is seated where it works, or told at once where it
//! would.

use crate::support::{
    Behaviour, Connected, Driver, FakePlaywright, Grid, Language, RedisServer, tools, version,
};
use std::time::Duration;

/// `1.65` of `1.65.1`.
fn minor(version: &str) -> &str {
    version.rsplit_once('.').unwrap().0
}

/// The folder of a version's `playwright-core`.
fn playwright(version: &str) -> String {
    let folder = tools(&format!("playwright-{version}/playwright/driver/package"));
    folder.to_str().unwrap().to_owned()
}

#[tokio::test]
pub async fn every_client_is_seated_on_its_own_version_and_browser() {
    let (current, previous) = (
        version("PLAYWRIGHT_VERSION"),
        version("PLAYWRIGHT_PREVIOUS"),
    );
    let foreign = version("PLAYWRIGHT_FOREIGN");
    let redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .worker_process(&[("PLAYHOUSE_PLAYWRIGHT", &playwright(current))])
        .worker_process(&[("PLAYHOUSE_PLAYWRIGHT", &playwright(previous))])
        .worker_process(&[
            ("PLAYHOUSE_PLAYWRIGHT", &playwright(previous)),
            ("BROWSER_TYPE", "firefox"),
        ])
        // Whoever is refused is refused at once: the tests do not wait this long.
        .env("WORKER_SELECT_TIMEOUT", "600")
        .start()
        .await;

    for language in Language::BOTH {
        for client in [current, previous] {
            let mut driver = Driver::start_as(language, client, &grid.url(), &[]);
            driver.open("a").await.unwrap();
            assert_eq!(
                seat(&grid).await,
                ("chromium".to_owned(), minor(client).to_owned())
            );
            driver.quit().await;
            grid.idle().await;
        }

        let mut stranger = Driver::start_as(language, foreign, &grid.url(), &[]);
        let error = stranger.open("a").await.unwrap_err();
        assert!(error.contains("428"), "{error}");
        for available in [minor(current), minor(previous)] {
            assert!(
                error.contains(available),
                "{available} is not named: {error}"
            );
        }
        stranger.quit().await;

        let firefox = ["--browser", "firefox"];
        for address in [grid.url(), format!("{}/?browser=firefox", grid.url())] {
            let mut driver = Driver::start_as(language, previous, &address, &firefox);
            let opened = driver.open("a").await.unwrap();
            assert_eq!(opened.title, "Playhouse");
            assert_eq!(
                seat(&grid).await,
                ("firefox".to_owned(), minor(previous).to_owned())
            );
            driver.quit().await;
            grid.idle().await;
        }
    }
}

/// Browser and Playwright version of the one session there is.
async fn seat(grid: &Grid) -> (String, String) {
    let sessions = grid.sessions().await;
    let [session] = &sessions[..] else {
        panic!("one session was expected: {sessions:?}");
    };
    let workers = grid.workers().await;
    let worker = workers.iter().find(|worker| worker.id == session.worker);
    let worker = worker.expect("a session's worker is listed");
    (
        worker.browser.clone(),
        worker.playwright_version.clone().expect("ours tell it"),
    )
}

#[tokio::test]
async fn what_no_worker_can_serve_is_refused_in_the_clients_own_form() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes_of_version("1.65", &[&fake]).start().await;

    let refusal = grid.dial().playwright("1.62.0").refused().await;
    assert_eq!(refusal.status, 428);
    assert!(refusal.is_whole(), "{refusal:?}");
    assert!(
        refusal
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert!(
        (1..=4).contains(&refusal.body.lines().count()),
        "{}",
        refusal.body
    );
    assert!(refusal.body.contains("1.65"), "{}", refusal.body);

    let unknown = grid.dial().target("/?browser=netscape").connect().await;
    let unknown = unknown.err().unwrap();
    assert_eq!(unknown.status, 400);
    let told: serde_json::Value = unknown.json();
    for browser in ["chromium", "firefox", "webkit"] {
        assert!(
            told["message"].as_str().unwrap().contains(browser),
            "{told}"
        );
    }

    let patch = grid.dial().playwright("1.65.99").connect().await;
    patch.ok().unwrap().echo("only major and minor count").await;
    let custom = grid
        .dial()
        .header("User-Agent", "my own client")
        .connect()
        .await;
    custom
        .ok()
        .unwrap()
        .echo("an unknown client is let through")
        .await;
    grid.idle().await;
}

/// Two servers of which the configuration says no version: of 1.64 and of 1.65.
async fn untold() -> (Grid, [FakePlaywright; 2]) {
    let fakes = [FakePlaywright::start().await, FakePlaywright::start().await];
    fakes[0].behave(Behaviour::Only("1.64"));
    fakes[1].behave(Behaviour::Only("1.65"));
    let grid = Grid::new()
        .fakes(&[&fakes[0], &fakes[1]])
        .capacity(2)
        // Nobody here waits for a seat.
        .queue_timeout(Duration::from_secs(600))
        .start()
        .await;
    (grid, fakes)
}

async fn connect(grid: &Grid, version: &str) -> Connected {
    let connected = grid.dial().playwright(version).connect().await;
    connected
        .ok()
        .unwrap_or_else(|| panic!("{version} is there"))
}

#[tokio::test]
async fn a_client_is_led_past_workers_that_turn_out_to_be_of_another_version() {
    let (grid, fakes) = untold().await;
    let newer = connect(&grid, "1.65.1").await;
    let older = connect(&grid, "1.64.3").await;
    assert_eq!(fakes.each_ref().map(FakePlaywright::open), [1, 1]);
    newer.close().await;
    older.close().await;
    grid.idle().await;
    // From here on each goes where it is served.
    for (version, served) in [("1.64.0", [1, 0]), ("1.65.0", [0, 1])] {
        let session = connect(&grid, version).await;
        assert_eq!(fakes.each_ref().map(FakePlaywright::open), served);
        session.close().await;
        grid.idle().await;
    }
}

#[tokio::test]
async fn a_version_that_nobody_has_is_told_at_once_also_where_all_seats_are_taken() {
    let (grid, fakes) = untold().await;
    let refused = async || {
        let refused = grid.dial().playwright("1.62.0").connect().await;
        let refusal = refused.err().expect("nobody has it");
        assert_eq!(refusal.status, 428, "{refusal:?}");
        for there in ["1.64", "1.65"] {
            assert!(refusal.body.contains(there), "{}", refusal.body);
        }
    };
    // They are open all the while: nobody has another server at such an address.
    let mut sessions = vec![
        connect(&grid, "1.65.1").await,
        connect(&grid, "1.64.3").await,
    ];
    refused().await;
    for version in ["1.64.0", "1.65.0"] {
        sessions.push(connect(&grid, version).await);
    }
    let asked = fakes.each_ref().map(FakePlaywright::upgrades);
    refused().await;
    assert_eq!(fakes.each_ref().map(FakePlaywright::upgrades), asked);
    for session in &mut sessions {
        session.echo("still here").await;
    }
}

/// They come while nothing is known of the one worker there is. A seat for one of them shows it.
#[tokio::test]
async fn a_version_that_turns_out_to_be_nobodys_is_told_to_all_who_wait_for_it() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .capacity(2)
        .queue_timeout(Duration::from_secs(600))
        .start()
        .await;
    // Clients that do not say their version fill it, and show nothing.
    let (first, second) = (grid.connect().await, grid.connect().await);
    let waiting = [0, 1].map(|_| tokio::spawn(grid.dial().playwright("1.62.0").connect()));
    grid.queued(2).await;
    fake.behave(Behaviour::Only("1.65"));
    first.close().await;
    for client in waiting {
        let refusal = client.await.unwrap().err().expect("1.65 is not 1.62");
        assert_eq!(refusal.status, 428, "{refusal:?}");
        assert!(refusal.body.contains("1.65"), "{}", refusal.body);
    }
    second.close().await;
    grid.idle().await;
}
