//! Who may connect: the section `auth`.

use super::seat;
use crate::config::Role;
use crate::model::SeatKind;
use crate::settings::forms::{list, number, optional, scalar, text, yaml_text};
use crate::settings::{Form, Masking, element, section, unique};

/// Enough to prefer one tenant clearly, small enough that no tenant waits for ever.
const MAX_PRIORITY: u32 = 100;
/// Beyond what any grid holds.
const MAX_QUOTA: u32 = 1_000_000;

section! {
    /// Who may connect.
    pub struct Auth: hot "auth" (_role: Role)

    /// Who may connect; with none, everybody. `playhouse token` makes one. `sha256_file` names a
    /// file that holds the hash; `max_sessions` is a quota, `priority` the turns in the queue for
    /// each turn of the others, `seat` the kind of seat unless the client asks for another.
    ///     tokens: [ { name: ci, sha256: "…", max_sessions: 20, priority: 1, seat: own } ]
    tokens: Vec<Token> = Vec::new(), tokens(), .secret();

    /// Web pages that may open sessions; all others are refused.
    ///     allowed_origins: [ "https://trace.example.com" ]
    allowed_origins: Vec<String> = Vec::new(), origins();

    /// Names under which browsers reach a port that is on loopback, or pages either port; addresses
    /// and localhost need no mention. Keeps out pages that let their own name stand for this
    /// machine (DNS rebinding).
    ///     allowed_hosts: [ grid.example.com ]
    allowed_hosts: Vec<String> = Vec::new(), hosts();
}

impl Default for Auth {
    fn default() -> Auth {
        Auth::defaults(Role::Proxy)
    }
}

element! {
    /// One tenant.
    pub struct Token, token

    /// Shown in logs and by the admin API in the token's stead.
    name: String, text("a name for the logs");

    /// Hash of the token.
    sha256: [u8; 32], digest(), secret;

    /// Sessions at once; `None` = no quota.
    max_sessions: Option<u32> = None, optional("none", number(1..=MAX_QUOTA));

    /// Turns this tenant gets in the queue for each turn of a tenant of 1.
    priority: u32 = 1, number(1..=MAX_PRIORITY);

    /// Kind of seat unless the client asks for another; `None` = `selection.default_seat`.
    seat: Option<SeatKind> = None, optional("default", seat());
}

fn tokens() -> Form<Vec<Token>> {
    let form = list("tokens, each with name and sha256", token());
    unique(form, |token| {
        [
            ("name", token.name.clone()),
            ("sha256", digest_text(&token.sha256, Masking::Whole)),
        ]
    })
}

/// The SHA-256 of a secret.
pub fn digest() -> Form<[u8; 32]> {
    scalar(
        "the SHA-256 of a token, 64 hexadecimal digits (`playhouse token` makes a token and prints it)",
        |text, _| digest_bytes(text),
        digest_text,
    )
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

fn origins() -> Form<Vec<String>> {
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

fn hosts() -> Form<Vec<String>> {
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
