//! The three browsers Playwright speaks to, by the names its clients send.

use super::words;
use serde::{Deserialize, Serialize};

words! {
    /// A browser type as Playwright names it, also in the configuration and in labels of metrics.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Browser ("browser") {
        Chromium = "chromium",
        Firefox = "firefox",
        Webkit = "webkit",
    }
}
