//! Why a client does not get a session, and how it is told.
//!
//! One place maps outcomes to HTTP. Playwright prints the body of a refused upgrade to its user
//! unshortened, so a Playwright client gets one to four short lines of text, the cause first, then
//! what to do; everybody else gets JSON.

use crate::admission::tokens::QuotaUsedUp;
use crate::model::{Browser, Version};
use bytes::Bytes;
use http::StatusCode;
use std::fmt::Write;
use std::time::Duration;

/// The `reason` of a client that hung up before it had a session or a refusal.
pub const CLIENT_GONE: &str = "client_gone";

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request makes no sense; the text says what is wrong and what to do.
    BadRequest(&'static str),
    UnknownBrowser,
    NoToken,
    WrongToken,
    /// A web page of another origin wants a session.
    ForeignOrigin,
    /// The grid is asked for by a name that is not known to be its own.
    ForeignHost,
    /// Plain text at a port that speaks TLS.
    TlsExpected,
    NotFound,
    MethodNotAllowed,
    /// A plain GET where only a WebSocket makes sense.
    UpgradeRequired,
    /// The same, when it was a WebSocket until a proxy in front took the `Upgrade` away.
    UpgradeSwallowed,
    HeaderTimeout,
    /// No worker of the client's Playwright version, but of these.
    NoSuchVersion {
        browser: Browser,
        client: Version,
        available: Vec<Version>,
    },
    QueueFull {
        max_waiting: usize,
    },
    QuotaUsedUp {
        max_sessions: u32,
    },
    HeadTooLarge {
        max: usize,
    },
    /// There were seats, but none of their workers could be reached.
    NotDialled {
        tried: usize,
    },
    /// No seat within the queue's timeout.
    NoSeat {
        browser: Browser,
        why: NoSeat,
        waited: Duration,
    },
    /// This proxy takes no new sessions.
    Draining,
    /// The shared store is away, and the configuration is strict about that.
    StoreAway,
    /// The process has no descriptors left for another session, or the address too many
    /// connections.
    TooManyConnections,
}

/// Why there was no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    /// Every worker that is reached has as many sessions as it may have.
    AllTaken,
    /// There are seats, but their workers are not reached from here, or were too slow.
    OutOfReach,
    NoWorker,
    AllDraining,
}

impl From<QuotaUsedUp> for Refusal {
    fn from(QuotaUsedUp(max_sessions): QuotaUsedUp) -> Refusal {
        Refusal::QuotaUsedUp { max_sessions }
    }
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::BadRequest(_) | Refusal::UnknownBrowser | Refusal::TlsExpected => {
                StatusCode::BAD_REQUEST
            }
            Refusal::NoToken | Refusal::WrongToken => StatusCode::UNAUTHORIZED,
            Refusal::ForeignOrigin | Refusal::ForeignHost => StatusCode::FORBIDDEN,
            Refusal::NotFound => StatusCode::NOT_FOUND,
            Refusal::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::UpgradeRequired | Refusal::UpgradeSwallowed => StatusCode::UPGRADE_REQUIRED,
            Refusal::HeaderTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::NoSuchVersion { .. } => StatusCode::PRECONDITION_REQUIRED,
            Refusal::QueueFull { .. } | Refusal::QuotaUsedUp { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Refusal::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::NotDialled { .. } => StatusCode::BAD_GATEWAY,
            Refusal::NoSeat { .. }
            | Refusal::Draining
            | Refusal::StoreAway
            | Refusal::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The code in JSON bodies and the `reason` label of `rejections_total`.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::BadRequest(_) => "bad_request",
            Refusal::UnknownBrowser => "unknown_browser",
            Refusal::NoToken => "no_token",
            Refusal::WrongToken => "wrong_token",
            Refusal::ForeignOrigin => "foreign_origin",
            Refusal::ForeignHost => "foreign_host",
            Refusal::TlsExpected => "tls_expected",
            Refusal::NotFound => "not_found",
            Refusal::MethodNotAllowed => "method_not_allowed",
            Refusal::UpgradeRequired | Refusal::UpgradeSwallowed => "upgrade_required",
            Refusal::HeaderTimeout => "header_timeout",
            Refusal::NoSuchVersion { .. } => "no_such_version",
            Refusal::QueueFull { .. } => "queue_full",
            Refusal::QuotaUsedUp { .. } => "quota_used_up",
            Refusal::HeadTooLarge { .. } => "headers_too_large",
            Refusal::NotDialled { .. } => "no_worker_reachable",
            Refusal::NoSeat { why, .. } => match why {
                NoSeat::AllTaken => "all_seats_taken",
                NoSeat::OutOfReach => "workers_out_of_reach",
                NoSeat::NoWorker => "no_worker",
                NoSeat::AllDraining => "all_workers_draining",
            },
            Refusal::Draining => "draining",
            Refusal::StoreAway => "store_away",
            Refusal::TooManyConnections => "too_many_connections",
        }
    }

    /// Every [code](Refusal::code), and how a client is counted that left without an answer.
    pub const CODES: [&'static str; 24] = [
        "bad_request",
        "unknown_browser",
        "no_token",
        "wrong_token",
        "foreign_origin",
        "foreign_host",
        "not_found",
        "method_not_allowed",
        "upgrade_required",
        "header_timeout",
        "no_such_version",
        "queue_full",
        "quota_used_up",
        "headers_too_large",
        "no_worker_reachable",
        "all_seats_taken",
        "no_worker",
        "all_workers_draining",
        "workers_out_of_reach",
        "draining",
        "store_away",
        "too_many_connections",
        "tls_expected",
        CLIENT_GONE,
    ];

    /// The cause, then what to do: short lines.
    pub fn lines(&self) -> Vec<String> {
        let line = |text: &str| vec![text.to_owned()];
        match self {
            Refusal::BadRequest(what) => line(what),
            Refusal::UnknownBrowser => line("Unknown browser. Use chromium, firefox or webkit."),
            Refusal::NoToken => vec![
                "This grid asks for a token, and none was given.".into(),
                "Send it as header `Authorization: Bearer TOKEN`, as ?token=TOKEN, or as the URL's password.".into(),
            ],
            Refusal::WrongToken => vec![
                "This grid does not know the given token.".into(),
                "Check it with whoever runs the grid (auth.tokens).".into(),
            ],
            Refusal::ForeignOrigin => vec![
                "A web page of another origin may not open sessions on this grid.".into(),
                "List its origin under auth.allowed_origins if it should.".into(),
            ],
            Refusal::ForeignHost => vec![
                "The grid does not know the name in the Host header for its own.".into(),
                "Use its address or localhost, or list the name under auth.allowed_hosts.".into(),
            ],
            Refusal::TlsExpected => vec![
                "This port speaks TLS, and plain text arrived.".into(),
                "Connect with wss:// or https:// instead of ws:// or http://.".into(),
            ],
            Refusal::NotFound => vec![
                "There is nothing at this path.".into(),
                "Sessions are opened at /: ws://HOST:PORT/".into(),
            ],
            Refusal::MethodNotAllowed => line("This path answers GET, HEAD and OPTIONS only."),
            Refusal::UpgradeRequired => vec![
                "This is a Playwright grid: it speaks WebSocket here.".into(),
                "Connect with chromium.connect(\"ws://HOST:PORT/\").".into(),
            ],
            Refusal::UpgradeSwallowed => vec![
                "The Upgrade header is missing: a proxy in front of the grid does not forward it.".into(),
                "Have it forward Upgrade and Connection over HTTP/1.1; nginx: proxy_http_version 1.1;".into(),
                "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";".into(),
            ],
            Refusal::HeaderTimeout => line("The request head took too long to arrive."),
            Refusal::NoSuchVersion {
                browser,
                client,
                available,
            } => {
                let list: Vec<String> = available.iter().map(Version::to_string).collect();
                let newest = available.iter().max().copied().unwrap_or(*client);
                vec![
                    format!("No {browser} worker of Playwright {client} on this grid."),
                    format!("Available: {}.", list.join(", ")),
                    format!("Use playwright {newest} in the client, or add a worker of {client}."),
                ]
            }
            Refusal::QueueFull { max_waiting } => vec![
                format!("Too many clients are waiting for a seat already ({max_waiting})."),
                "Try again later, add workers, or raise queue.max_waiting.".into(),
            ],
            Refusal::QuotaUsedUp { max_sessions } => vec![
                format!("This token has all its {max_sessions} sessions in use."),
                "Close some, or have its max_sessions raised.".into(),
            ],
            Refusal::HeadTooLarge { max } => {
                vec![format!("The request head is larger than {max} bytes.")]
            }
            Refusal::NotDialled { tried } => vec![
                format!("None of {tried} workers with a free seat could be reached."),
                "Try again; the grid's log says which workers and why.".into(),
            ],
            Refusal::NoSeat {
                browser,
                why,
                waited,
            } => {
                let waited = waited.as_secs_f64();
                let (cause, advice) = match why {
                    NoSeat::AllTaken => (
                        format!("all {browser} seats are taken"),
                        "Try again, add workers, or raise queue.timeout.",
                    ),
                    NoSeat::NoWorker => (
                        format!("no {browser} worker is registered"),
                        "Start one: playhouse worker, or BROWSER_TYPE for another browser.",
                    ),
                    NoSeat::OutOfReach => (
                        format!("the {browser} workers with free seats are slow or out of reach"),
                        "Try again; the grid's log says which workers and why.",
                    ),
                    NoSeat::AllDraining => (
                        format!("all {browser} workers are draining"),
                        "Try again in a moment.",
                    ),
                };
                vec![
                    format!("no available servers: {cause} (waited {waited:.1} s)."),
                    advice.into(),
                ]
            }
            Refusal::Draining => vec![
                "no available servers: this proxy is shutting down.".into(),
                "Try again: another one, or its successor, will answer.".into(),
            ],
            Refusal::StoreAway => vec![
                "no available servers: the grid's shared store is out of reach.".into(),
                "Try again in a moment.".into(),
            ],
            Refusal::TooManyConnections => vec![
                "no available servers: this proxy has as many connections as it can hold.".into(),
                "Try again later, or raise limits.max_connections and the descriptor limit.".into(),
            ],
        }
    }

    /// Headers beyond length, type and close.
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Refusal::NoToken | Refusal::WrongToken => &[("WWW-Authenticate", "Bearer")],
            Refusal::MethodNotAllowed => &[("Allow", "GET, HEAD, OPTIONS")],
            Refusal::UpgradeRequired | Refusal::UpgradeSwallowed => &[("Upgrade", "websocket")],
            Refusal::QueueFull { .. }
            | Refusal::NoSeat { .. }
            | Refusal::Draining
            | Refusal::StoreAway
            | Refusal::TooManyConnections => &[("Retry-After", "1")],
            _ => &[],
        }
    }

    /// Body and content type for this kind of client.
    pub fn body(&self, playwright: bool) -> (Bytes, &'static str) {
        let lines = self.lines();
        if playwright {
            let text = format!("{}\n", lines.join("\n"));
            (text.into(), "text/plain; charset=utf-8")
        } else {
            let message = lines.join(" ");
            (error_json(self.code(), &message), "application/json")
        }
    }

    /// The whole answer as it goes over a connection that is ours alone.
    pub fn to_http(&self, playwright: bool, extra: &[(&str, String)]) -> Vec<u8> {
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or("");
        let (body, content_type) = self.body(playwright);
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16());
        let fixed = [("Content-Type", content_type), ("Connection", "close")];
        for (name, value) in fixed.iter().chain(self.headers()) {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        for (name, value) in extra {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
        let mut answer = head.into_bytes();
        answer.extend_from_slice(&body);
        answer
    }
}

/// The shape of every error that is told as JSON, on both ports.
pub fn error_json(code: &str, message: &str) -> Bytes {
    let body = serde_json::json!({
        "error": { "code": code, "message": message },
        "message": message,
    });
    Bytes::from(body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_of_each() -> Vec<Refusal> {
        let version = |minor| Version { major: 1, minor };
        let no_seat = |why| Refusal::NoSeat {
            browser: Browser::Firefox,
            why,
            waited: Duration::from_secs(5),
        };
        vec![
            Refusal::BadRequest("The upgrade has no Sec-WebSocket-Key."),
            Refusal::UnknownBrowser,
            Refusal::NoToken,
            Refusal::WrongToken,
            Refusal::ForeignOrigin,
            Refusal::ForeignHost,
            Refusal::TlsExpected,
            Refusal::NotFound,
            Refusal::MethodNotAllowed,
            Refusal::UpgradeRequired,
            Refusal::UpgradeSwallowed,
            Refusal::HeaderTimeout,
            Refusal::NoSuchVersion {
                browser: Browser::Chromium,
                client: version(63),
                available: vec![version(64), version(65)],
            },
            Refusal::QueueFull { max_waiting: 1000 },
            Refusal::QuotaUsedUp { max_sessions: 20 },
            Refusal::HeadTooLarge { max: 65536 },
            Refusal::NotDialled { tried: 3 },
            no_seat(NoSeat::AllTaken),
            no_seat(NoSeat::OutOfReach),
            no_seat(NoSeat::NoWorker),
            no_seat(NoSeat::AllDraining),
            Refusal::Draining,
            Refusal::StoreAway,
            Refusal::TooManyConnections,
        ]
    }

    #[test]
    fn text_is_one_to_four_short_lines() {
        for refusal in some_of_each() {
            let lines = refusal.lines();
            assert!((1..=4).contains(&lines.len()), "{refusal:?}");
            assert!(lines.iter().all(|l| l.len() <= 100), "{refusal:?}");
        }
    }

    #[test]
    fn every_code_is_listed() {
        let mut codes: Vec<_> = some_of_each().iter().map(Refusal::code).collect();
        codes.push(CLIENT_GONE);
        let mut listed = Refusal::CODES.to_vec();
        codes.sort();
        codes.dedup();
        listed.sort();
        assert_eq!(codes, listed);
    }

    #[test]
    fn the_answer_carries_its_length_and_closes() {
        for refusal in some_of_each() {
            for playwright in [true, false] {
                let answer = String::from_utf8(refusal.to_http(playwright, &[])).unwrap();
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                assert!(head.contains(&format!("Content-Length: {}", body.len())));
                assert!(head.contains("Connection: close"));
                if !playwright {
                    let json: serde_json::Value = serde_json::from_str(body).unwrap();
                    assert_eq!(json["error"]["code"], refusal.code());
                    assert_eq!(json["error"]["message"], json["message"]);
                }
                let try_again = matches!(refusal.status().as_u16(), 503);
                assert!(!try_again || head.contains("Retry-After"));
            }
        }
    }

    #[test]
    fn every_503_says_no_available_servers() {
        for refusal in some_of_each() {
            if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
                assert!(refusal.lines()[0].starts_with("no available servers"));
            }
        }
    }
}
