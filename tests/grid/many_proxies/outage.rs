//! Redis dies, freezes, forgets, refuses and hangs up, under load: running sessions notice nothing,
//! new ones are admitted, proxies stay ready, and afterwards every count is right.

use super::{PROXIES, PROXY_TTL, all_live, everybody_counts, grid, original_workers, stay};
use crate::support::{
    Books, Connected, Grid, Middlebox, OriginalWorker, Proxy, RedisServer, Visitors, eventually,
    eventually_equal,
};
use std::time::{Duration, Instant};

/// A proxy admits for that long without Redis: for tests that see it do so on a busy machine.
const LONG_TTL: &str = "60";

/// Three proxies, three workers, sessions that stay and others that come and go.
struct Load {
    redis: RedisServer,
    grid: Grid,
    _originals: Vec<OriginalWorker>,
    staying: Vec<Connected>,
    visitors: Visitors,
}

impl Load {
    async fn start() -> Load {
        let redis = RedisServer::start().await;
        let originals = original_workers(&redis, 3).await;
        let grid = grid(&redis, 3)
            .capacity(20)
            .lifetime(0)
            .env("PLAYHOUSE_STORE_PROXY_TTL", LONG_TTL)
            .start()
            .await;
        Load::on(redis, grid, originals).await
    }

    async fn on(redis: RedisServer, grid: Grid, originals: Vec<OriginalWorker>) -> Load {
        let staying = stay(&grid, 4).await;
        let visitors = Visitors::start(grid.proxies(), 9, usize::MAX);
        let load = Load {
            redis,
            grid,
            _originals: originals,
            staying,
            visitors,
        };
        load.goes_on().await;
        load
    }

    /// Waits until a good number of sessions has come and gone.
    async fn goes_on(&self) {
        let before = self.visitors.served();
        eventually("new sessions are served", async || {
            assert_eq!(self.visitors.failures(), [] as [String; 0]);
            (self.visitors.served() > before + 40).then_some(())
        })
        .await;
    }

    /// Waits until every proxy knows that Redis is away, and sees that all goes on.
    async fn goes_on_without_redis(&mut self) {
        for proxy in self.grid.proxies() {
            store_up(proxy, "0").await;
        }
        self.goes_on().await;
        all_live(&mut self.staying).await;
        for proxy in self.grid.proxies() {
            assert_eq!(proxy.get("/readyz", &[]).await.status, 200);
        }
    }

    async fn goes_on_with_redis(&mut self) {
        for proxy in self.grid.proxies() {
            store_up(proxy, "1").await;
        }
        self.goes_on().await;
        all_live(&mut self.staying).await;
    }

    /// Expects that each proxy said so often that Redis went away, and each time that it was back.
    async fn told(&self, outages: usize) {
        for n in 0..PROXIES {
            let name = format!("proxy {n}");
            let (away, late) = outages_told(&self.grid, &name).await;
            let told = away <= outages && away + late >= outages;
            assert!(told, "{name}: away {away} times, late {late} times");
        }
    }

    /// Ends the load, and expects exactly the sessions that stayed on everybody's books.
    async fn settle(mut self) {
        self.visitors.leave().await;
        assert_eq!(self.visitors.failures(), [] as [String; 0]);
        all_live(&mut self.staying).await;
        let staying = self.staying.len() as i64;
        everybody_counts(&self.grid, &self.redis, staying).await;
        for session in std::mem::take(&mut self.staying) {
            session.close().await;
        }
        everybody_counts(&self.grid, &self.redis, 0).await;
    }
}

/// How often a process said that Redis was away, and how often that it did not answer in time, which
/// is also what a busy machine comes to. Waits until it said each time, and at its start, that it
/// answers: one line each, in turns.
async fn outages_told(grid: &Grid, process: &str) -> (usize, usize) {
    eventually("an answer after each outage", async || {
        let log = grid.log_of(process);
        let answers = |line: &str| match line {
            _ if line.contains("the store answers") => Some(true),
            _ if line.contains("the store is away") => Some(false),
            _ => None,
        };
        let told: Vec<bool> = log.lines().filter_map(answers).collect();
        let in_turns = told.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(in_turns, "{log}");
        let away = told.iter().filter(|answers| !**answers).count();
        let late = |line: &&str| line.contains("away") && line.contains("no answer within");
        let late = log.lines().filter(late).count();
        (told.last() == Some(&true)).then_some((away - late, late))
    })
    .await
}

/// Waits until the proxy's metrics say so.
pub async fn store_up(proxy: &Proxy, expected: &str) {
    eventually_equal("store_up", expected.to_owned(), async || {
        let metrics = proxy.admin("GET", "/metrics").await.body;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("playhouse_store_up "));
        line.unwrap_or("missing").to_owned()
    })
    .await;
}

/// With a worker of ours among the others: it registers anew by itself.
#[tokio::test]
async fn redis_is_killed_and_comes_back_empty() {
    let redis = RedisServer::start().await;
    let originals = original_workers(&redis, 2).await;
    let grid = grid(&redis, 2)
        .worker_process(&[])
        .capacity(20)
        .lifetime(0)
        .env("PLAYHOUSE_STORE_PROXY_TTL", LONG_TTL)
        .env("HEARTBEAT_INTERVAL", "1")
        .start()
        .await;
    let mut load = Load::on(redis, grid, originals).await;
    let known = load.grid.workers().await.len();
    for outage in 1..=2 {
        load.redis.kill();
        load.goes_on_without_redis().await;
        load.redis.restart().await;
        load.goes_on_with_redis().await;
        load.told(outage).await;
    }
    eventually_equal("known workers", known, async || {
        load.grid.workers().await.len()
    })
    .await;
    load.settle().await;
}

/// For longer than the TTL of every proxy, so that everybody looks dead to everybody;
/// `PLAYHOUSE_TEST_PAUSE=20` makes it as many seconds. Who comes meanwhile waits.
#[tokio::test]
async fn redis_is_paused() {
    let seconds = std::env::var("PLAYHOUSE_TEST_PAUSE").map(|text| text.parse().unwrap());
    let pause = seconds.map_or(PROXY_TTL * 2, Duration::from_secs);
    let redis = RedisServer::start().await;
    let originals = original_workers(&redis, 3).await;
    let grid = grid(&redis, 3).capacity(20).lifetime(0).start().await;
    let mut load = Load::on(redis, grid, originals).await;
    load.redis.pause();
    let began = Instant::now();
    for proxy in load.grid.proxies() {
        store_up(proxy, "0").await;
    }
    eventually("the pause is over", async || {
        (began.elapsed() > pause).then_some(())
    })
    .await;
    all_live(&mut load.staying).await;
    load.redis.resume();
    let resumed = Instant::now();
    load.goes_on_with_redis().await;
    // Nobody may be judged by that.
    while resumed.elapsed() < PROXY_TTL * 2 {
        let books = Books::read(&load.redis);
        books.assert_right();
        assert!(books.active() >= load.staying.len() as i64, "{books:#?}");
        load.goes_on().await;
    }
    load.told(1).await;
    load.settle().await;
}

#[tokio::test]
async fn redis_forgets_everything() {
    let mut load = Load::start().await;
    for _ in 0..3 {
        assert_eq!(load.redis.cli(&["FLUSHALL"]), "OK");
        load.goes_on().await;
        let staying = load.staying.len() as i64;
        eventually("the seats are on the books again", async || {
            let books = Books::read(&load.redis);
            books.assert_right();
            (books.active() >= staying).then_some(())
        })
        .await;
        all_live(&mut load.staying).await;
    }
    load.told(0).await;
    load.settle().await;
}

#[tokio::test]
async fn redis_becomes_a_read_only_replica() {
    let mut load = Load::start().await;
    let nobody = "1";
    assert_eq!(load.redis.cli(&["REPLICAOF", "127.0.0.1", nobody]), "OK");
    load.goes_on_without_redis().await;
    assert_eq!(load.redis.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    load.goes_on_with_redis().await;
    load.told(1).await;
    load.settle().await;
}

#[tokio::test]
async fn redis_hangs_up_on_everybody() {
    let mut load = Load::start().await;
    for _ in 0..5 {
        let cut = load.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert!(cut.parse::<usize>().unwrap() >= PROXIES, "{cut}");
        load.goes_on().await;
        all_live(&mut load.staying).await;
    }
    load.told(0).await;
    load.settle().await;
}

/// Nobody can ask how full a worker is: each proxy gives what it held and its part of the free
/// seats, rounded down. Together that is never too much, and on a worker of one seat only who had
/// it gives it again.
#[tokio::test]
async fn while_redis_is_away_every_proxy_keeps_to_its_share() {
    for (seats, held, share) in [(10, 1, 2), (4, 1, 0), (1, 0, 0)] {
        let mut redis = RedisServer::start().await;
        let original = OriginalWorker::start(&redis, "only").await;
        let grid = grid(&redis, 1)
            .capacity(seats)
            .lifetime(0)
            .env("WORKER_SELECT_TIMEOUT", "3")
            .env("PLAYHOUSE_STORE_PROXY_TTL", LONG_TTL)
            .start()
            .await;
        let mut open = stay(&grid, held).await;
        let taken = open.len() as u32;
        for proxy in grid.proxies() {
            eventually_equal("taken seats as every proxy knows them", taken, async || {
                proxy.workers().await[0].active_sessions
            })
            .await;
        }
        redis.kill();
        for proxy in grid.proxies() {
            store_up(proxy, "0").await;
            let refusal = loop {
                match proxy.dial().connect().await {
                    Ok(session) => open.push(session),
                    Err(refusal) => break refusal,
                }
                assert!(open.len() <= seats as usize, "more than there are");
            };
            // There may be seats, which are not its to give.
            assert!(refusal.body.contains("store_away"), "{refusal:?}");
        }
        let most = PROXIES * (held + share);
        assert_eq!((open.len(), original.fake().open()), (most, most));
        // What it held it may give again.
        if let Some(session) = open.pop() {
            session.close().await;
            let proxy = grid.proxy(PROXIES - 1);
            eventually("the seat is given again", async || {
                open.push(proxy.dial().connect().await.ok()?);
                Some(())
            })
            .await;
        }

        redis.restart().await;
        for proxy in grid.proxies() {
            store_up(proxy, "1").await;
        }
        everybody_counts(&grid, &redis, most as i64).await;
        all_live(&mut open).await;
        for session in open {
            session.close().await;
        }
        everybody_counts(&grid, &redis, 0).await;
    }
}

/// One of two is cut off, and the other one is not: it seats nobody beyond the documented bound, and
/// nobody at all once the other gives its seats away.
#[tokio::test]
async fn a_proxy_that_is_cut_off_alone_stops_by_itself() {
    const SEATS: u32 = 5;
    let redis = RedisServer::start().await;
    let between = Middlebox::start(([127, 0, 0, 1], redis.port()).into(), PROXY_TTL * 100).await;
    let original = OriginalWorker::start(&redis, "only").await;
    let alone = Grid::new()
        .redis_at(between.url().replace("ws:", "redis:"))
        .foreign_workers(1)
        .capacity(SEATS)
        .lifetime(0)
        .queue_timeout(Duration::from_secs(1))
        .config("store: { proxy_ttl: 5s, poll_interval: 500ms }")
        .start()
        .await;
    let others = grid(&redis, 1).capacity(SEATS).lifetime(0).start().await;
    let mut open = stay(&alone, 1).await;
    everybody_counts(&others, &redis, 1).await;
    between.hold(true);
    store_up(&alone, "0").await;
    // The others take all that is left: four, of which each of four proxies has a part of one.
    for _ in 1..SEATS {
        open.push(others.connect().await);
    }
    while let Ok(session) = alone.dial().connect().await {
        open.push(session);
        assert!(open.len() <= SEATS as usize + 1, "{} are open", open.len());
    }
    eventually("it has stopped", async || {
        let refusal = alone.dial().connect().await.err()?;
        refusal.body.contains("store_away").then_some(())
    })
    .await;
    let stopped_with = original.fake().open();
    eventually_equal("what the others count", i64::from(SEATS) - 1, async || {
        Books::read(&redis).active()
    })
    .await;
    // Its own sessions run on; of those that end none is replaced.
    open.remove(0).close().await;
    assert!(alone.dial().connect().await.is_err());
    eventually("its session ends at the worker too", async || {
        (original.fake().open() < stopped_with).then_some(())
    })
    .await;
    between.hold(false);
    store_up(&alone, "1").await;
    all_live(&mut open).await;
    everybody_counts(&others, &redis, open.len() as i64).await;
}

#[tokio::test]
async fn a_strict_grid_refuses_while_redis_is_away() {
    let mut redis = RedisServer::start().await;
    let _original = OriginalWorker::start(&redis, "only").await;
    let grid = grid(&redis, 1)
        .env("PLAYHOUSE_STORE_STRICT", "true")
        .start()
        .await;
    let mut session = grid.connect().await;
    redis.kill();
    store_up(&grid, "0").await;
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 503);
    assert!(refusal.body.contains("store_away"), "{refusal:?}");
    assert_eq!(refusal.header("retry-after"), Some("1"));
    let told = grid.dial().playwright("1.65.0").refused().await;
    assert!(
        told.body.contains("shared store is out of reach"),
        "{told:?}"
    );
    session.echo("still here").await;

    redis.restart().await;
    store_up(&grid, "1").await;
    grid.connect().await.echo("hello").await;
    session.echo("still here").await;
}

#[tokio::test]
async fn a_grid_that_starts_before_redis_waits_and_says_so() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let grid = grid(&redis, 0)
        .worker_process(&[])
        .env("PLAYHOUSE_STORE_STRICT", "false")
        .launch()
        .await;
    for n in 0..PROXIES {
        eventually("it says why it is not ready", async || {
            let answer = grid.proxy(n).admin_if_it_listens("/readyz").await?;
            (answer.status == 503 && answer.body.contains("store")).then_some(())
        })
        .await;
    }
    let refusal = grid.dial().refused().await;
    assert_eq!(refusal.status, 503);
    for name in ["proxy 0", "proxy 1", "proxy 2", "worker 0"] {
        eventually_equal("lines about it", 1, async || {
            let log = grid.log_of(name);
            log.lines()
                .filter(|line| line.contains("the store is away"))
                .count()
        })
        .await;
    }
    redis.restart().await;
    for proxy in grid.proxies() {
        eventually("it is ready", async || {
            (proxy.get("/readyz", &[]).await.status == 200).then_some(())
        })
        .await;
        eventually("it knows the worker", async || {
            proxy
                .workers()
                .await
                .iter()
                .any(|it| it.serves())
                .then_some(())
        })
        .await;
        proxy.connect().await.close().await;
    }
    everybody_counts(&grid, &redis, 0).await;
    for name in ["proxy 0", "proxy 1", "proxy 2", "worker 0"] {
        assert_eq!(outages_told(&grid, name).await.0, 1, "{name}");
    }
}
