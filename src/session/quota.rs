//! Quotas of the whole grid: what this proxy tells the others of its tenants' sessions, and asks
//! before it takes one more. Counting is `admission::tokens`'s.

use crate::admission::tokens::{QuotaPermit, QuotaUsedUp, Quotas, TenantUsage};
use crate::store::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Between two times that everything is told again: a store that came back empty knows nothing.
const AGAIN: Duration = Duration::from_secs(2);

/// Whether the tenant, with this session, has no more in the whole grid than it may have. While the
/// store is away each proxy keeps to its own count.
pub async fn is_within(store: &dyn Store, permit: &QuotaPermit) -> Result<(), QuotaUsedUp> {
    let Some((used, max)) = permit.used() else {
        return Ok(());
    };
    match publish(store, &used, Some(max)).await {
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
pub async fn publish_changes(store: Arc<dyn Store>, quotas: Arc<Quotas>) {
    let mut again = interval(AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let all = tokio::select! {
            _ = again.tick() => true,
            () = quotas.given_back() => false,
        };
        for used in quotas.take_unpublished(all) {
            if let Err(error) = publish(&*store, &used, None).await {
                log::debug!(token = &*used.tenant, error:%; "others do not know of the quota");
                quotas.mark_unpublished(used.tenant);
            }
        }
    }
}

async fn publish(
    store: &dyn Store,
    used: &TenantUsage,
    max: Option<u32>,
) -> Result<bool, StoreError> {
    let count = store.use_quota(&used.tenant, used.sessions, used.version, max);
    count.await
}
