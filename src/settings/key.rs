//! The keys of a configuration `C`, and the table of all of them.

use super::draft::Reading;
use super::forms::{Form, Masking};
use super::yaml::Node;
use serde_json::Value;
use std::ops::Index;

/// One key, its type hidden in its functions.
pub struct Key<C> {
    /// `limits.max_concurrent_sessions`; the same as the path of the field.
    pub path: &'static str,
    /// Its environment variable: `PLAYHOUSE_LIMITS_MAX_CONCURRENT_SESSIONS`.
    pub variable: String,
    /// Further names of its environment variable.
    pub aliases: &'static [&'static str],
    /// Whether a reload changes it in a running process.
    pub hot: bool,
    /// Whether its value must not be shown, in full or in part. Such a key can also be read from
    /// a file: `…_file` in the YAML, `…_FILE` in the environment.
    pub secret: bool,
    /// Whether it is a list; its environment variable holds YAML.
    pub list: bool,
    /// Whether its section may be written as the value of this key alone: `store: memory`.
    pub short: bool,
    /// What it is for, in one paragraph.
    pub doc: String,
    /// Lines that show how it is written.
    pub examples: Vec<&'static str>,
    /// `a whole number from 1 to 10`.
    pub allowed: String,
    /// The same as a JSON Schema.
    pub schema: Value,
    read: Read<C>,
    show: Show<C>,
    copy: Copy<C>,
}

type Read<C> = Box<dyn Fn(&mut Reading<'_>, &Node, &mut C) -> bool + Send + Sync>;
type Show<C> = Box<dyn Fn(&C, Masking) -> String + Send + Sync>;
type Copy<C> = Box<dyn Fn(&C, &mut C) + Send + Sync>;

type Take<C, T> = Box<dyn Fn(&C) -> T + Send + Sync>;
type Put<C, T> = Box<dyn Fn(&mut C, T) + Send + Sync>;

/// The way to one field of `C`.
pub struct Field<C, T> {
    pub value: Take<C, T>,
    pub put: Put<C, T>,
}

impl<C: 'static> Key<C> {
    /// `docs` are the lines of its comment; those indented by four spaces are examples.
    pub fn new<T: 'static>(
        path: &'static str,
        field: Field<C, T>,
        form: Form<T>,
        docs: &[&'static str],
    ) -> Key<C> {
        let (examples, text): (Vec<&'static str>, Vec<&'static str>) =
            docs.iter().partition(|line| line.starts_with("     "));
        let text: Vec<&str> = text.into_iter().map(str::trim).collect();
        let Form {
            allowed,
            schema,
            read,
            show,
        } = form;
        let value = std::sync::Arc::new(field.value);
        let put = std::sync::Arc::new(field.put);
        let (shown, copied, put_copy) = (value.clone(), value, put.clone());
        Key {
            path,
            variable: String::new(),
            aliases: &[],
            hot: false,
            secret: false,
            list: allowed.starts_with("a list"),
            short: false,
            doc: text.join(" ").trim().to_owned(),
            examples: examples.into_iter().map(str::trim).collect(),
            allowed,
            schema,
            read: Box::new(move |reading, node, config| {
                let value = read(reading, node);
                value.map(|value| put(config, value)).is_some()
            }),
            show: Box::new(move |config, masking| show(&shown(config), masking)),
            copy: Box::new(move |from, to| put_copy(to, copied(from))),
        }
    }

    /// Is set by these environment variables too.
    pub fn env(self, aliases: &'static [&'static str]) -> Self {
        Key { aliases, ..self }
    }

    /// A reload changes it in a running process.
    pub fn hot(self) -> Self {
        Key { hot: true, ..self }
    }

    /// Its value is never shown.
    pub fn secret(self) -> Self {
        Key {
            secret: true,
            ..self
        }
    }

    /// Its section may be written as its value.
    pub fn short(self) -> Self {
        Key {
            short: true,
            ..self
        }
    }

    /// Whether a `…_file` variant exists in the file: for secrets that are one text.
    pub fn has_file_variant(&self) -> bool {
        self.secret && !self.list
    }

    /// Whether a `…_FILE` variant of its environment variables exists.
    pub fn has_file_variable(&self) -> bool {
        self.secret
    }

    /// All its environment variables, the strongest first.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.variable.as_str()).chain(self.aliases.iter().copied())
    }

    /// Reads `node` into `config`; `false` when that is noted as a problem instead.
    pub fn read(&self, reading: &mut Reading<'_>, node: &Node, config: &mut C) -> bool {
        (self.read)(reading, node, config)
    }

    /// Its value as YAML on one line.
    pub fn show(&self, config: &C, masking: Masking) -> String {
        (self.show)(config, masking)
    }

    /// Whether two configurations agree in this key.
    pub fn same(&self, one: &C, other: &C) -> bool {
        self.show(one, Masking::Whole) == self.show(other, Masking::Whole)
    }

    /// Takes this key's value over from one configuration into another.
    pub fn copy(&self, from: &C, to: &mut C) {
        (self.copy)(from, to)
    }

    /// `limits`, for `limits.max_concurrent_sessions`; `None` for a key outside of all sections.
    pub fn section(&self) -> Option<&'static str> {
        self.path.split_once('.').map(|(section, _)| section)
    }

    /// `max_concurrent_sessions`, for `limits.max_concurrent_sessions`.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }
}

/// All keys, in the order in which they are documented.
pub struct Table<C> {
    /// What the names of environment variables begin with.
    pub prefix: &'static str,
    /// Keys that there were, each with what is to be written in its place.
    pub removed: &'static [(&'static str, &'static str)],
    keys: Vec<Key<C>>,
}

impl<C: 'static> Table<C> {
    /// Gives each key its environment variable, by `prefix` and path.
    pub fn new(
        prefix: &'static str,
        removed: &'static [(&'static str, &'static str)],
        mut keys: Vec<Key<C>>,
    ) -> Table<C> {
        for key in &mut keys {
            let name = key.path.replace('.', "_").to_ascii_uppercase();
            key.variable = format!("{prefix}_{name}");
        }
        Table {
            prefix,
            removed,
            keys,
        }
    }

    /// The keys, in the order in which they are documented.
    pub fn iter(&self) -> std::slice::Iter<'_, Key<C>> {
        self.keys.iter()
    }

    /// The position of a key.
    pub fn find(&self, path: &str) -> Option<usize> {
        self.keys.iter().position(|key| key.path == path)
    }

    /// The position of the key that a section's name may stand for.
    pub fn short(&self, section: &str) -> Option<usize> {
        let stands = |key: &Key<C>| key.short && key.section() == Some(section);
        self.keys.iter().position(stands)
    }

    /// The names that may follow `path`; none when it is no section.
    pub fn names_under(&self, path: &str) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = Vec::new();
        for key in &self.keys {
            let rest = match path {
                "" => Some(key.path),
                _ => key
                    .path
                    .strip_prefix(path)
                    .and_then(|rest| rest.strip_prefix('.')),
            };
            let name = rest.and_then(|rest| rest.split('.').next());
            names.extend(name.filter(|name| !names.contains(name)));
        }
        names
    }
}

impl<C> Index<usize> for Table<C> {
    type Output = Key<C>;

    fn index(&self, index: usize) -> &Key<C> {
        &self.keys[index]
    }
}
