//! Between a connection and Pingora's HTTP: bounds on what a stranger can make us hold.
//!
//! Pingora reads request heads of up to a megabyte and gives each single read a minute, so a
//! client that sends a byte now and then holds a connection for as long as it likes. Here the head
//! is read first, within one deadline and one size, and handed on as bytes that came early.

use super::refusal::Refusal;
use super::{DataPort, Grid};
use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a connection may be idle between two requests, in seconds. WebSockets are not meant:
/// they have left Pingora by then.
const KEEPALIVE_SECONDS: u64 = 60;
/// First read of a head: a Playwright client's handshake is some 500 bytes.
const HEAD_READ: usize = 2048;
/// Most headers of a request: as many as Pingora takes.
const MAX_HEADERS: usize = 256;
/// How long a refused client has to read its answer and hang up.
const LINGER: Duration = Duration::from_secs(1);
/// Descriptors kept for other things than connections: logs, the store, the admin port, files.
const RESERVED_DESCRIPTORS: u64 = 200;

/// The data port's application.
pub struct FrontDoor {
    grid: Arc<Grid>,
    http: Arc<HttpProxy<DataPort>>,
}

/// Open connections, and how many there may be.
pub struct Connections {
    open: Mutex<Open>,
    /// How many the process's descriptors allow.
    by_descriptors: u64,
}

#[derive(Default)]
struct Open {
    total: u64,
    by_address: HashMap<IpAddr, u32>,
}

/// One open connection; dropping it makes room for another.
pub struct Connection {
    pub address: Option<IpAddr>,
    grid: Arc<Grid>,
}

impl Default for Connections {
    /// None yet. The descriptor limit is what it is now.
    fn default() -> Connections {
        Connections {
            open: Mutex::default(),
            by_descriptors: max_by_descriptors(),
        }
    }
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Connections that the process's descriptors allow: a session takes two, one each way.
pub fn max_by_descriptors() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    (soft.saturating_sub(RESERVED_DESCRIPTORS) / 2).max(1)
}

impl Connection {
    /// Counts a connection in, unless there are too many.
    fn enter(grid: &Arc<Grid>, address: Option<IpAddr>) -> Option<Arc<Connection>> {
        let limits = grid.config.load().limits;
        let max = match limits.max_connections {
            0 => grid.connections.by_descriptors,
            max => u64::from(max),
        };
        let mut open = grid.connections.open();
        if open.total >= max {
            return None;
        }
        if let Some(address) = address {
            let mine = open.by_address.entry(address).or_default();
            if limits.max_connections_per_ip > 0 && *mine >= limits.max_connections_per_ip {
                return None;
            }
            *mine += 1;
        }
        open.total += 1;
        grid.metrics.connections.set(open.total as i64);
        let grid = grid.clone();
        Some(Arc::new(Connection { address, grid }))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.grid.connections.open();
        open.total -= 1;
        self.grid.metrics.connections.set(open.total as i64);
        if let Some(address) = self.address
            && let Some(mine) = open.by_address.get_mut(&address)
        {
            *mine -= 1;
            if *mine == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

impl FrontDoor {
    pub fn new(grid: Arc<Grid>, http: HttpProxy<DataPort>) -> FrontDoor {
        let http = Arc::new(http);
        FrontDoor { grid, http }
    }

    /// Serves one connection to its end, or until it becomes a session.
    pub async fn serve(&self, mut stream: Stream, from: Option<IpAddr>, shutdown: &ShutdownWatch) {
        let Some(connection) = Connection::enter(&self.grid, from) else {
            self.refuse(stream, Refusal::TooManyConnections, &[]).await;
            return;
        };
        let mut settings = None;
        loop {
            let limits = self.grid.config.load().limits;
            let mut head = BytesMut::with_capacity(HEAD_READ);
            let reading = read_head(&mut stream, &mut head, limits.max_header_bytes);
            match tokio::time::timeout(limits.header_timeout, reading).await {
                Ok(Head::Whole) => {}
                Ok(Head::TooLarge) => {
                    let max = limits.max_header_bytes;
                    self.refuse(stream, Refusal::HeadTooLarge { max }, &head)
                        .await;
                    return;
                }
                Ok(Head::Gone) => return,
                // Who has said nothing at all gets no answer either: it may be a health check of
                // a load balancer, or a browser's spare connection.
                Err(_) if head.is_empty() => return,
                Err(_) => {
                    self.refuse(stream, Refusal::HeaderTimeout, &head).await;
                    return;
                }
            }
            if let Err(what) = understand(&head) {
                self.refuse(stream, Refusal::BadRequest(what), &head).await;
                return;
            }
            let mut session = ServerSession::new_http1(stream);
            session.set_keepalive(Some(KEEPALIVE_SECONDS));
            if let Some(settings) = settings.take() {
                pingora::apps::HttpPersistentSettings::apply_to_session(settings, &mut session);
            }
            session.set_pipelined_prefix(head);
            session.set_connection_user_context(Some(Box::new(connection.clone())));
            let Some(reusable) = self.http.process_new_http(session, shutdown).await else {
                return;
            };
            (stream, settings) = reusable.consume();
        }
    }

    /// Ends connections that wait for another request.
    pub async fn close(&self) {
        self.http.http_cleanup().await;
    }

    async fn refuse(&self, stream: Stream, refusal: Refusal, head: &[u8]) {
        self.grid.count_refusal(&refusal);
        // The head is not parsed at this point, or cannot be.
        let playwright = contains(head, b"\nUser-Agent: Playwright/")
            || contains(head, b"\nuser-agent: Playwright/");
        refuse(stream, &refusal.to_http(playwright, &[])).await;
    }
}

/// Under TLS, where Pingora accepts.
#[async_trait]
impl ServerApp for FrontDoor {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let from = stream
            .get_socket_digest()
            .and_then(|digest| digest.peer_addr()?.as_inet().map(|inet| inet.ip()));
        self.serve(stream, from, shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.close().await;
    }
}

enum Head {
    Whole,
    TooLarge,
    Gone,
}

/// Reads until the empty line that ends a head.
async fn read_head(stream: &mut Stream, head: &mut BytesMut, max: usize) -> Head {
    loop {
        let seen = head.len();
        match stream.read_buf(head).await {
            Ok(0) | Err(_) => return Head::Gone,
            Ok(_) => {}
        }
        let from = seen.saturating_sub(3);
        let new = &head[from..];
        let end = find(new, b"\r\n\r\n").or_else(|| find(new, b"\n\n"));
        match end {
            Some(end) if from + end <= max => return Head::Whole,
            None if head.len() <= max => {}
            _ => return Head::TooLarge,
        }
    }
}

/// Whether a head is one that Pingora takes. It would answer others with a bare 400, which tells
/// nobody what is wrong.
fn understand(head: &[u8]) -> Result<(), &'static str> {
    let mut slots = [MaybeUninit::uninit(); MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut slots) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err("The request has too many headers."),
        _ => return Err("This is no HTTP/1.1 request."),
    }
    let to_path = request.path.is_some_and(|target| target.starts_with('/'));
    if !to_path || request.method == Some("CONNECT") {
        return Err("The grid is no proxy for other addresses: ask for a path such as /.");
    }
    let lengths = request.headers.iter();
    let mut lengths = lengths.filter(|it| it.name.eq_ignore_ascii_case("content-length"));
    if !lengths.all(|it| it.value.iter().all(u8::is_ascii_digit)) {
        return Err("The Content-Length is no number.");
    }
    Ok(())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    find(haystack, needle).is_some()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Sends a last answer and hangs up in a way that lets the client read it: closing with unread
/// bytes in the socket would reset the connection and take the answer along.
pub async fn refuse(mut stream: Stream, answer: &[u8]) {
    let farewell = async {
        stream.write_all(answer).await?;
        stream.flush().await?;
        AsyncWriteExt::shutdown(&mut stream).await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whether the client read it is the client's business.
    tokio::time::timeout(LINGER, farewell).await.ok();
}
