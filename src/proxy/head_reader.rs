//! Reads a request's head from a connection, of one size at most, waits for the next one, and hands
//! heads to Pingora.

use bytes::BytesMut;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// First read of a head: a Playwright client's handshake is some 500 bytes.
const HEAD_READ: usize = 2048;

/// How long a connection may be idle between two requests. WebSockets are not meant: they have left
/// the front door by then.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What came of reading a head.
pub(super) enum HeadRead {
    Whole,
    TooLarge,
    Gone,
}

/// Reads until the empty line that ends a head; some of it may be there already.
pub(super) async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    head: &mut BytesMut,
    max: usize,
) -> HeadRead {
    let mut from = 0;
    loop {
        let new = &head[from..];
        let end = find(new, b"\r\n\r\n").or_else(|| find(new, b"\n\n"));
        match end {
            Some(end) if from + end <= max => return HeadRead::Whole,
            None if head.len() <= max => {}
            _ => return HeadRead::TooLarge,
        }
        from = head.len().saturating_sub(3);
        head.reserve(HEAD_READ);
        match stream.read_buf(head).await {
            Ok(0) | Err(_) => return HeadRead::Gone,
            Ok(_) => {}
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Whether Pingora will take this head, which may be followed by other bytes. What it refuses it would
/// answer by itself, in no shape of ours.
pub(super) async fn pingora_takes(bytes: &[u8]) -> bool {
    let nothing: Stream = Box::new(io::Cursor::new(Vec::new()));
    let mut request = ServerSession::new_http1(nothing);
    request.set_pipelined_prefix(bytes.into());
    request.read_request().await.is_ok_and(|is_whole| is_whole)
}

/// The request whose head was read, and which may be followed by other bytes, as Pingora takes it.
pub(super) fn into_request(stream: Stream, head: BytesMut) -> ServerSession {
    let mut request = ServerSession::new_http1(stream);
    request.set_keepalive(Some(KEEPALIVE.as_secs()));
    request.set_pipelining_enabled(true);
    request.set_pipelined_prefix(head);
    request
}

/// Waits for the first bytes of another request; `false` when none comes.
pub(super) async fn next_request(
    stream: &mut Stream,
    early: &mut BytesMut,
    shutdown: &mut ShutdownWatch,
) -> bool {
    early.reserve(HEAD_READ);
    let read = timeout(KEEPALIVE, stream.read_buf(early));
    tokio::select! {
        read = read => matches!(read, Ok(Ok(1..))),
        _ = shutdown.wait_for(|begun| *begun) => false,
    }
}
