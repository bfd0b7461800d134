//! The right to warm a browser up while few enough of the whole grid do. The store knows who has one.

use crate::config::LiveConfig;
use crate::model::WorkerKey;
use crate::store::{Permit, PermitHolder, PermitPool, PermitStore};
use std::sync::Arc;
use std::time::Duration;

/// Between two questions for a permit.
const RETRY: Duration = Duration::from_millis(500);

/// A permit to warm up; given back when it is dropped, or when its time is over.
#[must_use = "dropping the permit gives it back"]
pub struct GridWarmUpPermit {
    store: Arc<dyn PermitStore>,
    worker: WorkerKey,
}

impl GridWarmUpPermit {
    /// Waits for one. There is none to be had where nothing bounds the warm-ups, or while the store
    /// is away: then the worker goes on by itself.
    pub async fn wait(
        store: Arc<dyn PermitStore>,
        worker: &WorkerKey,
        config: &LiveConfig,
    ) -> Option<GridWarmUpPermit> {
        loop {
            let config = config.load_full();
            let most = config.recycle.max_parallel_grid;
            // It starts, and is warmed up.
            let ttl = config.worker.start_timeout * 2;
            if most == 0 {
                return None;
            }
            let most = u32::try_from(most).unwrap_or(u32::MAX);
            match store.hold(permit(worker, 1, Some(most), ttl)).await {
                Ok(true) => {
                    let worker = worker.clone();
                    return Some(GridWarmUpPermit { store, worker });
                }
                Ok(false) => tokio::time::sleep(RETRY).await,
                Err(error) => {
                    log::debug!(worker:% = worker, error:% = error; "warming up unasked");
                    return None;
                }
            }
        }
    }
}

impl Drop for GridWarmUpPermit {
    fn drop(&mut self) {
        let (store, worker) = (self.store.clone(), self.worker.clone());
        tokio::spawn(async move { store.hold(permit(&worker, 0, None, RETRY)).await.ok() });
    }
}

/// One browser of this worker's that warms up, or none.
fn permit(worker: &WorkerKey, weight: u32, bound: Option<u32>, ttl: Duration) -> Permit<'_> {
    Permit {
        pool: PermitPool::WarmUps,
        holder: PermitHolder::Worker(worker),
        weight,
        bound,
        ttl,
        version: 0,
    }
}
