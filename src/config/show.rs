//! The configuration written out: the effective one for `playhouse check`, and the documented
//! one that is shipped as `conf/playhouse.yaml`.

use super::load::Loaded;
use super::model::{Config, KEYS, Role};
use crate::settings::{Key, Masking, json_schema};
use std::fmt::Write;

/// Widest line of a comment.
const WIDTH: usize = 100;
/// Column at which the origin of a value stands.
const ORIGIN_COLUMN: usize = 44;

impl Loaded {
    /// The effective configuration as YAML, secrets masked, each key with where it comes from.
    pub fn effective(&self) -> String {
        sections(|out, key, indent| {
            let origin = self.origin(key.path);
            let origin = origin.map_or_else(String::new, |origin| origin.to_string());
            let value = key.show(&self.config, Masking::Masked);
            let line = format!("{indent}{}: {value}", key.name());
            let _ = writeln!(out, "{line:<ORIGIN_COLUMN$} # {origin}");
        })
    }
}

/// Every key with its default, what it means, what is allowed, and whether it is hot.
pub fn documented() -> String {
    let defaults = Config::defaults(Role::Proxy);
    let mut out = String::from(HEADER);
    out.push_str(&sections(|out, key, indent| {
        if !out.ends_with(":\n") {
            out.push('\n');
        }
        wrap(out, indent, &key.doc);
        let effect = if key.hot { "Hot" } else { "Restart" };
        let mut about = format!("{effect}; {}.", key.allowed);
        if !key.aliases.is_empty() {
            about.push_str(&format!(" Also {}.", key.aliases.join(", ")));
        }
        wrap(out, indent, &about);
        for example in &key.examples {
            let _ = writeln!(out, "{indent}#   {example}");
        }
        let value = key.show(&defaults, Masking::Whole);
        let _ = writeln!(out, "{indent}{}: {value}", key.name());
    }));
    out
}

/// The file as a JSON Schema: point an editor's YAML language server at it.
pub fn schema() -> String {
    let schema = json_schema(&KEYS, "Playhouse's configuration");
    serde_json::to_string_pretty(&schema).expect("a JSON value can be written")
}

const HEADER: &str = "\
# Playhouse's configuration: every key with its default. Leave out what you do not change.
#
# Precedence: flag > environment > this file > default. `playhouse check -c FILE` tells all
# mistakes at once and prints what is in force.
#
# Hot: a running process follows within a second of a change of this file, or at SIGHUP, and no
# open session is touched. Restart: read at start only; a change is logged and waits.
#
# Every key has a variable: limits.max_header_bytes is PLAYHOUSE_LIMITS_MAX_HEADER_BYTES. Names
# after \"Also\" below mean the same. Variables of lists hold YAML or JSON.
#
# Durations carry a unit here (500ms, 5s, 5m, 1h, 1day); in the environment a bare number is in
# seconds. Sizes: B, KiB, MiB, GiB. Secrets can be read from files: store.url_file and
# admin.token_sha256_file here, …_FILE in the environment, PLAYHOUSE_AUTH_TOKENS_FILE too. Redis can
# also be given as REDIS_HOST, REDIS_PORT, REDIS_PASSWORD (or REDIS_PASSWORD_FILE) and REDIS_TLS.
# Relative paths start at the working directory.
";

/// Writes all keys, each under its section's name.
pub(super) fn sections(mut write: impl FnMut(&mut String, &Key<Config>, &str)) -> String {
    let mut out = String::new();
    let mut section = "";
    for key in KEYS.iter() {
        let Some(its_section) = key.section() else {
            section = "";
            write(&mut out, key, "");
            continue;
        };
        if its_section != section {
            section = its_section;
            let _ = write!(out, "\n{section}:\n");
        }
        write(&mut out, key, "  ");
    }
    out
}

/// A comment, broken at words.
fn wrap(out: &mut String, indent: &str, text: &str) {
    let mut line = format!("{indent}#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = format!("{indent}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}
