//! The table of refusals: status, code, text and headers of each, one arm a refusal.

use super::{Refusal, RefusalCode, RefusalResponse};
use crate::fleet::{NoSeat, WorkerAnswer};
use crate::launch::{LaunchError, Permission};
use crate::model::{Browser, Version};
use crate::proxy::connections::TooMany;
use crate::proxy::head::MAX_HEADERS;
use http::StatusCode;
use std::time::Duration;

/// For those who read it: proxies and scripts. Playwright does not try again.
const RETRY: &[(&str, &str)] = &[("Retry-After", "1")];
const BEARER: &[(&str, &str)] = &[("WWW-Authenticate", "Bearer")];

impl RefusalResponse {
    fn new<const N: usize>(
        status: StatusCode,
        code: RefusalCode,
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
    /// The table of refusals.
    pub fn response(&self) -> RefusalResponse {
        use StatusCode as Status;
        let unavailable = |code, lines: [&str; 2]| {
            RefusalResponse::new(Status::SERVICE_UNAVAILABLE, code, lines).with(RETRY)
        };
        match self {
            Refusal::BadRequest(what) => RefusalResponse::new(Status::BAD_REQUEST, RefusalCode::BadRequest, [what]),
            Refusal::WebSocketVersion => RefusalResponse::new(
                Status::UPGRADE_REQUIRED,
                RefusalCode::WebsocketVersion,
                ["The grid speaks WebSocket version 13 (Sec-WebSocket-Version: 13, once)."],
            )
            .with(&[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]),
            Refusal::UnknownBrowser => RefusalResponse::new(
                Status::BAD_REQUEST,
                RefusalCode::UnknownBrowser,
                [&format!("Unknown browser. Use {}.", Browser::either())],
            ),
            Refusal::UnknownSeat => RefusalResponse::new(
                Status::BAD_REQUEST,
                RefusalCode::UnknownSeat,
                ["Unknown kind of seat. Use ?seat=shared or ?seat=own."],
            ),
            Refusal::LaunchOptions { why, allowed } => launch_options(why, allowed),
            Refusal::NoToken => RefusalResponse::new(
                Status::UNAUTHORIZED,
                RefusalCode::NoToken,
                [
                    "This grid asks for a token, and none was given.",
                    "Send it as header `Authorization: Bearer TOKEN`, as ?token=TOKEN, or as the URL's password.",
                ],
            )
            .with(BEARER),
            Refusal::WrongToken => RefusalResponse::new(
                Status::UNAUTHORIZED,
                RefusalCode::WrongToken,
                [
                    "This grid does not know the given token.",
                    "Check it with whoever runs the grid (auth.tokens).",
                ],
            )
            .with(BEARER),
            Refusal::WrongTicket => RefusalResponse::new(
                Status::UNAUTHORIZED,
                RefusalCode::WrongTicket,
                [
                    "This DevTools address was used before, is older than half a minute, or is none of ours.",
                    "Ask /json/version for a new one, or connect to ws://HOST:PORT/cdp with the token.",
                ],
            )
            .with(BEARER),
            Refusal::ForeignOrigin => RefusalResponse::new(
                Status::FORBIDDEN,
                RefusalCode::ForeignOrigin,
                [
                    "A web page of another origin may not open sessions on this grid.",
                    "List its origin under auth.allowed_origins if it should.",
                ],
            ),
            Refusal::ForeignHost => RefusalResponse::new(
                Status::FORBIDDEN,
                RefusalCode::ForeignHost,
                [
                    "The grid does not know the name in the Host header for its own.",
                    "Use its address or localhost, or list the name under auth.allowed_hosts.",
                ],
            ),
            Refusal::TlsExpected => RefusalResponse::new(
                Status::BAD_REQUEST,
                RefusalCode::TlsExpected,
                [
                    "This port speaks TLS, and plain text arrived.",
                    "Connect with wss:// or https:// instead of ws:// or http://.",
                ],
            ),
            Refusal::NotFound => RefusalResponse::new(
                Status::NOT_FOUND,
                RefusalCode::NotFound,
                [
                    "There is nothing at this path.",
                    "Sessions are opened at /: ws://HOST:PORT/",
                ],
            ),
            Refusal::NoTargets => RefusalResponse::new(
                Status::NOT_FOUND,
                RefusalCode::NotFound,
                [
                    "A grid has no pages to list, and no description of the protocol: a browser comes with its session.",
                    "Connect to http://HOST:PORT (it asks /json/version) or to ws://HOST:PORT/cdp,",
                    "and list or open pages there (Target.getTargets, Target.createTarget).",
                ],
            ),
            Refusal::MethodNotAllowed => RefusalResponse::new(
                Status::METHOD_NOT_ALLOWED,
                RefusalCode::MethodNotAllowed,
                ["This path answers GET, HEAD and OPTIONS only."],
            )
            .with(&[("Allow", "GET, HEAD, OPTIONS")]),
            Refusal::UpgradeRequired => RefusalResponse::new(
                Status::UPGRADE_REQUIRED,
                RefusalCode::UpgradeRequired,
                [
                    "This is a Playwright grid: it speaks WebSocket here.",
                    "Connect with chromium.connect(\"ws://HOST:PORT/\").",
                ],
            )
            .with(&[("Upgrade", "websocket")]),
            Refusal::CdpUpgradeRequired => RefusalResponse::new(
                Status::UPGRADE_REQUIRED,
                RefusalCode::UpgradeRequired,
                [
                    "This is a grid of browsers: it speaks CDP by WebSocket here.",
                    "Connect with connectOverCDP(\"http://HOST:PORT\") or connectOverCDP(\"ws://HOST:PORT/cdp\").",
                ],
            )
            .with(&[("Upgrade", "websocket")]),
            Refusal::UpgradeSwallowed => RefusalResponse::new(
                Status::UPGRADE_REQUIRED,
                RefusalCode::UpgradeRequired,
                [
                    "The Upgrade header is missing: a proxy in front of the grid does not forward it.",
                    "Have it forward Upgrade and Connection over HTTP/1.1; nginx: proxy_http_version 1.1;",
                    "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";",
                ],
            )
            .with(&[("Upgrade", "websocket")]),
            Refusal::HeaderTimeout => RefusalResponse::new(
                Status::REQUEST_TIMEOUT,
                RefusalCode::HeaderTimeout,
                ["The request head took too long to arrive."],
            ),
            Refusal::NoSuchVersion {
                browser,
                client,
                available,
            } => {
                let list: Vec<String> = available.iter().map(Version::to_string).collect();
                let newest = available.iter().max().unwrap_or(client);
                let code = RefusalCode::NoSuchVersion;
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
                let code = RefusalCode::NoSuchSeat;
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
                RefusalCode::QueueFull,
                [
                    &format!("Too many clients are waiting for a seat already ({max_waiting})."),
                    "Try again later, add workers, or raise queue.max_waiting.",
                ],
            )
            .with(RETRY),
            Refusal::QuotaUsedUp { max_sessions } => RefusalResponse::new(
                Status::TOO_MANY_REQUESTS,
                RefusalCode::QuotaUsedUp,
                [
                    &format!("This token has all its {max_sessions} sessions in use, or in line."),
                    "Close some, or have its max_sessions raised.",
                ],
            ),
            Refusal::HeadTooLarge { max } => RefusalResponse::new(
                Status::REQUEST_HEADER_FIELDS_TOO_LARGE,
                RefusalCode::HeadersTooLarge,
                [&format!("The request head is larger than {max} bytes.")],
            ),
            Refusal::TooManyHeaders => RefusalResponse::new(
                Status::REQUEST_HEADER_FIELDS_TOO_LARGE,
                RefusalCode::HeadersTooLarge,
                [&format!("The request has more than {MAX_HEADERS} headers.")],
            ),
            Refusal::ByWorker(answer) => by_worker(answer),
            Refusal::NotDialled { tried } => RefusalResponse::new(
                Status::BAD_GATEWAY,
                RefusalCode::NoWorkerReachable,
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
                RefusalCode::Draining,
                [
                    "no available servers: this proxy is shutting down.",
                    "Try again: another one, or its successor, will answer.",
                ],
            ),
            Refusal::StoreAway => unavailable(
                RefusalCode::StoreAway,
                [
                    "no available servers: the grid's shared store is out of reach.",
                    "Try again in a moment.",
                ],
            ),
            Refusal::OutOf(shortage) => unavailable(
                RefusalCode::OutOfResources,
                [
                    &format!("no available servers: this proxy is out of {shortage}."),
                    "Try again in a moment, or have its limits raised by whoever runs the grid.",
                ],
            ),
            Refusal::TooManyConnections(why) => unavailable(
                RefusalCode::TooManyConnections,
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
}

/// What of the client's launch options was refused, and what is allowed.
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
        LaunchError::Argument(_) => {
            "Leave it out, or have it listed under session.launch_options.".to_owned()
        }
        LaunchError::Preference(_) => "Leave it out.".to_owned(),
    };
    RefusalResponse::new(
        StatusCode::BAD_REQUEST,
        RefusalCode::LaunchOptions,
        [&why.to_string(), &advice],
    )
}

/// What a worker said that refused the request; the status is the worker's.
fn by_worker(answer: &WorkerAnswer) -> RefusalResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = status.canonical_reason().unwrap_or("no reason");
    let (code, advice) = match answer.status {
        428 => (
            RefusalCode::NoSuchVersion,
            "Use the Playwright version of the grid's workers in the client.",
        ),
        431 => (
            RefusalCode::HeadersTooLarge,
            "Send shorter headers: launch options and custom headers count.",
        ),
        _ => (
            RefusalCode::RefusedByWorker,
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
            RefusalCode::AllSeatsTaken,
            format!("all {browser} seats are taken"),
            "Try again, add workers, or raise queue.timeout.",
        ),
        NoSeat::AtCeiling => (
            RefusalCode::WorkersAtCeiling,
            format!("free {browser} seats are on browsers at their lifetime limit"),
            "Try again. Open sessions may hold up fresh browsers: see playhouse status.",
        ),
        NoSeat::ShareGiven => (
            RefusalCode::StoreAway,
            format!("the shared store is away, this proxy's {browser} seats are taken"),
            "Try again in a moment: it gives a part of the free seats meanwhile.",
        ),
        NoSeat::OutOfReach => (
            RefusalCode::WorkersOutOfReach,
            format!("the {browser} workers with free seats are slow or out of reach"),
            "Try again; the grid's log says which workers and why.",
        ),
        NoSeat::NoWorker => (
            RefusalCode::NoWorker,
            format!("no {browser} worker is registered"),
            "Start one: playhouse worker, or BROWSER_TYPE for another browser.",
        ),
        NoSeat::LeftJustNow => (
            RefusalCode::WorkersLeftJustNow,
            format!("the last {browser} worker left a moment ago and may be back"),
            "Try again in a moment; the grid's log says which worker left and why.",
        ),
        NoSeat::BeingCounted => (
            RefusalCode::SeatsBeingCounted,
            format!("{browser} seats are being counted anew after an outage"),
            "Try again in a few seconds: the shared store came back empty.",
        ),
        NoSeat::AllDraining => (
            RefusalCode::AllWorkersDraining,
            format!("all {browser} workers are draining or out of reach"),
            "Try again in a moment.",
        ),
    };
    let cause = format!("no available servers: {cause} (waited {waited:.1} s).");
    RefusalResponse::new(StatusCode::SERVICE_UNAVAILABLE, code, [&cause, advice]).with(RETRY)
}
