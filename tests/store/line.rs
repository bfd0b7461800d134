//! The line that Redis keeps: whoever asks, seats go to those who are first in turn, at whichever
//! proxy they wait; and what becomes of it when proxies, clients or messages are lost.

use crate::stores::*;
use crate::support::{RedisServer, eventually, eventually_equal};
use playhouse::admission::turns::{Fit, Turns};
use playhouse::model::{Browser, Pool, SeatKind, SessionId, Waiter};
use playhouse::store::redis::RedisStore;
use playhouse::store::{
    Candidate, LineServed, Peers, SeatStore, Served, StoreError, StoreOptions, StoreRole,
    WorkerStore,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(600);
const TENANTS: [(&str, u32); 3] = [("a", 1), ("b", 1), ("c with words", 3)];

/// One proxy's part of the line, and what it was given.
struct Proxy {
    store: RedisStore,
    told: Arc<Mutex<Vec<SessionId>>>,
    anew: bool,
}

impl Proxy {
    /// One that never counts as silent, however slow the machine is.
    async fn start(redis: &RedisServer) -> Proxy {
        Proxy::with_ttl(redis, LONG).await
    }

    async fn with_ttl(redis: &RedisServer, proxy_ttl: Duration) -> Proxy {
        let proxy = Proxy::unheard(redis, proxy_ttl).await;
        let hears = proxy.told.clone();
        proxy
            .store
            .grant_with(Box::new(move |granted| hears.lock().unwrap().push(granted)));
        proxy
    }

    /// One that no message of a grant reaches.
    async fn unheard(redis: &RedisServer, proxy_ttl: Duration) -> Proxy {
        let config = StoreOptions {
            proxy_ttl,
            ..store_config(redis.url())
        };
        let store = connect(&config, StoreRole::Proxy);
        eventually_equal("the store is reachable", true, async || store.reachable()).await;
        Proxy {
            store,
            told: Arc::default(),
            anew: true,
        }
    }

    /// Tells of those who come at this moment, and asks for seats.
    async fn serve(&mut self, coming: &[Waiter], candidates: &[Candidate]) -> LineServed {
        let browser = Browser::Chromium;
        let came = Instant::now();
        let coming = coming.iter().cloned();
        let coming: Vec<Waiter> = coming.map(|it| Waiter { came, ..it }).collect();
        let asked = self
            .store
            .serve_line(browser, self.anew, &coming, candidates);
        let Served::Line(served) = asked.await.unwrap() else {
            panic!("Redis does not know this proxy's clients any more");
        };
        self.anew = false;
        served
    }

    /// Takes in somebody who waits; returns the place.
    async fn enter(&mut self, waiter: &Waiter) -> u64 {
        let served = self.serve(std::slice::from_ref(waiter), &[]).await;
        assert_eq!(served.granted, []);
        served.places[0].1
    }

    /// Takes in somebody who came when he says; `None` if the connection was lost.
    async fn try_enter(&mut self, waiter: &Waiter) -> Option<u64> {
        let coming = std::slice::from_ref(waiter);
        let browser = Browser::Chromium;
        let asked = self.store.serve_line(browser, self.anew, coming, &[]).await;
        self.anew = !matches!(asked, Ok(Served::Line(_)));
        match asked {
            Ok(Served::Line(served)) => Some(served.places[0].1),
            _ => None,
        }
    }

    fn was_told_of(&self, session: SessionId) -> bool {
        self.told.lock().unwrap().contains(&session)
    }

    /// Waits until it is told that somebody of its own was given a seat, and takes it up.
    async fn take_up(&mut self, waiter: &Waiter) {
        eventually_equal("its proxy is told", true, async || {
            self.was_told_of(waiter.session)
        })
        .await;
        let served = self.serve(std::slice::from_ref(waiter), &[]).await;
        assert_eq!(sessions(&served), [waiter.session]);
    }
}

/// `wanted` is a version, or `own` for an own seat of any.
fn waiter(tenant: &str, wanted: &str) -> Waiter {
    let priority = TENANTS.iter().find(|(name, _)| *name == tenant);
    Waiter {
        session: SessionId::random(),
        version: wanted.parse().ok(),
        seat: wanted.parse().unwrap_or_default(),
        tenant: Arc::from(tenant),
        priority: priority.map_or(1, |(_, priority)| *priority),
        offered: Vec::new(),
        came: Instant::now(),
        left: LONG,
        place: None,
    }
}

/// Two proxies and a worker of 1.65 with one seat.
async fn grid() -> (RedisServer, Proxy, Proxy, Candidate) {
    let redis = RedisServer::start().await;
    let one = Proxy::start(&redis).await;
    let two = Proxy::start(&redis).await;
    let a = key("a");
    one.store.register(&record(&a), TTL).await.unwrap();
    (redis, one, two, candidate(&a, 1, None))
}

fn sessions(served: &LineServed) -> Vec<SessionId> {
    served.granted.iter().map(|it| it.session).collect()
}

#[tokio::test]
async fn a_seat_goes_to_who_came_first_wherever_it_is_asked_for() {
    let (_redis, mut one, mut two, seat) = grid().await;
    let (first, second) = (waiter("", "1.65"), waiter("", ""));
    one.enter(&first).await;
    two.enter(&second).await;

    let newcomer = waiter("", "1.65");
    let served = two
        .serve(std::slice::from_ref(&newcomer), std::slice::from_ref(&seat))
        .await;
    assert_eq!((sessions(&served), served.elsewhere), (vec![], 1));
    one.take_up(&first).await;
    assert_eq!(counts(&one.store, &seat.key).await, Some((1, 1)));

    let full = two.serve(&[], std::slice::from_ref(&seat)).await;
    assert_eq!((full.granted.len(), full.elsewhere), (0, 0));
    release(&one.store, first.session, false).await;
    let served = one.serve(&[], std::slice::from_ref(&seat)).await;
    assert_eq!(
        served.elsewhere, 1,
        "the newcomer came last, whatever its version"
    );
    two.take_up(&second).await;
    assert!(!two.was_told_of(newcomer.session));
}

#[tokio::test]
async fn one_question_serves_several() {
    let (_redis, mut one, mut two, seat) = grid().await;
    let at_one: Vec<Waiter> = (0..5).map(|_| waiter("", "1.65")).collect();
    let at_two: Vec<Waiter> = (0..5).map(|_| waiter("", "1.65")).collect();
    one.serve(&at_one, &[]).await;
    let seats = candidate(&seat.key, 8, None);
    let served = two.serve(&at_two, &[seats]).await;
    assert_eq!(served.elsewhere, 5);
    let expected: Vec<SessionId> = at_two[..3].iter().map(|it| it.session).collect();
    assert_eq!(sessions(&served), expected);
    for waiter in &at_one {
        eventually_equal("told", true, async || one.was_told_of(waiter.session)).await;
    }
}

#[tokio::test]
async fn who_left_whose_time_is_over_and_who_was_offered_the_worker_gets_nothing() {
    let (_redis, mut one, mut two, seat) = grid().await;
    let left = waiter("", "1.65");
    let mut brief = waiter("", "1.65");
    brief.left = Duration::from_millis(1);
    let mut offered = waiter("", "1.65");
    offered.offered = vec![key("other"), seat.key.clone()];
    let other_version = waiter("", "1.64");
    let last = waiter("", "1.65");
    for waiter in [&left, &brief, &offered, &other_version, &last] {
        one.enter(waiter).await;
    }
    release(&one.store, left.session, true).await;
    let served = two.serve(&[], std::slice::from_ref(&seat)).await;
    assert_eq!(served.elsewhere, 1);
    one.take_up(&last).await;
    assert_eq!(one.told.lock().unwrap().len(), 1);
}

/// Redis is frozen while two clients come, and reads both questions at once: the first client's has
/// been on its way for longer than the second one has waited.
#[tokio::test]
async fn a_question_that_is_long_on_its_way_makes_nobody_come_later() {
    const APART: Duration = Duration::from_millis(100);
    let (redis, mut one, mut two, _) = grid().await;
    eventually("both have seen Redis' clock in good time", async || {
        let (mut at_one, mut at_two) = (waiter("", ""), waiter("", ""));
        at_one.came = Instant::now() - LONG;
        at_two.came = at_one.came;
        let places = (one.try_enter(&at_one).await?, two.try_enter(&at_two).await?);
        let off = Duration::from_micros(places.0.abs_diff(places.1));
        (off < APART / 4).then_some(())
    })
    .await;
    let places = eventually("Redis answers before it counts as lost", async || {
        let (first, mut second) = (waiter("", ""), waiter("", ""));
        second.came = first.came + APART;
        redis.pause();
        let mut asking = std::pin::pin!(one.try_enter(&first));
        assert!(futures_util::poll!(asking.as_mut()).is_pending());
        tokio::time::sleep_until((second.came + APART).into()).await;
        let mut other = std::pin::pin!(two.try_enter(&second));
        assert!(futures_util::poll!(other.as_mut()).is_pending());
        redis.resume();
        Some((asking.await?, other.await?))
    })
    .await;
    assert!(places.0 < places.1, "{places:?}");
}

#[tokio::test]
async fn a_place_is_kept_and_nobody_passes_it_by_coming_later() {
    let (_redis, mut one, mut two, seat) = grid().await;
    let mut first = waiter("", "1.65");
    first.place = Some(one.enter(&first).await);
    let second = waiter("", "1.65");
    assert!(one.enter(&second).await > first.place.unwrap());
    two.enter(&waiter("", "1.65")).await;
    // It was given a seat that was of no use, and comes back as another session.
    release(&one.store, first.session, true).await;
    first.session = SessionId::random();
    let served = one
        .serve(std::slice::from_ref(&first), std::slice::from_ref(&seat))
        .await;
    assert_eq!(sessions(&served), [first.session]);
}

#[tokio::test]
async fn a_proxy_that_falls_silent_holds_nobody_up_and_may_tell_anew() {
    let (redis, _, mut two, seat) = grid().await;
    let mut one = Proxy::with_ttl(&redis, PROXY_TTL).await;
    let (silent, other) = (waiter("", "1.65"), waiter("", "1.65"));
    one.enter(&silent).await;
    two.enter(&other).await;
    eventually_equal("proxies that count as waiting", 1, async || {
        two.serve(&[], &[]).await;
        let waiting: Vec<String> = query(&redis, &["KEYS", "playhouse:waiting:*"]);
        waiting.len()
    })
    .await;
    let asked = one.store.serve_line(Browser::Chromium, false, &[], &[]);
    assert_eq!(asked.await.unwrap(), Served::Unknown);
    let served = two.serve(&[], std::slice::from_ref(&seat)).await;
    assert_eq!(
        (sessions(&served), served.elsewhere),
        (vec![other.session], 0)
    );
    // It is there again.
    release(&two.store, other.session, true).await;
    one.anew = true;
    let served = one
        .serve(std::slice::from_ref(&silent), std::slice::from_ref(&seat))
        .await;
    assert_eq!(sessions(&served), [silent.session]);
}

#[tokio::test]
async fn a_grant_whose_message_was_lost_is_told_to_who_tells_anew() {
    let (redis, _, mut two, seat) = grid().await;
    let mut one = Proxy::unheard(&redis, LONG).await;
    let first = waiter("", "1.65");
    one.enter(&first).await;
    let served = two
        .serve(&[waiter("", "1.65")], std::slice::from_ref(&seat))
        .await;
    assert_eq!(served.elsewhere, 1);
    one.anew = true;
    let served = one.serve(std::slice::from_ref(&first), &[]).await;
    assert_eq!(sessions(&served), [first.session]);
    assert_eq!(served.granted[0].worker, seat.key);
    assert_eq!(counts(&one.store, &seat.key).await, Some((1, 1)), "once");
}

/// The second word would be taken for that of a seat whose client has left.
#[tokio::test]
async fn a_seat_that_was_taken_up_is_not_told_again() {
    let (_redis, mut one, mut two, seat) = grid().await;
    let first = waiter("", "1.65");
    one.enter(&first).await;
    let served = two.serve(&[], std::slice::from_ref(&seat)).await;
    assert_eq!(served.elsewhere, 1);
    one.take_up(&first).await;
    one.anew = true;
    let served = one.serve(std::slice::from_ref(&first), &[]).await;
    assert_eq!(served.granted, []);
    assert_eq!(counts(&one.store, &seat.key).await, Some((1, 1)));
}

/// Its connection is there, and it does nothing: the seat is the next one's, and never two clients'.
#[tokio::test]
async fn a_seat_that_is_not_taken_up_goes_to_the_next() {
    let (redis, _, _, seat) = grid().await;
    let mut two = Proxy::with_ttl(&redis, Duration::from_secs(40)).await;
    let mut hangs = Proxy::unheard(&redis, LONG).await;
    let (mut first, behind, second) = (waiter("a", ""), waiter("a", ""), waiter("b", ""));
    first.place = Some(hangs.enter(&first).await);
    hangs.enter(&behind).await;
    two.enter(&second).await;
    let served = two.serve(&[], std::slice::from_ref(&seat)).await;
    assert_eq!(served.elsewhere, 1);
    eventually("the next one has it", async || {
        // However slow the machine is, it does not count as silent.
        two.anew = true;
        let coming = std::slice::from_ref(&second);
        let served = two.serve(coming, std::slice::from_ref(&seat)).await;
        assert_eq!(served.elsewhere, 0, "nothing more for who hangs");
        (sessions(&served) == [second.session]).then_some(())
    })
    .await;
    assert_eq!(counts(&two.store, &seat.key).await, Some((1, 1)), "once");

    // It goes on, and asks for what it was given.
    let coming = std::slice::from_ref(&first);
    let asked = hangs
        .store
        .serve_line(Browser::Chromium, false, coming, &[]);
    assert_eq!(asked.await.unwrap(), Served::Unknown);
    hangs.anew = true;
    let served = hangs.serve(&[first.clone(), behind], &[]).await;
    assert_eq!(served.granted, []);
    assert_eq!(counts(&two.store, &seat.key).await, Some((1, 1)));
    release(&two.store, second.session, false).await;
    let served = hangs.serve(&[], std::slice::from_ref(&seat)).await;
    assert_eq!(sessions(&served), [first.session], "at its old place");
}

/// A crash is known at once: nothing is given to the dead, and nobody waits for their time to be over.
#[tokio::test]
async fn a_proxy_that_is_not_connected_is_given_nothing() {
    let (redis, one, mut two, seat) = grid().await;
    let mut dead = Proxy::start(&redis).await;
    let (first, second) = (waiter("", ""), waiter("", ""));
    dead.enter(&first).await;
    two.enter(&second).await;
    drop(dead);
    eventually_equal("proxies that are connected", 2, async || {
        let channels: Vec<String> = query(&redis, &["PUBSUB", "CHANNELS", "playhouse:grants:*"]);
        channels.len()
    })
    .await;
    let served = two.serve(&[], std::slice::from_ref(&seat)).await;
    assert_eq!(
        (sessions(&served), served.elsewhere),
        (vec![second.session], 0)
    );
    assert_eq!(counts(&one.store, &seat.key).await, Some((1, 1)));
}

/// Its place from before is over, or it would be given a second seat.
#[tokio::test]
async fn who_is_told_of_anew_and_seated_at_once_stands_in_no_line() {
    let (_redis, mut one, mut two, seat) = grid().await;
    let mut first = waiter("", "1.65");
    first.place = Some(one.enter(&first).await);
    one.anew = true;
    let served = one
        .serve(std::slice::from_ref(&first), std::slice::from_ref(&seat))
        .await;
    assert_eq!(sessions(&served), [first.session]);
    let more = candidate(&seat.key, 2, None);
    let served = two.serve(&[], std::slice::from_ref(&more)).await;
    assert_eq!((served.granted.len(), served.elsewhere), (0, 0));
    assert_eq!(counts(&one.store, &seat.key).await, Some((1, 1)));
}

/// An old Redis still has it in line.
#[tokio::test]
async fn who_has_a_seat_that_redis_is_told_of_stands_in_no_line() {
    let (_redis, mut one, mut two, seat) = grid().await;
    let first = waiter("", "1.65");
    one.enter(&first).await;
    one.store.adopt(first.session, &seat.key);
    eventually_equal("Redis knows of its seat", Some((1, 1)), async || {
        counts(&one.store, &seat.key).await
    })
    .await;
    let more = candidate(&seat.key, 2, None);
    let served = two.serve(&[], std::slice::from_ref(&more)).await;
    assert_eq!((served.granted.len(), served.elsewhere), (0, 0));
}

/// Whoever asks, the order is that of the pure turns.
#[tokio::test]
async fn the_turns_are_those_of_one_proxy() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let (redis, one, two, _) = grid().await;
        let mut proxies = [one, two, Proxy::start(&redis).await];
        let worker = key("a");
        let mut turns = Turns::default();
        let mut waiting: HashMap<SessionId, (u64, Waiter, Pool, usize)> = HashMap::new();
        let (mut place, mut seated, mut order) = (0, Vec::new(), Vec::new());
        for _ in 0..120 {
            let at = random.random_range(0..proxies.len());
            if random.random_bool(0.6) {
                let (tenant, priority) = *TENANTS.choose(&mut random).unwrap();
                let wanted = *["1.64", "1.65", "", "own"].choose(&mut random).unwrap();
                let waiter = waiter(tenant, wanted);
                let wanted = Pool {
                    browser: worker.browser,
                    version: waiter.version,
                    seat: waiter.seat,
                };
                proxies[at].enter(&waiter).await;
                turns.join(&waiter.tenant, priority, wanted, place);
                waiting.insert(waiter.session, (place, waiter, wanted, at));
                place += 1;
                continue;
            }
            let fits = |wanted: &Pool, _| match (wanted.seat, wanted.version) {
                (SeatKind::Own, _) => Fit::NoneAlike,
                (_, Some(version)) if version.minor == 64 => Fit::NoneAlike,
                _ => Fit::Yes,
            };
            let seat = candidate(&worker, seated.len() as u32 + 1, None);
            let served = proxies[at].serve(&[], &[seat]).await;
            let Some(expected) = turns.first(fits) else {
                assert_eq!((served.granted.len(), served.elsewhere), (0, 0));
                continue;
            };
            let (session, known) = waiting.iter().find(|(_, it)| it.0 == expected).unwrap();
            let (session, (_, waiter, wanted, home)) = (*session, known.clone());
            turns.serve(&waiter.tenant, &wanted, expected);
            waiting.remove(&session);
            if home == at {
                assert_eq!(sessions(&served), [session], "seed {seed}: {order:?}");
            } else {
                assert_eq!(served.elsewhere, 1, "seed {seed}: {order:?}");
                proxies[home].take_up(&waiter).await;
            }
            order.push(expected);
            seated.push(session);
        }
        assert!(order.len() > 20, "{order:?}");
    }
}

/// Whatever becomes of the clients, nothing of them is left.
#[tokio::test]
async fn nothing_is_left_of_a_line() {
    let (redis, mut one, _, seat) = grid().await;
    let mut two = Proxy::with_ttl(&redis, PROXY_TTL).await;
    let clients: Vec<Waiter> = (0..20).map(|_| waiter("a", "1.65")).collect();
    one.serve(&clients, std::slice::from_ref(&seat)).await;
    two.enter(&waiter("b", "1.65")).await;
    for client in &clients {
        release(&one.store, client.session, true).await;
    }
    drop(two);
    eventually("nobody waits and nobody is seated", async || {
        one.serve(&[], std::slice::from_ref(&seat)).await;
        let left: Vec<String> = query(&redis, &["KEYS", "playhouse:lane*"]);
        let active = counts(&one.store, &seat.key)
            .await
            .map(|(active, _)| active);
        (left.is_empty() && active == Some(0)).then_some(())
    })
    .await;
}

/// Else each try of each client during an outage is one more release that the store is to be told of.
#[tokio::test]
async fn nothing_is_owed_for_a_question_that_never_left() {
    let (mut redis, one, _two, seat) = grid().await;
    redis.kill();
    eventually_equal("the store is away", false, async || one.store.reachable()).await;
    let coming = [waiter("", "1.65"), waiter("", "")];
    let asked = one.store.serve_line(Browser::Chromium, true, &coming, &[]);
    let away = asked.await;
    assert!(matches!(away, Err(StoreError::Away(_))), "{away:?}");
    let alone = SessionId::random();
    let away = one.store.reserve(alone, std::slice::from_ref(&seat)).await;
    assert!(matches!(away, Err(StoreError::Away(_))), "{away:?}");
    for session in [coming[0].session, coming[1].session, alone] {
        let released = one.store.release(session, true).await;
        assert!(released.is_ok(), "{released:?}");
    }
}
