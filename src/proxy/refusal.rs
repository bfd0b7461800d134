//! Why a client does not get a session, and how it is told.
//!
//! One table ([`Refusal::told`]) maps outcomes to HTTP. Playwright prints the body of a refused
//! upgrade to its user unshortened, so a Playwright client gets one to four short lines of text, the
//! cause first, then what to do; everybody else gets JSON.

use super::connections::TooMany;
use super::head::{HeadError, MAX_HEADERS};
use crate::admission::tokens::QuotaUsedUp;
use crate::fleet::{NoSeat, Shortage, WorkerAnswer};
use crate::launch::{LaunchError, Permission};
use crate::model::{Browser, SeatKind, Version};
use crate::selection::Wanted;
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
    /// A WebSocket handshake of another version than 13.
    WebSocketVersion,
    UnknownBrowser,
    UnknownSeat,
    /// Launch options that cannot be understood, or that this grid does not allow.
    LaunchOptions {
        why: LaunchError,
        allowed: Vec<Permission>,
    },
    NoToken,
    WrongToken,
    /// The ticket of a DevTools connection is none of ours, used, or too old.
    WrongTicket,
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
    /// No worker of the browser with such seats, but with these.
    NoSuchSeat {
        browser: Browser,
        seat: SeatKind,
        available: Vec<SeatKind>,
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
    TooManyHeaders,
    /// A worker that works refused this very request.
    ByWorker(WorkerAnswer),
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
    /// This process or its machine has none left of what it takes to dial a worker.
    OutOf(Shortage),
    /// The process has no descriptors left for another session, or the address too many
    /// connections.
    TooManyConnections(TooMany),
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Refusal {
        match error {
            HeadError::Malformed(what) => Refusal::BadRequest(what),
            HeadError::TooManyHeaders => Refusal::TooManyHeaders,
        }
    }
}

impl From<QuotaUsedUp> for Refusal {
    fn from(QuotaUsedUp(max_sessions): QuotaUsedUp) -> Refusal {
        Refusal::QuotaUsedUp { max_sessions }
    }
}

/// How a refusal is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalResponse {
    pub status: StatusCode,
    /// The code in JSON bodies and the `reason` label of `rejections_total`.
    pub code: &'static str,
    /// The cause, then what to do: short lines.
    pub lines: Vec<String>,
    /// Headers beyond length, type and close.
    pub headers: &'static [(&'static str, &'static str)],
}

/// For those who read it: proxies and scripts. Playwright does not try again.
const RETRY: &[(&str, &str)] = &[("Retry-After", "1")];
const BEARER: &[(&str, &str)] = &[("WWW-Authenticate", "Bearer")];

impl RefusalResponse {
    fn new<const N: usize>(
        status: StatusCode,
        code: &'static str,
        lines: [&str; N],
    ) -> RefusalResponse {
        RefusalResponse {
            status,
            code,
            lines: lines.map(str::to_owned).to_vec(),
            headers: &[],
        }
    }

    fn with(mut self, headers: &'static [(&'static str, &'static str)]) -> RefusalResponse {
        self.headers = headers;
        self
    }
}

impl Refusal {
    /// What the client of `wanted` hears when a worker refused its request.
    pub fn of_worker(answer: WorkerAnswer, wanted: &Wanted) -> Refusal {
        let browser = wanted.browser;
        match (wanted.version, answer.server_version()) {
            (Some(client), Some(server)) if answer.is_version_mismatch() => {
                let available = vec![server];
                Refusal::NoSuchVersion {
                    browser,
                    client,
                    available,
                }
            }
            _ => Refusal::ByWorker(answer),
        }
    }

    /// The table of refusals.
    pub fn response(&self) -> RefusalResponse {
        use StatusCode as Status;
        let unavailable = |code, lines: [&str; 2]| {
            RefusalResponse::new(Status::SERVICE_UNAVAILABLE, code, lines).with(RETRY)
        };
        match self {
            Refusal::BadRequest(what) => RefusalResponse::new(Status::BAD_REQUEST, "bad_request", [what]),
            Refusal::WebSocketVersion => RefusalResponse::new(
                Status::UPGRADE_REQUIRED,
                "websocket_version",
                ["The grid speaks WebSocket version 13 (Sec-WebSocket-Version: 13, once)."],
            )
            .with(&[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]),
            Refusal::UnknownBrowser => RefusalResponse::new(
                Status::BAD_REQUEST,
                "unknown_browser",
                [&format!("Unknown browser. Use {}.", Browser::either())],
            ),
            Refusal::UnknownSeat => RefusalResponse::new(
                Status::BAD_REQUEST,
                "unknown_seat",
                ["Unknown kind of seat. Use ?seat=shared or ?seat=own."],
            ),
            Refusal::LaunchOptions { why, allowed } => launch_options(why, allowed),
            Refusal::NoToken => RefusalResponse::new(
                Status::UNAUTHORIZED,
                "no_token",
                [
                    "This grid asks for a token, and none was given.",
                    "Send it as header `Authorization: Bearer TOKEN`, as ?token=TOKEN, or as the URL's password.",
                ],
            )
            .with(BEARER),
            Refusal::WrongToken => RefusalResponse::new(
                Status::UNAUTHORIZED,
                "wrong_token",
                [
                    "This grid does not know the given token.",
                    "Check it with whoever runs the grid (auth.tokens).",
                ],
            )
            .with(BEARER),
            Refusal::WrongTicket => RefusalResponse::new(
                Status::UNAUTHORIZED,
                "wrong_ticket",
                [
                    "This DevTools address was used before, is older than half a minute, or is none of ours.",
                    "Ask /json/version for a new one, or connect to ws://HOST:PORT/cdp with the token.",
                ],
            )
            .with(BEARER),
            Refusal::ForeignOrigin => RefusalResponse::new(
                Status::FORBIDDEN,
                "foreign_origin",
                [
                    "A web page of another origin may not open sessions on this grid.",
                    "List its origin under auth.allowed_origins if it should.",
                ],
            ),
            Refusal::ForeignHost => RefusalResponse::new(
                Status::FORBIDDEN,
                "foreign_host",
                [
                    "The grid does not know the name in the Host header for its own.",
                    "Use its address or localhost, or list the name under auth.allowed_hosts.",
                ],
            ),
            Refusal::TlsExpected => RefusalResponse::new(
                Status::BAD_REQUEST,
                "tls_expected",
                [
                    "This port speaks TLS, and plain text arrived.",
                    "Connect with wss:// or https:// instead of ws:// or http://.",
                ],
            ),
            Refusal::NotFound => RefusalResponse::new(
                Status::NOT_FOUND,
                "not_found",
                [
                    "There is nothing at this path.",
                    "Sessions are opened at /: ws://HOST:PORT/",
                ],
            ),
            Refusal::MethodNotAllowed => RefusalResponse::new(
                Status::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                ["This path answers GET, HEAD and OPTIONS only."],
            )
            .with(&[("Allow", "GET, HEAD, OPTIONS")]),
            Refusal::UpgradeRequired => RefusalResponse::new(
                Status::UPGRADE_REQUIRED,
                "upgrade_required",
                [
                    "This is a Playwright grid: it speaks WebSocket here.",
                    "Connect with chromium.connect(\"ws://HOST:PORT/\").",
                ],
            )
            .with(&[("Upgrade", "websocket")]),
            Refusal::UpgradeSwallowed => RefusalResponse::new(
                Status::UPGRADE_REQUIRED,
                "upgrade_required",
                [
                    "The Upgrade header is missing: a proxy in front of the grid does not forward it.",
                    "Have it forward Upgrade and Connection over HTTP/1.1; nginx: proxy_http_version 1.1;",
                    "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";",
                ],
            )
            .with(&[("Upgrade", "websocket")]),
            Refusal::HeaderTimeout => RefusalResponse::new(
                Status::REQUEST_TIMEOUT,
                "header_timeout",
                ["The request head took too long to arrive."],
            ),
            Refusal::NoSuchVersion {
                browser,
                client,
                available,
            } => {
                let list: Vec<String> = available.iter().map(Version::to_string).collect();
                let newest = available.iter().max().unwrap_or(client);
                let code = "no_such_version";
                RefusalResponse::new(
                    Status::PRECONDITION_REQUIRED,
                    code,
                    [
                        &format!("No {browser} worker of Playwright {client} on this grid."),
                        &format!("Available: {}.", list.join(", ")),
                        &format!(
                            "Use playwright {newest} in the client, or add a worker of {client}."
                        ),
                    ],
                )
            }
            Refusal::NoSuchSeat {
                browser,
                seat,
                available,
            } => {
                let list: Vec<&str> = available.iter().map(|seat| seat.as_str()).collect();
                let code = "no_such_seat";
                RefusalResponse::new(
                    Status::PRECONDITION_REQUIRED,
                    code,
                    [
                        &format!("No {browser} worker with {seat} seats on this grid."),
                        &format!("Available: {}.", list.join(", ")),
                        &format!(
                            "Ask for ?seat={}, or add a worker with worker.seat: {seat}.",
                            list.join(" or ?seat=")
                        ),
                    ],
                )
            }
            Refusal::QueueFull { max_waiting } => RefusalResponse::new(
                Status::TOO_MANY_REQUESTS,
                "queue_full",
                [
                    &format!("Too many clients are waiting for a seat already ({max_waiting})."),
                    "Try again later, add workers, or raise queue.max_waiting.",
                ],
            )
            .with(RETRY),
            Refusal::QuotaUsedUp { max_sessions } => RefusalResponse::new(
                Status::TOO_MANY_REQUESTS,
                "quota_used_up",
                [
                    &format!("This token has all its {max_sessions} sessions in use, or in line."),
                    "Close some, or have its max_sessions raised.",
                ],
            ),
            Refusal::HeadTooLarge { max } => RefusalResponse::new(
                Status::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                [&format!("The request head is larger than {max} bytes.")],
            ),
            Refusal::TooManyHeaders => RefusalResponse::new(
                Status::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                [&format!("The request has more than {MAX_HEADERS} headers.")],
            ),
            Refusal::ByWorker(answer) => by_worker(answer),
            Refusal::NotDialled { tried } => RefusalResponse::new(
                Status::BAD_GATEWAY,
                "no_worker_reachable",
                [
                    &format!("None of {tried} workers with a free seat could be reached."),
                    "Try again; the grid's log says which workers and why.",
                ],
            ),
            Refusal::NoSeat {
                browser,
                why,
                waited,
            } => no_seat(*browser, *why, *waited),
            Refusal::Draining => unavailable(
                "draining",
                [
                    "no available servers: this proxy is shutting down.",
                    "Try again: another one, or its successor, will answer.",
                ],
            ),
            Refusal::StoreAway => unavailable(
                "store_away",
                [
                    "no available servers: the grid's shared store is out of reach.",
                    "Try again in a moment.",
                ],
            ),
            Refusal::OutOf(shortage) => unavailable(
                "out_of_resources",
                [
                    &format!("no available servers: this proxy is out of {shortage}."),
                    "Try again in a moment, or have its limits raised by whoever runs the grid.",
                ],
            ),
            Refusal::TooManyConnections(why) => unavailable(
                "too_many_connections",
                match why {
                    TooMany::InAll => [
                        "no available servers: this port has as many connections as it can hold.",
                        "Try again later; limits.max_connections and the descriptor limit say how many.",
                    ],
                    TooMany::FromNetwork => [
                        "no available servers: your address has as many connections as it may have.",
                        "Close some, or have limits.max_connections_per_ip raised.",
                    ],
                },
            ),
        }
    }

    /// Every [code](Told::code), and how a client is counted that left without an answer.
    pub const CODES: [&'static str; 33] = [
        "bad_request",
        "websocket_version",
        "unknown_browser",
        "no_token",
        "wrong_token",
        "wrong_ticket",
        "foreign_origin",
        "foreign_host",
        "not_found",
        "method_not_allowed",
        "upgrade_required",
        "header_timeout",
        "unknown_seat",
        "launch_options",
        "no_such_version",
        "no_such_seat",
        "queue_full",
        "quota_used_up",
        "headers_too_large",
        "refused_by_worker",
        "no_worker_reachable",
        "all_seats_taken",
        "workers_out_of_reach",
        "no_worker",
        "all_workers_draining",
        "workers_left_just_now",
        "seats_being_counted",
        "draining",
        "store_away",
        "out_of_resources",
        "too_many_connections",
        "tls_expected",
        CLIENT_GONE,
    ];

    pub fn status(&self) -> StatusCode {
        self.response().status
    }

    /// The code in JSON bodies and the `reason` label of `rejections_total`.
    pub fn code(&self) -> &'static str {
        self.response().code
    }

    /// Headers beyond length, type and close.
    pub fn headers(&self) -> &'static [(&'static str, &'static str)] {
        self.response().headers
    }

    /// Body and content type for this kind of client.
    pub fn body(&self, playwright: bool) -> (Bytes, &'static str) {
        self.response().body(playwright)
    }

    /// The whole answer as it goes over a connection that is ours alone.
    pub fn to_http(&self, playwright: bool, extra: &[(&str, String)]) -> Vec<u8> {
        let response = self.response();
        let reason = response.status.canonical_reason().unwrap_or("");
        let (body, content_type) = response.body(playwright);
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", response.status.as_u16());
        let fixed = [("Content-Type", content_type), ("Connection", "close")];
        for (name, value) in fixed.iter().chain(response.headers) {
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

impl RefusalResponse {
    /// Body and content type for this kind of client.
    fn body(&self, playwright: bool) -> (Bytes, &'static str) {
        if playwright {
            let text = format!("{}\n", self.lines.join("\n"));
            (text.into(), "text/plain; charset=utf-8")
        } else {
            let message = self.lines.join(" ");
            (error_json(self.code, &message), "application/json")
        }
    }
}

/// What a worker said that refused the request; the status is the worker's.
fn launch_options(why: &LaunchError, allowed: &[Permission]) -> RefusalResponse {
    let advice = match why {
        LaunchError::NoObject | LaunchError::Malformed { .. } => {
            "Correct launchOptions in the client's configuration.".to_owned()
        }
        LaunchError::Option(_) => {
            let allowed: Vec<String> = allowed.iter().map(Permission::to_string).collect();
            match allowed.as_slice() {
                [] => "Leave it out: a grid may allow some (session.launch_options).".to_owned(),
                _ => format!(
                    "Leave it out. Allowed are {} (session.launch_options).",
                    allowed.join(", ")
                ),
            }
        }
        LaunchError::Argument(_) | LaunchError::Preference(_) => {
            "Leave it out, or have an argument listed under session.launch_options.".to_owned()
        }
    };
    RefusalResponse::new(
        StatusCode::BAD_REQUEST,
        "launch_options",
        [&why.to_string(), &advice],
    )
}

fn by_worker(answer: &WorkerAnswer) -> RefusalResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = status.canonical_reason().unwrap_or("no reason");
    let (code, advice) = match answer.status {
        428 => (
            "no_such_version",
            "Use the Playwright version of the grid's workers in the client.",
        ),
        431 => (
            "headers_too_large",
            "Send shorter headers: launch options and custom headers count.",
        ),
        _ => (
            "refused_by_worker",
            "The request is at fault, not the grid: check what the client sends.",
        ),
    };
    let cause = format!(
        "The worker refused this request: {} {reason}.",
        answer.status
    );
    let mut response = RefusalResponse::new(status, code, [&cause]);
    response.lines.extend(answer.words.iter().cloned());
    response.lines.push(advice.to_owned());
    response
}

/// No seat came free in time.
fn no_seat(browser: Browser, why: NoSeat, waited: Duration) -> RefusalResponse {
    let waited = waited.as_secs_f64();
    let (code, cause, advice) = match why {
        NoSeat::AllTaken => (
            "all_seats_taken",
            format!("all {browser} seats are taken"),
            "Try again, add workers, or raise queue.timeout.",
        ),
        NoSeat::OutOfReach => (
            "workers_out_of_reach",
            format!("the {browser} workers with free seats are slow or out of reach"),
            "Try again; the grid's log says which workers and why.",
        ),
        NoSeat::NoWorker => (
            "no_worker",
            format!("no {browser} worker is registered"),
            "Start one: playhouse worker, or BROWSER_TYPE for another browser.",
        ),
        NoSeat::LeftJustNow => (
            "workers_left_just_now",
            format!("the last {browser} worker left a moment ago and may be back"),
            "Try again in a moment; the grid's log says which worker left and why.",
        ),
        NoSeat::BeingCounted => (
            "seats_being_counted",
            format!("{browser} seats are being counted anew after an outage"),
            "Try again in a few seconds: the shared store came back empty.",
        ),
        NoSeat::AllDraining => (
            "all_workers_draining",
            format!("all {browser} workers are draining or out of reach"),
            "Try again in a moment.",
        ),
    };
    let cause = format!("no available servers: {cause} (waited {waited:.1} s).");
    RefusalResponse::new(StatusCode::SERVICE_UNAVAILABLE, code, [&cause, advice]).with(RETRY)
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
    use crate::fleet::WorkerAnswer;

    fn some_of_each() -> Vec<Refusal> {
        let version = |minor| Version { major: 1, minor };
        let no_seat = |why| Refusal::NoSeat {
            browser: Browser::Firefox,
            why,
            waited: Duration::from_secs(5),
        };
        vec![
            Refusal::BadRequest("The upgrade has no Sec-WebSocket-Key."),
            Refusal::WebSocketVersion,
            Refusal::UnknownBrowser,
            Refusal::UnknownSeat,
            Refusal::LaunchOptions {
                why: LaunchError::NoObject,
                allowed: Vec::new(),
            },
            Refusal::NoToken,
            Refusal::WrongToken,
            Refusal::WrongTicket,
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
            Refusal::NoSuchSeat {
                browser: Browser::Chromium,
                seat: SeatKind::Own,
                available: vec![SeatKind::Shared],
            },
            Refusal::QueueFull { max_waiting: 1000 },
            Refusal::QuotaUsedUp { max_sessions: 20 },
            Refusal::HeadTooLarge { max: 65536 },
            Refusal::TooManyHeaders,
            Refusal::ByWorker(WorkerAnswer::new(400, "<p>Missing Key</p>", "")),
            Refusal::ByWorker(WorkerAnswer::new(431, "", "")),
            Refusal::OutOf(Shortage::Descriptors),
            Refusal::NotDialled { tried: 3 },
            no_seat(NoSeat::AllTaken),
            no_seat(NoSeat::OutOfReach),
            no_seat(NoSeat::NoWorker),
            no_seat(NoSeat::AllDraining),
            no_seat(NoSeat::LeftJustNow),
            no_seat(NoSeat::BeingCounted),
            Refusal::Draining,
            Refusal::StoreAway,
            Refusal::TooManyConnections(TooMany::InAll),
            Refusal::TooManyConnections(TooMany::FromNetwork),
        ]
    }

    #[test]
    fn text_is_one_to_four_short_lines() {
        for refusal in some_of_each() {
            let lines = refusal.response().lines;
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
        // A worker may refuse for the same reason as the grid does.
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
                assert!(refusal.response().lines[0].starts_with("no available servers"));
            }
        }
    }
}
