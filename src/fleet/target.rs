//! Where a worker is dialled: its endpoint and the addresses its name stands for at a moment.

use super::{Obstacle, Shortage, Unreachable};
use crate::model::{Endpoint, Version, WorkerKey, WorkerRecord};
use arc_swap::ArcSwap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

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
    /// Told after each trial that it was asked.
    pub(super) trial_over: watch::Sender<()>,
    /// A trial may be due earlier than it was.
    pub(super) trial_due_earlier: Notify,
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
            trial_over: watch::Sender::new(()),
            trial_due_earlier: Notify::new(),
        }
    }

    /// The addresses to try, in order. Empty as long as the name has none.
    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    /// Those addresses, each with its share of what is left of `patience` when its turn comes: one
    /// that swallows everything must not use up the time of those behind it.
    pub fn attempts(&self, patience: Duration) -> impl Iterator<Item = (SocketAddr, Duration)> {
        let addresses = self.addresses();
        let deadline = Instant::now() + patience;
        (0..addresses.len()).map(move |tried| {
            let left = deadline.saturating_duration_since(Instant::now());
            (addresses[tried], left / (addresses.len() - tried) as u32)
        })
    }

    /// Whether the host is a name, whose addresses may change.
    pub fn is_name(&self) -> bool {
        self.endpoint.host.parse::<IpAddr>().is_err()
    }

    /// Looks the name up again. What was known stays when that fails: it is an error only while
    /// there is no address at all.
    pub(super) async fn resolve(&self) -> Result<(), Unreachable> {
        if !self.is_name() {
            return Ok(());
        }
        let host = (self.endpoint.host.as_str(), self.endpoint.port);
        let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(host)).await;
        let error = match found {
            Ok(Ok(addresses)) => {
                let addresses: Vec<SocketAddr> = addresses.collect();
                if !addresses.is_empty() && !same(&addresses, &self.addresses()) {
                    self.addresses.store(Arc::new(addresses));
                }
                "its name has no address".to_owned()
            }
            // Nothing was learnt of the name.
            Ok(Err(error)) if Shortage::of(&error).is_some() => return Ok(()),
            Ok(Err(error)) => format!("its name does not resolve: {error}"),
            Err(_) => "its name takes too long to resolve".to_owned(),
        };
        if self.addresses.load().is_empty() {
            return Err(Unreachable::new(Obstacle::Unresolved, error));
        }
        Ok(())
    }
}

/// Whether these are the same addresses: many servers of names answer in another order each time,
/// and that is no change.
fn same(some: &[SocketAddr], others: &[SocketAddr]) -> bool {
    some.len() == others.len() && some.iter().all(|address| others.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Browser;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_swallows_everything_leaves_time_for_the_others() {
        let target = Target::new(&WorkerRecord::new(
            WorkerKey::new(Browser::Chromium, "a"),
            "ws://grid.internal:3131/".parse().unwrap(),
            0,
        ));
        let patience = Duration::from_secs(6);
        assert_eq!(target.attempts(patience).count(), 0, "nothing is known");
        let addresses: Vec<SocketAddr> = ["[fd00::1]:3131", "10.0.0.1:3131", "10.0.0.2:3131"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        target.addresses.store(Arc::new(addresses.clone()));
        let mut tried = Vec::new();
        for (address, share) in target.attempts(patience) {
            // The second one refuses at once.
            let swallows = tried.len() != 1;
            tried.push((address, share.as_secs()));
            if swallows {
                tokio::time::sleep(share).await;
            }
        }
        let expected: Vec<_> = addresses.into_iter().zip([2, 2, 4]).collect();
        assert_eq!(tried, expected);
    }
}
