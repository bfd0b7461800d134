//! Clients wait at several proxies, many at one and few at the others, and are served in the order
//! in which they came to the grid.

use super::{everybody_counts, grid};
use crate::support::{Books, OriginalWorker, RedisServer, eventually_equal};
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

/// At which proxy each client waits, in the order in which they come.
const CLIENTS: [usize; 20] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 1, 2, 1, 2];

#[tokio::test]
async fn who_came_first_to_any_proxy_is_served_first() {
    let redis = RedisServer::start().await;
    let _original = OriginalWorker::start(&redis, "only").await;
    let grid = grid(&redis, 1)
        .capacity(1)
        .lifetime(0)
        // However slow the machine is: no proxy counts as one that has fallen silent.
        .env("PLAYHOUSE_STORE_PROXY_TTL", "10m")
        .start()
        .await;
    let holder = grid.connect().await;

    let served = Arc::new(Mutex::new(Vec::new()));
    let mut clients = JoinSet::new();
    for (number, &at) in CLIENTS.iter().enumerate() {
        let (proxy, served) = (grid.proxy(at).clone(), served.clone());
        clients.spawn(async move {
            let mut session = proxy.connect().await;
            served.lock().unwrap().push(number);
            session.echo("hello").await;
            session.close().await;
        });
        // Whoever comes from here on comes after it.
        let in_line = number as i64 + 1;
        eventually_equal("clients in line", in_line, async || {
            Books::read(&redis).waiting
        })
        .await;
    }
    holder.close().await;
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }

    let served = served.lock().unwrap().clone();
    let in_order: Vec<usize> = (0..CLIENTS.len()).collect();
    assert_eq!(served, in_order);
    everybody_counts(&grid, &redis, 0).await;
}
