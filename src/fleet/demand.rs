//! How much of each pool is wanted: the sessions that run and the clients that wait. Pure.
//!
//! Autoscalers are told the whole demand, never how much is missing: what is missing is right only
//! at the moment it is computed, and an autoscaler adds it again as long as the pods that it has
//! asked for are not there.

use super::WorkerState;
use crate::model::{Pool, PoolState};
use std::collections::BTreeMap;

/// Clients that wait for one thing, and how many there are.
pub type Waiting = (Pool, usize);

/// The pools that have workers or are expected, and the clients that wait, each in one of them. Who
/// waits for a version of which there is neither is counted under its browser without a version, so
/// that no client can make up a pool.
pub fn pools(workers: &[WorkerState], waiting: &[Waiting], expected: &[Pool]) -> Vec<PoolState> {
    let mut pools: BTreeMap<Pool, PoolState> = BTreeMap::new();
    for pool in expected {
        entry(&mut pools, *pool).expected = true;
    }
    for worker in workers {
        let pool = entry(&mut pools, worker.record.pool());
        pool.used += u64::from(worker.counts.active);
        pool.free += u64::from(worker.free);
        pool.workers += 1;
    }
    for (wanted, clients) in waiting {
        let pool = waiting_for(&pools, wanted);
        entry(&mut pools, pool).queued += *clients as u64;
    }
    pools.into_values().collect()
}

fn entry(pools: &mut BTreeMap<Pool, PoolState>, pool: Pool) -> &mut PoolState {
    pools.entry(pool).or_insert_with(|| PoolState::empty(pool))
}

/// The pool that should grow for this client: its version's, or, if any version will do, that of
/// the newest.
fn waiting_for(pools: &BTreeMap<Pool, PoolState>, wanted: &Pool) -> Pool {
    let versions = pools.keys().filter(|pool| wanted.accepts(pool));
    versions.max().copied().unwrap_or(Pool {
        version: None,
        ..*wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Browser, Counts, SeatKind, Version, WorkerKey, WorkerRecord};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn worker(pool: Pool, active: u32, free: u32) -> WorkerState {
        WorkerState {
            record: WorkerRecord {
                version: pool.version,
                replaces_itself: true,
                seat: pool.seat,
                ..WorkerRecord::new(
                    WorkerKey::new(pool.browser, "w"),
                    "ws://127.0.0.1:1/".parse().unwrap(),
                    0,
                )
            },
            counts: Counts {
                active,
                ..Counts::default()
            },
            unreachable: None,
            free,
        }
    }

    fn expected(version: &str) -> Pool {
        Pool {
            browser: Browser::Chromium,
            version: version.parse().ok(),
            seat: SeatKind::Shared,
        }
    }

    fn own(pool: Pool) -> Pool {
        Pool {
            seat: SeatKind::Own,
            ..pool
        }
    }

    fn wanted(version: Option<&str>) -> Pool {
        Pool {
            browser: Browser::Chromium,
            version: version.and_then(|version| version.parse().ok()),
            seat: SeatKind::Shared,
        }
    }

    #[test]
    fn an_empty_pool_that_is_expected_has_the_demand_of_those_who_wait() {
        let pools = pools(&[], &[(wanted(Some("1.65")), 3)], &[expected("1.65")]);
        assert_eq!(pools.len(), 1);
        assert_eq!((pools[0].expected, pools[0].demand()), (true, 3));
        assert_eq!(pools[0].workers, 0);
    }

    #[test]
    fn who_takes_any_version_waits_for_the_newest() {
        let workers = [
            worker(expected("1.64"), 1, 0),
            worker(expected("1.65"), 2, 0),
            worker(own(expected("1.66")), 4, 0),
        ];
        let pools = pools(&workers, &[(wanted(None), 5)], &[]);
        let demands: Vec<u64> = pools.iter().map(PoolState::demand).collect();
        assert_eq!(demands, [1, 7, 4]);
    }

    prop_compose! {
        fn any_pool()(
            browser in prop::sample::select(Browser::ALL.to_vec()),
            minor in prop::option::of(60u16..64),
            seat in prop::sample::select(SeatKind::ALL.to_vec()),
        ) -> Pool {
            let version = minor.map(|minor| Version { major: 1, minor });
            Pool { browser, version, seat }
        }
    }

    proptest! {
        /// Everybody is counted once, and the pools are those that somebody vouches for.
        #[test]
        fn the_pools_add_up_to_the_grid(
            workers in vec((any_pool(), 0u32..5, 0u32..5), 0..12),
            waiting in vec((any_pool(), 0usize..9), 0..12),
            expect in vec(any_pool(), 0..4),
        ) {
            let workers: Vec<WorkerState> =
                workers.into_iter().map(|(pool, active, free)| worker(pool, active, free)).collect();
            let pools = pools(&workers, &waiting, &expect);
            let used: u64 = workers.iter().map(|it| u64::from(it.counts.active)).sum();
            let queued: usize = waiting.iter().map(|(_, n)| n).sum();
            prop_assert_eq!(pools.iter().map(|it| it.used).sum::<u64>(), used);
            prop_assert_eq!(pools.iter().map(|it| it.queued).sum::<u64>(), queued as u64);
            prop_assert_eq!(pools.iter().map(|it| it.workers).sum::<usize>(), workers.len());
            for pool in &pools {
                let vouched = workers.iter().any(|it| it.record.pool() == pool.pool)
                    || expect.contains(&pool.pool)
                    || pool.pool.version.is_none();
                prop_assert!(vouched, "{:?}", pool);
            }
            for pool in &expect {
                prop_assert_eq!(pools.iter().filter(|it| it.pool == *pool).count(), 1);
            }
        }
    }
}
