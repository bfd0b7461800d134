//! What Playwright shares between the sessions of one browser, and that we leave it alone: the language
//! in which errors name what somebody looked for.

use crate::support::{Driver, Grid, Language, eventually};

/// Checks come this often, or a little slower.
const QUICK: &str = "worker: { heartbeat_interval: 200ms }";
const CHECKS: usize = 10;

/// How many checks are waited for each time: `CHECKS`, to see it through ten minutes of them.
fn checks_waited_for() -> usize {
    std::env::var("CHECKS").map_or(CHECKS, |text| text.parse().unwrap())
}

/// Waits for so many checks beyond those that were made. However long they take: each takes no more time than
/// there is patience for.
async fn more_checks(grid: &Grid) {
    let checks = || grid.log().matches("the browser opened a page").count();
    for _ in 0..checks_waited_for() {
        let before = checks();
        eventually("one more check", async || (checks() > before).then_some(())).await;
    }
}

#[tokio::test]
async fn checks_leave_the_words_of_errors_to_the_clients() {
    let grid = Grid::new()
        .workers(1)
        .config(QUICK)
        .env("LOG_LEVEL", "debug")
        .start()
        .await;
    let [mut python, mut node] = Language::BOTH.map(|it| Driver::start(it, &grid.url()));
    node.open("first").await.unwrap();
    python.open("last").await.unwrap();
    more_checks(&grid).await;
    let words = python.misses("last").await;
    assert!(words.contains("get_by_role(\"button\""), "{words}");
    node.close("first").await.unwrap();
    python.open("alone").await.unwrap();
    more_checks(&grid).await;
    let words = python.misses("alone").await;
    assert!(words.contains("get_by_role(\"button\""), "{words}");
    python.quit().await;
}
