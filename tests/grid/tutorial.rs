//! What the README and the tutorial tell a new user to do, done: in Python and Node, with real
//! Chromium.

use crate::support::{Driver, Grid, Language, eventually_equal, run_example};

#[tokio::test]
async fn the_tutorials_programs_run_in_python_and_node() {
    // Without replacements, for the sessions are counted at the workers in the end.
    let grid = Grid::new().workers(2).capacity(5).lifetime(0).start().await;
    for language in Language::BOTH {
        for (program, arguments, sessions) in [
            ("at_once", &[][..], 3),
            ("at_once", &["10"], 10),
            ("quick", &[], 10),
        ] {
            let said = run_example(language, program, &grid.url(), arguments, &[]).await;
            let done = said.lines().filter(|line| line.ends_with(": done"));
            assert_eq!(done.count(), sessions, "{language:?} {program}: {said}");
        }
    }
    grid.idle().await;
    let lifetimes = grid.workers().await;
    let sessions: u32 = lifetimes
        .iter()
        .map(|worker| worker.lifetime_sessions)
        .sum();
    assert_eq!(sessions, 2 * (3 + 10 + 10), "every session is counted once");
}

#[tokio::test]
async fn a_screenshot_through_the_grid_is_a_real_picture() {
    let grid = Grid::new().workers(1).start().await;
    let folder = tempfile::tempdir().unwrap();
    for language in Language::BOTH {
        let file = folder.path().join(format!("{language:?}.png"));
        let picture = [("PICTURE", file.to_str().unwrap())];
        run_example(language, "first_page", &grid.url(), &[], &picture).await;
        let bytes = std::fs::read(&file).unwrap();
        assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{language:?}");

        let mut client = Driver::start(language, &grid.url());
        client.open("a").await.unwrap();
        let picture = client.picture("a", &file).await.unwrap();
        assert_eq!((picture.width, picture.height), (1280, 720));
        assert!(picture.shows_the_page(), "{language:?}: {picture:?}");
        client.quit().await;
    }
}

#[tokio::test]
async fn an_http_address_works_like_a_ws_address() {
    let grid = Grid::new().workers(1).start().await;
    let address = grid.url().replace("ws://", "http://");
    for language in Language::BOTH {
        let mut client = Driver::start(language, &address);
        client.open("a").await.unwrap();
        assert_eq!(grid.active().await, 1);
        client.close("a").await.unwrap();
        eventually_equal("sessions", 0, async || grid.active().await).await;
        client.quit().await;
    }
}
