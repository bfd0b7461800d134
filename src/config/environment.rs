//! The environment and the flags as layers over the file: which variable sets which key.

use super::form::{Notation, ReadFile, Reading, Source};
use super::keys::{KEYS, Key};
use super::problems::{Origin, Problems, nearest};
use super::yaml::{self, Node, Position};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

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

    /// Variables that look like ours and are not, each with the name that was probably meant.
    pub fn suspects(&self) -> Vec<(String, String)> {
        // Those that are no keys: the file's name, the token of `playhouse status`, a folder.
        let mut known: Vec<String> = ["CONFIG", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE", "RUNTIME_DIR"]
            .map(|name| format!("PLAYHOUSE_{name}"))
            .into();
        for key in KEYS.iter() {
            for name in key.variables() {
                if key.has_file_variant() {
                    known.push(format!("{name}_FILE"));
                }
                known.push(name);
            }
        }
        let ours = self.0.keys().filter(|name| {
            name.starts_with("PLAYHOUSE_") && !known.iter().any(|known| known == *name)
        });
        ours.filter_map(|name| {
            let meant = nearest(name, known.iter().map(String::as_str))?;
            Some((name.clone(), meant.to_owned()))
        })
        .collect()
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

/// What a variable or a flag gives for a key: the node to read and where it comes from.
pub struct Given {
    pub node: Rc<Node>,
    pub origin: Origin,
}

/// What the environment says about a key; the strongest of its variables.
pub fn given(
    key: &Key,
    environment: &Environment,
    read_file: ReadFile<'_>,
    problems: &mut Problems,
) -> Option<Given> {
    for name in key.variables() {
        if let Some(value) = environment.value(&name) {
            let origin = Origin::Environment(name.into());
            let node = node(key, value, &origin, problems)?;
            return Some(Given { node, origin });
        }
        if !key.has_file_variant() {
            continue;
        }
        let name = format!("{name}_FILE");
        if let Some(path) = environment.value(&name) {
            let origin = Origin::Environment(name.into());
            let text = secret_file(Path::new(path), key.path, &origin, read_file, problems)?;
            return Some(Given {
                node: Rc::new(Node::scalar(text, Position::START)),
                origin,
            });
        }
    }
    None
}

/// What a secret's own file holds, without the line break at its end.
pub fn secret_file(
    path: &Path,
    key: &str,
    origin: &Origin,
    read_file: ReadFile<'_>,
    problems: &mut Problems,
) -> Option<String> {
    match read_file(path) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            problems.add(origin.clone(), key, message);
            None
        }
    }
}

/// A variable's text as a node: lists are written in YAML (or JSON, which is YAML).
pub fn node(key: &Key, text: &str, origin: &Origin, problems: &mut Problems) -> Option<Rc<Node>> {
    if !key.list {
        return Some(Rc::new(Node::scalar(text, Position::START)));
    }
    match yaml::parse(text) {
        Ok(Some(node)) => Some(node),
        Ok(None) => Some(Rc::new(Node::scalar("", Position::START))),
        Err(error) => {
            let message = format!("not YAML: {error}");
            problems.add(origin.clone(), key.path, message);
            None
        }
    }
}

/// A reading of a value from the environment or a flag.
pub fn reading<'a>(
    key: &Key,
    origin: Origin,
    read_file: ReadFile<'a>,
    problems: &'a mut Problems,
) -> Reading<'a> {
    Reading {
        key: key.path.to_owned(),
        notation: Notation::Plain,
        secret: key.secret,
        word: None,
        source: Source::Other(origin),
        problems,
        read_file,
    }
}
