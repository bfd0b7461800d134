//! The register of workers in Redis: who is there, each one's signs of life, and what is asked of it.

use super::keeper::millis;
use super::link::Live;
use super::{Inner, RedisStore, keys, upkeep, wire};
use crate::model::{Counts, Heartbeat, RecycleReason, WorkerKey, WorkerRecord};
use crate::store::ledger::RegisteredWorker;
use crate::store::{Event, HeartbeatReply, StoreError, WorkerStore, WorkerView};
use async_trait::async_trait;
use redis::{RedisResult, ScriptInvocation};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

#[async_trait]
impl WorkerStore for RedisStore {
    async fn fleet(&self) -> Result<Vec<WorkerView>, StoreError> {
        self.inner.fleet().await
    }

    async fn order_recycle(&self, worker: &WorkerKey, ttl: Duration) -> Result<(), StoreError> {
        let keys = &self.inner.keys;
        let mut call = self.inner.scripts.recycle.key(keys.record(worker));
        call.key(keys.command(worker)).arg(millis(ttl));
        self.inner.link.invoke::<u8>(&call).await.map(|_| ())
    }

    async fn order_recycle_with_permit(
        &self,
        worker: &WorkerKey,
        ttl: Duration,
        max_out: usize,
        turn: Duration,
    ) -> Result<bool, StoreError> {
        let keys = &self.inner.keys;
        let mut call = self
            .inner
            .scripts
            .recycle_with_permit
            .key(keys.record(worker));
        call.key(keys.command(worker))
            .key(keys.turns(worker.browser))
            .arg(worker.to_string())
            .arg(millis(ttl))
            .arg(max_out)
            .arg(millis(turn));
        self.inner.link.invoke(&call).await
    }

    async fn count_recycle(
        &self,
        worker: &WorkerKey,
        reason: RecycleReason,
    ) -> Result<(), StoreError> {
        let keys = &self.inner.keys;
        let mut call = self.inner.scripts.count_recycle.key(keys.record(worker));
        call.key(keys.name(keys::RECYCLES)).arg(reason.as_str());
        self.inner.link.invoke::<u8>(&call).await.map(|_| ())
    }

    async fn recycles(&self) -> Result<HashMap<RecycleReason, u64>, StoreError> {
        let name = self.inner.keys.name(keys::RECYCLES);
        let counts: HashMap<String, u64> = self
            .inner
            .link
            .send(redis::cmd("HGETALL").arg(name))
            .await?;
        let known = counts.into_iter();
        Ok(known
            .filter_map(|(reason, count)| Some((reason.parse().ok()?, count)))
            .collect())
    }

    async fn suspect(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        let channel = self.inner.keys.command(worker);
        let publish = redis::cmd("PUBLISH")
            .arg(channel)
            .arg(keys::CHECK)
            .to_owned();
        self.inner.link.send(&publish).await
    }

    async fn count_oom_kills(&self, kills: u64) -> Result<(), StoreError> {
        let name = self.inner.keys.name(keys::OOM_KILLS);
        let count = redis::cmd("INCRBY").arg(name).arg(kills).to_owned();
        self.inner.link.send(&count).await
    }

    async fn oom_kills(&self) -> Result<u64, StoreError> {
        let name = self.inner.keys.name(keys::OOM_KILLS);
        let kills: Option<u64> = self.inner.link.send(redis::cmd("GET").arg(name)).await?;
        Ok(kills.unwrap_or(0))
    }

    async fn register(&self, record: &WorkerRecord, ttl: Duration) -> Result<(), StoreError> {
        let expires = Instant::now() + ttl;
        let registration = &self.inner.ledger().register(record, expires);
        self.inner
            .link
            .call(|mut live| async move {
                // Listen before anybody can see the worker and order it to recycle.
                let channel = self.inner.keys.command(&registration.record.key);
                live.connection.subscribe(channel).await?;
                self.inner.write_registration(&mut live, registration).await
            })
            .await
    }

    async fn heartbeat(
        &self,
        worker: &WorkerKey,
        heartbeat: Heartbeat,
        ttl: Duration,
    ) -> Result<HeartbeatReply, StoreError> {
        let expires = Instant::now() + ttl;
        let ever_given = self.inner.ledger().heartbeat(worker, &heartbeat, expires);
        let keys = &self.inner.keys;
        let mut call = self.inner.scripts.heartbeat.key(keys.record(worker));
        call.key(keys.command(worker))
            .arg(worker.to_string())
            .arg(millis(ttl));
        for (name, value) in wire::heartbeat_fields(&heartbeat) {
            call.arg(name).arg(value);
        }
        call.arg(ever_given);
        let answer: Vec<u64> = self.inner.link.invoke(&call).await?;
        let &[order, active, lifetime, revision, ever_given] = answer.as_slice() else {
            return Ok(HeartbeatReply {
                unknown: true,
                ..HeartbeatReply::default()
            });
        };
        let counts = Counts {
            active: active as u32,
            lifetime: lifetime as u32,
            revision,
        };
        self.inner.hear_counts(worker, counts);
        self.inner
            .ledger()
            .was_ever_given(worker, ever_given as u32);
        Ok(HeartbeatReply {
            unknown: false,
            recycle: order > 0,
            counts,
        })
    }

    async fn deregister(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        let inner = &*self.inner;
        inner.ledger().deregister(worker);
        let _: u32 = inner.link.invoke(&inner.deregister_call(worker)).await?;
        inner.ledger().deregistered(worker);
        let channel = &inner.keys.command(worker);
        inner
            .link
            .call(|mut live| async move { live.connection.unsubscribe(channel).await })
            .await
    }

    async fn reap(&self) -> Result<(), StoreError> {
        let inner = &*self.inner;
        inner
            .link
            .call(|mut live| async move { upkeep::reap(inner, &mut live).await })
            .await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }
}

impl Inner {
    /// Writes the record of a worker, or writes it again.
    pub async fn write_registration(
        &self,
        live: &mut Live,
        registration: &RegisteredWorker,
    ) -> RedisResult<()> {
        let call = self.register_call(registration);
        let _: (u32, u32, u64) = call.invoke_async(&mut live.connection).await?;
        Ok(())
    }

    /// The call that writes the record of a worker, with what it remembers of its counters.
    pub fn register_call(&self, registration: &RegisteredWorker) -> ScriptInvocation<'_> {
        let worker = &registration.record.key;
        let mut call = self.scripts.register.key(self.keys.record(worker));
        let (ever_given, active) = (registration.ever_given, registration.active);
        let grid = self.grid().known.clone().unwrap_or_default();
        call.arg(worker.to_string())
            .arg(millis(registration.expires - Instant::now()))
            .arg(format!("{ever_given} {active} {grid}"));
        for (name, value) in wire::fields(&registration.record) {
            call.arg(name).arg(value);
        }
        call
    }

    /// The call that takes a worker off the books.
    pub fn deregister_call(&self, worker: &WorkerKey) -> ScriptInvocation<'_> {
        let mut call = self.scripts.deregister.key(self.keys.seats(worker));
        call.arg(worker.to_string());
        call
    }
}
