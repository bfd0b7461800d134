//! What gets lost: proxies that die or freeze, and Redis itself in all the ways it can fail. Counts
//! come out right, running sessions keep their seats, and new ones go on.

use crate::model::audit;
use crate::stores::*;
use crate::support::{RedisServer, eventually_equal, free_port};
use futures_util::FutureExt;
use playhouse::model::{Heartbeat, SessionId, WorkerKey};
use playhouse::store::redis::RedisStore;
use playhouse::store::{
    Candidate, Event, Peers, Reserved, SeatStore, StoreError, StoreRole, WorkerStore,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;

const SEATS: u32 = 30;

/// Three proxies, two workers, and sessions that come and go without a pause.
struct Load {
    proxies: Vec<Arc<RedisStore>>,
    _agent: RedisStore,
    workers: Vec<WorkerKey>,
    /// Sessions that stay open throughout, with the proxy that holds each.
    open: Vec<(usize, SessionId, WorkerKey)>,
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Tally {
    seated: AtomicU64,
    /// Admitted without the store, because it was away.
    adopted: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    async fn start(redis: &RedisServer) -> Load {
        let agent = store(redis, StoreRole::Worker).await;
        let workers = vec![key("a"), key("b")];
        for worker in &workers {
            agent.register(&record(worker), TTL).await.unwrap();
        }
        let mut load = Load {
            proxies: Vec::new(),
            _agent: agent,
            workers,
            open: Vec::new(),
            stop: Arc::default(),
            tally: Arc::default(),
            clients: JoinSet::new(),
        };
        for i in 0..3 {
            let proxy = Arc::new(store(redis, StoreRole::Proxy).await);
            proxy.fleet().await.unwrap();
            for worker in &load.workers {
                let (session, ..) = seat(&*proxy, &[candidate(worker, SEATS, None)]).await;
                load.open.push((i, session, worker.clone()));
            }
            load.proxies.push(proxy);
        }
        for i in 0..6 {
            let (proxy, order) = (load.proxies[i % 3].clone(), load.order());
            let (stop, tally) = (load.stop.clone(), load.tally.clone());
            load.clients.spawn(client(proxy, order, stop, tally));
        }
        load
    }

    fn order(&self) -> Vec<Candidate> {
        let workers = self.workers.iter();
        workers.map(|key| candidate(key, SEATS, None)).collect()
    }

    /// Sessions that got their seat from the store so far.
    fn seated(&self) -> u64 {
        self.tally.seated.load(Ordering::Relaxed)
    }

    /// Until the store gives seats again.
    async fn goes_on(&self) {
        let before = self.seated();
        eventually_equal("sessions get seats from the store", true, async || {
            self.seated() > before + 20
        })
        .await;
    }

    /// Ends the load, and expects exactly the open sessions on the books.
    async fn settle(mut self, redis: &RedisServer) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let open = self.open.len() as u64;
        for (i, proxy) in self.proxies.iter().enumerate() {
            let what = format!("active sessions as proxy {i} sees them");
            eventually_equal(&what, Ok(open), async || {
                let active = proxy.active_sessions().await;
                active.map_err(|error| error.to_string())
            })
            .await;
        }
        audit(redis);
        for (proxy, session, worker) in std::mem::take(&mut self.open) {
            let expected = self.proxies[proxy].active_sessions().await.unwrap() - 1;
            release(&*self.proxies[proxy], session, false).await;
            let left = self.proxies[proxy].active_sessions().await.unwrap();
            assert_eq!(left, expected, "the seat on {worker} was not held any more");
        }
        for worker in &self.workers {
            let counts = counts(&*self.proxies[0], worker).await;
            assert_eq!(counts.unwrap().0, 0);
        }
        audit(redis);
        self.tally.clone()
    }
}

async fn client(
    proxy: Arc<RedisStore>,
    order: Vec<Candidate>,
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
) {
    while !stop.load(Ordering::Relaxed) {
        let mut session = SessionId::random();
        match proxy.reserve(session, &order).await {
            Ok(Reserved::Seat { .. }) => tally.seated.fetch_add(1, Ordering::Relaxed),
            Ok(_) => tally.refused.fetch_add(1, Ordering::Relaxed),
            Err(StoreError::Away(_)) => {
                session = SessionId::random();
                proxy.adopt(session, &order[0].key);
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                tally.adopted.fetch_add(1, Ordering::Relaxed)
            }
            Err(error) => panic!("{error}"),
        };
        tokio::task::yield_now().await;
        match proxy.release(session, false).await {
            Ok(()) | Err(StoreError::Away(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn becomes(proxy: &RedisStore, reachable: bool) {
    eventually_equal("reachable", reachable, async || proxy.reachable()).await;
}

/// Ten times, with fifty sessions on it. A store that is dropped says no more than a process that
/// is killed: its connection closes.
#[tokio::test]
async fn a_dead_proxy_gives_its_seats_back() {
    let redis = RedisServer::start().await;
    let agent = store(&redis, StoreRole::Worker).await;
    let a = key("a");
    agent.register(&record(&a), TTL).await.unwrap();
    let order = [candidate(&a, 1000, None)];
    let survivors = [
        store(&redis, StoreRole::Proxy).await,
        store(&redis, StoreRole::Proxy).await,
    ];
    let mut kept = Vec::new();
    let mut slowest = std::time::Duration::ZERO;
    for round in 0..10u32 {
        let victim = store(&redis, StoreRole::Proxy).await;
        for _ in 0..50 {
            seat(&victim, &order).await;
        }
        kept.push(seat(&survivors[round as usize % 2], &order).await.0);
        let lifetime = 51 * (round + 1);
        assert_eq!(
            counts(&victim, &a).await,
            Some((50 + round + 1, lifetime)),
            "before its death"
        );
        drop(victim);
        let died = Instant::now();
        eventually_equal(
            "only the others' seats are taken",
            (round + 1, lifetime),
            async || {
                audit(&redis);
                counts(&survivors[1], &a).await.unwrap()
            },
        )
        .await;
        slowest = slowest.max(died.elapsed());
    }
    println!("seats of a dead proxy were free after {slowest:?} at most, its TTL is {PROXY_TTL:?}");
    for (round, session) in kept.into_iter().enumerate() {
        release(&survivors[round % 2], session, false).await;
    }
    assert_eq!(counts(&survivors[0], &a).await, Some((0, 510)));
    audit(&redis);
}

/// A runtime that nobody polls is a process that is stopped: connected, and silent.
#[test]
fn a_frozen_proxy_finds_what_was_taken() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (freezer, world) = (runtime(), runtime());
    let a = key("a");
    let order = [candidate(&a, 10, None)];

    let (redis, other) = world.block_on(async {
        let redis = RedisServer::start().await;
        let other = store(&redis, StoreRole::Proxy).await;
        other.register(&record(&a), TTL).await.unwrap();
        (redis, other)
    });
    let (frozen, session, stays) = freezer.block_on(async {
        let frozen = store(&redis, StoreRole::Proxy).await;
        let (session, ..) = seat(&frozen, &order).await;
        let (stays, ..) = seat(&frozen, &order).await;
        (frozen, session, stays)
    });
    world.block_on(async {
        eventually_equal("the seats are taken back", Some((0, 2)), async || {
            counts(&other, &a).await
        })
        .await;
        audit(&redis);
    });
    freezer.block_on(async {
        // One of its sessions ended meanwhile: that must not count twice.
        release(&frozen, session, false).await;
        eventually_equal(
            "what it still holds is counted again",
            Some((1, 2)),
            async || counts(&frozen, &a).await,
        )
        .await;
        audit(&redis);
        release(&frozen, stays, false).await;
        assert_eq!(counts(&frozen, &a).await, Some((0, 2)));
    });
    audit(&redis);
    // Their tasks end with their runtimes.
    drop((frozen, other));
}

/// A way to Redis that can be cut.
struct Relay {
    server: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn start(redis: &RedisServer, port: u16) -> Relay {
        let address = (std::net::Ipv4Addr::LOCALHOST, port);
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let redis = redis.port();
        let server = tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    let server = tokio::net::TcpStream::connect(("127.0.0.1", redis)).await;
                    tokio::io::copy_bidirectional(&mut client, &mut server.unwrap()).await
                });
            }
        });
        Relay { server }
    }

    /// Cuts every connection, and takes no new one.
    async fn cut(self) {
        self.server.abort();
        // It ends by being cancelled.
        self.server.await.ok();
    }
}

/// Else the seat that it gives back goes to somebody else's session, while its own new session has
/// it.
#[tokio::test]
async fn who_was_cut_off_tells_of_new_sessions_before_it_gives_back_old_seats() {
    let redis = RedisServer::start().await;
    let port = free_port();
    let relay = Relay::start(&redis, port).await;
    let store = |url: String| {
        let mut config = store_config(url);
        // Nobody is taken for dead.
        config.proxy_ttl = TTL;
        connect(&config, StoreRole::Proxy)
    };
    let other = store(redis.url());
    let cut_off = store(format!("redis://127.0.0.1:{port}"));
    becomes(&other, true).await;
    becomes(&cut_off, true).await;
    let a = key("a");
    other.register(&record(&a), TTL).await.unwrap();
    let (old, ..) = seat(&cut_off, &[candidate(&a, 1, None)]).await;

    relay.cut().await;
    becomes(&cut_off, false).await;
    let away = cut_off.release(old, false).await;
    assert!(matches!(away, Err(StoreError::Away(_))), "{away:?}");
    let new = SessionId::random();
    cut_off.adopt(new, &a);

    let mut events = other.events();
    let _relay = Relay::start(&redis, port).await;
    eventually_equal("both are counted", Some((1, 2)), async || {
        counts(&other, &a).await
    })
    .await;
    while let Ok(event) = events.try_recv() {
        if let Event::Counts(_, counts) = event {
            assert!(counts.active > 0, "the seat was free for a moment");
        }
    }
    // Redis has its word before it knows of the answer.
    becomes(&cut_off, true).await;
    release(&cut_off, new, false).await;
    assert_eq!(counts(&other, &a).await, Some((0, 2)));
    audit(&redis);
}

#[tokio::test]
async fn who_says_goodbye_leaves_nothing() {
    let redis = RedisServer::start().await;
    let other = store(&redis, StoreRole::Proxy).await;
    let a = key("a");
    other.register(&record(&a), TTL).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut config = store_config(redis.url());
    // It would take a minute to be missed.
    config.proxy_ttl = TTL;
    let leaver = RedisStore::connect(&config, StoreRole::Proxy, stopped).unwrap();
    seat(&leaver, &[candidate(&a, 5, None)]).await;
    stop.send(true).unwrap();
    stop.closed().await;
    eventually_equal("its seat is free", Some((0, 1)), async || {
        counts(&other, &a).await
    })
    .await;
    let proxies: usize = query(&redis, &["SCARD", "playhouse:proxies"]);
    assert_eq!(proxies, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dies_and_comes_back_empty() {
    let mut redis = RedisServer::start().await;
    let load = Load::start(&redis).await;
    load.goes_on().await;
    let lifetime = counts(&*load.proxies[0], &load.workers[0]).await.unwrap().1;
    for round in 0..2 {
        redis.kill();
        for proxy in &load.proxies {
            becomes(proxy, false).await;
        }
        let adopted = load.tally.adopted.load(Ordering::Relaxed);
        eventually_equal("sessions are admitted without it", true, async || {
            load.tally.adopted.load(Ordering::Relaxed) > adopted + 10
        })
        .await;
        redis.restart().await;
        for proxy in &load.proxies {
            becomes(proxy, true).await;
        }
        load.goes_on().await;
        let now = counts(&*load.proxies[0], &load.workers[0]).await.unwrap().1;
        assert!(now >= lifetime, "round {round}: {now} after {lifetime}");
    }
    let tally = load.settle(&redis).await;
    assert_eq!(tally.refused.load(Ordering::Relaxed), 0);
}

/// A proxy that cannot speak yet when Redis comes back without what it held: nobody gets its seats
/// before it does. `lose` makes Redis forget.
fn seats_of_the_silent_are_kept(lose: fn(&mut RedisServer)) {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (freezer, world) = (runtime(), runtime());
    let a = key("a");
    let order = [candidate(&a, 4, None)];
    let (mut redis, agent, other) = world.block_on(async {
        let redis = RedisServer::start().await;
        let agent = store(&redis, StoreRole::Worker).await;
        agent.register(&record(&a), TTL).await.unwrap();
        let other = store(&redis, StoreRole::Proxy).await;
        (redis, agent, other)
    });
    // For a store that forgets only what came after this.
    redis.cli(&["SAVE"]);
    let (silent, held) = freezer.block_on(async {
        let silent = store(&redis, StoreRole::Proxy).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(seat(&silent, &order).await.0);
        }
        (silent, held)
    });
    world.block_on(async {
        seat(&other, &order).await;
        eventually_equal("it knows of all four", Some((4, 4)), async || {
            counts(&other, &a).await
        })
        .await;
        lose(&mut redis);
        eventually_equal("it is asked again", true, async || {
            match other.reserve(SessionId::random(), &order).await {
                Ok(Reserved::Full { counts }) => {
                    assert_eq!((counts[0].1.active, counts[0].1.lifetime), (4, 4));
                    true
                }
                Ok(taken) => panic!("somebody else's seat is given away: {taken:?}"),
                Err(_) => false,
            }
        })
        .await;
        audit(&redis);
    });
    freezer.block_on(async {
        eventually_equal("what it holds is on the books", Ok(3), async || {
            let key = "return redis.call('HLEN', KEYS[1])";
            let leases = redis.cli(&["KEYS", "playhouse:leases:*"]);
            let of_both = leases.lines().filter(|name| !name.ends_with("ghosts"));
            let sizes = of_both.map(|name| redis.cli(&["EVAL", key, "1", name]));
            let most = sizes.map(|size| size.parse::<u32>().unwrap()).max();
            most.ok_or("no leases")
        })
        .await;
        for session in held {
            release(&silent, session, false).await;
        }
        eventually_equal("its seats are free", Some((1, 4)), async || {
            counts(&silent, &a).await
        })
        .await;
    });
    audit(&redis);
    drop((silent, agent, other));
}

#[test]
fn an_empty_redis_keeps_the_seats_of_the_silent() {
    seats_of_the_silent_are_kept(|redis| {
        redis.cli(&["FLUSHALL"]);
    });
}

/// It starts from the snapshot that it made before the seats were taken.
#[test]
fn an_old_redis_keeps_the_seats_of_the_silent_and_all_lifetimes() {
    seats_of_the_silent_are_kept(|redis| {
        redis.kill();
        redis.restart_now();
    });
}

/// Of somebody who never comes back nothing is kept for good.
#[tokio::test]
async fn an_empty_redis_forgets_the_dead() {
    let redis = RedisServer::start().await;
    let agent = store(&redis, StoreRole::Worker).await;
    let a = key("a");
    agent.register(&record(&a), TTL).await.unwrap();
    let (other, victim) = (
        store(&redis, StoreRole::Proxy).await,
        store(&redis, StoreRole::Proxy).await,
    );
    for _ in 0..5 {
        seat(&victim, &[candidate(&a, 5, None)]).await;
    }
    eventually_equal("it knows of all five", Some((5, 5)), async || {
        counts(&other, &a).await
    })
    .await;
    drop(victim);
    redis.cli(&["FLUSHALL"]);
    eventually_equal("all seats are free", Some((0, 5)), async || {
        counts(&other, &a).await
    })
    .await;
    audit(&redis);
}

/// Redis starts again and again from the same old snapshot.
#[tokio::test]
async fn lifetimes_do_not_rewind() {
    let mut redis = RedisServer::start().await;
    let agent = store(&redis, StoreRole::Worker).await;
    let proxy = store(&redis, StoreRole::Proxy).await;
    let a = key("a");
    let order = [candidate(&a, 5, None)];
    agent.register(&record(&a), TTL).await.unwrap();
    let (open, ..) = seat(&proxy, &order).await;
    redis.cli(&["SAVE"]);
    let mut served = 1;
    for _ in 0..3 {
        for _ in 0..4 {
            let (session, ..) = seat(&proxy, &order).await;
            release(&proxy, session, false).await;
            served += 1;
        }
        redis.kill();
        redis.restart().await;
        becomes(&proxy, true).await;
        eventually_equal("sessions of its life", Some((1, served)), async || {
            counts(&proxy, &a).await
        })
        .await;
    }
    release(&proxy, open, false).await;
    eventually_equal("sessions of its life", Some((0, served)), async || {
        counts(&proxy, &a).await
    })
    .await;
    audit(&redis);
}

/// What only the worker's agent remembers, because no proxy lived on.
#[tokio::test]
async fn a_workers_heartbeat_carries_its_lifetime() {
    let redis = RedisServer::start().await;
    let agent = store(&redis, StoreRole::Worker).await;
    let a = key("a");
    agent.register(&record(&a), TTL).await.unwrap();
    let proxy = store(&redis, StoreRole::Proxy).await;
    for _ in 0..7 {
        let (session, ..) = seat(&proxy, &[candidate(&a, 5, None)]).await;
        release(&proxy, session, false).await;
    }
    drop(proxy);
    let available = playhouse::model::WorkerStatus::Available;
    let beat = agent
        .heartbeat(&a, Heartbeat::new(available, None), TTL)
        .await
        .unwrap();
    assert_eq!(beat.counts.lifetime, 7);
    redis.cli(&["HSET", "cluster:lifetime_connections", "chromium:a", "2"]);
    let beat = agent
        .heartbeat(&a, Heartbeat::new(available, None), TTL)
        .await
        .unwrap();
    assert_eq!(beat.counts.lifetime, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied() {
    let redis = RedisServer::start().await;
    let load = Load::start(&redis).await;
    for _ in 0..5 {
        load.goes_on().await;
        let lifetime = counts(&*load.proxies[0], &load.workers[0]).await.unwrap().1;
        query::<()>(&redis, &["FLUSHALL"]);
        load.goes_on().await;
        let now = counts(&*load.proxies[0], &load.workers[0]).await.unwrap().1;
        assert!(now >= lifetime, "{now} after {lifetime}");
    }
    let tally = load.settle(&redis).await;
    assert_eq!(tally.refused.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_cut() {
    let redis = RedisServer::start().await;
    let load = Load::start(&redis).await;
    for _ in 0..5 {
        load.goes_on().await;
        let cut: u64 = query(&redis, &["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert!(cut > 0);
    }
    load.goes_on().await;
    let tally = load.settle(&redis).await;
    assert_eq!(tally.refused.load(Ordering::Relaxed), 0);
}

/// Longer than every TTL of a proxy, so that on return everybody looks dead to everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_paused() {
    let redis = RedisServer::start().await;
    let load = Load::start(&redis).await;
    load.goes_on().await;
    redis.pause();
    let paused = Instant::now();
    for proxy in &load.proxies {
        becomes(proxy, false).await;
        // Known to be away, it is not waited for.
        let session = SessionId::random();
        let refused = proxy.reserve(session, &load.order()).now_or_never();
        assert!(
            matches!(refused, Some(Err(StoreError::Away(_)))),
            "{refused:?}"
        );
    }
    eventually_equal("every TTL has run out", true, async || {
        paused.elapsed() > PROXY_TTL * 4
    })
    .await;
    let mut events = load.proxies[0].events();
    redis.resume();
    for proxy in &load.proxies {
        becomes(proxy, true).await;
    }
    load.goes_on().await;
    load.goes_on().await;
    let open = load.open.len() as u32 / 2;
    while let Ok(event) = events.try_recv() {
        if let Event::Counts(worker, counts) = event {
            assert!(
                counts.active >= open,
                "seats of the living on {worker} were given away: {counts:?}"
            );
        }
    }
    load.settle(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_read_only() {
    let redis = RedisServer::start().await;
    let load = Load::start(&redis).await;
    load.goes_on().await;
    let nobody = "1";
    let spells: [(&[&str], &[&str]); 2] = [
        (
            &["REPLICAOF", "127.0.0.1", nobody],
            &["REPLICAOF", "NO", "ONE"],
        ),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
    ];
    for (cast, lift) in spells {
        query::<()>(&redis, cast);
        for proxy in &load.proxies {
            becomes(proxy, false).await;
        }
        query::<()>(&redis, lift);
        for proxy in &load.proxies {
            becomes(proxy, true).await;
        }
        load.goes_on().await;
    }
    let tally = load.settle(&redis).await;
    assert_eq!(tally.refused.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn changes_of_state_are_told_once() {
    let mut redis = RedisServer::start().await;
    let proxy = store(&redis, StoreRole::Proxy).await;
    let mut events = proxy.events();
    redis.kill();
    becomes(&proxy, false).await;
    for _ in 0..20 {
        let reserved = proxy.reserve(SessionId::random(), &[]).await;
        assert!(matches!(reserved, Err(StoreError::Away(_))));
    }
    redis.restart().await;
    becomes(&proxy, true).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        told.push(event(&mut events, Some).await);
    }
    assert_eq!(
        told,
        [
            Event::Reachable(false),
            Event::Reachable(true),
            Event::Resync
        ]
    );
}
