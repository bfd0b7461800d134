//! How many clients wait in the whole grid: this proxy's own, and what the others tell when asked.
//!
//! Anybody may scrape the data port, so the others are asked at most once in [`FRESH`], by one
//! request at a time, and all who come meanwhile are told the same.

use super::ProxyState;
use crate::fleet::Queue;
use crate::fleet::demand::{Waiting, pools};
use crate::model::{Browser, Pool, PoolState, SeatKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What the others are asked, as JSON.
pub const QUESTION: &str = "\"waiting\"";
/// How long an answer of the others is passed on.
const FRESH: Duration = Duration::from_millis(500);
/// How long the others may take to answer. They are alive, or were within `store.proxy_ttl`. Well
/// within the three seconds that KEDA waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lines that a proxy tells one by one. Clients choose the versions they wait for, so beyond this
/// they are told by browser alone.
const MAX_LINES: usize = 256;

/// Clients that wait; of one proxy as it answers when it is asked, or of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingClients {
    /// By what they want (`chromium/1.65`, `chromium/1.65/own`).
    wanted: BTreeMap<String, usize>,
    /// By the name of their token, which is empty for clients without one.
    tenants: BTreeMap<String, usize>,
}

impl WaitingClients {
    /// Those that wait in this line.
    pub fn of(queue: &Queue) -> WaitingClients {
        let mut waiting = queue.waiting();
        waiting.sort_by_key(|(_, clients)| std::cmp::Reverse(*clients));
        let mut all = WaitingClients::default();
        for (n, (wanted, clients)) in waiting.into_iter().enumerate() {
            let line = match n {
                0..MAX_LINES => wanted.to_string(),
                _ => wanted.browser.to_string(),
            };
            *all.wanted.entry(line).or_default() += clients;
        }
        for (tenant, clients) in queue.waiting_tenants() {
            *all.tenants.entry(tenant.to_string()).or_default() += clients;
        }
        all
    }

    fn add(&mut self, other: &WaitingClients) {
        for (wanted, clients) in &other.wanted {
            *self.wanted.entry(wanted.clone()).or_default() += clients;
        }
        for (tenant, clients) in &other.tenants {
            *self.tenants.entry(tenant.clone()).or_default() += clients;
        }
    }

    /// What is not understood is a line of a version that knows more; its browser is.
    fn waiting(&self) -> impl Iterator<Item = Waiting> + '_ {
        self.wanted.iter().filter_map(|(line, clients)| {
            let wanted = line.parse().ok().or_else(|| {
                let browser: Browser = line.split('/').next()?.parse().ok()?;
                Some(Pool {
                    browser,
                    version: None,
                    seat: SeatKind::default(),
                })
            });
            Some((wanted?, *clients))
        })
    }
}

/// Who waits at other proxies, as last heard.
pub struct PeerDemand {
    heard: Mutex<Option<(Instant, WaitingClients)>>,
    /// Held by whoever asks.
    asking: Semaphore,
}

impl Default for PeerDemand {
    fn default() -> PeerDemand {
        PeerDemand {
            heard: Mutex::default(),
            asking: Semaphore::new(1),
        }
    }
}

impl PeerDemand {
    fn fresh(&self) -> Option<WaitingClients> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, waiting) = heard.as_ref()?;
        (at.elapsed() < FRESH).then(|| waiting.clone())
    }
}

/// What the grid is asked for.
pub struct Demand {
    pub pools: Vec<PoolState>,
    /// Clients that wait, by the name of their token, which is empty for clients without one.
    pub tenants: BTreeMap<String, usize>,
}

impl ProxyState {
    /// Every pool of the grid, with the clients that wait at whichever proxy. Those of a proxy that
    /// does not answer in time are missing.
    pub async fn demand(&self) -> Demand {
        let mut clients = self.waiting_at_peers().await;
        clients.add(&WaitingClients::of(&self.queue));
        let waiting: Vec<Waiting> = clients.waiting().collect();
        let expected = &self.config.load().pools;
        Demand {
            pools: pools(&self.fleet.workers(), &waiting, expected),
            tenants: clients.tenants,
        }
    }

    async fn waiting_at_peers(&self) -> WaitingClients {
        if let Some(waiting) = self.peer_demand.fresh() {
            return waiting;
        }
        let Ok(_permit) = self.peer_demand.asking.acquire().await else {
            return WaitingClients::default();
        };
        if let Some(waiting) = self.peer_demand.fresh() {
            return waiting;
        }
        let answers = self.store.query_peers(QUESTION, PATIENCE, |_| false).await;
        let given = answers.map(|answers| answers.given).unwrap_or_default();
        let mut waiting = WaitingClients::default();
        for (_, answer) in &given {
            if let Ok(clients) = serde_json::from_str(answer) {
                waiting.add(&clients);
            }
        }
        let mut heard = self
            .peer_demand
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *heard = Some((Instant::now(), waiting.clone()));
        waiting
    }
}
