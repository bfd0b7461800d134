//! Everything that is wrong with a configuration, collected so that it is told at once, with
//! where it is written. Values of secret keys never get in here.

use super::yaml::Position;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// More than this nobody reads; it bounds what a file of nonsense can cost.
const MAX_PROBLEMS: usize = 100;
/// Longest part of a wrong value that is repeated to the reader.
const MAX_QUOTED: usize = 60;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        name: Arc<str>,
        position: Position,
    },
    /// An environment variable, by its name.
    Environment(Arc<str>),
    /// A flag, as it is typed (`--listen`).
    Flag(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { name, position } => {
                write!(f, "{name}:{}:{}", position.line, position.column)
            }
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// One mistake: where, which key, what is wrong and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// The key (`auth.tokens[1].sha256`); empty when it is about the file as a whole.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Why there is no configuration: all mistakes, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
    unlisted: usize,
}

impl ConfigErrors {
    /// The mistakes that are listed; more may have been found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.unlisted > 0 {
            write!(f, "\nand {} more", self.unlisted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The collection while a configuration is read.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    unlisted: usize,
    /// Top-level keys with a problem: relations between values are not checked for them.
    keys: BTreeSet<String>,
}

impl Problems {
    /// Notes a mistake of a key; an empty key stands for the whole file. Beyond the most that are listed it
    /// is counted.
    pub fn add(&mut self, origin: Origin, key: impl Into<String>, message: impl Into<String>) {
        if self.is_full() {
            self.unlisted += 1;
            return;
        }
        let key = key.into();
        if !key.is_empty() {
            let known = key.split('[').next().unwrap_or_default();
            self.keys.insert(known.to_owned());
        }
        self.list.push(Problem {
            origin,
            key,
            message: message.into(),
        });
    }

    /// Whether further problems are only counted.
    pub fn is_full(&self) -> bool {
        self.list.len() >= MAX_PROBLEMS
    }

    /// Whether this key's value could not be read.
    pub fn concern(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// # Errors
    /// When there is any problem.
    pub fn into_result(self) -> Result<(), ConfigErrors> {
        if self.list.is_empty() {
            return Ok(());
        }
        Err(ConfigErrors {
            problems: self.list,
            unlisted: self.unlisted,
        })
    }
}

/// A wrong value for a message: quoted, without control characters, not longer than a line.
pub fn quoted(value: &str) -> String {
    let value = &without_password(value);
    if value.chars().count() <= MAX_QUOTED {
        return format!("{value:?}");
    }
    let start: String = value.chars().take(MAX_QUOTED).collect();
    format!("{:?}…", start)
}

/// A URL in the wrong place, or a part of one, may carry a password: before its host or in its
/// query.
fn without_password(value: &str) -> Cow<'_, str> {
    let start = value.find("://").map_or(0, |scheme| scheme + 3);
    let value: Cow<'_, str> = match value.rfind('@') {
        Some(end) if start < end => format!("{}***{}", &value[..start], &value[end..]).into(),
        _ => value.into(),
    };
    match value.split_once('?') {
        Some((before, _)) if start > 0 => format!("{before}?***").into(),
        _ => value,
    }
}

/// The known name that was probably meant, when one is close enough.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters wrong still reads as the same word; a longer name is no word.
    let limit = (name.len() / 3).clamp(1, 4);
    if name.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
