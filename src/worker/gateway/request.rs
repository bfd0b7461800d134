//! What a request at a worker's gateway asks for. Pure.

use super::live::LIVE_HEADER;
use http::{Method, StatusCode};

/// Longest head that is read: what a proxy may send on (`limits.max_header_bytes`) is far less by
/// default. Node is told the same.
pub const MAX_HEAD: usize = 64 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 256;
/// A proxy that asks whether a worker answers shows the path to which it would send a session.
pub const PATH_HEADER: &str = "x-playhouse-path";

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The browser behind a path.
    Session {
        path: String,
    },
    /// To know whether the browser behind a path takes sessions.
    Answers {
        path: String,
    },
    /// To see what a session behind a path shows.
    Live {
        path: String,
        session: String,
    },
    Health,
    Readiness,
    Metrics,
    /// Nothing that is here.
    Refused(StatusCode),
}

/// Reads a whole head.
pub fn parse(head: &[u8]) -> Request {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let target = match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => request.path.unwrap_or_default(),
        Err(httparse::Error::TooManyHeaders) => {
            return Request::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        _ => return Request::Refused(StatusCode::BAD_REQUEST),
    };
    let value = |name: &str| {
        let found = request
            .headers
            .iter()
            .find(|it| it.name.eq_ignore_ascii_case(name));
        found.and_then(|it| std::str::from_utf8(it.value).ok())
    };
    if request.method != Some(Method::GET.as_str()) {
        return Request::Refused(StatusCode::METHOD_NOT_ALLOWED);
    }
    if value("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket")) {
        let path = target.to_owned();
        return Request::Session { path };
    }
    if let Some(session) = value(LIVE_HEADER) {
        let (path, session) = (target.to_owned(), session.to_owned());
        return Request::Live { path, session };
    }
    match (target, value(PATH_HEADER)) {
        ("/healthz", _) => Request::Health,
        ("/readyz", _) => Request::Readiness,
        ("/metrics", _) => Request::Metrics,
        ("/json", Some(path)) => Request::Answers {
            path: path.to_owned(),
        },
        _ => Request::Refused(StatusCode::NOT_FOUND),
    }
}

/// The head with another path in its request line.
pub fn with_path(head: &[u8], path: &str) -> Vec<u8> {
    let mut spaces = head.iter().enumerate().filter(|(_, byte)| **byte == b' ');
    let (Some((start, _)), Some((end, _))) = (spaces.next(), spaces.next()) else {
        // Nothing that was parsed as a request.
        return head.to_vec();
    };
    [&head[..=start], path.as_bytes(), &head[end..]].concat()
}

/// A header of a head that was parsed as a request.
pub fn header(head: &[u8], name: &str) -> Option<String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok()?;
    let mut found = request.headers.iter();
    let found = found.find(|it| it.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok().map(str::to_owned)
}

/// The head without a header.
pub fn without_header(head: &[u8], name: &str) -> Vec<u8> {
    let named = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':');
        colon.is_some_and(|colon| line[..colon].eq_ignore_ascii_case(name.as_bytes()))
    };
    let lines = head.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !named(line))
        .flatten()
        .copied()
        .collect()
}

/// Where a head ends, behind its empty line.
pub fn end_of(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    let new = bytes.get(from..)?;
    new.windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| from + at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(target: &str, more: &str) -> Request {
        parse(format!("GET {target} HTTP/1.1\r\nHost: w\r\n{more}\r\n").as_bytes())
    }

    #[test]
    fn pages_and_sessions_are_told_apart() {
        assert_eq!(get("/healthz", ""), Request::Health);
        assert_eq!(get("/readyz", ""), Request::Readiness);
        assert_eq!(get("/metrics", ""), Request::Metrics);
        let path = || "/abc".to_owned();
        let session = get("/abc", "Connection: Upgrade\r\nUpgrade: WebSocket\r\n");
        assert_eq!(session, Request::Session { path: path() });
        let asked = get("/json", "X-Playhouse-Path: /abc\r\n");
        assert_eq!(asked, Request::Answers { path: path() });
        let session = || "0123456789abcdef".to_owned();
        let watched = get("/abc", "X-Playhouse-Live: 0123456789abcdef\r\n");
        let (path, session) = (path(), session());
        assert_eq!(watched, Request::Live { path, session });
    }

    #[test]
    fn everything_else_is_not_here() {
        for target in [
            "/json",
            "/json/version",
            "/",
            "/abc",
            "/metrics?x",
            "*",
            "http://a/healthz",
        ] {
            let refused = Request::Refused(StatusCode::NOT_FOUND);
            assert_eq!(get(target, ""), refused, "{target}");
        }
        let posted = parse(b"POST /healthz HTTP/1.1\r\n\r\n");
        assert_eq!(posted, Request::Refused(StatusCode::METHOD_NOT_ALLOWED));
        let noise = parse(b"\x16\x03\x01\r\n\r\n");
        assert_eq!(noise, Request::Refused(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn a_header_is_found_and_left_out() {
        let head = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: k\r\nA: b\r\nA: c\r\n\r\n";
        assert_eq!(header(head, "sec-websocket-key").as_deref(), Some("k"));
        assert_eq!(header(head, "sec"), None);
        assert_eq!(
            without_header(head, "a"),
            b"GET / HTTP/1.1\r\nSec-WebSocket-Key: k\r\n\r\n"
        );
        assert_eq!(without_header(head, "get"), head);
    }

    #[test]
    fn the_rest_of_a_head_stays_as_it_is() {
        let head = b"GET /outer HTTP/1.1\r\nA: b c\r\n\r\n";
        assert_eq!(
            with_path(head, "/in"),
            b"GET /in HTTP/1.1\r\nA: b c\r\n\r\n"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            parse(&bytes);
            with_path(&bytes, "/x");
            end_of(&bytes, bytes.len() / 2);
        }

        #[test]
        fn a_head_ends_at_the_same_place_however_it_comes(split in 0usize..30) {
            let head = b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest";
            let first = end_of(&head[..split.min(head.len())], 0);
            prop_assert_eq!(first.or_else(|| end_of(head, split)), Some(24));
        }
    }
}
