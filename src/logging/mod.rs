//! The process's log: JSON or text, one line an event, on standard error. Level and format change
//! while it runs. Whoever logs never waits for whoever reads: see [`sink`]. What is logged is up
//! to everybody else.

mod sink;

use crate::config::{Log, LogFormat};
use arc_swap::ArcSwapOption;
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Metadata, Record};
use sink::Sink;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Our own modules' targets begin so.
const OURS: &str = "playhouse";
/// Warns of each worker that becomes unhealthy. The fleet does, too, and says what it comes from.
const BALANCER: &str = "pingora_load_balancing";
/// How long the end of a process may wait for the last lines to be read.
const LAST_LINES: Duration = Duration::from_millis(500);

/// What is in force; `None` before [`init`].
static CURRENT: ArcSwapOption<Current> = ArcSwapOption::const_empty();
static LOGGER: Logger = Logger;
static STDOUT: Sink = Sink::new(libc::STDOUT_FILENO, |lines| format!("({lines} missing)\n"));
static STDERR: Sink = Sink::new(libc::STDERR_FILENO, dropped_line);

struct Current {
    level: LevelFilter,
    json: bool,
}

/// `log` takes one logger for ever; this one asks [`CURRENT`].
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let current = CURRENT.load();
        let level = current.as_ref().map(|it| it.level_of(metadata.target()));
        level.is_some_and(|level| metadata.level() <= level)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            STDERR.send(line(record));
        }
    }

    fn flush(&self) {
        STDERR.flush(LAST_LINES);
    }
}

impl Current {
    fn level_of(&self, target: &str) -> LevelFilter {
        let is = |module: &str| {
            let rest = target.strip_prefix(module);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        if is(OURS) {
            self.level
        } else if is(BALANCER) {
            self.level.min(LevelFilter::Error)
        } else {
            others(self.level)
        }
    }
}

/// Starts logging, panics included: their own way out waits for whoever reads.
pub fn init(log: &Log) {
    change(log);
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}

/// Changes level and format of the log. Takes effect with the next line of any thread.
pub fn change(log: &Log) {
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let level = log.level;
    CURRENT.store(Some(Arc::new(Current { level, json })));
    // Fails when it is already set, by an earlier call: then the swap above is all there is to do.
    let _already_ours = log::set_logger(&LOGGER);
    log::set_max_level(log.level);
}

/// Lines that nobody read in time, since the process started.
pub fn dropped_lines() -> u64 {
    STDERR.dropped()
}

/// A text for standard output, of a process that serves: it does not wait for whoever reads.
pub fn print(text: String) {
    STDOUT.send(text);
}

/// The last thing that a process says, on standard error, whether it logs or not.
pub fn final_line(text: &str) {
    STDERR.send(format!("{text}\n"));
    flush();
}

/// Gives what was logged and printed a moment to be read. Before every end of the process.
pub fn flush() {
    STDOUT.flush(LAST_LINES);
    STDERR.flush(LAST_LINES);
}

fn line(record: &Record<'_>) -> String {
    let json = CURRENT.load().as_ref().is_none_or(|current| current.json);
    let mut line = if json {
        json_line(SystemTime::now(), record)
    } else {
        text_line(SystemTime::now(), record)
    };
    line.push('\n');
    line
}

fn dropped_line(lines: u64) -> String {
    line(
        &Record::builder()
            .level(Level::Warn)
            .target(OURS)
            .key_values(&[("lines", lines)])
            .args(format_args!("nobody read the log: lines are missing"))
            .build(),
    )
}

/// How much the libraries below us may say: they tell at `info` what we tell ourselves, and below
/// that they write whole request heads, tokens included.
fn others(level: LevelFilter) -> LevelFilter {
    match level {
        LevelFilter::Trace | LevelFilter::Debug => LevelFilter::Info,
        level => level.min(LevelFilter::Warn),
    }
}

/// `{"ts":…,"level":…,"msg":…,…}`; the target only for lines that are not ours.
fn json_line(now: SystemTime, record: &Record<'_>) -> String {
    let mut line = format!(
        "{{\"ts\":\"{}\",\"level\":\"{}\"",
        humantime::format_rfc3339_millis(now),
        record.level().as_str().to_ascii_lowercase()
    );
    if !is_ours(record) {
        let _ = write!(line, ",\"target\":{}", json_text(record.target()));
    }
    let _ = write!(line, ",\"msg\":{}", json_text(&record.args().to_string()));
    visit(record, |key, value| {
        let reserved = ["ts", "level", "target", "msg"].contains(&key);
        let key = json_text(&format!("{key}{}", if reserved { "_" } else { "" }));
        let _ = write!(line, ",{key}:{}", json_value(value));
    });
    line.push('}');
    line
}

/// `2026-01-01T00:00:00.000Z INFO  what happened key=value`.
fn text_line(now: SystemTime, record: &Record<'_>) -> String {
    let mut line = format!(
        "{} {:<5} ",
        humantime::format_rfc3339_millis(now),
        record.level()
    );
    if !is_ours(record) {
        let _ = write!(line, "[{}] ", record.target());
    }
    push_printable(&mut line, &record.args().to_string());
    visit(record, |key, value| {
        let _ = write!(line, " {key}=");
        let text = value.to_string();
        let bare = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"');
        if bare {
            push_printable(&mut line, &text);
        } else {
            let _ = write!(line, "{text:?}");
        }
    });
    line
}

/// Adds a text with its control characters spelled out: whoever wrote it must not be able to write
/// lines of its own, or to steer a terminal.
pub fn push_printable(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

fn is_ours(record: &Record<'_>) -> bool {
    let rest = record.target().strip_prefix(OURS);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Numbers and truth values as such, all else as text.
fn json_value(value: &Value<'_>) -> String {
    let number = value.to_u64().map(serde_json::Value::from);
    let number = number.or_else(|| value.to_i64().map(Into::into));
    let number = number.or_else(|| value.to_bool().map(Into::into));
    let number = number.or_else(|| value.to_f64().map(Into::into));
    number.map_or_else(
        || json_text(&value.to_string()),
        |number| number.to_string(),
    )
}

fn visit(record: &Record<'_>, each: impl FnMut(&str, &Value<'_>)) {
    struct Each<F>(F);
    impl<'kvs, F: FnMut(&str, &Value<'_>)> VisitSource<'kvs> for Each<F> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            (self.0)(key.as_str(), &value);
            Ok(())
        }
    }
    // Only the visitor can fail, and this one does not.
    let _infallible = record.key_values().visit(&mut Each(each));
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;
    use log::kv::Source;

    fn record<'a>(
        target: &'a str,
        message: std::fmt::Arguments<'a>,
        pairs: &'a dyn Source,
    ) -> Record<'a> {
        Record::builder()
            .args(message)
            .level(Level::Info)
            .target(target)
            .key_values(pairs)
            .build()
    }

    const PAIRS: &[(&str, &str)] = &[("worker", "chromium:a"), ("msg", "x\ny")];

    #[test]
    fn a_json_line_is_one_object() {
        let line = json_line(
            SystemTime::UNIX_EPOCH,
            &record("playhouse::proxy", format_args!("a \"b\"\n"), &PAIRS),
        );
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            object,
            serde_json::json!({
                "ts": "1970-01-01T00:00:00.000Z", "level": "info", "msg": "a \"b\"\n",
                "worker": "chromium:a", "msg_": "x\ny",
            })
        );
        assert!(!line.contains('\n'));
        let numbers = [("n", Value::from(3)), ("up", Value::from(true))];
        let line = json_line(
            SystemTime::UNIX_EPOCH,
            &record("redis", format_args!("m"), &numbers),
        );
        assert!(
            line.ends_with(r#""target":"redis","msg":"m","n":3,"up":true}"#),
            "{line}"
        );
    }

    #[test]
    fn a_text_line_is_one_line() {
        let line = text_line(
            SystemTime::UNIX_EPOCH,
            &record("playhouse", format_args!("seated\u{1b}[31m"), &PAIRS),
        );
        assert_eq!(
            line,
            r#"1970-01-01T00:00:00.000Z INFO  seated\u{1b}[31m worker=chromium:a msg="x\ny""#
        );
    }

    #[test]
    fn libraries_stay_quiet_until_somebody_debugs() {
        assert_eq!(others(LevelFilter::Info), LevelFilter::Warn);
        assert_eq!(others(LevelFilter::Error), LevelFilter::Error);
        assert_eq!(others(LevelFilter::Off), LevelFilter::Off);
        assert_eq!(others(LevelFilter::Debug), LevelFilter::Info);
        assert_eq!(others(LevelFilter::Trace), LevelFilter::Info);
    }
}
