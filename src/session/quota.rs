//! Quotas of the whole grid: what this proxy tells the others of its tenants' sessions, and asks
//! before it takes one more. Counting is `admission::tokens`'s.

use crate::admission::tokens::{QuotaPermit, QuotaUsedUp, Quotas, TenantUsage};
use crate::store::{Permit, PermitHolder, PermitPool, PermitStore, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// Between two times that everything is told again: a store that came back empty knows nothing.
const AGAIN: Duration = Duration::from_secs(2);
/// How long what this proxy has of a tenant stands without a word: long for a proxy that is cut off
/// from the store, and whose sessions go on. What a dead proxy had goes with that proxy.
const TTL: Duration = Duration::from_secs(60);

/// Whether the tenant, with this session, has no more in the whole grid than it may have. While the
/// store is away each proxy keeps to its own count.
pub async fn is_within(store: &dyn PermitStore, permit: &QuotaPermit) -> Result<(), QuotaUsedUp> {
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
pub async fn publish_changes(store: Arc<dyn PermitStore>, quotas: Arc<Quotas>) {
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
    store: &dyn PermitStore,
    used: &TenantUsage,
    bound: Option<u32>,
) -> Result<bool, StoreError> {
    let permit = Permit {
        pool: PermitPool::Sessions {
            tenant: &used.tenant,
        },
        holder: PermitHolder::ThisProxy,
        weight: used.sessions,
        bound,
        ttl: TTL,
        version: used.version,
    };
    store.hold(permit).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::tokens::Identity;
    use async_trait::async_trait;

    /// A store that always gives the same answer.
    struct Says(Result<bool, StoreError>);

    #[async_trait]
    impl PermitStore for Says {
        async fn hold(&self, permit: Permit<'_>) -> Result<bool, StoreError> {
            let used = (permit.pool, permit.weight, permit.bound);
            assert_eq!(used, (PermitPool::Sessions { tenant: "ci" }, 1, Some(2)));
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn only_others_that_are_known_use_a_quota_up() {
        let who = Identity {
            tenant: Arc::from("ci"),
            priority: 1,
            max_sessions: Some(2),
            seat: None,
            credential: None,
        };
        let permit = Quotas::new().take(&who).unwrap();
        let away = StoreError::Away("unplugged".to_owned());
        let refused = StoreError::Refused("out of memory".to_owned());
        for (answer, within) in [
            (Ok(true), Ok(())),
            (Ok(false), Err(QuotaUsedUp(2))),
            (Err(away), Ok(())),
            (Err(refused), Ok(())),
        ] {
            assert_eq!(is_within(&Says(answer), &permit).await, within);
        }
    }
}
