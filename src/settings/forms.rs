//! The forms a value can have: how a text becomes a typed value, what is allowed, and how the
//! value is written again. Knows no key.

use super::draft::Reading;
use super::problems::quoted;
use super::yaml::{Node, Value};
use serde_json::json;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a text comes from decides how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// Durations carry a unit, `true` is `true`.
    File,
    /// Environment and flags: a bare number is seconds, `1` and `yes` are true.
    Plain,
}

/// Whether secrets are shown when a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masking {
    Masked,
    /// What is written can be read again and gives the same configuration.
    Whole,
}

/// One form: what is allowed, and the way in and out.
pub struct Form<T> {
    /// Reads on after "should be": `a whole number from 1 to 10`.
    pub allowed: String,
    /// The same for editors, as a JSON Schema.
    pub schema: serde_json::Value,
    pub read: ReadForm<T>,
    pub show: ShowForm<T>,
}

type ReadForm<T> = Box<dyn Fn(&mut Reading<'_>, &Node) -> Option<T> + Send + Sync>;
type ShowForm<T> = Box<dyn Fn(&T, Masking) -> String + Send + Sync>;

/// A form of one scalar.
pub fn scalar<T: 'static>(
    allowed: impl Into<String>,
    parse: impl Fn(&str, Notation) -> Option<T> + Send + Sync + 'static,
    show: impl Fn(&T, Masking) -> String + Send + Sync + 'static,
) -> Form<T> {
    let allowed = allowed.into();
    let told = allowed.clone();
    Form {
        allowed,
        // What is written without quotes may be a number to an editor: a version, a port.
        schema: json!({ "type": ["string", "number"] }),
        read: Box::new(move |reading, node| {
            let text = reading.text(node, &told)?;
            let value = parse(text.trim(), reading.notation);
            if value.is_none() {
                let what = if reading.secret {
                    "the value".to_owned()
                } else {
                    quoted(text)
                };
                let message = match reading.word {
                    Some(word) => format!("{what} is neither {word} nor {told}"),
                    None => format!("{what} is not {told}"),
                };
                reading.wrong(node, message);
            }
            value
        }),
        show: Box::new(show),
    }
}

impl<T> Form<T> {
    fn with_schema(self, schema: serde_json::Value) -> Form<T> {
        Form { schema, ..self }
    }
}

/// `word` for `None`, anything else in the given form.
pub fn optional<T: 'static>(word: &'static str, form: Form<T>) -> Form<Option<T>> {
    let Form {
        allowed,
        schema,
        read,
        show,
    } = form;
    Form {
        allowed: format!("{word}, or {allowed}"),
        schema: json!({ "anyOf": [{ "const": word }, schema] }),
        read: Box::new(move |reading, node| match &node.value {
            Value::Scalar(text) if text.trim() == word => Some(None),
            _ => {
                reading.word = Some(word);
                read(reading, node).map(Some)
            }
        }),
        show: Box::new(move |value, masking| match value {
            Some(value) => show(value, masking),
            None => word.to_owned(),
        }),
    }
}

/// A whole number within a range.
pub fn number<T>(range: RangeInclusive<T>) -> Form<T>
where
    T: FromStr + PartialOrd + Display + serde::Serialize + Send + Sync + 'static,
{
    let allowed = format!("a whole number from {} to {}", range.start(), range.end());
    let schema = json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() });
    let form = scalar(
        allowed,
        move |text, _| text.parse().ok().filter(|n| range.contains(n)),
        |n: &T, _| n.to_string(),
    );
    form.with_schema(schema)
}

/// A number with a decimal point within a range.
pub fn decimal(range: RangeInclusive<f64>) -> Form<f64> {
    let allowed = format!("a number from {} to {}", range.start(), range.end());
    let schema = json!({ "type": "number", "minimum": range.start(), "maximum": range.end() });
    let form = scalar(
        allowed,
        move |text, _| text.parse().ok().filter(|n| range.contains(n)),
        |n: &f64, _| format!("{n:?}"),
    );
    form.with_schema(schema)
}

/// `true` or `false`; people write more than that into environments.
pub fn boolean() -> Form<bool> {
    let form = scalar(
        "true or false",
        |text, notation| match (notation, text.to_ascii_lowercase().as_str()) {
            (_, "true") | (Notation::Plain, "1" | "yes" | "on") => Some(true),
            (_, "false") | (Notation::Plain, "0" | "no" | "off") => Some(false),
            _ => None,
        },
        |value: &bool, _| value.to_string(),
    );
    form.with_schema(json!({ "type": "boolean" }))
}

/// A length of time within a range.
pub fn duration(range: RangeInclusive<Duration>) -> Form<Duration> {
    let allowed = format!(
        "a duration with its unit, such as 5s or 5m, from {} to {}",
        humantime::format_duration(*range.start()),
        humantime::format_duration(*range.end())
    );
    scalar(
        allowed,
        move |text, notation| {
            let seconds = (notation == Notation::Plain).then(|| text.parse::<f64>().ok());
            let value = match seconds.flatten() {
                Some(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
                None => humantime::parse_duration(text).ok()?,
            };
            range.contains(&value).then_some(value)
        },
        |value, _| humantime::format_duration(*value).to_string(),
    )
}

/// A number of bytes within a range.
pub fn size(range: RangeInclusive<u64>) -> Form<u64> {
    let allowed = format!(
        "a size such as 32KiB or 2GiB, from {} to {}",
        size_text(*range.start()),
        size_text(*range.end())
    );
    scalar(
        allowed,
        move |text, _| {
            let bytes = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
            range.contains(&bytes).then_some(bytes)
        },
        |bytes, _| size_text(*bytes),
    )
}

/// Exact, in the largest unit that leaves no fraction.
fn size_text(bytes: u64) -> String {
    for (unit, name) in [
        (1u64 << 40, "TiB"),
        (1u64 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ] {
        if bytes != 0 && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// One of a few names.
pub fn choice<T>(names: &'static [(&'static str, T)]) -> Form<T>
where
    T: Copy + PartialEq + Send + Sync + 'static,
{
    let list: Vec<_> = names.iter().map(|(name, _)| *name).collect();
    let schema = json!({ "enum": list });
    let form = scalar(
        format!("one of {}", list.join(", ")),
        move |text, notation| {
            let found = names.iter().find(|(name, _)| match notation {
                Notation::File => *name == text,
                Notation::Plain => name.eq_ignore_ascii_case(text),
            });
            found.map(|(_, value)| *value)
        },
        move |value: &T, _| {
            let found = names.iter().find(|(_, known)| known == value);
            // A plain 1.3 would be read back by others as a number.
            found.map_or_else(String::new, |(name, _)| yaml_text(name))
        },
    );
    form.with_schema(schema)
}

/// A text that cannot be empty.
pub fn text(allowed: &'static str) -> Form<String> {
    scalar(
        allowed,
        |text, _| (!text.is_empty()).then(|| text.to_owned()),
        |value, _| yaml_text(value),
    )
}

/// Another form's value as a different type.
pub fn mapped<A: 'static, B: 'static>(
    form: Form<A>,
    into: impl Fn(A) -> B + Send + Sync + 'static,
    back: impl Fn(&B) -> A + Send + Sync + 'static,
) -> Form<B> {
    let Form {
        allowed,
        schema,
        read,
        show,
    } = form;
    Form {
        allowed,
        schema,
        read: Box::new(move |reading, node| read(reading, node).map(&into)),
        show: Box::new(move |value, masking| show(&back(value), masking)),
    }
}

/// The path of `what`; whether something is there is for those to say who open it.
pub fn path(what: &'static str) -> Form<PathBuf> {
    mapped(text(what), PathBuf::from, |path: &PathBuf| {
        path.to_string_lossy().into_owned()
    })
}

/// A list of `items`; `item` reads and shows one of them.
pub fn list<T: 'static>(items: &str, item: Form<T>) -> Form<Vec<T>> {
    let Form {
        schema, read, show, ..
    } = item;
    let told = format!("a list of {items}");
    Form {
        allowed: told.clone(),
        schema: json!({ "type": "array", "items": schema }),
        read: Box::new(move |reading, node| {
            let Value::List(nodes) = &node.value else {
                let hint = format!("it should be {told}; write [] for none");
                reading.wrong(node, hint);
                return None;
            };
            let secret = reading.secret;
            let items: Vec<Option<T>> = nodes
                .iter()
                .enumerate()
                .map(|(n, node)| read(&mut reading.within(format_args!("[{n}]"), secret), node))
                .collect();
            items.into_iter().collect()
        }),
        show: Box::new(move |items, masking| {
            let items: Vec<_> = items.iter().map(|item| show(item, masking)).collect();
            format!("[{}]", items.join(", "))
        }),
    }
}

/// A text as YAML: plain where no reader can mistake it, else in double quotes.
pub fn yaml_text(text: &str) -> String {
    const WORDS: [&str; 9] = [
        "true", "false", "null", "yes", "no", "on", "off", "never", "none",
    ];
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let all_plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    if starts_plain && all_plain && !WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04X}", c as u32)),
            _ => out.push_str(&format!("\\U{:08X}", c as u32)),
        }
    }
    out.push('"');
    out
}
