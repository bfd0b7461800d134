//! What Playwright shares between the sessions of one browser, and that we leave it alone: the language
//! in which errors name what somebody looked for.

use crate::support::{Driver, Grid, Language, eventually};

/// Checks come this often, or a little slower.
const QUICK: &str = "worker: { heartbeat_interval: 200ms }";
const CHECKS: usize = 10;

#[tokio::test]
async fn checks_leave_the_words_of_errors_to_the_clients() {
    let grid = Grid::new()
        .workers(1)
        .config(QUICK)
        .env("LOG_LEVEL", "debug")
        .start()
        .await;
    let checks = || grid.log().matches("the browser opened a page").count();
    let [mut python, mut node] = Language::BOTH.map(|it| Driver::start(it, &grid.url()));
    node.open("first").await.unwrap();
    python.open("last").await.unwrap();
    let before = checks();
    eventually("more checks", async || {
        (checks() >= before + CHECKS).then_some(())
    })
    .await;
    let words = python.misses("last").await;
    assert!(words.contains("get_by_role(\"button\""), "{words}");
    node.close("first").await.unwrap();
    python.open("alone").await.unwrap();
    eventually("more checks", async || {
        (checks() >= before + 2 * CHECKS).then_some(())
    })
    .await;
    let words = python.misses("alone").await;
    assert!(words.contains("get_by_role(\"button\""), "{words}");
    python.quit().await;
}
