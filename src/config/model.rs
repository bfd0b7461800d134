//! The resolved configuration: what everything else reads. Values here are valid by construction;
//! how they are written, named and checked is in `config::keys`.

use crate::model::{Browser, Endpoint, Version};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The whole configuration of one process.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Data port.
    pub listen: SocketAddr,
    pub admin: Admin,
    /// TLS on both ports, when set.
    pub tls: Option<Tls>,
    pub store: StoreConfig,
    pub limits: Limits,
    pub selection: Selection,
    pub queue: Queue,
    pub session: Session,
    pub recycle: Recycle,
    pub auth: Auth,
    /// Playwright servers that run somewhere without an agent.
    pub workers: Vec<StaticWorker>,
    pub worker: Worker,
    pub log: Log,
    pub server: Server,
}

/// The admin port.
#[derive(Clone, PartialEq)]
pub struct Admin {
    pub listen: SocketAddr,
    /// SHA-256 of the token that the admin port asks for, if any.
    pub token_sha256: Option<[u8; 32]>,
    /// Allows an address other than loopback without a token.
    pub allow_unprotected: bool,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin")
            .field("listen", &self.listen)
            .field("token_sha256", &self.token_sha256.map(|_| "…"))
            .field("allow_unprotected", &self.allow_unprotected)
            .finish()
    }
}

/// Certificate and key, PEM.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub min_version: TlsVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Where the shared state lives.
#[derive(Clone, PartialEq)]
pub struct StoreConfig {
    /// `None`: in this process's memory. Else a `redis://`, `rediss://` or `redis+unix://` URL,
    /// which may hold a password: it is never printed whole, hence the `Debug` of its own.
    pub url: Option<String>,
    /// Refuse sessions with 503 while the store is away instead of admitting them locally.
    pub strict: bool,
    /// A proxy that has not been heard of for this long is dead; its seats are given back.
    pub proxy_ttl: Duration,
    /// How often expired workers are swept up (`REAPER_RUN_INTERVAL`).
    pub reap_interval: Duration,
    /// How often the fleet is read whole, to mend what a lost event missed.
    pub poll_interval: Duration,
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("url", &self.url.as_ref().map(|_| "…"))
            .field("strict", &self.strict)
            .field("proxy_ttl", &self.proxy_ttl)
            .field("reap_interval", &self.reap_interval)
            .field("poll_interval", &self.poll_interval)
            .finish()
    }
}

/// How much a worker takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once on one worker.
    pub max_concurrent_sessions: u32,
    /// Sessions until a worker gets a fresh browser; 0 = never.
    pub max_lifetime_sessions: u32,
    /// Request head, bytes: beyond it 431.
    pub max_header_bytes: usize,
    /// Time a client has for its request head: beyond it 408.
    pub header_timeout: Duration,
    /// Open connections from one address; 0 = no limit.
    pub max_connections_per_ip: u32,
    /// Open connections in all; 0 = what the descriptor limit allows.
    pub max_connections: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    pub strategy: Strategy,
    /// What a client gets that does not say.
    pub default_browser: Browser,
    /// Time to dial one worker and shake hands, before the next one is tried.
    pub dial_timeout: Duration,
    /// How often each worker's Playwright server is asked whether it answers.
    pub health_interval: Duration,
}

/// The order in which workers are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The worker closest to its lifetime limit first, so that restarts are staggered.
    LifetimeFirst,
    /// The worker with the fewest active sessions first.
    LeastActive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How long a client waits for a seat before it gets 503.
    pub timeout: Duration,
    /// Clients that may wait; one more gets 429.
    pub max_waiting: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Ends a session without a message for this long; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Ends a session this old; `None` = never.
    pub max_duration: Option<Duration>,
    /// How long running sessions may go on when the process is told to stop.
    pub drain_timeout: Duration,
    /// Pings a side that has been silent this long; `None` = never.
    pub ping_interval: Option<Duration>,
    /// Ends a session whose side has been silent this long despite pings.
    pub ping_timeout: Duration,
    /// Ends a session whose side takes no bytes for this long.
    pub write_timeout: Duration,
}

impl Limits {
    /// Whether each session is to have a browser process of its own: one at a time, and one in a
    /// life. Nothing may stretch that, because no session is to meet what another one left.
    pub fn isolate(&self) -> bool {
        self.max_concurrent_sessions == 1 && self.max_lifetime_sessions == 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recycle {
    pub mode: RecycleMode,
    /// How far beyond its limit a worker goes while its replacement is not ready, as a multiple
    /// of the limit; at 1 the limit is hard, even when that costs a seat.
    pub ceiling: f64,
    /// Browsers warming up at once in one process.
    pub max_parallel: usize,
    /// Browsers warming up at once in the whole grid; 0 = no limit.
    pub max_parallel_grid: usize,
    /// With `mode: exit`: workers of one browser out of service at once in the whole grid.
    pub max_unavailable: usize,
    /// Browsers of one worker that drain at once; while there are so many, none is replaced.
    pub max_draining: usize,
    /// How long the sessions of a browser that was replaced may go on; `None` = to their end.
    pub drain_timeout: Option<Duration>,
    /// Recycles a browser when a worker's process trees use more bytes than this.
    pub max_memory: Option<u64>,
    /// Recycles a browser older than this.
    pub max_age: Option<Duration>,
    /// Recycles a browser after this many checks in a row that failed at first; 0 = never.
    pub max_failures: u32,
    /// How long the request to recycle stands (`SHUTDOWN_COMMAND_TTL`).
    pub command_ttl: Duration,
}

impl Recycle {
    /// Sessions that a worker which replaces itself takes at most while its replacement is not
    /// there, if `limit` are a life.
    pub fn ceiling_of(&self, limits: &Limits) -> u32 {
        let limit = limits.max_lifetime_sessions;
        if limits.isolate() {
            return limit;
        }
        // Rounded down; the cast saturates.
        limit.max((f64::from(limit) * self.ceiling) as u32)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecycleMode {
    /// The replacement is warm before the old browser drains.
    MakeBeforeBreak,
    /// Drain, exit 0, and let the orchestrator start a new one.
    Exit,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Auth {
    /// Without any, everybody who reaches the port may have a session.
    pub tokens: Vec<Token>,
    /// Origins of web pages that may open sessions; all others are refused.
    pub allowed_origins: Vec<String>,
    /// Names, in lower case, that `Host` may have where it matters.
    pub allowed_hosts: Vec<String>,
}

/// One tenant.
#[derive(Clone, PartialEq)]
pub struct Token {
    /// Shown in logs and by the admin API in the token's stead.
    pub name: String,
    pub sha256: [u8; 32],
    /// Sessions at once; `None` = no quota.
    pub max_sessions: Option<u32>,
    /// Turns this tenant gets in the queue for each turn of a tenant of 1.
    pub priority: u32,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("sha256", &"…")
            .field("max_sessions", &self.max_sessions)
            .field("priority", &self.priority)
            .finish()
    }
}

/// A Playwright server that somebody else runs.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticWorker {
    pub endpoint: Endpoint,
    pub browser: Browser,
    pub version: Option<Version>,
}

impl std::fmt::Debug for StaticWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticWorker")
            .field("endpoint", &self.endpoint.authority())
            .field("browser", &self.browser)
            .field("version", &self.version)
            .finish()
    }
}

/// The worker's side.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Port of the Playwright server; 0 picks a free one. A replacement uses the next free one.
    pub port: u16,
    /// Name or address under which proxies reach this worker; `None`: the address that the
    /// store's connection uses.
    pub hostname: Option<String>,
    pub browser: Browser,
    pub headless: bool,
    pub heartbeat_interval: Duration,
    /// A worker without a heartbeat for this long is gone.
    pub key_ttl: Duration,
    /// How long sessions may go on once the worker is told to end.
    pub drain_timeout: Duration,
    /// Browser executable; `None`: looked for in the usual places.
    pub browser_path: Option<PathBuf>,
    /// Folder of a `playwright-core` package; `None`: looked for in the usual places.
    pub playwright: Option<PathBuf>,
    /// Node executable; `None`: the one beside `playwright`, else the one on the PATH.
    pub node: Option<PathBuf>,
    /// Further arguments for the browser.
    pub args: Vec<String>,
    /// Chromium's own sandbox; needs user namespaces, and does not work as root.
    pub sandbox: bool,
    /// How long a browser server may take to answer for the first time.
    pub start_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: log::LevelFilter,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Threads of the data port; 0 = one per core.
    pub threads: usize,
    /// How long the listener stays open, answering 503, after SIGTERM.
    pub shutdown_grace: Duration,
    /// Whose word on a client's address is taken: PROXY protocol and `X-Forwarded-For`.
    pub trusted_proxies: Vec<IpNet>,
    /// A path, without a slash at its end, below which the data port answers as well.
    pub base_path: Option<String>,
    /// Socket over which `proxy --upgrade` takes the listeners over.
    pub upgrade_socket: PathBuf,
}
