//! The browser servers: where they listen, what they are started with, how they are announced.

use super::{Changing, register};
use crate::support::{
    FakePlaywright, Grid, Kind, RedisServer, eventually, eventually_equal, free_port,
};
use nix::sys::signal::Signal;
use playhouse::config::{Config, Role};
use playhouse::worker::{Toolchain, locate};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn toolchain() -> Toolchain {
    locate(&Config::defaults(Role::Worker).worker).unwrap()
}

#[tokio::test]
pub async fn a_worker_is_as_its_keys_say() {
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let marks = folder.path().join("marks");
    let tools = toolchain();
    let marking = |name: &str, real: &Path| {
        let text = format!(
            "echo {name} >> {}\nexec {} \"$@\"",
            marks.display(),
            real.display()
        );
        script(folder.path(), name, &text)
    };
    let browser = marking("browser", &tools.executable.unwrap());
    let node = marking("node", &tools.node);
    let port = free_port();
    let yaml = format!(
        "worker:\n  port: {port}\n  hostname: localhost\n  pod: browsers/worker-1\n  heartbeat_interval: 200ms\n  \
         key_ttl: 1000s\n  drain_timeout: 0s\n  browser_path: {}\n  node: {}\n  seal: off\n",
        browser.display(),
        node.display()
    );
    // The harness picks a port; the file has a say only without that.
    let builder = Grid::new().redis(&redis).worker_process(&[("PORT", "")]);
    let mut changing = Changing::start(builder, &[], &yaml).await;

    let keys = redis.cli(&["KEYS", "worker:chromium:*"]);
    let field = |name| redis.cli(&["HGET", &keys, name]);
    let endpoint = field("endpoint");
    assert!(
        endpoint.starts_with(&format!("ws://localhost:{port}/")),
        "{endpoint}"
    );
    assert_eq!(field("pod"), "browsers/worker-1");
    let life: i64 = redis.cli(&["TTL", &keys]).parse().unwrap();
    assert!((61..=1000).contains(&life), "{life} s");
    let marks = std::fs::read_to_string(&marks).unwrap();
    for name in ["node", "browser"] {
        assert!(marks.contains(name), "{marks}");
    }
    // Twenty of them take five seconds each by default.
    let mut last = field("lastHeartbeat");
    let beats = async {
        for _ in 0..20 {
            last = eventually("a heartbeat", async || {
                let beat = field("lastHeartbeat");
                (beat != last).then_some(beat)
            })
            .await;
        }
    };
    let soon = std::time::Duration::from_secs(60);
    tokio::time::timeout(soon, beats)
        .await
        .expect("they are frequent");

    let mut session = changing.grid.connect().await;
    let worker = changing.grid.process("worker 0");
    worker.of_kind(Kind::Playhouse)[0].signal(Signal::SIGTERM);
    // By default it would have five minutes.
    let close = tokio::time::timeout(soon, session.closed()).await;
    close.expect("the session is ended");
    changing.grid.ended("worker 0").await;
}

/// Starts workers that do not get far, and looks at what they tried.
#[tokio::test]
pub async fn a_browser_starts_with_what_is_told() {
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("arguments");
    let record = format!(
        "printf '%s\\n' \"$@\" > {0}.new\nmv {0}.new {0}",
        seen.display()
    );
    let fails = script(folder.path(), "fails", &format!("{record}\nexit 1"));
    let hangs = script(
        folder.path(),
        "hangs",
        &format!("{record}\nexec sleep 1000"),
    );
    let grid = Grid::new().redis(&redis).start().await;
    let tries = async |browser: &Path, more: &str, found: &dyn Fn(&str) -> Option<String>| {
        std::fs::remove_file(&seen).ok();
        grid.configure(&format!(
            "worker: {{ port: 0, browser_path: {}, seal: off, {more} }}",
            browser.display()
        ));
        let worker = grid.start_aside("worker", &[("REDIS_URL", &redis.url())]);
        let found = eventually("it tried", async || found(&worker.log())).await;
        worker.signal(Signal::SIGINT);
        assert!(worker.ends().await.success());
        found
    };
    let arguments = |_: &str| std::fs::read_to_string(&seen).ok();
    let has = |arguments: &str, wanted: &str| arguments.lines().any(|it| it.starts_with(wanted));

    let plain = tries(&fails, "headless: true", &arguments).await;
    assert!(
        has(&plain, "--headless") && has(&plain, "--no-sandbox"),
        "{plain}"
    );
    let other = tries(
        &fails,
        "headless: false, sandbox: true, args: [ --lang=de ]",
        &arguments,
    )
    .await;
    assert!(
        !has(&other, "--headless") && !has(&other, "--no-sandbox"),
        "{other}"
    );
    assert!(
        has(&other, "--lang=de") && !has(&plain, "--lang=de"),
        "{other}"
    );

    // By default it would have half a minute. How far it came in that time is of no matter.
    let in_time = |said: &str| said.contains("500ms").then(String::new);
    tries(&hangs, "start_timeout: 500ms", &in_time).await;
}

/// The workers' own limits go over the grid's, in selection, capacity and the line.
#[tokio::test]
pub async fn workers_of_different_sizes_are_filled_by_their_own() {
    let redis = RedisServer::start().await;
    let (small, usual) = (FakePlaywright::start().await, FakePlaywright::start().await);
    register(&redis, "usual", &usual, true);
    register(&redis, "small", &small, false);
    redis.cli(&[
        "HSET",
        "worker:chromium:small",
        "maxConcurrentSessions",
        "1",
        "maxLifetimeSessions",
        "2",
    ]);
    let grid = Grid::new()
        .redis(&redis)
        .foreign_workers(2)
        .worker_process(&[
            ("PLAYHOUSE_WORKER_MAX_CONCURRENT_SESSIONS", "4"),
            ("PLAYHOUSE_WORKER_MAX_LIFETIME_SESSIONS", "0"),
        ])
        .capacity(2)
        .lifetime(100)
        .config("recycle: { ceiling: 1 }")
        .queue_timeout(std::time::Duration::from_secs(4))
        .start()
        .await;
    let sizes = async || {
        let workers = grid.workers().await.into_iter();
        let mut sizes: Vec<_> = workers
            .map(|it| (it.max_concurrent_sessions, it.max_lifetime_sessions))
            .collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes().await, [(1, 2), (2, 100), (4, 0)]);
    eventually("the seats are counted", async || {
        let slots = grid.capacity().await.slots;
        ((slots.used, slots.free) == (0, 7)).then_some(())
    })
    .await;

    let mut sessions = Vec::new();
    for _ in 0..7 {
        sessions.push(grid.connect().await);
    }
    let full = grid.dial().refused().await;
    assert_eq!(full.status, 503, "{}", full.body);
    eventually_equal("sessions of the workers", vec![1, 2, 4], async || {
        let workers = grid.workers().await.into_iter();
        let mut actives: Vec<_> = workers.map(|it| it.active_sessions).collect();
        actives.sort_unstable();
        actives
    })
    .await;
    for session in sessions {
        session.close().await;
    }
    grid.idle().await;
    // The one with the shortest life is out of it with its second session, and is asked to recycle.
    let lifetime = redis.cli(&["HGET", "cluster:lifetime_connections", "chromium:small"]);
    assert_eq!(lifetime, "1");
    let mut sessions = Vec::new();
    for _ in 0..7 {
        sessions.push(grid.connect().await);
    }
    eventually("it is asked to recycle", async || {
        (redis.cli(&["GET", "worker:cmd:chromium:small"]) == "shutdown").then_some(())
    })
    .await;
    for session in sessions {
        session.close().await;
    }
    grid.idle().await;
    eventually_equal("free seats", 6, async || grid.capacity().await.slots.free).await;
}

#[tokio::test]
pub async fn a_client_that_does_not_say_gets_the_usual_seat() {
    let redis = RedisServer::start().await;
    let (shared, own) = (FakePlaywright::start().await, FakePlaywright::start().await);
    register(&redis, "own", &own, true);
    redis.cli(&["HSET", "worker:chromium:own", "seat", "own"]);
    let yaml = "store: { poll_interval: 200ms }\n";
    let builder = Grid::new().redis(&redis).foreign_workers(1).config(yaml);
    let changing = Changing {
        grid: builder.start().await,
        workers: String::new(),
    };
    let grid = &changing.grid;
    let worker = async |target: &'static str| {
        let session = grid.dial().target(target).connect().await;
        let session = session.map_err(|refusal| refusal.body).unwrap();
        let sessions = grid.sessions().await;
        let worker = sessions[0].worker.clone();
        session.close().await;
        grid.idle().await;
        worker
    };
    // Where there is nothing else.
    assert_eq!(worker("/").await, "own");
    let refusal = grid.dial().target("/?seat=shared").connect().await;
    let refusal = refusal.err().unwrap();
    assert_eq!(refusal.status, 428);
    assert!(refusal.body.contains("seat=own"), "{}", refusal.body);
    let unknown = grid.dial().target("/?seat=sofa").connect().await;
    assert_eq!(unknown.err().unwrap().status, 400);

    register(&redis, "shared", &shared, true);
    eventually("both are there", async || {
        (grid.workers().await.iter().filter(|it| it.serves()).count() == 2).then_some(())
    })
    .await;
    assert_eq!(worker("/").await, "shared");
    assert_eq!(worker("/?seat=own").await, "own");
    changing
        .now(&format!("{yaml}selection: {{ default_seat: own }}"))
        .await;
    assert_eq!(worker("/").await, "own");
    assert_eq!(worker("/?seat=shared").await, "shared");
    let pools = grid.capacity().await.pools;
    let seats: Vec<&str> = pools.iter().map(|pool| pool.seat.as_str()).collect();
    assert_eq!(seats, ["shared", "own"]);

    let sha256 = |token: &str| {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(token.as_bytes());
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let token =
        |name: &str, seat: &str| format!("{{ name: {name}, sha256: \"{}\"{seat} }}", sha256(name));
    changing
        .now(&format!(
            "{yaml}auth:\n  tokens: [ {}, {} ]",
            token("team", ""),
            token("strangers", ", seat: own")
        ))
        .await;
    assert_eq!(worker("/?token=team").await, "shared");
    assert_eq!(worker("/?token=strangers").await, "own");
    assert_eq!(worker("/?token=strangers&seat=shared").await, "shared");
}
