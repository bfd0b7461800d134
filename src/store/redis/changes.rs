//! Reading what has changed of the fleet since a revision: how a proxy learns what others did to
//! workers' counts. However often a worker changed, it is read once; nobody is woken for a change that
//! changes nothing for him, and what a proxy did itself it knows from the answers it got.
//!
//! Told at once are only records that changed, workers that are gone, and seats that came free while
//! somebody waits and that the same call could not give away.

use super::Inner;
use super::keeper::BATCH;
use super::keys;
use super::link::Live;
use super::wire::{self, ChangesAnswer};
use crate::model::WorkerKey;
use crate::store::Event;
use redis::RedisResult;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How far behind a proxy may be. What it believes wrongly until then costs a question more.
const BEHIND: Duration = Duration::from_secs(1);
/// Shortest time between two looks, however often somebody wants one.
const BREATH: Duration = Duration::from_millis(5);
/// Workers of each kind that are read in one call.
const MOST: usize = 500;

/// Reads it every second while there are other proxies, else with every round, and whenever somebody
/// wants to know. Runs until it is dropped.
pub async fn follow(inner: Arc<Inner>) {
    let pause = BEHIND.min(inner.poll_interval);
    let (mut read, mut incomplete) = (Instant::now(), false);
    loop {
        let wanted = tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = inner.catching_up.notified() => true,
        };
        let alone = inner.proxies.load(Ordering::Relaxed) == 1;
        let Some(mut live) = inner.link.live() else {
            continue;
        };
        if let Err(error) = read_again(&inner, &mut live).await {
            inner.link.failed(live.epoch, &error);
            continue;
        }
        if !wanted && alone && read.elapsed() < inner.poll_interval {
            continue;
        }
        read = Instant::now();
        match read_all(&inner, &mut live).await {
            Ok(workers) => {
                let is_whole = inner.ledger().is_whole(workers);
                if !is_whole && std::mem::replace(&mut incomplete, !is_whole) {
                    log::debug!(workers; "the fleet is not what was heard of it, reading it anew");
                    inner.emit(Event::Resync);
                }
                incomplete = !is_whole;
            }
            Err(error) => {
                let error = inner.link.failed(live.epoch, &error);
                log::debug!(error:%; "could not read what has changed");
            }
        }
        tokio::time::sleep(BREATH).await;
    }
}

/// Reads those of which somebody found that they are not what was heard of them.
async fn read_again(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    let workers: Vec<WorkerKey> = std::mem::take(&mut *inner.to_read()).into_iter().collect();
    for batch in workers.chunks(BATCH) {
        let call = inner.fleet_call(live, batch);
        let (revision, rows): (u64, Vec<wire::Row>) =
            call.invoke_async(&mut live.connection).await?;
        for view in rows.into_iter().filter_map(|row| wire::view(revision, row)) {
            let event = Event::Worker(Box::new(view));
            inner.heard(&event);
            inner.emit(event);
        }
    }
    Ok(())
}

/// Returns how many workers there are.
async fn read_all(inner: &Inner, live: &mut Live) -> RedisResult<usize> {
    loop {
        let since = inner.read_up_to.load(Ordering::Relaxed);
        let mut call = inner.scripts.changes.key(inner.keys.name(keys::GRID));
        call.arg(&*live.grid).arg(since).arg(MOST);
        let answer: ChangesAnswer = call.invoke_async(&mut live.connection).await?;
        let (up_to, revision, .., workers) = answer;
        inner.read_up_to.store(up_to.max(since), Ordering::Relaxed);
        if up_to == 0 {
            inner.read_up_to.store(revision, Ordering::Relaxed);
            inner.emit(Event::Resync);
            return Ok(workers);
        }
        for event in wire::changes(answer) {
            let news = inner.ledger().news(event);
            if let Some(event) = news {
                inner.heard(&event);
                inner.emit(event);
            }
        }
        if up_to >= revision {
            return Ok(workers);
        }
    }
}
