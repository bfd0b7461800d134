//! Dialling a worker: connect, send a handshake, read the answer.
//!
//! All of it happens before the client hears anything, so that a worker that cannot be reached
//! costs the client a moment and not its session. The proxy's own questions go the same way.

use super::{DialFailure, Obstacle, Shortage, Target, Unreachable, WorkerAnswer};
use crate::model::SessionId;
use crate::tunnel::Transport;
use crate::worker::SESSION_HEADER;
use bytes::{Bytes, BytesMut};
use pingora::connectors::TransportConnector;
use pingora::upstreams::peer::HttpPeer;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Largest answer that is read, in bytes, with all 1xx answers before it. Playwright's has some 200.
const MAX_ANSWER: usize = 16 * 1024;
/// Headers in an answer that are looked at.
const MAX_HEADERS: usize = 48;
/// How much of the body of a refusal is read, bytes.
const MAX_BODY: usize = 4 * 1024;
/// How long a worker may take for the body of a refusal.
const BODY_TIMEOUT: Duration = Duration::from_millis(300);

/// The handshake that a worker is to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The headers beside Host, Connection and Upgrade, as they go over the wire.
    headers: Vec<u8>,
    /// What `Sec-WebSocket-Accept` has to be (RFC 6455, section 4.2.2).
    accept: String,
}

impl Handshake {
    /// `headers` go over the wire as they are, `Sec-WebSocket-Key` with this `key` among them.
    pub fn new(headers: Vec<u8>, key: &[u8]) -> Handshake {
        Handshake {
            headers,
            accept: derive_accept_key(key),
        }
    }

    /// The same for a session that its worker is to know by name.
    pub fn of_session(&self, session: SessionId) -> Handshake {
        let mut named = self.clone();
        let header = format!("{SESSION_HEADER}: {session}\r\n");
        named.headers.extend_from_slice(header.as_bytes());
        named
    }

    /// Those headers.
    pub fn headers(&self) -> &[u8] {
        &self.headers
    }
}

/// A worker that accepted the session.
pub struct Dialled {
    pub stream: Transport,
    /// The answer's headers that the client gets to see, as they go over the wire.
    pub forwarded: Vec<u8>,
    /// What the worker said after its answer already.
    pub early: Bytes,
}

/// Why a worker did not take the session.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("its name has no address")]
    NoAddress,
    #[error("no connection could be begun: {0}")]
    Begin(io::Error),
    #[error("cannot connect: {error}")]
    Connect {
        address: SocketAddr,
        error: io::Error,
    },
    #[error("cannot connect by TLS: {0}")]
    Tls(Box<pingora::Error>),
    #[error("the connection broke during the handshake: {0}")]
    Broken(#[from] io::Error),
    #[error("it closed the connection instead of answering")]
    Closed,
    #[error("it did not {} within {time:?}", if *.connected { "answer" } else { "take the connection" })]
    Timeout { time: Duration, connected: bool },
    #[error("it answered {} instead of 101", .0.status)]
    Refused(WorkerAnswer),
    #[error("it answered something that is not HTTP")]
    Garbage,
    #[error("its Sec-WebSocket-Accept is not the one for this handshake")]
    WrongAccept,
}

impl DialError {
    /// Whose trouble it is, as far as the error alone tells: a worker may answer 4xx to anybody.
    pub(super) fn classify(self) -> DialFailure {
        let obstacle = match &self {
            DialError::NoAddress => Obstacle::Unresolved,
            DialError::Connect { error, .. } => Obstacle::of_connecting(error),
            DialError::Begin(_) | DialError::Tls(_) => Obstacle::Other,
            DialError::Timeout { connected, .. } if *connected => Obstacle::Silent,
            DialError::Timeout { .. } => Obstacle::NoRoute,
            DialError::Broken(_)
            | DialError::Closed
            | DialError::Refused(_)
            | DialError::Garbage
            | DialError::WrongAccept => Obstacle::OtherServer,
        };
        match (self.shortage(), self) {
            (Some(shortage), _) => DialFailure::Ours(shortage),
            (None, DialError::Refused(answer)) if answer.may_be_about_the_request() => {
                DialFailure::Client(answer)
            }
            (None, error) => DialFailure::Worker(Unreachable::new(obstacle, error)),
        }
    }

    fn shortage(&self) -> Option<Shortage> {
        match self {
            DialError::Begin(error) | DialError::Broken(error) => Shortage::of(error),
            DialError::Connect { address, error } => {
                Shortage::of(error).filter(|_| has_local_address(*address))
            }
            DialError::Tls(error) => Shortage::within(error.root_cause()),
            _ => None,
        }
    }
}

/// Whether this machine has an address from which `to` can be reached. Without one, as for IPv6
/// where that is off, the kernel says what it says when all ports are taken. Nothing is sent.
fn has_local_address(to: SocketAddr) -> bool {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let tried = UdpSocket::bind(any).and_then(|socket| socket.connect(to));
    !tried.is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::AddrNotAvailable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::Unsupported
        )
    })
}

/// Dials a worker and shakes hands with it. Where its name stands for several addresses, the first
/// that accepts is the one. Gives up after `timeout`.
pub(super) async fn dial(
    target: &Target,
    handshake: &Handshake,
    timeout: Duration,
) -> Result<Dialled, DialError> {
    let mut last = DialError::NoAddress;
    for (address, share) in target.attempts(timeout) {
        let connected = AtomicBool::new(false);
        let dialling = dial_at(address, target, handshake, &connected);
        match tokio::time::timeout(share, dialling).await {
            Ok(Ok(dialled)) => return Ok(dialled),
            // Another address is another network, but of the same server.
            Ok(Err(error @ DialError::Refused(_))) => return Err(error),
            Ok(Err(error)) => last = error,
            Err(_) => {
                let (time, connected) = (timeout, connected.into_inner());
                last = DialError::Timeout { time, connected };
            }
        }
    }
    Err(last)
}

async fn dial_at(
    address: SocketAddr,
    target: &Target,
    handshake: &Handshake,
    connected: &AtomicBool,
) -> Result<Dialled, DialError> {
    let request = request(target, &handshake.headers);
    let stream = if target.endpoint.tls {
        handshake_tls(address, &target.endpoint.host, &request).await?
    } else {
        handshake_plain(address, &request).await?.into()
    };
    connected.store(true, Ordering::Relaxed);
    read_answer(stream, target, handshake).await
}

/// Connects and sends the request.
async fn handshake_plain(address: SocketAddr, request: &[u8]) -> Result<TcpStream, DialError> {
    use io::ErrorKind::{NotConnected, WouldBlock};
    let failed = |error| DialError::Connect { address, error };
    let socket = begin(address).map_err(DialError::Begin)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(failed(error)),
        _ => {}
    }
    // On this machine the worker's side of the handshake is over already: no need to be woken.
    let sent = match socket.send(request) {
        // What Linux, and what others say of a handshake that is not over.
        Err(error) if [WouldBlock, NotConnected].contains(&error.kind()) => 0,
        sent => sent.map_err(failed)?,
    };
    let mut stream = TcpStream::from_std(socket.into()).map_err(DialError::Begin)?;
    // Waits for the handshake, and fails if that does.
    stream.write_all(&request[sent..]).await.map_err(failed)?;
    Ok(stream)
}

/// A socket that is about to connect.
fn begin(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_tcp_nodelay(true)?;
    // The last segment of TCP's handshake waits for the request and leaves with it.
    #[cfg(target_os = "linux")]
    socket.set_tcp_quickack(false)?;
    Ok(socket)
}

async fn handshake_tls(
    address: SocketAddr,
    host: &str,
    request: &[u8],
) -> Result<Transport, DialError> {
    static CONNECTOR: OnceLock<TransportConnector> = OnceLock::new();
    let connector = CONNECTOR.get_or_init(|| TransportConnector::new(None));
    let mut peer = HttpPeer::new(address, true, host.to_owned());
    peer.options.tcp_keepalive = Some(crate::tunnel::keepalive());
    let mut stream = connector.new_stream(&peer).await.map_err(DialError::Tls)?;
    stream.write_all(request).await?;
    stream.flush().await?;
    Ok(stream.into())
}

fn request(target: &Target, headers: &[u8]) -> Vec<u8> {
    let endpoint = &target.endpoint;
    let mut request = Vec::with_capacity(headers.len() + endpoint.path.len() + 128);
    for part in [
        "GET ",
        &endpoint.path,
        " HTTP/1.1\r\nHost: ",
        &target.authority,
        "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    ] {
        request.extend_from_slice(part.as_bytes());
    }
    request.extend_from_slice(headers);
    request.extend_from_slice(b"\r\n");
    request
}

async fn read_answer(
    mut stream: Transport,
    target: &Target,
    handshake: &Handshake,
) -> Result<Dialled, DialError> {
    let mut buffer = BytesMut::with_capacity(1024);
    let mut passed_over = 0;
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(DialError::Closed);
        }
        while let Some(head) = Head::parse(&buffer)? {
            let rest = buffer.split_off(head.length);
            match head.status {
                101 if head.accept.as_deref() != Some(handshake.accept.as_bytes()) => {
                    return Err(DialError::WrongAccept);
                }
                101 => {
                    return Ok(Dialled {
                        stream,
                        forwarded: head.forwarded,
                        early: rest.freeze(),
                    });
                }
                // Others are announcements, to be skipped (RFC 9110, section 15.2).
                100..=199 => {
                    passed_over += head.length;
                    buffer = rest;
                }
                status => {
                    let body = read_body(stream, rest, head.body).await;
                    let path = &target.endpoint.path;
                    return Err(DialError::Refused(WorkerAnswer::new(status, &body, path)));
                }
            }
        }
        if passed_over + buffer.len() > MAX_ANSWER {
            return Err(DialError::Garbage);
        }
    }
}

/// The body of a refusal, or what comes of it in time. Playwright's has no length: it closes.
async fn read_body(mut stream: Transport, mut body: BytesMut, length: Body) -> String {
    let most = match length {
        Body::OfLength(length) => length.min(MAX_BODY),
        Body::ToTheEnd => MAX_BODY,
        Body::Chunked => return String::new(),
    };
    let reading = async {
        while body.len() < most && stream.read_buf(&mut body).await.is_ok_and(|read| read > 0) {}
    };
    // What has come by then will do.
    tokio::time::timeout(BODY_TIMEOUT, reading).await.ok();
    body.truncate(most);
    String::from_utf8_lossy(&body).into_owned()
}

/// How long an answer's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    OfLength(usize),
    Chunked,
    ToTheEnd,
}

/// What matters of an answer's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    length: usize,
    status: u16,
    /// Its one `Sec-WebSocket-Accept`.
    accept: Option<Vec<u8>>,
    /// The headers for the client, as they go over the wire.
    forwarded: Vec<u8>,
    body: Body,
}

impl Head {
    /// `None` when it is not whole yet.
    fn parse(buffer: &[u8]) -> Result<Option<Head>, DialError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) =
            answer.parse(buffer).map_err(|_| DialError::Garbage)?
        else {
            return Ok(None);
        };
        let mut head = Head {
            length,
            status: answer.code.ok_or(DialError::Garbage)?,
            accept: None,
            forwarded: Vec::with_capacity(256),
            body: Body::ToTheEnd,
        };
        for header in answer.headers.iter() {
            let name = header.name.to_ascii_lowercase();
            let text = std::str::from_utf8(header.value).unwrap_or("");
            match &*name {
                "sec-websocket-accept" if head.accept.is_some() => {
                    return Err(DialError::WrongAccept);
                }
                "sec-websocket-accept" => head.accept = Some(header.value.trim_ascii().to_vec()),
                "transfer-encoding" => head.body = Body::Chunked,
                "content-length" if head.body == Body::ToTheEnd => {
                    head.body = text.trim().parse().map_or(Body::ToTheEnd, Body::OfLength);
                }
                _ => {}
            }
            if name.starts_with("sec-websocket-") || name.starts_with("x-playwright-") {
                head.forwarded.extend_from_slice(header.name.as_bytes());
                head.forwarded.extend_from_slice(b": ");
                head.forwarded.extend_from_slice(header.value);
                head.forwarded.extend_from_slice(b"\r\n");
            }
        }
        Ok(Some(head))
    }
}

#[cfg(test)]
mod tests;
