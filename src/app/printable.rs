//! What others wrote, made fit for a terminal: worker ids, addresses and reasons come from Redis and
//! from whoever registered there, and a terminal obeys control characters. Pure.

use crate::logging;
use serde_json::Value;

/// With its control characters spelled out.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    logging::push_printable(&mut escaped, text);
    escaped
}

/// An answer with all its texts [escaped](escape), for tables and sentences.
pub fn escape_all(answer: Value) -> Value {
    match answer {
        Value::String(text) => Value::String(escape(&text)),
        Value::Array(items) => items.into_iter().map(escape_all).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields.map(|(key, it)| (key, escape_all(it))).collect()
        }
        other => other,
    }
}

/// JSON to be printed, which says the same to who parses it: a control character can stand within a
/// text only, and some may stand there as they are.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_control() && c != '\n' {
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_terminal_obeys_nobody_but_us() {
        for (written, printed) in [
            ("w-1", "w-1"),
            ("Jürgens 机", "Jürgens 机"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\u{9b}2Jb", "a\\u{9b}2Jb"),
            ("a\u{7f}\0", "a\\u{7f}\\u{0}"),
            ("one\r\ntwo\tthree", "one\\r\\ntwo\\tthree"),
        ] {
            assert_eq!(escape(written), printed);
            let answer = json!({ "workers": [{ "id": written, "active": 1 }] });
            let expected = json!({ "workers": [{ "id": printed, "active": 1 }] });
            assert_eq!(escape_all(answer.clone()), expected);
            let json = escape_json(&serde_json::to_string_pretty(&answer).unwrap());
            assert!(!json.chars().any(|c| c.is_control() && c != '\n'), "{json}");
            let parsed: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(parsed, answer);
        }
    }
}
