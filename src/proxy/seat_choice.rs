//! Which kind of seat a client gets, and which launch options its browser is started with.

use super::refusal::Refusal;
use super::session_request::parameter;
use crate::fleet::Fleet;
use crate::launch::{HEADER, LaunchError, LaunchOptions, Permission};
use crate::model::{Browser, Pool, SeatKind, Version};
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The parameter in which clients send their launch options; before the header, as in Playwright's server.
const PARAMETER: &str = "launch-options";

/// What the grid has for a client.
pub trait Offer {
    /// The kind of seat for somebody who asks for none.
    fn usual_seat(&self, browser: Browser) -> SeatKind;
    /// Whether there is such a thing.
    fn serves(&self, wanted: &Pool) -> bool;
    /// Whether all browsers that would do have these launch options of themselves.
    fn has_launch_options(&self, wanted: &Pool, options: &LaunchOptions) -> bool;
}

/// What the fleet has.
pub struct FleetOffer<'a> {
    pub fleet: &'a Fleet,
    /// The kind of seat for those who ask for none, where the client's token or the configuration says it.
    pub usual: Option<SeatKind>,
}

impl Offer for FleetOffer<'_> {
    fn usual_seat(&self, browser: Browser) -> SeatKind {
        self.usual.unwrap_or_else(|| self.fleet.usual_seat(browser))
    }

    fn serves(&self, wanted: &Pool) -> bool {
        self.fleet.serves(wanted)
    }

    fn has_launch_options(&self, wanted: &Pool, options: &LaunchOptions) -> bool {
        self.fleet.has_launch_options(wanted, options)
    }
}

/// A client's seat.
#[derive(Debug, PartialEq)]
pub struct SeatChoice {
    pub wanted: Pool,
    /// What its browser is to be started with; nothing special, if empty.
    pub launch: LaunchOptions,
    /// Launch options that it does not get, in words.
    pub note: Option<String>,
}

/// The launch options of a request.
///
/// # Errors
///
/// Those that cannot be understood, or that the grid does not allow.
pub fn launch_options(
    query: Option<&str>,
    headers: &HeaderMap,
    browser: Browser,
    allowed: &[Permission],
) -> Result<LaunchOptions, Refusal> {
    let read = || {
        let options = match in_query(query) {
            Some(json) => LaunchOptions::read(&json)?,
            None => {
                let mut values = headers.get_all(HEADER).iter();
                match (values.next(), values.next()) {
                    (None, _) => LaunchOptions::default(),
                    (Some(value), None) if value.is_empty() => LaunchOptions::default(),
                    (Some(value), None) => {
                        LaunchOptions::read(in_unicode(value.as_bytes()).as_bytes())?
                    }
                    (Some(_), Some(_)) => return Err(LaunchError::NoObject),
                }
            }
        };
        options.check(browser, allowed)?;
        Ok(options)
    };
    read().map_err(|why| Refusal::LaunchOptions {
        why,
        allowed: allowed.to_vec(),
    })
}

/// The text of a header: Node writes Latin-1, which is hardly ever UTF-8 by chance, others write UTF-8.
fn in_unicode(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

/// Those of the query, which is read as a form: `+` is a space.
fn in_query(query: Option<&str>) -> Option<Vec<u8>> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(name, _)| *name == PARAMETER);
    let (_, value) = found.next()?;
    let json: Vec<u8> = percent_decode_str(&value.replace('+', " ")).collect();
    (!json.is_empty()).then_some(json)
}

/// Chooses the kind of seat. Who asks for one gets it. Launch options that no shared browser has take an
/// own seat, if the grid has any.
///
/// # Errors
///
/// A kind of seat that nobody knows.
pub fn choose(
    query: Option<&str>,
    browser: Browser,
    version: Option<Version>,
    options: LaunchOptions,
    offer: &impl Offer,
) -> Result<SeatChoice, Refusal> {
    let wanted = |seat| Pool {
        browser,
        version,
        seat,
    };
    let asked = match parameter(query, "seat") {
        Some(name) => Some(name.parse().map_err(|_| Refusal::UnknownSeat)?),
        None => None,
    };
    let usual = wanted(asked.unwrap_or_else(|| offer.usual_seat(browser)));
    let as_usual = |note| SeatChoice {
        wanted: usual,
        launch: LaunchOptions::default(),
        note,
    };
    let is_shared = usual.seat == SeatKind::Shared;
    if options.is_empty() || (is_shared && offer.has_launch_options(&usual, &options)) {
        return Ok(as_usual(None));
    }
    let own = wanted(SeatKind::Own);
    let why = match asked {
        Some(SeatKind::Shared) => "a shared seat was asked for",
        _ if is_shared && !offer.serves(&own) => "the grid has no own seats for them",
        _ => {
            return Ok(SeatChoice {
                wanted: own,
                launch: options,
                note: None,
            });
        }
    };
    Ok(as_usual(Some(not_served(&options, why))))
}

/// In words, that launch options are not served.
pub fn not_served(options: &LaunchOptions, why: &str) -> String {
    let names: Vec<&str> = options.names().map(|name| name.as_str()).collect();
    let names = names.join(", ");
    format!("launch options not served: {names} ({why})")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANGUAGE: &str = r#"{"args":["--lang=de-DE"],"headless":false}"#;

    /// A grid of these seats, whose shared browsers have these launch options of themselves.
    struct ProxyState(&'static [SeatKind], &'static str);

    impl Offer for ProxyState {
        fn usual_seat(&self, _: Browser) -> SeatKind {
            self.0.iter().copied().min().unwrap_or_default()
        }

        fn serves(&self, wanted: &Pool) -> bool {
            self.0.contains(&wanted.seat)
        }

        fn has_launch_options(&self, wanted: &Pool, options: &LaunchOptions) -> bool {
            let own = LaunchOptions::read(self.1.as_bytes()).unwrap();
            wanted.seat == SeatKind::Shared && own == *options
        }
    }

    const BOTH: ProxyState = ProxyState(&[SeatKind::Shared, SeatKind::Own], "{}");
    const SHARED: ProxyState = ProxyState(&[SeatKind::Shared], "{}");

    fn ask(query: &str, header: &str, proxy: &ProxyState) -> Result<SeatChoice, Refusal> {
        let mut headers = HeaderMap::new();
        if !header.is_empty() {
            headers.insert(HEADER, header.parse().unwrap());
        }
        let browser = Browser::Chromium;
        let options = launch_options(Some(query), &headers, browser, &Permission::DEFAULT)?;
        choose(Some(query), browser, None, options, proxy)
    }

    fn seat(query: &str, header: &str, proxy: &ProxyState) -> (SeatKind, usize, bool) {
        let choice = ask(query, header, proxy).unwrap();
        let seat = choice.wanted.seat;
        (seat, choice.launch.args.len(), choice.note.is_some())
    }

    #[test]
    fn options_that_ask_for_something_take_an_own_seat() {
        let nothing = r#"{"handleSIGINT":false,"headless":true,"tracesDir":"/t"}"#;
        assert_eq!(seat("", nothing, &BOTH), (SeatKind::Shared, 0, false));
        assert_eq!(seat("", LANGUAGE, &BOTH), (SeatKind::Own, 1, false));
        assert_eq!(seat("seat=own", nothing, &BOTH), (SeatKind::Own, 0, false));
        assert_eq!(seat("seat=own", LANGUAGE, &BOTH), (SeatKind::Own, 1, false));
        let shared = seat("seat=shared", LANGUAGE, &BOTH);
        assert_eq!(shared, (SeatKind::Shared, 0, true));
        // As what it is refused for that it wants own seats.
        assert_eq!(seat("seat=own", LANGUAGE, &SHARED).0, SeatKind::Own);
    }

    #[test]
    fn without_own_seats_the_client_is_told() {
        let choice = ask("", LANGUAGE, &SHARED).unwrap();
        assert_eq!(choice.wanted.seat, SeatKind::Shared);
        let note = choice.note.unwrap();
        assert_eq!(
            note,
            "launch options not served: args (the grid has no own seats for them)"
        );
    }

    #[test]
    fn options_that_the_shared_browsers_have_take_a_shared_seat() {
        let same = ProxyState(&[SeatKind::Shared, SeatKind::Own], LANGUAGE);
        assert_eq!(seat("", LANGUAGE, &same), (SeatKind::Shared, 0, false));
        let other = r#"{"args":["--lang=fr"]}"#;
        assert_eq!(seat("", other, &same), (SeatKind::Own, 1, false));
    }

    #[test]
    fn the_query_goes_before_the_header_and_is_read_as_a_form() {
        let query = "token=x&launch-options=%7B%22args%22:[%22--user-agent=a+b%2Bc%22]%7D";
        let choice = ask(query, r#"{"slowMo":5}"#, &BOTH).unwrap();
        assert_eq!(choice.launch.args, ["--user-agent=a b+c"]);
        assert_eq!(choice.launch.slow_mo, None);
        let choice = ask("launch-options=", r#"{"slowMo":5}"#, &BOTH).unwrap();
        assert_eq!(choice.launch.slow_mo, Some(5.0));
    }

    #[test]
    fn headers_of_node_are_understood_as_those_of_others() {
        let options = "{\"args\":[\"--lang=\u{e4}\"]}";
        let latin: Vec<u8> = options.chars().map(|c| c as u8).collect();
        for header in [options.as_bytes(), &latin] {
            let value = http::HeaderValue::from_bytes(header).unwrap();
            let headers = HeaderMap::from_iter([(HEADER.parse().unwrap(), value)]);
            let browser = Browser::Chromium;
            let read = launch_options(None, &headers, browser, &Permission::DEFAULT).unwrap();
            assert_eq!(read.args, ["--lang=\u{e4}"]);
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        let refused = |query: &str, header: &str| ask(query, header, &SHARED).unwrap_err();
        let response = refused("", r#"{"executablePath":"/bin/sh"}"#).response();
        assert_eq!(response.status, 400);
        assert!(response.lines[0].contains("executablePath"), "{response:?}");
        assert!(response.lines[1].contains("slowMo"), "{response:?}");
        for header in ["x", "[]"] {
            assert_eq!(refused("", header).status(), 400);
        }
        let mut twice = HeaderMap::new();
        twice.append(HEADER, "{}".parse().unwrap());
        twice.append(HEADER, "{}".parse().unwrap());
        assert!(launch_options(None, &twice, Browser::Chromium, &[]).is_err());
    }
}
