//! The file as a layer: walks its tree along the table of keys and reads what it finds.

use super::draft::{Draft, Layer, Source};
use super::forms::Notation;
use super::key::Table;
use super::problems::nearest;
use super::yaml::{Entry, Node, Value, parse};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// A file's text.
pub struct File<'a> {
    /// How messages call it.
    pub name: &'a str,
    pub text: &'a str,
}

impl<C> Layer<C> for File<'_> {
    fn apply(&self, draft: &mut Draft<'_, C>) {
        let name: Arc<str> = self.name.into();
        let source = Source::File(name);
        match parse(self.text) {
            Ok(None) => {}
            Ok(Some(root)) => {
                let mut walk = Walk { source, draft };
                walk.duplicates(&root, "");
                walk.section(&root, "");
            }
            Err(error) => {
                let message = format!("not YAML: {}", error.message);
                draft.problems.add(source.at(error.position), "", message);
            }
        }
    }
}

struct Walk<'a, 'd, C: 'static> {
    source: Source,
    draft: &'a mut Draft<'d, C>,
}

impl<C> Walk<'_, '_, C> {
    /// Reads what is under `path`, which is not itself a key.
    fn section(&mut self, node: &Node, path: &str) {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            // All its keys commented out.
            Value::Null => return,
            _ => {
                let names = self.draft.table.names_under(path).join(", ");
                let message = format!("it should be a section with {names}");
                let origin = self.source.at(node.position);
                return self.draft.problems.add(origin, path, message);
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
        let table = self.draft.table;
        if let Some(index) = table.find(&path) {
            return self.value(index, &entry.node);
        }
        if let Value::Scalar(_) = entry.node.value
            && let Some(index) = table.short(&path)
        {
            return self.value(index, &entry.node);
        }
        if !table.names_under(&path).is_empty() {
            return self.section(&entry.node, &path);
        }
        if let Some(index) = path.strip_suffix("_file").and_then(|key| table.find(key))
            && table[index].has_file_variant()
        {
            return self.secret_in_file(index, entry, siblings);
        }
        if !self.draft.problems.is_full() {
            let origin = self.source.at(entry.position);
            let removed = table.removed.iter().find(|(removed, _)| *removed == path);
            let message = match removed {
                Some((_, instead)) => format!("removed, write {instead}"),
                None => format!("unknown key, {}", hint(table, &entry.name, parent)),
            };
            self.draft.problems.add(origin, path, message);
        }
    }

    fn value(&mut self, index: usize, node: &Node) {
        self.draft.value(index, node, Notation::File, &self.source);
    }

    fn secret_in_file(&mut self, index: usize, entry: &Entry, siblings: &[Entry]) {
        let key = &self.draft.table[index];
        let origin = self.source.at(entry.node.position);
        let path = format!("{}_file", key.path);
        if siblings.iter().any(|sibling| sibling.name == key.name()) {
            let message = format!("{} is given as well; one of the two", key.path);
            return self.draft.problems.add(origin, path, message);
        }
        let Value::Scalar(file) = &entry.node.value else {
            let message = "it should be the path of a file";
            return self.draft.problems.add(origin, path, message);
        };
        if let Some(text) = self.draft.secret(Path::new(file), &path, &origin) {
            self.value(index, &Node::scalar(text, entry.node.position));
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
                        self.draft.problems.add(origin, &path, message);
                    }
                    self.duplicates(&entry.node, &path);
                }
            }
            Value::Null | Value::Scalar(_) => {}
        }
    }
}

/// What was probably meant by an unknown name.
fn hint<C: 'static>(table: &Table<C>, name: &str, parent: &str) -> String {
    let here = table.names_under(parent);
    if let Some(meant) = nearest(name, here.iter().copied()) {
        return format!("did you mean {meant}?");
    }
    // Right name, wrong place: one level too high or in another section.
    let elsewhere = table
        .iter()
        .find(|key| key.name() == name || key.path == name);
    match elsewhere {
        Some(key) => format!("did you mean {}?", key.path),
        None if name == "<<" => "merge keys are not supported".to_owned(),
        None => format!("known here: {}", here.join(", ")),
    }
}
