//! A Playwright version, as far as it decides who can talk to whom.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Playwright's major.minor. A client can talk to a server only when both agree; the patch level
/// does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version {
    pub major: u16,
    pub minor: u16,
}

impl Version {
    /// The version in a Playwright client's User-Agent (`Playwright/1.65.1 (…) node/20.11`).
    ///
    /// `None` for any other User-Agent: custom headers may have replaced it.
    pub fn from_user_agent(user_agent: &str) -> Option<Version> {
        let rest = user_agent.strip_prefix("Playwright/")?;
        rest.split([' ', '-']).next()?.parse().ok()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = String;

    /// Reads `1.65`, `1.65.1` and `1.65.1-beta`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || -> Option<Version> {
            let release = text.split('-').next()?;
            let mut numbers = release.split('.');
            Some(Version {
                major: numbers.next()?.parse().ok()?,
                minor: numbers.next()?.parse().ok()?,
            })
        };
        parts().ok_or_else(|| format!("{text:?} is not a Playwright version such as 1.65"))
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_user_agents_playwright_sends() {
        let version = |user_agent| Version::from_user_agent(user_agent).map(|v| v.to_string());
        assert_eq!(
            version("Playwright/1.65.1 (x64; debian 12) python/3.11").as_deref(),
            Some("1.65")
        );
        assert_eq!(
            version("Playwright/1.64.0-alpha-2026-09-21 node/20.20").as_deref(),
            Some("1.64")
        );
        assert_eq!(version("Mozilla/5.0"), None);
        assert_eq!(version("Playwright/"), None);
        assert_eq!(version("Playwright/banana"), None);
    }
}
