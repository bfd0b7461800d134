//! The seat of a session: a guard whose drop is the only release.
//!
//! Giving back is never on the way of the next session: a dropped [`Seat`] puts a line on the
//! [`Releaser`]'s list, and its task tells the store. Only a store of this process, which answers
//! at once, is told on the spot: that costs less than to wake the task. The store knows seats by
//! session, and remembers a release that it could not make: telling it twice, or of a seat that was
//! never taken, changes nothing.

use crate::model::{Browser, SessionId, WorkerKey};
use crate::store::Store;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use tokio::sync::{mpsc, watch};

/// Releases that the store is told at the same time: one after the other, the way to a distant
/// store and back would bound how many sessions may end in a second.
const MAX_CONCURRENT: usize = 64;

struct Release {
    session: SessionId,
    worker: Option<WorkerKey>,
    refund: bool,
}

type Observer = Box<dyn Fn(&WorkerKey) + Send + Sync>;

/// Where seats are given back. Cloning it gives another handle to the same list.
#[derive(Clone)]
pub struct Releaser {
    list: mpsc::UnboundedSender<Release>,
    handler: Arc<ReleaseHandler>,
    /// Seats that this process holds on each worker.
    held: Arc<Mutex<HashMap<WorkerKey, u32>>>,
    pending: watch::Sender<usize>,
}

/// Who is told of a release, in this order.
struct ReleaseHandler {
    store: Arc<dyn Store>,
    /// Hears first of a seat that came free.
    observer: OnceLock<Observer>,
    on_released: Box<dyn Fn(Browser) + Send + Sync>,
}

impl ReleaseHandler {
    async fn handle(&self, release: &Release) {
        if let Err(error) = self.store.release(release.session, release.refund).await {
            log::debug!(session:% = release.session, error:% = error;
                "the store will hear of the release later");
        }
        if let Some(worker) = &release.worker {
            if let Some(observer) = self.observer.get() {
                observer(worker);
            }
            (self.on_released)(worker.browser);
        }
    }

    /// Whether that could be done without waiting.
    fn handle_at_once(&self, release: &Release) -> bool {
        if self.store.is_shared() {
            return false;
        }
        let handling = std::pin::pin!(self.handle(release));
        let handled = handling.poll(&mut Context::from_waker(Waker::noop()));
        handled == Poll::Ready(())
    }
}

impl Releaser {
    /// The handle, and the work to spawn: it ends when all handles and seats are gone and every
    /// release is told. `on_released` is called after each, with the browser whose seat came free. The
    /// list is bounded by the number of sessions there were.
    pub fn new(
        store: Arc<dyn Store>,
        on_released: impl Fn(Browser) + Send + Sync + 'static,
    ) -> (Releaser, impl Future<Output = ()> + Send) {
        let (list, mut work) = mpsc::unbounded_channel::<Release>();
        let handler = Arc::new(ReleaseHandler {
            store,
            observer: OnceLock::new(),
            on_released: Box::new(on_released),
        });
        let releaser = Releaser {
            list,
            handler: handler.clone(),
            held: Arc::default(),
            pending: watch::Sender::new(0),
        };
        let pending = releaser.pending.clone();
        let releases = futures_util::stream::poll_fn(move |cx| work.poll_recv(cx));
        let run = releases.for_each_concurrent(MAX_CONCURRENT, move |release| {
            let (handler, pending) = (handler.clone(), pending.clone());
            async move {
                handler.handle(&release).await;
                pending.send_modify(|pending| *pending -= 1);
            }
        });
        (releaser, run)
    }

    /// Tells `observer` of every seat that was given back, before anybody is woken for it. The first
    /// one stays.
    pub fn observe(&self, observer: impl Fn(&WorkerKey) + Send + Sync + 'static) {
        self.handler.observer.set(Box::new(observer)).ok();
    }

    /// A seat for `session`, to be held from before the reservation is asked for: should the
    /// asking be cut off half-way, the drop still gives back what may have been taken.
    pub fn seat(&self, session: SessionId) -> Seat {
        Seat {
            session,
            worker: None,
            reached: false,
            releaser: self.clone(),
        }
    }

    /// Waits until the store was told of every seat that was dropped so far.
    pub async fn idle(&self) {
        let mut pending = self.pending.subscribe();
        // The sender is ours: it cannot be gone.
        pending.wait_for(|pending| *pending == 0).await.ok();
    }

    /// Seats that this process holds on a worker.
    pub fn held(&self, worker: &WorkerKey) -> u32 {
        self.held_seats().get(worker).copied().unwrap_or(0)
    }

    fn held_seats(&self) -> MutexGuard<'_, HashMap<WorkerKey, u32>> {
        self.held
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
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
        debug_assert!(self.worker.is_none(), "a session has one seat");
        *self
            .releaser
            .held_seats()
            .entry(worker.clone())
            .or_default() += 1;
        self.worker = Some(worker);
    }

    /// The session reached its worker: the lifetime count stands, whatever happens.
    pub fn reached(&mut self) {
        self.reached = true;
    }

    /// The session that the seat is for.
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
        if let Some(worker) = &self.worker {
            let mut held = self.releaser.held_seats();
            if let Some(seats) = held.get_mut(worker) {
                *seats -= 1;
                if *seats == 0 {
                    held.remove(worker);
                }
            }
        }
        let release = Release {
            session: self.session,
            worker: self.worker.take(),
            refund: !self.reached,
        };
        if self.releaser.handler.handle_at_once(&release) {
            return;
        }
        self.releaser.pending.send_modify(|pending| *pending += 1);
        // Fails only when the releaser's task is gone, which is when the process ends.
        self.releaser.list.send(release).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Browser, WorkerRecord};
    use crate::store::memory::MemoryStore;
    use crate::store::{Candidate, Reserved, SeatStore, WorkerStore};
    use std::time::Duration;

    async fn store_with_one_worker() -> (Arc<MemoryStore>, WorkerKey) {
        let store = Arc::new(MemoryStore::new());
        let key = WorkerKey::new(Browser::Chromium, "w");
        let record = WorkerRecord::new(key.clone(), "ws://127.0.0.1:1/".parse().unwrap(), 0);
        store
            .register(&record, Duration::from_secs(60))
            .await
            .unwrap();
        (store, key)
    }

    async fn take(store: &MemoryStore, seat: &mut Seat, key: &WorkerKey) {
        let candidate = Candidate {
            key: key.clone(),
            max_concurrent_sessions: 5,
            lifetime_cap: None,
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
        let (releaser, work) = Releaser::new(store.clone(), |_| {});
        let work = tokio::spawn(work);
        let mut served = releaser.seat(SessionId::random());
        let mut undialled = releaser.seat(SessionId::random());
        let unasked = releaser.seat(SessionId::random());
        take(&store, &mut served, &key).await;
        take(&store, &mut undialled, &key).await;
        served.reached();
        assert_eq!(counts(&store).await, (2, 2));
        assert_eq!(releaser.held(&key), 2);
        drop((served, undialled, unasked, releaser));
        work.await.unwrap();
        assert_eq!(counts(&store).await, (0, 1));
    }
}
