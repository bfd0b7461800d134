//! A worker goes on while its store is away, and is on the books again when the store is back; a
//! browser that has to wait for the store waits.

use super::bench::{Bench, processes};
use super::support::{Kind, eventually, eventually_equal};
use async_trait::async_trait;
use playhouse::model::{
    Browser, Heartbeat, RecycleReason, SessionId, WorkerKey, WorkerRecord, WorkerStatus,
};
use playhouse::store::memory::MemoryStore;
use playhouse::store::{
    Candidate, Event, HeartbeatReply, Peers, Permit, PermitHolder, PermitPool, PermitStore,
    Reserved, SeatStore, StoreError, WorkerStore, WorkerView,
};
use playhouse::worker::Shutdown;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::broadcast;

/// A store that workers cannot reach while it is away. The tests always can.
#[derive(Default)]
struct Patchy {
    memory: MemoryStore,
    away: AtomicBool,
    /// Takes nobody whom it does not know, though it is there for the others.
    knows_all: AtomicBool,
    refused: AtomicUsize,
    /// How often a browser asked for a place to warm up.
    asked: AtomicUsize,
}

impl Patchy {
    fn reach(&self) -> Result<&MemoryStore, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Away("unplugged".to_owned()));
        }
        Ok(&self.memory)
    }

    fn plug(&self, there: bool) {
        self.away.store(!there, Ordering::SeqCst);
    }

    async fn refuses_a_few_times(&self) {
        let before = self.refused.load(Ordering::SeqCst);
        eventually("it has been asked in vain", async || {
            (self.refused.load(Ordering::SeqCst) > before + 3).then_some(())
        })
        .await;
    }
}

#[async_trait]
impl SeatStore for Patchy {
    async fn reserve(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError> {
        self.memory.reserve(session, candidates).await
    }

    async fn release(&self, session: SessionId, refund: bool) -> Result<(), StoreError> {
        self.memory.release(session, refund).await
    }

    fn adopt(&self, session: SessionId, worker: &WorkerKey) {
        self.memory.adopt(session, worker);
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        self.memory.active_sessions().await
    }
}

#[async_trait]
impl WorkerStore for Patchy {
    async fn fleet(&self) -> Result<Vec<WorkerView>, StoreError> {
        self.memory.fleet().await
    }

    async fn suspect(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        self.memory.suspect(worker).await
    }

    async fn count_oom_kills(&self, kills: u64) -> Result<(), StoreError> {
        self.memory.count_oom_kills(kills).await
    }

    async fn oom_kills(&self) -> Result<u64, StoreError> {
        self.memory.oom_kills().await
    }

    async fn order_recycle(&self, worker: &WorkerKey, ttl: Duration) -> Result<(), StoreError> {
        self.memory.order_recycle(worker, ttl).await
    }

    async fn order_recycle_with_permit(
        &self,
        worker: &WorkerKey,
        ttl: Duration,
        max_out: usize,
        turn: Duration,
    ) -> Result<bool, StoreError> {
        self.memory
            .order_recycle_with_permit(worker, ttl, max_out, turn)
            .await
    }

    async fn count_recycle(
        &self,
        worker: &WorkerKey,
        reason: RecycleReason,
    ) -> Result<(), StoreError> {
        self.reach()?.count_recycle(worker, reason).await
    }

    async fn recycles(&self) -> Result<HashMap<RecycleReason, u64>, StoreError> {
        self.memory.recycles().await
    }

    async fn register(&self, record: &WorkerRecord, ttl: Duration) -> Result<(), StoreError> {
        if self.knows_all.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(StoreError::Away("for newcomers".to_owned()));
        }
        self.reach()?.register(record, ttl).await
    }

    async fn heartbeat(
        &self,
        worker: &WorkerKey,
        heartbeat: Heartbeat,
        ttl: Duration,
    ) -> Result<HeartbeatReply, StoreError> {
        self.reach()?.heartbeat(worker, heartbeat, ttl).await
    }

    async fn deregister(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        self.reach()?.deregister(worker).await
    }

    async fn reap(&self) -> Result<(), StoreError> {
        self.memory.reap().await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.memory.events()
    }
}

#[async_trait]
impl PermitStore for Patchy {
    async fn hold(&self, permit: Permit<'_>) -> Result<bool, StoreError> {
        if permit.weight > 0 {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        self.reach()?.hold(permit).await
    }
}

#[async_trait]
impl Peers for Patchy {
    async fn shared_secret(&self) -> Result<[u8; 32], StoreError> {
        self.memory.shared_secret().await
    }

    async fn use_once(&self, what: &str, ttl: Duration) -> Result<bool, StoreError> {
        self.memory.use_once(what, ttl).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_carries_on_and_is_back_with_its_store() {
    let bench = Bench::start_with(Patchy::default(), |_| ()).await;
    let record = bench.available().await.record;
    let node = processes().of_kind(Kind::Node)[0].clone();

    bench.store.plug(false);
    bench.store.refuses_a_few_times().await;
    // It comes back without its data.
    bench.store.memory.deregister(&record.key).await.unwrap();
    bench.store.plug(true);
    let again = bench.available().await.record;
    assert_eq!((again.key, again.endpoint), (record.key, record.endpoint));
    assert!(node.exists(), "the same server all the time");
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_browser_serves_until_the_store_knows_the_new_one() {
    let bench = Bench::start_with(Patchy::default(), |_| ()).await;
    let old = bench.available().await.record.key;
    let minute = Duration::from_secs(60);
    bench.store.knows_all.store(true, Ordering::SeqCst);
    bench.store.order_recycle(&old, minute).await.unwrap();
    eventually_equal("both are up", 2, async || {
        processes().of_kind(Kind::Browser).len()
    })
    .await;
    bench.store.refuses_a_few_times().await;
    bench.store.plug(false);
    bench.store.refuses_a_few_times().await;
    assert_eq!(
        bench.in_status(WorkerStatus::Available).await,
        std::slice::from_ref(&old)
    );
    bench.store.plug(true);
    bench.store.knows_all.store(false, Ordering::SeqCst);
    bench.replaced(&old).await;
    bench.end(Shutdown::Drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_waits_for_its_place_in_the_grid_unless_the_store_is_away() {
    let store = Patchy::default();
    let other = WorkerKey::new(Browser::Firefox, "other");
    let minute = Duration::from_secs(60);
    let of_other = |weight| Permit {
        pool: PermitPool::WarmUps,
        holder: PermitHolder::Worker(&other),
        weight,
        bound: Some(1),
        ttl: minute,
        version: 0,
    };
    assert!(store.hold(of_other(1)).await.unwrap());
    let bench = Bench::start_with(store, |config| config.recycle.max_parallel_grid = 1).await;
    let waits = async || {
        let before = bench.store.asked.load(Ordering::SeqCst);
        eventually("it asks again and again", async || {
            (bench.store.asked.load(Ordering::SeqCst) > before + 2).then_some(())
        })
        .await;
    };
    waits().await;
    assert_eq!(processes().of_kind(Kind::Node).len(), 0);
    bench.store.hold(of_other(0)).await.unwrap();
    let first = bench.available().await.record.key;
    // Its place is free again.
    eventually("there is a place", async || {
        let place = bench.store.hold(of_other(1)).await;
        place.unwrap().then_some(())
    })
    .await;

    bench.store.order_recycle(&first, minute).await.unwrap();
    waits().await;
    assert_eq!(processes().of_kind(Kind::Node).len(), 1);
    bench.store.plug(false);
    eventually("a seat is worth more than the place", async || {
        (processes().of_kind(Kind::Node).len() == 2).then_some(())
    })
    .await;
    bench.store.plug(true);
    bench.replaced(&first).await;
    bench.end(Shutdown::Drain).await;
}
