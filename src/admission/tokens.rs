//! Tenants: which token is whose, and how many sessions each may have at once.
//!
//! Only hashes are kept. A presented token is hashed and compared with all of them in constant
//! time, so that neither the time nor the answer tells how close a guess came.

use super::turns::Tenant;
use crate::config;
use crate::model::SeatKind;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

/// SHA-256 of a token, as the configuration holds it.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether `token` is the one of this hash, in constant time.
pub fn matches(token: &str, sha256: &[u8; 32]) -> bool {
    hash(token).ct_eq(sha256).into()
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token's name; empty when no token is asked for.
    pub tenant: Tenant,
    pub priority: u32,
    pub max_sessions: Option<u32>,
    /// The kind of seat that it gets unless it asks for another.
    pub seat: Option<SeatKind>,
    /// The hash of its token; none where no token is asked for.
    pub credential: Option<[u8; 32]>,
}

impl Identity {
    /// Of everybody, where no token is asked for.
    fn anonymous() -> Identity {
        Identity {
            tenant: Arc::from(""),
            priority: 1,
            max_sessions: None,
            seat: None,
            credential: None,
        }
    }

    fn of(token: &config::Token) -> Identity {
        Identity {
            tenant: Arc::from(token.name.as_str()),
            priority: token.priority,
            max_sessions: token.max_sessions,
            seat: token.seat,
            credential: Some(token.sha256),
        }
    }
}

/// Whoever has the credential that `is_it` recognises, or everybody where no token is asked for.
pub fn identify_by(
    auth: &config::Auth,
    is_it: impl Fn(Option<&[u8; 32]>) -> bool,
) -> Option<Identity> {
    if auth.tokens.is_empty() {
        return is_it(None).then(Identity::anonymous);
    }
    let found = auth.tokens.iter().find(|token| is_it(Some(&token.sha256)));
    found.map(Identity::of)
}

/// The token is missing or is none of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("no token was given")]
    Missing,
    #[error("the token is not known")]
    Unknown,
}

/// Tells who presents `token`. Without configured tokens everybody is the same anonymous tenant.
pub fn identify(auth: &config::Auth, token: Option<&str>) -> Result<Identity, Unauthorized> {
    if auth.tokens.is_empty() {
        return Ok(Identity::anonymous());
    }
    let presented = hash(token.ok_or(Unauthorized::Missing)?);
    let mut found = None;
    // Every token is compared, found or not: the time must not tell which one it was.
    for known in &auth.tokens {
        if bool::from(presented.ct_eq(&known.sha256)) {
            found = Some(known);
        }
    }
    let known = found.ok_or(Unauthorized::Unknown)?;
    Ok(Identity::of(known))
}

/// Like [`identify`], for a client that gives several texts, one of which may be a token: a URL has
/// a user and a password.
pub fn identify_any(
    auth: &config::Auth,
    tokens: &[impl AsRef<str>],
) -> Result<Identity, Unauthorized> {
    let mut outcome = identify(auth, tokens.first().map(AsRef::as_ref));
    for token in tokens.iter().skip(1) {
        outcome = outcome.or_else(|_| identify(auth, Some(token.as_ref())));
    }
    outcome
}

/// Whether who was let in would be let in still: a token may have been taken out while its client waited.
///
/// # Errors
/// As for somebody who comes at this moment.
pub fn still_known(auth: &config::Auth, who: &Identity) -> Result<(), Unauthorized> {
    let shown = who.credential.as_ref();
    if auth.tokens.is_empty() || identify_by(auth, |known| known == shown).is_some() {
        return Ok(());
    }
    Err(match shown {
        Some(_) => Unauthorized::Unknown,
        None => Unauthorized::Missing,
    })
}

/// Sessions that each tenant with a quota has open or waiting at this proxy.
#[derive(Default)]
pub struct Quotas {
    usage: Mutex<Usage>,
    changed: Notify,
}

#[derive(Default)]
struct Usage {
    sessions: HashMap<Tenant, u32>,
    /// Tenants that have fewer sessions than others may have been told.
    unpublished: HashSet<Tenant>,
    /// Rises with every change, so that of two counts the newer one is known.
    version: u64,
}

/// What a tenant used at this proxy at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantUsage {
    pub tenant: Tenant,
    pub sessions: u32,
    /// The higher, the newer.
    pub version: u64,
}

/// The tenant has as many sessions as it may have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {0} sessions of this token are in use")]
pub struct QuotaUsedUp(pub u32);

impl Quotas {
    /// Quotas of which nothing is taken.
    pub fn new() -> Arc<Quotas> {
        Arc::default()
    }

    /// Takes one session of the tenant's quota, as far as this proxy knows. Tenants without a quota
    /// are not counted.
    pub fn take(self: &Arc<Self>, who: &Identity) -> Result<QuotaPermit, QuotaUsedUp> {
        let Some(max) = who.max_sessions else {
            return Ok(QuotaPermit(None));
        };
        let mut usage = self.usage();
        let mine = usage.sessions.entry(who.tenant.clone()).or_default();
        if *mine >= max {
            return Err(QuotaUsedUp(max));
        }
        *mine += 1;
        usage.version += 1;
        Ok(QuotaPermit(Some(Box::new(Permit {
            quotas: self.clone(),
            tenant: who.tenant.clone(),
            max,
        }))))
    }

    /// Waits until a tenant has given something back.
    pub async fn given_back(&self) {
        self.changed.notified().await;
    }

    /// What others have to be told: of those who have given something back, or of all who have
    /// anything too. Counts as told.
    pub fn take_unpublished(&self, all: bool) -> Vec<TenantUsage> {
        let mut usage = self.usage();
        let mut tenants = std::mem::take(&mut usage.unpublished);
        if all {
            tenants.extend(usage.sessions.keys().cloned());
        }
        let used = tenants.into_iter().map(|tenant| usage.used(tenant));
        used.collect()
    }

    /// Others could not be told after all.
    pub fn mark_unpublished(&self, tenant: Tenant) {
        self.usage().unpublished.insert(tenant);
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Usage {
    fn used(&self, tenant: Tenant) -> TenantUsage {
        TenantUsage {
            sessions: self.sessions.get(&tenant).copied().unwrap_or_default(),
            version: self.version,
            tenant,
        }
    }
}

/// One session of a tenant's quota, or nothing where there is none; dropping it gives it back.
#[must_use = "dropping the permit gives it back"]
pub struct QuotaPermit(Option<Box<Permit>>);

struct Permit {
    quotas: Arc<Quotas>,
    tenant: Tenant,
    max: u32,
}

impl QuotaPermit {
    /// What the tenant uses at this proxy, this session included, and how many it may have.
    /// `None` without a quota.
    pub fn used(&self) -> Option<(TenantUsage, u32)> {
        let permit = self.0.as_ref()?;
        let usage = permit.quotas.usage();
        Some((usage.used(permit.tenant.clone()), permit.max))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut usage = self.quotas.usage();
        usage.version += 1;
        if let Some(mine) = usage.sessions.get_mut(&self.tenant) {
            *mine -= 1;
            if *mine == 0 {
                usage.sessions.remove(&self.tenant);
            }
        }
        usage.unpublished.insert(self.tenant.clone());
        drop(usage);
        self.quotas.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(names: &[&str]) -> config::Auth {
        let token = |name: &&str| config::Token {
            name: name.to_string(),
            sha256: hash(&format!("secret of {name}")),
            max_sessions: Some(2),
            priority: 1,
            seat: None,
        };
        config::Auth {
            allowed_hosts: Vec::new(),
            tokens: names.iter().map(token).collect(),
            allowed_origins: Vec::new(),
        }
    }

    #[test]
    fn a_token_names_its_tenant_and_nothing_else_does() {
        let auth = auth(&["ci", "crawler"]);
        let who = |token| identify(&auth, token).map(|identity| identity.tenant.to_string());
        assert_eq!(who(Some("secret of crawler")).as_deref(), Ok("crawler"));
        assert_eq!(who(Some("secret of nobody")), Err(Unauthorized::Unknown));
        assert_eq!(who(Some("")), Err(Unauthorized::Unknown));
        assert_eq!(who(None), Err(Unauthorized::Missing));
    }

    #[test]
    fn without_tokens_everybody_comes_in() {
        assert!(identify(&auth(&[]), None).is_ok());
    }

    #[test]
    fn a_quota_is_given_back_with_its_share() {
        let (auth, quotas) = (auth(&["ci"]), Quotas::new());
        let ci = identify(&auth, Some("secret of ci")).unwrap();
        let first = quotas.take(&ci).unwrap();
        let _second = quotas.take(&ci).unwrap();
        assert_eq!(quotas.take(&ci).err(), Some(QuotaUsedUp(2)));
        drop(first);
        assert!(quotas.take(&ci).is_ok());
    }

    #[test]
    fn what_is_given_back_is_news_until_it_is_told() {
        let (auth, quotas) = (auth(&["ci"]), Quotas::new());
        let ci = identify(&auth, Some("secret of ci")).unwrap();
        let permit = quotas.take(&ci).unwrap();
        let (taken, max) = permit.used().unwrap();
        assert_eq!((taken.sessions, max), (1, 2));
        assert_eq!(
            quotas.take_unpublished(false),
            [],
            "who takes tells it himself"
        );
        assert_eq!(quotas.take_unpublished(true), std::slice::from_ref(&taken));
        drop(permit);
        let news = quotas.take_unpublished(false);
        assert_eq!(news.len(), 1);
        assert_eq!(news[0].sessions, 0);
        assert!(news[0].version > taken.version);
        assert_eq!(quotas.take_unpublished(true), []);
        quotas.mark_unpublished(ci.tenant);
        assert_eq!(quotas.take_unpublished(false), news);
    }
}
