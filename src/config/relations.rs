//! What must hold between keys, each of which is fine by itself.

use super::defaults::Role;
use super::keys::{KEYS, find};
use super::model::Config;
use super::problems::{Origin, Problems};
use humantime::format_duration as time;

/// Two keys, and what is wrong between them; the message names the second.
struct Relation {
    keys: [&'static str; 2],
    broken: fn(&Config, Role) -> Option<String>,
}

/// Heartbeats that may be lost before a worker counts as gone.
const HEARTBEATS_PER_TTL: u32 = 3;

const RELATIONS: &[Relation] = &[
    Relation {
        keys: ["worker.heartbeat_interval", "worker.key_ttl"],
        broken: |config, _| {
            let (beat, ttl) = (config.worker.heartbeat_interval, config.worker.key_ttl);
            (beat * HEARTBEATS_PER_TTL > ttl).then(|| {
                format!(
                    "{} is too long: {HEARTBEATS_PER_TTL} heartbeats have to fit into worker.key_ttl, which is {}",
                    time(beat),
                    time(ttl)
                )
            })
        },
    },
    Relation {
        keys: ["recycle.command_ttl", "worker.heartbeat_interval"],
        broken: |config, _| {
            let (ttl, beat) = (config.recycle.command_ttl, config.worker.heartbeat_interval);
            (ttl <= beat).then(|| {
                format!(
                    "{} is too short: it has to be longer than worker.heartbeat_interval, which is {}",
                    time(ttl),
                    time(beat)
                )
            })
        },
    },
    Relation {
        keys: ["session.ping_timeout", "session.ping_interval"],
        broken: |config, _| {
            let (timeout, interval) = (config.session.ping_timeout, config.session.ping_interval?);
            (timeout <= interval).then(|| {
                format!(
                    "{} is too short: it has to be longer than session.ping_interval, which is {}",
                    time(timeout),
                    time(interval)
                )
            })
        },
    },
    Relation {
        keys: ["store.poll_interval", "store.proxy_ttl"],
        broken: |config, _| {
            let (poll, ttl) = (config.store.poll_interval, config.store.proxy_ttl);
            (poll >= ttl).then(|| {
                format!(
                    "{} is too long: it has to be shorter than store.proxy_ttl, which is {}",
                    time(poll),
                    time(ttl)
                )
            })
        },
    },
    Relation {
        keys: ["admin.listen", "admin.token_sha256"],
        broken: |config, _| {
            let admin = &config.admin;
            let open = !admin.listen.ip().is_loopback()
                && admin.token_sha256.is_none()
                && !admin.allow_unprotected;
            open.then(|| {
                format!(
                    "{} can be reached by others, who could end sessions: set admin.token_sha256 (`playhouse token` makes one), or admin.allow_unprotected: true",
                    admin.listen
                )
            })
        },
    },
    Relation {
        keys: ["admin.listen", "listen"],
        broken: |config, _| {
            let (admin, data) = (config.admin.listen, config.listen);
            let same_ip = admin.ip() == data.ip()
                || admin.ip().is_unspecified()
                || data.ip().is_unspecified();
            (same_ip && admin.port() == data.port() && data.port() != 0)
                .then(|| format!("{admin} is taken by listen, which is {data}"))
        },
    },
    Relation {
        keys: ["tls.cert", "tls.key"],
        broken: |config, _| {
            let tls = config.tls.as_ref()?;
            let missing = tls.cert.as_os_str().is_empty();
            missing.then(|| "missing; tls.key is given and needs its certificate".to_owned())
        },
    },
    Relation {
        keys: ["tls.key", "tls.cert"],
        broken: |config, _| {
            let tls = config.tls.as_ref()?;
            let missing = tls.key.as_os_str().is_empty();
            missing.then(|| "missing; tls.cert is given and needs its key".to_owned())
        },
    },
    Relation {
        keys: ["store.url", "store.url"],
        broken: |config, role| {
            let alone = role == Role::Worker && config.store.url.is_none();
            alone.then(|| {
                "a worker needs a store that it shares with a proxy: set REDIS_URL or store.url (`playhouse up` runs both in one process)".to_owned()
            })
        },
    },
];

/// Makes one form of what can be said in several ways: no certificate and no key is no TLS.
pub fn settle(config: &mut Config) {
    let none = config
        .tls
        .as_ref()
        .is_some_and(|tls| tls.cert.as_os_str().is_empty() && tls.key.as_os_str().is_empty());
    if none {
        config.tls = None;
    }
}

/// Notes every relation that is broken, at the place of the key that somebody wrote. Keys that
/// could not be read are left out: their values here are not what was meant.
pub fn check(config: &Config, role: Role, origins: &[Origin], problems: &mut Problems) {
    let broken: Vec<_> = RELATIONS
        .iter()
        .filter(|relation| !relation.keys.iter().any(|key| problems.concern(key)))
        .filter_map(|relation| Some((relation, (relation.broken)(config, role)?)))
        .collect();
    for (relation, message) in broken {
        let written = relation
            .keys
            .iter()
            .filter_map(|key| find(key).map(|index| &origins[index]))
            .find(|origin| **origin != Origin::Default);
        let origin = written.cloned().unwrap_or(Origin::Default);
        problems.add(origin, relation.keys[0], message);
    }
    debug_assert_eq!(origins.len(), KEYS.len());
}
