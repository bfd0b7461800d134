//! Permits in Redis: each pool is a hash of its holders, in which one script writes.

use super::RedisStore;
use super::keeper::millis;
use crate::store::{Permit, PermitHolder, PermitStore, StoreError};
use async_trait::async_trait;

#[async_trait]
impl PermitStore for RedisStore {
    async fn hold(&self, permit: Permit<'_>) -> Result<bool, StoreError> {
        let (holder, is_proxy) = match permit.holder {
            PermitHolder::Worker(worker) => (worker.to_string(), false),
            PermitHolder::ThisProxy => (self.inner.proxy.clone(), true),
        };
        let mut call = self
            .inner
            .scripts
            .hold
            .key(self.inner.keys.permits(permit.pool));
        call.arg(holder)
            .arg(u8::from(is_proxy))
            .arg(permit.version)
            .arg(permit.weight)
            .arg(permit.bound.map_or(-1, i64::from))
            .arg(millis(permit.ttl));
        self.inner.link.invoke(&call).await
    }
}
