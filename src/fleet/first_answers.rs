//! Sessions whose first messages have no answer: their worker is asked to look at its browser. It may
//! find it well, a page may be slow; a check costs little.

use super::Fleet;
use std::sync::Arc;
use std::time::Duration;

/// Between two checks of the sessions; also how often one worker is asked at most.
const INTERVAL: Duration = Duration::from_secs(2);
/// A browser that is well answers the first messages sooner, but for pages that are slow.
const UNANSWERED: Duration = Duration::from_secs(2);
/// A session this old waits for its page more likely than for its browser.
const FIRST: Duration = Duration::from_secs(60);

impl Fleet {
    /// Runs until it is dropped.
    pub(super) async fn watch_first_answers(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let suspects = self.registry.workers_where(|session| {
                let traffic = &session.traffic;
                let waits = traffic.unanswered().is_some_and(|time| time > UNANSWERED);
                waits && traffic.age() < FIRST
            });
            for worker in suspects {
                // Those of the original know no such question, nor do those of the configuration.
                let asks = |known: &super::Known| !known.fixed() && known.record.version.is_some();
                if !self.table.lock().get(&worker).is_some_and(asks) {
                    continue;
                }
                log::debug!(worker:% = worker; "a session has no answer, asking its worker to look");
                if let Err(error) = self.store.suspect(&worker).await {
                    log::debug!(error:% = error; "the worker could not be asked");
                }
            }
        }
    }
}
