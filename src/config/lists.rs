//! The forms of the list keys: tenants' tokens, static workers, origins.

use super::form::{
    Form, Masking, Reading, choice, list, number, optional, scalar, text, yaml_text,
};
use super::keys::BROWSERS;
use super::model::{StaticWorker, Token};
use super::problems::nearest;
use super::yaml::{Node, Value};
use crate::model::{Browser, Endpoint, Version};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::Path;

/// A tenant that does not say gets one turn in the queue for each turn of the others.
const TOKEN_PRIORITY: u32 = 1;
/// Enough to prefer one tenant clearly, small enough that no tenant waits for ever.
const MAX_PRIORITY: u32 = 100;
/// Beyond what any grid holds.
const MAX_QUOTA: u32 = 1_000_000;

/// `auth.tokens`.
pub fn tokens() -> Form<Vec<Token>> {
    const NAMES: &[&str] = &["name", "sha256", "sha256_file", "max_sessions", "priority"];
    let name = || text("a name for the logs");
    let quota = || optional("none", number(1..=MAX_QUOTA));
    let priority = || number(1..=MAX_PRIORITY);
    let token = Form {
        allowed: "{ name, sha256, max_sessions, priority }".to_owned(),
        read: Box::new(move |reading: &mut Reading<'_>, node: &Node| {
            let fields = Fields::of(reading, node, NAMES)?;
            let name = fields.required(reading, "name", &name());
            let sha256 = hash(reading, &fields);
            let max_sessions = fields.or(reading, "max_sessions", &quota(), None);
            let priority = fields.or(reading, "priority", &priority(), TOKEN_PRIORITY);
            Some(Token {
                name: name?,
                sha256: sha256?,
                max_sessions: max_sessions?,
                priority: priority?,
            })
        }),
        show: Box::new(move |token, masking| {
            format!(
                "{{ name: {}, sha256: {}, max_sessions: {}, priority: {} }}",
                yaml_text(&token.name),
                digest_text(&token.sha256, masking),
                (quota().show)(&token.max_sessions, masking),
                (priority().show)(&token.priority, masking),
            )
        }),
    };
    unique(list("tokens, each with name and sha256", token), |token| {
        [
            ("name", token.name.clone()),
            ("sha256", digest_text(&token.sha256, Masking::Whole)),
        ]
    })
}

/// A token's hash, given as such or in a file of its own.
fn hash(reading: &mut Reading<'_>, fields: &Fields<'_>) -> Option<[u8; 32]> {
    match (fields.find("sha256"), fields.find("sha256_file")) {
        (Some(_), Some(file)) => {
            reading.wrong(file, "sha256 and sha256_file exclude each other");
            None
        }
        (None, Some(file)) => {
            let mut reading = reading.within(".sha256_file", false);
            let path = reading.text(file, "the path of a file")?;
            match (reading.read_file)(Path::new(path)) {
                Ok(text) => {
                    let parsed = digest_bytes(text.trim());
                    if parsed.is_none() {
                        reading.wrong(file, format!("what the file holds is not {DIGEST}"));
                    }
                    parsed
                }
                Err(error) => {
                    reading.wrong(file, format!("cannot read the file: {error}"));
                    None
                }
            }
        }
        _ => fields.required(reading, "sha256", &digest()),
    }
}

const DIGEST: &str =
    "the SHA-256 of a token, 64 hexadecimal digits (`playhouse token` makes a token and prints it)";

/// The SHA-256 of a secret.
pub fn digest() -> Form<[u8; 32]> {
    scalar(DIGEST, |text, _| digest_bytes(text), digest_text)
}

fn digest_bytes(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(bytes)
}

fn digest_text(bytes: &[u8; 32], masking: Masking) -> String {
    if masking == Masking::Masked {
        return "\"***\"".to_owned();
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// `workers`: Playwright servers without an agent.
pub fn static_workers() -> Form<Vec<StaticWorker>> {
    const NAMES: &[&str] = &["endpoint", "browser", "version"];
    let worker = Form {
        allowed: "{ endpoint, browser, version }".to_owned(),
        read: Box::new(move |reading: &mut Reading<'_>, node: &Node| {
            let fields = Fields::of(reading, node, NAMES)?;
            let endpoint = fields.required(reading, "endpoint", &endpoint());
            let browser = fields.or(reading, "browser", &choice(BROWSERS), Browser::Chromium);
            let version = fields.or(reading, "version", &version(), None);
            Some(StaticWorker {
                endpoint: endpoint?,
                browser: browser?,
                version: version?,
            })
        }),
        show: Box::new(move |worker, masking| {
            format!(
                "{{ endpoint: {}, browser: {}, version: {} }}",
                (endpoint().show)(&worker.endpoint, masking),
                (choice(BROWSERS).show)(&worker.browser, masking),
                (version().show)(&worker.version, masking),
            )
        }),
    };
    unique(list("workers, each with its endpoint", worker), |worker| {
        [("endpoint", worker.endpoint.to_string())]
    })
}

/// A worker's address; its path is a capability and is masked.
fn endpoint() -> Form<Endpoint> {
    scalar(
        "a worker's address such as ws://10.0.0.5:3131/path (ws or wss, no user, no password)",
        |text, _| text.parse().ok(),
        |endpoint: &Endpoint, masking| match masking {
            Masking::Whole => yaml_text(&endpoint.to_string()),
            Masking::Masked => {
                let scheme = if endpoint.tls { "wss" } else { "ws" };
                yaml_text(&format!("{scheme}://{}/***", endpoint.authority()))
            }
        },
    )
}

fn version() -> Form<Option<Version>> {
    let known = scalar(
        "a Playwright version in quotes such as \"1.65\"",
        |text, _| text.parse().ok(),
        |version: &Version, _| yaml_text(&version.to_string()),
    );
    optional("unknown", known)
}

/// `auth.allowed_origins`.
pub fn origins() -> Form<Vec<String>> {
    list(
        "origins",
        scalar(
            "an origin such as https://example.com, without a path",
            |text, _| {
                let url = url::Url::parse(text).ok()?;
                let origin = url.origin();
                let tuple = origin.is_tuple() && url.path() == "/" && !text.ends_with('/');
                (tuple && url.username().is_empty()).then(|| origin.ascii_serialization())
            },
            |origin: &String, _| yaml_text(origin),
        ),
    )
}

/// `auth.allowed_hosts`.
pub fn hosts() -> Form<Vec<String>> {
    list(
        "host names",
        scalar(
            "a host name such as grid.example.com, without a port",
            |text, _| {
                let name = text.to_ascii_lowercase();
                let known = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
                (!name.is_empty() && name.chars().all(known)).then_some(name)
            },
            |name: &String, _| yaml_text(name),
        ),
    )
}

/// `server.trusted_proxies`.
pub fn networks() -> Form<Vec<IpNet>> {
    list(
        "networks",
        scalar(
            "a network such as 10.0.0.0/8, or an address",
            |text, _| {
                let address = || text.parse::<IpAddr>().map(IpNet::from);
                text.parse().or_else(|_| address()).ok()
            },
            |network: &IpNet, _| yaml_text(&network.to_string()),
        ),
    )
}

/// The entries of one element of a list.
struct Fields<'n> {
    entries: Vec<(&'n str, &'n Node)>,
    node: &'n Node,
}

impl<'n> Fields<'n> {
    fn of(reading: &mut Reading<'_>, node: &'n Node, known: &[&'static str]) -> Option<Self> {
        let names = known.join(", ");
        let Value::Map(entries) = &node.value else {
            reading.wrong(node, format!("it should be a section with {names}"));
            return None;
        };
        for entry in entries {
            if !known.contains(&entry.name.as_str()) {
                let hint = match nearest(&entry.name, known.iter().copied()) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => format!("known here: {names}"),
                };
                let origin = reading.source.at(entry.position);
                let key = format!("{}.{}", reading.key, entry.name);
                reading
                    .problems
                    .add(origin, key, format!("unknown key, {hint}"));
            }
        }
        let entries = entries.iter().map(|e| (e.name.as_str(), &*e.node));
        Some(Fields {
            entries: entries.collect(),
            node,
        })
    }

    fn find(&self, name: &str) -> Option<&'n Node> {
        let found = self.entries.iter().find(|(known, _)| *known == name);
        found.map(|(_, node)| *node)
    }

    fn required<T>(&self, reading: &mut Reading<'_>, name: &str, form: &Form<T>) -> Option<T> {
        let secret = matches!(name, "sha256" | "endpoint");
        let mut reading = reading.within(format_args!(".{name}"), secret);
        match self.find(name) {
            Some(node) => (form.read)(&mut reading, node),
            None => {
                let allowed = &form.allowed;
                reading.wrong(self.node, format!("missing; it should be {allowed}"));
                None
            }
        }
    }

    fn or<T>(
        &self,
        reading: &mut Reading<'_>,
        name: &str,
        form: &Form<T>,
        default: T,
    ) -> Option<T> {
        match self.find(name) {
            Some(_) => self.required(reading, name, form),
            None => Some(default),
        }
    }
}

/// Refuses two elements that agree in one of the given properties.
fn unique<T: 'static, const N: usize>(
    form: Form<Vec<T>>,
    properties: impl Fn(&T) -> [(&'static str, String); N] + Send + Sync + 'static,
) -> Form<Vec<T>> {
    let Form {
        allowed,
        read,
        show,
    } = form;
    let read = move |reading: &mut Reading<'_>, node: &Node| {
        let items = read(reading, node)?;
        let Value::List(nodes) = &node.value else {
            return Some(items);
        };
        let mut seen = std::collections::HashMap::new();
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
        allowed,
        read: Box::new(read),
        show,
    }
}
