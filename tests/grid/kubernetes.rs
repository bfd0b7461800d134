//! What Kubernetes is told of the pods that workers run in, so that it takes idle ones first.

use crate::support::{
    Grid, GridBuilder, KubernetesApi, OriginalWorker, RedisServer, eventually, eventually_equal,
};

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const KARPENTER: &str = "karpenter.sh/do-not-disrupt";
const AUTOSCALER: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// Proxies in the cluster of this API, before workers that registered by hand.
pub fn grid(redis: &RedisServer, api: &KubernetesApi, workers: usize) -> GridBuilder {
    Grid::new()
        .redis(redis)
        .foreign_workers(workers)
        .lifetime(0)
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", &api.port().to_string())
        .env(
            "PLAYHOUSE_SERVER_SERVICE_ACCOUNT",
            api.account().to_str().unwrap(),
        )
        .config("store: { poll_interval: 500ms }")
}

/// Says where a worker runs, as ours do of themselves.
fn runs_in(redis: &RedisServer, worker: &str, pod: &str) {
    redis.cli(&["HSET", &format!("worker:chromium:{worker}"), "pod", pod]);
}

async fn says(api: &KubernetesApi, pod: &str, cost: &str, disrupt: &str, evict: &str) {
    let said = [cost, disrupt, evict].map(|it| Some(it.to_owned()));
    eventually_equal("annotations", said, async || {
        [COST, KARPENTER, AUTOSCALER].map(|name| api.annotation(pod, name))
    })
    .await;
}

#[tokio::test]
pub async fn the_deletion_cost_of_a_pod_follows_its_sessions() {
    let redis = RedisServer::start().await;
    let api = KubernetesApi::start(&["worker-a", "worker-b"]).await;
    let _workers = [
        OriginalWorker::start(&redis, "a").await,
        OriginalWorker::start(&redis, "b").await,
    ];
    runs_in(&redis, "a-0", "browsers/worker-a");
    runs_in(&redis, "b-0", "browsers/worker-b");
    let grid = grid(&redis, &api, 2).proxies(2).start().await;
    for pod in ["worker-a", "worker-b"] {
        says(&api, pod, "0", "false", "true").await;
    }
    let session = grid.proxy(1).connect().await;
    // The other proxy's answer may come too late for one look.
    let worker = eventually("the session is listed", async || {
        let sessions = grid.proxy(0).sessions().await;
        sessions.into_iter().next().map(|it| it.worker)
    })
    .await;
    let busy = worker.trim_end_matches("-0").to_owned();
    let idle = if busy == "a" { "b" } else { "a" };
    says(&api, &format!("worker-{busy}"), "100", "true", "false").await;
    says(&api, &format!("worker-{idle}"), "0", "false", "true").await;
    // Two proxies, of which each may have been the first: never more than what changed.
    assert!(api.patches() <= 6, "{}", api.patches());
    assert_eq!(api.refused(), Vec::<String>::new());
    session.close().await;
    grid.idle().await;
}

#[tokio::test]
async fn an_api_that_fails_is_told_again_and_other_namespaces_are_left_alone() {
    let redis = RedisServer::start().await;
    let api = KubernetesApi::start(&["worker-a"]).await;
    let _workers = [
        OriginalWorker::start(&redis, "a").await,
        OriginalWorker::start(&redis, "b").await,
    ];
    runs_in(&redis, "a-0", "browsers/worker-a");
    runs_in(&redis, "b-0", "kube-system/worker-a");
    api.fail(2);
    let grid = grid(&redis, &api, 2).start().await;
    says(&api, "worker-a", "0", "false", "true").await;
    assert_eq!(api.failures_left(), 0);
    assert_eq!(api.refused(), Vec::<String>::new());
    grid.connect().await.close().await;
}

/// Without a service account nothing is tried, and nothing is said about it.
#[tokio::test]
async fn outside_of_a_cluster_there_is_nobody_to_tell() {
    let redis = RedisServer::start().await;
    let api = KubernetesApi::start(&["worker-a"]).await;
    let _worker = OriginalWorker::start(&redis, "a").await;
    runs_in(&redis, "a-0", "browsers/worker-a");
    std::fs::remove_file(api.account().join("token")).unwrap();
    let grid = grid(&redis, &api, 1).start().await;
    eventually("the record is read", async || {
        let log = grid.log();
        log.contains("worker joined").then_some(())
    })
    .await;
    grid.connect().await.close().await;
    assert_eq!(api.patches(), 0);
    assert!(!grid.log().contains("annotations"), "{}", grid.log());
}
