//! What every store promises.

use crate::stores::*;
use crate::support::{eventually, eventually_equal};
use playhouse::model::{Heartbeat, RecycleReason, SessionId, WorkerStatus};
use playhouse::store::{
    Event, HeartbeatReply, PeerAnswers, Permit, PermitHolder, PermitPool, Reserved, Store,
};
use std::collections::HashMap;
use std::time::Duration;

macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $name() { super::$name(crate::stores::Memory::start().await).await })*
            use crate::stores::Grid;
        }
        mod redis {
            $(#[tokio::test] async fn $name() { super::$name(crate::stores::Redis::start().await).await })*
            use crate::stores::Grid;
        }
    };
}

on_every_store!(
    the_first_candidate_with_a_seat_left_takes_it,
    a_full_grid_tells_its_counts,
    a_lifetime_limit_is_a_limit,
    who_is_not_available_gets_nothing,
    a_session_holds_one_seat,
    a_release_counts_once,
    a_refund_gives_the_lifetime_back,
    a_heartbeat_counts_no_refund_again,
    one_seat_goes_to_one_of_many,
    a_dropped_reservation_takes_nothing,
    an_adopted_session_counts_beyond_the_limit,
    registering_again_keeps_the_counters,
    a_heartbeat_tells_and_learns,
    an_order_to_recycle_reaches_the_worker,
    an_order_to_recycle_lapses,
    a_suspicion_reaches_the_worker,
    what_a_kernel_ended_is_counted,
    workers_are_out_by_turns,
    a_recycle_is_counted_once,
    few_browsers_warm_up_at_a_time,
    a_silent_worker_is_dropped_and_may_return,
    a_worker_that_leaves_takes_its_seats_along,
    proxies_hear_of_each_other,
    a_question_reaches_all_other_proxies,
    a_tenants_sessions_are_counted_at_all_proxies,
    revisions_rise,
    a_secret_is_shared_and_a_name_is_used_once,
);

async fn the_first_candidate_with_a_seat_left_takes_it(grid: impl Grid) {
    let store = grid.proxy().await;
    let (a, b) = (key("a"), key("b"));
    for worker in [&a, &b] {
        store.register(&record(worker), TTL).await.unwrap();
    }
    let order = [candidate(&b, 1, None), candidate(&a, 2, None)];
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(seat(&*store, &order).await.1);
    }
    assert_eq!(taken, [b.clone(), a.clone(), a.clone()]);
    assert_eq!(counts(&*store, &a).await, Some((2, 2)));
    assert_eq!(counts(&*store, &b).await, Some((1, 1)));
    assert_eq!(store.active_sessions().await.unwrap(), 3);
}

async fn a_full_grid_tells_its_counts(grid: impl Grid) {
    let (store, other) = (grid.proxy().await, grid.proxy().await);
    let (a, gone) = (key("a"), key("gone"));
    store.register(&record(&a), TTL).await.unwrap();
    seat(&*other, &[candidate(&a, 1, None)]).await;
    let order = [candidate(&gone, 9, None), candidate(&a, 1, None)];
    let full = store.reserve(SessionId::random(), &order).await.unwrap();
    let Reserved::Full { counts } = full else {
        panic!("not full: {full:?}");
    };
    let told: Vec<_> = counts
        .iter()
        .map(|(worker, counts)| (worker.clone(), counts.active, counts.lifetime))
        .collect();
    assert_eq!(told, [(a, 1, 1)]);
    assert!(counts[0].1.revision > 0);
}

async fn a_lifetime_limit_is_a_limit(grid: impl Grid) {
    let store = grid.proxy().await;
    let a = key("a");
    store.register(&record(&a), TTL).await.unwrap();
    let order = [candidate(&a, 5, Some(2))];
    for _ in 0..2 {
        let (session, ..) = seat(&*store, &order).await;
        release(&*store, session, false).await;
    }
    let third = store.reserve(SessionId::random(), &order).await.unwrap();
    assert!(matches!(third, Reserved::Full { .. }), "{third:?}");
    let unlimited = [candidate(&a, 5, None)];
    assert_eq!(seat(&*store, &unlimited).await.2.lifetime, 3);
}

async fn who_is_not_available_gets_nothing(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let a = key("a");
    let order = [candidate(&a, 5, None)];
    let reserve = async || store.reserve(SessionId::random(), &order).await.unwrap();
    assert_eq!(reserve().await, Reserved::Gone);
    assert_eq!(
        store.reserve(SessionId::random(), &[]).await.unwrap(),
        Reserved::Gone
    );
    agent.register(&record(&a), TTL).await.unwrap();
    for status in [WorkerStatus::Draining, WorkerStatus::ShuttingDown] {
        agent
            .heartbeat(&a, Heartbeat::new(status, None), TTL)
            .await
            .unwrap();
        assert_eq!(reserve().await, Reserved::Gone);
    }
    let available = WorkerStatus::Available;
    agent
        .heartbeat(&a, Heartbeat::new(available, None), TTL)
        .await
        .unwrap();
    assert!(matches!(reserve().await, Reserved::Seat { .. }));
}

async fn a_session_holds_one_seat(grid: impl Grid) {
    let store = grid.proxy().await;
    let (a, b) = (key("a"), key("b"));
    for worker in [&a, &b] {
        store.register(&record(worker), TTL).await.unwrap();
    }
    let (session, ..) = seat(&*store, &[candidate(&a, 5, None)]).await;
    for order in [[candidate(&a, 5, None)], [candidate(&b, 5, None)]] {
        let again = store.reserve(session, &order).await.unwrap();
        let Reserved::Seat { worker, counts } = again else {
            panic!("{again:?}");
        };
        assert_eq!((worker, counts.active, counts.lifetime), (a.clone(), 1, 1));
    }
    assert_eq!(store.active_sessions().await.unwrap(), 1);
    release(&*store, session, true).await;
    let moved = store.reserve(session, &[candidate(&b, 5, None)]).await;
    assert!(matches!(moved, Ok(Reserved::Seat { worker, .. }) if worker == b));
}

async fn a_release_counts_once(grid: impl Grid) {
    let store = grid.proxy().await;
    let a = key("a");
    store.register(&record(&a), TTL).await.unwrap();
    let order = [candidate(&a, 5, None)];
    let (session, ..) = seat(&*store, &order).await;
    seat(&*store, &order).await;
    for _ in 0..3 {
        release(&*store, session, false).await;
    }
    release(&*store, SessionId::random(), true).await;
    assert_eq!(counts(&*store, &a).await, Some((1, 2)));
}

async fn a_refund_gives_the_lifetime_back(grid: impl Grid) {
    let store = grid.proxy().await;
    let a = key("a");
    store.register(&record(&a), TTL).await.unwrap();
    let order = [candidate(&a, 5, Some(1))];
    let (session, ..) = seat(&*store, &order).await;
    for _ in 0..2 {
        release(&*store, session, true).await;
    }
    assert_eq!(counts(&*store, &a).await, Some((0, 0)));
    seat(&*store, &order).await;
}

/// A worker tells what it remembers of its lifetime; what it has not heard of is not lost for that.
async fn a_heartbeat_counts_no_refund_again(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let a = key("a");
    agent.register(&record(&a), TTL).await.unwrap();
    let beat = async || {
        let heartbeat = Heartbeat::new(WorkerStatus::Available, None);
        let told = agent.heartbeat(&a, heartbeat, TTL).await.unwrap();
        (told.counts.active, told.counts.lifetime)
    };
    let order = [candidate(&a, 5, None)];
    for served in 0..2 {
        let (refunded, ..) = seat(&*store, &order).await;
        assert_eq!(beat().await, (served + 1, served + 1));
        release(&*store, refunded, true).await;
        for _ in 0..2 {
            assert_eq!(beat().await, (served, served));
            agent.register(&record(&a), TTL).await.unwrap();
        }
        seat(&*store, &order).await;
    }
    assert_eq!(beat().await, (2, 2));
}

async fn one_seat_goes_to_one_of_many(grid: impl Grid) {
    let stores = [grid.proxy().await, grid.proxy().await, grid.proxy().await];
    let (a, b) = (key("a"), key("b"));
    for worker in [&a, &b] {
        stores[0].register(&record(worker), TTL).await.unwrap();
    }
    let order = [candidate(&a, 5, None), candidate(&b, 20, Some(7))];
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..60 {
        let (store, order) = (stores[i % 3].clone(), order.clone());
        tasks.spawn(async move { store.reserve(SessionId::random(), &order).await.unwrap() });
    }
    let outcomes = tasks.join_all().await;
    let seats = |wanted| {
        let on = |outcome: &&Reserved| matches!(outcome, Reserved::Seat { worker, .. } if *worker == wanted);
        outcomes.iter().filter(on).count()
    };
    assert_eq!((seats(a.clone()), seats(b.clone())), (5, 7));
    assert_eq!(stores[1].active_sessions().await.unwrap(), 12);
}

async fn a_dropped_reservation_takes_nothing(grid: impl Grid) {
    let store = grid.proxy().await;
    let a = key("a");
    store.register(&record(&a), TTL).await.unwrap();
    let order = [candidate(&a, 1000, None)];
    let mut kept = 0;
    for patience in 0..200 {
        let reservation = store.reserve(SessionId::random(), &order);
        tokio::select! {
            biased;
            reserved = reservation => {
                assert!(matches!(reserved, Ok(Reserved::Seat { .. })), "{reserved:?}");
                kept += 1;
            }
            _ = yields(patience % 20) => {}
        }
    }
    eventually_equal(
        "the abandoned seats are free",
        Some((kept, kept)),
        async || counts(&*store, &a).await,
    )
    .await;
}

/// Lets other tasks run this many times.
async fn yields(times: u32) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

async fn an_adopted_session_counts_beyond_the_limit(grid: impl Grid) {
    let store = grid.proxy().await;
    let a = key("a");
    store.register(&record(&a), TTL).await.unwrap();
    let (first, ..) = seat(&*store, &[candidate(&a, 1, Some(1))]).await;
    let second = SessionId::random();
    for session in [first, second, second] {
        store.adopt(session, &a);
    }
    eventually_equal("the session is counted", Some((2, 2)), async || {
        counts(&*store, &a).await
    })
    .await;
    release(&*store, second, false).await;
    assert_eq!(counts(&*store, &a).await, Some((1, 2)));
}

async fn registering_again_keeps_the_counters(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let a = key("a");
    agent.register(&record(&a), TTL).await.unwrap();
    seat(&*store, &[candidate(&a, 5, None)]).await;
    let mut changed = record(&a);
    changed.version = None;
    changed.memory = Some(7);
    changed.endpoint = "wss://other:1/p".parse().unwrap();
    agent.register(&changed, TTL).await.unwrap();
    let fleet = store.fleet().await.unwrap();
    assert_eq!(fleet.len(), 1);
    assert_eq!(fleet[0].record, changed);
    assert_eq!((fleet[0].counts.active, fleet[0].counts.lifetime), (1, 1));
}

async fn a_heartbeat_tells_and_learns(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let a = key("a");
    let available = WorkerStatus::Available;
    let nobody = agent
        .heartbeat(&a, Heartbeat::new(available, None), TTL)
        .await
        .unwrap();
    assert_eq!(
        nobody,
        HeartbeatReply {
            unknown: true,
            ..HeartbeatReply::default()
        }
    );
    assert!(store.fleet().await.unwrap().is_empty());

    let mut old = record(&a);
    old.last_heartbeat = 1;
    agent.register(&old, TTL).await.unwrap();
    seat(&*store, &[candidate(&a, 5, None)]).await;
    let draining = WorkerStatus::Draining;
    let beat = agent
        .heartbeat(&a, Heartbeat::new(draining, Some(42)), TTL)
        .await
        .unwrap();
    assert_eq!((beat.unknown, beat.recycle), (false, false));
    assert_eq!((beat.counts.active, beat.counts.lifetime), (1, 1));
    let seen = &store.fleet().await.unwrap()[0].record;
    assert_eq!((seen.status, seen.memory), (draining, Some(42)));
    assert!(seen.last_heartbeat > 1);
}

async fn an_order_to_recycle_reaches_the_worker(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let (a, b) = (key("a"), key("b"));
    store.order_recycle(&a, TTL).await.unwrap();
    for worker in [&a, &b] {
        agent.register(&record(worker), TTL).await.unwrap();
    }
    let available = WorkerStatus::Available;
    let ordered = async |worker| {
        let beat = agent.heartbeat(worker, Heartbeat::new(available, None), TTL);
        beat.await.unwrap().recycle
    };
    assert!(!ordered(&a).await, "ordered before there was a worker");
    let mut events = agent.events();
    for _ in 0..2 {
        store.order_recycle(&a, TTL).await.unwrap();
    }
    let told = event(&mut events, |event| match event {
        Event::Recycle(worker) => Some(worker),
        _ => None,
    });
    assert_eq!(told.await, a);
    assert!(ordered(&a).await);
    assert!(!ordered(&b).await);
}

async fn an_order_to_recycle_lapses(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let a = key("a");
    agent.register(&record(&a), TTL).await.unwrap();
    let short = Duration::from_millis(30);
    store.order_recycle(&a, short).await.unwrap();
    eventually_equal("the order stands", false, async || {
        let available = WorkerStatus::Available;
        let beat = agent
            .heartbeat(&a, Heartbeat::new(available, None), TTL)
            .await
            .unwrap();
        beat.recycle
    })
    .await;
}

async fn a_suspicion_reaches_the_worker(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let a = key("a");
    agent.register(&record(&a), TTL).await.unwrap();
    let mut events = agent.events();
    store.suspect(&a).await.unwrap();
    let told = event(&mut events, |event| match event {
        Event::Suspect(worker) => Some(worker),
        Event::Recycle(worker) => panic!("{worker} is not asked to recycle"),
        _ => None,
    });
    assert_eq!(told.await, a);
}

async fn what_a_kernel_ended_is_counted(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    assert_eq!(store.oom_kills().await.unwrap(), 0);
    for kills in [1, 2] {
        agent.count_oom_kills(kills).await.unwrap();
    }
    assert_eq!(store.oom_kills().await.unwrap(), 3);
}

async fn workers_are_out_by_turns(grid: impl Grid) {
    let (one, other) = (grid.proxy().await, grid.proxy().await);
    let (a, b, c) = (key("a"), key("b"), key("c"));
    for worker in [&a, &b] {
        one.register(&record(worker), TTL).await.unwrap();
    }
    let turn = async |store: &dyn Store, worker| {
        let ordered = store.order_recycle_with_permit(worker, TTL, 1, TTL);
        ordered.await.unwrap()
    };
    assert!(turn(&*one, &a).await);
    assert!(turn(&*other, &a).await, "it has its turn already");
    assert!(!turn(&*other, &b).await, "one is out");
    let beat = one.heartbeat(&a, Heartbeat::new(WorkerStatus::Draining, None), TTL);
    assert!(beat.await.unwrap().recycle);
    one.deregister(&a).await.unwrap();
    assert!(
        !turn(&*other, &b).await,
        "it is out until another takes its place"
    );
    one.register(&record(&c), TTL).await.unwrap();
    assert!(turn(&*other, &b).await);
}

async fn a_recycle_is_counted_once(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let (a, b) = (key("a"), key("b"));
    assert_eq!(store.recycles().await.unwrap(), HashMap::new());
    for worker in [&a, &b] {
        agent.register(&record(worker), TTL).await.unwrap();
        for reason in [RecycleReason::Memory, RecycleReason::Operator] {
            agent.count_recycle(worker, reason).await.unwrap();
        }
        agent.deregister(worker).await.unwrap();
        agent
            .count_recycle(worker, RecycleReason::Age)
            .await
            .unwrap();
    }
    let counted = HashMap::from([(RecycleReason::Memory, 2)]);
    assert_eq!(store.recycles().await.unwrap(), counted);
    assert_eq!(store.fleet().await.unwrap(), []);
}

async fn few_browsers_warm_up_at_a_time(grid: impl Grid) {
    let (one, other) = (grid.agent().await, grid.agent().await);
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let hold = async |store: &dyn Store, worker, weight, ttl| {
        let permit = Permit {
            pool: PermitPool::WarmUps,
            holder: PermitHolder::Worker(worker),
            weight,
            bound: Some(2),
            ttl,
            version: 0,
        };
        store.hold(permit).await.unwrap()
    };
    assert!(hold(&*one, &a, 1, TTL).await);
    assert!(hold(&*other, &b, 1, TTL).await);
    assert!(!hold(&*other, &c, 1, TTL).await);
    assert!(hold(&*one, &a, 1, TTL).await, "it has its place already");
    for _ in 0..2 {
        assert!(hold(&*other, &b, 0, TTL).await, "given back");
    }
    let short = Duration::from_millis(30);
    assert!(hold(&*one, &c, 1, short).await);
    eventually_equal("a place of one that died is free", true, async || {
        hold(&*other, &b, 1, TTL).await
    })
    .await;
    assert!(!hold(&*one, &c, 1, TTL).await, "and is taken then");
}

async fn a_silent_worker_is_dropped_and_may_return(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let a = key("a");
    agent.register(&record(&a), TTL).await.unwrap();
    let order = [candidate(&a, 5, None)];
    let (session, ..) = seat(&*store, &order).await;
    seat(&*store, &order).await;
    let mut events = store.events();

    let available = WorkerStatus::Available;
    let soon = Duration::from_millis(1);
    agent
        .heartbeat(&a, Heartbeat::new(available, None), soon)
        .await
        .unwrap();
    eventually_equal("the fleet", vec![], async || store.fleet().await.unwrap()).await;
    let reserved = store.reserve(SessionId::random(), &order).await.unwrap();
    assert_eq!(reserved, Reserved::Gone);
    let beat = agent
        .heartbeat(&a, Heartbeat::new(available, None), TTL)
        .await
        .unwrap();
    assert!(beat.unknown);

    eventually_equal("active sessions", 0, async || {
        store.reap().await.unwrap();
        store.active_sessions().await.unwrap()
    })
    .await;
    let gone = event(&mut events, |event| match event {
        Event::Gone(worker) => Some(worker),
        _ => None,
    });
    assert_eq!(gone.await, a);

    release(&*store, session, false).await;
    agent.register(&record(&a), TTL).await.unwrap();
    let (active, lifetime) = counts(&*store, &a).await.unwrap();
    assert_eq!(active, 1, "the other session still sits there");
    assert!(lifetime >= 1);
}

async fn a_worker_that_leaves_takes_its_seats_along(grid: impl Grid) {
    let (store, agent) = (grid.proxy().await, grid.agent().await);
    let (a, b) = (key("a"), key("b"));
    for worker in [&a, &b] {
        agent.register(&record(worker), TTL).await.unwrap();
    }
    let (session, ..) = seat(&*store, &[candidate(&a, 5, None)]).await;
    seat(&*store, &[candidate(&b, 5, None)]).await;
    let mut events = store.events();
    for _ in 0..2 {
        agent.deregister(&a).await.unwrap();
    }
    let gone = event(&mut events, |event| match event {
        Event::Gone(worker) => Some(worker),
        _ => None,
    });
    assert_eq!(gone.await, a);
    assert_eq!(store.active_sessions().await.unwrap(), 1);
    release(&*store, session, false).await;
    assert_eq!(store.active_sessions().await.unwrap(), 1);
    let fleet = store.fleet().await.unwrap();
    assert_eq!(fleet.len(), 1);
    assert_eq!(fleet[0].record.key, b);
}

async fn proxies_hear_of_each_other(grid: impl Grid) {
    let (store, other, agent) = (grid.proxy().await, grid.proxy().await, grid.agent().await);
    let a = key("a");
    let mut events = other.events();
    agent.register(&record(&a), TTL).await.unwrap();
    let view = event(&mut events, |event| match event {
        Event::Worker(view) => Some(*view),
        _ => None,
    })
    .await;
    assert_eq!(view.record.key, a);
    assert_eq!(view.record.endpoint, record(&a).endpoint);

    let mut next_counts = async || {
        event(&mut events, |event| match event {
            Event::Counts(worker, counts) if worker == a => Some(counts),
            _ => None,
        })
        .await
    };
    let (session, _, taken) = seat(&*store, &[candidate(&a, 5, None)]).await;
    assert_eq!(next_counts().await, taken);
    release(&*store, session, false).await;
    let freed = next_counts().await;
    assert_eq!((freed.active, freed.lifetime), (0, 1));
    assert!(freed.revision > taken.revision);

    let draining = WorkerStatus::Draining;
    agent
        .heartbeat(&a, Heartbeat::new(draining, None), TTL)
        .await
        .unwrap();
    event(&mut events, |event| match event {
        Event::Worker(view) => (view.record.status == draining).then_some(()),
        _ => None,
    })
    .await;
}

async fn revisions_rise(grid: impl Grid) {
    let (store, other) = (grid.proxy().await, grid.proxy().await);
    let (a, b) = (key("a"), key("b"));
    for worker in [&a, &b] {
        store.register(&record(worker), TTL).await.unwrap();
    }
    let mut last = 0;
    for (store, worker) in [(&store, &a), (&other, &b), (&other, &a), (&store, &b)] {
        let (.., counts) = seat(&**store, &[candidate(worker, 5, None)]).await;
        assert!(counts.revision > last);
        last = counts.revision;
        for view in store.fleet().await.unwrap() {
            if view.record.key == *worker {
                assert!(view.counts.revision >= last);
            }
        }
    }
}

async fn a_question_reaches_all_other_proxies(grid: impl Grid) {
    let (asking, other) = (grid.proxy().await, grid.proxy().await);
    let no_answer_is_enough = |_: &str| false;
    if grid.redis().is_none() {
        let answers = asking
            .query_peers("who?", TTL, no_answer_is_enough)
            .await
            .unwrap();
        assert_eq!(answers, PeerAnswers::default(), "there are no others");
        return;
    }
    // Those who say nothing are named.
    let short = Duration::from_millis(50);
    let answers = asking
        .query_peers("who?", short, no_answer_is_enough)
        .await
        .unwrap();
    assert_eq!((answers.given.len(), answers.silent.len()), (0, 1));

    other.serve_peers(Box::new(|question| format!("you asked {question}")));
    let answers = asking
        .query_peers("a b", TTL, no_answer_is_enough)
        .await
        .unwrap();
    let said: Vec<_> = answers.given.iter().map(|(_, answer)| &**answer).collect();
    assert_eq!((said, answers.silent.len()), (vec!["you asked a b"], 0));

    // One that answers is enough, whoever else does not.
    let _third = grid.proxy().await;
    let answers = asking
        .query_peers("again", TTL, |answer| answer.ends_with("again"))
        .await;
    let answers = answers.unwrap();
    assert_eq!((answers.given.len(), answers.silent.len()), (1, 1));
}

async fn a_tenants_sessions_are_counted_at_all_proxies(grid: impl Grid) {
    let (one, other) = (grid.proxy().await, grid.proxy().await);
    let sessions = async |store: &dyn Store, tenant, weight, version, bound| {
        let permit = Permit {
            pool: PermitPool::Sessions { tenant },
            holder: PermitHolder::ThisProxy,
            weight,
            bound,
            ttl: TTL,
            version,
        };
        store.hold(permit).await.unwrap()
    };
    let within = async |store: &dyn Store, weight, version| {
        sessions(store, "ci", weight, version, Some(2)).await
    };
    assert!(within(&*one, 2, 1).await && !within(&*one, 3, 2).await);
    assert!(sessions(&*one, "crawler", 2, 3, Some(2)).await);
    // A word that comes late changes nothing.
    assert!(sessions(&*one, "ci", 0, 5, None).await);
    assert!(sessions(&*one, "ci", 3, 4, None).await);
    assert!(within(&*one, 2, 5).await);
    let Some(redis) = grid.redis() else {
        return;
    };

    assert!(within(&*one, 1, 6).await && within(&*other, 1, 1).await);
    assert!(!within(&*one, 2, 7).await && !within(&*other, 2, 2).await);
    assert!(sessions(&*one, "ci", 0, 8, None).await);
    assert!(within(&*other, 2, 3).await);
    let mut version = 9;
    assert!(!within(&*one, 1, version).await);

    drop(other);
    eventually_equal("what the dead had is free", true, async || {
        version += 1;
        within(&*one, 2, version).await
    })
    .await;
    query::<()>(redis, &["FLUSHALL"]);
    assert!(within(&*one, 2, version + 1).await);
    let told: String = query(
        redis,
        &[
            "EVAL",
            "return redis.call('HVALS', 'playhouse:permits:sessions:ci')[1]",
            "0",
        ],
    );
    let since = format!("{} 2 ", version + 1);
    assert!(told.starts_with(&since), "{told}");
}

async fn a_secret_is_shared_and_a_name_is_used_once(grid: impl Grid) {
    let (one, two) = (grid.proxy().await, grid.proxy().await);
    let secret = one.shared_secret().await.unwrap();
    assert_eq!(two.shared_secret().await.unwrap(), secret);
    assert_ne!(secret, [0; 32]);
    assert!(one.use_once("a", TTL).await.unwrap());
    assert!(!two.use_once("a", TTL).await.unwrap());
    assert!(two.use_once("b", TTL).await.unwrap());
    let brief = Duration::from_millis(1);
    assert!(one.use_once("c", brief).await.unwrap());
    eventually("it is forgotten", async || {
        one.use_once("c", brief).await.unwrap().then_some(())
    })
    .await;
}
