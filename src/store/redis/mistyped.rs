//! Keys of ours in whose place something of another type stands: it is deleted, because no call that
//! needs the key gets on.

use super::keeper::BATCH;
use super::link::Live;
use super::upkeep::failed;
use super::{Inner, StoreRole, keys};
use crate::model::{Browser, WorkerKey};
use redis::RedisResult;
use std::sync::Arc;

/// Does so whenever a call ran into it. What such a key held is written down again from the leases and by
/// heartbeats.
pub async fn mend(inner: Arc<Inner>) {
    loop {
        inner.link.damaged.notified().await;
        if let Some(mut live) = inner.link.live() {
            match delete_mistyped(&inner, &mut live).await {
                Ok(()) => {}
                Err(error) => failed(&inner, &live, "mending", &error),
            }
        }
        inner.link.note_mended();
    }
}

/// Those that are there at this moment. A worker looks only at the keys that it uses itself: its user of Redis may know no others.
pub async fn delete_mistyped(inner: &Inner, live: &mut Live) -> RedisResult<()> {
    // Those first by which the others are found.
    let mut deleted = mistyped(inner, live, inner.keys.shared_with_workers()).await?;
    let mut found = Vec::new();
    if inner.role == StoreRole::Proxy {
        deleted.extend(mistyped(inner, live, inner.keys.of_proxies()).await?);
        found = keys_of_clients(inner, live).await?;
    }
    let workers = redis::cmd("HKEYS")
        .arg(inner.keys.name(keys::ACTIVE))
        .query_async::<Vec<String>>(&mut live.connection)
        .await?;
    let workers = workers.iter().filter_map(|worker| worker.parse().ok());
    let heard = inner.ledger().remembered();
    let workers = workers.chain(heard.into_iter().map(|view| view.record.key));
    found.extend(workers.flat_map(|worker: WorkerKey| inner.keys.of_worker(&worker)));
    deleted.extend(mistyped(inner, live, found).await?);
    for key in deleted {
        log::warn!(key; "deleted a key of another type that stood in the place of one of ours");
    }
    Ok(())
}

/// Keys of the sessions that proxies hold and of the clients that wait, with their types.
async fn keys_of_clients(
    inner: &Inner,
    live: &mut Live,
) -> RedisResult<Vec<(String, &'static str)>> {
    let proxies = redis::cmd("SMEMBERS")
        .arg(inner.keys.name(keys::PROXIES))
        .query_async::<Vec<String>>(&mut live.connection)
        .await?;
    let proxies = proxies.iter().chain([&inner.proxy]);
    let mut found: Vec<_> = proxies
        .flat_map(|proxy| inner.keys.of_proxy(proxy))
        .collect();
    for browser in Browser::ALL {
        let lanes = redis::cmd("SMEMBERS")
            .arg(inner.keys.lanes(browser))
            .query_async::<Vec<String>>(&mut live.connection)
            .await?;
        found.extend(
            lanes
                .iter()
                .map(|lane| (inner.keys.lane(browser, lane), "zset")),
        );
    }
    Ok(found)
}

async fn mistyped(
    inner: &Inner,
    live: &mut Live,
    keys: Vec<(String, &'static str)>,
) -> RedisResult<Vec<String>> {
    let mut deleted = Vec::new();
    for batch in keys.chunks(BATCH) {
        let mut mend = inner.scripts.mend.prepare_invoke();
        for (key, kind) in batch {
            mend.key(key).arg(*kind);
        }
        deleted.extend(
            mend.invoke_async::<Vec<String>>(&mut live.connection)
                .await?,
        );
    }
    Ok(deleted)
}
