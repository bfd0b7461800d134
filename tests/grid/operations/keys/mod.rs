//! Every key of the configuration has a test that shows from outside what it does, in a running
//! process where it is hot. [`SHOWN`] says which; a key without one fails here.
//!
//! * [`doors`]: who comes in, and what is logged of it.
//! * [`limits`]: sessions, heads, connections, the queue, selection.
//! * [`sessions`]: how long one lasts, and how the process ends.
//! * [`recycling`]: when a browser is replaced.
//! * [`stores`]: the state in Redis.
//! * [`workers`]: the browser servers themselves.

mod doors;
mod limits;
mod recycling;
mod sessions;
mod stores;
mod workers;

use super::reloads::{in_force, reload_status};
use super::{reloads, tls, upgrades};
use crate::grid::{demand, front_door, in_front, kubernetes, live, own, seal, versions};
use crate::support::{FakePlaywright, Grid, GridBuilder, RedisServer, eventually, patient};
use playhouse::config::{Environment, Flags, Role, Setting, Sources};
use std::collections::BTreeSet;

/// A key, and a test that shows what it does.
const SHOWN: &[(&str, fn())] = &[
    ("listen", doors::ports_are_where_they_are_told_to_be),
    ("admin.listen", doors::ports_are_where_they_are_told_to_be),
    ("admin.token_sha256", doors::the_admin_port_wants_its_token),
    ("admin.live_view", live::who_may_not_look_reads_why),
    (
        "admin.allow_unprotected",
        doors::ports_are_where_they_are_told_to_be,
    ),
    ("tls.cert", tls::playwright_connects_over_tls),
    ("tls.key", tls::playwright_connects_over_tls),
    ("tls.min_version", doors::an_old_tls_is_refused),
    ("store.url", upgrades::five_upgrades_in_a_row_with_redis),
    (
        "store.strict",
        stores::without_its_store_a_strict_grid_seats_nobody,
    ),
    ("store.proxy_ttl", stores::a_dead_proxys_seats_are_swept_up),
    (
        "store.reap_interval",
        stores::a_dead_proxys_seats_are_swept_up,
    ),
    (
        "store.namespace",
        stores::grids_of_different_namespaces_do_not_meet,
    ),
    ("store.poll_interval", stores::the_fleet_is_read_often),
    (
        "limits.max_concurrent_sessions",
        reloads::a_worker_over_its_new_limit_just_takes_no_more,
    ),
    (
        "limits.max_lifetime_sessions",
        recycling::orders_follow_the_limits,
    ),
    ("limits.max_header_bytes", limits::heads_and_connections),
    ("limits.header_timeout", limits::heads_and_connections),
    (
        "limits.max_connections_per_ip",
        limits::heads_and_connections,
    ),
    ("limits.max_connections", limits::heads_and_connections),
    ("selection.strategy", limits::selection_follows_its_strategy),
    (
        "selection.default_browser",
        limits::selection_follows_its_strategy,
    ),
    (
        "selection.dial_timeout",
        limits::workers_are_asked_and_dialled,
    ),
    (
        "selection.health_interval",
        limits::workers_are_asked_and_dialled,
    ),
    ("queue.timeout", limits::the_queue_is_as_long_as_told),
    ("queue.max_waiting", limits::the_queue_is_as_long_as_told),
    (
        "session.idle_timeout",
        sessions::sessions_end_when_their_time_is_up,
    ),
    (
        "session.max_duration",
        sessions::sessions_end_when_their_time_is_up,
    ),
    (
        "session.launch_options",
        sessions::launch_options_are_allowed_as_told,
    ),
    ("session.drain_timeout", sessions::a_process_ends_as_told),
    (
        "session.ping_interval",
        sessions::sessions_end_when_their_time_is_up,
    ),
    (
        "session.ping_timeout",
        sessions::sessions_end_when_their_time_is_up,
    ),
    (
        "session.write_timeout",
        sessions::sessions_end_when_their_time_is_up,
    ),
    (
        "recycle.mode",
        recycling::a_process_may_end_to_be_started_anew,
    ),
    (
        "recycle.ceiling",
        recycling::a_ceiling_is_where_it_is_told_to_be,
    ),
    (
        "recycle.max_parallel",
        recycling::browsers_are_replaced_for_every_reason,
    ),
    (
        "recycle.max_parallel_grid",
        recycling::the_whole_grid_warms_up_as_many_as_told,
    ),
    (
        "recycle.max_unavailable",
        recycling::orders_follow_the_limits,
    ),
    (
        "recycle.max_draining",
        recycling::old_browsers_drain_as_told,
    ),
    (
        "recycle.drain_timeout",
        recycling::old_browsers_drain_as_told,
    ),
    (
        "recycle.max_memory",
        recycling::browsers_are_replaced_for_every_reason,
    ),
    (
        "recycle.max_age",
        recycling::browsers_are_replaced_for_every_reason,
    ),
    (
        "recycle.max_failures",
        recycling::browsers_are_replaced_for_every_reason,
    ),
    ("recycle.command_ttl", recycling::orders_follow_the_limits),
    ("auth.tokens", doors::tokens_and_origins_are_followed),
    (
        "auth.allowed_origins",
        doors::tokens_and_origins_are_followed,
    ),
    (
        "auth.allowed_hosts",
        front_door::a_name_that_is_not_the_grids_is_refused_on_loopback,
    ),
    ("workers", doors::workers_of_the_file_come_and_go),
    ("worker.port", workers::a_worker_is_as_its_keys_say),
    ("worker.hostname", workers::a_worker_is_as_its_keys_say),
    ("worker.pod", workers::a_worker_is_as_its_keys_say),
    (
        "worker.seat",
        own::each_session_has_a_browser_and_nothing_is_left,
    ),
    (
        "worker.spares",
        own::each_session_has_a_browser_and_nothing_is_left,
    ),
    (
        "worker.max_concurrent_sessions",
        workers::workers_of_different_sizes_are_filled_by_their_own,
    ),
    (
        "worker.max_lifetime_sessions",
        workers::workers_of_different_sizes_are_filled_by_their_own,
    ),
    (
        "selection.default_seat",
        workers::a_client_that_does_not_say_gets_the_usual_seat,
    ),
    (
        "server.service_account",
        kubernetes::the_deletion_cost_of_a_pod_follows_its_sessions,
    ),
    ("pools", demand::a_pool_is_expected_from_the_reload_on),
    (
        "worker.browser",
        versions::every_client_is_seated_on_its_own_version_and_browser,
    ),
    (
        "worker.headless",
        workers::a_browser_starts_with_what_is_told,
    ),
    (
        "worker.heartbeat_interval",
        workers::a_worker_is_as_its_keys_say,
    ),
    ("worker.key_ttl", workers::a_worker_is_as_its_keys_say),
    ("worker.drain_timeout", workers::a_worker_is_as_its_keys_say),
    ("worker.browser_path", workers::a_worker_is_as_its_keys_say),
    (
        "worker.playwright",
        versions::every_client_is_seated_on_its_own_version_and_browser,
    ),
    ("worker.node", workers::a_worker_is_as_its_keys_say),
    ("worker.args", workers::a_browser_starts_with_what_is_told),
    (
        "worker.sandbox",
        workers::a_browser_starts_with_what_is_told,
    ),
    (
        "worker.seal",
        seal::a_session_comes_no_further_than_the_table_tells,
    ),
    (
        "worker.readable",
        seal::a_session_comes_no_further_than_the_table_tells,
    ),
    (
        "worker.start_timeout",
        workers::a_browser_starts_with_what_is_told,
    ),
    ("log.level", doors::the_log_follows),
    ("log.format", doors::the_log_follows),
    (
        "server.threads",
        sessions::the_data_port_has_as_many_threads_as_told,
    ),
    ("server.shutdown_grace", sessions::a_process_ends_as_told),
    (
        "server.trusted_proxies",
        in_front::a_client_is_whom_a_trusted_proxy_names,
    ),
    (
        "server.base_path",
        in_front::everything_is_below_the_base_path_too,
    ),
    (
        "server.upgrade_socket",
        upgrades::five_upgrades_in_a_row_fail_no_connect_and_cut_no_session,
    ),
];

/// Every key there is.
fn all() -> Vec<Setting> {
    let sources = Sources {
        role: Role::Proxy,
        file: None,
        environment: Environment::default(),
        flags: Flags::default(),
    };
    sources.load().expect("the defaults are valid").settings()
}

#[test]
fn every_key_is_shown() {
    let keys: BTreeSet<&str> = all().iter().map(|setting| setting.key).collect();
    let shown: BTreeSet<&str> = SHOWN.iter().map(|(key, _)| *key).collect();
    let missing: Vec<_> = keys.difference(&shown).collect();
    let unknown: Vec<_> = shown.difference(&keys).collect();
    assert!(missing.is_empty(), "no test shows {missing:?}");
    assert!(unknown.is_empty(), "there is no key {unknown:?}");
    assert_eq!(SHOWN.len(), shown.len(), "a key is named twice");
}

/// A grid of fakes whose file is written anew while it runs.
pub struct Changing {
    pub grid: Grid,
    workers: String,
}

impl Changing {
    pub async fn start(builder: GridBuilder, fakes: &[&FakePlaywright], yaml: &str) -> Changing {
        let workers = match fakes {
            [] => String::new(),
            _ => entries(fakes),
        };
        let builder = builder.static_workers(fakes.len());
        let grid = builder.config(&format!("{yaml}\n{workers}")).start().await;
        Changing { grid, workers }
    }

    /// Puts a new file into force: this, and the workers.
    pub async fn now(&self, yaml: &str) {
        let yaml = patient(&format!("{yaml}\n{}", self.workers));
        self.write(&yaml).await;
    }

    /// Puts a new file into force as it is.
    pub async fn write(&self, yaml: &str) {
        let before = reload_status(&self.grid).await["generation"].clone();
        self.grid.configure(yaml);
        eventually("the change is in force", async || {
            let status = reload_status(&self.grid).await;
            assert_ne!(status["outcome"], "invalid", "{status}");
            (status["generation"] != before).then_some(())
        })
        .await;
    }
}

/// `workers:` with these.
pub fn entries(fakes: &[&FakePlaywright]) -> String {
    let entry = |fake: &&FakePlaywright| {
        format!(
            "  - {{ endpoint: \"{}\", browser: chromium }}\n",
            fake.endpoint()
        )
    };
    format!("workers:\n{}", fakes.iter().map(entry).collect::<String>())
}

/// Registers a fake in Redis as a worker of another machine would, for the length of a test.
pub fn register(redis: &RedisServer, id: &str, fake: &FakePlaywright, replaces_itself: bool) {
    let record = format!("worker:chromium:{id}");
    let replaces_itself = replaces_itself.to_string();
    redis.cli(&[
        "HSET",
        &record,
        "id",
        id,
        "browserType",
        "chromium",
        "endpoint",
        &fake.endpoint(),
        "status",
        "available",
        "startedAt",
        "1700000000000",
        "lastHeartbeat",
        "1700000000000",
        "replacesItself",
        &replaces_itself,
    ]);
    assert_eq!(redis.cli(&["EXPIRE", &record, "600"]), "1");
}

/// What a restart-only key may be set to, besides its default.
const OTHER: &[(&str, &str)] = &[
    ("listen", "127.0.0.1:1"),
    ("admin.listen", "127.0.0.1:2"),
    (
        "admin.token_sha256",
        "0000000000000000000000000000000000000000000000000000000000000000",
    ),
    ("admin.live_view", "true"),
    ("admin.allow_unprotected", "true"),
    ("store.url", "redis://127.0.0.1:1"),
    ("store.strict", "true"),
    ("store.proxy_ttl", "29s"),
    ("store.reap_interval", "4m"),
    ("store.namespace", "other"),
    ("store.poll_interval", "4s"),
    ("worker.seat", "own"),
    ("worker.spares", "2"),
    ("worker.max_concurrent_sessions", "7"),
    ("worker.max_lifetime_sessions", "70"),
    ("worker.port", "3132"),
    ("worker.hostname", "elsewhere"),
    ("worker.pod", "browsers/worker-1"),
    ("worker.browser", "webkit"),
    ("worker.headless", "false"),
    ("worker.heartbeat_interval", "4s"),
    ("worker.key_ttl", "50s"),
    ("worker.drain_timeout", "4m"),
    ("worker.browser_path", "/opt/browser"),
    ("worker.playwright", "/opt/playwright"),
    ("worker.node", "/opt/node"),
    ("worker.args", "[ --lang=de ]"),
    ("worker.sandbox", "true"),
    ("worker.seal", "off"),
    ("worker.readable", "[ /srv/site ]"),
    ("worker.start_timeout", "29s"),
    ("server.threads", "7"),
    ("server.shutdown_grace", "9s"),
    ("server.service_account", "/opt/account"),
    ("server.trusted_proxies", "[ 10.0.0.0/8 ]"),
    ("server.base_path", "/grid"),
    ("server.upgrade_socket", "/tmp/other.sock"),
];

/// These mean something together only, with files that are there: [`tls`] shows that they wait.
const OF_TLS: &[&str] = &["tls.cert", "tls.key", "tls.min_version"];

#[tokio::test]
pub async fn what_needs_a_restart_says_so_and_changes_nothing() {
    let cold: BTreeSet<&str> = all().iter().filter(|it| !it.hot).map(|it| it.key).collect();
    let told: BTreeSet<&str> = OTHER.iter().map(|(key, _)| *key).collect();
    let untold: Vec<_> = cold.difference(&told).collect();
    assert_eq!(untold, OF_TLS.iter().collect::<Vec<_>>());

    let fake = FakePlaywright::start().await;
    let grid = Changing::start(Grid::new(), &[&fake], "").await;
    let mut expected = told.clone();
    let mut yaml = String::new();
    let mut before = Vec::new();
    for (key, other) in OTHER {
        before.push(in_force(&grid.grid, key).await);
        // The grid of a test gets these from its environment, which goes over the file.
        if ["listen", "admin.listen", "server.upgrade_socket"].contains(key) {
            expected.remove(key);
        }
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let line = match section {
            "" => format!("{name}: {other}\n"),
            _ => format!("{section}:\n  {name}: {other}\n"),
        };
        match yaml.find(&format!("{section}:\n")) {
            Some(at) if !section.is_empty() => {
                let entry = format!("  {name}: {other}\n");
                yaml.insert_str(at + section.len() + 2, &entry);
            }
            _ => yaml.push_str(&line),
        }
    }
    grid.now(&yaml).await;
    let status = reload_status(&grid.grid).await;
    let pending: BTreeSet<&str> = status["pendingRestart"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key.as_str().unwrap())
        .collect();
    assert_eq!(pending, expected);
    for ((key, _), before) in OTHER.iter().zip(before) {
        assert_eq!(in_force(&grid.grid, key).await, before, "{key}");
    }
    grid.grid.logs("at the next start only").await;
    let log = grid.grid.log();
    let line = log
        .lines()
        .find(|line| line.contains("at the next start only"));
    let line = line.expect("the log says so");
    for key in expected {
        assert!(line.contains(key), "{key} is missing: {line}");
    }
    grid.grid.connect().await.close().await;
    grid.grid.idle().await;
}
