//! What workers have in common that can stand in for each other: browser, version and kind of seat.

use super::{Browser, Version, words};
use serde::{Deserialize, Serialize};
use std::fmt;
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

/// Workers that can stand in for each other, and what a client wants of them. Its text is the key of a
/// selection, and what proxies call it among themselves: `chromium/1.65`, or `chromium` without a version;
/// `chromium/1.65/own` and `chromium//own` with seats of one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool {
    pub browser: Browser,
    /// Playwright's version; `None` for workers that do not tell, for clients to whom every version will
    /// do, and for all that wait for a version of which there is no worker.
    pub version: Option<Version>,
    pub seat: SeatKind,
}

impl Pool {
    /// Whether a worker of `pool` can serve a client that wants this one. Where one of the two has no
    /// version, any will do.
    pub fn accepts(&self, pool: &Pool) -> bool {
        let any_version = pool.version.is_none() || self.version.is_none();
        self.browser == pool.browser
            && self.seat == pool.seat
            && (any_version || self.version == pool.version)
    }

    /// The version as a metric label and a table show it.
    pub fn version_label(&self) -> String {
        self.version
            .map_or_else(|| "unknown".to_owned(), |version| version.to_string())
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.browser)?;
        match (self.version, self.seat) {
            (None, SeatKind::Shared) => Ok(()),
            (Some(version), SeatKind::Shared) => write!(f, "/{version}"),
            (None, seat) => write!(f, "//{seat}"),
            (Some(version), seat) => write!(f, "/{version}/{seat}"),
        }
    }
}

impl FromStr for Pool {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let PoolFilter {
            browser,
            version,
            seat,
        } = text.parse()?;
        Ok(Pool {
            browser,
            version,
            seat: seat.unwrap_or_default(),
        })
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

/// Some pools, by the beginning of a [`Pool`]'s text. What is left out may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFilter {
    browser: Browser,
    version: Option<Version>,
    seat: Option<SeatKind>,
}

impl PoolFilter {
    /// Whether the pool is one of them.
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
        let (version, seat) = match (parts.next(), parts.next()) {
            (Some(""), Some(seat)) => (None, Some(seat)),
            parts => parts,
        };
        if parts.next().is_some() {
            return Err(());
        }
        Ok(PoolFilter {
            browser,
            version: version.map(str::parse).transpose().map_err(|_| ())?,
            seat: seat.map(str::parse).transpose().map_err(|_| ())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_read_as_it_was_written() {
        let v65 = "1.65".parse().ok();
        for (text, version, seat) in [
            ("chromium/1.65", v65, SeatKind::Shared),
            ("chromium", None, SeatKind::Shared),
            ("chromium/1.65/own", v65, SeatKind::Own),
            ("chromium//own", None, SeatKind::Own),
        ] {
            let pool = Pool {
                browser: Browser::Chromium,
                version,
                seat,
            };
            assert_eq!(pool.to_string(), text);
            assert_eq!(text.parse(), Ok(pool));
        }
        for text in [
            "",
            "opera",
            "chromium/",
            "chromium/one",
            "/1.65",
            "chromium/1.65/sofa",
            "chromium/1.65/own/",
        ] {
            assert_eq!(text.parse::<Pool>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_filter_names_pools_from_the_left() {
        let pool = Pool {
            browser: Browser::Chromium,
            version: "1.65".parse().ok(),
            seat: SeatKind::Shared,
        };
        let matches = |text: &str| text.parse::<PoolFilter>().map(|it| it.matches(&pool));
        for text in [
            "chromium",
            "chromium/1.65",
            "chromium/1.65/shared",
            "chromium//shared",
        ] {
            assert_eq!(matches(text), Ok(true), "{text}");
        }
        for text in [
            "firefox",
            "chromium/1.64",
            "chromium/1.65/own",
            "chromium//own",
        ] {
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
