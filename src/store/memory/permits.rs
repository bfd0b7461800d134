//! Permits in memory.

use super::MemoryStore;
use crate::model::WorkerKey;
use crate::store::{Permit, PermitHolder, PermitPool, PermitStore, StoreError};
use async_trait::async_trait;
use std::collections::HashMap;
use tokio::time::Instant;

/// By pool, `None` being the warm-ups and `Some` a tenant's sessions: what each holder has. The holder
/// that is no worker is the one proxy.
#[derive(Default)]
pub struct Permits(HashMap<Option<String>, HashMap<Option<WorkerKey>, Held>>);

struct Held {
    version: u64,
    weight: u32,
    lapses: Instant,
}

impl Permits {
    fn hold(&mut self, permit: &Permit<'_>, now: Instant) -> bool {
        let pool = match permit.pool {
            PermitPool::WarmUps => None,
            PermitPool::Sessions { tenant } => Some(tenant.to_owned()),
        };
        let holder = match permit.holder {
            PermitHolder::Worker(worker) => Some(worker.clone()),
            PermitHolder::ThisProxy => None,
        };
        self.0.retain(|_, holders| {
            holders.retain(|_, held| held.lapses > now);
            !holders.is_empty()
        });
        let holders = self.0.entry(pool).or_default();
        let mut mine = Held {
            version: permit.version,
            weight: permit.weight,
            lapses: now + permit.ttl,
        };
        if let Some(known) = holders.get(&holder)
            && known.version > mine.version
        {
            (mine.version, mine.weight) = (known.version, known.weight);
        }
        let others = holders.iter().filter(|(of, _)| **of != holder);
        let others: u32 = others.map(|(_, held)| held.weight).sum();
        let within = permit
            .bound
            .is_none_or(|bound| mine.weight + others <= bound);
        if within {
            holders.insert(holder, mine);
        }
        within
    }
}

#[async_trait]
impl PermitStore for MemoryStore {
    async fn hold(&self, permit: Permit<'_>) -> Result<bool, StoreError> {
        Ok(self.state().permits.hold(&permit, Instant::now()))
    }
}
