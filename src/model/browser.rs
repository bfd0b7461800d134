//! The three browsers Playwright speaks to, by the names its clients send.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A browser type as Playwright names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Browser {
    Chromium,
    Firefox,
    Webkit,
}

impl Browser {
    /// Every browser, in the order messages list them.
    pub const ALL: [Browser; 3] = [Browser::Chromium, Browser::Firefox, Browser::Webkit];

    /// The name on the wire, in the configuration and in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Browser::Chromium => "chromium",
            Browser::Firefox => "firefox",
            Browser::Webkit => "webkit",
        }
    }
}

impl fmt::Display for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that is none of the three.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown browser, use chromium, firefox or webkit")]
pub struct UnknownBrowser;

impl FromStr for Browser {
    type Err = UnknownBrowser;

    fn from_str(name: &str) -> Result<Self, UnknownBrowser> {
        Browser::ALL
            .into_iter()
            .find(|browser| browser.as_str() == name)
            .ok_or(UnknownBrowser)
    }
}
