//! Grids that share one Redis, in two databases or behind two namespaces, have nothing in common.

use crate::stores::*;
use crate::support::{RedisServer, eventually_equal};
use playhouse::model::WorkerKey;
use playhouse::store::redis::RedisStore;
use playhouse::store::{Event, Peers, SeatStore, StoreOptions, StoreRole, WorkerStore};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// How two grids may be kept apart.
fn separations(url: &str) -> Vec<[StoreOptions; 2]> {
    let in_database = |database| store_config(format!("{url}/{database}"));
    let behind = |namespace: &str| StoreOptions {
        namespace: Some(namespace.to_owned()),
        ..store_config(url.to_owned())
    };
    vec![
        [in_database(0), in_database(1)],
        [in_database(2), in_database(3)],
        [store_config(url.to_owned()), behind("other")],
        [behind("a"), behind("ab:")],
    ]
}

struct Half {
    proxy: RedisStore,
    agent: RedisStore,
}

impl Half {
    async fn start(config: &StoreOptions) -> Half {
        let half = Half {
            proxy: connect(config, StoreRole::Proxy),
            agent: connect(config, StoreRole::Worker),
        };
        for store in [&half.proxy, &half.agent] {
            eventually_equal("the store is reachable", true, async || store.reachable()).await;
        }
        half
    }

    async fn workers(&self) -> Vec<WorkerKey> {
        let fleet = self.proxy.fleet().await.unwrap();
        fleet.into_iter().map(|view| view.record.key).collect()
    }
}

#[tokio::test]
async fn they_neither_hear_nor_count_nor_end_each_others() {
    for which in 0..separations("").len() {
        let redis = RedisServer::start().await;
        let configs = &separations(&redis.url())[which];
        let [ours, theirs] = [
            Half::start(&configs[0]).await,
            Half::start(&configs[1]).await,
        ];
        let mut heard_by_them = theirs.proxy.events();
        let mut ordered_of_them = theirs.agent.events();
        // The same worker's name in both: nothing but the grid tells them apart.
        let (twin, only_ours) = (key("twin"), key("ours"));
        for half in [&ours, &theirs] {
            half.agent.register(&record(&twin), TTL).await.unwrap();
        }
        ours.agent.register(&record(&only_ours), TTL).await.unwrap();
        let (session, ..) = seat(&ours.proxy, &[candidate(&twin, 1, None)]).await;
        ours.proxy.order_recycle(&twin, MINUTE).await.unwrap();
        let mut ordered = ours.agent.events();
        ours.proxy.order_recycle(&twin, MINUTE).await.unwrap();
        let order = event(&mut ordered, |event| match event {
            Event::Recycle(worker) => Some(worker),
            _ => None,
        });
        assert_eq!(order.await, twin);

        assert_eq!(theirs.workers().await, vec![twin.clone()], "{configs:?}");
        assert_eq!(counts(&theirs.proxy, &twin).await, Some((0, 0)));
        assert_eq!(theirs.proxy.active_sessions().await.unwrap(), 0);
        assert_eq!((ours.proxy.proxies(), theirs.proxy.proxies()), (1, 1));
        release(&theirs.proxy, session, false).await;
        assert_eq!(counts(&ours.proxy, &twin).await, Some((1, 1)));

        // Their own order is heard, and is the only one; so are their own events.
        theirs.proxy.order_recycle(&twin, MINUTE).await.unwrap();
        let mut orders = 0;
        let own = event(&mut ordered_of_them, |event| {
            orders += usize::from(matches!(event, Event::Recycle(_)));
            (orders > 0).then(|| query_order(&redis, &configs[1]))
        });
        assert_eq!(own.await, 1, "an order of the other grid came first");
        theirs.agent.deregister(&twin).await.unwrap();
        event(&mut heard_by_them, |event| {
            assert!(!format!("{event:?}").contains("ours"), "{event:?}");
            matches!(event, Event::Gone(_)).then_some(())
        })
        .await;
        assert_eq!(ours.workers().await.len(), 2);
    }
}

/// How many orders to recycle the twin this grid has.
fn query_order(redis: &RedisServer, config: &StoreOptions) -> usize {
    let database = config.url.as_deref().and_then(|url| url.rsplit_once('/'));
    let database = database.map_or("0", |(_, database)| database);
    let database = if database.contains(':') {
        "0"
    } else {
        database
    };
    let namespace = config.namespace.as_deref().unwrap_or_default();
    let separator = if namespace.is_empty() || namespace.ends_with(':') {
        ""
    } else {
        ":"
    };
    let order = format!("{namespace}{separator}worker:cmd:chromium:twin");
    let there = redis.cli(&["-n", database, "EXISTS", &order]);
    there.parse().unwrap()
}
