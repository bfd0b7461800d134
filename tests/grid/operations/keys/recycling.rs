//! When a browser is replaced, how, and how many at once.

use super::{Changing, register};
use crate::support::{
    FakePlaywright, Grid, Kind, RedisServer, Scrape, WorkerView, eventually, eventually_equal,
};
use nix::sys::signal::Signal;
use playhouse::config::{Config, Role};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The fleet is read this often, and overdue workers are looked at.
const POLL: &str = "store: { poll_interval: 200ms }\n";

fn orders(redis: &RedisServer) -> Vec<i64> {
    let life = |id| redis.cli(&["PTTL", &format!("worker:cmd:chromium:{id}")]);
    let lives = ["one", "two"].map(|id| life(id).parse().unwrap());
    lives.into_iter().filter(|life| *life > 0).collect()
}

#[tokio::test]
pub async fn orders_follow_the_limits() {
    let redis = RedisServer::start().await;
    let fakes = (FakePlaywright::start().await, FakePlaywright::start().await);
    for (id, fake) in [("one", &fakes.0), ("two", &fakes.1)] {
        register(&redis, id, fake, false);
    }
    let yaml = |limit: u32, more: &str| {
        format!(
            "{POLL}selection: {{ strategy: least_active }}\n\
             limits: {{ max_lifetime_sessions: {limit} }}\n{more}"
        )
    };
    let changing = Changing::start(Grid::new().redis(&redis), &[], &yaml(0, "")).await;
    let grid = &changing.grid;
    eventually_equal("workers", 2, async || grid.workers().await.len()).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(grid.connect().await);
    }
    assert_eq!((fakes.0.open(), fakes.1.open()), (2, 2));
    assert_eq!(orders(&redis), [] as [i64; 0], "no limit, no orders");

    changing
        .now(&yaml(2, "recycle: { command_ttl: 10m }"))
        .await;
    eventually_equal("orders", 1, async || orders(&redis).len()).await;
    let life = orders(&redis)[0];
    assert!((60_001..=600_000).contains(&life), "{life} ms");
    changing
        .now(&yaml(2, "recycle: { max_unavailable: 2 }"))
        .await;
    eventually_equal("orders", 2, async || orders(&redis).len()).await;
    for session in sessions {
        session.close().await;
    }
    grid.idle().await;
}

#[tokio::test]
pub async fn a_ceiling_is_where_it_is_told_to_be() {
    let redis = RedisServer::start().await;
    let fake = FakePlaywright::start().await;
    register(&redis, "one", &fake, true);
    let yaml = |recycle: &str| {
        format!(
            "{POLL}limits: {{ max_concurrent_sessions: 100, max_lifetime_sessions: 2 }}\n\
             queue: {{ timeout: 3s }}\nrecycle: {{ {recycle} }}"
        )
    };
    let first = yaml("ceiling: 2.0");
    let changing = Changing::start(Grid::new().redis(&redis), &[], &first).await;
    let grid = &changing.grid;
    eventually_equal("workers", 1, async || grid.workers().await.len()).await;
    let mut sessions = Vec::new();
    let mut seats_until_refused = async || {
        let mut seats = 0;
        while let Ok(session) = grid.dial().connect().await {
            sessions.push(session);
            seats += 1;
        }
        seats
    };
    assert_eq!(seats_until_refused().await, 4);
    changing.now(&yaml("ceiling: 3.0")).await;
    assert_eq!(seats_until_refused().await, 2);
    changing.now(&yaml("ceiling: 1")).await;
    assert_eq!(seats_until_refused().await, 0);
    changing.now(&yaml("ceiling: 4.0")).await;
    assert_eq!(seats_until_refused().await, 2);
    for session in sessions {
        session.close().await;
    }
    grid.idle().await;
}

#[tokio::test]
pub async fn a_process_may_end_to_be_started_anew() {
    let redis = RedisServer::start().await;
    let builder = Grid::new().redis(&redis).worker_process(&[]);
    let mut changing = Changing::start(builder, &[], "").await;
    changing.now("recycle: { mode: exit }").await;
    let worker = changing.grid.workers().await.remove(0);
    eventually_equal("processes that follow the file", 2, async || {
        changing.grid.log().matches("configuration changed").count()
    })
    .await;
    let path = format!("/v1/workers/{}/drain", worker.id);
    assert_eq!(changing.grid.admin("POST", &path).await.status, 202);
    changing.grid.ended("worker 0").await;
    eventually_equal("workers", 0, async || changing.grid.workers().await.len()).await;
}

/// A browser that waits for a file before it starts, and leaves a mark when it is asked to.
struct Gate {
    program: PathBuf,
    marks: PathBuf,
    open: PathBuf,
}

impl Gate {
    fn new(folder: &Path) -> Gate {
        let browser = Config::defaults(Role::Worker).worker;
        let browser = playhouse::worker::locate(&browser).unwrap().executable;
        let gate = Gate {
            program: folder.join("browser.sh"),
            marks: folder.join("marks"),
            open: folder.join("open"),
        };
        let text = format!(
            "#!/bin/sh\necho >> {marks}\nwhile [ ! -e {open} ]; do sleep 0.05; done\nexec {browser} \"$@\"\n",
            marks = gate.marks.display(),
            open = gate.open.display(),
            browser = browser.unwrap().display(),
        );
        std::fs::write(&gate.program, text).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&gate.program, executable).unwrap();
        std::fs::write(&gate.marks, "").unwrap();
        gate.opens();
        gate
    }

    fn opens(&self) {
        std::fs::write(&self.open, "").unwrap();
    }

    fn closes(&self) {
        std::fs::remove_file(&self.open).unwrap();
        std::fs::write(&self.marks, "").unwrap();
    }

    /// How many browsers have come to the gate since it was closed.
    fn came(&self) -> usize {
        std::fs::read_to_string(&self.marks)
            .unwrap()
            .lines()
            .count()
    }
}

/// Drains two workers at once. One replacement comes to the closed gate, and no more, until the
/// file says something else; then both do.
async fn replacements_at_once(changing: &Changing, gate: &Gate, now: &str) {
    let grid = &changing.grid;
    let old: Vec<String> = grid.workers().await.into_iter().map(|it| it.id).collect();
    assert_eq!(old.len(), 2);
    gate.closes();
    for id in &old {
        let answer = grid.admin("POST", &format!("/v1/workers/{id}/drain")).await;
        assert_eq!(answer.status, 202);
    }
    eventually_equal("browsers at the gate", 1, async || gate.came()).await;
    // Both were asked long ago by the time a session has come and gone ten times.
    for _ in 0..10 {
        grid.connect().await.close().await;
        assert_eq!(gate.came(), 1, "the other one has to wait");
    }
    gate.opens();
    replaced(changing, &old).await;

    let old: Vec<String> = grid.workers().await.into_iter().map(|it| it.id).collect();
    changing.now(now).await;
    eventually_equal("processes that follow the file", true, async || {
        let log = grid.log();
        log.matches("configuration changed").count() >= grid.processes()
    })
    .await;
    gate.closes();
    for id in &old {
        grid.admin("POST", &format!("/v1/workers/{id}/drain")).await;
    }
    eventually_equal("browsers at the gate", 2, async || gate.came()).await;
    gate.opens();
    replaced(changing, &old).await;
}

async fn replaced(changing: &Changing, old: &[String]) {
    eventually("both are replaced", async || {
        let workers = changing.grid.workers().await;
        let fresh = workers
            .iter()
            .all(|it| it.serves() && !old.contains(&it.id));
        (fresh && workers.len() == 2).then_some(())
    })
    .await;
}

/// Who waits at a closed gate is not late.
const QUICK: &str = "worker: { heartbeat_interval: 200ms, start_timeout: 10m }\n";

#[tokio::test]
pub async fn browsers_are_replaced_for_every_reason() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new(folder.path());
    let builder = Grid::new()
        .workers(2)
        .env("PLAYHOUSE_BROWSER_PATH", gate.program.to_str().unwrap())
        // The gate writes where no browser may.
        .env("PLAYHOUSE_WORKER_SEAL", "off");
    let changing = Changing::start(builder, &[], QUICK).await;
    let now = format!("{QUICK}recycle: {{ max_parallel: 2 }}");
    replacements_at_once(&changing, &gate, &now).await;

    let grid = &changing.grid;
    let recycled = async |reason: &str| {
        eventually(reason, async || {
            let scrape = Scrape::of(&grid.metrics_url(), &[]);
            let count = scrape.value("worker_recycles_total", &[("reason", reason)]);
            (count > Some(0.0)).then_some(())
        })
        .await;
    };
    let all_serve = async || {
        eventually_equal("browsers, all of which serve", (2, 2, 2), async || {
            let workers = grid.workers().await;
            let serving = workers.iter().filter(|it| it.serves()).count();
            let browsers = grid.tree().of_kind(Kind::Browser).len();
            (workers.len(), serving, browsers)
        })
        .await;
    };
    changing
        .now(&format!("{QUICK}recycle: {{ max_failures: 1 }}"))
        .await;
    // None is on its way that would take the place of one that hangs.
    all_serve().await;
    for browser in grid.tree().of_kind(Kind::Browser) {
        browser.signal(Signal::SIGSTOP);
    }
    recycled("failures").await;
    all_serve().await;
    changing
        .now(&format!("{QUICK}recycle: {{ max_memory: 64MiB }}"))
        .await;
    // A fresh browser is not replaced before it has served.
    let session = grid.connect().await;
    recycled("memory").await;
    session.close().await;
    changing
        .now(&format!("{QUICK}recycle: {{ max_age: 1s }}"))
        .await;
    recycled("age").await;
}

#[tokio::test]
pub async fn old_browsers_drain_as_told() {
    let first = format!("{QUICK}recycle: {{ max_draining: 1 }}");
    let changing = Changing::start(Grid::new().workers(1), &[], &first).await;
    let grid = &changing.grid;
    let in_status = async |status: &str| {
        let workers = grid.workers().await.into_iter();
        workers
            .filter(|it| it.status == status)
            .map(|it| it.id)
            .collect::<Vec<_>>()
    };
    let serving = async || in_status("available").await.first().cloned();
    let recycle = async |id: &str| {
        let path = format!("/v1/workers/{id}/drain");
        assert_eq!(grid.admin("POST", &path).await.status, 202);
    };
    let mut oldest = grid.connect().await;
    let old = serving().await.expect("the grid is up");
    recycle(&old).await;
    eventually("it is replaced", async || {
        serving().await.filter(|id| *id != old)
    })
    .await;
    let mut newer = grid.connect().await;
    let full = serving().await.expect("it never costs the seats");
    recycle(&full).await;
    // The order was taken long ago by the time a session has come and gone ten times.
    for _ in 0..10 {
        grid.connect().await.close().await;
        assert_eq!(
            serving().await,
            Some(full.clone()),
            "the old one drains alone"
        );
    }
    changing
        .now(&format!(
            "{QUICK}recycle: {{ max_draining: 2, drain_timeout: 100ms }}"
        ))
        .await;
    let close = newer.closed().await.expect("it is told why");
    assert!(close.reason.contains("drain timeout is over"), "{close:?}");
    assert!(
        oldest.answers_a_ping().await,
        "what drains already has the time it was given"
    );
}

/// Sessions that keep old browsers cost the others theirs at the ceiling; then it is not said that all seats
/// are taken.
#[tokio::test]
async fn who_finds_workers_at_their_ceiling_is_told_so() {
    let yaml = "limits: { max_concurrent_sessions: 5, max_lifetime_sessions: 2 }\n\
                recycle: { ceiling: 1, max_draining: 1 }\nqueue: { timeout: 2s }";
    let grid = Grid::new().workers(1).config(yaml).start().await;
    let fresh = async || {
        let fresh = |it: &WorkerView| it.status == "available" && it.lifetime_sessions == 0;
        let workers = grid.workers().await;
        workers.iter().any(fresh).then_some(())
    };
    let mut keeping = Vec::new();
    for _ in 0..2 {
        eventually("a fresh browser serves", fresh).await;
        keeping.push(grid.connect().await);
        grid.connect().await.close().await;
    }
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 503, "{refusal:?}");
    let told: serde_json::Value = refusal.json();
    assert_eq!(told["error"]["code"], "workers_at_ceiling", "{told}");
    for session in keeping {
        session.close().await;
    }
    eventually("it is replaced", fresh).await;
    grid.connect().await.close().await;
}

#[tokio::test]
pub async fn the_whole_grid_warms_up_as_many_as_told() {
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new(folder.path());
    let builder = Grid::new()
        .redis(&redis)
        .worker_process(&[])
        .worker_process(&[])
        .env("PLAYHOUSE_BROWSER_PATH", gate.program.to_str().unwrap())
        // The gate writes where no browser may.
        .env("PLAYHOUSE_WORKER_SEAL", "off");
    let recycle = |more: &str| format!("{QUICK}recycle: {{ max_parallel: 2{more} }}");
    let first = recycle(", max_parallel_grid: 1");
    let changing = Changing::start(builder, &[], &first).await;
    replacements_at_once(&changing, &gate, &recycle("")).await;
}
