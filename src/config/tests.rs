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
    sources.load_with(&|path| files(path, "conf.yaml", text))
}

/// The files there are in these tests: the configuration, and two secrets.
fn files(path: &Path, name: &str, text: &str) -> std::io::Result<String> {
    match path.to_str() {
        Some("/run/secrets/password") => Ok("hunter2 s3 cret\n".to_owned()),
        Some("/run/secrets/hash") => Ok(format!("{}\n", "ab".repeat(32))),
        Some(path) if path == name => Ok(text.to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}

/// The configuration as YAML that reads back as the same: secrets included.
fn to_yaml(config: &Config) -> String {
    show::sections(|out, key, indent| {
        let value = key.show(config, crate::settings::Masking::Whole);
        out.push_str(&format!("{indent}{}: {value}\n", key.name()));
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
    let missing: Vec<_> = KEYS
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

/// The fixtures of one folder: name, text, and what its first lines ask for (`# role: worker`,
/// `# env: NAME=value`).
fn fixtures(folder: &str) -> Vec<(String, String, Sources)> {
    let folder = repository("tests/fixtures/config").join(folder);
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let directive = |name: &'static str| {
                let lines = text.lines();
                lines.filter_map(move |line| line.strip_prefix("# ")?.strip_prefix(name))
            };
            let mut sources = sources(match directive("role: ").next() {
                Some("worker") => Role::Worker,
                Some("up") => Role::Up,
                _ => Role::Proxy,
            });
            sources.environment = directive("env: ")
                .map(|pair| pair.split_once('=').unwrap())
                .collect();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            sources.file = Some(PathBuf::from(&name));
            (name, text, sources)
        })
        .collect();
    assert!(!found.is_empty(), "no fixtures in {}", folder.display());
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

/// What stands beside a fixture is what it must give, word for word. `PLAYHOUSE_REWRITE=1`
/// writes it anew.
fn compare(folder: &str, give: impl Fn(Result<Loaded, ConfigErrors>) -> String) {
    let mut wrong = Vec::new();
    for (name, text, sources) in fixtures(folder) {
        let given = give(sources.load_with(&|path| files(path, &name, &text)));
        let beside = repository("tests/fixtures/config")
            .join(folder)
            .join(name.replace(".yaml", ".expected"));
        if std::env::var_os("PLAYHOUSE_REWRITE").is_some() {
            std::fs::write(&beside, &given).unwrap();
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        if given != expected {
            wrong.push(format!(
                "{name} gives\n{given}\nand should give\n{expected}"
            ));
        }
        // Every secret of the fixtures has this in it.
        assert!(
            !given.contains("hunter2"),
            "{name} shows a secret:\n{given}"
        );
        assert!(
            !given.contains("capability"),
            "{name} shows a path:\n{given}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_invalid_fixture_says_what_is_wrong() {
    compare("invalid", |loaded| match loaded {
        Ok(_) => "no mistakes\n".to_owned(),
        Err(errors) => format!("{errors}\n"),
    });
}

/// Only what differs from the defaults, with where it comes from.
#[test]
fn every_valid_fixture_gives_its_values() {
    compare("valid", |loaded| match loaded {
        Ok(loaded) => {
            let set = loaded.settings().into_iter();
            let set = set.filter(|setting| setting.source != "default");
            set.map(|s| format!("{}: {} ({})\n", s.key, s.value, s.source))
                .collect()
        }
        Err(errors) => format!("mistakes:\n{errors}\n"),
    });
}

mod properties;

#[test]
fn flags_are_above_the_environment_above_the_file_above_the_defaults() {
    let mut sources = sources(Role::Up);
    assert_eq!(sources.load().unwrap().config, Config::defaults(Role::Up));
    sources.file = Some("conf.yaml".into());
    let text = "listen: 127.0.0.1:1\nqueue: { timeout: 1s }\nlog: { level: warn }\n";
    sources.environment = [
        ("LISTEN_ADDR", "127.0.0.1:2"),
        ("WORKER_SELECT_TIMEOUT", "2"),
    ]
    .into_iter()
    .collect();
    sources.flags = Flags::default().with("--listen", "listen", &Some("127.0.0.1:3".into()));
    let loaded = sources.load_with(&|path| files(path, "conf.yaml", text));
    let loaded = loaded.unwrap();
    assert_eq!(loaded.config.listen.port(), 3);
    assert_eq!(loaded.config.queue.timeout.as_secs(), 2);
    assert_eq!(loaded.config.log.level, log::LevelFilter::Warn);
    let from = |key| loaded.origin(key).unwrap().to_string();
    assert_eq!(from("listen"), "--listen");
    assert_eq!(from("queue.timeout"), "environment WORKER_SELECT_TIMEOUT");
    assert_eq!(from("log.level"), "conf.yaml:3:15");
    assert_eq!(from("store.url"), "default");
}

#[test]
fn secrets_appear_neither_in_debug_nor_in_what_check_prints() {
    let hash = "5e".repeat(32);
    let text = format!(
        "store: {{ url: redis://:hunter2@redis }}\nadmin: {{ token_sha256: {hash} }}\n\
         auth: {{ tokens: [ {{ name: ci, sha256: {hash} }} ] }}\n\
         workers: [ {{ endpoint: ws://10.0.0.5:3131/capability }} ]\n"
    );
    let loaded = load(Role::Proxy, &text, &[("REDIS_PASSWORD", "hunter3")]).unwrap();
    let settings = format!("{:?}", loaded.settings());
    for shown in [format!("{loaded:?}"), loaded.effective(), settings] {
        for secret in ["hunter2", "hunter3", "5e5e", "94, 94", "capability"] {
            assert!(!shown.contains(secret), "{secret} is in {shown}");
        }
    }
    let whole = to_yaml(&loaded.config);
    assert!(whole.contains("redis://:hunter2@redis"), "{whole}");
}

/// Kubernetes, compose files and shells set more than we know; only near misses are told.
#[test]
fn a_misspelt_variable_is_a_warning() {
    let variables = [
        ("PLAYHOUSE_LIMITS_MAX_CONCURENT_SESSIONS", "5"),
        ("PLAYHOUSE_SERVICE_HOST", "10.0.0.1"),
        ("PLAYHOUSE_PORT", "tcp://10.0.0.1:8080"),
        ("PLAYHOUSE_CONFIG", "x"),
    ];
    let loaded = load(Role::Proxy, "", &variables).unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "environment PLAYHOUSE_LIMITS_MAX_CONCURENT_SESSIONS means nothing here; \
             is it PLAYHOUSE_LIMITS_MAX_CONCURRENT_SESSIONS?"
        ]
    );
}

#[test]
fn the_table_agrees_with_itself() {
    let mut names: Vec<String> = Vec::new();
    for key in KEYS.iter() {
        assert!(key.doc.ends_with(['.', ']']), "{}: {}", key.path, key.doc);
        assert!(!key.allowed.is_empty());
        names.push(key.variable.clone());
        // `PLAYHOUSE_BROWSER_PATH` and the like are promised beside the derived names.
        names.extend(key.aliases.iter().map(|alias| (*alias).to_owned()));
    }
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "a variable sets two keys");
    let hot = [
        "limits",
        "selection",
        "queue",
        "session",
        "recycle",
        "auth",
        "workers",
        "pools",
        "log",
    ];
    for key in KEYS.iter() {
        assert_eq!(
            key.hot,
            hot.contains(&key.section().unwrap_or(key.path)),
            "{}",
            key.path
        );
    }
}

#[test]
fn the_schema_knows_every_key_and_takes_the_shipped_file() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    for key in KEYS.iter() {
        let mut node = &schema;
        for step in key.path.split('.') {
            let section = node.get("anyOf").map_or(node, |ways| &ways[1]);
            node = &section["properties"][step];
        }
        let text = node["description"].as_str().unwrap_or_default();
        assert!(text.starts_with(&key.doc), "{}: {node}", key.path);
    }
    let limits = &schema["properties"]["limits"];
    assert_eq!(limits["additionalProperties"], false);
    assert_eq!(
        limits["properties"]["max_lifetime_sessions"]["type"],
        "integer"
    );
    let browser = &schema["properties"]["selection"]["properties"]["default_browser"];
    assert_eq!(browser["enum"][2], "webkit");
}
