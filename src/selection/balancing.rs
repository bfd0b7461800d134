//! The index behind Pingora's `BackendSelection`.
//!
//! Owns the lock around the index and the way from a selection key to backends. Pingora builds a
//! new selector whenever the set of backends changes, so the selector itself keeps nothing: what
//! is known of the workers lives in the [`SharedIndex`] that its configuration hands in. For the
//! same reason it ignores the backends it is built from: facts in them would go stale.

use super::index::{Cursor, Index};
use super::policy::Policy;
use crate::config::Strategy;
use crate::model::{Pool, WorkerKey};
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Backends that one selection looks at before it gives up. Whoever keeps the index closes the
/// workers that fail their health checks, so this bounds the time of those selections only that
/// fall between a great failure and that.
const MAX_STEPS: usize = 1024;

/// The index as the fleet, which writes it, and the selectors share it.
#[derive(Clone, Debug)]
pub struct SharedIndex(Arc<Mutex<Index>>);

impl SharedIndex {
    /// An index without workers.
    pub fn new(policy: Policy) -> SharedIndex {
        SharedIndex(Arc::new(Mutex::new(Index::new(policy))))
    }

    /// The index, for a moment: every selection of the process waits for it.
    pub fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A load balancer that selects from this index. Discovery has to tell
    /// [`Index::backends`], or no worker counts as healthy.
    pub fn balancer(&self, backends: Backends) -> LoadBalancer<IndexSelection> {
        LoadBalancer::from_backends_with_config(backends, Some(self.clone()))
    }
}

/// Selects by [`rank`](super::policy::rank). Its keys are written by [`Pool`]; for any other key
/// there is no backend.
pub struct IndexSelection {
    index: SharedIndex,
}

impl BackendSelection for IndexSelection {
    type Iter = Ranked;
    type Config = SharedIndex;

    fn build_with_config(_: &BTreeSet<Backend>, index: &SharedIndex) -> Self {
        IndexSelection {
            index: index.clone(),
        }
    }

    /// Without an index there is nobody to select: see [`SharedIndex::balancer`].
    fn build(_: &BTreeSet<Backend>) -> Self {
        IndexSelection {
            index: SharedIndex::new(Policy {
                strategy: Strategy::LifetimeFirst,
                max_concurrent_sessions: 0,
                max_lifetime_sessions: None,
                ceiling: None,
            }),
        }
    }

    fn iter(self: &Arc<Self>, key: &[u8]) -> Ranked {
        let wanted = std::str::from_utf8(key).ok().and_then(|k| k.parse().ok());
        Ranked {
            selector: self.clone(),
            cursor: wanted.map(Cursor::new),
            current: None,
        }
    }
}

/// The backends of one selection, found one at a time. Holds the lock while it takes a step and
/// not in between, where Pingora runs the caller's code.
pub struct Ranked {
    selector: Arc<IndexSelection>,
    cursor: Option<Cursor>,
    current: Option<Arc<Backend>>,
}

impl BackendIter for Ranked {
    fn next(&mut self) -> Option<&Backend> {
        let cursor = self.cursor.as_mut()?;
        self.current = self.selector.index.lock().next(cursor).cloned();
        self.current.as_deref()
    }
}

/// The worker that a backend of the [`Index`] stands for.
pub fn worker_key(backend: &Backend) -> Option<&WorkerKey> {
    backend.ext.get::<Arc<WorkerKey>>().map(|key| &**key)
}

/// The `n` best workers for a client that Pingora believes healthy, best first, none of those in
/// `except`. Fewer when there are fewer with a seat. Nothing is reserved: offer them to the store in this order.
pub fn candidates(
    balancer: &LoadBalancer<IndexSelection>,
    wanted: &Pool,
    except: &[WorkerKey],
    n: usize,
) -> Vec<WorkerKey> {
    let found = RefCell::new(Vec::with_capacity(n));
    balancer.select_with(
        wanted.to_string().as_bytes(),
        MAX_STEPS,
        |backend, healthy| {
            let mut found = found.borrow_mut();
            if healthy && found.len() < n {
                let key = worker_key(backend).filter(|key| !except.contains(key));
                found.extend(key.cloned());
            }
            found.len() >= n
        },
    );
    found.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Browser, SeatKind, Size, Version};
    use crate::selection::Facts;
    use async_trait::async_trait;
    use pingora_load_balancing::discovery::ServiceDiscovery;
    use std::collections::HashMap;

    const POLICY: Policy = Policy {
        strategy: Strategy::LifetimeFirst,
        max_concurrent_sessions: 5,
        max_lifetime_sessions: Some(50),
        ceiling: None,
    };

    const WANTED: Pool = Pool {
        browser: Browser::Chromium,
        version: Some(Version {
            major: 1,
            minor: 65,
        }),
        seat: SeatKind::Shared,
    };

    fn worker(id: &str, port: u16, lifetime: u32) -> Facts {
        Facts {
            key: WorkerKey::new(Browser::Chromium, id),
            address: ([127, 0, 0, 1], port).into(),
            version: WANTED.version,
            seat: SeatKind::Shared,
            size: Size::default(),
            active: 0,
            lifetime,
            started_at: 0,
            takes_sessions: true,
            suspected: false,
            replaces_itself: false,
        }
    }

    /// Tells Pingora what the index knows, as the fleet's discovery does.
    struct Discovery(SharedIndex);

    #[async_trait]
    impl ServiceDiscovery for Discovery {
        async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
            Ok((self.0.lock().backends(), HashMap::new()))
        }
    }

    async fn balancer(workers: &[Facts]) -> (SharedIndex, LoadBalancer<IndexSelection>) {
        let index = SharedIndex::new(POLICY);
        for worker in workers {
            index.lock().put(worker.clone());
        }
        let balancer = index.balancer(Backends::new(Box::new(Discovery(index.clone()))));
        balancer.update().await.unwrap();
        (index, balancer)
    }

    fn named(balancer: &LoadBalancer<IndexSelection>, n: usize) -> Vec<String> {
        let found = candidates(balancer, &WANTED, &[], n);
        found.iter().map(|key| key.id.to_string()).collect()
    }

    #[tokio::test]
    async fn names_the_best_workers_best_first_and_no_more_than_asked_for() {
        let workers = [worker("a", 1, 3), worker("b", 2, 9), worker("c", 3, 6)];
        let (_, balancer) = balancer(&workers).await;
        assert_eq!(named(&balancer, 8), ["b", "c", "a"]);
        assert_eq!(named(&balancer, 2), ["b", "c"]);
        assert_eq!(named(&balancer, 0), [""; 0]);
    }

    #[tokio::test]
    async fn follows_the_counters_without_an_update_of_the_balancer() {
        let (index, balancer) = balancer(&[worker("a", 1, 3), worker("b", 2, 9)]).await;
        index.lock().put(worker("a", 1, 10));
        assert_eq!(named(&balancer, 8), ["a", "b"]);
        index.lock().remove(&worker("a", 1, 0).key);
        assert_eq!(named(&balancer, 8), ["b"]);
    }

    #[tokio::test]
    async fn keeps_the_counters_when_pingora_builds_another_selector() {
        let (index, balancer) = balancer(&[worker("a", 1, 3), worker("b", 2, 0)]).await;
        index.lock().put(worker("b", 2, 7));
        index.lock().put(worker("c", 3, 5));
        balancer.update().await.unwrap();
        assert_eq!(named(&balancer, 8), ["b", "c", "a"]);
    }

    #[tokio::test]
    async fn tells_workers_on_one_address_apart() {
        let (index, balancer) = balancer(&[worker("a", 1, 3), worker("b", 1, 9)]).await;
        assert_eq!(named(&balancer, 8), ["b", "a"]);
        index.lock().remove(&worker("b", 1, 9).key);
        index.lock().put(worker("restarted", 1, 0));
        balancer.update().await.unwrap();
        assert_eq!(named(&balancer, 8), ["a", "restarted"]);
    }

    #[tokio::test]
    async fn passes_over_what_pingora_believes_unhealthy() {
        let (index, balancer) = balancer(&[worker("a", 1, 3), worker("b", 2, 9)]).await;
        let all = index.lock().backends();
        let b = all
            .iter()
            .find(|b| worker_key(b).unwrap().id.as_str() == "b");
        balancer.backends().set_enable(b.unwrap(), false);
        assert_eq!(named(&balancer, 1), ["a"]);
    }

    #[tokio::test]
    async fn is_an_ordinary_selection_to_pingora_and_lets_go_of_the_index_between_steps() {
        let (index, balancer) = balancer(&[worker("a", 1, 3), worker("b", 2, 9)]).await;
        let first = balancer.select(b"chromium/1.65", 8).unwrap();
        assert_eq!(worker_key(&first).unwrap().id.as_str(), "b");
        for key in [
            &b"chromium/1.64"[..],
            b"chromium/1.65/own",
            b"firefox",
            b"opera",
            b"\xff",
        ] {
            assert!(balancer.select(key, 8).is_none(), "{key:?}");
        }
        let accepted = balancer.select_with(b"chromium", 8, |_, _| index.0.try_lock().is_ok());
        assert!(accepted.is_some());
    }
}
