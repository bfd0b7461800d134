//! Tenants: which token is whose, and how many sessions each may have at once.
//!
//! Only hashes are kept. A presented token is hashed and compared with all of them in constant
//! time, so that neither the time nor the answer tells how close a guess came.

use super::turns::Tenant;
use crate::config;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use subtle::ConstantTimeEq;

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
}

/// The token is missing or is none of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("no token was given")]
    Missing,
    #[error("the token is not known")]
    Unknown,
}

/// Tells who presents `token`. Without configured tokens everybody is the same nameless tenant.
pub fn identify(auth: &config::Auth, token: Option<&str>) -> Result<Identity, Unauthorized> {
    if auth.tokens.is_empty() {
        return Ok(Identity {
            tenant: Arc::from(""),
            priority: 1,
            max_sessions: None,
        });
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
    Ok(Identity {
        tenant: Arc::from(known.name.as_str()),
        priority: known.priority,
        max_sessions: known.max_sessions,
    })
}

/// Sessions that each tenant has open or waiting at this proxy.
#[derive(Default)]
pub struct Quotas {
    used: Mutex<HashMap<Tenant, u32>>,
}

/// The tenant has as many sessions as it may have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {0} sessions of this token are in use")]
pub struct QuotaUsedUp(pub u32);

impl Quotas {
    pub fn new() -> Arc<Quotas> {
        Arc::default()
    }

    /// Takes one session of the tenant's quota. Tenants without a quota are not counted.
    pub fn take(self: &Arc<Self>, who: &Identity) -> Result<QuotaShare, QuotaUsedUp> {
        let Some(max) = who.max_sessions else {
            return Ok(QuotaShare(None));
        };
        let mut used = self.used();
        let mine = used.entry(who.tenant.clone()).or_default();
        if *mine >= max {
            return Err(QuotaUsedUp(max));
        }
        *mine += 1;
        Ok(QuotaShare(Some((self.clone(), who.tenant.clone()))))
    }

    fn used(&self) -> std::sync::MutexGuard<'_, HashMap<Tenant, u32>> {
        self.used
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One session of a tenant's quota; dropping it gives it back.
#[must_use = "dropping the share gives it back"]
pub struct QuotaShare(Option<(Arc<Quotas>, Tenant)>);

impl Drop for QuotaShare {
    fn drop(&mut self) {
        if let Some((quotas, tenant)) = &self.0 {
            let mut used = quotas.used();
            if let Some(mine) = used.get_mut(tenant) {
                *mine -= 1;
                if *mine == 0 {
                    used.remove(tenant);
                }
            }
        }
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
        };
        config::Auth {
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
}
