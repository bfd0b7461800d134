//! Where a Playwright server listens: a parsed `ws://` or `wss://` address.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The WebSocket address of one Playwright server.
///
/// The path is a capability: whoever knows it can drive the browser. [`fmt::Display`] shows it
/// (the store's records need it whole); use [`Endpoint::authority`] in logs and messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Endpoint {
    /// Whether the server wants TLS (`wss`).
    pub tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    /// Starts with a slash; includes the query, if any.
    pub path: String,
}

/// Why a text is not an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a worker address such as ws://10.0.0.5:3131/path: {0}")]
pub struct EndpointError(&'static str);

impl Endpoint {
    /// `host:port`, with brackets around an IPv6 address: what a Host header says.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: http::Uri = text.parse().map_err(|_| EndpointError("not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(EndpointError("it has to start with ws:// or wss://")),
        };
        let authority = uri.authority().ok_or(EndpointError("no host"))?;
        if authority.as_str().contains('@') {
            return Err(EndpointError("it must not carry a user or password"));
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(EndpointError("no host"));
        }
        Ok(Endpoint {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), |path| path.to_string()),
        })
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_playwright_prints_and_shows_it_again() {
        for text in [
            "ws://127.0.0.1:3131/abc",
            "wss://grid.internal:443/x?y=z",
            "ws://[::1]:9/",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        let defaulted: Endpoint = "wss://host".parse().unwrap();
        assert_eq!((defaulted.port, defaulted.path.as_str()), (443, "/"));
    }

    #[test]
    fn refuses_what_is_no_worker_address() {
        for text in ["http://a:1/", "a:1", "ws://", "ws://u:p@a:1/", ""] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
