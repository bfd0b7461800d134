//! The index against the policy, over any sequence of changes.

use super::*;
use crate::config::Strategy;
use crate::model::Size;
use crate::selection::policy::rank;
use crate::selection::worker_key;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

/// What may happen to an index.
#[derive(Clone, Debug)]
enum Change {
    Put(Facts),
    Remove(WorkerKey),
    SetPolicy(Policy),
}

prop_compose! {
    /// One of a dozen workers, so that sequences meet the same ones again.
    fn any_key()(browser in prop::sample::select(&Browser::ALL[..2]), id in 0..6) -> WorkerKey {
        WorkerKey::new(browser, format!("w{id}"))
    }
}

prop_compose! {
    fn any_version()(minor in prop::option::of(64u16..67)) -> Option<Version> {
        minor.map(|minor| Version { major: 1, minor })
    }
}

prop_compose! {
    fn any_size()(
        max_concurrent_sessions in prop::option::of(1u32..6),
        max_lifetime_sessions in prop::option::of(prop_oneof![9 => 0u32..14, 1 => Just(u32::MAX)]),
    ) -> Size {
        Size { max_concurrent_sessions, max_lifetime_sessions }
    }
}

prop_compose! {
    fn any_facts()(
        key in any_key(),
        port in 1u16..3,
        version in any_version(),
        seat in prop::sample::select(SeatKind::ALL.to_vec()),
        size in any_size(),
        active in 0u32..5,
        lifetime in prop_oneof![9 => 0u32..14, 1 => Just(u32::MAX)],
        started_at in 0u64..3,
        takes_sessions in prop::bool::weighted(0.8),
        suspected in prop::bool::weighted(0.2),
        replaces_itself: bool,
    ) -> Facts {
        let address = ([127, 0, 0, 1], port).into();
        Facts {
            key, address, version, seat, size, active, lifetime, started_at, takes_sessions, suspected, replaces_itself,
        }
    }
}

prop_compose! {
    fn any_policy()(
        strategy in prop::sample::select(Strategy::ALL.to_vec()),
        max_concurrent_sessions in 1u32..6,
        max_lifetime_sessions in prop::option::of(1u32..12),
        ceiling in prop::option::of(prop_oneof![9 => 0f64..3.0, 1 => Just(f64::INFINITY)]),
    ) -> Policy {
        Policy { strategy, max_concurrent_sessions, max_lifetime_sessions, ceiling }
    }
}

fn any_change() -> impl proptest::strategy::Strategy<Value = Change> {
    prop_oneof![
        8 => any_facts().prop_map(Change::Put),
        2 => any_key().prop_map(Change::Remove),
        1 => any_policy().prop_map(Change::SetPolicy),
    ]
}

fn every_question() -> impl Iterator<Item = Pool> {
    let minors = [None, Some(64), Some(65), Some(66), Some(67)];
    let kinds = Browser::ALL
        .into_iter()
        .flat_map(|browser| SeatKind::ALL.map(|seat| (browser, seat)));
    kinds.flat_map(move |(browser, seat)| {
        minors.into_iter().map(move |minor| Pool {
            browser,
            version: minor.map(|minor| Version { major: 1, minor }),
            seat,
        })
    })
}

fn apply(change: Change, index: &mut Index, told: &mut BTreeMap<WorkerKey, Facts>) {
    match change {
        Change::Put(facts) => {
            told.insert(facts.key.clone(), facts.clone());
            index.put(facts);
        }
        Change::Remove(key) => assert_eq!(index.remove(&key), told.remove(&key)),
        Change::SetPolicy(policy) => index.set_policy(policy),
    }
}

proptest! {
    #[test]
    fn agrees_with_the_policy_after_any_changes(
        policy in any_policy(), changes in prop::collection::vec(any_change(), 1..60),
    ) {
        let mut index = Index::new(policy);
        let mut told = BTreeMap::new();
        for change in changes {
            apply(change, &mut index, &mut told);
            let workers: Vec<Facts> = told.values().cloned().collect();
            for wanted in every_question() {
                let expected = rank(&workers, index.policy(), &wanted);
                let expected: Vec<_> = expected.iter().map(|worker| &worker.key).collect();
                let found: Vec<_> = index.ranked(&wanted).filter_map(|b| worker_key(b)).collect();
                prop_assert_eq!(found, expected, "{}", wanted);
                prop_assert_eq!(index.has_seat(&wanted), index.ranked(&wanted).count() > 0);
            }
            for (browser, seat) in Browser::ALL.into_iter().flat_map(|it| SeatKind::ALL.map(|seat| (it, seat))) {
                let alike = |w: &&Facts| w.key.browser == browser && w.seat == seat;
                let of: Vec<_> = workers.iter().filter(alike).collect();
                let versions: BTreeSet<_> = of.iter().map(|w| w.version).collect();
                prop_assert_eq!(index.registered(browser, seat), of.len());
                prop_assert_eq!(index.taking_sessions(browser, seat), of.iter().filter(|w| w.takes_sessions).count());
                prop_assert_eq!(index.versions(browser, seat), versions);
            }
            // As many backends as workers: none hides another in Pingora's set.
            prop_assert_eq!(index.backends().len(), workers.len());
        }
    }

    /// A selection that other changes interrupt ends, and names no worker without a seat.
    #[test]
    fn a_selection_survives_changes_between_its_steps(
        policy in any_policy(),
        before in prop::collection::vec(any_facts(), 0..20),
        meanwhile in prop::collection::vec(any_change(), 0..20),
        wanted in prop::sample::select(every_question().collect::<Vec<_>>()),
    ) {
        let mut index = Index::new(policy);
        let mut told = BTreeMap::new();
        for facts in before {
            apply(Change::Put(facts), &mut index, &mut told);
        }
        let mut cursor = Cursor::new(wanted);
        let mut meanwhile = meanwhile.into_iter();
        for _ in 0..100 {
            let Some(backend) = index.next(&mut cursor) else {
                return Ok(());
            };
            let facts = worker_key(backend).and_then(|key| index.facts(key));
            prop_assert!(facts.is_some_and(|f| index.policy().has_seat(f)));
            if let Some(change) = meanwhile.next() {
                apply(change, &mut index, &mut told);
            }
        }
        prop_assert!(false, "a dozen workers and twenty changes take no hundred steps");
    }
}

const POLICY: Policy = Policy {
    strategy: Strategy::LifetimeFirst,
    max_concurrent_sessions: 5,
    max_lifetime_sessions: Some(10),
    ceiling: None,
};

fn facts(id: &str, port: u16, lifetime: u32) -> Facts {
    Facts {
        key: WorkerKey::new(Browser::Chromium, id),
        address: ([127, 0, 0, 1], port).into(),
        version: None,
        seat: SeatKind::Shared,
        size: Size::default(),
        active: 0,
        lifetime,
        started_at: 0,
        takes_sessions: true,
        suspected: false,
        replaces_itself: true,
    }
}

#[test]
fn a_selection_survives_a_threshold_that_passes_it() {
    let mut index = Index::new(POLICY);
    index.put(facts("nine", 1, 9));
    index.put(facts("five", 2, 5));
    let mut cursor = Cursor::new(Pool {
        browser: Browser::Chromium,
        version: None,
        seat: SeatKind::Shared,
    });
    // Two workers: the threshold is 5, both are in the second tier.
    for expected in ["nine", "five"] {
        let best = index.next(&mut cursor).and_then(|best| worker_key(best));
        assert_eq!(best.map(|key| key.id.as_str()), Some(expected));
    }
    // Many: it is 9, and the selection stands behind the end of the second tier.
    for n in 0..10 {
        index.put(facts(&format!("new {n}"), 3, 0));
    }
    assert!(index.next(&mut cursor).is_none());
}

#[test]
fn a_worker_is_a_backend_of_its_own_for_life() {
    let mut index = Index::new(POLICY);
    index.put(facts("old", 1, 0));
    let old = index.backends();
    index.put(facts("old", 1, 1));
    assert_eq!(index.backends(), old, "counters are no part of a backend");
    index.remove(&facts("old", 1, 1).key);
    index.put(facts("new", 1, 0));
    assert!(
        index.backends().is_disjoint(&old),
        "same port, another worker"
    );
    let new = index.backends();
    index.put(facts("new", 2, 0));
    assert!(index.backends().is_disjoint(&new), "another port");
}
