//! The environment and the flags as layers over the file: which variable sets which key.

use super::draft::{Draft, Layer, Source};
use super::forms::Notation;
use super::key::Table;
use super::problems::{Origin, nearest};
use super::yaml::{self, Node, Position};
use std::collections::BTreeMap;
use std::path::Path;

/// Environment variables, as a value.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's own. A value that is not UTF-8 keeps what of it is.
    pub fn of_process() -> Environment {
        std::env::vars_os()
            .map(|(name, value)| {
                let name = name.to_string_lossy().into_owned();
                (name, value.to_string_lossy().into_owned())
            })
            .collect()
    }

    /// A variable's value. An empty one counts as not set: that is what `${NAME:-}` in a compose
    /// file leaves behind. So does `tcp://…` in a `…_PORT`, which Kubernetes sets for every
    /// service: one called `redis` brings `REDIS_PORT`, one called `playhouse-worker`
    /// `PLAYHOUSE_WORKER_PORT`.
    pub fn value(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.as_str();
        let of_kubernetes = name.ends_with("PORT") && value.starts_with("tcp://");
        (!value.is_empty() && !of_kubernetes).then_some(value)
    }

    /// Variables that look like the table's and are not, each with the name that was probably meant.
    /// `others` are names with the table's prefix that mean something else.
    pub fn suspects<C: 'static>(&self, table: &Table<C>, others: &[&str]) -> Vec<(String, String)> {
        let prefix = table.prefix;
        let mut known: Vec<String> = others.iter().map(|n| format!("{prefix}_{n}")).collect();
        for key in table.iter() {
            for name in key.variables() {
                if key.has_file_variable() {
                    known.push(format!("{name}_FILE"));
                }
                known.push(name.to_owned());
            }
        }
        let ours = self.0.keys().filter(|name| {
            let rest = name.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with('_'))
                && self.value(name).is_some()
                && !known.iter().any(|known| known == *name)
        });
        ours.filter_map(|name| {
            let meant = nearest(name, known.iter().map(String::as_str))?;
            Some((name.clone(), meant.to_owned()))
        })
        .collect()
    }
}

impl<C> Layer<C> for Environment {
    /// Of a key's variables the strongest counts.
    fn apply(&self, draft: &mut Draft<'_, C>) {
        for (index, key) in draft.table.iter().enumerate() {
            for name in key.variables() {
                let origin = Origin::Environment(name.into());
                if let Some(value) = self.value(name) {
                    draft.plain(index, value, origin);
                    break;
                }
                let file = format!("{name}_FILE");
                if key.has_file_variable()
                    && let Some(path) = self.value(&file)
                {
                    let origin = Origin::Environment(file.into());
                    if let Some(text) = draft.secret(Path::new(path), key.path, &origin) {
                        draft.plain(index, &text, origin);
                    }
                    break;
                }
            }
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Environment {
        let pairs = variables.into_iter();
        Environment(pairs.map(|(n, v)| (n.into(), v.into())).collect())
    }
}

/// Keys that the command line sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub Vec<Flag>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// As it is typed: `--listen`.
    pub name: &'static str,
    /// The key it sets.
    pub key: &'static str,
    pub value: String,
}

impl Flags {
    /// Adds a flag, if it was given.
    #[must_use]
    pub fn with(mut self, name: &'static str, key: &'static str, value: &Option<String>) -> Flags {
        if let Some(value) = value.clone() {
            self.0.push(Flag { name, key, value });
        }
        self
    }
}

impl<C> Layer<C> for Flags {
    fn apply(&self, draft: &mut Draft<'_, C>) {
        for flag in &self.0 {
            let index = draft.table.find(flag.key);
            let index = index.expect("flags name keys of the table");
            draft.plain(index, &flag.value, Origin::Flag(flag.name.into()));
        }
    }
}

impl<C> Draft<'_, C> {
    /// Reads a key from a text outside of the file: lists are written in YAML (or JSON, which is
    /// YAML).
    fn plain(&mut self, index: usize, text: &str, origin: Origin) {
        let key = &self.table[index];
        let node = if key.list {
            match yaml::parse(text) {
                Ok(node) => node.unwrap_or_else(|| Node::scalar("", Position::START)),
                Err(error) => {
                    let message = format!("not YAML: {error}");
                    return self.problems.add(origin, key.path, message);
                }
            }
        } else {
            Node::scalar(text, Position::START)
        };
        self.value(index, &node, Notation::Plain, &Source::Other(origin));
    }
}
