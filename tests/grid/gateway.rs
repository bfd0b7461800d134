//! A worker's one port, before real browsers.

use crate::support::{Grid, RedisServer, eventually, get};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What `redis-cli` says of the only worker that takes sessions: its endpoint.
async fn endpoint(redis: &RedisServer) -> String {
    eventually("a worker takes sessions", async || {
        let keys = redis.cli(&["KEYS", "worker:chromium:*"]);
        let field = |key: &str, name| redis.cli(&["HGET", key, name]);
        let serves = |key: &&str| field(key, "status") == "available";
        keys.lines().find(serves).map(|key| field(key, "endpoint"))
    })
    .await
}

#[tokio::test]
async fn its_port_stays_through_a_recycle_and_tells_no_path() {
    let redis = RedisServer::start().await;
    let builder = Grid::new().redis(&redis).worker_process(&[]);
    let grid = builder.env("HEARTBEAT_INTERVAL", "1").start().await;
    let first = endpoint(&redis).await;
    let session = grid.connect().await;
    let old = grid.workers().await.remove(0).id;
    let drain = format!("/v1/workers/{old}/drain");
    assert_eq!(grid.admin("POST", &drain).await.status, 202);
    let second = eventually("the next browser serves", async || {
        let second = endpoint(&redis).await;
        (second != first).then_some(second)
    })
    .await;
    let parts = |endpoint: &str| {
        let uri: http::Uri = endpoint.parse().unwrap();
        (uri.port_u16().unwrap(), uri.path().to_owned())
    };
    let ((port, old_path), (port_of_next, path)) = (parts(&first), parts(&second));
    assert_eq!(port, port_of_next);
    assert_ne!(path, old_path);

    let hosts: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for host in hosts {
        let at = |page: &str| format!("http://{}{page}", SocketAddr::new(host, port));
        assert_eq!(get(&at("/healthz")).await.status, 200);
        assert_eq!(get(&at("/readyz")).await.status, 200);
        let metrics = get(&at("/metrics")).await.body;
        // Both browsers, and the session on the old one.
        for line in ["worker_browsers 2", "worker_sessions 1", "build_info{"] {
            assert!(metrics.contains(line), "{line} is missing in {metrics}");
        }
        for nothing in ["/json", "/json/version", "/", &path, &old_path] {
            let answer = get(&at(nothing)).await;
            assert_eq!(answer.status, 404, "{}", answer.body);
            assert!(!answer.body.contains(&path[1..]));
        }
    }
    session.close().await;
}
