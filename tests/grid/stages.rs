//! SIGKILL of a worker's processes at each stage of a recycle. A killed worker process is started
//! again, as an orchestrator does; in every case the grid comes back to the seats it is to have,
//! and nothing of the dead is left.

use crate::support::{
    Grid, Kind, Process, RedisServer, Scrape, Tree, eventually, eventually_equal,
};
use nix::sys::signal::Signal;
use std::time::Duration;

const SEATS: u32 = 5;
const WORKER: &str = "worker 0";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Before,
    /// The replacement starts.
    Starting,
    /// The store knows the replacement, and takes the old one for available.
    Registered,
    /// The old one drains, with a session on it.
    Draining,
}

const STAGES: [Stage; 4] = [
    Stage::Before,
    Stage::Starting,
    Stage::Registered,
    Stage::Draining,
];
const VICTIMS: [Kind; 3] = [Kind::Playhouse, Kind::Node, Kind::Browser];

#[tokio::test]
async fn a_death_at_any_stage_of_a_recycle_costs_no_seat_for_good() {
    let redis = RedisServer::start().await;
    let mut grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .worker_process(&[])
        .capacity(SEATS)
        .env("HEARTBEAT_INTERVAL", "1")
        .env("REDIS_KEY_TTL", "8")
        .start()
        .await;
    for stage in STAGES {
        for victim in VICTIMS {
            dies(&mut grid, &redis, stage, victim).await;
        }
    }

    let recycles = |n: usize| {
        let scrape = Scrape::of(&grid.proxy(n).metrics_url(), &[]);
        scrape.value("worker_recycles_total", &[("reason", "operator")])
    };
    let before = recycles(0).unwrap();
    drain(&grid, &serving(&grid).await).await;
    for n in 0..2 {
        eventually_equal("each proxy tells of it", Some(before + 1.0), async || {
            recycles(n)
        })
        .await;
    }
    whole(&grid).await;
    grid.idle().await;
}

/// One case: from a whole grid to a whole grid.
async fn dies(grid: &mut Grid, redis: &RedisServer, stage: Stage, victim: Kind) {
    println!("{victim:?} dies, stage {stage:?}");
    whole(grid).await;
    let session = grid.connect().await;
    let old = serving(grid).await;
    let before = grid.process(WORKER);
    let agent = before.of_kind(Kind::Playhouse)[0].clone();
    let of_old = |kind: Kind| before.of_kind(kind)[0].clone();

    let killed = match stage {
        Stage::Before => of_old(victim),
        Stage::Starting => {
            let appears = match victim {
                Kind::Playhouse => Kind::Node,
                other => other,
            };
            let newcomer = held_while_starting(grid, redis, &agent, appears).await;
            match victim {
                Kind::Playhouse => agent.clone(),
                _ => newcomer,
            }
        }
        Stage::Registered => {
            held_at_registration(grid, redis, &agent).await;
            match victim {
                Kind::Playhouse => agent.clone(),
                other => another(grid, &before, other).await,
            }
        }
        Stage::Draining => {
            drain(grid, &old).await;
            eventually("the old one drains", async || {
                let workers = grid.workers().await;
                let drains = |it: &_| is(it, &old, "draining");
                workers.iter().any(drains).then_some(())
            })
            .await;
            of_old(victim)
        }
    };
    let tree = grid.process(WORKER);
    killed.kill();
    if victim == Kind::Playhouse {
        grid.start_again(WORKER);
        tree.gone().await;
    } else {
        agent.signal(Signal::SIGCONT);
        let dead = Tree {
            processes: vec![killed],
        };
        dead.gone().await;
    }
    drop(session);
    whole(grid).await;
}

/// Recycles the worker, and stops its agent when the replacement has a process of this kind and the
/// store does not know of it yet. Whoever looks may be late: it is tried until that is met.
async fn held_while_starting(
    grid: &Grid,
    redis: &RedisServer,
    agent: &Process,
    kind: Kind,
) -> Process {
    loop {
        let old = serving(grid).await;
        let before = grid.process(WORKER);
        drain(grid, &old).await;
        let newcomer = another(grid, &before, kind).await;
        agent.signal(Signal::SIGSTOP);
        if redis.cli(&["keys", "worker:chromium:*"]).lines().count() == 1 {
            return newcomer;
        }
        agent.signal(Signal::SIGCONT);
        serves_alone(grid, &old).await;
    }
}

/// Recycles the worker, and stops its agent at the moment when the store knows the replacement and
/// takes the old browser for available still. That moment is short: it is tried until it is met.
async fn held_at_registration(grid: &Grid, redis: &RedisServer, agent: &Process) {
    loop {
        let old = serving(grid).await;
        let mut events = redis::Client::open(redis.url())
            .and_then(|client| client.get_connection())
            .unwrap();
        let (agent_there, other) = (agent.clone(), old.clone());
        let (listening, listens) = tokio::sync::oneshot::channel();
        let held = tokio::task::spawn_blocking(move || {
            let mut events = events.as_pubsub();
            events
                .set_read_timeout(Some(Duration::from_secs(120)))
                .unwrap();
            events.subscribe("playhouse:events").unwrap();
            listening.send(()).unwrap();
            loop {
                let event: String = events.get_message().unwrap().get_payload().unwrap();
                // One message tells of all that a call has changed, a line each.
                let registered = event.lines().any(|line| {
                    let announced = line.starts_with("w ") && line.contains("\"available\"");
                    announced && !line.contains(&other)
                });
                if registered {
                    return agent_there.signal(Signal::SIGSTOP);
                }
            }
        });
        listens.await.unwrap();
        drain(grid, &old).await;
        held.await.unwrap();
        let record = format!("worker:chromium:{old}");
        if redis.cli(&["hget", &record, "status"]) == "available" {
            return;
        }
        agent.signal(Signal::SIGCONT);
        serves_alone(grid, &old).await;
    }
}

/// Waits until the replacement does. A session that is open stays with the browser it has.
async fn serves_alone(grid: &Grid, old: &str) {
    eventually("the replacement serves alone", async || {
        let workers = grid.workers().await;
        let serving: Vec<_> = workers.iter().filter(|it| it.serves()).collect();
        (serving.len() == 1 && serving[0].id != old).then_some(())
    })
    .await;
}

fn is(worker: &crate::support::WorkerView, id: &str, status: &str) -> bool {
    worker.id == id && worker.status == status
}

/// The id of the one worker that serves.
async fn serving(grid: &Grid) -> String {
    let workers = grid.workers().await;
    let mut serving = workers.into_iter().filter(|it| it.serves());
    let first = serving.next().expect("one serves");
    assert!(serving.next().is_none(), "only one serves");
    first.id
}

async fn drain(grid: &Grid, worker: &str) {
    let path = format!("/v1/workers/{worker}/drain");
    assert_eq!(grid.admin("POST", &path).await.status, 202);
}

/// A process of this kind that was not there before.
async fn another(grid: &Grid, before: &Tree, kind: Kind) -> Process {
    eventually("a process of the replacement", async || {
        let tree = grid.process(WORKER);
        let found = tree.of_kind(kind).into_iter();
        found
            .filter(|process| !before.processes.contains(process))
            .max_by_key(|process| process.pid)
            .cloned()
    })
    .await
}

/// All seats are there and free on one worker, which has one server with one browser.
async fn whole(grid: &Grid) {
    for n in 0..2 {
        eventually_equal("seats, workers", (SEATS, 0, 1), async || {
            let proxy = grid.proxy(n);
            let slots = proxy.capacity().await.slots;
            (slots.free, slots.used, proxy.workers().await.len())
        })
        .await;
    }
    eventually_equal("servers, browsers, zombies", (1, 1, 0), async || {
        let tree = grid.process(WORKER);
        let count = |kind| tree.of_kind(kind).len();
        (count(Kind::Node), count(Kind::Browser), tree.zombies())
    })
    .await;
}
