//! The shapes of the admin API's answers.

use crate::model::{Browser, PoolFilter, PoolState, SeatKind};
use crate::proxy::ProxyState;
use crate::session::registry::Registry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/workers`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Workers {
    pub workers: Vec<Worker>,
}

/// One worker. The endpoint comes without its path: whoever knows that can drive the browser.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    pub id: String,
    pub browser: Browser,
    pub playwright_version: Option<String>,
    pub browser_version: Option<String>,
    pub status: String,
    pub endpoint: String,
    pub active_sessions: u32,
    pub lifetime_sessions: u32,
    /// Kind of its seats.
    #[serde(default)]
    pub seat: SeatKind,
    /// Sessions that it takes at once.
    #[serde(default)]
    pub max_concurrent_sessions: u32,
    /// Sessions until it gets a fresh browser; 0 = never.
    #[serde(default)]
    pub max_lifetime_sessions: u32,
    /// Milliseconds since the epoch.
    pub started_at: u64,
    pub last_heartbeat: u64,
    pub healthy: bool,
    /// Why this proxy does not reach it, and what that usually comes from.
    #[serde(default)]
    pub unreachable: Option<String>,
    /// Bytes of the browser's process tree, when the worker measures it.
    pub memory: Option<u64>,
    /// How far its browsers are kept from what is not theirs: `full`, `partial` with what sessions
    /// can do, or `off`; absent for workers that do not tell.
    #[serde(default)]
    pub seal: Option<String>,
}

/// `GET /v1/sessions`: those of the grid.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sessions {
    pub sessions: Vec<Session>,
    /// Absent in the answer of a proxy of 0.1.
    #[serde(default)]
    pub others: Peers,
}

/// What the other proxies of the grid had to say.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Peers {
    /// How many told their sessions.
    pub answered: usize,
    /// Proxies that did not in time: their sessions are missing.
    pub silent: Vec<String>,
    /// Sessions that those who answered have beyond the most that are told.
    pub unlisted: usize,
    /// Why nobody could be asked.
    pub error: Option<String>,
}

/// One session. Also what proxies tell each other: a field that is added has to have a default, or the answers
/// of older proxies cannot be read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    pub id: String,
    pub worker: String,
    pub browser: Browser,
    /// The client's address.
    pub client: Option<String>,
    /// The token's name, never the token.
    pub token: Option<String>,
    /// Milliseconds since the epoch.
    pub started_at: u64,
    pub age_seconds: f64,
    /// Since the last message either way.
    pub idle_seconds: f64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// `GET /v1/capacity`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Capacity {
    pub slots: Slots,
    /// Clients that wait, at whichever proxy.
    pub queued: usize,
    pub workers: usize,
    /// Seats that would satisfy everybody: those in use, and one for each client that waits.
    #[serde(default)]
    pub demand: u64,
    /// The same for each browser that has a pool.
    pub browsers: BTreeMap<String, BrowserCapacity>,
    /// The same for each pool: what an autoscaler reads.
    #[serde(default)]
    pub pools: Vec<PoolCapacity>,
    /// Tenants whose clients wait, whichever pool they wait for.
    #[serde(default)]
    pub tenants: Vec<TenantCapacity>,
}

/// Clients that came with one token, or without any.
#[derive(Debug, Serialize, Deserialize)]
pub struct TenantCapacity {
    /// The token's name, never the token.
    pub token: Option<String>,
    pub queued: usize,
}

/// Workers that can stand in for each other.
#[derive(Debug, Serialize, Deserialize)]
pub struct PoolCapacity {
    pub browser: Browser,
    /// Playwright's version; `None` for workers that do not tell, and for clients that wait for a
    /// version of which there is no worker.
    pub version: Option<String>,
    pub seat: SeatKind,
    /// Whether the configuration names it.
    pub expected: bool,
    pub demand: u64,
    pub used: u64,
    pub free: u64,
    pub queued: usize,
    pub workers: usize,
}

/// Seats of workers that the proxy knows.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Slots {
    pub used: u64,
    pub free: u64,
}

/// Seats, waiting clients and workers of one browser.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct BrowserCapacity {
    pub slots: Slots,
    pub queued: usize,
    pub workers: usize,
}

pub(super) fn workers(proxy: &ProxyState) -> Workers {
    let of_grid = proxy.config.load().limits;
    let workers = proxy.fleet.workers().into_iter().map(|worker| {
        let record = worker.record;
        let limits = of_grid.of(record.size);
        Worker {
            id: record.key.id.to_string(),
            browser: record.key.browser,
            playwright_version: record.version.map(|version| version.to_string()),
            browser_version: record.browser_version,
            status: record.status.as_str().to_owned(),
            endpoint: format!(
                "{}://{}",
                if record.endpoint.tls { "wss" } else { "ws" },
                record.endpoint.authority()
            ),
            active_sessions: worker.counts.active,
            lifetime_sessions: worker.counts.lifetime,
            seat: record.seat,
            max_concurrent_sessions: limits.max_concurrent_sessions,
            max_lifetime_sessions: if record.fixed {
                0
            } else {
                limits.max_lifetime_sessions
            },
            started_at: record.started_at,
            last_heartbeat: record.last_heartbeat,
            healthy: worker.unreachable.is_none(),
            unreachable: worker.unreachable,
            memory: record.memory,
            seal: record.seal,
        }
    });
    Workers {
        workers: workers.collect(),
    }
}

pub(super) fn sessions(registry: &Registry) -> Vec<Session> {
    let sessions = registry.list().into_iter().map(|info| Session {
        id: info.id.to_string(),
        worker: info.worker.id.to_string(),
        browser: info.browser,
        client: info.client.map(|address| address.to_string()),
        token: (!info.tenant.is_empty()).then(|| info.tenant.to_string()),
        started_at: info.started_at,
        age_seconds: info.since.elapsed().as_secs_f64(),
        idle_seconds: info.traffic.idle().as_secs_f64(),
        bytes_in: info.traffic.bytes_in(),
        bytes_out: info.traffic.bytes_out(),
    });
    sessions.collect()
}

/// The grid as a whole, or the part of it that `filter` names.
pub(super) async fn capacity(proxy: &ProxyState, filter: Option<PoolFilter>) -> Capacity {
    let demand = proxy.demand().await;
    let tenants = demand.tenants.into_iter();
    let mut capacity = Capacity {
        tenants: tenants
            .map(|(name, queued)| TenantCapacity {
                token: (!name.is_empty()).then_some(name),
                queued,
            })
            .collect(),
        ..Capacity::default()
    };
    for pool in demand.pools {
        if filter.is_none_or(|filter| filter.matches(&pool.pool)) {
            capacity.add(&pool);
        }
    }
    capacity
}

impl Capacity {
    fn add(&mut self, state: &PoolState) {
        let (used, free) = (state.used, state.free);
        let queued = state.queued as usize;
        self.slots.used += used;
        self.slots.free += free;
        self.queued += queued;
        self.workers += state.workers;
        self.demand += state.demand();
        let browser = state.pool.browser.to_string();
        let of_browser = self.browsers.entry(browser).or_default();
        of_browser.slots.used += used;
        of_browser.slots.free += free;
        of_browser.queued += queued;
        of_browser.workers += state.workers;
        self.pools.push(PoolCapacity {
            browser: state.pool.browser,
            version: state.pool.version.map(|version| version.to_string()),
            seat: state.pool.seat,
            expected: state.expected,
            demand: state.demand(),
            used,
            free,
            queued,
            workers: state.workers,
        });
    }
}
