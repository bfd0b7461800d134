//! Between a connection and Pingora's HTTP, on both ports: bounds on what a stranger can make us
//! hold, who the client is, and whether it means this grid.
//!
//! Pingora reads request heads of up to a megabyte and gives each single read a minute, so a
//! client that sends a byte now and then holds a connection for as long as it likes. Here the head
//! is read first, within one deadline and one size, TLS and the PROXY protocol included, and handed
//! on as bytes that came early.

use super::ProxyState;
use super::client_address::{Preamble, forwarded_for, read_preamble};
use super::connections::{Connection, PortConnections, TooMany, is_in};
use super::head::{self, Head, HeadError};
use super::head_reader::{HeadRead, into_request, next_request, pingora_takes, read_head};
use super::refusal::Refusal;
use crate::config::Limits;
use crate::tunnel::{Transport, send_last};
use async_trait::async_trait;
use bytes::BytesMut;
use ipnet::IpNet;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

/// How long a request may take from its head to the end of its answer, with a body that nobody
/// wants and a client that reads slowly. Sessions are not meant.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How a TLS connection begins: the type of a record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Between two lines about connections that are turned away: there may be thousands a second.
const REJECTION_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What answers the requests of one port.
#[async_trait]
pub trait Application: Send + Sync + 'static {
    /// Whether a client that is too slow with its head is told so. Else it is closed like one that
    /// says nothing.
    const ANSWERS_SLOW_CLIENTS: bool;

    /// Answers one request; the connection, when another one may follow.
    async fn answer(
        &self,
        request: ServerSession,
        downstream: Downstream,
        shutdown: &ShutdownWatch,
    ) -> Option<Kept>;
}

/// Where a request comes from.
pub struct Downstream {
    pub connection: Arc<Connection>,
    /// The query string, which was taken out of the request.
    pub query: Option<String>,
    /// Whether it came over TLS of ours.
    pub tls: bool,
    /// Whether the other end may say what the client asked for.
    pub behind_proxy: bool,
}

/// A connection between two requests, and what of the next one has come already.
pub struct Kept {
    pub stream: Stream,
    pub early: BytesMut,
}

/// One port's front door.
pub struct FrontDoor<A> {
    proxy: Arc<ProxyState>,
    application: A,
    connections: Arc<PortConnections>,
    tls: Option<TlsAcceptor>,
    trusted_proxies: Vec<IpNet>,
    /// Whether the port is on loopback, so that only names for this machine can be meant.
    on_loopback: bool,
    rejected: Mutex<Rejected>,
}

/// Connections that were turned away since the last line about them.
struct Rejected {
    count: u64,
    logged_at: Option<Instant>,
}

/// A connection that is ready for HTTP.
struct Prepared {
    kept: Kept,
    /// Whether the other end may speak for a client in `X-Forwarded-For`.
    behind_proxy: bool,
}

/// Why a connection comes to nothing before its first request.
enum PreparationError {
    Refused(Refusal, Box<Kept>),
    /// It has gone, or is broken in a way that nobody can be told of.
    Broken(io::Error),
}

impl<A: Application> FrontDoor<A> {
    /// A front door for a port that listens at `address`.
    pub fn new(
        proxy: Arc<ProxyState>,
        address: IpAddr,
        connections: Arc<PortConnections>,
        tls: Option<TlsAcceptor>,
        application: A,
    ) -> FrontDoor<A> {
        let trusted_proxies = proxy.config.load().server.trusted_proxies.clone();
        FrontDoor {
            proxy,
            application,
            connections,
            tls,
            trusted_proxies,
            on_loopback: address.is_loopback(),
            rejected: Mutex::new(Rejected {
                count: 0,
                logged_at: None,
            }),
        }
    }

    /// Takes a connection in that was accepted: serves it in a task of its own, or turns
    /// it away.
    pub fn accept_connection(
        self: &Arc<Self>,
        socket: TcpStream,
        peer: IpAddr,
        shutdown: &ShutdownWatch,
    ) {
        let peer = peer.to_canonical();
        let trusted = is_in(&self.trusted_proxies, peer);
        let limits = self.proxy.config.load().limits;
        match self.connections.enter(peer, trusted, &limits) {
            Ok(connection) => {
                let (door, shutdown) = (self.clone(), shutdown.clone());
                tokio::spawn(
                    async move { door.serve(socket, connection, trusted, shutdown).await },
                );
            }
            Err(why) => self.turn_away(socket, peer, why),
        }
    }

    /// Tells some why, from a small budget, and closes the others at once: they must not pile up
    /// where they wait to be accepted.
    fn turn_away(&self, socket: TcpStream, peer: IpAddr, why: TooMany) {
        let refusal = Refusal::TooManyConnections(why);
        self.proxy.count_refusal(&refusal);
        if let Some(count) = self.rejections_to_log() {
            log::warn!(client:% = peer, count, reason = refusal.code().as_str(); "connections turned away");
        }
        // Under TLS there is no way to tell without a handshake.
        if self.tls.is_none()
            && let Some(permit) = self.connections.refusal_permit()
        {
            tokio::spawn(async move {
                send_last(socket, &refusal.to_http(false, &[])).await;
                drop(permit);
            });
        }
    }

    fn rejections_to_log(&self) -> Option<u64> {
        let rejected = self.rejected.lock();
        let mut rejected = rejected.unwrap_or_else(|poisoned| poisoned.into_inner());
        rejected.count += 1;
        let logged_at = rejected.logged_at;
        if logged_at.is_some_and(|at| at.elapsed() < REJECTION_LOG_INTERVAL) {
            return None;
        }
        rejected.logged_at = Some(Instant::now());
        Some(std::mem::take(&mut rejected.count))
    }

    /// Serves one connection to its end, or until it becomes a session.
    async fn serve(
        &self,
        socket: TcpStream,
        connection: Arc<Connection>,
        trusted: bool,
        mut shutdown: ShutdownWatch,
    ) {
        let mut deadline = self.head_deadline();
        let prepared = self.prepare(socket, &connection, trusted, deadline);
        let Some(Prepared { kept, behind_proxy }) = prepared.await else {
            return;
        };
        let (mut stream, mut early) = (kept.stream, kept.early);
        loop {
            let limits = self.proxy.config.load().limits;
            let head = read_head(&mut stream, &mut early, limits.max_header_bytes);
            let head = timeout_at(deadline, head);
            let Some(head) = connection.idle().unless_it_gives_way(head).await else {
                return;
            };
            let checked = match head {
                Ok(HeadRead::Whole) => {
                    let checked = self.check(&mut early, &connection, behind_proxy, &limits);
                    checked.await
                }
                Ok(HeadRead::TooLarge) => Err(Refusal::HeadTooLarge {
                    max: limits.max_header_bytes,
                }),
                Ok(HeadRead::Gone) => return,
                Err(_) if early.is_empty() || !A::ANSWERS_SLOW_CLIENTS => return,
                Err(_) => Err(Refusal::HeaderTimeout),
            };
            let query = match checked {
                Ok(query) => query,
                Err(refusal) => return self.refuse(stream, &connection, refusal, &early).await,
            };
            let downstream = Downstream {
                connection: connection.clone(),
                query,
                tls: self.tls.is_some(),
                behind_proxy,
            };
            let request = into_request(stream, early);
            let answer = self.application.answer(request, downstream, &shutdown);
            // Boxed by `Application`, so that this task stays small while a session is on its way.
            let Ok(Some(kept)) = timeout(ANSWER_TIMEOUT, answer).await else {
                return;
            };
            Kept { stream, early } = kept;
            if early.is_empty() {
                let next = next_request(&mut stream, &mut early, &mut shutdown);
                let next = connection.idle().unless_it_gives_way(next).await;
                if next != Some(true) {
                    return;
                }
            }
            deadline = self.head_deadline();
        }
    }

    /// When a head whose time begins at this moment has to be there.
    fn head_deadline(&self) -> Instant {
        Instant::now() + self.proxy.config.load().limits.header_timeout
    }

    /// Brings a connection to its first request. `None` when there is none: whoever can be told why has been.
    async fn prepare(
        &self,
        socket: TcpStream,
        connection: &Connection,
        trusted: bool,
        deadline: Instant,
    ) -> Option<Prepared> {
        let beginning = timeout_at(deadline, self.begin(socket, connection, trusted));
        let begun = connection.idle().unless_it_gives_way(beginning).await?;
        // Who has said nothing at all gets no answer: it may be a health check of a balancer,
        // or a browser's spare connection.
        match begun.ok()? {
            Ok(prepared) => Some(prepared),
            Err(PreparationError::Refused(refusal, kept)) => {
                let Kept { stream, early } = *kept;
                self.refuse(stream, connection, refusal, &early).await;
                None
            }
            Err(PreparationError::Broken(error)) => {
                log::debug!(client:% = connection.client(), error:% = error; "connection broken");
                None
            }
        }
    }

    /// What comes before HTTP: the PROXY protocol, and TLS.
    async fn begin(
        &self,
        mut socket: TcpStream,
        connection: &Connection,
        trusted: bool,
    ) -> Result<Prepared, PreparationError> {
        let mut early = BytesMut::new();
        let mut behind_proxy = trusted;
        if trusted {
            let beginning = read_preamble(&mut socket).await;
            match beginning.map_err(PreparationError::Broken)? {
                Preamble::Direct(read) => early = read,
                Preamble::Proxied(None) => {}
                Preamble::Proxied(Some(client)) => {
                    let client = client.to_canonical();
                    behind_proxy = is_in(&self.trusted_proxies, client);
                    self.attribute(connection, client)?;
                }
            }
        }
        let Some(acceptor) = &self.tls else {
            let stream = Box::new(Transport::from(socket));
            let kept = Kept { stream, early };
            return Ok(Prepared { kept, behind_proxy });
        };
        let mut first = [0];
        let read = socket
            .peek(&mut first)
            .await
            .map_err(PreparationError::Broken)?;
        if !early.is_empty() || (read > 0 && first[0] != TLS_HANDSHAKE) {
            let mut stream: Stream = Box::new(Transport::from(socket));
            let max = self.proxy.config.load().limits.max_header_bytes;
            // For what it says of the client, and so that the answer can be read.
            read_head(&mut stream, &mut early, max).await;
            let kept = Box::new(Kept { stream, early });
            return Err(PreparationError::Refused(Refusal::TlsExpected, kept));
        }
        let accepted = acceptor.accept(socket).await;
        let stream = Box::new(Transport::from(accepted.map_err(PreparationError::Broken)?));
        let kept = Kept { stream, early };
        Ok(Prepared { kept, behind_proxy })
    }

    /// Counts a connection for the client that its PROXY protocol names.
    fn attribute(&self, connection: &Connection, client: IpAddr) -> Result<(), PreparationError> {
        let limits = self.proxy.config.load().limits;
        let counted = connection.attribute(client, &limits);
        counted.map_err(|why| {
            self.proxy
                .refused(&Refusal::TooManyConnections(why), client);
            PreparationError::Broken(io::Error::other(why))
        })
    }

    /// Checks a whole head and makes it ready to go on; its query.
    async fn check(
        &self,
        bytes: &mut BytesMut,
        connection: &Connection,
        behind_proxy: bool,
        limits: &Limits,
    ) -> Result<Option<String>, Refusal> {
        let head = Head::parse(bytes)?;
        let plain = head.plain;
        if head.names_its_page() || (self.on_loopback && head.may_come_from_page()) {
            let config = self.proxy.config.load();
            if !head.is_for(&config.auth.allowed_hosts) {
                return Err(Refusal::ForeignHost);
            }
        }
        if behind_proxy {
            let values = head.forwarded_for.iter().copied();
            if let Some(client) = forwarded_for(values, &self.trusted_proxies) {
                let counted = connection.attribute(client, limits);
                counted.map_err(Refusal::TooManyConnections)?;
            }
        }
        let query = head.edits().make(bytes);
        if !plain && !pingora_takes(bytes).await {
            return Err(HeadError::NOT_HTTP.into());
        }
        Ok(query)
    }

    async fn refuse(&self, stream: Stream, connection: &Connection, refusal: Refusal, head: &[u8]) {
        self.proxy.refused(&refusal, connection.client());
        let playwright = head::is_from_playwright(head);
        send_last(stream, &refusal.to_http(playwright, &[])).await;
    }
}
