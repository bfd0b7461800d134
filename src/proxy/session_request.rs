//! What a client asks for: a request head turned into an [`SessionRequest`] or a [`Refusal`]. Pure.

use super::handshake;
use super::refusal::Refusal;
use super::seat_choice::{self, Offer};
use crate::config::{self, Config};
use crate::fleet::{CDP, Handshake, LAUNCH_HEADER, PROTOCOL_HEADER};
use crate::launch;
use crate::model::{Browser, Pool, SeatKind, Version};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST, ORIGIN, SEC_WEBSOCKET_EXTENSIONS, USER_AGENT};
use std::borrow::Cow;

/// The ticket of a DevTools connection, as its address carries it.
const TICKET: &str = "ticket";

/// What a client of the DevTools protocol gets: whatever Playwright's version is.
pub const CDP_SEAT: Pool = Pool {
    browser: Browser::Chromium,
    version: None,
    seat: SeatKind::Own,
};

/// The address of a DevTools connection that needs no token.
pub fn ticket_target(ticket: &str) -> String {
    format!("/devtools/browser/own?{TICKET}={ticket}")
}

/// The address of a DevTools connection that shows its token itself, as this query does if at all.
pub fn cdp_target(query: Option<&str>) -> String {
    query.map_or("/cdp".to_owned(), |query| format!("/cdp?{query}"))
}

/// The ticket of a request, if it has one.
pub fn ticket(query: Option<&str>) -> Option<Cow<'_, str>> {
    parameter(query, TICKET)
}

/// Header in which every Playwright client names its browser.
pub const BROWSER_HEADER: &str = "x-playwright-browser";
/// Sent by `connect`, empty where nothing is exposed.
const PROXY_HEADER: &str = "x-playwright-proxy";

/// A request for a session, well-formed but not yet granted.
#[derive(Debug, PartialEq, Eq)]
pub struct SessionRequest {
    pub wanted: Pool,
    /// Whether the client is Playwright, and so shows text bodies to its user.
    pub playwright: bool,
    /// Whether its headers leave open which protocol it speaks.
    pub speaks_anything: bool,
    /// What the worker gets to see of the request.
    pub handshake: Handshake,
    /// What the client wants and does not get, for its log.
    pub notes: Vec<String>,
}

/// What may be the token of a request: `Authorization: Bearer …`, the user and the password of the
/// client's URL (Basic), or `?token=…`; the first of these that is there.
pub fn tokens<'a>(query: Option<&'a str>, headers: &'a HeaderMap) -> Vec<Cow<'a, str>> {
    let authorization = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .map(|(scheme, rest)| (scheme, rest.trim()));
    match authorization {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            return vec![token.into()];
        }
        Some((scheme, encoded)) if scheme.eq_ignore_ascii_case("basic") => {
            let decoded = BASE64_STANDARD.decode(encoded).unwrap_or_default();
            let decoded = String::from_utf8_lossy(&decoded);
            let (user, password) = decoded.split_once(':').unwrap_or((&decoded, ""));
            let given = [password, user].into_iter().filter(|it| !it.is_empty());
            let given: Vec<_> = given.map(|it| Cow::Owned(it.to_owned())).collect();
            if !given.is_empty() {
                return given;
            }
        }
        _ => {}
    }
    parameter(query, "token").into_iter().collect()
}

/// Whether the User-Agent is Playwright's.
pub fn is_playwright(headers: &HeaderMap) -> bool {
    user_agent(headers).is_some_and(|agent| agent.starts_with("Playwright/"))
}

/// Reads what session an upgrade request asks for. What the client does not say is said by what the grid has.
pub fn read(
    query: Option<&str>,
    headers: &HeaderMap,
    config: &Config,
    offer: &impl Offer,
) -> Result<SessionRequest, Refusal> {
    let key = handshake::check(headers)?;
    check_origin(headers, &config.auth)?;
    if wants_cdp(query, headers) {
        return Err(Refusal::BadRequest(
            "This path speaks Playwright's protocol. For CDP use http://HOST:PORT or ws://HOST:PORT/cdp.",
        ));
    }
    let browser = match parameter(query, "browser") {
        Some(name) => name.parse().map_err(|_| Refusal::UnknownBrowser)?,
        None => match headers.get(BROWSER_HEADER) {
            Some(name) => browser_of(name.as_bytes())?,
            None => config.selection.default_browser,
        },
    };
    let allowed = &config.session.launch_options;
    let options = seat_choice::launch_options(query, headers, browser, allowed)?;
    let version = user_agent(headers).and_then(Version::from_user_agent);
    let choice = seat_choice::choose(query, browser, version, options, offer)?;
    let mut wire = forwarded(headers, choice.launch.is_empty());
    if !choice.launch.is_empty() {
        let json = choice.launch.to_json();
        wire.extend_from_slice(format!("{LAUNCH_HEADER}: {json}\r\n").as_bytes());
    }
    let mut notes: Vec<String> = choice.note.into_iter().collect();
    if headers.get(PROXY_HEADER).is_some_and(|it| !it.is_empty()) {
        notes.push("exposeNetwork is not served".to_owned());
    }
    Ok(SessionRequest {
        wanted: choice.wanted,
        playwright: is_playwright(headers),
        speaks_anything: !is_playwright(headers) && !is_connect(headers),
        handshake: Handshake::new(wire, key.as_bytes()),
        notes,
    })
}

/// Checks what the query of a client of the DevTools protocol says of its browser: there is one kind of
/// it, and nobody who asks for another one is to get that in silence.
///
/// # Errors
///
/// With what is true.
pub fn check_cdp(query: Option<&str>) -> Result<(), Refusal> {
    if let Some(name) = parameter(query, "browser") {
        let browser: Browser = name.parse().map_err(|_| Refusal::UnknownBrowser)?;
        if browser != CDP_SEAT.browser {
            return Err(Refusal::BadRequest(
                "CDP drives Chromium only: leave ?browser= out, or use connect(\"ws://HOST:PORT/\").",
            ));
        }
    }
    if let Some(name) = parameter(query, "seat") {
        let seat: SeatKind = name.parse().map_err(|_| Refusal::UnknownSeat)?;
        if seat != CDP_SEAT.seat {
            return Err(Refusal::BadRequest(
                "A CDP session has a browser of its own: leave ?seat= out, or ask for ?seat=own.",
            ));
        }
    }
    Ok(())
}

/// Reads the request for a browser that is driven by the DevTools protocol.
pub fn read_cdp(
    query: Option<&str>,
    headers: &HeaderMap,
    config: &Config,
) -> Result<SessionRequest, Refusal> {
    let key = handshake::check(headers)?;
    check_origin(headers, &config.auth)?;
    if headers.contains_key(BROWSER_HEADER) {
        return Err(Refusal::BadRequest(
            "This path speaks CDP: use connectOverCDP here, or connect(\"ws://HOST:PORT/\").",
        ));
    }
    check_cdp(query)?;
    let allowed = &config.session.launch_options;
    let options = seat_choice::launch_options(query, headers, CDP_SEAT.browser, allowed)?;
    let not_served = || seat_choice::not_served(&options, "over CDP there are none");
    let note = (!options.is_empty()).then(not_served);
    // What the gateway does not know is of no use to it: it agrees on no extension.
    let key_text = String::from_utf8_lossy(key.as_bytes());
    let wire = format!(
        "sec-websocket-version: 13\r\nsec-websocket-key: {key_text}\r\n{PROTOCOL_HEADER}: {CDP}\r\n"
    );
    Ok(SessionRequest {
        wanted: CDP_SEAT,
        playwright: is_playwright(headers),
        speaks_anything: false,
        handshake: Handshake::new(wire.into_bytes(), key.as_bytes()),
        notes: note.into_iter().collect(),
    })
}

/// Whether a client that comes where Playwright's own protocol is spoken wants CDP. Puppeteer says who it
/// is. Playwright's `connectOverCDP` sends what its `connect` does, compression too, but for the
/// headers of its own; whoever else calls itself Playwright is taken at its word.
fn wants_cdp(query: Option<&str>, headers: &HeaderMap) -> bool {
    let agent = user_agent(headers).unwrap_or_default();
    let over_cdp = agent.starts_with("Playwright/")
        && headers.contains_key(SEC_WEBSOCKET_EXTENSIONS)
        && !is_connect(headers)
        && parameter(query, "browser").is_none();
    agent.starts_with("Puppeteer") || over_cdp
}

/// Whether the headers are those of Playwright's `connect`.
fn is_connect(headers: &HeaderMap) -> bool {
    let own = [BROWSER_HEADER, PROXY_HEADER];
    own.iter().any(|name| headers.contains_key(*name))
}

fn browser_of(name: &[u8]) -> Result<Browser, Refusal> {
    std::str::from_utf8(name)
        .ok()
        .and_then(|name| name.parse().ok())
        .ok_or(Refusal::UnknownBrowser)
}

/// A web page must not drive the grid: browsers send the page's Origin with a WebSocket handshake,
/// Playwright's clients send none.
fn check_origin(headers: &HeaderMap, auth: &config::Auth) -> Result<(), Refusal> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().map_err(|_| Refusal::ForeignOrigin)?;
    let own = headers.get(HOST).and_then(|host| host.to_str().ok());
    let same = own.is_some_and(|host| {
        origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
    });
    let listed = auth.allowed_origins.iter().any(|allowed| allowed == origin);
    if same || listed {
        Ok(())
    } else {
        Err(Refusal::ForeignOrigin)
    }
}

fn user_agent(headers: &HeaderMap) -> Option<&str> {
    headers.get(USER_AGENT)?.to_str().ok()
}

/// A query parameter, percent-decoded. The query itself is never logged: it may hold the token.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| percent_encoding::percent_decode_str(value).decode_utf8_lossy())
}

/// User-Agent, the WebSocket headers and `x-playwright-*` go on to the worker; never
/// `Authorization`, `Cookie`, `Origin` or the token. A worker that is told by this proxy what to
/// start needs no other word of that.
fn forwarded(headers: &HeaderMap, with_launch_options: bool) -> Vec<u8> {
    let mut wire = Vec::with_capacity(384);
    for (name, value) in headers {
        let name = name.as_str();
        let goes_on = name == "user-agent"
            || name.starts_with("sec-websocket-")
            || name.starts_with("x-playwright-");
        if goes_on && (with_launch_options || name != launch::HEADER) {
            wire.extend_from_slice(name.as_bytes());
            wire.extend_from_slice(b": ");
            wire.extend_from_slice(value.as_bytes());
            wire.extend_from_slice(b"\r\n");
        }
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;
    use crate::launch::LaunchOptions;

    /// A grid of all seats.
    struct Everything;

    impl Offer for Everything {
        fn usual_seat(&self, _: Browser) -> SeatKind {
            SeatKind::Shared
        }

        fn serves(&self, _: &Pool) -> bool {
            true
        }

        fn has_launch_options(&self, _: &Pool, _: &LaunchOptions) -> bool {
            false
        }
    }

    fn ask(uri: &str, extra: &[(&'static str, &str)]) -> Result<SessionRequest, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(
            "sec-websocket-key",
            "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap(),
        );
        headers.insert("sec-websocket-version", "13".parse().unwrap());
        headers.insert("host", "grid:8080".parse().unwrap());
        headers.insert("connection", "Upgrade".parse().unwrap());
        for (name, value) in extra {
            headers.insert(*name, value.parse().unwrap());
        }
        let mut config = Config::defaults(Role::Proxy);
        config.selection.default_browser = Browser::Webkit;
        let query = uri.split_once('?').map(|(_, query)| query);
        read(query, &headers, &config, &Everything)
    }

    fn browser(uri: &str, extra: &[(&'static str, &str)]) -> Result<Browser, Refusal> {
        ask(uri, extra).map(|ask| ask.wanted.browser)
    }

    #[test]
    fn the_browser_is_the_querys_then_the_headers_then_the_default() {
        let header = [("x-playwright-browser", "firefox")];
        assert_eq!(
            browser("/?browser=chromium", &header),
            Ok(Browser::Chromium)
        );
        assert_eq!(browser("/", &header), Ok(Browser::Firefox));
        assert_eq!(browser("/", &[]), Ok(Browser::Webkit));
        assert_eq!(
            browser("/?browser=chrome", &header),
            Err(Refusal::UnknownBrowser)
        );
        assert_eq!(
            browser("/", &[("x-playwright-browser", "opera")]),
            Err(Refusal::UnknownBrowser)
        );
    }

    #[test]
    fn the_seat_is_what_the_query_says_or_the_usual_one() {
        let seat = |uri| ask(uri, &[]).map(|ask| ask.wanted.seat);
        assert_eq!(seat("/"), Ok(SeatKind::Shared));
        assert_eq!(seat("/?seat=shared"), Ok(SeatKind::Shared));
        assert_eq!(seat("/?token=x&seat=own"), Ok(SeatKind::Own));
        for unknown in ["/?seat=", "/?seat=Own", "/?seat=cdp"] {
            assert_eq!(seat(unknown), Err(Refusal::UnknownSeat), "{unknown}");
        }
    }

    #[test]
    fn the_worker_sees_no_secret_and_no_origin() {
        let asked = ask(
            "/?token=secret",
            &[
                ("authorization", "Bearer secret"),
                ("cookie", "a=secret"),
                ("origin", "http://grid:8080"),
                ("x-playwright-proxy", "*"),
                ("user-agent", "Playwright/1.65.1 (x64) node/20"),
            ],
        )
        .unwrap();
        let wire = std::str::from_utf8(asked.handshake.headers()).unwrap();
        assert!(!wire.contains("secret") && !wire.contains("origin") && !wire.contains("host"));
        assert!(wire.contains("x-playwright-proxy: *\r\n"));
        assert!(wire.contains("user-agent: Playwright/1.65.1"));
        assert!(wire.contains("sec-websocket-key"));
        assert_eq!(asked.wanted.version.unwrap().to_string(), "1.65");
    }

    #[test]
    fn a_worker_is_told_of_launch_options_by_the_proxy_alone() {
        let given = [
            ("x-playwright-browser", "chromium"),
            (
                "x-playwright-launch-options",
                r#"{"slowMo":20,"headless":true}"#,
            ),
            ("x-playhouse-launch-options", r#"{"env":{"A":"b"}}"#),
            ("x-playwright-proxy", "<loopback>"),
        ];
        let asked = ask("/", &given).unwrap();
        let wire = std::str::from_utf8(asked.handshake.headers()).unwrap();
        assert!(wire.contains("x-playhouse-launch-options: {\"slowMo\":20.0}\r\n"));
        assert_eq!(wire.matches("launch-options").count(), 1, "{wire}");
        assert_eq!(asked.wanted.seat, SeatKind::Own);
        assert_eq!(asked.notes, ["exposeNetwork is not served"]);
    }

    #[test]
    fn who_speaks_cdp_is_sent_to_its_path() {
        const PLAYWRIGHT: (&str, &str) = ("user-agent", "Playwright/1.65.1 (x64) node/20");
        const DEFLATE: (&str, &str) = ("sec-websocket-extensions", "permessage-deflate");
        let cdp = |uri, headers: &[_]| matches!(ask(uri, headers), Err(Refusal::BadRequest(_)));
        assert!(cdp("/", &[("user-agent", "Puppeteer 24.1.0")]));
        assert!(cdp("/", &[PLAYWRIGHT, DEFLATE]));
        assert!(!cdp("/", &[PLAYWRIGHT]));
        assert!(!cdp("/", &[DEFLATE]));
        assert!(!cdp("/?browser=chromium", &[PLAYWRIGHT, DEFLATE]));
        for own in [("x-playwright-browser", "chromium"), (PROXY_HEADER, "")] {
            assert!(!cdp("/", &[PLAYWRIGHT, DEFLATE, own]));
        }
    }

    #[test]
    fn only_headers_of_playwright_tell_which_protocol_is_spoken() {
        let open = |headers: &[_]| ask("/?browser=chromium", headers).unwrap().speaks_anything;
        assert!(open(&[]));
        assert!(open(&[("user-agent", "Python/3.13 websockets/15.0")]));
        for known in [
            ("user-agent", "Playwright/1.65.1 (x64) node/20"),
            ("x-playwright-browser", "chromium"),
            (PROXY_HEADER, ""),
        ] {
            assert!(!open(&[known]));
        }
    }

    #[test]
    fn a_foreign_page_is_refused() {
        let foreign = ask("/", &[("origin", "http://evil.example")]);
        assert_eq!(foreign.err(), Some(Refusal::ForeignOrigin));
        assert!(ask("/", &[("origin", "http://grid:8080")]).is_ok());
    }

    #[test]
    fn a_token_is_found_wherever_a_client_can_put_it() {
        let found = |query: Option<&str>, authorization: &str| {
            let mut headers = HeaderMap::new();
            if !authorization.is_empty() {
                headers.insert("authorization", authorization.parse().unwrap());
            }
            let tokens = tokens(query, &headers).into_iter();
            tokens.map(Cow::into_owned).collect::<Vec<_>>()
        };
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        let query = Some("browser=firefox&token=a%2Bb");
        assert_eq!(found(query, ""), ["a+b"]);
        assert_eq!(found(query, "bearer c"), ["c"]);
        assert_eq!(found(query, &basic(":d")), ["d"]);
        assert_eq!(found(None, &basic("e:")), ["e"]);
        assert_eq!(found(None, &basic("ci:f:g")), ["f:g", "ci"]);
        assert_eq!(found(query, &basic(":")), ["a+b"]);
        assert_eq!(found(query, "Basic !"), ["a+b"]);
        assert_eq!(found(None, "Digest x"), [""; 0]);
    }
}
