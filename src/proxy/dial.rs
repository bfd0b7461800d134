//! Dialling a worker: connect, send the client's handshake on, read the answer.
//!
//! All of it happens before the client hears anything, so that a worker that cannot be reached
//! costs the client a moment and not its session.

use crate::fleet::{Obstacle, Target, Unreachable};
use crate::tunnel::Link;
use bytes::{Bytes, BytesMut};
use pingora::connectors::TransportConnector;
use pingora::upstreams::peer::HttpPeer;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest answer head that is read. Playwright's has some 200 bytes.
const MAX_ANSWER: usize = 16 * 1024;
/// Headers in an answer that are looked at.
const MAX_HEADERS: usize = 48;

/// A worker that accepted the session.
pub struct Dialled {
    pub stream: Link,
    /// The answer's headers that the client gets to see, as they go over the wire.
    pub forwarded: Vec<u8>,
    /// What the worker said after its answer already.
    pub early: Bytes,
}

/// Why a worker did not take the session.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("its name has no address")]
    NoAddress,
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("cannot connect by TLS: {0}")]
    Tls(String),
    #[error("the connection broke during the handshake: {0}")]
    Broken(#[from] io::Error),
    #[error("it closed the connection instead of answering")]
    Closed,
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
    #[error("it answered {0} instead of 101")]
    Refused(u16),
    #[error("it answered something that is not HTTP")]
    Garbage,
}

impl From<DialError> for Unreachable {
    fn from(error: DialError) -> Unreachable {
        let obstacle = match &error {
            DialError::NoAddress => Obstacle::Nameless,
            DialError::Connect(error) => Obstacle::of_connecting(error),
            // It may not even have connected.
            DialError::Tls(_) | DialError::Timeout(_) => Obstacle::Other,
            DialError::Broken(_)
            | DialError::Closed
            | DialError::Refused(_)
            | DialError::Garbage => Obstacle::Stranger,
        };
        Unreachable::new(obstacle, error)
    }
}

/// Dials a worker and shakes hands with it on the client's behalf; `forwarded` are the client's
/// headers that go on to it. Where its name stands for several addresses, the first that accepts
/// is the one. Gives up after `timeout`.
pub async fn dial(
    target: &Target,
    forwarded: &[u8],
    timeout: Duration,
) -> Result<Dialled, DialError> {
    let mut last = DialError::NoAddress;
    for (address, share) in target.attempts(timeout) {
        match tokio::time::timeout(share, dial_at(address, target, forwarded)).await {
            Ok(Ok(dialled)) => return Ok(dialled),
            Ok(Err(error)) => last = error,
            Err(_) => last = DialError::Timeout(timeout),
        }
    }
    Err(last)
}

async fn dial_at(
    address: SocketAddr,
    target: &Target,
    forwarded: &[u8],
) -> Result<Dialled, DialError> {
    let request = request(target, forwarded);
    let stream = if target.endpoint.tls {
        greet_tls(address, &target.endpoint.host, &request).await?
    } else {
        let stream = greet_plain(address, &request).await;
        stream.map_err(DialError::Connect)?.into()
    };
    read_answer(stream).await
}

/// Connects and sends the request.
async fn greet_plain(address: SocketAddr, request: &[u8]) -> io::Result<TcpStream> {
    use io::ErrorKind::{NotConnected, WouldBlock};
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_tcp_nodelay(true)?;
    // The last segment of TCP's handshake waits for the request and leaves with it.
    #[cfg(target_os = "linux")]
    socket.set_tcp_quickack(false)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    // On this machine the worker's side of the handshake is over already: no need to be woken.
    let sent = match socket.send(request) {
        // What Linux, and what others say of a handshake that is not over.
        Err(error) if [WouldBlock, NotConnected].contains(&error.kind()) => 0,
        sent => sent?,
    };
    let mut stream = TcpStream::from_std(socket.into())?;
    // Waits for the handshake, and fails if that does.
    stream.write_all(&request[sent..]).await?;
    Ok(stream)
}

async fn greet_tls(address: SocketAddr, host: &str, request: &[u8]) -> Result<Link, DialError> {
    static CONNECTOR: OnceLock<TransportConnector> = OnceLock::new();
    let connector = CONNECTOR.get_or_init(|| TransportConnector::new(None));
    let mut peer = HttpPeer::new(address, true, host.to_owned());
    peer.options.tcp_keepalive = Some(crate::tunnel::keepalive());
    let mut stream = connector
        .new_stream(&peer)
        .await
        .map_err(|error| DialError::Tls(error.to_string()))?;
    stream.write_all(request).await?;
    stream.flush().await?;
    Ok(stream.into())
}

fn request(target: &Target, forwarded: &[u8]) -> Vec<u8> {
    let endpoint = &target.endpoint;
    let mut request = Vec::with_capacity(forwarded.len() + endpoint.path.len() + 128);
    for part in [
        "GET ",
        &endpoint.path,
        " HTTP/1.1\r\nHost: ",
        &target.authority,
        "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    ] {
        request.extend_from_slice(part.as_bytes());
    }
    request.extend_from_slice(forwarded);
    request.extend_from_slice(b"\r\n");
    request
}

async fn read_answer(mut stream: Link) -> Result<Dialled, DialError> {
    let mut buffer = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(DialError::Closed);
        }
        if let Some((length, forwarded)) = parse_answer(&buffer)? {
            let early = buffer.split_off(length).freeze();
            return Ok(Dialled {
                stream,
                forwarded,
                early,
            });
        }
        if buffer.len() > MAX_ANSWER {
            return Err(DialError::Garbage);
        }
    }
}

/// Length of the answer's head and the headers for the client; `None` when it is not whole yet.
fn parse_answer(buffer: &[u8]) -> Result<Option<(usize, Vec<u8>)>, DialError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) =
        answer.parse(buffer).map_err(|_| DialError::Garbage)?
    else {
        return Ok(None);
    };
    match answer.code {
        Some(101) => {}
        Some(code) => return Err(DialError::Refused(code)),
        None => return Err(DialError::Garbage),
    }
    let mut forwarded = Vec::with_capacity(256);
    for header in answer.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        if name.starts_with("sec-websocket-") || name.starts_with("x-playwright-") {
            forwarded.extend_from_slice(header.name.as_bytes());
            forwarded.extend_from_slice(b": ");
            forwarded.extend_from_slice(header.value);
            forwarded.extend_from_slice(b"\r\n");
        }
    }
    Ok(Some((length, forwarded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_at_any_split() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Accept: abc=\r\n\r\n";
        for split in 0..answer.len() {
            assert!(parse_answer(&answer[..split]).unwrap().is_none());
        }
        let mut with_early = answer.to_vec();
        with_early.extend_from_slice(b"\x81\x00");
        let (length, forwarded) = parse_answer(&with_early).unwrap().unwrap();
        assert_eq!(length, answer.len());
        assert_eq!(forwarded, b"Sec-WebSocket-Accept: abc=\r\n");
    }

    #[test]
    fn anything_but_101_is_an_error() {
        let refused = parse_answer(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert!(matches!(refused, Err(DialError::Refused(400))));
        assert!(matches!(
            parse_answer(b"\x00\x01\x02\r\n\r\n"),
            Err(DialError::Garbage)
        ));
    }
}
