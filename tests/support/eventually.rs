//! Waiting for something to become true, with a deadline that only a broken product meets.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Generous: a loaded machine is not a failure.
const DEADLINE: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(20);

/// Probes until there is an answer, and gives it.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "never happened: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Probes until the value is the expected one. When it never is, tells the last one seen.
pub async fn eventually_equal<T: PartialEq + Debug>(
    what: &str,
    expected: T,
    mut probe: impl AsyncFnMut() -> T,
) {
    let start = Instant::now();
    loop {
        let seen = probe().await;
        if seen == expected {
            return;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "{what}: {expected:?} was expected, it stays {seen:?}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
