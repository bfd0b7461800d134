//! What is done in the background while Redis answers: a proxy's sign of life, the outbox, reaping,
//! comparing leases, looking for workers that registered by hand, and mending counters that were disturbed. Errors end here: one that
//! matters has ended the connection, and the keeper says so.

use super::Inner;
use super::keeper::{BATCH, leases, millis};
use super::keys;
use super::link::{Live, WRONG_TYPE};
use crate::model::WorkerKey;
use crate::store::Event;
use redis::{RedisResult, Script};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

/// The longest between two signs of life, and with it between a death and its discovery.
const MAX_BEAT: Duration = Duration::from_secs(1);
const MIN_BEAT: Duration = Duration::from_millis(20);
/// Looking through all names may take one part of Redis' time in so many and one.
const SCAN_SHARE: u32 = 4;
/// Keys that are none of ours and were said to be, at most.
const MAX_STRAYS: usize = 1000;

/// Tells Redis of what could not be told at once, whenever there is something.
pub async fn deliver(inner: Arc<Inner>) {
    loop {
        inner.outbox.notified().await;
        let Some(mut live) = inner.link.live() else {
            // The keeper wakes this task when the next connection is live.
            continue;
        };
        if let Err(error) = inner.flush(&mut live).await {
            failed(&inner, &live, "outbox", &error);
        }
    }
}

/// A proxy's sign of life. Nothing else is done on the way of it.
pub async fn beat(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval((inner.proxy_ttl / 4).clamp(MIN_BEAT, MAX_BEAT));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(mut live) = inner.link.live() else {
            continue;
        };
        let mut beat = inner.scripts.beat.key(&inner.identity_key);
        beat.arg(&inner.proxy)
            .arg(live.epoch)
            .arg(millis(inner.proxy_ttl))
            .arg(inner.ledger().revision());
        let sent = Instant::now();
        let told: RedisResult<(usize, u8, i64, u64)> =
            beat.invoke_async(&mut live.connection).await;
        match told {
            Ok((proxies, due, showed, revision)) => {
                inner
                    .clock
                    .observe(sent.into_std(), Instant::now().into_std(), showed);
                inner.presence().heard(sent);
                inner.counted_proxies(proxies);
                if due == 1 {
                    inner.reaping.notify_one();
                }
                // What was said before this answer has come before it.
                if inner.revisions().misses(revision) {
                    inner.missed.notify_one();
                }
            }
            Err(error) => failed(&inner, &live, "beat", &error),
        }
    }
}

/// Notes that `what` failed, and has the connection and damaged keys looked after.
pub fn failed(inner: &Inner, live: &Live, what: &str, error: &redis::RedisError) {
    if error.code() == Some(WRONG_TYPE) {
        inner.link.damaged.notify_one();
    }
    let error = inner.link.failed(live.epoch, error);
    log::debug!(what, error:%; "store upkeep failed");
}

/// Gives back what the dead left behind, whenever a sign of life found that there is something.
pub async fn reap_when_due(inner: Arc<Inner>) {
    loop {
        inner.reaping.notified().await;
        if let Some(mut live) = inner.link.live()
            && let Err(error) = reap(&inner, &mut live).await
        {
            failed(&inner, &live, "reaping", &error);
        }
    }
}

/// Gives back what dead proxies held and removes dead workers, until there is no more to do.
/// Whether anybody may be judged yet is known in Redis.
pub async fn reap(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    loop {
        let mut reap = inner.scripts.reap.key(&inner.identity_key);
        reap.arg(&inner.proxy).arg(live.epoch).arg(BATCH);
        let (seats, workers, more): (u32, u32, u8) =
            reap.invoke_async(&mut live.connection).await?;
        if seats > 0 {
            log::warn!(seats; "gave back the seats of a proxy that is gone");
        }
        if workers > 0 {
            log::info!(workers; "dropped workers whose record expired");
        }
        if more == 0 {
            return Ok(());
        }
    }
}

/// Looks up whether an order to recycle that was announced is there, and passes it on if so. When
/// that fails, the worker's next heartbeat finds it.
pub async fn look_up_orders(inner: Arc<Inner>, mut announced: mpsc::Receiver<WorkerKey>) {
    while let Some(worker) = announced.recv().await {
        let key = &inner.keys.command(&worker);
        let there = inner.link.call(|mut live| async move {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(key).query_async(&mut live.connection).await
        });
        if matches!(there.await, Ok(1u8)) {
            inner.emit(Event::Recycle(worker));
        }
    }
}

/// The slow rounds: what repairs whatever else was missed.
pub async fn rounds(inner: Arc<Inner>) {
    let mut round = Round::default();
    // The first one shows who is there: it does not wait for the next tick.
    inner.link.until_live().await;
    let mut ticks = tokio::time::interval(inner.poll_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(mut live) = inner.link.live()
            && let Err(error) = round.run(&inner, &mut live).await
        {
            failed(&inner, &live, "round", &error);
        }
    }
}

/// What one round remembers for the next.
#[derive(Default)]
struct Round {
    /// Seats that had no lease.
    unleased: HashSet<(String, String)>,
    /// Keys that were said to be none of ours.
    strays: HashSet<String>,
    /// How long the last look at all keys took.
    took: Duration,
}

impl Round {
    async fn run(&mut self, inner: &Inner, live: &mut Live) -> RedisResult<()> {
        let leases = leases(inner, live).await?;
        inner.ledger().compare(&leases, false);
        inner.flush(live).await?;

        // In a database that holds much else, looking through all names takes its time.
        let pause = inner.poll_interval.max(self.took * SCAN_SHARE);
        let taken: Option<String> = redis::cmd("SET")
            .arg(inner.keys.name(keys::SCAN))
            .arg(&inner.proxy)
            .arg("NX")
            .arg("PX")
            .arg(millis(pause))
            .query_async(&mut live.connection)
            .await?;
        if taken.is_some() {
            let began = Instant::now();
            // First: whatever else is wrong must not keep counters from being mended.
            self.sweep(inner, live).await?;
            self.discover(inner, live).await?;
            inner.announce_differences(live).await?;
            self.took = began.elapsed();
            let pause = self.took * SCAN_SHARE;
            if pause > inner.poll_interval {
                let mut taken = redis::cmd("SET");
                taken.arg(inner.keys.name(keys::SCAN)).arg(&inner.proxy);
                let taken = taken.arg("PX").arg(millis(pause));
                let _: redis::Value = taken.query_async(&mut live.connection).await?;
            }
        }
        Ok(())
    }

    /// Finds workers that wrote their record by themselves.
    async fn discover(&mut self, inner: &Inner, live: &mut Live) -> RedisResult<()> {
        let mut cursor = 0u64;
        loop {
            let started = Instant::now();
            let (next, names): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(inner.keys.records())
                .arg("COUNT")
                .arg(1000)
                .query_async(&mut live.connection)
                .await?;
            let workers = names.iter().filter_map(|name| inner.keys.worker_of(name));
            let workers: Vec<WorkerKey> = workers.collect();
            for answer in each(inner, &inner.scripts.discover, &workers, live).await? {
                self.log_foreign_keys(answer.into_iter().skip(1));
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
            // Others want to use Redis too.
            tokio::time::sleep(started.elapsed() * SCAN_SHARE).await;
        }
    }

    fn log_foreign_keys(&mut self, names: impl Iterator<Item = String>) {
        for key in names {
            if self.strays.len() < MAX_STRAYS && self.strays.insert(key.clone()) {
                log::warn!(key; "a key has the name of a worker and is none; it is left alone");
            }
        }
    }

    /// Mends counters and indexes, of which the leases are the truth.
    async fn sweep(&mut self, inner: &Inner, live: &mut Live) -> RedisResult<()> {
        reseat(inner, live).await?;
        let mut counted = HashSet::new();
        for hash in [keys::ACTIVE, keys::LIFETIME] {
            let fields: Vec<String> = redis::cmd("HKEYS")
                .arg(inner.keys.name(hash))
                .query_async(&mut live.connection)
                .await?;
            counted.extend(fields.iter().filter_map(|field| field.parse().ok()));
        }
        let counted: Vec<WorkerKey> = counted.into_iter().collect();
        let (mut mended, mut unleased) = (0, HashSet::new());
        for answer in each(inner, &inner.scripts.sweep, &counted, live).await? {
            if let Some((number, seats)) = answer.split_first() {
                mended += number.parse().unwrap_or(0);
                let seats = seats.chunks_exact(2);
                unleased.extend(seats.map(|seat| (seat[0].clone(), seat[1].clone())));
            }
        }
        let again: Vec<_> = unleased.intersection(&self.unleased).collect();
        for batch in again.chunks(BATCH) {
            let mut unseat = inner.scripts.unseat.prepare_invoke();
            for (worker, session) in batch {
                unseat.arg(worker).arg(session);
            }
            mended += unseat.invoke_async::<u32>(&mut live.connection).await?;
        }
        self.unleased = unleased;
        if mended > 0 {
            log::warn!(workers = mended; "mended counters that were not the sum of the leases");
        }
        Ok(())
    }
}

/// Under this name nobody's leases stand that are kept for those who may come back (`prelude.lua`).
const GHOSTS: &str = "ghosts";

/// Writes down seats that leases speak of, of all proxies, and of those that may come back.
async fn reseat(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    let mut proxies: Vec<String> = redis::cmd("SMEMBERS")
        .arg(inner.keys.name(keys::PROXIES))
        .query_async(&mut live.connection)
        .await?;
    proxies.push(GHOSTS.to_owned());
    for proxy in proxies {
        let leases = inner.keys.leases(&proxy);
        let sessions: Vec<String> = redis::cmd("HKEYS")
            .arg(&leases)
            .query_async(&mut live.connection)
            .await?;
        for batch in sessions.chunks(BATCH) {
            let mut reseat = inner.scripts.reseat.key(&leases);
            reseat.arg(&proxy).arg(batch);
            let missing: u32 = reseat.invoke_async(&mut live.connection).await?;
            if missing > 0 {
                log::warn!(seats = missing; "wrote down seats that were lost, from the leases");
            }
        }
    }
    Ok(())
}

/// Between two batches of a fleet of so many workers, of which one began then: others want to use Redis, and
/// this process its processor. A small fleet is looked through at once.
pub async fn rest(workers: usize, began: Instant) {
    if workers > BATCH * 5 {
        tokio::time::sleep(began.elapsed() * SCAN_SHARE).await;
    }
}

/// Runs a script that takes records and workers, batch by batch.
async fn each(
    inner: &Inner,
    script: &Script,
    workers: &[WorkerKey],
    live: &mut Live,
) -> RedisResult<Vec<Vec<String>>> {
    let mut answers = Vec::new();
    for batch in workers.chunks(BATCH) {
        let began = Instant::now();
        let mut call = script.prepare_invoke();
        for worker in batch {
            call.key(inner.keys.record(worker)).arg(worker.to_string());
        }
        answers.push(call.invoke_async(&mut live.connection).await?);
        rest(workers.len(), began).await;
    }
    Ok(answers)
}
