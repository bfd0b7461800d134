//! Where a worker is dialled: its endpoint and the addresses its name stands for right now.

use crate::model::{Endpoint, Version, WorkerKey, WorkerRecord};
use arc_swap::ArcSwap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// One worker as a place to dial.
pub struct Target {
    pub key: WorkerKey,
    pub endpoint: Endpoint,
    /// What the Host header says.
    pub authority: String,
    /// Playwright's version, if the worker tells.
    pub version: Option<Version>,
    /// The browser's own version, if the worker tells.
    pub browser_version: Option<String>,
    addresses: ArcSwap<Vec<SocketAddr>>,
}

impl Target {
    /// A target that is not resolved yet, unless its host is an address already.
    pub fn new(record: &WorkerRecord) -> Target {
        let endpoint = record.endpoint.clone();
        let literal = endpoint.host.parse::<IpAddr>();
        let addresses = literal.map_or_else(
            |_| Vec::new(),
            |ip| vec![SocketAddr::new(ip, endpoint.port)],
        );
        Target {
            key: record.key.clone(),
            authority: endpoint.authority(),
            version: record.version,
            browser_version: record.browser_version.clone(),
            endpoint,
            addresses: ArcSwap::from_pointee(addresses),
        }
    }

    /// The addresses to try, in order. Empty as long as the name has none.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    /// Whether the host is a name, whose addresses may change.
    pub fn is_name(&self) -> bool {
        self.endpoint.host.parse::<IpAddr>().is_err()
    }

    /// Looks the name up again. What was known stays when that fails. Returns whether there is an
    /// address now.
    pub async fn resolve(&self) -> bool {
        if self.is_name() {
            let host = (self.endpoint.host.as_str(), self.endpoint.port);
            let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(host)).await;
            match found {
                Ok(Ok(addresses)) => {
                    let addresses: Vec<SocketAddr> = addresses.collect();
                    if !addresses.is_empty() {
                        self.addresses.store(Arc::new(addresses));
                    }
                }
                Ok(Err(error)) => {
                    log::warn!(worker:% = self.key, host = self.endpoint.host, error:% = error;
                        "the worker's name does not resolve");
                }
                Err(_) => {
                    log::warn!(worker:% = self.key, host = self.endpoint.host;
                        "the worker's name took too long to resolve");
                }
            }
        }
        !self.addresses.load().is_empty()
    }
}
