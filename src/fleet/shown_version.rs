//! The version of Playwright of a worker that does not tell it: one that stands in the configuration
//! without, or one of the original system. Its answer to a client of another version shows it. That it
//! takes a client shows nothing: there are servers that take all.

use super::{Fleet, Known, Target};
use crate::admission::line::Refused;
use crate::model::{Version, WorkerKey};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// For how long an answer stands at a worker without sessions. There may be another server at the same
/// address afterwards, and the next client's handshake shows anew.
const STANDS: Duration = Duration::from_secs(60);

/// What an answer of a worker showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShownVersion {
    version: Version,
    at: Instant,
}

impl Known {
    /// The worker's version of Playwright, as it tells it or has shown it.
    pub(super) fn version(&self) -> Option<Version> {
        let shown = self.shown_version.map(|shown| shown.version);
        self.record.version.or(shown)
    }
}

impl Fleet {
    /// A worker refused a client and said that it has this version. Those who wait and can be served by
    /// nobody, as that shows, have their answer.
    pub(super) fn version_shown(&self, target: &Arc<Target>, version: Version) {
        let mut is_news = false;
        self.change(target, |worker| {
            if worker.record.version.is_none() {
                is_news = worker.version() != Some(version);
                let at = Instant::now();
                worker.shown_version = Some(ShownVersion { version, at });
            }
            is_news
        });
        if is_news {
            let waiting = self.queue.waiting().into_iter().map(|(wanted, _)| wanted);
            for wanted in waiting.filter(|it| it.browser == target.key.browser) {
                if self.instead_of(&wanted).is_some() {
                    self.queue.refuse(&wanted, Refused::NeverServed);
                }
            }
        }
    }

    /// What was shown too long ago stands no more.
    pub(super) fn forget_shown_versions(&self) {
        let is_old = |worker: &mut Known| {
            let busy = worker.counts.active > 0;
            let Some(shown) = &mut worker.shown_version else {
                return false;
            };
            if busy {
                shown.at = Instant::now();
            }
            let old = shown.at.elapsed() > STANDS;
            if old {
                worker.shown_version = None;
            }
            old
        };
        let changed: Vec<WorkerKey> = {
            let mut table = self.table.lock();
            let old = table
                .iter_mut()
                .filter_map(|(key, worker)| is_old(worker).then_some(key));
            old.cloned().collect()
        };
        for key in changed {
            self.publish(&key);
        }
    }
}
