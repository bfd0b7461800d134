//! The one table of all keys. Parsing, errors, `playhouse check`, `conf/playhouse.yaml` and the
//! diff at a reload are all derived from it; the entries themselves are in `proxy` and `worker`.

mod proxy;
mod worker;

use super::form::{Form, Masking, Reading};
use super::model::Config;
use super::yaml::Node;
use crate::model::Browser;
use std::sync::LazyLock;

/// The browsers' names, for every key that wants one.
pub const BROWSERS: &[(&str, Browser)] = &[
    ("chromium", Browser::Chromium),
    ("firefox", Browser::Firefox),
    ("webkit", Browser::Webkit),
];

/// One key of the configuration, its type hidden in its functions.
pub struct Key {
    /// `limits.max_concurrent_sessions`; the same as the path of the field.
    pub path: &'static str,
    /// Names of environment variables from the original system.
    pub aliases: &'static [&'static str],
    /// Whether a reload changes it in a running process.
    pub hot: bool,
    /// Whether its value must not be shown, in full or in part. Such a key can also be read from
    /// a file: `…_file` in the YAML, `…_FILE` in the environment.
    pub secret: bool,
    /// Whether it is a list; its environment variable holds YAML.
    pub list: bool,
    pub doc: &'static str,
    /// `a whole number from 1 to 10`.
    pub allowed: String,
    read: Read,
    show: Show,
    copy: Copy,
}

type Read = Box<dyn Fn(&mut Reading<'_>, &Node, &mut Config) -> bool + Send + Sync>;
type Show = Box<dyn Fn(&Config, Masking) -> String + Send + Sync>;
type Copy = Box<dyn Fn(&Config, &mut Config) + Send + Sync>;

/// Every key, in the order in which the shipped file shows them.
pub static KEYS: LazyLock<Vec<Key>> =
    LazyLock::new(|| proxy::keys().into_iter().chain(worker::keys()).collect());

/// The way to one field: its path, and reading and writing it in a [`Config`].
struct Field<T> {
    path: &'static str,
    value: fn(&Config) -> T,
    put: fn(&mut Config, T),
}

/// The [`Field`] of the same name: `field!(limits.max_concurrent_sessions)`.
macro_rules! field {
    ($first:ident $(. $rest:ident)*) => {
        $crate::config::keys::Field {
            path: concat!(stringify!($first) $(, ".", stringify!($rest))*),
            value: |config| config.$first $(. $rest)*.clone(),
            put: |config, value| config.$first $(. $rest)* = value,
        }
    };
}
use field;

impl Key {
    fn new<T: 'static>(field: Field<T>, form: Form<T>, doc: &'static str) -> Key {
        let Field { path, value, put } = field;
        let Form {
            allowed,
            read,
            show,
        } = form;
        let list = allowed.starts_with("a list");
        Key {
            path,
            aliases: &[],
            hot: false,
            secret: false,
            list,
            doc,
            allowed,
            read: Box::new(move |reading, node, config| {
                let Some(value) = read(reading, node) else {
                    return false;
                };
                put(config, value);
                true
            }),
            show: Box::new(move |config, masking| show(&value(config), masking)),
            copy: Box::new(move |from, to| put(to, value(from))),
        }
    }

    fn env(self, aliases: &'static [&'static str]) -> Key {
        Key { aliases, ..self }
    }

    fn hot(self) -> Key {
        Key { hot: true, ..self }
    }

    fn secret(self) -> Key {
        Key {
            secret: true,
            ..self
        }
    }

    /// Whether a `…_file` variant exists: for secrets that are one text.
    pub fn has_file_variant(&self) -> bool {
        self.secret && !self.list
    }

    /// `PLAYHOUSE_LIMITS_MAX_CONCURRENT_SESSIONS`.
    pub fn variable(&self) -> String {
        let name = self.path.replace('.', "_").to_ascii_uppercase();
        format!("PLAYHOUSE_{name}")
    }

    /// All its environment variables, the strongest first.
    pub fn variables(&self) -> impl Iterator<Item = String> {
        let aliases = self.aliases.iter().map(|name| (*name).to_owned());
        std::iter::once(self.variable()).chain(aliases)
    }

    /// Reads `node` into `config`; `false` when that is noted as a problem instead.
    pub fn read(&self, reading: &mut Reading<'_>, node: &Node, config: &mut Config) -> bool {
        (self.read)(reading, node, config)
    }

    /// Its value as YAML on one line.
    pub fn show(&self, config: &Config, masking: Masking) -> String {
        (self.show)(config, masking)
    }

    /// Whether two configurations agree in this key.
    pub fn same(&self, one: &Config, other: &Config) -> bool {
        self.show(one, Masking::Whole) == self.show(other, Masking::Whole)
    }

    /// Takes this key's value over from one configuration into another.
    pub fn copy(&self, from: &Config, to: &mut Config) {
        (self.copy)(from, to)
    }

    /// `limits`, for `limits.max_concurrent_sessions`.
    pub fn section(&self) -> &'static str {
        self.path.split('.').next().unwrap_or(self.path)
    }

    /// `max_concurrent_sessions`, for `limits.max_concurrent_sessions`.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }
}

/// The position of a key in [`KEYS`].
pub fn find(path: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.path == path)
}
