//! Seats that move to another process: both ends of the connection, in one process.

use crate::stores::{TTL, candidate, counts, event, key, record, seat};
use crate::support::eventually_equal;
use playhouse::model::{SessionId, WorkerKey};
use playhouse::store::handover::{HandoverStore, successor};
use playhouse::store::{Event, Reserved, Store, StoreError};
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, JoinSet};

/// A process with one worker.
async fn process(worker: &WorkerKey) -> Arc<HandoverStore> {
    let store = Arc::new(HandoverStore::new());
    store.register(&record(worker), TTL).await.unwrap();
    store
}

/// The new one's end, running.
fn serves(new: &Arc<HandoverStore>, stream: UnixStream) -> JoinHandle<()> {
    let serving = successor::serve(stream, new.clone());
    tokio::spawn(async move { serving.await.unwrap() })
}

async fn hand_over(old: &HandoverStore, new: &Arc<HandoverStore>) -> JoinHandle<()> {
    let (here, there) = UnixStream::pair().unwrap();
    let serving = serves(new, there);
    old.move_to(here).await.unwrap();
    serving
}

#[tokio::test]
async fn both_processes_fill_one_worker_to_one_limit() {
    let a = key("a");
    let (old, new) = (process(&a).await, process(&a).await);
    let order = [candidate(&a, 3, None)];
    let (first, ..) = seat(&*old, &order).await;
    seat(&*old, &order).await;
    let mut events = old.events();
    hand_over(&old, &new).await;
    event(&mut events, |event| (event == Event::Resync).then_some(())).await;
    assert!(old.is_shared() && !new.is_shared());

    let (of_new, ..) = seat(&*new, &order).await;
    for store in [&old, &new] {
        assert_eq!(counts(&**store, &a).await, Some((3, 3)));
        assert_eq!(store.active_sessions().await.unwrap(), 3);
        let full = store.reserve(SessionId::random(), &order).await.unwrap();
        assert!(matches!(full, Reserved::Full { .. }), "{full:?}");
    }
    old.release(first, false).await.unwrap();
    let (of_old, ..) = seat(&*old, &order).await;
    new.release(of_new, false).await.unwrap();
    let freed = event(&mut events, |event| match event {
        Event::Counts(worker, counts) if counts.lifetime == 4 && counts.active == 2 => Some(worker),
        _ => None,
    });
    assert_eq!(freed.await, a, "who waits in the old process is woken");
    old.release(of_old, true).await.unwrap();
    assert_eq!(counts(&*new, &a).await, Some((1, 3)));
}

#[tokio::test]
async fn no_seat_is_given_twice_while_they_move() {
    let a = key("a");
    let order = [candidate(&a, 40, None)];
    for _ in 0..20 {
        let (old, new) = (process(&a).await, process(&a).await);
        let mut tasks = JoinSet::new();
        for n in 0..120 {
            let store = if n % 3 == 0 { &new } else { &old };
            // As in a grid, the new process seats nobody before it knows all seats.
            let after = n % 3 == 0;
            let (store, old, order) = (store.clone(), old.clone(), order.clone());
            tasks.spawn(async move {
                while after && !old.is_shared() {
                    tokio::task::yield_now().await;
                }
                let reserved = store.reserve(SessionId::random(), &order).await.unwrap();
                matches!(reserved, Reserved::Seat { .. })
            });
        }
        hand_over(&old, &new).await;
        let seated = tasks.join_all().await.into_iter().filter(|it| *it).count();
        assert_eq!(seated, 40);
        assert_eq!(counts(&*new, &a).await, Some((40, 40)));
    }
}

#[tokio::test]
async fn the_seats_of_a_process_that_is_gone_are_free() {
    let a = key("a");
    let (old, new) = (process(&a).await, process(&a).await);
    let order = [candidate(&a, 9, None)];
    seat(&*old, &order).await;
    let serving = hand_over(&old, &new).await;
    seat(&*old, &order).await;
    seat(&*new, &order).await;
    drop(old);
    serving.await.unwrap();
    eventually_equal("held seats", Some((1, 3)), async || counts(&*new, &a).await).await;
}

#[tokio::test]
async fn a_process_that_is_replaced_in_turn_passes_all_on() {
    let a = key("a");
    let stores = [process(&a).await, process(&a).await, process(&a).await];
    let [first, second, third] = &stores;
    let order = [candidate(&a, 3, None)];
    let (oldest, ..) = seat(&**first, &order).await;
    hand_over(first, second).await;
    seat(&**second, &order).await;
    hand_over(second, third).await;
    seat(&**first, &order).await;
    for store in &stores {
        let full = store.reserve(SessionId::random(), &order).await.unwrap();
        assert!(matches!(full, Reserved::Full { .. }), "{full:?}");
    }
    first.release(oldest, false).await.unwrap();
    assert_eq!(counts(&**third, &a).await, Some((2, 3)));
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_seats_where_they_were() {
    let a = key("a");
    let old = process(&a).await;
    let order = [candidate(&a, 2, None)];
    let (session, ..) = seat(&*old, &order).await;
    let (here, there) = UnixStream::pair().unwrap();
    drop(there);
    assert!(matches!(old.move_to(here).await, Err(StoreError::Away(_))));
    // The same when it takes too long, and nobody waits for it any more.
    let (here, _silent) = UnixStream::pair().unwrap();
    tokio::select! {
        biased;
        _ = old.move_to(here) => panic!("nobody answered"),
        () = tokio::task::yield_now() => {}
    }
    assert!(!old.is_shared() && old.reachable());
    seat(&*old, &order).await;
    old.release(session, false).await.unwrap();
    assert_eq!(counts(&*old, &a).await, Some((1, 2)));
}

#[tokio::test]
async fn a_reservation_that_nobody_waits_for_takes_nothing() {
    let a = key("a");
    let (old, new) = (process(&a).await, process(&a).await);
    hand_over(&old, &new).await;
    let order = [candidate(&a, 1000, None)];
    let mut kept = 0;
    for patience in 0..200 {
        tokio::select! {
            biased;
            reserved = old.reserve(SessionId::random(), &order) => {
                assert!(matches!(reserved, Ok(Reserved::Seat { .. })), "{reserved:?}");
                kept += 1;
            }
            () = yields(patience % 20) => {}
        }
    }
    let free = Some((kept, kept));
    eventually_equal("the abandoned seats", free, async || {
        counts(&*new, &a).await
    })
    .await;
}

/// Lets other tasks run this many times.
async fn yields(times: u32) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_process_whose_successor_is_gone_has_no_store() {
    let a = key("a");
    let (old, new) = (process(&a).await, process(&a).await);
    let serving = hand_over(&old, &new).await;
    let mut events = old.events();
    serving.abort();
    event(&mut events, |event| {
        (event == Event::Reachable(false)).then_some(())
    })
    .await;
    assert!(!old.reachable());
    let order = [candidate(&a, 1, None)];
    let reserved = old.reserve(SessionId::random(), &order).await;
    assert!(matches!(reserved, Err(StoreError::Away(_))), "{reserved:?}");
    assert!(old.fleet().await.is_err());
}
