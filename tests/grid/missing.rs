//! A machine on which something is missing: the program names it and how to get it.

use crate::support::Grid;

#[tokio::test]
async fn up_names_what_is_missing_and_how_to_get_it() {
    for (name, value, needed) in [
        (
            "PLAYHOUSE_PLAYWRIGHT",
            "/nowhere/playwright-core",
            "/nowhere/playwright-core",
        ),
        (
            "PLAYHOUSE_BROWSER_PATH",
            "/nowhere/chromium",
            "/nowhere/chromium",
        ),
        ("BROWSER_TYPE", "webkit", "npx playwright install"),
    ] {
        let (status, log) = Grid::new().env(name, value).start_in_vain().await;
        assert!(!status.success(), "{name}: {log}");
        assert!(log.contains(needed), "{name}: {log}");
        assert!(!log.contains("panicked"), "{name}: {log}");
        assert!(log.lines().count() < 10, "{name}: {log}");
    }
}

#[tokio::test]
async fn a_broken_configuration_is_refused_before_anything_is_bound() {
    let yaml = "queue: { timeout: 5 parsecs }\nwarkers: []";
    let (status, log) = Grid::new().config(yaml).start_in_vain().await;
    assert_eq!(status.code(), Some(78), "{log}");
    for told in [
        "playhouse.yaml:1",
        "queue.timeout",
        "playhouse.yaml:2",
        "warkers",
    ] {
        assert!(log.contains(told), "{told} is not named: {log}");
    }
}
