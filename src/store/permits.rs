//! Permits of the whole grid: who holds how much of what is bounded in it.

use super::StoreError;
use crate::model::WorkerKey;
use async_trait::async_trait;
use std::time::Duration;

/// What there is only so much of in the whole grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PermitPool<'a> {
    /// Browsers that warm up at the same time. Workers hold permits of it.
    WarmUps,
    /// Sessions of a tenant with a quota. Proxies hold permits of it.
    Sessions { tenant: &'a str },
}

/// Who holds a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PermitHolder<'a> {
    Worker(&'a WorkerKey),
    /// The proxy that calls. When it dies its permits lapse with it.
    ThisProxy,
}

/// All that one holder has of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit<'a> {
    pub pool: PermitPool<'a>,
    pub holder: PermitHolder<'a>,
    /// How much it has from here on. Zero gives all back.
    pub weight: u32,
    /// Most that all holders may have together; `None` to write down what is so.
    pub bound: Option<u32>,
    /// When it lapses, unless it is held anew.
    pub ttl: Duration,
    /// Of two words of one holder the higher version stands, and of equal versions the later word.
    pub version: u64,
}

/// Keeps the permits of all processes that share the store.
#[async_trait]
pub trait PermitStore: Send + Sync + 'static {
    /// Writes this permit down in place of what its holder had, if all holders together then have no
    /// more than its bound. Returns whether that, or a newer word of the same holder, is written down;
    /// if not, what the holder had stands.
    async fn hold(&self, permit: Permit<'_>) -> Result<bool, StoreError>;
}
