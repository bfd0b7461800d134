//! The store's operations, as others call them: each is one script, and the ledger before and
//! after it.

use super::keeper::{BATCH, millis};
use super::link::Live;
use super::wire::{Heartbeat, LineAnswer};
use super::{Inner, MAX_CANDIDATES, RedisStore, keys, peers, upkeep, wire};
use crate::model::{
    Browser, Counts, RecycleReason, SessionId, Waiter, WorkerKey, WorkerRecord, WorkerStatus,
    unix_millis,
};
use crate::store::{
    Candidate, EnoughAnswers, Event, Granted, Grantee, HeartbeatReply, PeerAnswers, PeerHandler,
    Peers, PermitStore, Reserved, SeatStore, Served, StoreError, WorkerStore, WorkerView,
};
use async_trait::async_trait;
use redis::ScriptInvocation;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;

/// How long what proxies have of a tenant is kept without a word from any of them.
const QUOTA_TTL: Duration = Duration::from_secs(60);

/// How long a proxy's clients count as waiting at least since it last served a line: long enough for
/// one that asks twice in a second on a busy machine, short enough that one that froze holds up nobody.
const MIN_WAITS: Duration = Duration::from_secs(2);
/// The same where `store.proxy_ttl` is long, as a part of that.
const WAITS_SHARE: u32 = 4;

/// Makes good for a reservation whose future is dropped: what it may have taken is given back.
struct Asking<'a> {
    inner: &'a Inner,
    session: SessionId,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        // Does nothing for a reservation that came to an end.
        if self.inner.ledger().doubt(self.session) {
            self.inner.outbox.notify_one();
        }
    }
}

/// One worker as `fleet.lua` returns it.
type Row = (String, u32, u32, HashMap<String, String>);

#[async_trait]
impl SeatStore for RedisStore {
    async fn reserve(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError> {
        self.reserve_once(session, candidates).await
    }

    fn keeps_line(&self) -> bool {
        true
    }

    async fn serve_line(
        &self,
        browser: Browser,
        anew: bool,
        coming: &[Waiter],
        candidates: &[Candidate],
    ) -> Result<Served, StoreError> {
        let inner = &*self.inner;
        for waiter in coming {
            inner.ledger().wait(waiter.session);
        }
        let asked = Instant::now().into_std();
        let answer: LineAnswer = inner
            .link
            .script(|live| inner.line_call(live, browser, anew, coming, candidates))
            .await?;
        let heard = Instant::now().into_std();
        inner.clock.observe(asked, heard, answer.6);
        let mut served = wire::served(&answer)
            .ok_or_else(|| StoreError::Refused("an answer that makes no sense".to_owned()))?;
        if let Served::Line(line) = &mut served {
            line.granted.retain(|granted| inner.granted(granted));
        }
        Ok(served)
    }

    fn grant_with(&self, grantee: Grantee) {
        // The first one stays.
        self.inner.grantee.set(grantee).ok();
    }

    async fn release(&self, session: SessionId, refund: bool) -> Result<(), StoreError> {
        if !self.inner.ledger().release(session, refund) {
            return Ok(());
        }
        self.tell_release(session).await
    }

    fn adopt(&self, session: SessionId, worker: &WorkerKey) {
        self.inner.ledger().adopt(session, worker);
        self.inner.outbox.notify_one();
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        let counts: Vec<String> = self
            .inner
            .link
            .call(|mut live| async move {
                redis::cmd("HVALS")
                    .arg(self.inner.keys.name(keys::ACTIVE))
                    .query_async(&mut live.connection)
                    .await
            })
            .await?;
        // What is no number is mended by the next sweep.
        let counts = counts.iter().filter_map(|count| count.parse::<u64>().ok());
        Ok(counts.sum())
    }

    fn holds_seats_until(&self) -> Option<Instant> {
        let ttl = self.inner.proxy_ttl;
        self.inner.presence().holds_until(Instant::now(), ttl)
    }
}

#[async_trait]
impl WorkerStore for RedisStore {
    async fn fleet(&self) -> Result<Vec<WorkerView>, StoreError> {
        let names: Vec<String> = self
            .inner
            .link
            .script(|live| {
                let mut call = self
                    .inner
                    .scripts
                    .index
                    .key(self.inner.keys.name(keys::GRID));
                call.arg(&*live.grid);
                call
            })
            .await?;
        let workers: Vec<WorkerKey> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let mut fleet = Vec::with_capacity(workers.len());
        for batch in workers.chunks(BATCH) {
            let (revision, rows): (u64, Vec<Row>) = self
                .inner
                .link
                .script(|live| {
                    let mut call = self
                        .inner
                        .scripts
                        .fleet
                        .key(self.inner.keys.name(keys::GRID));
                    call.arg(&*live.grid);
                    for worker in batch {
                        call.key(self.inner.keys.record(worker))
                            .arg(worker.to_string());
                    }
                    call
                })
                .await?;
            fleet.extend(rows.into_iter().filter_map(|row| view(revision, row)));
        }
        self.inner.ledger().learn_all(&fleet);
        Ok(fleet)
    }

    async fn order_recycle(&self, worker: &WorkerKey, ttl: Duration) -> Result<(), StoreError> {
        let _: u8 = self
            .inner
            .link
            .script(|_| {
                let mut call = self
                    .inner
                    .scripts
                    .recycle
                    .key(self.inner.keys.record(worker));
                call.key(self.inner.keys.command(worker)).arg(millis(ttl));
                call
            })
            .await?;
        Ok(())
    }

    async fn count_recycle(
        &self,
        worker: &WorkerKey,
        reason: RecycleReason,
    ) -> Result<(), StoreError> {
        let _: u8 = self
            .inner
            .link
            .script(|_| {
                let mut call = self
                    .inner
                    .scripts
                    .count_recycle
                    .key(self.inner.keys.record(worker));
                call.key(self.inner.keys.name(keys::RECYCLES))
                    .arg(reason.as_str());
                call
            })
            .await?;
        Ok(())
    }

    async fn recycles(&self) -> Result<HashMap<RecycleReason, u64>, StoreError> {
        let counts: HashMap<String, u64> = self
            .inner
            .link
            .call(|mut live| async move {
                redis::cmd("HGETALL")
                    .arg(self.inner.keys.name(keys::RECYCLES))
                    .query_async(&mut live.connection)
                    .await
            })
            .await?;
        let known = counts.into_iter();
        Ok(known
            .filter_map(|(reason, count)| Some((reason.parse().ok()?, count)))
            .collect())
    }

    async fn suspect(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        let channel = &self.inner.keys.command(worker);
        self.inner
            .link
            .call(|mut live| async move {
                redis::cmd("PUBLISH")
                    .arg(channel)
                    .arg(keys::CHECK)
                    .exec_async(&mut live.connection)
                    .await
            })
            .await
    }

    async fn count_oom_kills(&self, kills: u64) -> Result<(), StoreError> {
        self.inner
            .link
            .call(|mut live| async move {
                redis::cmd("INCRBY")
                    .arg(self.inner.keys.name(keys::OOM_KILLS))
                    .arg(kills)
                    .exec_async(&mut live.connection)
                    .await
            })
            .await
    }

    async fn oom_kills(&self) -> Result<u64, StoreError> {
        let kills: Option<u64> = self
            .inner
            .link
            .call(|mut live| async move {
                redis::cmd("GET")
                    .arg(self.inner.keys.name(keys::OOM_KILLS))
                    .query_async(&mut live.connection)
                    .await
            })
            .await?;
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
                let call = self.inner.register_call(registration);
                let _: (u32, u32, u64) = call.invoke_async(&mut live.connection).await?;
                Ok(())
            })
            .await
    }

    async fn heartbeat(
        &self,
        worker: &WorkerKey,
        status: WorkerStatus,
        memory: Option<u64>,
        ttl: Duration,
    ) -> Result<HeartbeatReply, StoreError> {
        let beat = Heartbeat {
            status,
            memory,
            at: unix_millis(),
        };
        let expires = Instant::now() + ttl;
        let lifetime = self.inner.ledger().heartbeat(worker, &beat, expires);
        let answer: Vec<u64> = self
            .inner
            .link
            .script(|_| {
                let mut call = self
                    .inner
                    .scripts
                    .heartbeat
                    .key(self.inner.keys.record(worker));
                call.key(self.inner.keys.command(worker))
                    .arg(worker.to_string())
                    .arg(millis(ttl));
                for (name, value) in beat.fields() {
                    call.arg(name).arg(value);
                }
                call.arg(lifetime);
                call
            })
            .await?;
        let &[order, active, lifetime, revision] = answer.as_slice() else {
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
        self.inner.ledger().hear(worker, counts);
        Ok(HeartbeatReply {
            unknown: false,
            recycle: order > 0,
            counts,
        })
    }

    async fn deregister(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        self.inner.ledger().deregister(worker);
        let _: u32 = self
            .inner
            .link
            .script(|_| self.inner.deregister_call(worker))
            .await?;
        self.inner.ledger().deregistered(worker);
        let channel = &self.inner.keys.command(worker);
        self.inner
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

#[async_trait]
impl PermitStore for RedisStore {
    async fn order_recycle_in_turn(
        &self,
        worker: &WorkerKey,
        ttl: Duration,
        max_out: usize,
        turn: Duration,
    ) -> Result<bool, StoreError> {
        self.inner
            .link
            .script(|_| {
                let mut call = self
                    .inner
                    .scripts
                    .recycle_in_turn
                    .key(self.inner.keys.record(worker));
                call.key(self.inner.keys.command(worker))
                    .key(self.inner.keys.turns(worker.browser))
                    .arg(worker.to_string())
                    .arg(millis(ttl))
                    .arg(max_out)
                    .arg(millis(turn));
                call
            })
            .await
    }

    async fn take_warm_up(
        &self,
        worker: &WorkerKey,
        most: usize,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.inner
            .link
            .script(|_| {
                let mut call = self
                    .inner
                    .scripts
                    .take_warm_up
                    .key(self.inner.keys.name(keys::WARMING));
                call.arg(worker.to_string()).arg(most).arg(millis(ttl));
                call
            })
            .await
    }

    async fn end_warm_up(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        let worker = &worker.to_string();
        self.inner
            .link
            .call(|mut live| async move {
                redis::cmd("ZREM")
                    .arg(self.inner.keys.name(keys::WARMING))
                    .arg(worker)
                    .exec_async(&mut live.connection)
                    .await
            })
            .await
    }

    async fn use_quota(
        &self,
        tenant: &str,
        sessions: u32,
        version: u64,
        max: Option<u32>,
    ) -> Result<bool, StoreError> {
        self.inner
            .link
            .script(|_| {
                let mut call = self
                    .inner
                    .scripts
                    .use_quota
                    .key(self.inner.keys.quota(tenant));
                call.arg(&self.inner.proxy)
                    .arg(version)
                    .arg(sessions)
                    .arg(max.map_or(-1, i64::from))
                    .arg(millis(QUOTA_TTL));
                call
            })
            .await
    }
}

#[async_trait]
impl Peers for RedisStore {
    async fn shared_secret(&self) -> Result<[u8; 32], StoreError> {
        let mine: [u8; 32] = rand::random();
        let mine = &mine;
        let secret: Vec<u8> = self
            .inner
            .link
            .call(|mut live| async move {
                let key = self.inner.keys.name(keys::SECRET);
                // Whoever comes first makes it.
                redis::cmd("SETNX")
                    .arg(&key)
                    .arg(&mine[..])
                    .exec_async(&mut live.connection)
                    .await?;
                redis::cmd("GET")
                    .arg(&key)
                    .query_async(&mut live.connection)
                    .await
            })
            .await?;
        let nonsense = |_| StoreError::Refused("the grid's secret is none of ours".to_owned());
        secret.try_into().map_err(nonsense)
    }

    async fn use_once(&self, what: &str, ttl: Duration) -> Result<bool, StoreError> {
        let set: Option<String> = self
            .inner
            .link
            .call(|mut live| async move {
                redis::cmd("SET")
                    .arg(format!("{}{what}", self.inner.keys.name(keys::USED)))
                    .arg(1)
                    .arg("NX")
                    .arg("PX")
                    .arg(millis(ttl))
                    .query_async(&mut live.connection)
                    .await
            })
            .await?;
        Ok(set.is_some())
    }

    fn reachable(&self) -> bool {
        self.inner.reachable.load(Ordering::Relaxed)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn proxies(&self) -> usize {
        self.inner.presence().proxies()
    }

    async fn own_address(&self) -> Option<IpAddr> {
        let info: Result<String, StoreError> = self
            .inner
            .link
            .call(|mut live| async move {
                redis::cmd("CLIENT")
                    .arg("INFO")
                    .query_async(&mut live.connection)
                    .await
            })
            .await;
        let seen = wire::client_address(&info.ok()?);
        let own = self.inner.location.own_address().await;
        let advertised = wire::advertised(own, seen);
        match (advertised, seen) {
            (None, _) => log::warn!(
                "cannot know where proxies reach this worker: set worker.hostname (PRIVATE_HOSTNAME)"
            ),
            (Some(address), Some(seen)) if address != seen => log::warn!(
                address:%, seen_by_redis:% = seen;
                "something stands between this worker and Redis: where proxies do not reach it at this address, set worker.hostname (PRIVATE_HOSTNAME)"
            ),
            _ => {}
        }
        advertised
    }

    async fn query_peers(
        &self,
        question: &str,
        patience: Duration,
        enough: EnoughAnswers,
    ) -> Result<PeerAnswers, StoreError> {
        peers::query(&self.inner, question, patience, enough).await
    }

    fn serve_peers(&self, answerer: PeerHandler) {
        self.inner.peer_queries.serve_peers(answerer);
    }
}

impl RedisStore {
    /// This process' name among the proxies.
    #[cfg(test)]
    pub fn name(&self) -> &str {
        &self.inner.proxy
    }

    async fn reserve_once(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError> {
        let inner = &*self.inner;
        if !inner.ledger().begin(session) {
            self.tell_release(session).await?;
            inner.ledger().begin(session);
        }
        let _asking = Asking { inner, session };
        let candidates = &candidates[..candidates.len().min(MAX_CANDIDATES)];
        let answer: Vec<String> = inner
            .link
            .script(|live| {
                let mut call = inner.fenced(&inner.scripts.reserve, live.epoch);
                call.arg(session.to_string());
                for candidate in candidates {
                    call.key(self.inner.keys.record(&candidate.key))
                        .arg(candidate.key.to_string())
                        .arg(candidate.max_active)
                        .arg(candidate.max_lifetime.map_or(-1, i64::from));
                }
                call
            })
            .await?;
        let reserved = wire::reserved(&answer)
            .ok_or_else(|| StoreError::Refused("an answer that makes no sense".to_owned()))?;
        let mut ledger = inner.ledger();
        let Reserved::Seat { worker, counts } = &reserved else {
            ledger.unseated(session);
            return Ok(reserved);
        };
        ledger.hear(worker, *counts);
        if !ledger.seated(session, worker) {
            // Released while it was being reserved, by somebody who did not wait.
            inner.outbox.notify_one();
            return Ok(Reserved::Gone);
        }
        Ok(reserved)
    }

    /// Tells Redis of a session that ended. The ledger keeps it until Redis has confirmed.
    async fn tell_release(&self, session: SessionId) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let refund = inner.ledger().refund(session);
        let _: u32 = inner
            .link
            .script(|_| inner.release_call(&[(session, refund)]))
            .await?;
        inner.ledger().released([session]);
        Ok(())
    }
}

impl Inner {
    /// A session that waited has a seat. Returns whether it still wants it.
    pub fn granted(&self, granted: &Granted) -> bool {
        let mut ledger = self.ledger();
        ledger.hear(&granted.worker, granted.counts);
        let wanted = ledger.seated(granted.session, &granted.worker);
        if !wanted {
            // Released meanwhile, by somebody who did not wait.
            self.outbox.notify_one();
        }
        wanted
    }

    fn line_call(
        &self,
        live: &Live,
        browser: Browser,
        anew: bool,
        coming: &[Waiter],
        candidates: &[Candidate],
    ) -> ScriptInvocation<'_> {
        let mut call = self.fenced(&self.scripts.line, live.epoch);
        call.key(self.keys.waiting(&self.proxy))
            .arg(browser.as_str())
            .arg(u8::from(anew))
            .arg(millis(MIN_WAITS.max(self.proxy_ttl / WAITS_SHARE)))
            .arg(coming.len());
        for waiter in coming {
            let came = self.clock.at(waiter.came);
            let offered: String = waiter.offered.iter().map(|it| format!("{it}\n")).collect();
            call.arg(waiter.session.to_string())
                .arg(&*waiter.tenant)
                .arg(waiter.priority)
                .arg(wire::wanted(waiter))
                .arg(waiter.came.elapsed().as_micros() as u64)
                .arg(came.map_or(String::new(), |it| it.to_string()))
                .arg(waiter.left.as_millis() as u64)
                .arg(waiter.place.map_or(String::new(), |it| it.to_string()))
                .arg(offered);
        }
        for candidate in candidates.iter().take(MAX_CANDIDATES) {
            call.key(self.keys.record(&candidate.key))
                .arg(candidate.key.to_string())
                .arg(candidate.max_active)
                .arg(candidate.max_lifetime.map_or(-1, i64::from));
        }
        call
    }
}

fn view(revision: u64, (worker, active, lifetime, fields): Row) -> Option<WorkerView> {
    let Some(record) = wire::record(worker.parse().ok()?, &fields) else {
        log::debug!(worker = worker.as_str(); "a worker's record makes no sense");
        return None;
    };
    let counts = Counts {
        active,
        lifetime,
        revision,
    };
    Some(WorkerView { record, counts })
}
