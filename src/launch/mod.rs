//! Launch options: what a client wants its browser started with. Pure.
//!
//! Playwright's test runner sends them with every connection, in the header [`HEADER`]; others may, there
//! or in the query. [`LaunchOptions::read`] keeps what makes a browser another one, by Playwright's own
//! rule (`launchOptionsHash` in `remote/playwrightServer.ts`), [`Permission`] says what of it a client
//! may have, and [`arguments`] which of a browser's arguments are harmless.

mod arguments;
mod permission;

pub use permission::{OptionName, Permission, UnknownPermission};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Header in which clients send them, as JSON.
pub const HEADER: &str = "x-playwright-launch-options";

/// Options after which a browser is the same as without them, whatever they say. Playwright compares no
/// headless mode, timeout or folder of its own either; how a browser reacts to signals is the worker's
/// business, and a logger stays with the client.
const WITHOUT_EFFECT: [&str; 8] = [
    "artifactsDir",
    "handleSIGHUP",
    "handleSIGINT",
    "handleSIGTERM",
    "headless",
    "logger",
    "timeout",
    "tracesDir",
];

/// Most arguments and preferences of one client.
const MOST_ITEMS: usize = 200;
/// How much of a client's word is repeated to it.
const MOST_REPEATED: usize = 60;
/// Bytes of the digest that names equal options.
const DIGEST: usize = 16;

/// What a browser is started with beyond what its worker starts it with anyway. Nothing here can name an
/// executable or a folder. Written as Playwright's `launchServer` reads it.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LaunchOptions {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Milliseconds between two operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_mo: Option<f64>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub firefox_user_prefs: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_default_args: Option<IgnoredArguments>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub env: Map<String, Value>,
}

/// The proxy that a browser's pages are fetched through.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    pub server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Which of Playwright's own arguments a browser is started without.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IgnoredArguments {
    /// All of them, if true.
    All(bool),
    These(Vec<String>),
}

/// Why launch options are refused, in words for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    #[error("The launch options are no JSON object.")]
    NoObject,
    #[error("The launch option {option} should be {expected}.")]
    Malformed {
        option: &'static str,
        expected: &'static str,
    },
    #[error("The launch option {0} is not allowed on this grid.")]
    Option(String),
    #[error("The argument {0} in the launch option args is not allowed on this grid.")]
    Argument(String),
    #[error(
        "The preference {0} in the launch option firefoxUserPrefs is not allowed on this grid."
    )]
    Preference(String),
}

/// Names alone: a proxy has a password.
impl std::fmt::Debug for LaunchOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl LaunchOptions {
    /// Options of these arguments alone.
    pub fn of_arguments(args: Vec<String>) -> LaunchOptions {
        LaunchOptions {
            args,
            ..LaunchOptions::default()
        }
    }

    /// Reads what a client sent. Of a key that is there twice, the last one counts, as in JavaScript.
    ///
    /// # Errors
    ///
    /// It cannot be understood, or has an option that no client may have.
    pub fn read(json: &[u8]) -> Result<LaunchOptions, LaunchError> {
        let Ok(Value::Object(given)) = serde_json::from_slice(json) else {
            return Err(LaunchError::NoObject);
        };
        let mut options = LaunchOptions::default();
        for (name, value) in given {
            let asks = !WITHOUT_EFFECT.contains(&name.as_str()) && !is_empty(&name, &value);
            if asks {
                options.take(&name, value)?;
            }
        }
        Ok(options)
    }

    fn take(&mut self, name: &str, value: Value) -> Result<(), LaunchError> {
        let known = match name {
            // Playwright's protocol has a word of its own for `ignoreDefaultArgs: true`.
            "ignoreAllDefaultArgs" => Ok(OptionName::IgnoreDefaultArgs),
            name => name.parse::<OptionName>(),
        };
        let Ok(option) = known else {
            return Err(LaunchError::Option(repeated(name)));
        };
        let expected = match option {
            OptionName::Args => "a list of at most 200 texts",
            OptionName::Channel => "a text",
            OptionName::Proxy => {
                "an object with server (http, https, socks4 or socks5), and maybe bypass, username, password"
            }
            OptionName::SlowMo => "a number of milliseconds",
            OptionName::FirefoxUserPrefs => "an object of at most 200 texts, numbers and booleans",
            OptionName::IgnoreDefaultArgs => "true or a list of at most 200 texts",
            OptionName::Env => "an object of at most 200 texts",
        };
        let taken = match option {
            OptionName::Args => texts(value).map(|texts| self.args = texts),
            OptionName::Channel => text(value).map(|text| self.channel = Some(text)),
            OptionName::Proxy => proxy(value).map(|proxy| self.proxy = Some(proxy)),
            OptionName::SlowMo => slow_mo(&value).map(|time| self.slow_mo = time),
            OptionName::FirefoxUserPrefs => scalars(value).map(|it| self.firefox_user_prefs = it),
            OptionName::IgnoreDefaultArgs => {
                ignored(value).map(|ignored| self.ignore_default_args = Some(ignored))
            }
            OptionName::Env => scalars(value).map(|it| self.env = it),
        };
        taken.ok_or(LaunchError::Malformed {
            option: option.as_str(),
            expected,
        })
    }

    /// Whether a browser that is started with them is as any other of its worker.
    pub fn is_empty(&self) -> bool {
        *self == LaunchOptions::default()
    }

    /// The options that are there.
    pub fn names(&self) -> impl Iterator<Item = OptionName> {
        let there = [
            (OptionName::Args, !self.args.is_empty()),
            (OptionName::Channel, self.channel.is_some()),
            (OptionName::Proxy, self.proxy.is_some()),
            (OptionName::SlowMo, self.slow_mo.is_some()),
            (
                OptionName::FirefoxUserPrefs,
                !self.firefox_user_prefs.is_empty(),
            ),
            (
                OptionName::IgnoreDefaultArgs,
                self.ignore_default_args.is_some(),
            ),
            (OptionName::Env, !self.env.is_empty()),
        ];
        there
            .into_iter()
            .filter_map(|(name, there)| there.then_some(name))
    }

    /// As one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and booleans are JSON")
    }

    /// The same for equal options, and tells nothing of them.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(self.to_json().as_bytes());
        digest[..DIGEST]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Whether an option is there and asks for nothing.
fn is_empty(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        // What an option is without it, but for this one, which then takes something away.
        Value::Bool(false) => name != "chromiumSandbox",
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A text without control characters, which no command line or file of ours is to meet.
fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text).filter(|text| is_plain(text)),
        _ => None,
    }
}

fn texts(value: Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) if items.len() <= MOST_ITEMS => items.into_iter().map(text).collect(),
        _ => None,
    }
}

fn scalars(value: Value) -> Option<Map<String, Value>> {
    let Value::Object(entries) = value else {
        return None;
    };
    let is_scalar = |value: &Value| match value {
        Value::String(text) => is_plain(text),
        Value::Bool(_) | Value::Number(_) => true,
        _ => false,
    };
    let fine = entries
        .iter()
        .all(|(name, value)| is_plain(name) && is_scalar(value));
    (fine && entries.len() <= MOST_ITEMS).then_some(entries)
}

/// Milliseconds; `None` within for none at all.
fn slow_mo(value: &Value) -> Option<Option<f64>> {
    let time = value.as_f64().filter(|time| *time >= 0.0)?;
    Some((time > 0.0).then_some(time))
}

fn ignored(value: Value) -> Option<IgnoredArguments> {
    match value {
        Value::Bool(all) => Some(IgnoredArguments::All(all)),
        value => texts(value).map(IgnoredArguments::These),
    }
}

fn proxy(value: Value) -> Option<Proxy> {
    const SCHEMES: [&str; 4] = ["http", "https", "socks4", "socks5"];
    let proxy: Proxy = serde_json::from_value(value).ok()?;
    let texts = [&proxy.bypass, &proxy.username, &proxy.password];
    let fine = texts.into_iter().flatten().all(|text| is_plain(text));
    let server = &proxy.server;
    let known = match server.split_once("://") {
        Some((scheme, _)) => SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()),
        None => !server.is_empty(),
    };
    let is_address = server.chars().all(|c| c.is_ascii_graphic());
    (fine && known && is_address).then_some(proxy)
}

/// A client's own word, as it may be repeated to it.
fn repeated(word: &str) -> String {
    if word.is_empty() {
        return "\"\"".to_owned();
    }
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    word.chars().take(MOST_REPEATED).map(printable).collect()
}

#[cfg(test)]
mod tests;
