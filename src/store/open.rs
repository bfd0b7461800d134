//! Which store a process has: what is said of it, and how it is opened.

use super::memory::MemoryStore;
use super::redis::RedisStore;
use super::{Store, StoreError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The URLs that [`open`] takes, for people.
pub const URLS: &str = "a URL such as redis://redis:6379/0, rediss://… for TLS, redis+unix:///run/redis.sock, or redis+sentinel://one:26379,two:26379/NAME; in a user or password, @ is written %40, / is %2F, # is %23";

/// What a store has to know.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Where it is; `None` for this process' memory.
    pub url: Option<String>,
    /// What stands before every key and channel.
    pub namespace: Option<String>,
    /// A proxy that is not heard of for this long is dead.
    pub proxy_ttl: Duration,
    /// How often the store is read whole, to mend what a lost event missed.
    pub poll_interval: Duration,
}

/// Without the URL, which may have a password.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("url", &self.url.as_ref().map(|_| "***"))
            .field("namespace", &self.namespace)
            .field("proxy_ttl", &self.proxy_ttl)
            .field("poll_interval", &self.poll_interval)
            .finish()
    }
}

/// What a process is to the others that share the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreRole {
    /// Takes seats: has an identity with a TTL, hears of every change, helps to reap. May register
    /// workers too, as `playhouse up` does.
    Proxy,
    /// Only registers workers, and hears only of what concerns them.
    Worker,
}

/// Whether [`open`] can make something of a URL.
pub fn accepts_url(url: &str) -> bool {
    RedisStore::accepts_url(url)
}

/// Opens the store, and waits a moment for its first answer. A store that is away is waited for by
/// whoever asks it something. Its tasks end when it is dropped, or politely when `shutdown` turns true,
/// which should be the last thing that a process is told.
///
/// # Errors
/// [`StoreError::Refused`] when there is no store of such a URL, or what answers can never serve.
pub async fn open(
    options: &StoreOptions,
    role: StoreRole,
    shutdown: watch::Receiver<bool>,
) -> Result<Arc<dyn Store>, StoreError> {
    if options.url.is_none() {
        return Ok(Arc::new(MemoryStore::new()));
    }
    let store = RedisStore::connect(options, role, shutdown)?;
    store.usable().await?;
    Ok(Arc::new(store))
}
