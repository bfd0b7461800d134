//! A pool that shrinks in a cluster: Kubernetes chooses which pods go, by what the proxies wrote on them,
//! and no session is cut.

use crate::support::{
    Connected, Eviction, KubernetesApi, OriginalWorker, Pods, RedisServer, eventually,
    eventually_equal, replica_set,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica_set::first_to_go;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

#[allow(dead_code, reason = "the bench uses the rest")]
#[path = "../../benches/scaling/cluster.rs"]
mod cluster;

use cluster::{Cluster, Outcome, Rules};

const HOUR: u64 = 3600;

/// A pod whose worker is in Redis, and who plays its kubelet.
struct WorkerPod {
    worker: OriginalWorker,
}

impl WorkerPod {
    async fn start(redis: &RedisServer, pod: &str) -> WorkerPod {
        let worker = OriginalWorker::start(redis, pod).await;
        let record = format!("worker:chromium:{pod}-0");
        redis.cli(&["HSET", &record, "pod", &format!("browsers/{pod}")]);
        WorkerPod { worker }
    }

    /// Its worker is told to end: it drains, and ends with its last session.
    async fn ends(self, redis: &RedisServer, api: &KubernetesApi, pod: &str) {
        let record = format!("worker:chromium:{pod}-0");
        redis.cli(&["HSET", &record, "status", "draining"]);
        eventually("its last session has ended", async || {
            (active(redis, pod) == 0 && self.worker.fake().open() == 0).then_some(())
        })
        .await;
        drop(self.worker);
        redis.cli(&["DEL", &record]);
        api.finished(pod);
    }
}

fn active(redis: &RedisServer, pod: &str) -> u32 {
    let count = redis.cli(&[
        "HGET",
        "cluster:active_connections",
        &format!("chromium:{pod}-0"),
    ]);
    count.trim().parse().unwrap_or(0)
}

fn busy(redis: &RedisServer, pods: &[String]) -> Vec<String> {
    pods.iter()
        .filter(|pod| active(redis, pod) > 0)
        .cloned()
        .collect()
}

/// Waits until the controllers have heard a cost for every pod, 100 for the busy ones.
async fn costs_are_known(redis: &RedisServer, pods: &Pods) {
    eventually("every busy pod costs more", async || {
        let (standing, candidates) = (pods.standing(), pods.candidates());
        let busy = busy(redis, &standing);
        let told = standing.iter().zip(&candidates);
        let mut told = told.map(|(pod, it)| (it.deletion_cost > 0) == busy.contains(pod));
        told.all(|it| it).then_some(())
    })
    .await;
}

/// The pods that a ReplicaSet would take, with or without what the proxies wrote.
fn chosen(pods: &Pods, count: usize, with_costs: bool) -> Vec<String> {
    let (standing, mut candidates) = (pods.standing(), pods.candidates());
    for candidate in candidates.iter_mut().filter(|_| !with_costs) {
        candidate.deletion_cost = 0;
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let chosen = first_to_go(&candidates, count, now.as_millis() as u64).into_iter();
    let mut chosen: Vec<String> = chosen.map(|at| standing[at].clone()).collect();
    chosen.sort();
    chosen
}

async fn all_work(sessions: &mut [Connected]) {
    for session in sessions {
        session.echo("still here").await;
    }
}

#[tokio::test]
async fn a_scale_in_takes_idle_pods_and_an_eviction_lets_sessions_end() {
    let redis = RedisServer::start().await;
    let names: Vec<String> = (0..6).map(|n| format!("worker-{n}")).collect();
    let api = KubernetesApi::start(&[]).await;
    let mut kubelets = BTreeMap::new();
    for (n, name) in names.iter().enumerate() {
        api.add(name, &format!("node-{}", n / 2));
        kubelets.insert(name.clone(), WorkerPod::start(&redis, name).await);
    }
    let grid = super::kubernetes::grid(&redis, &api, 6)
        .proxies(2)
        .capacity(1)
        .start()
        .await;
    let pods = api.controllers();
    eventually_equal("pods that are seen", 6, async || pods.standing().len()).await;

    let mut sessions = Vec::new();
    for n in 0..3 {
        sessions.push(grid.proxy(n % 2).connect().await);
    }
    let busy = busy(&redis, &names);
    assert_eq!(busy.len(), 3, "one seat each");
    // The busy ones are the youngest, which Kubernetes takes before the others.
    for name in &names {
        let hours = if busy.contains(name) { 1 } else { 24 };
        api.ready_for(name, Duration::from_secs(hours * HOUR));
    }
    eventually("their ages are seen", async || {
        (chosen(&pods, 3, false) == busy).then_some(())
    })
    .await;
    costs_are_known(&redis, &pods).await;
    let leaving = chosen(&pods, 3, true);
    let idle: Vec<String> = names
        .iter()
        .filter(|it| !busy.contains(it))
        .cloned()
        .collect();
    assert_eq!(leaving, idle);

    for pod in &leaving {
        pods.delete(pod).await;
    }
    eventually_equal("pods that end", leaving.clone(), async || pods.ending()).await;
    // Before the worker hears of it, one more client comes: its session goes on to its own end.
    let mut late = grid.proxy(0).connect().await;
    let mut ends = Vec::new();
    for pod in &leaving {
        let kubelet = kubelets.remove(pod).unwrap();
        ends.push(kubelet.ends(&redis, &api, pod));
    }
    let ended = futures_util::future::join_all(ends);
    let late_one = async {
        eventually_equal("idle pods that are left", 1, async || pods.ending().len()).await;
        late.echo("still here").await;
        late.close().await;
    };
    tokio::join!(ended, late_one);
    eventually_equal("pods", busy.clone(), async || pods.standing()).await;
    eventually_equal("pods that end", 0, async || pods.ending().len()).await;
    all_work(&mut sessions).await;

    // A node is emptied. The budget lets one pod go; the next one once its replacement is ready.
    api.wants_ready(2);
    assert_eq!(pods.evict(&busy[0]).await, Eviction::Granted);
    assert_eq!(pods.evict(&busy[1]).await, Eviction::Refused);
    let replacement = "worker-6".to_owned();
    api.add(&replacement, "node-7");
    kubelets.insert(
        replacement.clone(),
        WorkerPod::start(&redis, &replacement).await,
    );
    assert_eq!(pods.evict(&busy[1]).await, Eviction::Granted);
    let ends: Vec<_> = busy[..2]
        .iter()
        .map(|pod| kubelets.remove(pod).unwrap().ends(&redis, &api, pod))
        .collect();
    let ended = futures_util::future::join_all(ends);
    let go_on = async {
        eventually("evicted pods take nobody", async || {
            let workers = grid.proxy(1).workers().await;
            let draining = workers.iter().filter(|it| it.status == "draining").count();
            let replaced = workers
                .iter()
                .any(|it| it.id == "worker-6-0" && it.serves());
            (draining == 2 && replaced).then_some(())
        })
        .await;
        // It is the only seat.
        let newcomer = grid.proxy(1).connect().await;
        assert_eq!(active(&redis, &replacement), 1);
        all_work(&mut sessions).await;
        newcomer.close().await;
        for session in sessions {
            session.close().await;
        }
    };
    tokio::join!(ended, go_on);
    grid.idle().await;
    // A pod may be gone before the proxies have heard that its worker is.
    let refused = api.refused();
    assert!(
        refused.iter().all(|it| it.starts_with("404 ")),
        "{refused:?}"
    );
}

const SEATS: u32 = 5;

/// One change of the number of pods a minute, and sessions of a second to an hour.
fn random_scaling(
    rounds: u32,
    keeps_costs: bool,
    drain: u64,
    fewest: impl Fn(&Cluster) -> usize,
) -> Outcome {
    let mut random = StdRng::seed_from_u64(7);
    let mut cluster = Cluster::new(Rules {
        seats: SEATS,
        drain,
        start: 20,
        patience: HOUR,
        keeps_costs,
    });
    for _ in 0..rounds {
        let fewest = fewest(&cluster);
        cluster.scale(random.random_range(fewest..=fewest + 6).max(1));
        for _ in 0..60 {
            if random.random_ratio(1, 6) {
                let longest = [1, 20, 300, HOUR][random.random_range(0..4)];
                cluster.arrive(random.random_range(1..=longest));
            }
            cluster.second();
        }
    }
    cluster.outcome
}

/// `make scaling` runs a thousand.
fn rounds() -> u32 {
    let rounds = std::env::var("SCALE_ROUNDS").ok();
    rounds.and_then(|it| it.parse().ok()).unwrap_or(100)
}

#[test]
fn scale_outs_and_ins_cut_no_session_and_without_costs_many() {
    // An autoscaler that waits for less demand never wants fewer pods than are busy.
    let with = random_scaling(rounds(), true, 300, Cluster::busy);
    let without = random_scaling(rounds(), false, 300, Cluster::busy);
    println!("with deletion costs: {}", line(&with));
    println!("without: {}", line(&without));
    assert!(with.taken > 50 && with.served > 500, "{}", line(&with));
    assert_eq!((with.taken_wrongly, with.cut, with.refused), (0, 0, 0));
    assert!(
        without.taken_wrongly > 0 && without.cut > 0,
        "{}",
        line(&without)
    );
}

/// Whatever number of pods is wanted: they drain for as long as the longest session.
#[test]
fn scale_ins_of_any_size_cut_no_session_when_the_drain_is_long_enough() {
    let any = random_scaling(rounds(), true, HOUR, |_| 1);
    println!("any size, draining for an hour: {}", line(&any));
    assert!(any.taken_busy > 40, "{}", line(&any));
    assert_eq!((any.taken_wrongly, any.cut), (0, 0));
}

fn line(it: &Outcome) -> String {
    format!(
        "{} pods taken, {} of them busy, {} while an idle one was spared; {} sessions served, {} cut",
        it.taken, it.taken_busy, it.taken_wrongly, it.served, it.cut
    )
}
