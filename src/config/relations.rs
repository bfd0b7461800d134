//! What must hold between keys, each of which is fine by itself.

use super::model::{Config, KEYS, Role};
use crate::settings::{Origin, Problems};
use humantime::format_duration;
use std::time::Duration;

/// Heartbeats that may be lost before a worker counts as gone.
const HEARTBEATS_PER_TTL: u32 = 3;

/// A time that has to fit so many times into another one.
struct Fits {
    short: Time,
    times: u32,
    long: Time,
    /// Whether the two may be equal.
    exactly: bool,
}

/// A key that is a duration; without a value it is in no relation.
struct Time {
    key: &'static str,
    of: fn(&Config) -> Option<Duration>,
}

macro_rules! time {
    ($section:ident.$key:ident) => {
        Time {
            key: concat!(stringify!($section), ".", stringify!($key)),
            of: |config| config.$section.$key.into(),
        }
    };
}

/// A time, how many times it has to fit, and into which; `exactly` where the two may be equal.
macro_rules! fits {
    ($section:ident.$key:ident x $times:expr => $long:ident.$long_key:ident $(, $exactly:ident)?) => {
        Fits {
            short: time!($section.$key),
            times: $times,
            long: time!($long.$long_key),
            exactly: [$(stringify!($exactly),)? ""].len() > 1,
        }
    };
}

const FITS: &[Fits] = &[
    fits!(worker.heartbeat_interval x HEARTBEATS_PER_TTL => worker.key_ttl, exactly),
    fits!(worker.heartbeat_interval x 1 => recycle.command_ttl),
    fits!(session.ping_interval x 1 => session.ping_timeout),
    fits!(store.poll_interval x 1 => store.proxy_ttl),
];

impl Fits {
    fn broken(&self, config: &Config) -> Option<String> {
        let (short, long) = ((self.short.of)(config)?, (self.long.of)(config)?);
        let needed = short * self.times;
        let fits = needed < long || (self.exactly && needed == long);
        (!fits).then(|| {
            let (key, long) = (self.long.key, format_duration(long));
            let short = format_duration(short);
            let needed = match self.times {
                1 => "longer".to_owned(),
                n => format!("at least {n} times as long"),
            };
            format!("{short} is too long: {key}, which is {long}, has to be {needed}")
        })
    }
}

/// Two keys, and what is wrong between them; the message names the second.
struct Relation {
    keys: [&'static str; 2],
    broken: fn(&Config, Role) -> Option<String>,
}

const RELATIONS: &[Relation] = &[
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
            let missing = config.tls.cert.is_none() && config.tls.key.is_some();
            missing.then(|| "missing; tls.key is given and needs its certificate".to_owned())
        },
    },
    Relation {
        keys: ["tls.key", "tls.cert"],
        broken: |config, _| {
            let missing = config.tls.key.is_none() && config.tls.cert.is_some();
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

/// Notes every relation that is broken, at the place of the key that somebody wrote. Keys that
/// could not be read are left out: their values here are not what was meant.
pub fn check(config: &Config, role: Role, origins: &[Origin], problems: &mut Problems) {
    let fits = FITS.iter().map(|fits| {
        let keys = [fits.short.key, fits.long.key];
        (keys, fits.broken(config))
    });
    let relations = RELATIONS.iter().map(|relation| {
        let broken = (relation.broken)(config, role);
        (relation.keys, broken)
    });
    let readable = |keys: &[&str; 2]| !keys.iter().any(|key| problems.concern(key));
    let broken: Vec<_> = fits
        .chain(relations)
        .filter(|(keys, _)| readable(keys))
        .filter_map(|(keys, message)| Some((keys, message?)))
        .collect();
    for (keys, message) in broken {
        let written = keys
            .iter()
            .filter_map(|key| KEYS.find(key).map(|index| &origins[index]))
            .find(|origin| **origin != Origin::Default);
        let origin = written.cloned().unwrap_or(Origin::Default);
        problems.add(origin, keys[0], message);
    }
}
