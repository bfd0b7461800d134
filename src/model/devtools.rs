//! What a Chromium tells of itself to clients of the DevTools protocol.

use serde::{Deserialize, Serialize};

/// The fields of `GET /json/version` at a Chromium's own port, by their names there
/// (`content/browser/devtools/devtools_http_handler.cc`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevToolsVersion {
    /// Such as `HeadlessChrome/150.0.7871.0`.
    #[serde(rename = "Browser")]
    pub product: String,
    /// Of the protocol.
    #[serde(rename = "Protocol-Version")]
    pub protocol: String,
    #[serde(rename = "User-Agent")]
    pub user_agent: String,
    #[serde(rename = "V8-Version")]
    pub v8: String,
    /// With the revision that the browser was built from, in brackets.
    #[serde(rename = "WebKit-Version")]
    pub webkit: String,
}

/// The answer to the command `Browser.getVersion`, in which the same is told.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GetVersion {
    product: String,
    protocol_version: String,
    user_agent: String,
    js_version: String,
    revision: String,
}

impl From<GetVersion> for DevToolsVersion {
    fn from(told: GetVersion) -> DevToolsVersion {
        // The command leaves WebKit's version out; the user agent has it.
        let (_, rest) = told
            .user_agent
            .split_once("AppleWebKit/")
            .unwrap_or_default();
        let webkit = rest.split(' ').next().unwrap_or_default();
        DevToolsVersion {
            webkit: format!("{webkit} ({})", told.revision),
            product: told.product,
            protocol: told.protocol_version,
            user_agent: told.user_agent,
            v8: told.js_version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_command_and_the_page_tell_the_same() {
        let agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                     HeadlessChrome/150.0.0.0 Safari/537.36";
        let told: GetVersion = serde_json::from_value(json!({
            "product": "HeadlessChrome/150.0.7871.0", "protocolVersion": "1.3",
            "userAgent": agent, "jsVersion": "15.0.1.2", "revision": "@0a1b",
        }))
        .unwrap();
        let page = serde_json::to_value(DevToolsVersion::from(told)).unwrap();
        let expected = json!({
            "Browser": "HeadlessChrome/150.0.7871.0", "Protocol-Version": "1.3",
            "User-Agent": agent, "V8-Version": "15.0.1.2", "WebKit-Version": "537.36 (@0a1b)",
        });
        assert_eq!(page, expected);
    }
}
