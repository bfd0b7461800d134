//! The keys of the worker's side and of the process: recycling, the browser server, logs.

use super::proxy::{DAY, SHORTEST, YEAR, doors, existing_or_not, never};
use super::{BROWSERS, Key, field};
use crate::config::form::{
    Form, boolean, choice, decimal, duration, list, number, optional, scalar, size, text, yaml_text,
};
use crate::config::lists::networks;
use crate::config::model::{LogFormat, RecycleMode};
use log::LevelFilter;
use std::time::Duration;

const MODES: &[(&str, RecycleMode)] = &[
    ("make_before_break", RecycleMode::MakeBeforeBreak),
    ("exit", RecycleMode::Exit),
];

const LEVELS: &[(&str, LevelFilter)] = &[
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

const FORMATS: &[(&str, LogFormat)] = &[
    ("auto", LogFormat::Auto),
    ("json", LogFormat::Json),
    ("text", LogFormat::Text),
];

pub fn keys() -> Vec<Key> {
    let mut keys = recycle();
    keys.extend(doors());
    keys.extend(worker());
    keys.extend(process());
    keys
}

fn recycle() -> Vec<Key> {
    let memory = || optional("none", size(64 << 20..=1 << 44));
    vec![
        Key::new(field!(recycle.mode), choice(MODES), "How a browser at its lifetime limit is replaced: the replacement is warm before the old one drains, or the process drains, exits 0 and is started anew by its orchestrator."),
        Key::new(field!(recycle.ceiling), decimal(1.0..=1000.0), "How far beyond its limit a worker goes while its replacement is not ready, as a multiple of the limit; 1 makes the limit hard, even when that costs a seat."),
        Key::new(field!(recycle.max_parallel), number(1..=1000), "Browsers warming up at once in one process: its first ones, and replacements. A worker that has lost its seats waits for nobody."),
        Key::new(field!(recycle.max_parallel_grid), number(0..=1_000_000), "Replacements warming up at once in the whole grid; 0 = no limit. Small numbers make large grids lose seats: with 1, simulated, 1,000 busy workers refuse more than half of their sessions."),
        Key::new(field!(recycle.max_unavailable), number(1..=1_000_000), "With `mode: exit`: workers of one browser out of service at once in the whole grid."),
        Key::new(field!(recycle.max_draining), number(1..=1000), "Old browsers of one worker that wait for their last session. While there are so many, the one that serves goes on to its ceiling."),
        Key::new(field!(recycle.drain_timeout), never(), "How long the sessions of a browser that was replaced may go on; never = to their end."),
        Key::new(field!(recycle.max_memory), memory(), "Recycles a browser when it and the old ones of its worker use more than this, and ends an old one that then goes on growing."),
        Key::new(field!(recycle.max_age), never(), "Recycles a browser older than this."),
        Key::new(field!(recycle.max_failures), number(0..=1_000_000), "Recycles a browser after this many checks in a row that failed at first; 0 = never. One that fails a second time is ended at once."),
        Key::new(field!(recycle.command_ttl), duration(SHORTEST..=DAY), "How long the request to recycle stands.")
            .env(&["SHUTDOWN_COMMAND_TTL"]),
    ]
    .into_iter()
    .map(Key::hot)
    .collect()
}

fn worker() -> Vec<Key> {
    let found = |what| optional("auto", existing_or_not(what));
    vec![
        Key::new(field!(worker.port), number(0..=65535), "Port of the Playwright server; 0 picks a free one, which is the default of `up`. A replacement uses the next free one.")
            .env(&["PORT"]),
        Key::new(field!(worker.hostname), optional("auto", text("a host name or address")), "Name under which proxies reach this worker; auto = the address that its connection to the store uses.")
            .env(&["PRIVATE_HOSTNAME"]),
        Key::new(field!(worker.browser), choice(BROWSERS), "Which browser it runs.")
            .env(&["BROWSER_TYPE"]),
        Key::new(field!(worker.headless), boolean(), "Without a display.")
            .env(&["HEADLESS"]),
        Key::new(field!(worker.heartbeat_interval), duration(SHORTEST..=DAY), "How often the worker tells the store that it lives.")
            .env(&["HEARTBEAT_INTERVAL"]),
        Key::new(field!(worker.key_ttl), duration(SHORTEST..=DAY), "A worker without a heartbeat for this long is gone. At least three heartbeats.")
            .env(&["REDIS_KEY_TTL"]),
        Key::new(field!(worker.drain_timeout), duration(Duration::ZERO..=YEAR), "How long sessions may go on once the worker is told to end.")
            .env(&["DRAIN_TIMEOUT"]),
        Key::new(field!(worker.browser_path), found("the path of a browser's executable"), "Browser executable; auto = looked for in the usual places.")
            .env(&["PLAYHOUSE_BROWSER_PATH"]),
        Key::new(field!(worker.playwright), found("the folder of a playwright-core package"), "Folder of a playwright-core package; auto = looked for in the usual places.")
            .env(&["PLAYHOUSE_PLAYWRIGHT"]),
        Key::new(field!(worker.node), found("the path of a Node executable"), "Node executable; auto = the one beside playwright-core, else the one on the PATH."),
        Key::new(field!(worker.args), list("texts", text("a text that is not empty")), "Further arguments for the browser.\nargs: [ \"--lang=de\" ]"),
        Key::new(field!(worker.sandbox), boolean(), "Chromium's own sandbox; needs user namespaces, and does not work as root."),
        Key::new(field!(worker.start_timeout), duration(SHORTEST..=DAY), "How long a browser server may take to answer for the first time."),
    ]
}

fn process() -> Vec<Key> {
    vec![
        Key::new(field!(log.level), choice(LEVELS), "How much is logged.")
            .env(&["LOG_LEVEL"])
            .hot(),
        Key::new(
            field!(log.format),
            choice(FORMATS),
            "auto = text on a terminal, json elsewhere.",
        )
        .env(&["LOG_FORMAT"])
        .hot(),
        Key::new(
            field!(server.threads),
            number(0..=1024),
            "Threads of the data port; 0 = one per core.",
        ),
        Key::new(
            field!(server.shutdown_grace),
            duration(Duration::ZERO..=DAY),
            "How long the listener stays open, answering 503, after SIGTERM. Some seconds in Kubernetes.",
        ),
        Key::new(
            field!(server.trusted_proxies),
            networks(),
            "Balancers and proxies in front, whose PROXY protocol (v1, v2) and X-Forwarded-For tell a client's address. Whoever can write from one of these addresses can take any address for its own.\ntrusted_proxies: [ 10.0.0.0/8, \"fd00::/8\" ]",
        ),
        Key::new(
            field!(server.base_path),
            optional("none", base_path()),
            "Everything the data port has is below this path as well, for a proxy in front that does not rewrite paths.",
        ),
        Key::new(
            field!(server.upgrade_socket),
            existing_or_not("the path of a socket"),
            "Socket over which `proxy --upgrade` takes the listeners over.",
        ),
    ]
}

/// A path, kept without the slash at its end.
fn base_path() -> Form<String> {
    scalar(
        "a path such as /grid",
        |text, _| {
            let text = text.strip_suffix('/').unwrap_or(text);
            let mut parts = text.strip_prefix('/')?.split('/');
            let plain = |part: &str| {
                let known = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
                !part.is_empty() && part.chars().all(known) && part != "." && part != ".."
            };
            parts.all(plain).then(|| text.to_owned())
        },
        |path, _| yaml_text(path),
    )
}
