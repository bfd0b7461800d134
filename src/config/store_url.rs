//! The store's address from the original system's variables: `REDIS_HOST`, `REDIS_PORT`,
//! `REDIS_PASSWORD` and `REDIS_TLS` instead of one URL.

use super::environment::{Environment, secret_file};
use super::form::ReadFile;
use super::problems::{Origin, Problems, quoted};
use std::path::Path;
use url::Url;

/// Redis's own port.
const REDIS_PORT: u16 = 6379;
const KEY: &str = "store.url";

/// Makes a URL of `REDIS_HOST` and its companions unless a variable gave a whole one, and puts
/// `REDIS_PASSWORD` into a URL that has none. Where the URL now comes from, if it changed.
pub fn complete(
    url: &mut Option<String>,
    from: &Origin,
    environment: &Environment,
    read_file: ReadFile<'_>,
    problems: &mut Problems,
) -> Option<Origin> {
    let mut origin = None;
    let whole = matches!(from, Origin::Environment(_));
    if !whole && let Some(host) = environment.value("REDIS_HOST") {
        *url = Some(from_parts(host, environment, problems)?);
        origin = Some(Origin::Environment("REDIS_HOST".into()));
    }
    let (Some(text), Some(password)) = (&url, password(environment, read_file, problems)) else {
        return origin;
    };
    let mut parsed = Url::parse(text).ok()?;
    // A URL of a socket has its password in the query; it is then complete or wants none.
    if parsed.password().is_none() && parsed.set_password(Some(&password)).is_ok() {
        *url = Some(parsed.to_string());
    }
    origin
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

fn password(
    environment: &Environment,
    read_file: ReadFile<'_>,
    problems: &mut Problems,
) -> Option<String> {
    if let Some(password) = environment.value("REDIS_PASSWORD") {
        return Some(password.to_owned());
    }
    let path = environment.value("REDIS_PASSWORD_FILE")?;
    let origin = Origin::Environment("REDIS_PASSWORD_FILE".into());
    secret_file(Path::new(path), KEY, &origin, read_file, problems)
}
