//! What one selection costs as the fleet grows: the index alone, the way the proxy goes through
//! Pingora, the update after a reservation, and the policy itself as the naive rival.
//!
//! `cargo bench --bench selection`

use async_trait::async_trait;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use playhouse::config::Strategy;
use playhouse::model::{Browser, Pool, SeatKind, Size, Version, WorkerKey};
use playhouse::selection::{Facts, IndexSelection, Policy, SharedIndex, candidates, policy};
use std::collections::{BTreeSet, HashMap};
use std::hint::black_box;
use std::time::Duration;

const FLEETS: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];

const POLICY: Policy = Policy {
    strategy: Strategy::LifetimeFirst,
    max_concurrent_sessions: 5,
    max_lifetime_sessions: Some(50),
    ceiling: Some(2.0),
};

const WANTED: Pool = Pool {
    browser: Browser::Chromium,
    version: Some(Version {
        major: 1,
        minor: 65,
    }),
    seat: SeatKind::Shared,
};

/// A fleet under load: all lifetimes, a third full, two versions, some closed.
fn fleet(size: u32) -> Vec<Facts> {
    let worker = |n: u32| Facts {
        key: WorkerKey::new(Browser::Chromium, format!("worker-{n:06}")),
        address: ([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 3131).into(),
        version: Some(Version {
            major: 1,
            minor: if n % 10 == 9 { 64 } else { 65 },
        }),
        seat: SeatKind::Shared,
        size: Size::default(),
        active: n * 7 % 8,
        lifetime: n.wrapping_mul(2_654_435_761) % 60,
        started_at: u64::from(n % 97),
        takes_sessions: n % 50 != 49,
        suspected: false,
        replaces_itself: true,
    };
    (0..size).map(worker).collect()
}

fn index_of(fleet: &[Facts]) -> SharedIndex {
    let index = SharedIndex::new(POLICY);
    for worker in fleet {
        index.lock().put(worker.clone());
    }
    index
}

struct Discovery(SharedIndex);

#[async_trait]
impl ServiceDiscovery for Discovery {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        Ok((self.0.lock().backends(), HashMap::new()))
    }
}

fn balancer_of(fleet: &[Facts]) -> LoadBalancer<IndexSelection> {
    let index = index_of(fleet);
    let balancer = index.balancer(Backends::new(Box::new(Discovery(index.clone()))));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers needs nothing of the system");
    runtime
        .block_on(balancer.update())
        .expect("discovery never fails");
    balancer
}

/// Benches the same thing on fleets of all sizes.
fn over_fleets<T>(
    criterion: &mut Criterion,
    name: &str,
    set_up: impl Fn(Vec<Facts>) -> T,
    mut run: impl FnMut(&mut T),
) {
    let mut group = criterion.benchmark_group(name);
    for size in FLEETS {
        let mut subject = set_up(fleet(size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| run(&mut subject));
        });
    }
    group.finish();
}

fn selection(criterion: &mut Criterion) {
    over_fleets(
        criterion,
        "index, best worker",
        |fleet| index_of(&fleet),
        |index| {
            let index = index.lock();
            black_box(index.ranked(black_box(&WANTED)).next());
        },
    );
    over_fleets(
        criterion,
        "index, best 8 workers",
        |fleet| index_of(&fleet),
        |index| {
            let index = index.lock();
            black_box(index.ranked(black_box(&WANTED)).take(8).last());
        },
    );
    for n in [1, 2, 8] {
        over_fleets(
            criterion,
            &format!("load balancer, best {n}"),
            |fleet| balancer_of(&fleet),
            |balancer| {
                black_box(candidates(balancer, black_box(&WANTED), &[], n));
            },
        );
    }
    // Every worker in turn, so that the fleet does not stay in the caches by favour of the bench.
    over_fleets(
        criterion,
        "index, one worker's counters",
        |fleet| (index_of(&fleet), fleet, 0),
        |(index, fleet, turn)| {
            *turn = (*turn + 7_919) % fleet.len();
            let worker = &mut fleet[*turn];
            worker.active = (worker.active + 1) % 5;
            worker.lifetime = (worker.lifetime + 1) % 50;
            index.lock().put(worker.clone());
        },
    );
    over_fleets(
        criterion,
        "policy, sorting all workers",
        |fleet| fleet,
        |fleet| {
            black_box(policy::rank(fleet, &POLICY, black_box(&WANTED)));
        },
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = selection
}
criterion_main!(benches);
