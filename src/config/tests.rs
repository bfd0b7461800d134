//! The configuration from the outside: the shipped file, the fixtures, and what holds for all.

use super::*;
use std::path::{Path, PathBuf};

fn sources(role: Role) -> Sources {
    Sources {
        role,
        file: None,
        environment: Environment::default(),
        flags: Flags::default(),
    }
}

/// Loads a text as the file `conf.yaml`.
fn load(role: Role, text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let mut sources = sources(role);
    sources.file = Some("conf.yaml".into());
    sources.environment = variables.iter().copied().collect();
    sources.load_with(&|path| match path.to_str() {
        Some("conf.yaml") => Ok(text.to_owned()),
        Some("/run/secrets/password") => Ok("s3 cret\n".to_owned()),
        Some("/run/secrets/hash") => Ok(format!("{}\n", "ab".repeat(32))),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    })
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `PLAYHOUSE_REWRITE=1 cargo test shipped_file` writes it anew.
#[test]
fn the_shipped_file_is_the_table() {
    let path = repository("conf/playhouse.yaml");
    if std::env::var_os("PLAYHOUSE_REWRITE").is_some() {
        std::fs::write(&path, documented()).unwrap();
    }
    let shipped = std::fs::read_to_string(&path).unwrap();
    assert!(
        shipped == documented(),
        "conf/playhouse.yaml is not what the table of keys says; rewrite it with \
         PLAYHOUSE_REWRITE=1 cargo test shipped_file"
    );
    let loaded = load(Role::Proxy, &shipped, &[]).unwrap();
    assert_eq!(loaded.config, Config::defaults(Role::Proxy));
    let missing: Vec<_> = keys::KEYS
        .iter()
        .filter(|key| loaded.origin(key.path) == Some(&Origin::Default))
        .map(|key| key.path)
        .collect();
    assert_eq!(missing, [""; 0], "every key is in the file");
}

#[test]
fn the_contracts_example_loads() {
    let text = r#"
listen: 0.0.0.0:8080
admin: { listen: 127.0.0.1:8081 }
store: { url: "redis://redis:6379" }          # or memory
limits: { max_concurrent_sessions: 5, max_lifetime_sessions: 50 }
selection: { strategy: lifetime_first, default_browser: chromium }
queue: { timeout: 5s, max_waiting: 1000 }
session: { idle_timeout: never, max_duration: never, drain_timeout: 5m }
recycle: { mode: make_before_break }
auth: { tokens: [ { name: ci, sha256: "abababababababababababababababababababababababababababababababab", max_sessions: 20 } ] }
workers: [ { endpoint: "ws://10.0.0.5:3131/path", browser: chromium, version: "1.65" } ]
log: { level: info, format: json }
"#;
    let config = load(Role::Proxy, text, &[]).unwrap().config;
    assert_eq!(config.store.url.as_deref(), Some("redis://redis:6379"));
    assert_eq!(config.auth.tokens[0].max_sessions, Some(20));
    assert_eq!(config.workers[0].endpoint.port, 3131);
    assert_eq!(config.log.format, LogFormat::Json);
    let memory = load(Role::Proxy, "store: memory", &[]).unwrap().config;
    assert_eq!(memory, Config::defaults(Role::Proxy));
}
