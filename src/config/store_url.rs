//! The store's address: which URLs are taken, how one is shown, and how it is made of the original
//! system's variables: `REDIS_HOST`, `REDIS_PORT`, `REDIS_PASSWORD` and `REDIS_TLS`.

use super::model::Config;
use crate::settings::{Draft, Environment, Origin, Problems, quoted};
use crate::store::accepts_url;
use std::path::Path;
use url::Url;

/// Redis's own port.
const REDIS_PORT: u16 = 6379;
const KEY: &str = "store.url";

/// Whether a URL means what its author meant, and is one that the store takes.
///
/// A password with `/` or `#` in it ends the address for whoever reads the URL: what comes behind
/// is then no secret, and a part of the password is a host's name. What is beyond the last `@` is
/// the address; a second one is the mark of a password that was not encoded.
pub fn is_understood(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    if scheme.ends_with("+unix") {
        let socket = rest.split(['?', '#']).next().unwrap_or_default();
        return socket.starts_with('/') && socket.len() > 1 && accepts_url(text);
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let whole = rest.matches('@').count() <= 1 && rest.contains('@') == authority.contains('@');
    let host = authority.rsplit('@').next().unwrap_or_default();
    whole && !host.is_empty() && accepts_url(text)
}

/// A URL for people: without its password, without its query, where one of a socket has it, and
/// without a user that stands alone, which may be a password whose colon was forgotten.
pub fn masked(text: &str) -> String {
    let mask = |mut url: Url| {
        if url.password().is_some() {
            url.set_password(Some("***")).ok()?;
        } else if !url.username().is_empty() {
            url.set_username("***").ok()?;
        }
        if url.query().is_some() {
            url.set_query(Some("***"));
        }
        Some(url.to_string())
    };
    Url::parse(text)
        .ok()
        .and_then(mask)
        .unwrap_or_else(|| "***".to_owned())
}

/// Makes a URL of `REDIS_HOST` and its companions unless a variable gave a whole one, and puts
/// `REDIS_PASSWORD` into a URL that has none.
pub fn complete(draft: &mut Draft<'_, Config>, environment: &Environment) {
    let index = draft.table.find(KEY).expect("the table has store.url");
    let whole = matches!(draft.origins[index], Origin::Environment(_));
    if !whole && let Some(host) = environment.value("REDIS_HOST") {
        let Some(url) = from_parts(host, environment, &mut draft.problems) else {
            return;
        };
        draft.config.store.url = Some(url);
        draft.origins[index] = Origin::Environment("REDIS_HOST".into());
    }
    let url = draft.config.store.url.clone();
    let (Some(url), Some(password)) = (url, password(environment, draft)) else {
        return;
    };
    if let Some(url) = with_password(&url, &password) {
        draft.config.store.url = Some(url);
    }
}

/// The URL with this password, if it has none. That of a socket has its password in the query; it is then
/// complete or wants none.
fn with_password(text: &str, password: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // Sentinels are several where other URLs have one host: the others come back behind the first.
    let (first, others) = authority.split_at(authority.find(',').unwrap_or(authority.len()));
    let mut url = Url::parse(&format!("{scheme}://{first}")).ok()?;
    if url.password().is_some() || url.set_password(Some(password)).is_err() {
        return None;
    }
    Some(format!(
        "{}{others}{path}",
        url.as_str().trim_end_matches('/')
    ))
}

fn from_parts(host: &str, environment: &Environment, problems: &mut Problems) -> Option<String> {
    let mut wrong = |name: &str, value: &str, allowed: &str| {
        let origin = Origin::Environment(name.into());
        problems.add(origin, KEY, format!("{} is not {allowed}", quoted(value)));
    };
    let port = match environment.value("REDIS_PORT").map(|p| (p, p.parse())) {
        Some((_, Ok(port))) => port,
        None => REDIS_PORT,
        Some((text, Err(_))) => {
            wrong("REDIS_PORT", text, "a port from 0 to 65535");
            return None;
        }
    };
    let tls = environment.value("REDIS_TLS").map(str::to_ascii_lowercase);
    let scheme = match tls.as_deref() {
        None | Some("false" | "0" | "no" | "off") => "redis",
        Some("true" | "1" | "yes" | "on") => "rediss",
        Some(text) => {
            wrong("REDIS_TLS", text, "true or false");
            return None;
        }
    };
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    let authority = if bare_v6 {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let url = format!("{scheme}://{authority}");
    let plain = !host.contains(['/', '@', '?', '#']);
    if !plain || Url::parse(&url).is_err() {
        wrong("REDIS_HOST", host, "a host name or address");
        return None;
    }
    Some(url)
}

fn password(environment: &Environment, draft: &mut Draft<'_, Config>) -> Option<String> {
    if let Some(password) = environment.value("REDIS_PASSWORD") {
        return Some(password.to_owned());
    }
    let path = environment.value("REDIS_PASSWORD_FILE")?;
    let origin = Origin::Environment("REDIS_PASSWORD_FILE".into());
    draft.secret(Path::new(path), KEY, &origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_password_that_was_not_encoded_is_no_address() {
        for url in [
            "redis://redis",
            "redis://redis:6379/0",
            "rediss://user:p%40ss%2Fw%23rd@redis:6379/15",
            "redis://:p!$&*()_+-=,.;~ss@[::1]:6379",
            "redis+unix:///run/redis.sock?db=1&pass=p@ss",
        ] {
            assert!(is_understood(url), "{url}");
        }
        for url in [
            "redis://:first@second/x@127.0.0.1:6379",
            "redis://:p@ss@redis",
            "redis://:p/ss@redis:6379",
            "redis://:12/34@redis:6379",
            "redis://user:12#34@redis",
            "redis://user:12?34@redis",
            "redis://redis/abc",
            "redis://redis/1/2",
            "redis://:6379",
            "redis://user@",
            "http://redis",
            "redis:redis",
            "redis+unix://run/redis.sock",
            "redis+unix:///run/redis.sock?db=abc",
        ] {
            assert!(!is_understood(url), "{url}");
        }
    }

    #[test]
    fn a_password_is_put_into_a_url_that_has_none() {
        for (url, whole) in [
            ("redis://redis:6379/2", Some("redis://:p%2Fw@redis:6379/2")),
            ("rediss://worker@redis", Some("rediss://worker:p%2Fw@redis")),
            (
                "redis+sentinel://proxy@a:1,b:2/grid/3?sentinel_username=s",
                Some("redis+sentinel://proxy:p%2Fw@a:1,b:2/grid/3?sentinel_username=s"),
            ),
            (
                "redis+sentinel://a,[::1]:2/grid",
                Some("redis+sentinel://:p%2Fw@a,[::1]:2/grid"),
            ),
            ("redis://:other@redis", None),
            ("redis+sentinel://:other@a,b/grid", None),
            ("redis+unix:///run/redis.sock", None),
        ] {
            assert_eq!(with_password(url, "p/w").as_deref(), whole, "{url}");
        }
    }

    #[test]
    fn a_password_is_masked_wherever_it_stands() {
        for (url, shown) in [
            ("redis://user:secret@redis/1", "redis://user:***@redis/1"),
            ("redis://:secret@redis", "redis://:***@redis"),
            ("redis://secret@redis", "redis://***@redis"),
            (
                "redis+unix:///r.sock?pass=secret",
                "redis+unix:///r.sock?***",
            ),
            ("redis://redis?protocol=resp3", "redis://redis?***"),
        ] {
            assert_eq!(masked(url), shown);
        }
    }

    proptest! {
        /// Whatever is in a password: the URL is refused, or the password is not shown.
        #[test]
        fn no_password_is_shown(before in "[!-~]{0,6}", after in "[!-~]{0,6}", database in 0..20u8) {
            let url = format!("redis://:{before}SECRET{after}@redis:6379/{database}");
            prop_assert!(!is_understood(&url) || !masked(&url).contains("SECRET"), "{}", url);
        }
    }
}
