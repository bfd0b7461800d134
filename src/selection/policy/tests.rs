//! The policy by example, and what holds for any fleet.

use super::*;
use crate::config::{Config, Role, Strategy};
use crate::model::Browser;
use crate::selection::strategy::restart_margin;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

fn policy(strategy: Strategy, limit: u32, ceiling: Option<f64>) -> Policy {
    Policy {
        strategy,
        max_concurrent_sessions: 5,
        max_lifetime_sessions: (limit > 0).then_some(limit),
        ceiling,
    }
}

/// A worker that takes sessions, of Chromium 1.65 and as old as all the others.
fn worker(id: &str, lifetime: u32, active: u32) -> Facts {
    Facts {
        key: WorkerKey::new(Browser::Chromium, id),
        address: ([127, 0, 0, 1], 3131).into(),
        version: Some(V65),
        seat: SeatKind::Shared,
        size: Size::default(),
        active,
        lifetime,
        started_at: 0,
        takes_sessions: true,
        suspected: false,
        replaces_itself: false,
    }
}

const V65: Version = version(65);

const fn version(minor: u16) -> Version {
    Version { major: 1, minor }
}

const ANY: Pool = Pool {
    browser: Browser::Chromium,
    version: None,
    seat: SeatKind::Shared,
};

fn order(workers: &[Facts], policy: &Policy, wanted: &Pool) -> Vec<String> {
    let ranked = rank(workers, policy, wanted);
    ranked.iter().map(|w| w.key.id.to_string()).collect()
}

#[test]
fn a_suspected_worker_is_the_last_choice_and_still_one() {
    let suspected = |id, lifetime| Facts {
        suspected: true,
        ..worker(id, lifetime, 0)
    };
    let workers = [
        suspected("seven", 7),
        suspected("eight", 8),
        worker("three", 3, 4),
        Facts {
            replaces_itself: true,
            ..worker("past", 10, 4)
        },
    ];
    let policy = policy(Strategy::LifetimeFirst, 10, Some(2.0));
    assert_eq!(
        order(&workers, &policy, &ANY),
        ["three", "past", "seven", "eight"]
    );
    assert_eq!(order(&workers[..1], &policy, &ANY), ["seven"]);
}

#[test]
fn fills_the_highest_below_the_margin_first_and_then_the_rest() {
    // Limit 10 and five workers that take sessions: the margin is 2, the threshold 8.
    let workers = [
        worker("nine", 9, 0),
        worker("eight", 8, 0),
        worker("seven", 7, 4),
        worker("three", 3, 0),
        worker("limit", 10, 0),
    ];
    let policy = policy(Strategy::LifetimeFirst, 10, None);
    assert_eq!(
        order(&workers, &policy, &ANY),
        ["seven", "three", "nine", "eight"]
    );
}

#[test]
fn takes_the_margin_from_the_open_workers_of_the_browser_of_whatever_version() {
    let policy = policy(Strategy::LifetimeFirst, 10, None);
    let margins = [0, 1, 3, 10, 1000].map(|workers| restart_margin(10, workers));
    assert_eq!(margins, [10, 10, 3, 1, 1]);
    // Two take sessions: the threshold is 5, and the one that does not and Firefox do not move it.
    let mut workers = [
        worker("five", 5, 0),
        worker("four", 4, 0),
        worker("closed", 0, 0),
        worker("firefox", 0, 0),
    ];
    workers[2].takes_sessions = false;
    workers[3].key.browser = Browser::Firefox;
    assert_eq!(order(&workers, &policy, &ANY), ["four", "five"]);
    workers[2].takes_sessions = true;
    workers[2].seat = SeatKind::Own;
    assert_eq!(order(&workers, &policy, &ANY), ["four", "five"]);
    workers[2].seat = SeatKind::Shared;
    workers[2].version = Some(version(64));
    let wanted = Pool {
        version: Some(V65),
        ..ANY
    };
    assert_eq!(order(&workers, &policy, &wanted), ["five", "four"]);
}

#[test]
fn breaks_ties_by_fewest_active_then_oldest_then_id() {
    let mut workers = [
        worker("d", 3, 1),
        worker("c", 3, 0),
        worker("b", 3, 0),
        worker("a", 3, 0),
    ];
    workers[3].started_at = 1;
    let policy = policy(Strategy::LifetimeFirst, 50, None);
    assert_eq!(order(&workers, &policy, &ANY), ["b", "c", "a", "d"]);
}

#[test]
fn goes_past_the_limit_last_lowest_first_to_a_ceiling_or_until_its_turn() {
    let mut workers = [
        worker("nine", 9, 4),
        worker("turn", 11, 0),
        worker("fifteen", 15, 0),
        worker("ten", 10, 0),
        worker("ceiling", 20, 0),
    ];
    for soft in &mut workers[2..] {
        soft.replaces_itself = true;
    }
    for strategy in Strategy::ALL {
        let soft = policy(strategy, 10, Some(2.0));
        assert_eq!(
            order(&workers, &soft, &ANY),
            ["nine", "ten", "turn", "fifteen"]
        );
        let hard = policy(strategy, 10, None);
        assert_eq!(order(&workers, &hard, &ANY), ["nine"]);
    }
}

#[test]
fn fills_the_least_active_first_when_asked_to() {
    let workers = [
        worker("a", 9, 2),
        worker("b", 9, 1),
        worker("c", 2, 1),
        worker("full", 0, 5),
    ];
    let policy = policy(Strategy::LeastActive, 10, None);
    assert_eq!(order(&workers, &policy, &ANY), ["c", "b", "a"]);
}

#[test]
fn without_a_limit_nobody_is_ever_past_it() {
    let workers = [worker("new", 0, 0), worker("old", u32::MAX, 0)];
    let policy = policy(Strategy::LifetimeFirst, 0, Some(2.0));
    assert_eq!(order(&workers, &policy, &ANY), ["old", "new"]);
}

/// Sessions one after another on three workers; a worker at its limit is out for two of them.
#[test]
fn restarts_are_staggered() {
    let policy = policy(Strategy::LifetimeFirst, 10, None);
    let mut workers = ["a", "b", "c"].map(|id| worker(id, 0, 0));
    let mut back_at = [None; 3];
    let mut restarts = 0;
    for session in 0..300 {
        for (worker, back_at) in workers.iter_mut().zip(&mut back_at) {
            if *back_at == Some(session) {
                *back_at = None;
                (worker.takes_sessions, worker.lifetime) = (true, 0);
            }
        }
        let best = rank(&workers, &policy, &ANY)[0].key.clone();
        for (worker, back_at) in workers.iter_mut().zip(&mut back_at) {
            worker.lifetime += u32::from(worker.key == best);
            if worker.takes_sessions && worker.lifetime == 10 {
                worker.takes_sessions = false;
                *back_at = Some(session + 3);
                restarts += 1;
            }
        }
        let out = workers
            .iter()
            .filter(|worker| !worker.takes_sessions)
            .count();
        assert!(out <= 1, "{out} out after session {session}");
    }
    assert!((28..=30).contains(&restarts), "{restarts}");
}

#[test]
fn a_cap_is_the_limit_when_it_is_hard_the_ceiling_or_none_before_its_turn() {
    let caps = |limit, ceiling| {
        let policy = policy(Strategy::LifetimeFirst, limit, ceiling);
        let bounds = policy.bounds(Size::default());
        [false, true].map(|replaces_itself| bounds.lifetime_cap(replaces_itself))
    };
    assert_eq!(caps(50, Some(1.5)), [Some(u32::MAX), Some(75)]);
    assert_eq!(caps(50, Some(0.5)), [Some(u32::MAX), Some(50)]);
    assert_eq!(caps(50, None), [Some(50), Some(50)]);
    assert_eq!(caps(0, Some(1.5)), [None, None]);
    let recycle = |ceiling| Recycle {
        ceiling,
        ..Config::defaults(Role::Proxy).recycle
    };
    let Config {
        limits: defaults,
        selection,
        ..
    } = Config::defaults(Role::Proxy);
    let limits = |max_concurrent_sessions, max_lifetime_sessions| Limits {
        max_concurrent_sessions,
        max_lifetime_sessions,
        ..defaults
    };
    assert_eq!(recycle(1.5).ceiling_of(&limits(5, 50)), 75);
    assert_eq!(recycle(2.0).ceiling_of(&limits(5, u32::MAX)), u32::MAX);
    let of = |ceiling, limits: &Limits| {
        let policy = Policy::new(limits, &selection, &recycle(ceiling));
        policy.bounds(Size::default()).ceiling
    };
    assert_eq!(of(1.0, &limits(5, 50)), None);
    assert_eq!(of(1.5, &limits(5, 50)), Some(75));
    assert_eq!(of(3.0, &limits(5, 1)), Some(3));
    let isolated = of(3.0, &limits(1, 1));
    assert_eq!(isolated, None, "a process of its own for each session");
}

fn sized(
    max_concurrent_sessions: Option<u32>,
    max_lifetime_sessions: Option<u32>,
    worker: Facts,
) -> Facts {
    let size = Size {
        max_concurrent_sessions,
        max_lifetime_sessions,
    };
    Facts { size, ..worker }
}

#[test]
fn a_worker_is_filled_by_its_own_limits() {
    // Five at once and ten in a life where a worker does not say.
    let policy = policy(Strategy::LifetimeFirst, 10, None);
    let workers = [
        sized(Some(2), None, worker("small and full", 0, 2)),
        sized(Some(8), None, worker("large", 0, 7)),
        sized(None, Some(100), worker("long-lived", 90, 0)),
        sized(None, Some(3), worker("spent", 3, 0)),
        sized(None, Some(0), worker("never recycled", 1000, 0)),
        worker("of the grid", 1, 4),
    ];
    // Six take sessions: the margins are 1, and 16 of a hundred.
    assert_eq!(
        order(&workers, &policy, &ANY),
        ["of the grid", "large", "never recycled", "long-lived"]
    );
    let isolated = sized(Some(1), Some(1), worker("", 0, 0)).size;
    let soft = Policy {
        ceiling: Some(3.0),
        ..policy
    };
    assert_eq!(soft.bounds(isolated).lifetime_cap(true), Some(1));
    let single = sized(Some(2), Some(1), worker("", 0, 0)).size;
    assert_eq!(soft.bounds(single).lifetime_cap(true), Some(3));
}

#[test]
fn a_client_gets_the_kind_of_seat_that_it_wants() {
    let policy = policy(Strategy::LifetimeFirst, 10, None);
    let own = Facts {
        seat: SeatKind::Own,
        ..worker("own", 0, 0)
    };
    let workers = [own, worker("shared", 0, 0)];
    assert_eq!(order(&workers, &policy, &ANY), ["shared"]);
    let wanted = Pool {
        seat: SeatKind::Own,
        ..ANY
    };
    assert_eq!(order(&workers, &policy, &wanted), ["own"]);
}

prop_compose! {
    /// Most say nothing, as in most grids.
    fn any_size()(
        max_concurrent_sessions in prop::option::weighted(0.2, 1u32..7),
        max_lifetime_sessions in prop::option::weighted(0.2, 0u32..25),
    ) -> Size {
        Size { max_concurrent_sessions, max_lifetime_sessions }
    }
}

prop_compose! {
    fn any_worker()(
        browser in prop::sample::select(&Browser::ALL[..2]),
        minor in prop::option::of(64u16..66),
        active in 0u32..7,
        lifetime in 0u32..25,
        size in any_size(),
        seat in prop::sample::select(SeatKind::ALL.to_vec()),
        started_at in 0u64..3,
        takes_sessions in prop::bool::weighted(0.8),
        replaces_itself: bool,
    ) -> Facts {
        Facts {
            key: WorkerKey::new(browser, ""),
            version: minor.map(version),
            seat,
            size,
            started_at,
            takes_sessions,
            replaces_itself,
            ..worker("", lifetime, active)
        }
    }
}

prop_compose! {
    fn any_fleet()(mut workers in prop::collection::vec(any_worker(), 0..12)) -> Vec<Facts> {
        for (n, worker) in workers.iter_mut().enumerate() {
            worker.key = WorkerKey::new(worker.key.browser, format!("w{n}"));
        }
        workers
    }
}

prop_compose! {
    fn any_policy()(
        strategy in prop::sample::select(Strategy::ALL.to_vec()),
        limit in 0u32..15,
        ceiling in prop::option::of(0f64..3.0),
    ) -> Policy {
        policy(strategy, limit, ceiling)
    }
}

proptest! {
    #[test]
    fn names_exactly_those_who_may_take_the_session(
        workers in any_fleet(), policy in any_policy(), minor in prop::option::of(64u16..66),
    ) {
        let wanted = Pool { version: minor.map(version), ..ANY };
        let ranked = rank(&workers, &policy, &wanted);
        for worker in &workers {
            let below = |most: Option<u32>| most.is_none_or(|most| worker.lifetime < most);
            let bounds = policy.bounds(worker.size);
            let may = worker.key.browser == Browser::Chromium
                && worker.seat == SeatKind::Shared
                && (worker.version == wanted.version
                    || worker.version.is_none()
                    || wanted.version.is_none())
                && worker.takes_sessions
                && worker.active < worker.size.max_concurrent_sessions.unwrap_or(5)
                && (below(bounds.max_lifetime_sessions)
                    || bounds.ceiling.is_some()
                        && (!worker.replaces_itself || below(bounds.ceiling)));
            let named = ranked.iter().filter(|ranked| ranked.key == worker.key).count();
            prop_assert_eq!(named, usize::from(may));
        }
    }

    #[test]
    fn does_not_depend_on_the_order_in_which_workers_are_told(
        (told, again) in any_fleet().prop_flat_map(|told| {
            (Just(told.clone()), Just(told).prop_shuffle())
        }),
        policy in any_policy(),
    ) {
        prop_assert_eq!(rank(&told, &policy, &ANY), rank(&again, &policy, &ANY));
    }

    /// What staggers the restarts: the gap between two workers is never closed while another
    /// worker can take the session.
    #[test]
    fn nobody_is_brought_near_the_limit_while_another_has_room(
        workers in any_fleet(), limit in 1u32..15,
    ) {
        let policy = policy(Strategy::LifetimeFirst, limit, None);
        let ranked = rank(&workers, &policy, &ANY);
        let alike = |w: &&Facts| w.key.browser == ANY.browser && w.seat == ANY.seat;
        let serving = workers.iter().filter(alike).filter(|w| w.takes_sessions).count();
        let near = |worker: &Facts| {
            let limit = policy.bounds(worker.size).max_lifetime_sessions;
            limit.is_some_and(|limit| worker.lifetime + restart_margin(limit, serving) >= limit)
        };
        let left = |worker: &Facts| policy.bounds(worker.size).left(worker.lifetime);
        if let Some(first) = ranked.first() && near(first) {
            prop_assert!(ranked.iter().all(|worker| near(worker)));
        }
        for (a, b) in ranked.iter().zip(ranked.iter().skip(1)) {
            prop_assert!(near(a) == near(b) && left(a) <= left(b) || !near(a) && near(b));
        }
    }

    #[test]
    fn a_ceiling_adds_workers_behind_those_there_were(
        workers in any_fleet(), policy in any_policy(),
    ) {
        let hard = Policy { ceiling: None, ..policy };
        let without = rank(&workers, &hard, &ANY);
        prop_assert!(rank(&workers, &policy, &ANY).starts_with(&without));
    }
}
