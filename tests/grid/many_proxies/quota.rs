//! A tenant has no more sessions than its quota, through whichever proxies they go.

use super::{PROXIES, grid, original_workers};
use crate::grid::operations::tenants::{token, with_token};
use crate::support::{Connected, Proxy, RedisServer, Refusal, eventually};

const SECRET: &str = "sesame";

async fn connect(proxy: &Proxy) -> Result<Connected, Refusal> {
    with_token(proxy.dial(), SECRET).connect().await
}

async fn is_refused(proxy: &Proxy) {
    let refusal = connect(proxy).await.err().expect("the quota is used up");
    assert_eq!(refusal.status, 429, "{refusal:?}");
    assert!(refusal.body.contains("quota_used_up"), "{refusal:?}");
}

async fn comes_to_be_refused(proxy: &Proxy) {
    let refusal = eventually("the quota is used up", async || {
        match connect(proxy).await {
            Ok(session) => {
                session.close().await;
                None
            }
            Err(refusal) => Some(refusal),
        }
    });
    assert_eq!(refusal.await.status, 429);
}

async fn is_let_in(what: &str, proxy: &Proxy) -> Connected {
    eventually(what, async || connect(proxy).await.ok()).await
}

#[tokio::test]
async fn a_quota_holds_through_all_proxies_and_outlives_none_of_them() {
    let redis = RedisServer::start().await;
    let _original = original_workers(&redis, 1).await;
    let quota = format!(", max_sessions: {PROXIES}");
    let tokens = format!("auth: {{ tokens: [ {} ] }}", token("ci", SECRET, &quota));
    let mut grid = grid(&redis, 1)
        .capacity(50)
        .lifetime(0)
        .config(&tokens)
        .start()
        .await;
    let mut open = Vec::new();
    for proxy in grid.proxies() {
        open.push(connect(proxy).await.expect("one for each"));
    }
    for proxy in grid.proxies() {
        is_refused(proxy).await;
    }

    open.remove(0).close().await;
    open.push(is_let_in("what one gives back another gets", grid.proxy(1)).await);
    for proxy in grid.proxies() {
        is_refused(proxy).await;
    }

    // Nobody knows of anything, until those who hold something tell.
    assert_eq!(redis.cli(&["FLUSHALL"]), "OK");
    for proxy in grid.proxies() {
        comes_to_be_refused(proxy).await;
    }

    // It had one.
    grid.kill(&format!("proxy {}", PROXIES - 1));
    open.push(is_let_in("what the dead had is free", grid.proxy(0)).await);
    comes_to_be_refused(grid.proxy(1)).await;
}
