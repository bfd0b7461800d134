//! The ways to a Redis: TCP, Unix socket, TLS, user and password, database number; and one that is
//! late.

use crate::stores::*;
use crate::support::{RedisServer, Sentinels, eventually_equal, free_port};
use playhouse::model::SessionId;
use playhouse::store::redis::RedisStore;
use playhouse::store::{Event, Peers, SeatStore, StoreError, StoreRole, WorkerStore};
use std::path::Path;
use std::process::Command;

/// What `docs/redis.md` says a user of Redis needs.
const PERMISSIONS: &str = "~worker:* ~cluster:* ~playhouse:* &worker:cmd:* &playhouse:* \
    +@read +@write +@pubsub +@scripting +@connection +time -@dangerous";

async fn works(url: String) -> RedisStore {
    let store = connect(&store_config(url), StoreRole::Proxy);
    let a = key("a");
    eventually_equal("the store is reachable", true, async || store.reachable()).await;
    let mut events = store.events();
    store.register(&record(&a), TTL).await.unwrap();
    let (session, ..) = seat(&store, &[candidate(&a, 1, None)]).await;
    store.release(session, false).await.unwrap();
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

#[tokio::test]
async fn as_a_user_with_little_more_than_it_needs() {
    let redis = RedisServer::start().await;
    let mut user = vec!["ACL", "SETUSER", "grid", "on", ">s3cret%/"];
    user.extend(PERMISSIONS.split_whitespace());
    assert_eq!(redis.cli(&user), "OK");
    let address = format!("127.0.0.1:{}", redis.port());
    // The slow round too: scanning, mending, reaping.
    let store = works(format!("redis://grid:s3cret%25%2F@{address}")).await;
    eventually_equal("it scans", "1".to_owned(), async || {
        redis.cli(&["EXISTS", "playhouse:scan"])
    })
    .await;
    eventually_equal("it may reap", Ok(()), async || {
        store.reap().await.map_err(|error| error.to_string())
    })
    .await;
    let denied = redis.cli(&["ACL", "LOG"]);
    assert_eq!(denied, "", "something was not permitted");
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
    let user = |permissions: &str| {
        let mut command = vec!["ACL", "SETUSER", "grid", "reset", "on", ">pass"];
        command.extend(permissions.split_whitespace());
        assert_eq!(redis.cli(&command), "OK");
    };
    user(PERMISSIONS);
    let url = redis.url().replace("redis://", "redis://grid:pass@");
    let store = connect(&store_config(url), StoreRole::Proxy);
    let a = key("a");
    let order = [candidate(&a, 100, None)];
    store.register(&record(&a), TTL).await.unwrap();
    let says = async |words: &str| {
        eventually_equal("what it says", words.to_owned(), async || {
            let refused = store.reserve(SessionId::random(), &order).await;
            let text = format!("{refused:?}");
            assert!(!text.contains("pass@"), "{text}");
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

    for missing in ["~cluster:*", "+@write", "+@scripting", "&playhouse:*"] {
        let fewer: Vec<&str> = PERMISSIONS
            .split_whitespace()
            .filter(|it| *it != missing)
            .collect();
        user(&fewer.join(" "));
        // What it subscribed to before, it keeps: for this one it has to come anew.
        redis.cli(&["CLIENT", "KILL", "USER", "grid"]);
        says("may not do what Playhouse needs").await;
        user(PERMISSIONS);
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
    redis.cli(&["ACL", "SETUSER", "grid", "resetpass", ">other"]);
    redis.cli(&["CLIENT", "KILL", "USER", "grid"]);
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
