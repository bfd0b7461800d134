//! The keys of the proxy's side: ports, store, limits, selection, queue, sessions.

use super::{BROWSERS, Field, Key, field};
use crate::config::defaults::TLS_MIN_VERSION;
use crate::config::form::{
    Form, Masking, boolean, choice, duration, mapped, number, optional, scalar, size, yaml_text,
};
use crate::config::lists::{digest, hosts, origins, static_workers, tokens};
use crate::config::model::{Config, Strategy, Tls, TlsVersion};
use crate::config::store_url;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Below this a timer is a busy loop or no timer at all.
pub const SHORTEST: Duration = Duration::from_millis(50);
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// As `humantime` counts it, so that it is shown as one.
pub const YEAR: Duration = Duration::from_secs(31_557_600);

const STRATEGIES: &[(&str, Strategy)] = &[
    ("lifetime_first", Strategy::LifetimeFirst),
    ("least_active", Strategy::LeastActive),
];

const TLS_VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

pub fn keys() -> Vec<Key> {
    let mut keys = ports();
    keys.extend(store());
    keys.extend(limits());
    keys.extend(sessions());
    keys
}

fn ports() -> Vec<Key> {
    vec![
        Key::new(
            field!(listen),
            address(),
            "Data port, where clients connect. `up` defaults to 127.0.0.1:8080.",
        )
        .env(&["LISTEN_ADDR"]),
        Key::new(
            field!(admin.listen),
            address(),
            "Admin port. Other than loopback only with a token.",
        )
        .env(&["ADMIN_ADDR"]),
        Key::new(
            field!(admin.token_sha256),
            optional("none", digest()),
            "SHA-256 of the token that the admin port asks for.",
        )
        .secret(),
        Key::new(
            field!(admin.allow_unprotected),
            boolean(),
            "Allows an address other than loopback without a token.",
        ),
        Key::new(
            TLS_CERT,
            path(),
            "Certificate chain, PEM. With it both ports speak TLS only. The file is read again when it changes.",
        ),
        Key::new(TLS_KEY, path(), "Private key of the certificate, PEM."),
        Key::new(
            TLS_VERSION,
            choice(TLS_VERSIONS),
            "Oldest version of TLS that is spoken.",
        ),
    ]
}

fn store() -> Vec<Key> {
    vec![
        Key::new(field!(store.url), optional("memory", redis_url()), "Where proxies and workers share their state. In memory there is one process: `up`, or a proxy with static workers.")
            .env(&["REDIS_URL"])
            .secret(),
        Key::new(field!(store.strict), boolean(), "Refuses sessions while the store is away instead of seating them on what this proxy knows."),
        Key::new(field!(store.proxy_ttl), duration(SHORTEST..=DAY), "A proxy not heard of for this long is dead; its seats are given back."),
        Key::new(field!(store.reap_interval), duration(SHORTEST..=DAY), "How often expired workers are swept up.")
            .env(&["REAPER_RUN_INTERVAL"]),
        Key::new(field!(store.poll_interval), duration(SHORTEST..=DAY), "How often the fleet is read whole, to mend what a lost event missed."),
    ]
}

fn limits() -> Vec<Key> {
    vec![
        Key::new(
            field!(limits.max_concurrent_sessions),
            number(1..=10_000),
            "Sessions at once on one worker.",
        )
        .env(&["MAX_CONCURRENT_SESSIONS"]),
        Key::new(
            field!(limits.max_lifetime_sessions),
            number(0..=1_000_000_000),
            "Sessions until a worker gets a fresh browser; 0 = never.",
        )
        .env(&["MAX_LIFETIME_SESSIONS"]),
        Key::new(
            field!(limits.max_header_bytes),
            bytes(1024..=1024 * 1024),
            "Size of a request's head; beyond it 431.",
        ),
        Key::new(
            field!(limits.header_timeout),
            duration(SHORTEST..=DAY),
            "Time a client has for its request's head; beyond it 408.",
        ),
        Key::new(
            field!(limits.max_connections_per_ip),
            number(0..=1_000_000),
            "Open connections from one address; 0 = no limit.",
        ),
        Key::new(
            field!(limits.max_connections),
            number(0..=10_000_000),
            "Open connections in all; 0 = what the descriptor limit allows.",
        ),
    ]
    .into_iter()
    .map(Key::hot)
    .collect()
}

fn sessions() -> Vec<Key> {
    vec![
        Key::new(field!(selection.strategy), choice(STRATEGIES), "Which worker is next: the one closest to its lifetime limit (restarts are staggered), or the one with the fewest sessions."),
        Key::new(field!(selection.default_browser), choice(BROWSERS), "What a client gets that does not say.")
            .env(&["DEFAULT_BROWSER_TYPE"]),
        Key::new(field!(selection.dial_timeout), duration(SHORTEST..=DAY), "Time to dial one worker and shake hands, before the next one is tried."),
        Key::new(field!(selection.health_interval), duration(SHORTEST..=DAY), "How often each worker's Playwright server is asked whether it answers."),
        Key::new(field!(queue.timeout), duration(Duration::ZERO..=DAY), "How long a client waits for a seat before it gets 503.")
            .env(&["WORKER_SELECT_TIMEOUT"]),
        Key::new(field!(queue.max_waiting), number(0..=1_000_000), "Clients that may wait; one more gets 429."),
        Key::new(field!(session.idle_timeout), never(), "Ends a session without a message for this long."),
        Key::new(field!(session.max_duration), never(), "Ends a session this old."),
        Key::new(field!(session.drain_timeout), duration(Duration::ZERO..=YEAR), "How long running sessions may go on when the proxy is told to stop."),
        Key::new(field!(session.ping_interval), never(), "Pings a side that has been silent this long."),
        Key::new(field!(session.ping_timeout), duration(SHORTEST..=DAY), "Ends a session whose side has been silent this long despite pings."),
        Key::new(field!(session.write_timeout), duration(SHORTEST..=DAY), "Ends a session whose side takes no bytes for this long."),
    ]
    .into_iter()
    .map(Key::hot)
    .collect()
}

/// `auth` and `workers`, which follow `recycle` in the file.
pub fn doors() -> Vec<Key> {
    vec![
        Key::new(field!(auth.tokens), tokens(), "Who may connect; with none, everybody. `playhouse token` makes one. `sha256_file` names a file that holds the hash; `max_sessions` is a quota, `priority` the turns in the queue for each turn of the others.\ntokens: [ { name: ci, sha256: \"…\", max_sessions: 20, priority: 1 } ]")
            .secret(),
        Key::new(field!(auth.allowed_origins), origins(), "Web pages that may open sessions; all others are refused.\nallowed_origins: [ \"https://trace.example.com\" ]"),
        Key::new(field!(auth.allowed_hosts), hosts(), "Names under which browsers reach a port that is on loopback, or pages either port; addresses and localhost need no mention. Keeps out pages that let their own name stand for this machine (DNS rebinding).\nallowed_hosts: [ grid.example.com ]"),
        Key::new(field!(workers), static_workers(), "Playwright servers that run somewhere without a playhouse worker.\nworkers: [ { endpoint: \"ws://10.0.0.5:3131/path\", browser: chromium, version: \"1.65\" } ]")
            .secret(),
    ]
    .into_iter()
    .map(Key::hot)
    .collect()
}

/// `host:port`; without a host all addresses, as Go's programs have it.
fn address() -> Form<SocketAddr> {
    scalar(
        "an address with a port such as 127.0.0.1:8080, [::1]:8080 or localhost:8080",
        |text, _| match text.split_once(':') {
            Some(("localhost", port)) => Some(([127, 0, 0, 1], port.parse().ok()?).into()),
            Some(("", port)) if !port.contains(':') => Some(([0; 4], port.parse().ok()?).into()),
            _ => text.parse().ok(),
        },
        |address: &SocketAddr, _| match address {
            SocketAddr::V4(_) => address.to_string(),
            SocketAddr::V6(_) => yaml_text(&address.to_string()),
        },
    )
}

fn path() -> Form<Option<PathBuf>> {
    optional("none", existing_or_not("the path of a file"))
}

/// A path; whether something is there is for those to say who open it.
pub fn existing_or_not(allowed: &'static str) -> Form<PathBuf> {
    mapped(
        crate::config::form::text(allowed),
        PathBuf::from,
        |path: &PathBuf| path.to_string_lossy().into_owned(),
    )
}

fn bytes(range: std::ops::RangeInclusive<u64>) -> Form<usize> {
    mapped(size(range), |n| n as usize, |n| *n as u64)
}

/// A duration that may be missing.
pub fn never() -> Form<Option<Duration>> {
    optional("never", duration(SHORTEST..=YEAR))
}

fn redis_url() -> Form<String> {
    scalar(
        "a URL such as redis://redis:6379/0, rediss://… for TLS, or redis+unix:///run/redis.sock; in a user or password, @ is written %40, / is %2F, # is %23",
        |text, _| store_url::is_understood(text).then(|| text.to_owned()),
        |url, masking| match masking {
            Masking::Whole => yaml_text(url),
            Masking::Masked => yaml_text(&store_url::masked(url)),
        },
    )
}

/// While a file is read, one of the two paths may be missing; `relations` then refuses it.
fn tls(config: &mut Config) -> &mut Tls {
    config.tls.get_or_insert_with(|| Tls {
        cert: PathBuf::new(),
        key: PathBuf::new(),
        min_version: TLS_MIN_VERSION,
    })
}

fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_path_buf())
}

const TLS_CERT: Field<Option<PathBuf>> = Field {
    path: "tls.cert",
    value: |config| config.tls.as_ref().and_then(|tls| given(&tls.cert)),
    put: |config, path| tls(config).cert = path.unwrap_or_default(),
};

const TLS_KEY: Field<Option<PathBuf>> = Field {
    path: "tls.key",
    value: |config| config.tls.as_ref().and_then(|tls| given(&tls.key)),
    put: |config, path| tls(config).key = path.unwrap_or_default(),
};

const TLS_VERSION: Field<TlsVersion> = Field {
    path: "tls.min_version",
    value: |config| {
        let tls = config.tls.as_ref();
        tls.map_or(TLS_MIN_VERSION, |tls| tls.min_version)
    },
    put: |config, version| tls(config).min_version = version,
};
