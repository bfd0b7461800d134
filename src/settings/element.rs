//! The declaration of a list's elements, and the reading of their fields.

use super::draft::{Reading, secret_in_file};
use super::forms::Form;
use super::problems::nearest;
use super::yaml::{Node, Value};
use std::collections::HashMap;
use std::path::Path;

/// Declares what the elements of a list are: a struct, and a function that makes its form.
///
/// A field is declared as `name: Type, form;`, or `name: Type = default, form;` if it may be left
/// out. `secret` at the end keeps its value out of messages and lets `name_file` name a file that
/// holds it.
macro_rules! element {
    (
        $(#[$meta:meta])*
        pub struct $Element:ident, $form_name:ident
        $(
            $(#[doc = $doc:literal])+
            $name:ident: $Type:ty $(= $default:expr)?, $form:expr $(, $secret:ident)?;
        )+
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq)]
        pub struct $Element {
            $( $(#[doc = $doc])+ pub $name: $Type, )+
        }

        /// How one of them is written.
        pub fn $form_name() -> $crate::settings::Form<$Element> {
            use $crate::settings::{Fields, Form, Masking, Node, Reading};
            const NAMES: &[(&str, bool)] = &[
                $( (stringify!($name), false $(|| { let $secret = true; $secret })?), )+
            ];
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            let mut properties = serde_json::Map::new();
            $( properties.insert(stringify!($name).to_owned(), { let form: Form<$Type> = $form; form.schema }); )+
            Form {
                allowed: format!("{{ {} }}", names.join(", ")),
                schema: serde_json::json!({
                    "type": "object", "properties": properties, "additionalProperties": false,
                }),
                read: Box::new(|reading: &mut Reading<'_>, node: &Node| {
                    let fields = Fields::of(reading, node, NAMES)?;
                    $(
                        let default = None::<$Type> $(.or(Some($default)))?;
                        let $name = fields.read(reading, stringify!($name), &$form, default);
                    )+
                    Some($Element { $( $name: $name?, )+ })
                }),
                show: Box::new(|element: &$Element, masking: Masking| {
                    let fields: Vec<String> = vec![$({
                        let form: Form<$Type> = $form;
                        format!("{}: {}", stringify!($name), (form.show)(&element.$name, masking))
                    }),+];
                    format!("{{ {} }}", fields.join(", "))
                }),
            }
        }

        impl std::fmt::Debug for $Element {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                use $crate::settings::Masking::Masked;
                f.write_str(&($form_name().show)(self, Masked))
            }
        }
    };
}
pub(crate) use element;

/// The entries of one element of a list.
pub struct Fields<'n> {
    entries: Vec<(&'n str, &'n Node)>,
    /// Names, and whether each is a secret.
    known: &'static [(&'static str, bool)],
    node: &'n Node,
}

impl<'n> Fields<'n> {
    /// Notes what is no section, and names that are not known.
    pub fn of(
        reading: &mut Reading<'_>,
        node: &'n Node,
        known: &'static [(&'static str, bool)],
    ) -> Option<Self> {
        let names: Vec<String> = known
            .iter()
            .flat_map(|(name, secret)| {
                let in_file = secret.then(|| format!("{name}_file"));
                std::iter::once((*name).to_owned()).chain(in_file)
            })
            .collect();
        let Value::Map(entries) = &node.value else {
            let names = names.join(", ");
            reading.wrong(node, format!("it should be a section with {names}"));
            return None;
        };
        for entry in entries {
            let name = &entry.name;
            if names.contains(name) {
                continue;
            }
            let hint = match nearest(name, names.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("known here: {}", names.join(", ")),
            };
            let origin = reading.source.at(entry.position);
            let key = format!("{}.{name}", reading.key);
            let message = format!("unknown key, {hint}");
            reading.problems.add(origin, key, message);
        }
        let entries = entries.iter().map(|e| (e.name.as_str(), &e.node));
        Some(Fields {
            entries: entries.collect(),
            known,
            node,
        })
    }

    fn find(&self, name: &str) -> Option<&'n Node> {
        let found = self.entries.iter().find(|(known, _)| *known == name);
        found.map(|(_, node)| *node)
    }

    /// A field's value; a field that is left out and has no default is noted as missing.
    pub fn read<T>(
        &self,
        reading: &mut Reading<'_>,
        name: &str,
        form: &Form<T>,
        default: Option<T>,
    ) -> Option<T> {
        let secret = self.known.contains(&(name, true));
        let file_name = format!("{name}_file");
        let file = self.find(&file_name).filter(|_| secret);
        match (self.find(name), file) {
            (Some(_), Some(file)) => {
                reading.wrong(file, format!("{name} and {file_name} exclude each other"));
                None
            }
            (Some(node), None) => {
                let mut reading = reading.within(format_args!(".{name}"), secret);
                (form.read)(&mut reading, node)
            }
            (None, Some(file)) => {
                let mut reading = reading.within(format_args!(".{file_name}"), true);
                let path = reading.text(file, "the path of a file")?;
                match secret_in_file(Path::new(path), reading.read_file) {
                    Ok(text) => (form.read)(&mut reading, &Node::scalar(text, file.position)),
                    Err(message) => {
                        reading.wrong(file, message);
                        None
                    }
                }
            }
            (None, None) => {
                if default.is_none() {
                    let mut reading = reading.within(format_args!(".{name}"), secret);
                    let allowed = &form.allowed;
                    reading.wrong(self.node, format!("missing; it should be {allowed}"));
                }
                default
            }
        }
    }
}

/// Refuses two elements that agree in one of the given properties.
pub fn unique<T: 'static, const N: usize>(
    form: Form<Vec<T>>,
    properties: impl Fn(&T) -> [(&'static str, String); N] + Send + Sync + 'static,
) -> Form<Vec<T>> {
    let read_all = form.read;
    let read = move |reading: &mut Reading<'_>, node: &Node| {
        let items = read_all(reading, node)?;
        let Value::List(nodes) = &node.value else {
            return Some(items);
        };
        let mut seen = HashMap::new();
        let mut distinct = true;
        for (n, (item, node)) in items.iter().zip(nodes).enumerate() {
            for (name, value) in properties(item) {
                if let Some(first) = seen.insert((name, value), n) {
                    distinct = false;
                    let key = &reading.key.clone();
                    let mut reading = reading.within(format_args!("[{n}].{name}"), true);
                    reading.wrong(node, format!("the same as that of {key}[{first}]"));
                }
            }
        }
        distinct.then_some(items)
    };
    Form {
        read: Box::new(read),
        ..form
    }
}
