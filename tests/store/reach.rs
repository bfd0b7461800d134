//! The ways to a Redis: TCP, Unix socket, TLS, user and password, database number; and one that is
//! late.

use crate::stores::*;
use crate::support::{RedisServer, RedisUser, Sentinels, eventually, eventually_equal, free_port};
use playhouse::model::{Heartbeat, RecycleReason, SessionId, WorkerStatus};
use playhouse::store::redis::RedisStore;
use playhouse::store::{
    Event, Peers, Permit, PermitHolder, PermitPool, PermitStore, SeatStore, StoreError,
    StoreOptions, StoreRole, WorkerStore,
};
use std::path::Path;
use std::process::Command;

async fn works(url: String) -> RedisStore {
    let store = connect(&store_config(url), StoreRole::Proxy);
    let a = key("a");
    eventually_equal("the store is reachable", true, async || store.reachable()).await;
    let mut events = store.events();
    store.register(&record(&a), TTL).await.unwrap();
    let (session, ..) = seat(&store, &[candidate(&a, 1, None)]).await;
    release(&store, session, false).await;
    store.order_recycle(&a, TTL).await.unwrap();
    event(&mut events, |event| {
        matches!(event, Event::Recycle(_)).then_some(())
    })
    .await;
    assert_eq!(counts(&store, &a).await, Some((0, 1)));
    store.deregister(&a).await.unwrap();
    store
}

#[tokio::test]
async fn by_tcp() {
    let redis = RedisServer::start().await;
    let store = works(redis.url()).await;
    let address = store.own_address().await.unwrap();
    assert!(address.is_loopback(), "{address}");
}

#[tokio::test]
async fn by_unix_socket() {
    let redis = RedisServer::start().await;
    let url = format!("redis+unix://{}?db=2", redis.socket().display());
    let store = works(url).await;
    assert_eq!(store.own_address().await, None);
    assert_eq!(redis.cli(&["-n", "2", "EXISTS", "playhouse:grid"]), "1");
}

#[tokio::test]
async fn by_database_number() {
    let redis = RedisServer::start().await;
    let _store = works(format!("{}/3", redis.url())).await;
    assert_eq!(redis.cli(&["EXISTS", "playhouse:grid"]), "0");
    assert_eq!(redis.cli(&["-n", "3", "EXISTS", "playhouse:grid"]), "1");
}

/// All that proxies and workers ask of Redis, each with its own user: also to put right what somebody
/// disturbed, and what Redis forgot.
#[tokio::test]
async fn as_users_with_the_documented_rights() {
    for (namespace, database) in [(None, 0), (Some("ci"), 2)] {
        let redis = RedisServer::start().await;
        let user = |name| {
            let user = RedisUser::documented(name);
            let user = namespace.map_or(user.clone(), |it| user.in_namespace(it));
            StoreOptions {
                namespace: namespace.map(str::to_owned),
                ..store_config(format!("{}/{database}", user.enter(&redis)))
            }
        };
        let (of_proxies, of_workers) = (user("proxy"), user("worker"));
        let proxies = [0, 1].map(|_| connect(&of_proxies, StoreRole::Proxy));
        let agent = connect(&of_workers, StoreRole::Worker);
        for store in proxies.iter().chain([&agent]) {
            eventually_equal("the store is reachable", true, async || store.reachable()).await;
        }
        let database = database.to_string();
        let cli = |command: &[&str]| redis.cli(&[&["-n", &database], command].concat());
        let name = |key: &str| namespace.map_or(key.to_owned(), |it| format!("{it}:{key}"));

        workers_do_their_part(&agent).await;
        proxies_do_their_part(&proxies).await;

        let a = key("a");
        let order = [candidate(&a, 5, None)];
        done("register", async || agent.register(&record(&a), TTL).await).await;
        let mut events = agent.events();
        eventually("the worker hears of an order", async || {
            proxies[0].order_recycle(&a, TTL).await.ok();
            let heard = std::iter::from_fn(|| events.try_recv().ok());
            heard
                .into_iter()
                .any(|event| matches!(event, Event::Recycle(_)))
                .then_some(())
        })
        .await;
        let (session, ..) = seat(&proxies[0], &order).await;
        let heard = async || {
            let available = WorkerStatus::Available;
            let reply = agent
                .heartbeat(&a, Heartbeat::new(available, Some(1)), TTL)
                .await;
            let reply = reply.unwrap_or_default();
            if reply.unknown {
                agent.register(&record(&a), TTL).await.ok();
            }
            reply.counts.active
        };
        eventually_equal("seats that the worker knows of", 1, heard).await;
        for key in ["playhouse:recycles", "cluster:active_connections"] {
            assert_eq!(cli(&["SET", &name(key), "on monday"]), "OK");
            eventually_equal("seats, of a key that was overwritten", 1, heard).await;
            done("recycles", async || {
                agent.count_recycle(&a, RecycleReason::Age).await
            })
            .await;
        }
        assert_eq!(cli(&["FLUSHDB"]), "OK");
        eventually_equal("seats, of a Redis that was emptied", 1, heard).await;
        proxies[0].release(session, false).await.ok();
        eventually_equal("seats that are left", 0, heard).await;
        done("deregister", async || agent.deregister(&a).await).await;
        let denied = redis.cli(&["ACL", "LOG"]);
        assert_eq!(denied, "", "something was not permitted");
    }
}

/// Asks until there is an answer: on a slow machine Redis looks as if it were away.
async fn done<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    eventually(what, async || match call().await {
        Err(StoreError::Away(_)) => None,
        answer => Some(answer.unwrap()),
    })
    .await
}

fn permit<'a>(pool: PermitPool<'a>, holder: PermitHolder<'a>) -> Permit<'a> {
    Permit {
        pool,
        holder,
        version: 1,
        weight: 1,
        bound: Some(1),
        ttl: TTL,
    }
}

async fn workers_do_their_part(agent: &RedisStore) {
    let b = &key("b");
    done("register", async || agent.register(&record(b), TTL).await).await;
    let warm_up = permit(PermitPool::WarmUps, PermitHolder::Worker(b));
    assert!(done("warm up", async || agent.hold(warm_up).await).await);
    done("recycles", async || {
        agent.count_recycle(b, RecycleReason::Age).await
    })
    .await;
    done("OOM kills", async || agent.count_oom_kills(1).await).await;
    eventually("its address", async || agent.own_address().await).await;
    done("deregister", async || agent.deregister(b).await).await;
}

async fn proxies_do_their_part(proxies: &[RedisStore; 2]) {
    let [one, another] = proxies;
    another.serve_peers(Box::new(|question| format!("{question}!")));
    eventually_equal("the other one answers", true, async || {
        let asked = one.query_peers("well?", TTL, |answer| answer == "well?!");
        asked.await.is_ok_and(|answers| !answers.given.is_empty())
    })
    .await;
    let secret = done("a secret", async || one.shared_secret().await).await;
    let shared = done("the secret", async || another.shared_secret().await).await;
    assert_eq!(secret, shared);
    done("a ticket", async || one.use_once("ticket", TTL).await).await;
    let quota = permit(
        PermitPool::Sessions { tenant: "ci" },
        PermitHolder::ThisProxy,
    );
    assert!(done("a quota", async || one.hold(quota).await).await);
    let c = &key("c");
    done("register", async || one.register(&record(c), TTL).await).await;
    let turn = async || one.order_recycle_with_permit(c, TTL, 1, TTL).await;
    assert!(done("a turn", turn).await);
    done("a word to a worker", async || one.suspect(c).await).await;
    done("recycles", async || one.recycles().await).await;
    done("OOM kills", async || one.oom_kills().await).await;
    done("sessions", async || one.active_sessions().await).await;
    done("reaping", async || one.reap().await).await;
    done("deregister", async || one.deregister(c).await).await;
}

#[tokio::test]
async fn by_sentinels_as_a_user_that_may_ask_who_is_the_primary() {
    let sentinels = Sentinels::start().await;
    let user = RedisUser::documented("proxy").and("+role");
    for server in &sentinels.servers {
        user.enter(server);
    }
    works(user.url(&sentinels.url())).await;
}

#[tokio::test]
async fn a_password_is_never_told() {
    let redis = RedisServer::start().await;
    let address = format!("127.0.0.1:{}", redis.port());
    for url in [
        format!("redis://grid:s3cret@{address}"),
        "redis://grid:s3cret@127.0.0.1:1/".to_owned(),
    ] {
        let config = store_config(url);
        assert!(!format!("{config:?}").contains("s3cret"));
        let store = connect(&config, StoreRole::Proxy);
        let error = store.reserve(SessionId::random(), &[]).await.unwrap_err();
        assert!(matches!(error, StoreError::Away(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
    for url in [
        "redis://grid:s3cret@",
        "http://grid:s3cret@h/",
        "grid:s3cret",
    ] {
        let (_stop, stopped) = tokio::sync::watch::channel(false);
        let config = store_config(url.to_owned());
        let Err(error) = RedisStore::connect(&config, StoreRole::Proxy, stopped) else {
            panic!("{url} was taken");
        };
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
}

/// What Redis refuses while all is running is told as what it is, and is over when it is put right.
#[tokio::test]
async fn a_refusal_says_what_is_wrong() {
    let redis = RedisServer::start().await;
    let user = RedisUser::documented("proxy");
    let store = connect(&store_config(user.enter(&redis)), StoreRole::Proxy);
    let a = key("a");
    let order = [candidate(&a, 100, None)];
    store.register(&record(&a), TTL).await.unwrap();
    let says = async |words: &str| {
        eventually_equal("what it says", words.to_owned(), async || {
            let refused = store.reserve(SessionId::random(), &order).await;
            let text = format!("{refused:?}");
            assert!(!text.contains("s3cret"), "{text}");
            if text.contains(words) {
                words.to_owned()
            } else {
                text
            }
        })
        .await;
    };
    let goes_on = async |after: &str| {
        eventually_equal(&format!("it goes on after {after}"), true, async || {
            let reserved = store.reserve(SessionId::random(), &order).await;
            matches!(reserved, Ok(playhouse::store::Reserved::Seat { .. }))
        })
        .await;
    };
    goes_on("the start").await;

    for missing in ["~cluster:*", "+@write", "+evalsha", "&playhouse:*"] {
        user.clone().without(missing).enter(&redis);
        // What it subscribed to before, it keeps: for this one it has to come anew.
        redis.cli(&["CLIENT", "KILL", "USER", "proxy"]);
        says("may not do what Playhouse needs").await;
        user.enter(&redis);
        goes_on(missing).await;
    }
    for (broken, repaired, words) in [
        (["maxmemory", "1"], ["maxmemory", "0"], "memory is full"),
        (
            ["min-replicas-to-write", "1"],
            ["min-replicas-to-write", "0"],
            "min-replicas-to-write",
        ),
    ] {
        redis.cli(&[&["CONFIG", "SET"], &broken[..]].concat());
        says(words).await;
        redis.cli(&[&["CONFIG", "SET"], &repaired[..]].concat());
        goes_on(words).await;
    }
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    says("this is a replica").await;
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    goes_on("being a replica").await;
    redis.cli(&["ACL", "SETUSER", "proxy", "resetpass", ">other"]);
    redis.cli(&["CLIENT", "KILL", "USER", "proxy"]);
    says("user or password").await;
}

#[tokio::test]
async fn a_cluster_and_a_sentinel_are_refused_at_once() {
    let cluster = RedisServer::with(&["--cluster-enabled", "yes"]).await;
    let store = connect(&store_config(cluster.url()), StoreRole::Proxy);
    let refused = store.usable().await.unwrap_err();
    assert!(refused.to_string().contains("Redis Cluster"), "{refused}");

    let sentinels = Sentinels::start().await;
    let one = sentinels.url();
    let one = one
        .split(',')
        .next()
        .unwrap()
        .replace("redis+sentinel", "redis");
    let store = connect(&store_config(one), StoreRole::Proxy);
    let refused = store.usable().await.unwrap_err();
    assert!(refused.to_string().contains("Sentinel"), "{refused}");
    works(sentinels.url()).await;
}

#[tokio::test]
async fn a_redis_that_is_late_is_waited_for() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let store = connect(&store_config(redis.url()), StoreRole::Proxy);
    let mut events = store.events();
    let a = key("a");
    let order = [candidate(&a, 5, None)];
    let early = store.reserve(SessionId::random(), &order).await;
    assert!(matches!(early, Err(StoreError::Away(_))), "{early:?}");
    assert!(!store.reachable());
    assert_eq!(event(&mut events, Some).await, Event::Reachable(false));
    redis.restart().await;
    assert_eq!(event(&mut events, Some).await, Event::Reachable(true));
    store.register(&record(&a), TTL).await.unwrap();
    seat(&store, &order).await;
}

/// The system's root certificates are read from the environment, so this runs itself once more,
/// with an environment of its own.
#[tokio::test]
async fn by_tls() {
    const URL: &str = "PLAYHOUSE_TEST_TLS_URL";
    if let Ok(url) = std::env::var(URL) {
        works(url).await;
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let file = |name| folder.path().join(name).display().to_string();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let port = free_port();
    let redis = RedisServer::with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let by_name = format!("rediss://localhost:{port}");
    let run = |roots: &str| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reach::by_tls", "--nocapture"])
            .env(URL, &by_name)
            .env("SSL_CERT_FILE", roots)
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap()
    };
    let output = run(&cert);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    // And not with a certificate that nobody vouches for.
    let store = connect(&store_config(by_name), StoreRole::Proxy);
    let stranger = store.reserve(SessionId::random(), &[]).await;
    assert!(matches!(stranger, Err(StoreError::Away(_))), "{stranger:?}");
    assert_eq!(redis.cli(&["EXISTS", "worker:chromium:a"]), "0");
}

fn certificate(folder: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("cert.pem"))
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
