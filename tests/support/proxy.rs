//! What can be asked of a proxy from outside: its data port and its admin port, with the answers
//! in the form that the contract gives them.

use super::eventually::eventually_equal;
use super::http::{self, Answer};
use super::websocket::{Connected, Dial};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The two ports of one proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub(super) data: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Whose certificates it has, when it speaks TLS.
    pub(super) authority: Option<PathBuf>,
    /// The token that the admin port asks for.
    pub(super) admin_token: Option<String>,
    /// Where the one that `up` makes is kept.
    pub(super) runtime: PathBuf,
}

/// A worker as `GET /v1/workers` shows it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerView {
    pub id: String,
    pub browser: String,
    pub playwright_version: Option<String>,
    pub status: String,
    pub endpoint: String,
    pub active_sessions: u32,
    pub lifetime_sessions: u32,
    pub seat: String,
    pub max_concurrent_sessions: u32,
    pub max_lifetime_sessions: u32,
    pub healthy: bool,
    pub unreachable: Option<String>,
    pub seal: Option<String>,
}

impl WorkerView {
    pub fn serves(&self) -> bool {
        self.status == "available" && self.healthy
    }
}

/// A session as `GET /v1/sessions` shows it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    pub id: String,
    pub worker: String,
    pub browser: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// `GET /v1/capacity`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Capacity {
    pub slots: Slots,
    pub queued: u32,
    pub workers: u32,
    pub demand: u32,
    pub pools: Vec<Pool>,
    pub tenants: Vec<TenantQueue>,
}

/// How many of a tenant's clients wait, in [`Capacity`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TenantQueue {
    pub token: Option<String>,
    pub queued: u32,
}

/// Workers that can stand in for each other, in [`Capacity`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pool {
    pub browser: String,
    pub version: Option<String>,
    pub seat: String,
    pub expected: bool,
    pub demand: u32,
    pub used: u32,
    pub free: u32,
    pub queued: u32,
    pub workers: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Slots {
    pub used: u32,
    pub free: u32,
}

impl Proxy {
    /// What a client connects to.
    pub fn url(&self) -> String {
        match self.authority {
            None => format!("ws://{}", self.data),
            Some(_) => format!("wss://localhost:{}", self.data.port()),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.data
    }

    /// An address on the admin port.
    pub fn admin_url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme(), self.admin)
    }

    /// Where Prometheus can scrape without a token.
    pub fn metrics_url(&self) -> String {
        format!("{}://{}/metrics", self.scheme(), self.data)
    }

    /// A client of our own, about to connect.
    pub fn dial(&self) -> Dial {
        let dial = Dial::new(self.data);
        match &self.authority {
            None => dial,
            Some(authority) => dial.tls(authority),
        }
    }

    fn scheme(&self) -> &'static str {
        match self.authority {
            None => "http",
            Some(_) => "https",
        }
    }

    /// A session of our own, for a client that tells nothing of itself.
    pub async fn connect(&self) -> Connected {
        let connected = self.dial().connect().await;
        connected.unwrap_or_else(|refusal| panic!("refused: {refusal:?}"))
    }

    /// A plain GET of the data port.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", path, headers).await
    }

    /// Any plain request to the data port.
    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let url = format!("{}://{}{path}", self.scheme(), self.data);
        let answer = http::request(method, &url, headers).await;
        answer.unwrap_or_else(|error| panic!("{method} {url}: {error}"))
    }

    /// A request to the admin port.
    pub async fn admin(&self, method: &str, path: &str) -> Answer {
        let answer = self.admin_request(method, path).await;
        answer.unwrap_or_else(|error| panic!("{method} {path} of the admin port: {error}"))
    }

    pub(super) async fn admin_request(
        &self,
        method: &str,
        path: &str,
    ) -> Result<Answer, ureq::Error> {
        let bearer = self.admin_token().map(|it| format!("Bearer {it}"));
        let headers: Vec<_> = bearer.iter().map(|it| ("Authorization", &**it)).collect();
        http::request(method, &self.admin_url(path), &headers).await
    }

    /// The token that the admin port asks for, if it asks for one.
    pub fn admin_token(&self) -> Option<String> {
        let kept = self
            .runtime
            .join(format!("admin-{}.token", self.admin.port()));
        self.admin_token
            .clone()
            .or_else(|| std::fs::read_to_string(kept).ok())
    }

    /// GET on the admin port of a process that may not have opened it yet.
    pub async fn admin_if_it_listens(&self, path: &str) -> Option<Answer> {
        self.admin_request("GET", path).await.ok()
    }

    /// A request to the admin port with these headers and no others.
    pub async fn admin_with(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = http::request(method, &self.admin_url(path), headers).await;
        answer.unwrap_or_else(|error| panic!("{method} {path} of the admin port: {error}"))
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    pub async fn workers(&self) -> Vec<WorkerView> {
        #[derive(Deserialize)]
        struct Workers {
            workers: Vec<WorkerView>,
        }
        let answer = self.admin("GET", "/v1/workers").await;
        answer.json::<Workers>().workers
    }

    pub async fn sessions(&self) -> Vec<SessionView> {
        #[derive(Deserialize)]
        struct Sessions {
            sessions: Vec<SessionView>,
        }
        let answer = self.admin("GET", "/v1/sessions").await;
        answer.json::<Sessions>().sessions
    }

    pub async fn capacity(&self) -> Capacity {
        self.admin("GET", "/v1/capacity").await.json()
    }

    /// The part of it that `pool` names: `chromium`, `chromium/1.65`, `chromium/1.65/shared`.
    pub async fn capacity_of(&self, pool: &str) -> Capacity {
        let path = format!("/v1/capacity?pool={pool}");
        self.admin("GET", &path).await.json()
    }

    /// Sessions of the whole grid, as the data port tells.
    pub async fn active(&self) -> u32 {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metrics {
            active_connections: u32,
        }
        let answer = self.get("/metrics", &[]).await;
        answer.json::<Metrics>().active_connections
    }

    /// Waits until nobody uses the grid and every count agrees on that.
    pub async fn idle(&self) {
        eventually_equal(
            "sessions, held seats, used slots, queue, listed",
            (0, 0, 0, 0, 0),
            async || {
                let workers = self.workers().await;
                let held: u32 = workers.iter().map(|it| it.active_sessions).sum();
                let capacity = self.capacity().await;
                (
                    self.active().await,
                    held,
                    capacity.slots.used,
                    capacity.queued,
                    self.sessions().await.len(),
                )
            },
        )
        .await;
    }

    /// Waits until so many clients wait for a seat, at whichever proxy.
    pub async fn queued(&self, clients: u32) {
        eventually_equal("waiting clients", clients, async || {
            self.capacity().await.queued
        })
        .await;
    }
}
