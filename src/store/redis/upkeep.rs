//! What a proxy does in the background while Redis answers: its sign of life, the outbox, reaping,
//! comparing its leases, and looking for workers that registered by hand. Errors end here: one that
//! matters has ended the connection, and the keeper says so.

use super::Inner;
use super::keeper::{BATCH, leases, millis};
use super::keys;
use super::link::Live;
use super::scripts::SCRIPTS;
use crate::model::WorkerKey;
use redis::{RedisResult, Script};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// The longest between two signs of life, and with it between a death and its discovery.
const MAX_BEAT: Duration = Duration::from_secs(1);
const MIN_BEAT: Duration = Duration::from_millis(20);

/// Tells Redis of what could not be told at once, whenever there is something.
pub async fn deliver(inner: Arc<Inner>) {
    loop {
        inner.outbox.notified().await;
        let Some(mut live) = inner.link.live() else {
            // The keeper flushes the ledger before the next connection is live.
            continue;
        };
        if let Err(error) = inner.flush(&mut live).await {
            failed(&inner, &live, "outbox", &error);
        }
    }
}

/// A proxy's regular duties.
pub async fn beat(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval((inner.proxy_ttl / 4).clamp(MIN_BEAT, MAX_BEAT));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_round = Instant::now();
    loop {
        ticks.tick().await;
        let Some(mut live) = inner.link.live() else {
            continue;
        };
        if let Err(error) = sign_of_life(&inner, &mut live).await {
            failed(&inner, &live, "beat", &error);
            continue;
        }
        if Instant::now() < next_round {
            continue;
        }
        next_round = Instant::now() + inner.poll_interval;
        if let Err(error) = round(&inner, &mut live).await {
            failed(&inner, &live, "round", &error);
        }
    }
}

fn failed(inner: &Inner, live: &Live, what: &str, error: &redis::RedisError) {
    let error = inner.link.failed(live.epoch, error);
    log::debug!(what, error:%; "store upkeep failed");
}

async fn sign_of_life(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    let mut beat = SCRIPTS.beat.key(&inner.identity_key);
    beat.arg(&inner.proxy)
        .arg(live.epoch)
        .arg(millis(inner.proxy_ttl));
    let (proxies, work): (usize, u8) = beat.invoke_async(&mut live.connection).await?;
    inner.proxies.store(proxies.max(1), Ordering::Relaxed);
    if work == 1 {
        reap(inner, live).await?;
    }
    Ok(())
}

/// Gives back what dead proxies held and strikes dead workers, until there is no more to do.
///
/// Who has only just come back judges nobody: after Redis was paused or cut off, everybody's TTL
/// has run out, and each needs the time of one TTL to say that it lives.
pub async fn reap(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    if live.since.elapsed() < inner.proxy_ttl {
        return Ok(());
    }
    loop {
        let mut reap = SCRIPTS.reap.key(&inner.identity_key);
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

/// The slow round: what repairs whatever else was missed.
async fn round(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    let leases = leases(inner, live).await?;
    inner.ledger().compare(&leases, false);
    inner.flush(live).await?;

    let taken: Option<String> = redis::cmd("SET")
        .arg(keys::SCAN)
        .arg(&inner.proxy)
        .arg("NX")
        .arg("PX")
        .arg(millis(inner.poll_interval))
        .query_async(&mut live.connection)
        .await?;
    if taken.is_some() {
        discover(inner, live).await?;
    }
    Ok(())
}

/// Finds workers that wrote their record by themselves, and mends counters.
async fn discover(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    let mut cursor = 0u64;
    loop {
        let (next, names): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{}*", keys::WORKER))
            .arg("COUNT")
            .arg(1000)
            .query_async(&mut live.connection)
            .await?;
        let workers = names.iter().filter_map(|name| keys::worker_of(name));
        each(&SCRIPTS.discover, workers.collect(), live).await?;
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    if live.since.elapsed() < inner.proxy_ttl {
        return Ok(());
    }
    let mut counted = HashSet::new();
    for hash in [keys::ACTIVE, keys::LIFETIME] {
        let fields: Vec<String> = redis::cmd("HKEYS")
            .arg(hash)
            .query_async(&mut live.connection)
            .await?;
        counted.extend(fields.iter().filter_map(|field| field.parse().ok()));
    }
    let mended = each(&SCRIPTS.sweep, counted.into_iter().collect(), live).await?;
    if mended > 0 {
        log::warn!(workers = mended; "mended counters that were not the sum of the leases");
    }
    Ok(())
}

/// Runs a script that takes records and workers, batch by batch, and adds up its answers.
async fn each(script: &Script, workers: Vec<WorkerKey>, live: &mut Live) -> RedisResult<u32> {
    let mut sum = 0;
    for batch in workers.chunks(BATCH) {
        let mut call = script.prepare_invoke();
        for worker in batch {
            call.key(keys::record(worker)).arg(worker.to_string());
        }
        let found: u32 = call.invoke_async(&mut live.connection).await?;
        sum += found;
    }
    Ok(sum)
}
