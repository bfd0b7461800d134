//! What workers have in common that are one to an autoscaler: browser, version and kind of seat.

use super::{Browser, Version, words};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

words! {
    /// What a client gets of a worker: in the configuration, in answers and in labels of metrics.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum SeatKind ("seat") {
        /// A place on a warm browser of several sessions. What workers have that say nothing of it.
        #[default]
        Shared = "shared",
        /// A browser process of the session's own, which ends with it.
        Own = "own",
    }
}

/// Workers that can stand in for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool {
    pub browser: Browser,
    /// Playwright's version; `None` for workers that do not tell, and for clients that wait for a
    /// version of which there is no worker.
    pub version: Option<Version>,
    pub seat: SeatKind,
}

impl Pool {
    /// The version as a metric label and a table show it.
    pub fn version_label(&self) -> String {
        self.version
            .map_or_else(|| "unknown".to_owned(), |version| version.to_string())
    }
}

/// One pool in the whole grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolState {
    pub pool: Pool,
    /// It stands under `pools` in the configuration, whether or not it has workers.
    pub expected: bool,
    /// Open or reserved sessions, those of draining workers included.
    pub used: u64,
    /// Seats that are offered.
    pub free: u64,
    /// Clients that wait.
    pub queued: u64,
    pub workers: usize,
}

impl PoolState {
    /// One without workers and clients.
    pub fn empty(pool: Pool) -> PoolState {
        PoolState {
            pool,
            expected: false,
            used: 0,
            free: 0,
            queued: 0,
            workers: 0,
        }
    }

    /// Seats that would satisfy everybody.
    pub fn demand(&self) -> u64 {
        self.used + self.queued
    }
}

/// Some pools: `chromium`, `chromium/1.65`, `chromium/1.65/shared`. What is left out may be
/// anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFilter {
    browser: Browser,
    version: Option<Version>,
    seat: Option<SeatKind>,
}

impl PoolFilter {
    pub fn matches(&self, pool: &Pool) -> bool {
        pool.browser == self.browser
            && (self.version.is_none() || pool.version == self.version)
            && self.seat.is_none_or(|seat| pool.seat == seat)
    }
}

impl FromStr for PoolFilter {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('/');
        let browser = parts.next().ok_or(())?.parse().map_err(|_| ())?;
        let version = parts.next().map(|version| version.parse().map_err(|_| ()));
        let seat = parts.next().map(|seat| seat.parse().map_err(|_| ()));
        match parts.next() {
            Some(_) => Err(()),
            None => Ok(PoolFilter {
                browser,
                version: version.transpose()?,
                seat: seat.transpose()?,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_pools_from_the_left() {
        let pool = Pool {
            browser: Browser::Chromium,
            version: "1.65".parse().ok(),
            seat: SeatKind::Shared,
        };
        let matches = |text: &str| text.parse::<PoolFilter>().map(|it| it.matches(&pool));
        for text in ["chromium", "chromium/1.65", "chromium/1.65/shared"] {
            assert_eq!(matches(text), Ok(true), "{text}");
        }
        for text in ["firefox", "chromium/1.64", "chromium/1.65/own"] {
            assert_eq!(matches(text), Ok(false), "{text}");
        }
        for text in [
            "",
            "lynx",
            "chromium/",
            "chromium/x",
            "chromium/1.65/sofa",
            "chromium/1.65/shared/",
        ] {
            assert_eq!(matches(text), Err(()), "{text}");
        }
    }
}
