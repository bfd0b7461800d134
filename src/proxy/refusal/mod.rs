//! Why a client does not get a session, and how it is told.
//!
//! One table ([`Refusal::response`], in [`table`]) maps outcomes to HTTP. Playwright prints the body of a refused
//! upgrade to its user unshortened, so a Playwright client gets one to four short lines of text, the
//! cause first, then what to do; everybody else gets JSON.

mod table;

use super::connections::TooMany;
use super::head::HeadError;
use crate::admission::tokens::{QuotaUsedUp, Unauthorized};
use crate::fleet::{NoSeat, Shortage, WorkerAnswer};
use crate::launch::{LaunchError, Permission};
use crate::model::{Browser, Pool, SeatKind, Version, words};
use bytes::Bytes;
use http::StatusCode;
use std::fmt::Write;
use std::time::Duration;

words! {
    /// The code of a refusal: in JSON bodies, log lines and the `reason` label of `rejections_total`.
    pub enum RefusalCode ("code of a refusal") {
        BadRequest = "bad_request",
        WebsocketVersion = "websocket_version",
        UnknownBrowser = "unknown_browser",
        NoToken = "no_token",
        WrongToken = "wrong_token",
        WrongTicket = "wrong_ticket",
        ForeignOrigin = "foreign_origin",
        ForeignHost = "foreign_host",
        NotFound = "not_found",
        MethodNotAllowed = "method_not_allowed",
        UpgradeRequired = "upgrade_required",
        HeaderTimeout = "header_timeout",
        UnknownSeat = "unknown_seat",
        LaunchOptions = "launch_options",
        NoSuchVersion = "no_such_version",
        NoSuchSeat = "no_such_seat",
        QueueFull = "queue_full",
        QuotaUsedUp = "quota_used_up",
        HeadersTooLarge = "headers_too_large",
        RefusedByWorker = "refused_by_worker",
        NoWorkerReachable = "no_worker_reachable",
        AllSeatsTaken = "all_seats_taken",
        WorkersAtCeiling = "workers_at_ceiling",
        WorkersOutOfReach = "workers_out_of_reach",
        NoWorker = "no_worker",
        AllWorkersDraining = "all_workers_draining",
        WorkersLeftJustNow = "workers_left_just_now",
        SeatsBeingCounted = "seats_being_counted",
        Draining = "draining",
        StoreAway = "store_away",
        OutOfResources = "out_of_resources",
        TooManyConnections = "too_many_connections",
        TlsExpected = "tls_expected",
        /// No refusal: the client hung up before it had an answer.
        ClientGone = "client_gone",
    }
}

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
    /// A list of pages, the protocol's description and the like, which a browser's own port would have.
    NoTargets,
    MethodNotAllowed,
    /// A plain GET where only a WebSocket makes sense.
    UpgradeRequired,
    /// The same where CDP is spoken.
    CdpUpgradeRequired,
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
    /// The shared store is away, and the configuration is strict about that, or this proxy has given
    /// all that it may give meanwhile.
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
    pub code: RefusalCode,
    /// The cause, then what to do: short lines.
    pub lines: Vec<String>,
    /// Headers beyond length, type and close.
    pub headers: &'static [(&'static str, &'static str)],
}

impl From<Unauthorized> for Refusal {
    fn from(why: Unauthorized) -> Refusal {
        match why {
            Unauthorized::Missing => Refusal::NoToken,
            Unauthorized::Unknown => Refusal::WrongToken,
        }
    }
}

impl Refusal {
    /// What the client of `wanted` hears when a worker refused its request.
    pub fn of_worker(answer: WorkerAnswer, wanted: &Pool) -> Refusal {
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

    /// Status of the answer.
    pub fn status(&self) -> StatusCode {
        self.response().status
    }

    /// The code in JSON bodies and the `reason` label of `rejections_total`.
    pub fn code(&self) -> RefusalCode {
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
            (error_json(self.code.as_str(), &message), "application/json")
        }
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
            Refusal::NoTargets,
            Refusal::MethodNotAllowed,
            Refusal::UpgradeRequired,
            Refusal::CdpUpgradeRequired,
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
            no_seat(NoSeat::AtCeiling),
            no_seat(NoSeat::ShareGiven),
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
        codes.push(RefusalCode::ClientGone);
        let mut listed = RefusalCode::ALL.to_vec();
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
                    assert_eq!(json["error"]["code"], refusal.code().as_str());
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
