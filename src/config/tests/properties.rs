//! What holds for every configuration and every text.

use super::{KEYS, Role, load, to_yaml};
use crate::config::{Config, Log, LogFormat, StaticWorker, Token};
use crate::model::{Browser, SeatKind};
use log::LevelFilter;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::path::PathBuf;
use std::time::Duration;

const SHIPPED: &str = include_str!("../../../conf/playhouse.yaml");

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (50u64..5_000).prop_map(Duration::from_millis),
        (1u64..86_400).prop_map(Duration::from_secs),
    ]
}

/// Texts that somebody might want, and those that only a test wants.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9._/-]{0,12}",
        "[ -~]{1,12}",
        "\\PC{1,8}",
        any::<String>(),
        select(vec![
            "true", "null", "~", "- a", "#x", "a: b", "never ", "\"", "'", "\\"
        ])
        .prop_map(str::to_owned),
    ]
    // Space at the ends is cut off where a text is read, and these words have a meaning.
    .prop_map(|text| text.trim().to_owned())
    .prop_filter("a text", |text| {
        !text.is_empty() && text != "auto" && text != "none"
    })
}

fn path() -> impl Strategy<Value = PathBuf> {
    text().prop_map(PathBuf::from)
}

fn browser() -> impl Strategy<Value = Browser> {
    select(Browser::ALL.to_vec())
}

prop_compose! {
    fn token()(name in text(), sha256 in any::<[u8; 32]>(), quota in option::of(1u32..1_000_000),
               priority in 1u32..=100,
               seat in option::of(select(SeatKind::ALL.to_vec()))) -> Token {
        Token { name, sha256, max_sessions: quota, priority, seat }
    }
}

prop_compose! {
    fn static_worker()(tls in any::<bool>(), host in "[a-z]{1,8}(\\.[a-z]{1,4})?", port in 1u16..,
                       path in "/[a-z0-9]{0,12}", browser in browser(),
                       version in option::of((1u16..9, 0u16..99))) -> StaticWorker {
        let version = version.map(|(major, minor)| crate::model::Version { major, minor });
        let endpoint = crate::model::Endpoint { tls, host, port, path };
        StaticWorker { endpoint, browser, version }
    }
}

prop_compose! {
    fn lists()(tokens in vec(token(), 0..4), workers in vec(static_worker(), 0..4),
               origins in vec("https?://[a-z]{1,9}\\.example(:8[0-9]{3})?", 0..3),
               args in vec(text(), 0..4))
              -> (Vec<Token>, Vec<StaticWorker>, Vec<String>, Vec<String>) {
        let mut tokens = tokens;
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        tokens.dedup_by(|a, b| a.name == b.name);
        let mut workers = workers;
        workers.sort_by_key(|worker| worker.endpoint.to_string());
        workers.dedup_by(|a, b| a.endpoint == b.endpoint);
        (tokens, workers, origins, args)
    }
}

prop_compose! {
    fn numbers()(limits in (1u32..=10_000, 0u32..1_000_000, 1024usize..=1 << 20, 0u32..1_000_000),
                 recycle in (1.0f64..1000.0, 1usize..1000, 0usize..1000, option::of(64u64 << 20..1 << 44)),
                 times in vec(duration(), 12), maybe in vec(option::of(duration()), 3),
                 bools in vec(any::<bool>(), 6), size in (option::of(1u32..=10_000), option::of(0u32..1_000_000)))
                -> Config {
        let mut config = Config::defaults(Role::Proxy);
        config.limits.max_concurrent_sessions = limits.0;
        config.limits.max_lifetime_sessions = limits.1;
        config.worker.max_concurrent_sessions = size.0;
        config.worker.max_lifetime_sessions = size.1;
        config.limits.max_header_bytes = limits.2;
        config.limits.max_connections_per_ip = limits.3;
        config.limits.header_timeout = times[0];
        config.recycle.ceiling = recycle.0;
        config.recycle.max_parallel = recycle.1;
        config.recycle.max_parallel_grid = recycle.2;
        config.recycle.max_memory = recycle.3;
        config.recycle.max_age = maybe[0];
        config.worker.heartbeat_interval = times[1] / 4 + Duration::from_millis(50);
        config.worker.key_ttl = config.worker.heartbeat_interval * 3;
        config.recycle.command_ttl = config.worker.heartbeat_interval + times[2] / 2;
        config.session.idle_timeout = maybe[1];
        config.session.ping_interval = maybe[2].map(|time| time / 2 + Duration::from_millis(50));
        config.session.ping_timeout = config.session.ping_interval.unwrap_or(times[3] / 3)
            + Duration::from_millis(60);
        config.session.write_timeout = times[4];
        config.queue.timeout = times[5];
        config.selection.dial_timeout = times[6];
        config.store.poll_interval = times[7] / 2 + Duration::from_millis(50);
        config.store.proxy_ttl = config.store.poll_interval + Duration::from_millis(1);
        config.store.strict = bools[1];
        config.worker.headless = bools[2];
        config.worker.sandbox = bools[1].then_some(bools[3]);
        config.admin.allow_unprotected = bools[4];
        config.admin.live_view = bools[1];
        config
    }
}

prop_compose! {
    fn any_config()(config in numbers(), lists in lists(), paths in vec(option::of(path()), 3),
                socket in path(), hostname in option::of(text()), browsers in (browser(), browser()),
                hash in option::of(any::<[u8; 32]>()),
                url in option::of(select(vec!["redis://:a%20b@redis:6379/1", "redis+unix:///x?pass=y"])),
                level in select(LevelFilter::iter().collect::<Vec<_>>()),
                format in select(vec![LogFormat::Auto, LogFormat::Json, LogFormat::Text]),
                listen in select(vec!["127.0.0.1:1", "[::1]:65535", "0.0.0.0:8080", "[fe80::1%3]:1"]))
               -> Config {
        let mut config = config;
        (config.auth.tokens, config.workers, config.auth.allowed_origins, config.worker.args) = lists;
        let [browser, playwright, node] = paths.try_into().expect("three");
        (config.worker.browser_path, config.worker.playwright, config.worker.node) =
            (browser, playwright, node);
        config.worker.hostname = hostname;
        (config.worker.browser, config.selection.default_browser) = browsers;
        config.server.upgrade_socket = socket;
        config.admin.token_sha256 = hash;
        config.store.url = url.map(str::to_owned);
        config.log = Log { level, format };
        config.listen = listen.parse().unwrap_or(config.listen);
        config
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(config in any_config()) {
        let text = to_yaml(&config);
        let loaded = load(Role::Proxy, &text, &[]);
        let again = loaded.map_err(|errors| TestCaseError::fail(format!("{errors}\n{text}")))?;
        prop_assert_eq!(again.config, config);
    }

    #[test]
    fn no_text_panics(text in "[-a-z:\\[\\]{}&*!#\"'>|,?%@~ \n\t0-9.]{0,200}") {
        let _either = load(Role::Proxy, &text, &[]);
    }

    /// The shipped file with something replaced reaches further in than plain noise.
    #[test]
    fn no_damaged_file_panics(
        start in 0..SHIPPED.len(), length in 0..80usize, put in "[-a-z:\\[\\]{}&* \n\t0-9\"]{0,12}",
    ) {
        let mut bytes = SHIPPED.as_bytes().to_vec();
        let end = (start + length).min(bytes.len());
        bytes.splice(start..end, put.bytes());
        let text = String::from_utf8_lossy(&bytes);
        if let Err(errors) = load(Role::Proxy, &text, &[]) {
            prop_assert!(!errors.problems().is_empty());
            let lines = errors.to_string().lines().count();
            prop_assert!(lines == errors.problems().len());
        }
    }

    #[test]
    fn no_variable_panics(index in any::<proptest::sample::Index>(), value in any::<String>()) {
        let names: Vec<_> = KEYS.iter().flat_map(|key| key.variables()).collect();
        let _either = load(Role::Proxy, "", &[(*index.get(&names), &value)]);
        let _either = load(Role::Proxy, "", &[("REDIS_HOST", &value), ("REDIS_PASSWORD", &value)]);
    }
}
