//! Quotas of the whole grid: what this proxy tells the others of its tenants' sessions, and asks
//! before it takes one more. Counting is `admission::tokens`'s.

use crate::admission::tokens::{QuotaShare, QuotaUsedUp, Quotas, Used};
use crate::store::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Between two times that everything is told again: a store that came back empty knows nothing.
const AGAIN: Duration = Duration::from_secs(2);

/// Whether the tenant, with this session, has no more in the whole grid than it may have. While the
/// store is away each proxy keeps to its own count.
pub async fn within(store: &dyn Store, share: &QuotaShare) -> Result<(), QuotaUsedUp> {
    let Some((used, max)) = share.used() else {
        return Ok(());
    };
    match tell_one(store, &used, Some(max)).await {
        Ok(false) => Err(QuotaUsedUp(max)),
        Ok(true) | Err(StoreError::Away(_)) => Ok(()),
        Err(error) => {
            log::warn!(token = &*used.tenant, error:%; "the quota is this proxy's only");
            Ok(())
        }
    }
}

/// Tells the others, through a store they share, whenever a tenant has given something back. Runs
/// until it is dropped.
pub async fn tell(store: Arc<dyn Store>, quotas: Arc<Quotas>) {
    let mut again = interval(AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let all = tokio::select! {
            _ = again.tick() => true,
            () = quotas.given_back() => false,
        };
        for used in quotas.news(all) {
            if let Err(error) = tell_one(&*store, &used, None).await {
                log::debug!(token = &*used.tenant, error:%; "others do not know of the quota");
                quotas.not_told(used.tenant);
            }
        }
    }
}

async fn tell_one(store: &dyn Store, used: &Used, max: Option<u32>) -> Result<bool, StoreError> {
    let count = store.use_quota(&used.tenant, used.sessions, used.version, max);
    count.await
}
