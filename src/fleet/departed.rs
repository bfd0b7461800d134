//! What the fleet had a moment ago. A worker that recycles, or whose browser has crashed, is off the books
//! until it is warm again: who can only be served there waits for it like for a seat. Pure: it is handed
//! the time.

use crate::model::{Browser, Pool, SeatKind, Version, WorkerRecord, WorkerStatus};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// A worker that has not come back by then is taken for gone. Longer than a start with the longest pause
/// before it takes on a machine that is not busy.
const RETURN_TIME: Duration = Duration::from_secs(60);

/// The pools that workers have left, and until when one of them may come back.
#[derive(Debug, Default)]
pub(super) struct Departed(HashMap<Pool, Instant>);

impl Departed {
    /// A worker of this pool has left the books.
    pub(super) fn left(&mut self, record: &WorkerRecord, pool: Pool, now: Instant) {
        self.0.retain(|_, until| now < *until);
        if may_return(record) {
            self.0.insert(pool, now + RETURN_TIME);
        }
    }

    /// Whether somebody who may come back would serve this.
    pub(super) fn serves(&self, wanted: &Pool, now: Instant) -> bool {
        self.pools(now).any(|pool| wanted.accepts(pool))
    }

    /// The versions of those who may come back; `None` stands for one that did not tell.
    pub(super) fn versions(
        &self,
        browser: Browser,
        seat: SeatKind,
        now: Instant,
    ) -> impl Iterator<Item = Option<Version>> {
        let alike = move |pool: &&Pool| pool.browser == browser && pool.seat == seat;
        self.pools(now).filter(alike).map(|pool| pool.version)
    }

    fn pools(&self, now: Instant) -> impl Iterator<Item = &Pool> {
        let there = self.0.iter().filter(move |(_, until)| now < **until);
        there.map(|(pool, _)| pool)
    }
}

/// Whether a worker with this last record comes back, as far as that can be told. One that replaces its
/// browser first and drained to its end has been told to go, unless its browser was not fit to go on.
/// Others drain, end and start over. What stands in a configuration was taken out of it.
fn may_return(record: &WorkerRecord) -> bool {
    let was_told_to_go = record.replaces_itself
        && record.status != WorkerStatus::Available
        && record.end_reason.is_none();
    !record.fixed && !was_told_to_go
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WorkerKey;

    fn record() -> WorkerRecord {
        let key = WorkerKey::new(Browser::Chromium, "w");
        let endpoint = "ws://10.0.0.1:3131/path".parse().unwrap();
        WorkerRecord {
            replaces_itself: true,
            ..WorkerRecord::new(key, endpoint, 0)
        }
    }

    fn wanted(minor: u16) -> Pool {
        Pool {
            browser: Browser::Chromium,
            version: Some(Version { major: 1, minor }),
            seat: SeatKind::Shared,
        }
    }

    fn returns(record: &WorkerRecord) -> bool {
        let now = Instant::now();
        let mut departed = Departed::default();
        departed.left(record, wanted(65), now);
        departed.serves(&wanted(65), now)
    }

    #[test]
    fn a_crash_and_a_recycle_are_not_the_end() {
        assert!(returns(&record()));
        let unfit = WorkerRecord {
            status: WorkerStatus::ShuttingDown,
            end_reason: Some("the browser does not answer".to_owned()),
            ..record()
        };
        assert!(returns(&unfit));
        let starts_over = WorkerRecord {
            status: WorkerStatus::Draining,
            replaces_itself: false,
            ..record()
        };
        assert!(returns(&starts_over));
    }

    #[test]
    fn who_was_told_to_go_is_gone() {
        let drained = WorkerRecord {
            status: WorkerStatus::Draining,
            ..record()
        };
        assert!(!returns(&drained));
        let taken_out = WorkerRecord {
            fixed: true,
            ..record()
        };
        assert!(!returns(&taken_out));
    }

    #[test]
    fn one_is_waited_for_by_those_whom_it_served_and_not_for_ever() {
        let now = Instant::now();
        let mut departed = Departed::default();
        departed.left(&record(), wanted(65), now);
        assert!(!departed.serves(&wanted(64), now));
        assert!(!departed.serves(&wanted(65), now + RETURN_TIME));
        let versions = |now| {
            departed
                .versions(Browser::Chromium, SeatKind::Shared, now)
                .count()
        };
        assert_eq!((versions(now), versions(now + RETURN_TIME)), (1, 0));
    }
}
