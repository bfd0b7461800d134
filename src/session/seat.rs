//! The seat of a session: a guard whose drop is the only release.
//!
//! Giving back is never on the way of the next session: a dropped [`Seat`] puts a line on the
//! [`Releaser`]'s list, and its task tells the store, again and again if need be. The store knows
//! seats by session, so telling it twice, or of a seat that was never taken, changes nothing.

use crate::model::{SessionId, WorkerKey};
use crate::store::{Store, StoreError};
use backon::{BackoffBuilder, ExponentialBuilder};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// First pause before a failed release is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Releases under way at once: enough to hide a round trip, few enough not to flood a store that
/// has just come back.
const PARALLEL_RELEASES: usize = 64;

struct Release {
    session: SessionId,
    refund: bool,
}

/// Where seats are given back. Cloning it gives another handle to the same list.
#[derive(Clone)]
pub struct Releaser {
    list: mpsc::UnboundedSender<Release>,
    held: Arc<Mutex<HashSet<SessionId>>>,
    pending: watch::Sender<usize>,
}

impl Releaser {
    /// The handle, and the work to spawn: it ends when all handles and seats are gone and every
    /// release is done. The list is bounded by the number of sessions there were.
    pub fn new(store: Arc<dyn Store>) -> (Releaser, impl Future<Output = ()> + Send) {
        let (list, work) = mpsc::unbounded_channel();
        let releaser = Releaser {
            list,
            held: Arc::default(),
            pending: watch::Sender::new(0),
        };
        let pending = releaser.pending.clone();
        (releaser, run(store, work, pending))
    }

    /// A seat for `session`, to be held from before the reservation is asked for: should the
    /// asking be cut off half-way, the drop still gives back what may have been taken.
    pub fn seat(&self, session: SessionId) -> Seat {
        self.held().insert(session);
        Seat {
            session,
            worker: None,
            reached: false,
            releaser: self.clone(),
        }
    }

    /// Waits until every seat that was dropped so far is given back.
    pub async fn idle(&self) {
        let mut pending = self.pending.subscribe();
        // The sender is ours: it cannot be gone.
        pending.wait_for(|pending| *pending == 0).await.ok();
    }

    /// Whether this session holds, or is about to hold, a seat through this proxy.
    pub fn holds(&self, session: SessionId) -> bool {
        self.held().contains(&session)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashSet<SessionId>> {
        self.held
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

async fn run(
    store: Arc<dyn Store>,
    mut list: mpsc::UnboundedReceiver<Release>,
    pending: watch::Sender<usize>,
) {
    let slots = Arc::new(tokio::sync::Semaphore::new(PARALLEL_RELEASES));
    while let Some(release) = list.recv().await {
        // The usual case, and for the memory store the only one: done at the first try.
        if tell(&*store, &release).await.is_ok() {
            pending.send_modify(|pending| *pending -= 1);
            continue;
        }
        let permit = slots.clone().acquire_owned().await.expect("never closed");
        let (store, pending) = (store.clone(), pending.clone());
        tokio::spawn(async move {
            let mut pauses = ExponentialBuilder::default()
                .with_min_delay(RETRY_MIN)
                .with_max_delay(RETRY_MAX)
                .with_jitter()
                .without_max_times()
                .build();
            loop {
                tokio::time::sleep(pauses.next().unwrap_or(RETRY_MAX)).await;
                if tell(&*store, &release).await.is_ok() {
                    pending.send_modify(|pending| *pending -= 1);
                    drop(permit);
                    return;
                }
            }
        });
    }
    // Every permit back means every retry done.
    slots.acquire_many(PARALLEL_RELEASES as u32).await.ok();
}

async fn tell(store: &dyn Store, release: &Release) -> Result<(), StoreError> {
    store.release(release.session, release.refund).await
}

/// A session's seat on a worker, or, before [`Seat::taken`], the intention to take one.
#[must_use = "dropping a seat gives it back"]
pub struct Seat {
    session: SessionId,
    worker: Option<WorkerKey>,
    reached: bool,
    releaser: Releaser,
}

impl Seat {
    /// The store gave this session a seat on `worker`.
    pub fn taken(&mut self, worker: WorkerKey) {
        self.worker = Some(worker);
    }

    /// The session reached its worker: the lifetime count stands, whatever happens now.
    pub fn reached(&mut self) {
        self.reached = true;
    }

    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The worker, once there is one.
    pub fn worker(&self) -> Option<&WorkerKey> {
        self.worker.as_ref()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.releaser.held().remove(&self.session);
        let release = Release {
            session: self.session,
            refund: !self.reached,
        };
        self.releaser.pending.send_modify(|pending| *pending += 1);
        // Fails only when the releaser's task is gone, which is when the process ends.
        self.releaser.list.send(release).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Browser, WorkerRecord, WorkerStatus};
    use crate::store::memory::MemoryStore;
    use crate::store::{Candidate, Reserved};

    async fn store_with_one_worker() -> (Arc<MemoryStore>, WorkerKey) {
        let store = Arc::new(MemoryStore::new());
        let key = WorkerKey::new(Browser::Chromium, "w");
        let record = WorkerRecord {
            key: key.clone(),
            endpoint: "ws://127.0.0.1:1/".parse().unwrap(),
            status: WorkerStatus::Available,
            version: None,
            replaces_itself: false,
            started_at: 0,
            last_heartbeat: 0,
            memory: None,
        };
        store
            .register(&record, Duration::from_secs(60))
            .await
            .unwrap();
        (store, key)
    }

    async fn take(store: &MemoryStore, seat: &mut Seat, key: &WorkerKey) {
        let candidate = Candidate {
            key: key.clone(),
            max_active: 5,
            max_lifetime: None,
        };
        let reserved = store.reserve(seat.session(), &[candidate]).await.unwrap();
        let Reserved::Seat { worker, .. } = reserved else {
            panic!("no seat: {reserved:?}");
        };
        seat.taken(worker);
    }

    async fn counts(store: &MemoryStore) -> (u32, u32) {
        let counts = store.fleet().await.unwrap()[0].counts;
        (counts.active, counts.lifetime)
    }

    #[tokio::test]
    async fn a_dropped_seat_is_given_back_with_or_without_its_lifetime() {
        let (store, key) = store_with_one_worker().await;
        let (releaser, work) = Releaser::new(store.clone());
        let work = tokio::spawn(work);
        let mut served = releaser.seat(SessionId::random());
        let mut undialled = releaser.seat(SessionId::random());
        let unasked = releaser.seat(SessionId::random());
        take(&store, &mut served, &key).await;
        take(&store, &mut undialled, &key).await;
        served.reached();
        assert_eq!(counts(&store).await, (2, 2));
        drop((served, undialled, unasked, releaser));
        work.await.unwrap();
        assert_eq!(counts(&store).await, (0, 1));
    }
}
