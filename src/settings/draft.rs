//! A configuration while its layers are put over one another.

use super::forms::Notation;
use super::key::Table;
use super::problems::{Origin, Problems};
use super::yaml::{Node, Position, Value};
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Reads a file that a configuration refers to; a parameter so that tests need none.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// Something that gives values for keys. Whoever is applied later is stronger.
pub trait Layer<C> {
    fn apply(&self, draft: &mut Draft<'_, C>);
}

/// The configuration so far, where each of its values comes from, and what is wrong.
pub struct Draft<'a, C: 'static> {
    pub table: &'static Table<C>,
    pub config: C,
    /// By the position of the key in the table.
    pub origins: Vec<Origin>,
    pub problems: Problems,
    pub read_file: ReadFile<'a>,
}

impl<'a, C> Draft<'a, C> {
    /// Every key at its default.
    pub fn new(table: &'static Table<C>, defaults: C, read_file: ReadFile<'a>) -> Self {
        Draft {
            origins: vec![Origin::Default; table.iter().len()],
            table,
            config: defaults,
            problems: Problems::default(),
            read_file,
        }
    }

    /// Reads a key's value from `node`; what is wrong with it becomes a problem.
    pub fn value(&mut self, index: usize, node: &Node, notation: Notation, source: &Source) {
        let key = &self.table[index];
        let mut reading = Reading {
            key: key.path.to_owned(),
            notation,
            secret: key.secret,
            word: None,
            source: source.clone(),
            problems: &mut self.problems,
            read_file: self.read_file,
        };
        if key.read(&mut reading, node, &mut self.config) {
            self.origins[index] = source.at(node.position);
        }
    }

    /// What the file of a secret holds; `named_at` is where its path stands.
    pub fn secret(&mut self, path: &Path, key: &str, named_at: &Origin) -> Option<String> {
        match secret_in_file(path, self.read_file) {
            Ok(text) => Some(text),
            Err(message) => {
                self.problems.add(named_at.clone(), key, message);
                None
            }
        }
    }
}

/// What a secret's own file holds, without the line break at its end.
///
/// # Errors
/// Why it cannot be read, for the user.
pub fn secret_in_file(path: &Path, read_file: ReadFile<'_>) -> Result<String, String> {
    match read_file(path) {
        Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// What a key is read from.
#[derive(Clone, Debug)]
pub enum Source {
    File(Arc<str>),
    /// The whole origin: there are no positions in it worth telling.
    Other(Origin),
}

impl Source {
    /// Where something is written that stands at this position of the source.
    pub fn at(&self, position: Position) -> Origin {
        match self {
            Source::File(name) => Origin::File {
                name: Arc::clone(name),
                position,
            },
            Source::Other(origin) => origin.clone(),
        }
    }
}

/// The reading of one value: where it is, and where its mistakes go.
pub struct Reading<'a> {
    pub key: String,
    pub notation: Notation,
    /// The value must not be repeated in a message.
    pub secret: bool,
    /// A word that is taken beside what the form reads (`never`).
    pub word: Option<&'static str>,
    pub source: Source,
    pub problems: &'a mut Problems,
    pub read_file: ReadFile<'a>,
}

impl Reading<'_> {
    /// Notes that what is at `node` is wrong; the key it concerns is the one being read.
    pub fn wrong(&mut self, node: &Node, message: impl Into<String>) {
        let origin = self.source.at(node.position);
        self.problems.add(origin, self.key.clone(), message);
    }

    /// The same reading, one level down: `[3]` or `.name`.
    pub fn within(&mut self, step: impl Display, secret: bool) -> Reading<'_> {
        Reading {
            key: format!("{}{step}", self.key),
            notation: self.notation,
            secret,
            word: None,
            source: self.source.clone(),
            problems: self.problems,
            read_file: self.read_file,
        }
    }

    /// The text of a scalar.
    pub fn text<'n>(&mut self, node: &'n Node, allowed: &str) -> Option<&'n str> {
        let what = match &node.value {
            Value::Scalar(text) => return Some(text),
            Value::Null => "there is no value; it should be",
            Value::List(_) => "a list is not",
            Value::Map(_) => "a section is not",
        };
        self.wrong(node, format!("{what} {allowed}"));
        None
    }
}
