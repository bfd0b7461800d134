//! Whether a request is a proper WebSocket handshake (RFC 6455, section 4.2.1). Pure.
//!
//! It is checked before a seat is asked for, and as strictly as the `ws` library of Playwright's
//! server does: what a worker would answer with a bare 400 is refused here, with the reason.

use super::refusal::Refusal;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::HashSet;

/// Length of the base64 text of 16 bytes, without its padding.
const KEY_DIGITS: usize = 22;

/// The extension that Playwright's server knows; it reads no other's parameters (RFC 7692).
const DEFLATE: &str = "permessage-deflate";

/// Whether the protocol to change to is WebSocket, alone or among others; curl offers `h2c` with
/// plain requests.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    names(headers, &UPGRADE, "websocket")
}

/// Checks a request that asks for WebSocket, and returns its key.
///
/// # Errors
/// With what is wrong with it.
pub fn check(headers: &HeaderMap) -> Result<&HeaderValue, Refusal> {
    let bad = |what| Err(Refusal::BadRequest(what));
    if !names(headers, &CONNECTION, "upgrade") {
        return bad(
            "The Connection header does not name Upgrade: a proxy in between has to pass both.",
        );
    }
    match only(headers, "sec-websocket-version") {
        Some(version) if version == "13" => {}
        _ => return Err(Refusal::WebSocketVersion),
    }
    let Some(key) = only(headers, "sec-websocket-key").filter(|key| is_key(key.as_bytes())) else {
        return bad("A WebSocket handshake has one Sec-WebSocket-Key: 16 bytes in base64.");
    };
    if only(headers, HOST.as_str()).is_none_or(|host| host.as_bytes().trim_ascii().is_empty()) {
        return bad("A WebSocket handshake has one Host header.");
    }
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0");
    if has_body {
        return bad("A WebSocket handshake has no body.");
    }
    if list(headers, "sec-websocket-protocol").is_some_and(|list| !are_protocols(&list)) {
        return bad("Sec-WebSocket-Protocol is no list of different tokens (RFC 6455, 4.2.1).");
    }
    if list(headers, "sec-websocket-extensions").is_some_and(|list| !are_extensions(&list)) {
        return bad("Sec-WebSocket-Extensions cannot be read (RFC 6455, 9.1, and RFC 7692).");
    }
    Ok(key)
}

/// Whether one of a header's comma-separated items is this token, in any case.
fn names(headers: &HeaderMap, header: &HeaderName, token: &str) -> bool {
    headers.get_all(header).iter().any(|value| {
        let mut items = value.as_bytes().split(|byte| *byte == b',');
        items.any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// The value of a header that is there once.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn is_key(key: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let digits = key.strip_suffix(b"==");
    digits.is_some_and(|digits| digits.len() == KEY_DIGITS && digits.iter().all(digit))
}

/// All values of a list's headers as one text, as Node joins them; `None` when there is none.
fn list(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Of a token (RFC 9110, section 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn are_protocols(list: &str) -> bool {
    let mut seen = HashSet::new();
    list.split(',')
        .map(trim)
        .all(|protocol| is_token(protocol) && seen.insert(protocol))
}

/// A comma or semicolon within quotes makes the value no token, which nobody may say anyway.
fn are_extensions(list: &str) -> bool {
    list.split(',').all(is_extension)
}

fn is_extension(offer: &str) -> bool {
    let mut parts = offer.split(';').map(trim);
    let name = parts.next().unwrap_or_default();
    let mut seen = HashSet::new();
    is_token(name)
        && parts.all(|part| {
            let (key, value) = match part.split_once('=') {
                None => (part, None),
                Some((key, value)) => match unquoted(value) {
                    Some(value) => (key, Some(value)),
                    None => return false,
                },
            };
            is_token(key)
                && (name != DEFLATE
                    || (seen.insert(key) && is_deflate_parameter(key, value.as_deref())))
        })
}

/// The value of a parameter: a token, as it is or in quotes.
fn unquoted(value: &str) -> Option<String> {
    let Some(rest) = value.strip_prefix('"') else {
        return is_token(value).then(|| value.to_owned());
    };
    let mut bytes = rest.strip_suffix('"')?.bytes();
    let mut token = String::new();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'\\' { bytes.next()? } else { byte };
        token.push(char::from(byte));
    }
    is_token(&token).then_some(token)
}

/// What a client may ask of the extension (RFC 7692, section 7.1).
fn is_deflate_parameter(name: &str, value: Option<&str>) -> bool {
    let bits = |value: &str| {
        value.bytes().all(|byte| byte.is_ascii_digit())
            && value
                .parse::<u8>()
                .is_ok_and(|bits| (8..=15).contains(&bits))
    };
    match name {
        "client_no_context_takeover" | "server_no_context_takeover" => value.is_none(),
        "server_max_window_bits" => value.is_some_and(bits),
        "client_max_window_bits" => value.is_none_or(bits),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: [(&str, &str); 5] = [
        ("host", "grid:8080"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    /// A good handshake with these headers in the place of its own.
    fn with(pairs: &[(&str, &str)]) -> Result<(), Refusal> {
        let replaced = |name: &str| pairs.iter().any(|(other, _)| *other == name);
        let own = GOOD.iter().filter(|(name, _)| !replaced(name));
        let all: Vec<_> = own.chain(pairs).copied().collect();
        check(&headers(&all)).map(|_| ())
    }

    fn without(name: &str) -> Result<(), Refusal> {
        let rest: Vec<_> = GOOD.into_iter().filter(|(it, _)| *it != name).collect();
        check(&headers(&rest)).map(|_| ())
    }

    #[test]
    fn clients_that_a_plain_server_takes_are_taken() {
        for pairs in [
            &[][..],
            &[("connection", "close, Upgrade")],
            &[("connection", "keep-alive, upgrade")],
            &[("connection", "keep-alive"), ("connection", "UPGRADE")],
            &[("content-length", "0")],
            &[("sec-websocket-protocol", "one , two\t,three")],
            &[
                ("sec-websocket-protocol", "one"),
                ("sec-websocket-protocol", "two"),
            ],
            &[("sec-websocket-extensions", "permessage-deflate")],
            &[(
                "sec-websocket-extensions",
                "permessage-deflate; client_max_window_bits",
            )],
            &[(
                "sec-websocket-extensions",
                "permessage-deflate;server_max_window_bits=\"10\" ; client_no_context_takeover, \
                 permessage-deflate",
            )],
            &[(
                "sec-websocket-extensions",
                "x-webkit-deflate-frame; any=thing; any",
            )],
        ] {
            assert_eq!(with(pairs), Ok(()), "{pairs:?}");
        }
        for upgrade in ["websocket", "WebSocket", "h2c, websocket", "websocket,h2c"] {
            assert!(is_websocket(&headers(&[("upgrade", upgrade)])), "{upgrade}");
        }
        assert!(is_websocket(&headers(&[
            ("upgrade", "h2c"),
            ("upgrade", "websocket")
        ])));
        for upgrade in ["h2c", "websockets", "web socket", ""] {
            assert!(
                !is_websocket(&headers(&[("upgrade", upgrade)])),
                "{upgrade}"
            );
        }
    }

    #[test]
    fn what_a_worker_would_refuse_is_refused_before() {
        for pairs in [
            &[("connection", "close")][..],
            &[("connection", "upgraded")],
            &[("host", "a"), ("host", "a")],
            &[("host", "")],
            &[("content-length", "5")],
            &[("content-length", "0"), ("content-length", "5")],
            &[("transfer-encoding", "chunked")],
            &[("sec-websocket-protocol", "")],
            &[("sec-websocket-protocol", "a b")],
            &[("sec-websocket-protocol", "a,")],
            &[("sec-websocket-protocol", "a, a")],
            &[
                ("sec-websocket-protocol", "a"),
                ("sec-websocket-protocol", "a"),
            ],
            &[("sec-websocket-protocol", "caf\u{e9}")],
            &[("sec-websocket-protocol", "\"a\"")],
            &[("sec-websocket-extensions", "")],
            &[("sec-websocket-extensions", ",")],
            &[("sec-websocket-extensions", "a;")],
            &[("sec-websocket-extensions", "a; b =c")],
            &[("sec-websocket-extensions", "a; b= c")],
            &[("sec-websocket-extensions", "a; b=")],
            &[("sec-websocket-extensions", "a; b=\"\"")],
            &[("sec-websocket-extensions", "a; b=\"c")],
            &[("sec-websocket-extensions", "a; b=\"c,d\"")],
            &[("sec-websocket-extensions", "a=b")],
            &[("sec-websocket-extensions", "permessage-deflate; foo")],
            &[(
                "sec-websocket-extensions",
                "permessage-deflate; server_max_window_bits",
            )],
            &[(
                "sec-websocket-extensions",
                "permessage-deflate; client_max_window_bits=16",
            )],
            &[(
                "sec-websocket-extensions",
                "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            )],
            &[(
                "sec-websocket-extensions",
                "permessage-deflate; client_no_context_takeover=1",
            )],
        ] {
            let refused = with(pairs);
            assert!(matches!(refused, Err(Refusal::BadRequest(_))), "{pairs:?}");
        }
        for missing in ["connection", "host", "sec-websocket-key"] {
            let refused = without(missing);
            assert!(matches!(refused, Err(Refusal::BadRequest(_))), "{missing}");
        }
    }

    #[test]
    fn a_key_is_one_and_has_16_bytes() {
        for bad in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "SGVsbG8sIHdvcmxkIQ==",
            "dGhlIHNhbXBsZSBub25jZTE=",
            "dGhlIHNhbXBsZSBub25jZTEyMw==",
            "dGhlIHNhbXBsZSBub25j ZQ==",
            "dGhlIHNhbXBsZSBub25j-Q==",
            "======================",
            "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
        ] {
            let refused = with(&[("sec-websocket-key", bad)]);
            assert!(matches!(refused, Err(Refusal::BadRequest(_))), "{bad}");
        }
        let [.., key] = GOOD;
        assert!(with(&[key, key]).is_err(), "twice the same is two");
    }

    #[test]
    fn another_version_hears_which_one_there_is() {
        let twice = [("sec-websocket-version", "13"); 2];
        for version in ["8", "", "13, 8", "14", "0x0d", "thirteen"] {
            let refused = with(&[("sec-websocket-version", version)]);
            assert_eq!(refused, Err(Refusal::WebSocketVersion), "{version}");
        }
        assert_eq!(with(&twice), Err(Refusal::WebSocketVersion));
        assert_eq!(
            without("sec-websocket-version"),
            Err(Refusal::WebSocketVersion)
        );
        let response = Refusal::WebSocketVersion.response();
        assert!(response.headers.contains(&("Sec-WebSocket-Version", "13")));
        assert_eq!(response.status, 426);
    }

    proptest! {
        /// Whatever a client sends, it is judged, and what is taken is what `ws` could read.
        #[test]
        fn any_list_is_judged(list in "[a-c=;,\" \\\\\t]{0,24}") {
            if are_extensions(&list) {
                prop_assert!(!list.trim().is_empty());
                prop_assert_eq!(list.matches('"').count() % 2, 0);
                prop_assert!(!list.split([',', ';']).any(|part| part.trim().is_empty()));
            }
            if are_protocols(&list) {
                prop_assert!(!list.contains(['"', ';', '=', '\\']));
            }
        }
    }
}
