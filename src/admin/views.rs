//! The shapes of the admin API's answers.

use crate::model::Browser;
use crate::proxy::Grid;
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
    /// Milliseconds since the epoch.
    pub started_at: u64,
    pub last_heartbeat: u64,
    pub healthy: bool,
    /// Why this proxy does not reach it, and what that usually comes from.
    #[serde(default)]
    pub unreachable: Option<String>,
    /// Bytes of the browser's process tree, when the worker measures it.
    pub memory: Option<u64>,
}

/// `GET /v1/sessions`: those of the grid.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sessions {
    pub sessions: Vec<Session>,
    /// Absent in the answer of a version that only knew its own.
    #[serde(default)]
    pub others: Others,
}

/// What the other proxies of the grid had to say.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Others {
    /// How many told their sessions.
    pub answered: usize,
    /// Proxies that did not in time: their sessions are missing.
    pub silent: Vec<String>,
    /// Sessions that those who answered have beyond the most that are told.
    pub unlisted: usize,
    /// Why nobody could be asked.
    pub error: Option<String>,
}

/// One session.
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
#[derive(Debug, Serialize, Deserialize)]
pub struct Capacity {
    pub slots: Slots,
    pub queued: usize,
    pub workers: usize,
    /// The same for each browser that has workers or waiting clients: what an autoscaler reads.
    pub browsers: BTreeMap<String, BrowserCapacity>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Slots {
    pub used: u64,
    pub free: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct BrowserCapacity {
    pub slots: Slots,
    pub queued: usize,
    pub workers: usize,
}

pub(super) fn workers(grid: &Grid) -> Workers {
    let workers = grid.fleet.workers().into_iter().map(|worker| {
        let record = worker.record;
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
            started_at: record.started_at,
            last_heartbeat: record.last_heartbeat,
            healthy: worker.unreachable.is_none(),
            unreachable: worker.unreachable,
            memory: record.memory,
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
        token: (!info.token.is_empty()).then(|| info.token.to_string()),
        started_at: info.started_at,
        age_seconds: info.since.elapsed().as_secs_f64(),
        idle_seconds: info.traffic.idle().as_secs_f64(),
        bytes_in: info.traffic.bytes_in(),
        bytes_out: info.traffic.bytes_out(),
    });
    sessions.collect()
}

pub(super) fn capacity(grid: &Grid) -> Capacity {
    let all = grid.fleet.workers();
    let mut capacity = Capacity {
        slots: Slots::default(),
        queued: 0,
        workers: all.len(),
        browsers: BTreeMap::new(),
    };
    for browser in Browser::ALL {
        let mut of_browser = BrowserCapacity {
            queued: grid.queue.depth(browser),
            ..BrowserCapacity::default()
        };
        for worker in all.iter().filter(|w| w.record.key.browser == browser) {
            of_browser.workers += 1;
            of_browser.slots.used += u64::from(worker.counts.active);
            of_browser.slots.free += u64::from(worker.free);
        }
        capacity.slots.used += of_browser.slots.used;
        capacity.slots.free += of_browser.slots.free;
        capacity.queued += of_browser.queued;
        if of_browser.workers > 0 || of_browser.queued > 0 {
            capacity.browsers.insert(browser.to_string(), of_browser);
        }
    }
    capacity
}
