//! A request's head before anybody acts on it: whether it can be understood, what it says of its
//! sender, and its query string taken out. Pure.
//!
//! A query string may hold a token, and Pingora writes request lines into the log when something
//! fails. What it never sees it cannot write.

use bytes::BytesMut;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ops::Range;

/// Most headers of a request: as many as Pingora takes.
pub const MAX_HEADERS: usize = 256;

/// What a head says of its sender, and what of it has to be changed.
#[derive(Debug, Default)]
pub struct Head<'a> {
    /// `OPTIONS *`, which is about the server and not about a path: where the `*` stands.
    star: Option<usize>,
    /// Where the query stands, its `?` included.
    query: Option<Range<usize>>,
    pub host: Option<&'a [u8]>,
    from_page: bool,
    websocket_key: bool,
    /// Whether every reader of HTTP understands it alike.
    pub plain: bool,
    pub forwarded_for: Vec<&'a [u8]>,
}

impl Head<'_> {
    /// Reads a whole head, up to its empty line.
    ///
    /// # Errors
    /// What is wrong with it, for its sender: Pingora would answer with a bare 400.
    pub fn parse(bytes: &[u8]) -> Result<Head<'_>, HeadError> {
        let mut slots = [MaybeUninit::uninit(); MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut slots) {
            Ok(httparse::Status::Complete(_)) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            _ => return Err(HeadError::NOT_HTTP),
        }
        let mut head = Head::default();
        let target = request.path.unwrap_or_default();
        let at = target.as_ptr() as usize - bytes.as_ptr() as usize;
        match request.method {
            Some("OPTIONS") if target == "*" => head.star = Some(at),
            Some(method) if method != "CONNECT" && target.starts_with('/') => {}
            _ => {
                let what = "The grid is no proxy for other addresses: ask for a path such as /.";
                return Err(HeadError::Malformed(what));
            }
        }
        let query = target.find('?');
        head.query = query.map(|query| at + query..at + target.len());
        for header in request.headers.iter() {
            let taken = head.take(header.name, header.value);
            taken.map_err(HeadError::Malformed)?;
        }
        check_framing(request.headers).map_err(HeadError::Malformed)?;
        let path = query.map_or(target, |query| &target[..query]);
        head.plain = is_plain(path, head.host, request.headers);
        Ok(head)
    }
}

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The text says it to its sender.
    Malformed(&'static str),
    /// More than [`MAX_HEADERS`].
    TooManyHeaders,
}

impl HeadError {
    /// What begins like no request.
    pub const NOT_HTTP: HeadError = HeadError::Malformed("This is no HTTP/1.1 request.");
}

/// Whether a head has nothing about which two readers of HTTP could differ: those are shown to Pingora's
/// first, which has rules of its own for addresses and for bodies.
fn is_plain(path: &str, host: Option<&[u8]>, headers: &[httparse::Header<'_>]) -> bool {
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%*".contains(&byte);
    let in_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.".contains(byte);
    let is_host = |host: &[u8]| {
        let (name, port) = match host.iter().position(|byte| *byte == b':') {
            Some(at) => (&host[..at], &host[at + 1..]),
            None => (host, &b"0"[..]),
        };
        let port_is_short = (1..=4).contains(&port.len());
        !name.is_empty()
            && name.iter().all(in_host)
            && port_is_short
            && port.iter().all(u8::is_ascii_digit)
    };
    let has_body = |it: &httparse::Header<'_>| {
        let name = it.name;
        name.eq_ignore_ascii_case("transfer-encoding")
            || name.eq_ignore_ascii_case("content-length")
    };
    path.bytes().all(in_path) && host.is_some_and(is_host) && !headers.iter().any(has_body)
}

/// Whether Playwright says that it has sent this, which may be no head that anybody understands.
pub fn is_from_playwright(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let agent = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(b"user-agent:".len())?;
        name.eq_ignore_ascii_case(b"user-agent:").then_some(value)
    });
    agent.is_some_and(|agent| agent.trim_ascii().starts_with(b"Playwright/"))
}

/// The headers that decide where the request ends, as Pingora wants them.
fn check_framing(headers: &[httparse::Header<'_>]) -> Result<(), &'static str> {
    let all = |name: &'static str| {
        let named = move |it: &&httparse::Header<'_>| it.name.eq_ignore_ascii_case(name);
        headers.iter().filter(named).map(|it| it.value)
    };
    let number = |value: &[u8]| !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let first = all("content-length").next();
    if !all("content-length").all(|value| number(value) && Some(value) == first) {
        return Err("The Content-Length is no number, or not always the same.");
    }
    let coding = all("transfer-encoding").next_back();
    let chunked = |value: &[u8]| value.to_ascii_lowercase().ends_with(b"chunked");
    if coding.is_some_and(|value| !chunked(value.trim_ascii())) {
        return Err("The last Transfer-Encoding has to be chunked.");
    }
    Ok(())
}

impl<'a> Head<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), &'static str> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("host") && self.host.replace(value).is_some() => {
                return Err("The request has more than one Host header.");
            }
            6 if is("origin") => self.from_page = true,
            17 if is("sec-websocket-key") => self.websocket_key = true,
            15 if is("x-forwarded-for") => self.forwarded_for.push(value),
            _ => {}
        }
        Ok(())
    }

    /// Whether a web page may have made a browser send it. With a handshake of a WebSocket a browser
    /// always sends the page's Origin, and in no other way can a page set the handshake's key.
    pub fn may_come_from_page(&self) -> bool {
        self.from_page || !self.websocket_key
    }

    /// Whether it names a page that it comes from.
    pub fn names_its_page(&self) -> bool {
        self.from_page
    }

    /// What of the head has to be changed before it goes on.
    pub fn edits(&self) -> Edits {
        Edits {
            star: self.star,
            query: self.query.clone(),
        }
    }

    /// Whether the grid is asked for by what can be its own name: an address, `localhost`, or one
    /// of `allowed` (in lower case). A page can let its own name stand for this machine (DNS
    /// rebinding), but not an address. Who sends no Host is no browser.
    pub fn is_for(&self, allowed: &[String]) -> bool {
        let Some(host) = self.host.map(std::str::from_utf8) else {
            return true;
        };
        let Ok(host) = host else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let bracketed = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let address = bracketed.unwrap_or(name).parse::<IpAddr>().is_ok();
        address
            || name.eq_ignore_ascii_case("localhost")
            || allowed.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// What of a head has to be changed before it goes on.
#[derive(Debug)]
pub struct Edits {
    star: Option<usize>,
    query: Option<Range<usize>>,
}

impl Edits {
    /// Changes the head; what its query was, without the `?`.
    pub fn make(self, head: &mut BytesMut) -> Option<String> {
        if let Some(star) = self.star {
            head[star] = b'/';
        }
        let Range { start, end } = self.query?;
        let query = String::from_utf8_lossy(&head[start + 1..end]).into_owned();
        head.copy_within(end.., start);
        head.truncate(head.len() - (end - start));
        Some(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edited(head: &str) -> (String, Option<String>) {
        let mut bytes = BytesMut::from(head);
        let edits = Head::parse(head.as_bytes()).unwrap().edits();
        let query = edits.make(&mut bytes);
        (String::from_utf8(bytes.to_vec()).unwrap(), query)
    }

    #[test]
    fn a_query_is_taken_out_and_the_rest_stays() {
        let (head, query) = edited("GET /a?token=b&c=?d HTTP/1.1\r\nHost: x?y\r\n\r\nGET /?e");
        assert_eq!(head, "GET /a HTTP/1.1\r\nHost: x?y\r\n\r\nGET /?e");
        assert_eq!(query.as_deref(), Some("token=b&c=?d"));
        let plain = "GET / HTTP/1.1\r\n\r\n";
        assert_eq!(edited(plain), (plain.to_owned(), None));
        let (head, query) = edited("GET /? HTTP/1.1\r\n\r\n");
        assert_eq!((&*head, query.as_deref()), (plain, Some("")));
    }

    #[test]
    fn a_question_about_the_server_is_one_about_its_root() {
        let (head, _) = edited("OPTIONS * HTTP/1.0\r\n\r\n");
        assert_eq!(head, "OPTIONS / HTTP/1.0\r\n\r\n");
    }

    #[test]
    fn what_cannot_be_understood_is_told() {
        let wrong = |head: &str| match Head::parse(head.as_bytes()).err().unwrap() {
            HeadError::Malformed(what) => what,
            HeadError::TooManyHeaders => "too many",
        };
        assert!(wrong("nonsense\r\n\r\n").contains("no HTTP"));
        assert!(wrong("GET http://other/ HTTP/1.1\r\n\r\n").contains("no proxy"));
        assert!(wrong("CONNECT other:443 HTTP/1.1\r\n\r\n").contains("no proxy"));
        assert!(wrong("GET * HTTP/1.1\r\n\r\n").contains("no proxy"));
        assert!(wrong("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n").contains("one Host"));
        assert!(wrong("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n").contains("no number"));
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert!(wrong(&format!("GET / HTTP/1.1\r\n{many}\r\n")).contains("too many"));
    }

    #[test]
    fn a_name_that_is_not_known_can_be_anybodys() {
        let allowed = ["grid.example.com".to_owned()];
        let is_ours = |host: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            Head::parse(head.as_bytes()).is_ok_and(|head| head.is_for(&allowed))
        };
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "10.1.2.3",
            "[::1]",
            "[::1]:8080",
            "localhost",
            "LocalHost:8080",
            "grid.example.com",
            "Grid.Example.com:443",
        ] {
            assert!(is_ours(host), "{host}");
        }
        for host in [
            "rebound.example",
            "rebound.example:8080",
            "127.0.0.1.example",
            "localhost.example",
            "grid.example.com.evil",
            "",
            ":8080",
            "127.0.0.1:8080:1",
            "a@127.0.0.1",
            "0x7f.1",
        ] {
            assert!(!is_ours(host), "{host}");
        }
        assert!(Head::parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().is_for(&[]));
    }

    #[test]
    fn what_readers_of_http_may_differ_about_is_not_plain() {
        let plain = |head: &str| Head::parse(head.as_bytes()).is_ok_and(|head| head.plain);
        assert!(plain(
            "GET /?token=a%2Bb&browser=firefox HTTP/1.1\r\nHost: grid-1.example:8080\r\n\r\n"
        ));
        assert!(plain(
            "GET /v1/workers HTTP/1.0\r\nhost: 127.0.0.1\r\nX: any thing\r\n\r\n"
        ));
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            "GET /\\ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /# HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
        ] {
            assert!(!plain(head), "{head:?}");
        }
    }

    #[test]
    fn playwright_is_known_in_a_head_that_nobody_understands() {
        assert!(is_from_playwright(
            b"GET \x00\r\nUser-Agent: Playwright/1.65.1 (x)\r\n\r\n"
        ));
        assert!(is_from_playwright(
            b"nonsense\nuser-agent:Playwright/1.65.1\n\n"
        ));
        assert!(!is_from_playwright(
            b"GET / HTTP/1.1\r\nX-User-Agent: Playwright/1\r\n\r\n"
        ));
        assert!(!is_from_playwright(
            b"GET / HTTP/1.1\r\nUser-Agent: curl Playwright/1\r\n\r\n"
        ));
        assert!(!is_from_playwright(b""));
    }

    proptest! {
        /// No byte of a query is left in the head, and no other byte is lost.
        #[test]
        fn nothing_of_a_query_is_left(path in "/[a-z/]{0,9}", query in "[!-~]{0,30}", rest in "[ -~]{0,30}") {
            let head = format!("GET {path}?{query} HTTP/1.1\r\nA: b\r\n\r\n{rest}");
            let (left, taken) = edited(&head);
            prop_assert_eq!(left, format!("GET {path} HTTP/1.1\r\nA: b\r\n\r\n{rest}"));
            prop_assert_eq!(taken, Some(query));
        }

        #[test]
        fn no_head_panics(head in any::<Vec<u8>>()) {
            if let Ok(parsed) = Head::parse(&head) {
                parsed.is_for(&[]);
                parsed.edits().make(&mut BytesMut::from(&head[..]));
            }
        }
    }
}
