//! Where the shared state lives.

use super::{minutes, seconds, time};
use crate::config::{Role, store_url};
use crate::settings::forms::{boolean, optional, scalar, yaml_text};
use crate::settings::{Form, Masking, section};
use crate::store::{StoreOptions, URLS};
use std::time::Duration;

section! {
    /// The store and its timing.
    pub struct StoreConfig: "store" (_role: Role)

    /// Where proxies and workers share their state. In memory there is one process: `up`, or a
    /// proxy with static workers.
    url: Option<String> = None, optional("memory", redis_url()), .env(&["REDIS_URL"]).secret().short();

    /// Stands before every key and channel: grids of different namespaces can share one database.
    namespace: Option<String> = None, optional("none", namespace());

    /// Refuses sessions while the store is away; without it each proxy seats them from a share, for proxy_ttl at most.
    strict: bool = false, boolean();

    /// A proxy not heard of for this long is dead; its seats are given back.
    // Ten signs of life, and hardly longer than a client waits for a seat.
    proxy_ttl: Duration = seconds(10), time();

    /// How often expired workers are swept up.
    // The original's.
    reap_interval: Duration = minutes(5), time(), .env(&["REAPER_RUN_INTERVAL"]);

    /// How often the fleet is read whole, to mend what a lost event missed.
    // Events tell within milliseconds; this only bounds how long a lost one is missed.
    poll_interval: Duration = seconds(5), time();
}

impl StoreConfig {
    /// What the store itself has to know.
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            url: self.url.clone(),
            namespace: self.namespace.clone(),
            proxy_ttl: self.proxy_ttl,
            poll_interval: self.poll_interval,
        }
    }
}

/// No glob characters and no quotes; and no name that the keys themselves begin with, so that no grid
/// finds another one's keys among its own.
fn namespace() -> Form<String> {
    scalar(
        "up to 64 letters, digits, and . _ - :, beginning with none of worker, cluster and playhouse",
        |text, _| {
            let plain = |c: char| c.is_ascii_alphanumeric() || ".:_-".contains(c);
            let reserved = ["worker", "cluster", "playhouse"];
            let first = text.split(':').next().unwrap_or_default();
            let right = (1..=64).contains(&text.len())
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(plain)
                && !reserved.contains(&first);
            right.then(|| text.to_owned())
        },
        |text, _| yaml_text(text),
    )
}

fn redis_url() -> Form<String> {
    scalar(
        URLS,
        |text, _| store_url::is_understood(text).then(|| text.to_owned()),
        |url, masking| match masking {
            Masking::Whole => yaml_text(url),
            Masking::Masked => yaml_text(&store_url::masked(url)),
        },
    )
}
