//! The defaults, each with its unit and its reason, and the configuration they make up.

use super::model::*;
use crate::model::Browser;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// What a process is started as; a few defaults depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The load balancer alone.
    Proxy,
    /// One worker.
    Worker,
    /// The whole grid on this machine.
    Up,
    /// Somebody who asks a running grid: binds no port, and need not be able to read its key.
    Operator,
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The port of the original system.
pub const LISTEN_PORT: u16 = 8080;
/// Beside the data port; loopback, because it can end sessions.
pub const ADMIN_PORT: u16 = 8081;
/// 1.2 is what every client of the last ten years speaks.
pub const TLS_MIN_VERSION: TlsVersion = TlsVersion::V1_2;

/// A proxy that stalls for half a minute has lost its sessions anyway.
pub const PROXY_TTL: Duration = seconds(30);
/// The original's `REAPER_RUN_INTERVAL`.
pub const REAP_INTERVAL: Duration = seconds(300);
/// Events tell within milliseconds; this only bounds how long a lost one is missed.
pub const POLL_INTERVAL: Duration = seconds(10);

/// The original's `MAX_CONCURRENT_SESSIONS`.
pub const MAX_CONCURRENT_SESSIONS: u32 = 5;
/// The original's `MAX_LIFETIME_SESSIONS`.
pub const MAX_LIFETIME_SESSIONS: u32 = 50;
/// Room for a few large tokens in headers, and no more memory than that for a stranger.
pub const MAX_HEADER_BYTES: usize = 32 * 1024;
/// A real client sends its head at once; ten seconds forgive a bad line.
pub const HEADER_TIMEOUT: Duration = seconds(10);
/// No limit: behind NAT or a load balancer a whole company has one address.
pub const MAX_CONNECTIONS_PER_IP: u32 = 0;
/// What the descriptor limit allows.
pub const MAX_CONNECTIONS: u32 = 0;

/// A worker on a local network answers in milliseconds; two can be tried within the queue's
/// timeout.
pub const DIAL_TIMEOUT: Duration = seconds(2);
/// As often as the heartbeat.
pub const HEALTH_INTERVAL: Duration = seconds(5);

/// The original's `WORKER_SELECT_TIMEOUT`.
pub const QUEUE_TIMEOUT: Duration = seconds(5);
/// Each waiting client costs a connection and a few KB.
pub const MAX_WAITING: usize = 1000;

/// The same as the worker's own, and the original's.
pub const SESSION_DRAIN_TIMEOUT: Duration = seconds(300);
/// Below the 60 s after which most things in between cut an idle connection.
pub const PING_INTERVAL: Duration = seconds(20);
/// Three pings without an answer.
pub const PING_TIMEOUT: Duration = seconds(60);
/// As patient with a client that does not read as with one that does not answer.
pub const WRITE_TIMEOUT: Duration = seconds(60);

/// At twice its limit a worker stops even if that costs a seat: a replacement takes a second to
/// warm, so by then something is wrong with it.
pub const RECYCLE_CEILING: f64 = 2.0;
/// A starting browser takes a whole core for a second; one at a time keeps sessions quick.
pub const RECYCLE_MAX_PARALLEL: usize = 1;
/// No limit: machines do not slow each other down.
pub const RECYCLE_MAX_PARALLEL_GRID: usize = 0;
/// One that has long sessions, and the next one with the same fate; each costs some 200 MB.
pub const RECYCLE_MAX_DRAINING: usize = 2;
/// Capacity never dips by more than one worker.
pub const RECYCLE_MAX_UNAVAILABLE: usize = 1;
/// One failed check may be a busy moment, three in a row are the browser's doing.
pub const RECYCLE_MAX_FAILURES: u32 = 3;
/// The original's `SHUTDOWN_COMMAND_TTL`.
pub const RECYCLE_COMMAND_TTL: Duration = seconds(60);

/// The original's `PORT`.
pub const WORKER_PORT: u16 = 3131;
/// The original's `HEARTBEAT_INTERVAL`.
pub const HEARTBEAT_INTERVAL: Duration = seconds(5);
/// The original's `REDIS_KEY_TTL`.
pub const KEY_TTL: Duration = seconds(60);
/// The original's `DRAIN_TIMEOUT`.
pub const WORKER_DRAIN_TIMEOUT: Duration = seconds(300);
/// A cold disk takes several seconds to start a browser for the first time.
pub const START_TIMEOUT: Duration = seconds(30);

/// Long enough for whoever asks /readyz each second to see the 503; Kubernetes wants a few more.
pub const SHUTDOWN_GRACE: Duration = seconds(1);
/// Writable without preparation; the systemd unit uses /run/playhouse.
pub const UPGRADE_SOCKET: &str = "/tmp/playhouse-upgrade.sock";

impl Config {
    /// The configuration of a process that is told nothing.
    pub fn defaults(role: Role) -> Config {
        let up = role == Role::Up;
        // The data port of a server is for others; `up` is somebody's own machine.
        let listen = if up {
            Ipv4Addr::LOCALHOST
        } else {
            Ipv4Addr::UNSPECIFIED
        };
        Config {
            listen: SocketAddr::from((listen, LISTEN_PORT)),
            admin: Admin {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
                token_sha256: None,
                allow_unprotected: false,
            },
            tls: None,
            store: StoreConfig {
                url: None,
                strict: false,
                proxy_ttl: PROXY_TTL,
                reap_interval: REAP_INTERVAL,
                poll_interval: POLL_INTERVAL,
            },
            limits: Limits {
                max_concurrent_sessions: MAX_CONCURRENT_SESSIONS,
                max_lifetime_sessions: MAX_LIFETIME_SESSIONS,
                max_header_bytes: MAX_HEADER_BYTES,
                header_timeout: HEADER_TIMEOUT,
                max_connections_per_ip: MAX_CONNECTIONS_PER_IP,
                max_connections: MAX_CONNECTIONS,
            },
            selection: Selection {
                strategy: Strategy::LifetimeFirst,
                default_browser: Browser::Chromium,
                dial_timeout: DIAL_TIMEOUT,
                health_interval: HEALTH_INTERVAL,
            },
            queue: Queue {
                timeout: QUEUE_TIMEOUT,
                max_waiting: MAX_WAITING,
            },
            session: Session {
                idle_timeout: None,
                max_duration: None,
                drain_timeout: SESSION_DRAIN_TIMEOUT,
                ping_interval: Some(PING_INTERVAL),
                ping_timeout: PING_TIMEOUT,
                write_timeout: WRITE_TIMEOUT,
            },
            recycle: Recycle {
                mode: RecycleMode::MakeBeforeBreak,
                ceiling: RECYCLE_CEILING,
                max_parallel: RECYCLE_MAX_PARALLEL,
                max_parallel_grid: RECYCLE_MAX_PARALLEL_GRID,
                max_unavailable: RECYCLE_MAX_UNAVAILABLE,
                max_draining: RECYCLE_MAX_DRAINING,
                drain_timeout: None,
                max_memory: None,
                max_age: None,
                max_failures: RECYCLE_MAX_FAILURES,
                command_ttl: RECYCLE_COMMAND_TTL,
            },
            auth: Auth::default(),
            workers: Vec::new(),
            worker: Worker {
                // Several workers of one machine cannot share a port.
                port: if up { 0 } else { WORKER_PORT },
                hostname: None,
                browser: Browser::Chromium,
                headless: true,
                heartbeat_interval: HEARTBEAT_INTERVAL,
                key_ttl: KEY_TTL,
                drain_timeout: WORKER_DRAIN_TIMEOUT,
                browser_path: None,
                playwright: None,
                node: None,
                args: Vec::new(),
                sandbox: false,
                start_timeout: START_TIMEOUT,
            },
            log: Log {
                level: log::LevelFilter::Info,
                format: LogFormat::Auto,
            },
            server: Server {
                threads: 0,
                shutdown_grace: SHUTDOWN_GRACE,
                trusted_proxies: Vec::new(),
                base_path: None,
                upgrade_socket: UPGRADE_SOCKET.into(),
            },
        }
    }
}
