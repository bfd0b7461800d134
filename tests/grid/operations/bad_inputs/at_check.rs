//! What `playhouse check` says.

use super::Row;
use crate::support::{Authority, FakePlaywright, Grid};
use std::process::Command;

/// Runs `playhouse check` on a file and some variables: its complaint, which has to be one.
fn check(yaml: &str, environment: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("playhouse.yaml");
    std::fs::write(&file, yaml).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_playhouse"))
        .arg("check")
        .arg("--config")
        .arg(&file)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let wrong = output.status.code() == Some(78);
    assert!(wrong, "{yaml}{environment:?}: {said}");
    assert!(output.stdout.is_empty(), "nothing is in force");
    said.replace(folder.path().to_str().unwrap(), "")
        .replace("/playhouse.yaml", "playhouse.yaml")
}

pub async fn configuration() -> Vec<Row> {
    let texts = [
        "queue: { timeout: 5 }",
        "queue: { timeout: 5 parsecs }",
        "queue: { timeout: -1s }",
        "limits: { max_concurrent_sessions: 0 }",
        "limits: { max_concurrent_sessions: many }",
        "limits: { max_header_bytes: 64 }",
        "limits: { max_conccurent_sessions: 5 }",
        "limit: { max_concurrent_sessions: 5 }",
        "limits: 5",
        "queue: { timeout: 5s, timeout: 6s }",
        "queue: { timeout: [ 5s ] }",
        "listen: 8080",
        "listen: 0.0.0.0:99999",
        "listen: 127.0.0.1:8081",
        "admin: { listen: 0.0.0.0:8081 }",
        "admin: { token_sha256: secret }",
        "store: { url: \"http://redis\" }",
        "selection: { strategy: random }",
        "selection: { default_browser: netscape }",
        "recycle: { ceiling: 0.5 }",
        "session: { ping_interval: 2m }",
        "worker: { heartbeat_interval: 30s }",
        "auth: { tokens: [ { name: ci } ] }",
        "auth: { tokens: [ { name: ci, sha256: 12 } ] }",
        "auth: { allowed_origins: [ \"example.com/page\" ] }",
        "workers: [ { browser: chromium } ]",
        "workers: [ { endpoint: \"http://10.0.0.5:3131/\", browser: chromium } ]",
        "workers: [ { endpoint: \"ws://user:secret@10.0.0.5:3131/\" } ]",
        "queue: { timeout: 5s",
        "[ a list ]",
        "queue: &a { timeout: 5s }\nlimits: *b",
        "log: !!python/object { level: info }",
        "log: { level: loud }",
        "log:\n\tlevel: info",
    ];
    let row = |text: &&str| Row {
        input: format!("`{}`", text.replace('\n', "⏎").replace('\t', "⇥")),
        answer: check(text, &[]),
    };
    texts.iter().map(row).collect()
}

pub async fn environment() -> Vec<Row> {
    let variables = [
        ("MAX_CONCURRENT_SESSIONS", "five"),
        ("WORKER_SELECT_TIMEOUT", "-5"),
        ("DEFAULT_BROWSER_TYPE", "opera"),
        ("LOG_LEVEL", "verbose"),
        ("LISTEN_ADDR", "everywhere"),
        ("REDIS_URL", "mysql://db"),
        ("REDIS_HOST", "redis/0?x"),
        ("PLAYHOUSE_AUTH_TOKENS", "[ { name: ci"),
        ("PLAYHOUSE_ADMIN_TOKEN_SHA256_FILE", "/nowhere/token"),
        ("SHUTDOWN_COMMAND_TTL", "3"),
    ];
    let row = |(name, value): &(&str, &str)| Row {
        input: format!("`{name}={value}`"),
        answer: check("", &[(name, value)]),
    };
    variables.iter().map(row).collect()
}

pub async fn tls() -> Vec<Row> {
    let authority = Authority::new();
    let folder = authority
        .file()
        .parent()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let good = authority.issue("good", 30);
    let expired = authority.issue("expired", -1);
    let other = authority.issue("other", 30);
    let file = |path: &std::path::Path| path.display().to_string();
    let pairs = [
        (file(&expired.cert), file(&expired.key)),
        (file(&good.cert), file(&other.key)),
        (format!("{folder}/nowhere.pem"), file(&good.key)),
        (file(&good.cert), format!("{folder}/nowhere.key")),
        (file(&good.key), file(&good.key)),
        (file(&good.cert), file(&good.cert)),
    ];
    let mut rows: Vec<Row> = pairs
        .iter()
        .map(|(cert, key)| {
            let yaml = format!("tls: {{ cert: \"{cert}\", key: \"{key}\" }}");
            Row {
                input: format!("`{}`", yaml.replace(&format!("{folder}/"), "")),
                answer: without_date(&check(&yaml, &[]).replace(&format!("{folder}/"), "")),
            }
        })
        .collect();
    for yaml in ["tls: { cert: good.pem }", "tls: { min_version: \"1.1\" }"] {
        rows.push(Row {
            input: format!("`{yaml}`"),
            answer: check(yaml, &[]),
        });
    }

    let fake = FakePlaywright::start().await;
    let grid = Grid::new()
        .fakes(&[&fake])
        .tls(&authority, &good)
        .env("PLAYHOUSE_TLS_MIN_VERSION", "1.3");
    let grid = grid.start().await;
    let plain =
        crate::support::raw(grid.address(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    rows.push(Row {
        input: "a plain HTTP request to a port that speaks TLS".to_owned(),
        answer: match plain.rsplit_once("\"message\":\"") {
            Some((_, message)) => {
                format!("{} {}", &plain[9..12], message.trim_end_matches("\"}"))
            }
            None => plain,
        },
    });
    let old = Command::new("openssl")
        .args([
            "s_client",
            "-tls1_2",
            "-connect",
            &grid.address().to_string(),
        ])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&old.stderr).into_owned();
    rows.push(Row {
        input: "a client of TLS 1.2 where `tls.min_version` is 1.3".to_owned(),
        answer: match said.contains("alert protocol version") || said.contains("alert handshake") {
            true => "a TLS alert, and the end of the connection".to_owned(),
            false => said,
        },
    });
    rows
}

/// A moment is not the same twice.
fn without_date(text: &str) -> String {
    match text.split_once("expired at ") {
        Some((before, _)) => format!("{before}expired at …"),
        None => text.to_owned(),
    }
}
