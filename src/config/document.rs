//! The file as a layer: walks the tree along the table of keys and reads what it finds.

use super::environment::secret_file;
use super::form::{Notation, ReadFile, Reading, Source};
use super::keys::{KEYS, Key, find};
use super::model::Config;
use super::problems::{Origin, Problems, nearest};
use super::yaml::{Entry, Node, Value, parse};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Reads the file's text into `config`; the keys it set, by their position in the table.
pub fn read(
    name: &str,
    text: &str,
    config: &mut Config,
    read_file: ReadFile<'_>,
    problems: &mut Problems,
) -> Vec<(usize, Origin)> {
    let name: Arc<str> = name.into();
    let root = match parse(text) {
        Ok(root) => root,
        Err(error) => {
            let position = error.position;
            let message = format!("not YAML: {}", error.message);
            problems.add(Origin::File { name, position }, "", message);
            return Vec::new();
        }
    };
    let Some(root) = root else {
        return Vec::new();
    };
    let mut walk = Walk {
        source: Source::File(name),
        config,
        read_file,
        problems,
        found: Vec::new(),
    };
    walk.duplicates(&root, "");
    walk.section(&root, "");
    walk.found
}

struct Walk<'a> {
    source: Source,
    config: &'a mut Config,
    read_file: ReadFile<'a>,
    problems: &'a mut Problems,
    found: Vec<(usize, Origin)>,
}

impl Walk<'_> {
    /// Reads what is under `path`, which is not itself a key.
    fn section(&mut self, node: &Node, path: &str) {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            // All its keys commented out.
            Value::Null => return,
            _ => {
                let names = names_under(path).join(", ");
                let message = format!("it should be a section with {names}");
                let origin = self.source.at(node.position);
                return self.problems.add(origin, path, message);
            }
        };
        for entry in entries {
            self.entry(entry, path, entries);
        }
    }

    fn entry(&mut self, entry: &Entry, parent: &str, siblings: &[Entry]) {
        let path = if parent.is_empty() {
            entry.name.clone()
        } else {
            format!("{parent}.{}", entry.name)
        };
        if let Some(index) = find(&path) {
            return self.value(index, &KEYS[index], entry.node.clone());
        }
        // `store: memory` is short for the only key of it that has no other.
        if path == "store" && matches!(entry.node.value, Value::Scalar(_)) {
            return self.short_store(&entry.node);
        }
        if !names_under(&path).is_empty() {
            return self.section(&entry.node, &path);
        }
        if let Some(index) = path.strip_suffix("_file").and_then(find)
            && KEYS[index].has_file_variant()
        {
            return self.secret_in_file(index, &KEYS[index], entry, siblings);
        }
        if !self.problems.is_full() {
            let origin = self.source.at(entry.position);
            let hint = unknown(&entry.name, parent);
            self.problems
                .add(origin, path, format!("unknown key, {hint}"));
        }
    }

    fn value(&mut self, index: usize, key: &Key, node: Rc<Node>) {
        let mut reading = Reading {
            key: key.path.to_owned(),
            notation: Notation::File,
            secret: key.secret,
            word: None,
            source: self.source.clone(),
            problems: self.problems,
            read_file: self.read_file,
        };
        if key.read(&mut reading, &node, self.config) {
            let origin = self.source.at(node.position);
            self.found.push((index, origin));
        }
    }

    fn short_store(&mut self, node: &Rc<Node>) {
        let index = find("store.url").expect("the table has store.url");
        match &node.value {
            Value::Scalar(text) if text == "memory" => {
                self.value(index, &KEYS[index], Rc::clone(node));
            }
            _ => {
                let origin = self.source.at(node.position);
                let message =
                    "it should be memory, or a section such as { url: \"redis://redis:6379\" }";
                self.problems.add(origin, "store", message);
            }
        }
    }

    fn secret_in_file(&mut self, index: usize, key: &Key, entry: &Entry, siblings: &[Entry]) {
        let origin = self.source.at(entry.node.position);
        let path = format!("{}_file", key.path);
        if siblings.iter().any(|sibling| sibling.name == key.name()) {
            let message = format!("{} is given as well; one of the two", key.path);
            return self.problems.add(origin, path, message);
        }
        let Value::Scalar(file) = &entry.node.value else {
            let message = "it should be the path of a file";
            return self.problems.add(origin, path, message);
        };
        let file = Path::new(file);
        let text = secret_file(file, &path, &origin, self.read_file, self.problems);
        if let Some(text) = text {
            let node = Node::scalar(text, entry.node.position);
            self.value(index, key, Rc::new(node));
        }
    }

    /// A key given twice is a mistake in every map, known to us or not.
    fn duplicates(&mut self, node: &Node, path: &str) {
        match &node.value {
            Value::List(items) => {
                for (n, item) in items.iter().enumerate() {
                    self.duplicates(item, &format!("{path}[{n}]"));
                }
            }
            Value::Map(entries) => {
                let mut first = HashMap::new();
                for entry in entries {
                    let dot = if path.is_empty() { "" } else { "." };
                    let path = format!("{path}{dot}{}", entry.name);
                    let earlier = *first.entry(&entry.name).or_insert(entry.position);
                    if earlier != entry.position {
                        let origin = self.source.at(entry.position);
                        let message = format!("given twice, first in line {}", earlier.line);
                        self.problems.add(origin, &path, message);
                    }
                    self.duplicates(&entry.node, &path);
                }
            }
            Value::Null | Value::Scalar(_) => {}
        }
    }
}

/// The names that may follow `path`; none when it is no section.
fn names_under(path: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in KEYS.iter() {
        let rest = match path {
            "" => Some(key.path),
            _ => key
                .path
                .strip_prefix(path)
                .and_then(|rest| rest.strip_prefix('.')),
        };
        let name = rest.and_then(|rest| rest.split('.').next());
        if let Some(name) = name
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// Keys of earlier versions, and what says the same.
const REMOVED: &[(&str, &str)] = &[("recycle.strict", "`ceiling: 1` says the same")];

/// What was probably meant by an unknown name.
fn unknown(name: &str, parent: &str) -> String {
    let removed = REMOVED.iter().find(|(path, _)| {
        let place = path.strip_suffix(name).and_then(|it| it.strip_suffix('.'));
        place == Some(parent)
    });
    if let Some((_, instead)) = removed {
        return format!("{instead}; it was removed");
    }
    let here = names_under(parent);
    if let Some(meant) = nearest(name, here.iter().copied()) {
        return format!("did you mean {meant}?");
    }
    // Right name, wrong place: one level too high or in another section.
    let elsewhere = KEYS
        .iter()
        .find(|key| key.name() == name || key.path == name);
    match elsewhere {
        Some(key) => format!("did you mean {}?", key.path),
        None if name == "<<" => "merge keys are not supported".to_owned(),
        None => format!("known here: {}", here.join(", ")),
    }
}
